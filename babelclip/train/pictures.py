"""The pictures of a contrastive run: vectors of a locked tower, computed once, or pixels decoded as they are needed.

A caption without a picture, or whose file is not there, is left out and counted before the run; a file that turns out
to be no picture is counted when it is met (see `Pixels`). Entry points: `usable`, `computed_once`, `Vectors`, `Pixels`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from babelclip.data.captions import NO_PICTURE, Captions
from babelclip.errors import BabelclipError, shown
from babelclip.models.decoding import decoder_pool
from babelclip.models.head import backbone_width
from babelclip.models.image import ImageEncoder
from babelclip.models.preprocess import PictureError, Preprocess, open_picture
from babelclip.models.tar_pictures import in_tar, member_size
from babelclip.progress import progress_bar
from babelclip.store import EmbeddingStore

_LOG = logging.getLogger(__name__)
NO_FILE, NO_VECTOR, UNREADABLE = "picture is not there", "no vector in the store", "picture is unreadable"
# Decoded pictures kept in memory, in bytes; above it they are decoded again each epoch.
_PIXELS_IN_MEMORY = 1 << 30
# Items between two writes of vectors that are computed once: what an interruption can lose.
_BLOCK = 1024


class PictureInputs(Protocol):
    """What the pair reads of pictures."""

    def load(self, pictures: np.ndarray) -> tuple[dict[str, Tensor], np.ndarray]:
        """Returns the part of a batch for some pictures (B,), and the places in it that hold one that can be read."""


def paths_of(captions: Captions, paths: Mapping[str, Path] | None) -> dict[str, Path]:
    """Returns where each distinct picture of the captions lies, by its name in `image`, in order of appearance."""
    names = dict.fromkeys(name for name in captions.table["image"].to_pylist() if name)
    return {name: Path(name) if paths is None else Path(paths.get(name, name)) for name in names}


def usable(
    captions: Captions,
    paths: Mapping[str, Path],
    store: EmbeddingStore | None,
    *,
    strict: bool,
    absent: str = NO_VECTOR,
) -> tuple[Captions, dict[str, int]]:
    """Returns the captions that have a picture, and how many were left out, by reason.

    Args:
        captions: rows with a picture's name in `image`.
        paths: where each picture lies; looked at where there is no store.
        store: vectors by the names of pictures.
        strict: whether the first caption without is an error instead.
        absent: what it means that the store lacks a picture.

    Raises:
        BabelclipError: none is left, or `strict` and one lacks its picture.
    """
    if store is None:
        there = {name for name, path in paths.items() if _exists(path)}
    else:
        found = store.find(list(paths))
        there = {name for name, row in zip(paths, found.tolist(), strict=True) if row >= 0}
    absent = NO_FILE if store is None else absent
    names = captions.table["image"].to_pylist()
    why = [NO_PICTURE if not name else "" if name in there else absent for name in names]
    reasons = Counter(reason for reason in why if reason)
    if not reasons:
        return captions, {}
    first = next(place for place, reason in enumerate(why) if reason)
    words = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    if strict or len(captions) == sum(reasons.values()):
        name = "none" if not names[first] else shown(paths[names[first]]) if store is None else repr(names[first])
        where = "the folder that names in column image are relative to" if store is None else f"the store {store.path}"
        raise BabelclipError(
            f"{sum(reasons.values())} of {len(captions)} captions cannot be used ({words}), first "
            f"{captions.ids[first]!r} with the picture {name}. Check {where}"
            + (", or set strict = false in [data] to leave such captions out." if strict else ".")
        )
    _LOG.warning("%d of %d captions are left out: %s.", sum(reasons.values()), len(captions), words)
    kept = captions.table.filter(pa.array([not reason for reason in why]))
    return Captions(kept, dict(captions.skipped)), dict(reasons)


def computed_once(
    tower: ImageEncoder,
    paths: Mapping[str, Path],
    folder: Path,
    *,
    space: str,
    model: str,
    workers: int = 0,
    strict: bool = False,
    before_head: bool = False,
    progress: bool = True,
) -> EmbeddingStore:
    """Returns the store in `folder` with the raw vectors of the pictures in float32, computing those it lacks.

    Pictures that cannot be read have no row. With `before_head` the vectors are those that enter the head, of a space
    of their own. `babelclip embed --images` does the same ahead of a run for those of the model's space.

    Raises:
        PictureError: with `strict`, a picture cannot be read.
    """

    def encode(block: list[str]) -> tuple[list[str], np.ndarray]:
        found = [paths[name] for name in block]
        features, skipped = tower.encode_readable(found, False, strict=strict, pool=pool, before_head=before_head)
        bad = {item.position for item in skipped}
        return [name for place, name in enumerate(block) if place not in bad], features

    dim = backbone_width(tower.backbone) if before_head else tower.embed_dim
    space = f"{space} (before the head)" if before_head else space
    with decoder_pool(workers, len(paths)) as pool:
        return once(folder, list(paths), encode, space, model, dim, "image", progress)


def once(
    folder: Path,
    names: Sequence[str],
    encode: Callable[[list[str]], tuple[list[str], np.ndarray]],
    space: str,
    model: str,
    dim: int,
    kind: str,
    progress: bool,
) -> EmbeddingStore:
    """Returns the store in `folder`, with what `encode` gives for the names that it lacks, block by block."""
    facts = {"space": space, "model": model, "dim": dim, "dtype": "float32", "normalized": False, "kind": kind}
    with (
        EmbeddingStore.open_or_create(folder, **facts) as store,  # type: ignore[arg-type]
        progress_bar("Locked tower", len(names), shown=progress, unit=f"{kind}s") as advance,
    ):
        rows = store.find(names)
        lacking = [name for name, row in zip(names, rows.tolist(), strict=True) if row < 0]
        advance(len(names) - len(lacking))
        for start in range(0, len(lacking), _BLOCK):
            kept, features = encode(lacking[start : start + _BLOCK])
            if kept:
                store.append(kept, features)
            advance(len(lacking[start : start + _BLOCK]))
    return EmbeddingStore.open(folder)


class Vectors:
    """Vectors of a locked tower, read from a store batch by batch."""

    def __init__(self, store: EmbeddingStore, names: Sequence[str], key: str = "pictures") -> None:
        """Takes names of items in the order of their numbers; `key` is what the pair calls them."""
        self.store, self.rows, self.key = store, store.positions(list(names)), key

    def load(self, pictures: np.ndarray) -> tuple[dict[str, Tensor], np.ndarray]:
        """Returns vectors (B, D) of some pictures; every place can be read."""
        return {self.key: torch.from_numpy(self.store.gather(self.rows[pictures]))}, np.arange(len(pictures))


class Unreadable:
    """The pictures that were found to be unreadable, by number, with the reason; `strict` makes the first an error."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.why: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.why)

    def __contains__(self, number: object) -> bool:
        return number in self.why

    def note(self, number: int, error: PictureError) -> None:
        """Counts a picture; raises the error with `strict`."""
        if self.strict:
            raise error
        if not self.why:
            _LOG.warning("A picture cannot be read and is left out, as will be others: %s", error)
        self.why[number] = str(error)


def stand_ins(good: Sequence[int], size: int, unreadable: Unreadable) -> np.ndarray:
    """Returns which pair stands at each place of a batch (size,): its own, or one of the `good` ones.

    Raises:
        BabelclipError: no picture of the batch can be read.
    """
    if not good:
        raise BabelclipError(
            f"None of the {size} pictures of a batch can be read; the first: "
            f"{next(iter(unreadable.why.values()))} Check the pictures, or set strict = true in [data]."
        )
    places = np.arange(size)
    bad = np.setdiff1d(places, good)
    places[bad] = np.resize(np.asarray(good), len(bad))
    return places


class Pixels:
    """Pictures decoded when they are met, by threads or processes, and kept while they fit in memory.

    The loop asks some steps ahead, so decoding goes on while the device computes. At most the batches that it asks for
    and `_PIXELS_IN_MEMORY` bytes of kept pictures are in memory. A picture that cannot be read leaves its place to
    another pair of the batch (`places`), which then counts twice; the batch keeps its size on every process.
    """

    def __init__(self, preprocess: Preprocess, paths: Sequence[Path], pool: Executor, *, strict: bool) -> None:
        """Takes the paths of pictures in the order of their numbers."""
        self.preprocess, self.paths, self.pool = preprocess, paths, pool
        self.kept: dict[int, np.ndarray] = {}
        self.room = _PIXELS_IN_MEMORY
        self.unreadable = Unreadable(strict)

    def load(self, pictures: np.ndarray) -> tuple[dict[str, Tensor], np.ndarray]:
        """Returns pixels (B, 3, height, width), and the place (B,) of the pair that stands at each place.

        Raises:
            PictureError: with `strict`, a picture cannot be read.
            BabelclipError: none of them can.
        """
        wanted = [number for number in dict.fromkeys(pictures.tolist()) if number not in self.unreadable]
        lacking = [number for number in wanted if number not in self.kept]
        waiting = {number: self.pool.submit(_pixels, self.preprocess, self.paths[number]) for number in lacking}
        decoded: dict[int, np.ndarray] = {}
        for number in wanted:
            if number in self.kept:
                decoded[number] = self.kept[number]
                continue
            try:
                decoded[number] = waiting[number].result()
            except PictureError as error:
                self.unreadable.note(number, error)
                continue
            self._keep(number, decoded[number])
        good = [place for place, number in enumerate(pictures.tolist()) if number in decoded]
        places = stand_ins(good, len(pictures), self.unreadable)
        return {"pixels": torch.from_numpy(np.stack([decoded[int(n)] for n in pictures[places]]))}, places

    def _keep(self, number: int, pixels: np.ndarray) -> None:
        if pixels.nbytes <= self.room:
            self.room -= pixels.nbytes
            self.kept[number] = pixels


def _pixels(preprocess: Preprocess, path: Path) -> np.ndarray:
    return preprocess(open_picture(path))


def _exists(path: Path) -> bool:
    inside = in_tar(path)
    try:
        return path.is_file() if inside is None else member_size(*inside) >= 0
    except OSError:
        return False
