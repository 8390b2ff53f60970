"""Folders in clip_benchmark's webdataset form: retrieval, classification, and several labels a picture.

    dataset_type.txt                         retrieval, multilabel or classification; without it, what the tars hold
    classnames.txt                           a class name a line, in order of the labels
    zeroshot_classification_templates.txt    a template a line, with {c}
    test/nshards.txt, test/0.tar, …          s0000000.webp with s0000000.cls, .npy or .txt (a caption a line)

Tars are read for their headers and labels; pictures stay where they are.
"""

from __future__ import annotations

import dataclasses
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from babelclip.data import tables
from babelclip.data.images import picture_suffixes
from babelclip.errors import BabelclipError, shown
from babelclip.evaluate.benchmarks.captioned import CaptionRows
from babelclip.evaluate.benchmarks.class_names import ClassNames, names_of
from babelclip.evaluate.benchmarks.classified import LabelledPictures
from babelclip.evaluate.benchmarks.request import Request, Skips
from babelclip.evaluate.benchmarks.sets import ClassificationSet, RetrievalSet
from babelclip.store.layout import NPY_FAULTS

_LABELS = (".cls", ".npy", ".txt")
_LARGEST_LABEL = 1 << 20
BROKEN_OFF = "tar breaks off here"
NO_LANGUAGE = "the folder names no language: its captions count as English"


@dataclasses.dataclass
class _Sample:
    key: str
    picture: str = ""  # `shard.tar::member`
    labels: dict[str, bytes] = dataclasses.field(default_factory=dict)


def read_webdataset(request: Request) -> RetrievalSet | ClassificationSet:
    """Returns the set in a webdataset folder of clip_benchmark.

    Raises:
        BabelclipError: a shard is missing, or it is of no known type.
    """
    if not request.root.is_dir():
        raise request.missing("folder")
    split = request.choose_split(folder.name for folder in sorted(request.root.iterdir()) if _has_shards(folder))
    skips = Skips(request.strict)
    samples = _told_apart([one for shard in _shards(request, split) for one in _samples(shard, skips)])
    kind = _kind(request, samples)
    if kind == "retrieval":
        return _retrieval(request, split, samples, skips)
    return _classification(request, split, samples, skips, kind == "multilabel")


def _told_apart(samples: list[_Sample]) -> list[_Sample]:
    """Returns the samples with distinct keys: some writers begin to count anew in each shard."""
    seen = set()
    for one in samples:
        while one.key in seen:
            one.key = f"{PurePosixPath(one.picture.partition('.tar::')[0]).name}/{one.key}"
        seen.add(one.key)
    return samples


def _retrieval(request: Request, split: str, samples: list[_Sample], skips: Skips) -> RetrievalSet:
    single = request.languages[0] if request.languages and len(request.languages) == 1 else None
    lang = single or "en"
    rows = CaptionRows(request)
    rows.skips = skips
    for one in samples:
        rows.add_picture(one.key, one.picture)
        if ".txt" not in one.labels:
            skips.add("picture without captions", one.picture)
            continue
        for line in one.labels[".txt"].decode("utf-8-sig", "surrogateescape").splitlines():
            if line.strip():
                rows.add(one.key, lang, line.strip(), one.picture)
    return rows.build(split, notes=() if single else (NO_LANGUAGE,))


def _classification(
    request: Request, split: str, samples: list[_Sample], skips: Skips, several: bool
) -> ClassificationSet:
    names = names_of(request)
    found = LabelledPictures(request, skips)
    for one in samples:
        label = _multi_label(one) if several else _label(one)
        if label is None:
            skips.add("label that is no class", one.picture)
        else:
            found.add(one.key, one.picture, label)
    return found.build(split, names=names, classes=_class_ids(names, found))


def _class_ids(names: ClassNames, found: LabelledPictures) -> tuple[str, ...]:
    count = max(found.n_classes, *(len(own) for own in names.classnames.values()), 0)
    return tuple(str(number) for number in range(count))


def _label(one: _Sample) -> int | None:
    text = one.labels.get(".cls", b"").decode("ascii", "replace").strip()
    return int(text) if text.isdecimal() else None


def _multi_label(one: _Sample) -> np.ndarray | None:
    try:
        row = np.load(io.BytesIO(one.labels.get(".npy", b"")), allow_pickle=False)
    except NPY_FAULTS:
        return None
    return np.asarray(row) > 0 if row.ndim == 1 and row.dtype.kind in "biuf" else None


def _kind(request: Request, samples: list[_Sample]) -> str:
    file = request.root / "dataset_type.txt"
    if file.is_file():
        told = "".join(tables.read_plain_lines(file)[:1]).strip()
        if told in ("retrieval", "multilabel", "classification"):
            return told
        raise BabelclipError(
            f"{file} says {told!r}. It must say retrieval, multilabel or classification: write what the folder is."
        )
    endings = {ending for one in samples for ending in one.labels}
    return "multilabel" if ".npy" in endings else "classification" if ".cls" in endings else "retrieval"


def _has_shards(folder: Path) -> bool:
    return folder.is_dir() and any(path.suffix == ".tar" for path in folder.iterdir())


def _shards(request: Request, split: str) -> list[Path]:
    folder = request.root / split
    told = folder / "nshards.txt"
    if not told.is_file():
        return sorted(folder.glob("*.tar"), key=lambda path: (len(path.stem), path.stem))
    text = "".join(tables.read_plain_lines(told)[:1]).strip()
    count = int(text) if text.isdecimal() and len(text) < 10 else 0
    there = {path.name for path in folder.glob("*.tar")}
    # No more are looked for than can tell what lacks: a damaged file may ask for billions.
    absent = [name for number in range(min(count, len(there) + 3)) if (name := f"{number}.tar") not in there]
    if absent or not count:
        lacking = count - sum(path.isdecimal() and int(path) < count for path in (n[: -len(".tar")] for n in there))
        raise BabelclipError(
            f"{told} says {shown(repr(text), 40)}, and {lacking or 'no'} of these shards are missing in {folder} "
            f"({', '.join(absent[:3]) or 'the number is none'}). All are needed: copy the folder again, whole."
        )
    return [folder / f"{number}.tar" for number in range(count)]


def _samples(shard: Path, skips: Skips) -> Iterator[_Sample]:
    """Yields what belongs to one key; a tar that breaks off gives what lies before that."""
    one = _Sample("")
    try:
        with tarfile.open(shard, "r:") as archive:
            for entry in archive:
                name = PurePosixPath(entry.name)
                if not entry.isfile() or name.is_absolute() or ".." in name.parts:
                    continue
                key, ending = str(name.with_suffix("")), name.suffix.lower()
                if key != one.key:
                    if one.picture:
                        yield one
                    one = _Sample(key)
                if ending in _LABELS and entry.size <= _LARGEST_LABEL:
                    opened = archive.extractfile(entry)
                    one.labels[ending] = opened.read() if opened else b""
                elif ending in picture_suffixes():
                    one.picture = f"{shard}::{entry.name}"
    except (tarfile.TarError, EOFError, OSError) as error:
        skips.add(BROKEN_OFF, f"{shard} ({error})")
    if one.picture:
        yield one
