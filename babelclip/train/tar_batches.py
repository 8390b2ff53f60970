"""Batches of captions and pictures that are read from tars shard by shard, for more than memory holds or a disk seeks.

Which rows a batch has follows from (seed, epoch, settings) alone (see `shard_order.py`); a process reads, decodes and
tokenises its share of them. Pictures are decoded by threads or worker processes, each taking the next one, so that no
worker has rows of its own to run out of. While a shard is read the next one is fetched.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from babelclip.data.captions import text_key
from babelclip.errors import BabelclipError
from babelclip.models.preprocess import PictureError, Preprocess, open_picture
from babelclip.models.text import TextEncoder
from babelclip.storage import present
from babelclip.train.pair_batches import batch_rows
from babelclip.train.pair_inputs import LIVE
from babelclip.train.pictures import Unreadable, stand_ins
from babelclip.train.recipe import Recipe
from babelclip.train.shard_order import ShardOrder
from babelclip.train.tar_shards import TarShards
from babelclip.train.texts import TokenTable
from babelclip.train.towers import is_locked

# Captions that tell how many tokens one has.
_SAMPLE = 1000
# Rows of a tar whose bytes are asked for at once: they will be needed soon, in another order.
_BLOCK = 512


@dataclass(frozen=True)
class TarMember:
    """A picture inside a tar, for `open_picture`; a process that decodes needs no more."""

    tar: Path
    start: int
    size: int

    def read_bytes(self) -> bytes:
        """Returns the bytes of the picture's file.

        Raises:
            OSError: the tar is gone, or shorter than it was.
        """
        with self.tar.open("rb") as file:
            file.seek(self.start)
            content = file.read(self.size)
        if len(content) < self.size:
            raise OSError(f"{self.tar} breaks off at byte {self.start + len(content)}")
        return content

    def __str__(self) -> str:
        return f"{self.tar} at byte {self.start}"


class TarBatches:
    """The batches of a run (`batches.Batches`).

    Attributes:
        unreadable: pictures of this process that could not be read.
    """

    def __init__(
        self, shards: TarShards, text: TextEncoder, preprocess: Preprocess, pool: Executor, recipe: Recipe
    ) -> None:
        """Takes the tars, the text tower for its tokenizer, what the picture tower sees, and who decodes."""
        self._shards, self._text, self._preprocess, self._pool = shards, text, preprocess, pool
        self._settings = (recipe.train.seed, batch_rows(recipe), recipe.data.lanes, recipe.data.window)
        self._starts = np.cumsum(shards.sizes) - shards.sizes
        self._fetcher = ThreadPoolExecutor(1, thread_name_prefix="fetch")
        self._opened: set[int] = set()
        self._asked: set[tuple[int, int]] = set()
        self.unreadable = Unreadable(recipe.data.strict)
        self._after: dict[int, int] = {}
        self._tokens_each = self._mean_tokens()
        _, size, lanes, window = self._settings
        self.fingerprint = {"shards": shards.fingerprint, "batch": size, "lanes": lanes, "window": window}

    def plan(self, epoch: int) -> ShardOrder:
        """Returns the batches of an epoch."""
        seed, size, lanes, window = self._settings
        order = ShardOrder(self._shards.sizes, batch_size=size, epoch=epoch, seed=seed, lanes=lanes, window=window)
        line = order.shards.tolist()
        self._after = dict(pairwise(line))
        self._opened.clear()
        self._asked.clear()
        return order

    def load(self, rows: np.ndarray) -> dict[str, Tensor]:
        """Returns token ids, their mask, pixels (B, 3, height, width) and groups (B, 3) of some rows.

        Raises:
            PictureError: with `data.strict`, a picture cannot be read.
            BabelclipError: none of them can, or a tar cannot be fetched.
        """
        found = self._captions(rows)
        waiting = [self._pool.submit(_pixels, self._preprocess, picture) for picture in found.pictures]
        pixels: dict[int, np.ndarray] = {}
        for place, future in enumerate(waiting):
            try:
                pixels[place] = future.result()
            except PictureError as error:
                self.unreadable.note(int(rows[place]), error)
        places = stand_ins(list(pixels), len(rows), self.unreadable)
        table = TokenTable.from_texts(self._text, found.texts, found.langs)
        input_ids, mask = table.load(places)
        return {
            "input_ids": input_ids,
            "attention_mask": mask,
            "pixels": torch.from_numpy(np.stack([pixels[place] for place in places.tolist()])),
            "groups": torch.from_numpy(found.groups[places]),
        }

    def tokens(self, rows: np.ndarray) -> int:
        """Returns about how many tokens some rows have, also those that other processes read."""
        return round(len(rows) * self._tokens_each)

    def close(self) -> None:
        """Ends the fetching."""
        self._fetcher.shutdown(wait=False, cancel_futures=True)

    def _captions(self, rows: np.ndarray) -> _Captions:
        """Returns the captions of some rows (B,), in their order."""
        shard_of = np.searchsorted(self._starts, rows, side="right") - 1
        texts, langs = [""] * len(rows), [""] * len(rows)
        pictures: list[Any] = [None] * len(rows)
        groups = np.empty((len(rows), 3), np.int64)
        for number in np.unique(shard_of).tolist():
            here = np.flatnonzero(shard_of == number)
            inside = rows[here] - self._starts[number]
            self._open(number, inside)
            tar = self._shards.shards[number].path
            for place, row in zip(here.tolist(), self._shards.table(number).take(inside).to_pylist(), strict=True):
                texts[place], langs[place] = row["text"], row["lang"]
                pictures[place] = TarMember(tar, row["start"], row["size"])
                label = -1 - int(rows[place]) if row["label"] is None else _number(row["label"])
                groups[place] = _number(text_key(row["text"])), (number << 40) | row["start"], label
        return _Captions(texts, langs, pictures, groups)

    def _open(self, number: int, inside: np.ndarray) -> None:
        """Has a tar here, and asks for what will soon be read: its rows around those, and the tar after it."""
        # Each time, so that the cache does not let go of a tar in use.
        present(self._shards.shards[number].path)
        if number not in self._opened:
            self._opened.add(number)
            if number in self._after:
                self._fetcher.submit(present, self._shards.shards[self._after[number]].path)
        for block in np.unique(inside // _BLOCK).tolist():
            if (number, block) not in self._asked:
                self._asked.add((number, block))
                self._ask(number, block)

    def _ask(self, number: int, block: int) -> None:
        """Tells the system that a block of a tar will be read, so that a disk reads it in one go."""
        if not hasattr(os, "posix_fadvise"):
            return
        table = self._shards.table(number).slice(block * _BLOCK, _BLOCK)
        first, last = table["start"][0].as_py(), table["start"][-1].as_py() + table["size"][-1].as_py()
        with self._shards.shards[number].path.open("rb") as file:
            os.posix_fadvise(file.fileno(), first, max(last - first, 0), os.POSIX_FADV_WILLNEED)

    def _mean_tokens(self) -> float:
        number = int(np.flatnonzero(self._shards.sizes)[0])
        sample = self._shards.table(number).slice(0, _SAMPLE)
        table = TokenTable.from_texts(self._text, sample["text"].to_pylist(), sample["lang"].to_pylist())
        return float(table.lengths.mean())


@dataclass(frozen=True)
class _Captions:
    texts: Sequence[str]
    langs: Sequence[str]
    pictures: Sequence[TarMember]
    groups: np.ndarray


def check_streaming(recipe: Recipe) -> None:
    """Checks that nothing of a recipe needs all rows at once.

    Raises:
        BabelclipError: a setting does.
    """
    towers = recipe.towers
    for name, locked, features in (
        ("image", towers.image, towers.image_features),
        ("text", towers.text, towers.text_features),
    ):
        if features not in ("", LIVE) or (is_locked(locked) and features != LIVE):
            raise BabelclipError(
                f"data.stream = true reads pictures and texts as the run goes, but towers.{name} = {locked!r} with "
                f'{name}_features = {features!r} takes stored vectors: set {name}_features = "live", or stream = false.'
            )
    if recipe.data.weights or recipe.student.long == "skip":
        what = "data.weights" if recipe.data.weights else 'student.long = "skip"'
        raise BabelclipError(
            f"data.stream = true sees every caption once an epoch, cut to the longest text, but {what} was given: drop "
            "it, write other tars, or set stream = false."
        )


def _number(text: str) -> int:
    """Returns 63 bits of a hash, 0 or more: equal texts have equal numbers on all machines."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def _pixels(preprocess: Preprocess, picture: TarMember) -> np.ndarray:
    return preprocess(open_picture(picture))
