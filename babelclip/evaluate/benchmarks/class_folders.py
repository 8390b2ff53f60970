"""Pictures in one folder a class: ImageNet and its variants, Babel-ImageNet, VTAB-style sets, Chinese-CLIP's sets.

The order of the classes is that of the folders: by number where all are numbers (ImageNet-V2 has 0, 1, 10, 100, …),
else by name. Folders of ImageNet are called by WordNet ids, whose sorted order is the usual order of its 1000 classes;
a variant with 200 of them takes the names of those 200.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from babelclip.errors import BabelclipError
from babelclip.evaluate.benchmarks.class_names import IMAGENET, babel_names, names_of
from babelclip.evaluate.benchmarks.classified import LabelledPictures
from babelclip.evaluate.benchmarks.pictures import pictures_below
from babelclip.evaluate.benchmarks.request import Request
from babelclip.evaluate.benchmarks.sets import ClassificationSet, IntArray

_SPLITS = ("test", "val", "validation", "train", "dev")
_WNIDS = Path(__file__).with_name("imagenet_wnids.txt")


def read_class_folders(request: Request) -> ClassificationSet:
    """Returns the set of `DIR/CLASS/picture` or `DIR/SPLIT/CLASS/picture`.

    Folders name the classes in English; one that is a number is the class of that number in a list of names.
    """
    split, folders = _class_folders(request)
    names = [folder.name for folder in folders]
    if not all(name.isdecimal() for name in names):
        pictures = _gathered(request, folders, range(len(folders)))
        return pictures.build(split, names=names_of(request, own=names), classes=tuple(names))
    found = names_of(request)
    pictures = _gathered(request, folders, [int(name) for name in names])
    count = max(pictures.n_classes, *map(len, found.classnames.values()))
    return pictures.build(split, names=found, classes=tuple(map(str, range(count))))


def read_imagenet(request: Request) -> ClassificationSet:
    """Returns ImageNet-1k or a variant; class j of a variant is the j-th of its classes in the order of the 1000."""
    split, folders = _class_folders(request)
    places = _imagenet_places(request, folders)
    found = names_of(request, keys=(request.entry.name, IMAGENET), take=places)
    classes = tuple(wnids()[place] for place in places)
    return _gathered(request, folders, range(len(folders))).build(split, names=found, classes=classes)


def read_babel_imagenet(request: Request) -> ClassificationSet:
    """Returns Babel-ImageNet: the pictures of ImageNet, and in each language names of some of its classes."""
    split, folders = _class_folders(request)
    names = babel_names(request)
    places = _imagenet_places(request, folders)
    return _gathered(request, folders, places).build(split, names=names, classes=wnids())


@functools.cache
def wnids() -> tuple[str, ...]:
    """Returns the WordNet ids of the 1000 classes of ImageNet, in their usual order."""
    return tuple(_WNIDS.read_text(encoding="ascii").split())


def _gathered(request: Request, folders: Sequence[Path], labels: Sequence[int] | IntArray) -> LabelledPictures:
    pictures = LabelledPictures(request)
    for folder, label in zip(folders, labels, strict=True):
        files = pictures_below(folder)
        for path in files:
            pictures.add(f"{folder.name}/{path.relative_to(folder).as_posix()}", path, int(label))
        if not files:
            pictures.skips.add("class without pictures", str(folder))
    return pictures


def _imagenet_places(request: Request, folders: list[Path]) -> IntArray:
    place = {name: number for number, name in enumerate(wnids())} | {str(n): n for n in range(1000)}
    names = [folder.name for folder in folders]
    unknown = [name for name in names if name not in place]
    if unknown:
        raise BabelclipError(
            f"{request.root} has {len(unknown)} folders that are no class of ImageNet, first {unknown[0]!r}. Folders "
            "are called by WordNet ids (n01440764) or numbers (0 to 999): arrange the pictures so, one folder a class."
        )
    return np.array([place[name] for name in names], dtype=np.int64)


def _class_folders(request: Request) -> tuple[str, list[Path]]:
    """Returns the split and the folders of its classes, in order."""
    root = request.images or request.root
    if not root.is_dir():
        raise request.missing("folder")
    inside = _folders(root)
    # A class may be called so, too: trains in CIFAR-100.
    splits = [folder.name for folder in inside if folder.name in _SPLITS and _folders(folder)]
    split = request.split or (request.entry.splits[0] if request.entry.splits else "test")
    if splits:
        split = request.choose_split(splits)
        inside = _folders(root / split)
    if not inside:
        raise request.missing("folders of classes")
    numbers = all(folder.name.isdecimal() for folder in inside)
    return split, sorted(inside, key=lambda folder: int(folder.name)) if numbers else inside


def _folders(root: Path) -> list[Path]:
    return sorted(item for item in root.iterdir() if item.is_dir() and not item.name.startswith("."))
