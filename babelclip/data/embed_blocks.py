"""The pictures of one block to vectors, and which pictures make a block: the same for whoever embeds them.

`babelclip embed` writes a store block by block, alone (`embed_images.py`) or with many processes (`babelclip.cluster`),
and both call what is here. The batches of a block are cut by place, so a picture that cannot be read moves no other
into another batch; each lane has one thread (see `embed_shard`).

| column of the store | meaning |
|---|---|
| `source` | name of the folder or file that the row came from |
| `bytes` | size of the picture's file, by which a file that was changed since is found out |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from babelclip.data import embed_rows
from babelclip.data.embed_targets import body_layers
from babelclip.errors import BabelclipError, shown
from babelclip.models.decoding import EncodeReport
from babelclip.models.encoding import Device, one_thread_each
from babelclip.models.image import ImageEncoder, SkippedPicture
from babelclip.models.tar_pictures import in_tar, member_size
from babelclip.models.text import normalize_rows
from babelclip.progress import Advance
from babelclip.storage import size_of
from babelclip.store import EmbeddingStore

BYTES = "bytes"
# For the name of a file, so that it can be an id.
_NOT_UTF8 = "its name is not UTF-8, so it cannot be an id: rename it"


@dataclasses.dataclass(frozen=True)
class PictureSettings:
    """What decides the vector of a picture beside the model.

    Attributes:
        target: "projected" or "pooled" (see `embed_targets`).
        normalize: whether rows are scaled to length 1.
        batch_size: pictures a forward pass.
    """

    target: str = "projected"
    normalize: bool = False
    batch_size: int = 32


def encode_block(
    tower: ImageEncoder,
    paths: Sequence[Path],
    settings: PictureSettings,
    *,
    devices: Sequence[Device] | None = None,
    pool: Executor | None = None,
    strict: bool = False,
    report: Callable[[EncodeReport], None] | None = None,
) -> tuple[npt.NDArray[np.float32], list[SkippedPicture]]:
    """Returns the vectors (M, D) float32 of the readable pictures of a block in their order, and the others.

    Args:
        tower: of the model.
        paths: N files, or members of tars.
        settings: see there.
        devices: see `ImageEncoder.encode_readable`, as for all that follow; how many changes nothing but the time.
        pool: decoders.
        strict: whether the first picture that cannot be read is an error.
        report: told speed and bottleneck.
    """
    pooled = settings.target == "pooled"
    with one_thread_each(tower, devices) as lanes:
        features, skipped = tower.encode_readable(
            list(paths),
            False,
            batch_size=settings.batch_size,
            before_head=pooled,
            devices=lanes,
            report=report,
            strict=strict,
            pool=pool,
        )
        features = body_layers(tower, features) if pooled else features
    return (normalize_rows(features) if settings.normalize else features), skipped


def picture_columns(sizes: list[int | None], source: str) -> dict[str, list[Any]]:
    """Returns the columns of the rows of a block beside `id`, as the table above says."""
    return {embed_rows.SOURCE: [source] * len(sizes), BYTES: sizes}


def picture_size(path: Path) -> int | None:
    """Returns the bytes of a file or of a member of a tar; None where it cannot be looked at."""
    try:
        inside = in_tar(path)
        return size_of(path) if inside is None else member_size(*inside)
    except OSError:
        return None  # what encodes it says why


class PictureBlocks:
    """Collects names of pictures, and hands on a block of those that the store lacks as soon as it is full.

    Attributes:
        left_out: names that cannot be used; who finds out that a picture cannot be read adds it.
    """

    def __init__(
        self,
        store: EmbeddingStore,
        root: Path,
        size: int,
        do: Callable[[list[str]], int],
        skip: Callable[[SkippedPicture, str], None],
        advance: Advance,
        taken: Callable[[Sequence[str]], npt.NDArray[np.bool_]] | None = None,
    ) -> None:
        """Takes what is done to a block.

        Args:
            store: of the vectors that are there already.
            root: folder that names begin in.
            size: pictures in a block, those that are there included.
            do: takes the names of a block that lack, and returns how many rows the store got.
            skip: told of a name that cannot be used.
            advance: told of pictures that are there.
            taken: which of some names an earlier block of this run has, where `do` does not append them.
        """
        self._store, self._root, self._size, self._do = store, root, size, do
        self._skip, self._advance, self._taken = skip, advance, taken
        self._waiting: dict[str, int] = {}  # name: row in the store, -1 where it lacks
        # Rows of the store that earlier blocks of this run stand for. A picture at a later row belongs to the block at
        # hand, done by the run before: blocks are then the same however often a run was stopped.
        self._passed = 0
        self.left_out: set[str] = set()

    def take(self, names: Iterable[str]) -> None:
        """Takes names, some of which may have come before."""
        fresh = [n for n in dict.fromkeys(names) if n not in self._waiting and n not in self.left_out]
        usable = []
        for name in fresh:
            if _is_utf8(name):
                usable.append(name)
            else:
                self.left_out.add(name)
                self._skip(SkippedPicture(0, name, f"{shown(self._root / ascii(name))}: {_NOT_UTF8}"), name)
        rows = self._store.find(usable)
        self._check_unchanged(usable, rows)
        earlier = (rows >= 0) & (rows < self._passed)
        if self._taken is not None:
            earlier |= self._taken(usable)
        self._waiting.update(
            (name, row) for name, row, before in zip(usable, rows.tolist(), earlier.tolist(), strict=True) if not before
        )
        while len(self._waiting) >= self._size:
            self._block(list(islice(self._waiting, self._size)))

    def finish(self) -> None:
        """Hands on the last block, which need not be full."""
        if self._waiting:
            self._block(list(self._waiting))

    def _block(self, names: list[str]) -> None:
        lacking = [name for name in names if self._waiting[name] < 0]
        self._passed += len(names) - len(lacking)
        self._advance(len(names) - len(lacking), 0)
        if lacking:
            self._passed += self._do(lacking)
        for name in names:
            del self._waiting[name]

    def _check_unchanged(self, names: list[str], rows: np.ndarray) -> None:
        known = np.flatnonzero(rows >= 0)
        if not len(known):
            return
        stored = embed_rows.values_of(self._store, rows[known], BYTES)
        sizes = [picture_size(self._root / names[place]) for place in known.tolist()]
        both = enumerate(zip(stored, sizes, strict=True))
        other = [n for n, (then, now) in both if None not in (then, now) and then != now]
        if other:
            name = names[int(known[other[0]])]
            raise BabelclipError(
                f"{len(other)} pictures are not those that {self._store.path} has vectors of: first {name!r}, whose "
                f"file has {sizes[other[0]]:,} bytes, and had {stored[other[0]]:,}. The id of a picture is its name: "
                "embed changed pictures, or those of another folder with the same names, into a new folder."
            )


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)
