"""Pictures to vectors on disk: what a text tower is trained against while the picture tower is locked.

The vectors are keyed by the picture's name as captions have it in their column `image`, so several captions share one
vector. Pictures are taken in blocks of the order in which they come, and a block becomes one shard; a run that was
stopped goes on at the first block that is not whole, with the same pictures in it, and ends with the same bytes.

A picture that cannot be read is left out, counted and named; it is tried again by the next run, in a block of which
nothing else is left to do.

| column of the store | meaning |
|---|---|
| `source` | name of the folder or file that the row came from |
| `bytes` | size of the picture's file, by which a file that was changed since is found out |
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from babelclip.data import embed_rows
from babelclip.data.embed_targets import body_layers, check_float16, target_dim
from babelclip.data.images import picture_suffixes
from babelclip.data.parts import positive
from babelclip.data.sources import image_root, open_captions
from babelclip.errors import BabelclipError, shown
from babelclip.models.clip import Clip
from babelclip.models.decoding import EncodeReport, decoder_pool
from babelclip.models.encoding import Device, replicas
from babelclip.models.image import ImageEncoder, SkippedPicture
from babelclip.models.tar_pictures import in_tar, member_size
from babelclip.models.text import normalize_rows
from babelclip.progress import Advance, progress_bar
from babelclip.store import EmbeddingStore

BYTES = "bytes"
# Pictures between two writes: what an interruption can lose, a minute or two on a processor.
_BLOCK = 4096
# For the name of a file, so that it can be an id.
_NOT_UTF8 = "its name is not UTF-8, so it cannot be an id: rename it"


@dataclasses.dataclass(frozen=True)
class PicturesReport:
    """What one run did.

    Attributes:
        there: pictures that the store had before.
        added: pictures that it got.
        skipped: pictures that could not be read.
        without_picture: captions that name none.
        lossy: added rows that lose more than rounding in float16, because their values are tiny.
        encode: speed, and whether decoding or the model was the limit.
    """

    there: int
    added: int
    skipped: int
    without_picture: int
    lossy: int
    encode: EncodeReport


def embed_pictures(
    clip: Clip,
    source: Path | str,
    path: Path | str,
    *,
    root: Path | str | None = None,
    lang: str | None = None,
    only: str | Iterable[str] | None = None,
    strict: bool = False,
    target: str = "projected",
    normalize: bool = False,
    dtype: str = "float16",
    batch_size: int = 32,
    workers: int = 0,
    devices: Sequence[Device] | None = None,
    shard_rows: int | None = None,
    progress: bool = False,
    on_skip: Callable[[SkippedPicture], None] | None = None,
    report: Callable[[PicturesReport], None] | None = None,
) -> EmbeddingStore:
    """Returns the store at `path` with the vector of every picture, encoding those it lacks.

    Args:
        clip: its picture tower is used.
        source: a folder of pictures, searched recursively (the id is the path below it, with "/"); or captions that
            `open_captions` reads (the id is their column `image`, which may name a member of a tar).
        path: a new folder, or a store of the same model and kind.
        root: folder that the names in `image` are relative to; None: the one that the captions lie in.
        lang: see `open_captions`; so is `only`.
        only: keep captions in these languages.
        strict: whether the first picture or row that cannot be used is an error.
        target: "projected", or "pooled", the vector before the projection (see `embed_targets`).
        normalize: whether rows are scaled to length 1.
        dtype: "float16" or "float32", as the vectors lie on disk.
        batch_size: pictures a forward pass; another value changes vectors by rounding.
        workers: processes that decode; 0 does so in threads.
        devices: several devices of this machine; None means where the tower is.
        shard_rows: pictures between two writes, which an interruption can lose; None: 4,096.
        progress: show a bar on stderr.
        on_skip: is called with each picture that cannot be read; its `position` is that within its block.
        report: is called once at the end with what was done.

    Raises:
        PictureError: with `strict`, a picture cannot be read.
        BabelclipError: there are no pictures, none can be read, one has changed since the store got its vector, or the
            store at `path` holds other vectors.
    """
    tower, total = _image_tower(clip), None
    lanes = None if devices is None else replicas(tower, devices)
    counts = {"without": 0}
    folder = first_picture(source) is not None
    if folder:
        parts: Iterator[list[str]] = _chunks(iter_picture_names(source))
        total = sum(1 for _name in iter_picture_names(source)) if progress else None
    else:
        parts = _named_pictures(source, lang, only, strict, counts)
    with (
        EmbeddingStore.open_or_create(
            path,
            space=clip.space,
            model=clip.name or clip.space,
            dim=target_dim(tower, target),
            dtype=dtype,
            normalized=normalize,
            kind="image",
            target=target,
        ) as store,
        decoder_pool(workers, _BLOCK) as pool,
        progress_bar("Picture vectors", total, shown=progress, unit="pictures") as advance,
    ):
        embed_rows.check_columns(store, BYTES)

        def encode(paths: list[Path]) -> tuple[np.ndarray, list[SkippedPicture]]:
            features, skipped = tower.encode_readable(
                paths,
                False,
                batch_size=batch_size,
                before_head=target == "pooled",
                workers=workers,
                devices=lanes,
                report=blocks.took,
                strict=strict,
                pool=pool,
            )
            features = body_layers(tower, features) if target == "pooled" else features
            return (normalize_rows(features) if normalize else features), skipped

        there, base = len(store), Path(root) if root is not None else image_root(source)
        blocks = _Blocks(store, encode, base, Path(source).name or str(source), on_skip, advance)
        blocks.size = positive(shard_rows or _BLOCK)
        for names in parts:
            blocks.take(names)
        blocks.finish()
        added = len(store) - there
    if not len(store):
        raise _nothing(source, base, len(blocks.unreadable), blocks.first_reason)
    if report is not None:
        report(PicturesReport(there, added, len(blocks.unreadable), counts["without"], blocks.lossy, blocks.encode))
    return EmbeddingStore.open(path)


def first_picture(source: Path | str) -> str | None:
    """Returns the first picture in a folder, by name alone; None where there is none, or `source` is no folder."""
    return next(iter_picture_names(source), None) if Path(source).is_dir() else None


def is_captions(source: Path | str) -> bool:
    """Returns whether `open_captions` takes `source`; nothing is read.

    Raises:
        BabelclipError: `source` is no folder, and `open_captions` does not take it.
    """
    if not Path(source).is_dir():
        open_captions(source)
        return True
    try:
        open_captions(source)
    except BabelclipError:
        return False
    return True


def iter_picture_names(folder: Path | str) -> Iterator[str]:
    """Yields the paths of pictures below `folder`, relative and with "/", folder by folder in order of their names.

    Which files are pictures is as in `list_pictures`; memory holds the names of one folder at a time.
    """
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(here).relative_to(folder)
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in picture_suffixes():
                yield (below / name).as_posix()


class _Blocks:
    """Collects names of pictures, and encodes and appends a block of them as soon as it is full."""

    def __init__(
        self,
        store: EmbeddingStore,
        encode: Callable[[list[Path]], tuple[np.ndarray, list[SkippedPicture]]],
        root: Path,
        source: str,
        on_skip: Callable[[SkippedPicture], None] | None,
        advance: Advance,
    ) -> None:
        self._store, self._encode, self._root, self._source = store, encode, root, source
        self._on_skip, self._advance = on_skip, advance
        self._waiting: dict[str, int] = {}  # name: row in the store, -1 where it lacks
        # Rows of the store that earlier blocks of this run stand for. A picture at a later row belongs to the block at
        # hand, done by the run before: blocks are then the same however often a run was stopped.
        self._passed = 0
        self.unreadable: set[str] = set()
        self.first_reason = ""
        self.lossy = 0
        self.size = _BLOCK
        self.encode = EncodeReport(0, 0, 0.0, 0.0, 0.0)

    def took(self, report: EncodeReport) -> None:
        """Adds what one call of the model took."""
        self.encode += report

    def take(self, names: Iterable[str]) -> None:
        """Takes names, some of which may have come before."""
        fresh = [n for n in dict.fromkeys(names) if n not in self._waiting and n not in self.unreadable]
        usable = []
        for name in fresh:
            if _is_utf8(name):
                usable.append(name)
            else:
                self._skip(SkippedPicture(0, name, f"{shown(self._root / ascii(name))}: {_NOT_UTF8}"), name)
        rows = self._store.find(usable)
        self._check_unchanged(usable, rows)
        earlier = (rows >= 0) & (rows < self._passed)
        self._waiting.update(
            (name, row) for name, row, before in zip(usable, rows.tolist(), earlier.tolist(), strict=True) if not before
        )
        while len(self._waiting) >= self.size:
            self._block(list(islice(self._waiting, self.size)))

    def finish(self) -> None:
        """Encodes the last block, which need not be full."""
        if self._waiting:
            self._block(list(self._waiting))

    def _block(self, names: list[str]) -> None:
        lacking = [name for name in names if self._waiting[name] < 0]
        self._passed += len(names) - len(lacking)
        self._advance(len(names) - len(lacking), 0)
        if lacking:
            sizes = [_size(self._root / name) for name in lacking]
            features, skipped = self._encode([self._root / name for name in lacking])
            bad = {item.position: item for item in skipped}
            for position, item in bad.items():
                self._skip(item, lacking[position])
            kept = [position for position in range(len(lacking)) if position not in bad]
            if kept:
                ids = [lacking[position] for position in kept]
                if self._store.dtype == "float16":
                    self.lossy += check_float16(features, ids)
                columns: dict[str, list[Any]] = {embed_rows.SOURCE: [self._source] * len(ids)}
                columns[BYTES] = [sizes[position] for position in kept]
                self._store.append(ids, features, columns)
                self._passed += len(ids)
            self._advance(len(lacking))
        for name in names:
            del self._waiting[name]

    def _skip(self, item: SkippedPicture, name: str) -> None:
        self.unreadable.add(name)
        self.first_reason = self.first_reason or item.reason
        if self._on_skip is not None:
            self._on_skip(item)

    def _check_unchanged(self, names: list[str], rows: np.ndarray) -> None:
        known = np.flatnonzero(rows >= 0)
        if not len(known):
            return
        stored = embed_rows.values_of(self._store, rows[known], BYTES)
        sizes = [_size(self._root / names[place]) for place in known.tolist()]
        other = [n for n, (then, now) in enumerate(zip(stored, sizes, strict=True)) if now is not None and then != now]
        if other:
            name = names[int(known[other[0]])]
            raise BabelclipError(
                f"{len(other)} pictures are not those that {self._store.path} has vectors of: first {name!r}, whose "
                f"file has {sizes[other[0]]:,} bytes, and had {stored[other[0]]:,}. The id of a picture is its name: "
                "embed changed pictures, or those of another folder with the same names, into a new folder."
            )


def _named_pictures(
    source: Path | str, lang: str | None, only: str | Iterable[str] | None, strict: bool, counts: dict[str, int]
) -> Iterator[list[str]]:
    """Yields the column `image` of captions, part by part; counts captions without."""
    named = 0
    for part in open_captions(source, lang=lang, only=only, strict=strict):
        names = [name for name in part.table["image"].to_pylist() if name]
        counts["without"] += len(part) - len(names)
        named += len(names)
        yield names
    if not named:
        raise BabelclipError(
            f"{source} names no picture: none of its {counts['without']} captions has a value in the column 'image', "
            "and it is no folder with pictures. Give captions that have one (also read: filepath, file_name, "
            "image_path), or a folder of pictures."
        )


def _chunks(names: Iterator[str]) -> Iterator[list[str]]:
    while chunk := list(islice(names, _BLOCK)):
        yield chunk


def _nothing(source: Path | str, root: Path, unreadable: int, first: str) -> BabelclipError:
    return BabelclipError(
        f"None of the {unreadable} pictures of {source} can be read; the first: {first} Names are relative to {root}: "
        "give the folder that they lie in (root, or --image-root), or whole pictures."
    )


def _image_tower(clip: Clip) -> ImageEncoder:
    if clip.image is None:
        clip.encode_image([])  # raises the error that says which tower is missing
    assert clip.image is not None
    return clip.image


def _size(path: Path) -> int | None:
    try:
        inside = in_tar(path)
        return path.stat().st_size if inside is None else member_size(*inside)
    except OSError:
        return None  # what encodes it says why


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)
