"""An order of many rows in shards that is read nearly front to end, and yet mixed: computed, and the same everywhere.

Shards are put in an order of (seed, epoch), which makes one long line of rows. The line is cut into `lanes` parts of
equal length, wherever the cuts fall; in each lane, windows of some thousand rows are shuffled. A batch takes as many
rows from each lane, so it mixes as many shards as there are lanes, while only so many are being read at a time.

Every row comes once an epoch however uneven the shards are, all batches are of nearly equal size, and nothing depends
on the number of processes: they share out the rows of each batch in the order of the lanes, so that each reads its own
ones. What webdataset does, shards to processes, gives uneven numbers of steps, or repeats and losses, and other batches
with other processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

from babelclip.data.permutation import mixed_key, mixed_keys, permuted

_SHARDS, _WINDOWS = 11, 12
Rows = npt.NDArray[np.int64]


class ShardOrder(Sequence[Rows]):
    """The batches of an epoch, each computed when it is asked for: memory holds some numbers a shard.

    Attributes:
        shards: the numbers of the shards (S,) in the order of this epoch.
    """

    def __init__(
        self, sizes: npt.ArrayLike, *, batch_size: int, epoch: int, seed: int, lanes: int, window: int
    ) -> None:
        """Takes what the order follows from.

        Args:
            sizes: rows of each shard (S,), 0 or more; rows are numbered through all shards as they stand here.
            batch_size: most rows of a batch.
            epoch: number of the epoch, from 0.
            seed: seed of the run.
            lanes: how many shards a batch mixes, 1 or more.
            window: rows of all lanes that are shuffled together.
        """
        counts = np.asarray(sizes, np.int64)
        self.shards = np.random.default_rng([seed, epoch, _SHARDS]).permutation(len(counts))
        self._first = (np.cumsum(counts) - counts)[self.shards]
        ends = np.cumsum(counts[self.shards])
        self._ends, self._starts = ends, ends - counts[self.shards]
        self._rows = int(counts.sum())
        self._steps = -(-self._rows // batch_size)
        self._lanes = lanes
        self._window = max(window // lanes, 1)
        # Where each lane begins, and the end of the last.
        self._edges = np.concatenate([[0], np.cumsum(self._taken(self._rows))])
        self._keys = mixed_keys(np.uint64(mixed_key(seed, epoch, _WINDOWS)), np.arange(lanes))

    def __len__(self) -> int:
        return self._steps

    @overload
    def __getitem__(self, step: int) -> Rows: ...
    @overload
    def __getitem__(self, step: slice) -> list[Rows]: ...
    def __getitem__(self, step: int | slice) -> Rows | list[Rows]:
        """Returns the rows (B,) of a batch, lane by lane."""
        if isinstance(step, slice):
            return [self[place] for place in range(*step.indices(self._steps))]
        if not -self._steps <= step < self._steps:
            raise IndexError(f"step {step} of {self._steps}")
        step %= self._steps
        low = self._taken(self._rows * step // self._steps)
        high = self._taken(self._rows * (step + 1) // self._steps)
        lane = np.repeat(np.arange(self._lanes), high - low)
        place = np.arange(len(lane)) - np.repeat(np.cumsum(high - low) - high, high - low)
        return self._shuffled(lane, place)

    def _taken(self, rows: int) -> Rows:
        """Returns how many of the first `rows` rows of the epoch come from each lane: they take turns."""
        return (rows + self._lanes - 1 - np.arange(self._lanes, dtype=np.int64)) // self._lanes

    def _shuffled(self, lane: Rows, place: Rows) -> Rows:
        """Returns the row at each place of a lane."""
        if not len(lane):
            return np.empty(0, np.int64)
        start = place - place % self._window
        size = np.minimum(self._window, self._edges[lane + 1] - self._edges[lane] - start)
        keys = mixed_keys(self._keys[lane], start)
        line = self._edges[lane] + start + permuted(place - start, size, keys)
        shard = np.searchsorted(self._ends, line, side="right")
        rows: Rows = self._first[shard] + line - self._starts[shard]
        return rows
