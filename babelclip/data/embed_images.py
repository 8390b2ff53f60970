"""Pictures to vectors on disk: what a text tower is trained against while the picture tower is locked.

The vectors are keyed by the picture's name as captions have it in their column `image`, so several captions share one
vector. Pictures are taken in blocks of the order in which they come, and a block becomes one shard; a run that was
stopped goes on at the first block that is not whole, with the same pictures in it, and ends with the same bytes.

A picture that cannot be read is left out, counted and named. The next run tries it again, in a block where nothing else
is left to do. What is done to one block, and what stands beside the vectors: `embed_blocks`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from babelclip.data import embed_rows
from babelclip.data.embed_blocks import (
    BYTES,
    PictureBlocks,
    PictureSettings,
    encode_block,
    picture_columns,
    picture_size,
)
from babelclip.data.embed_targets import check_float16, target_dim
from babelclip.data.images import picture_suffixes, report_left_out
from babelclip.data.parts import positive
from babelclip.data.sources import image_root, open_captions
from babelclip.errors import BabelclipError
from babelclip.models.clip import Clip
from babelclip.models.decoding import EncodeReport, decoder_pool
from babelclip.models.encoding import Device, replicas
from babelclip.models.image import ImageEncoder, SkippedPicture
from babelclip.progress import Advance, progress_bar
from babelclip.storage import shadow, shadowed
from babelclip.store import EmbeddingStore

# Pictures between two writes: what an interruption can lose, a minute or two on a processor.
BLOCK = 4096


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
    tower, total, source = image_tower(clip), None, shadowed(source)
    lanes = None if devices is None else replicas(tower, devices)
    counts = {"without": 0}
    parts = picture_names(source, lang, only, strict, counts)
    if progress and first_picture(source) is not None:
        total = sum(1 for _name in iter_picture_names(source))
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
        decoder_pool(workers, BLOCK) as pool,
        progress_bar("Picture vectors", total, shown=progress, unit="pictures") as advance,
    ):
        embed_rows.check_columns(store, BYTES)
        there, base = len(store), shadow(root) if root is not None else image_root(source)
        encode = functools.partial(
            encode_block,
            tower,
            settings=PictureSettings(target, normalize, batch_size),
            devices=lanes,
            pool=pool,
            strict=strict,
        )
        writer = _Writer(store, encode, base, Path(source).name or str(source), on_skip, advance)
        blocks = PictureBlocks(store, base, positive(shard_rows or BLOCK), writer.append, writer.skip, advance)
        writer.left_out = blocks.left_out
        for names in parts:
            blocks.take(names)
        blocks.finish()
        added = len(store) - there
    if not len(store):
        raise nothing_readable(source, base, len(blocks.left_out), writer.first_reason)
    if report is not None:
        report(PicturesReport(there, added, len(blocks.left_out), counts["without"], writer.lossy, writer.took))
    return EmbeddingStore.open(path)


def first_picture(source: Path | str) -> str | None:
    """Returns the first picture in a folder, by name alone; None where there is none, or `source` is no folder."""
    source = shadowed(source)
    return next(iter_picture_names(source), None) if Path(source).is_dir() else None


def is_captions(source: Path | str) -> bool:
    """Returns whether `open_captions` takes `source`; nothing is read.

    Raises:
        BabelclipError: `source` is no folder, and `open_captions` does not take it.
    """
    source = shadowed(source)
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
    for here, folders, files in os.walk(folder, onerror=report_left_out):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(here).relative_to(folder)
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in picture_suffixes():
                yield (below / name).as_posix()


class _Writer:
    """Encodes blocks of pictures and appends them to the store."""

    def __init__(
        self,
        store: EmbeddingStore,
        encode: Callable[..., tuple[np.ndarray, list[SkippedPicture]]],
        root: Path,
        source: str,
        on_skip: Callable[[SkippedPicture], None] | None,
        advance: Advance,
    ) -> None:
        self._store, self._encode, self._root, self._source = store, encode, root, source
        self._on_skip, self._advance = on_skip, advance
        self.left_out: set[str] = set()
        self.first_reason = ""
        self.lossy = 0
        self.took = EncodeReport(0, 0, 0.0, 0.0, 0.0)

    def skip(self, item: SkippedPicture, name: str) -> None:
        self.left_out.add(name)
        self.first_reason = self.first_reason or item.reason
        if self._on_skip is not None:
            self._on_skip(item)

    def append(self, names: list[str]) -> int:
        """Returns how many of the pictures could be read."""
        sizes = [picture_size(self._root / name) for name in names]
        features, skipped = self._encode([self._root / name for name in names], report=self._add)
        for item in skipped:
            self.skip(item, names[item.position])
        bad = {item.position for item in skipped}
        kept = [position for position in range(len(names)) if position not in bad]
        if kept:
            ids = [names[position] for position in kept]
            if self._store.dtype == "float16":
                self.lossy += check_float16(features, ids)
            self._store.append(ids, features, picture_columns([sizes[position] for position in kept], self._source))
        self._advance(len(names))
        return len(kept)

    def _add(self, report: EncodeReport) -> None:
        self.took += report


def picture_names(
    source: Path | str, lang: str | None, only: str | Iterable[str] | None, strict: bool, counts: dict[str, int]
) -> Iterator[list[str]]:
    """Returns the names of the pictures of a folder or of captions, part by part; see `embed_pictures`.

    Args:
        source: as there, and so are the three that follow.
        lang: of captions.
        only: languages.
        strict: whether a bad row is an error.
        counts: "without" becomes the number of captions that name none.
    """
    source = shadowed(source)
    if first_picture(source) is not None:
        return _chunks(iter_picture_names(source))
    return _named_pictures(source, lang, only, strict, counts)


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
    while chunk := list(islice(names, BLOCK)):
        yield chunk


def nothing_readable(source: Path | str, root: Path, unreadable: int, first: str) -> BabelclipError:
    """Returns the error for a source none of whose pictures can be read; `first` says why of the first."""
    return BabelclipError(
        f"None of the {unreadable} pictures of {source} can be read; the first: {first} Names are relative to {root}: "
        "give the folder that they lie in (root, or --image-root), or whole pictures."
    )


def image_tower(clip: Clip) -> ImageEncoder:
    """Returns the picture tower of a clip.

    Raises:
        BabelclipError: it has none.
    """
    return clip.image_tower()
