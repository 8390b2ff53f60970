"""Batches of a mix, which may be larger than memory: windows of its rows, each batched by length.

An epoch of the loop is a window here, so its cursor (epoch, position) is the place in the mix, and with the mix's
fingerprint all that a checkpoint needs. While one window trains, a thread reads the next one: texts, token ids, and
positions of the targets.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from babelclip.data.mixer import Mixer
from babelclip.errors import BabelclipError
from babelclip.models.text import TextEncoder
from babelclip.store import EmbeddingStore
from babelclip.train.live import KeptTargets, Targets
from babelclip.train.recipe import Recipe, Train
from babelclip.train.text_batches import Batch, Rows, planned
from babelclip.train.texts import TokenTable, beyond_room


@dataclasses.dataclass
class Counts:
    """What was read of the captions since the start of the program: `long` beyond the student's longest text.

    `skipped` of them were left out and the others truncated; `missing` had no target and were left out.
    """

    rows: int = 0
    long: int = 0
    skipped: int = 0
    missing: int = 0

    def __add__(self, other: Counts) -> Counts:
        mine, its = dataclasses.astuple(self), dataclasses.astuple(other)
        return Counts(*(a + b for a, b in zip(mine, its, strict=True)))

    def __str__(self) -> str:
        kept = self.long - self.skipped
        parts = [f"{self.rows:,} captions read"]
        parts += [f"{self.skipped:,} of them skipped as too long"] if self.skipped else []
        parts += [f"{kept:,} truncated"] if kept else []
        parts += [f"{self.missing:,} left out without a target"] if self.missing else []
        return ", ".join(parts)


class _Read(NamedTuple):
    """A window as far as another thread may prepare it."""

    tokens: TokenTable
    positions: npt.NDArray[np.int64]
    counts: Counts


class MixBatches:
    """The windows of a mix as the epochs of a run.

    Attributes:
        window: rows of a window; a smaller mix has windows of its own size.
        counts: of the windows that were read.
    """

    def __init__(self, student: TextEncoder, mixer: Mixer, targets: Targets, recipe: Recipe) -> None:
        """Takes the student, for its tokenizer, and where texts and vectors come from."""
        self._student, self._mixer, self._targets, self._recipe = student, mixer, targets, recipe
        self.window = min(recipe.data.window, len(mixer))
        self.counts = Counts()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="window")
        self._ahead: dict[int, Future[_Read]] = {}
        self._windows: dict[int, Rows] = {}
        # On an accelerator one thread plans and another one loads.
        self._lock = threading.Lock()

    def plan(self, epoch: int) -> list[np.ndarray]:
        """Returns the batches of window `epoch`, its rows numbered through the whole mix."""
        rows = self.rows_of(epoch)
        return [batch + epoch * self.window for batch in planned(rows.lengths, epoch, self._recipe.train)]

    def load(self, rows: np.ndarray) -> Batch:
        """Returns the batch of some rows of one window."""
        epoch = int(rows[0]) // self.window
        return self.rows_of(epoch).load(rows - epoch * self.window)

    def tokens(self, rows: np.ndarray) -> int:
        """Returns the tokens of some rows of one window, padding not counted; windows before it are let go of.

        The loop asks when it trains on a batch, which is after it was planned and loaded, and in the order of batches.
        """
        epoch = int(rows[0]) // self.window
        with self._lock:
            self._windows = {number: kept for number, kept in self._windows.items() if number >= epoch}
        return self.rows_of(epoch).tokens(rows - epoch * self.window)

    def in_steps(self, settings: Train) -> Train:
        """Returns the settings with `steps` for the whole run; an epoch is as many rows as the mix has."""
        if not settings.epochs:
            return settings
        windows = settings.epochs * len(self._mixer) / self.window
        steps = math.ceil(windows * len(self.plan(0)) / settings.accumulation)
        return dataclasses.replace(settings, steps=max(steps, 1), epochs=0.0)

    def rows_of(self, epoch: int) -> Rows:
        """Returns a window, and has the next one read meanwhile."""
        with self._lock:
            found = self._windows.get(epoch)
            if found is None:
                read = self._asked(epoch).result()
                self._ahead.pop(epoch)
                self.counts += read.counts
                found = self._windows[epoch] = self._rows(read)
                self._ahead = {number: ahead for number, ahead in self._ahead.items() if number == epoch + 1}
                self._asked(epoch + 1)
        return found

    def close(self) -> None:
        """Ends the reading ahead."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    def _asked(self, epoch: int) -> Future[_Read]:
        if epoch not in self._ahead:
            self._ahead[epoch] = self._reader.submit(self._read, epoch)
        return self._ahead[epoch]

    def _read(self, epoch: int) -> _Read:
        table = self._mixer.rows(epoch * self.window, self.window)
        positions = self._targets.find(table.column("source_id").to_pylist())
        if self._recipe.teacher.missing == "error" and (positions < 0).any():
            # For its message, which names the ids.
            self._targets.positions(table.column("source_id").to_pylist())
        there = np.flatnonzero(positions >= 0)
        table = table.take(there)
        texts, langs = table.column("text").to_pylist(), table.column("lang").to_pylist()
        tokens = TokenTable.from_texts(self._student, texts, langs)
        counts = Counts(rows=len(positions), missing=len(positions) - len(there))
        positions = positions[there]
        long = beyond_room(self._student.tokenizer, texts, tokens.lengths)
        counts.long = int(long.sum())
        if self._recipe.student.long == "skip" and counts.long:
            counts.skipped = counts.long
            tokens, positions = tokens.select(~long), positions[~long]
        if not len(positions):
            raise BabelclipError(
                f"Nothing is left of rows {epoch * self.window:,} to {(epoch + 1) * self.window:,} of the mix: "
                f'{counts}. Raise student.max_length, set long = "truncate" in [student], or give the targets.'
            )
        return _Read(tokens, positions, counts)

    def _rows(self, read: _Read) -> Rows:
        # Of a store, a batch reads its rows from disk; a live teacher computes those of the window in one go, and here
        # rather than in the thread: on a CPU both would only take turns.
        held = (
            self._targets if isinstance(self._targets, EmbeddingStore) else KeptTargets(self._targets, read.positions)
        )
        return Rows(read.tokens, read.tokens.lengths, read.positions, held.gather, self._recipe)
