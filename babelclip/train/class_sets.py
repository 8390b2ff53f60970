"""What a `classify` run reads, opened: prompts of one or two languages, and the pictures of all its sets.

What does not move is computed once: pictures are vectors of a locked tower, states before a head that alone trains, or
pixels. Entry points: `open_prompts`, `open_pictures`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from babelclip import languages
from babelclip.errors import BabelclipError
from babelclip.models.clip import Clip
from babelclip.models.decoding import decoder_pool
from babelclip.train import pictures
from babelclip.train.class_inputs import LabelledPictures, Prompts, prompts_of
from babelclip.train.processes import Processes
from babelclip.train.recipe import Recipe

_LOG = logging.getLogger(__name__)


class OpenSets(NamedTuple):
    """The pictures of a run.

    `images` reads them, `sets` are without those that are known to be unreadable, `places` says what each picture of a
    set is called in `images` (N,), and `skipped` counts by reason.
    """

    images: pictures.PictureInputs
    sets: dict[str, LabelledPictures]
    places: dict[str, npt.NDArray[np.int64]]
    skipped: dict[str, int]


def open_prompts(clip: Clip, classes: tuple[str, ...], recipe: Recipe) -> list[Prompts]:
    """Returns the prompts that are trained on, and those of the second language if there is one.

    Raises:
        BabelclipError: both are in one language, or as `prompts_of`.
    """
    settings = recipe.classify
    found = [prompts_of(classes, settings.lang, settings.names, settings.templates)]
    if settings.second_lang:
        second = (settings.second_lang, settings.second_names, settings.second_templates)
        found.append(prompts_of(classes, *second, second=True))
    if len({prompts.lang for prompts in found}) < len(found):
        raise BabelclipError(
            f"classify.second_lang = {settings.second_lang!r} is the language that is trained on: name another, in "
            "which the run shows what it costs, or leave it out."
        )
    for prompts in found:
        if clip.languages and not languages.covers(clip.languages, prompts.lang):
            _LOG.warning("%s was not trained on %s; it may be poor there.", clip.name or "The model", prompts.lang)
    return found


def part_of(trainable: str) -> str:
    """Returns what of a tower runs in the steps, in the words of [towers]: `tower`, `head`, or nothing."""
    return {"locked": "", "head": "head"}.get(trainable, "tower")


def open_pictures(
    clip: Clip,
    sets: dict[str, LabelledPictures],
    recipe: Recipe,
    out: Path,
    processes: Processes,
    stack: contextlib.ExitStack,
    progress: bool,
) -> OpenSets:
    """Returns the pictures of all sets as the pair reads them; decoders live as long as `stack`.

    Raises:
        BabelclipError: a class has no picture that can be read.
        PictureError: with data.strict, a picture cannot be read.
    """
    assert clip.image is not None  # checked by the caller
    names = list(dict.fromkeys(str(path) for each in sets.values() for path in each.paths))
    number = {name: place for place, name in enumerate(names)}
    skipped: dict[str, int] = {}
    part, data = part_of(recipe.towers.image), recipe.data
    images: pictures.PictureInputs
    if part == "tower":
        pool = stack.enter_context(decoder_pool(data.workers, len(names)))
        paths = [Path(name) for name in names]
        images = pictures.Pixels(clip.image.preprocess, paths, pool, strict=data.strict)
    else:
        with processes.main_first(out):
            store = pictures.computed_once(
                clip.image,
                {name: Path(name) for name in names},
                out / ("image_pooled" if part else "image_features"),
                space=clip.space,
                model=clip.name or clip.space,
                workers=data.workers,
                strict=data.strict,
                before_head=bool(part),
                progress=progress and processes.writes,
            )
        there = store.find(names) >= 0
        if not there.all():
            skipped[pictures.UNREADABLE] = int((~there).sum())
        names = [name for name, found in zip(names, there.tolist(), strict=True) if found]
        number = {name: place for place, name in enumerate(names)}
        sets = {key: _readable(each, key, number) for key, each in sets.items()}
        images = pictures.Vectors(store, names, "pooled_pictures" if part else "pictures")
    places = {key: np.asarray([number[str(path)] for path in each.paths]) for key, each in sets.items()}
    return OpenSets(images, sets, places, skipped)


def _readable(given: LabelledPictures, name: str, number: Mapping[str, int]) -> LabelledPictures:
    left = given.take(np.flatnonzero([str(path) in number for path in given.paths]))
    for label, class_name in enumerate(given.classes):
        if not (left.labels == label).any():
            raise BabelclipError(
                f"No picture of class {class_name!r} for {name} can be read: check its files, or remove the class."
            )
    return left
