"""What a `classify` recipe reads: pictures in folders named by class, and the names of the classes as prompts.

Entry points: `read_class_folder`, `hold_out`, `prompts_of`. Letters: N pictures, C classes, K templates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from babelclip import languages
from babelclip.data.captions import text_key
from babelclip.data.images import list_pictures
from babelclip.errors import BabelclipError, did_you_mean, shown
from babelclip.evaluate import prompts
from babelclip.storage import shadow

# Of the names in an error, so that a thousand classes do not fill the screen.
_NAMED = 5


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures with their classes: `labels` (N,) int64 are places in `classes`."""

    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: npt.NDArray[np.int64]) -> LabelledPictures:
        """Returns some of the pictures, with all classes."""
        return LabelledPictures(self.classes, tuple(self.paths[row] for row in rows.tolist()), self.labels[rows])


def read_class_folder(
    folder: Path | str, setting: str = "classify.pictures", classes: Sequence[str] = ()
) -> LabelledPictures:
    """Returns the pictures in `folder`/CLASS/…, classes in the order of their names.

    Args:
        folder: has one folder for each class; hidden ones are left out.
        setting: where the recipe names it, for errors.
        classes: the classes that it must have, neither fewer nor more; empty = those that are there.

    Raises:
        BabelclipError: there is no such folder, it has fewer than two classes, one that is wanted is missing or has no
            pictures, or one is there that is not wanted.
    """
    folder = shadow(folder)
    if not folder.is_dir():
        raise BabelclipError(
            f"{setting} = {str(folder)!r} is no folder. Give a folder that has a folder of pictures for each class, "
            "such as cifar10/train with cifar10/train/cat/0001.jpg."
        )
    found = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(found) < 2 and not classes:
        raise BabelclipError(
            f"{setting} = {str(folder)!r} holds {len(found)} class folders, and at least 2 are needed: lay pictures "
            f"of each class into a folder named by it, as in {folder.name}/cat/0001.jpg."
        )
    for names, what in ((set(classes) - set(found), "lacks"), (set(found) - set(classes), "has also")):
        if classes and names:
            some = ", ".join(sorted(names)[:_NAMED]) + (" …" if len(names) > _NAMED else "")
            raise BabelclipError(
                f"{setting} = {str(folder)!r} {what} the class folders {some}; training has {len(classes)} classes. "
                "Give a folder with the same classes, named alike."
            )
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes or found):
        try:
            pictures = list_pictures(folder / name)
        except BabelclipError as error:
            raise BabelclipError(
                f"Class {name!r} of {setting} has no pictures: {error} Add some, or remove the folder."
            ) from error
        paths += pictures
        labels += [label] * len(pictures)
    return LabelledPictures(tuple(classes or found), tuple(paths), np.asarray(labels, dtype=np.int64))


def hold_out(pictures: LabelledPictures, share: float, seed: int) -> tuple[LabelledPictures, LabelledPictures]:
    """Returns the pictures without a share of each class, and that share; which ones follows from the seed.

    Raises:
        BabelclipError: a class is too small to have some on both sides.
    """
    held = np.zeros(len(pictures), dtype=bool)
    for label, name in enumerate(pictures.classes):
        rows = np.flatnonzero(pictures.labels == label)
        count = max(round(share * len(rows)), 1)
        if count >= len(rows):
            raise BabelclipError(
                f"Class {name!r} has {len(rows)} pictures, of which {count} would be held out: give more, lower "
                "classify.validation_share, or name a folder in classify.validation."
            )
        held[np.random.default_rng([seed, label]).permutation(rows)[:count]] = True
    return pictures.take(np.flatnonzero(~held)), pictures.take(np.flatnonzero(held))


@dataclass(frozen=True)
class Prompts:
    """The names of C classes in one language, and K templates to say them in."""

    lang: str
    names: tuple[str, ...]
    templates: tuple[str, ...]

    @property
    def texts(self) -> list[str]:
        """All prompts: that of class c in template k has the number c * K + k."""
        return [text for texts in prompts.prompts_of(self.names, self.templates) for text in texts]


def prompts_of(
    classes: Sequence[str],
    lang: str,
    names: Mapping[str, str],
    templates: Sequence[str],
    *,
    second: bool = False,
) -> Prompts:
    """Returns the prompts of the classes in a language.

    Args:
        classes: names of the class folders.
        lang: BCP-47 code.
        names: folder = class name.
        templates: with a `{}` or `{c}` each; none = the bare name.
        second: whether these are those of classify.second_lang, where a folder's name is no class name.

    Raises:
        BabelclipError: the language is not known, a name belongs to no class or a class has none, two classes have
            one name, or a template has no place for it.
    """
    setting, key = ("classify.second_names", "second_lang") if second else ("classify.names", "lang")
    code = languages.normalize(lang)
    for folder in names:
        if folder not in classes:
            raise BabelclipError(
                f"{setting} names {folder!r}, which is no class folder. {did_you_mean(folder, classes)}"
            )
    lacking = [folder for folder in classes if not names.get(folder, "" if second else folder).strip()]
    if lacking:
        raise BabelclipError(
            f"{setting} has no name in {languages.name(code)} for {', '.join(lacking[:_NAMED])}"
            f"{' …' if len(lacking) > _NAMED else ''}: write folder = name for each class, or leave classify.{key} out."
        )
    spoken = tuple(names.get(folder, folder.replace("_", " ")).strip() for folder in classes)
    by_text: dict[str, str] = {}
    for folder, name in zip(classes, spoken, strict=True):
        other = by_text.setdefault(text_key(name), folder)
        if other != folder:
            raise BabelclipError(
                f"Classes {other!r} and {folder!r} have one name, {shown(name)!r}, so there is nothing to tell them "
                f"apart: give each its own in {setting}."
            )
    prompts.prompts_of(spoken, templates or prompts.NAME_ALONE)  # raises where a template has no place for the name
    return Prompts(code, spoken, tuple(templates) or prompts.NAME_ALONE)
