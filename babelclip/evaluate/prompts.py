"""Class names to class vectors: templates around names, and the mean of what they give.

A template holds `{c}` or `{}` where the name goes (clip_benchmark's files have both). Templates are a list for all
classes, or a dictionary of lists, one for each class name (CuPL: sentences that describe the class, with or without
its name). The vector of a class (Radford et al. 2021, section 3.1.4): encode all of its prompts, make each of length 1,
take the mean, make that of length 1.

Entry points: `class_vectors`, `prompts_of`. Legend: C classes, D embed_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from babelclip.errors import BabelclipError, did_you_mean

# Texts to vectors (N, D).
Encode = Callable[[list[str]], npt.NDArray[np.floating[Any]]]
Templates = Sequence[str] | Mapping[str, Sequence[str]]

NAME_ALONE = ("{c}",)


def class_vectors(
    encode: Encode, classnames: Sequence[str], templates: Templates = NAME_ALONE
) -> npt.NDArray[np.float32]:
    """Returns one vector a class (C, D) float32, rows of length 1; each distinct prompt is encoded once.

    Args:
        encode: texts to vectors (N, D), normalised or not.
        classnames: C names; two classes may share one (ImageNet has two cranes).
        templates: see the module text.

    Raises:
        BabelclipError: there are no classes, a template has no place for the name, or a class has no prompt.
    """
    prompts = prompts_of(classnames, templates)
    place = {text: number for number, text in enumerate(dict.fromkeys(text for texts in prompts for text in texts))}
    rows = _unit(np.asarray(encode(list(place)), dtype=np.float32))
    means = np.stack([rows[[place[text] for text in texts]].mean(axis=0) for texts in prompts])
    return _unit(means)


def prompts_of(classnames: Sequence[str], templates: Templates = NAME_ALONE) -> list[list[str]]:
    """Returns the prompts of each class.

    >>> prompts_of(["dog", "cat"], ["a photo of a {c}.", "a drawing of a {}."])[0]
    ['a photo of a dog.', 'a drawing of a dog.']

    Raises:
        BabelclipError: see `class_vectors`.
    """
    if not len(classnames):
        raise BabelclipError("There are 0 class names; classification needs at least one. Check the list of classes.")
    if isinstance(templates, Mapping):
        return [_own_prompts(name, templates) for name in classnames]
    if isinstance(templates, str) or not len(templates):
        raise BabelclipError(f"templates is {templates!r}; give a list of one template at least, such as ['{{c}}'].")
    for template in templates:
        if "{c}" not in template and "{}" not in template:
            raise BabelclipError(
                f"The template {template!r} has no place for the class name: put {{c}} or {{}} where it belongs."
            )
    return [[_filled(template, name) for template in templates] for name in classnames]


def template_count(templates: Templates) -> int:
    """Returns how many templates there are; of class-specific ones, the most that a class has."""
    if isinstance(templates, Mapping):
        return max((len(own) for own in templates.values()), default=0)
    return len(templates)


def _own_prompts(name: str, templates: Mapping[str, Sequence[str]]) -> list[str]:
    if name not in templates or not len(templates[name]):
        raise BabelclipError(
            f"The class-specific prompts have none for {name!r}; every class needs one. "
            f"{did_you_mean(name, templates) if templates else 'There are none at all.'}"
        )
    return [_filled(template, name) for template in templates[name]]


def _filled(template: str, name: str) -> str:
    return template.replace("{c}", name).replace("{}", name)


def _unit(rows: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = (rows / np.where(norms > 0, norms, 1)).astype(np.float32)
    return unit
