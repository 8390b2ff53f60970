"""How many scores of a query are better than that of its relevant item: the one slow part of every retrieval metric.

All ranks follow from two counts a pair of query and relevant item, so nothing is sorted and nothing of the size (Q, C)
is kept. Legend: Q queries, C corpus items, P pairs.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

# From so many items on, a row of scores is compared by itself.
_WIDE = 256
# A tile of scores and its mask lie in a megabyte or two of cache. Its rows are counted in a byte.
_TILE_ROWS, _TILE_COLUMNS = 250, 1250


def window(own: Scores, tolerance: float) -> tuple[Scores, Scores]:
    """Returns the lowest and the highest score (P,) that count as equal to `own` (P,)."""
    width = np.float32(tolerance) * np.maximum(np.float32(1), np.abs(own))
    return own - width, own + width


def count_places(scores: Scores, rows: IntArray, low: Scores, high: Scores, at_once: int) -> tuple[IntArray, IntArray]:
    """Returns, for each pair (P,), how many scores of its row exceed `high`, and how many are at least `low`.

    Args:
        scores: (Q, C) float32.
        rows: (P,) the row of each pair.
        low: (P,) from `window`.
        high: (P,) from `window`.
        at_once: pairs whose rows may be copied; only where rows are short.
    """
    better, at_least = np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows), dtype=np.int64)
    if scores.shape[1] < _WIDE:
        for start in range(0, len(rows), at_once):
            part = slice(start, start + at_once)
            of_query = scores[rows[part]]
            better[part] = (of_query > high[part, None]).sum(axis=1)
            at_least[part] = (of_query >= low[part, None]).sum(axis=1)
        return better, at_least
    # A wide row at a time: no copy of it, and its mask is counted within the cache.
    mask = np.empty(scores.shape[1], dtype=np.bool_)
    for pair, row in enumerate(rows.tolist()):
        of_row = scores[row]
        if found := np.count_nonzero(np.greater_equal(of_row, low[pair], out=mask)):
            at_least[pair] = found
            better[pair] = np.count_nonzero(np.greater(of_row, high[pair], out=mask))
    return better, at_least


@dataclass(frozen=True)
class Columns:
    """What is looked for in the columns of a matrix of scores: `low` and `high` of each pair, a pair a slot.

    Attributes:
        low: (S, C) float32, S slots of each of C columns; infinite where a column has fewer pairs.
        high: (S, C) float32, likewise.
        slots: (P,) slot of each pair.
        columns: (P,) column of each pair.
    """

    low: Scores
    high: Scores
    slots: IntArray
    columns: IntArray

    @classmethod
    def of_pairs(cls, columns: IntArray, low: Scores, high: Scores, n_columns: int) -> Columns:
        """Returns pairs (P,) in slots; `columns` (P,) ascends."""
        slots = np.arange(len(columns)) - np.searchsorted(columns, columns)
        shape = (int(slots.max(initial=-1)) + 1, n_columns)
        placed = np.full((2, *shape), np.inf, dtype=np.float32)
        placed[:, slots, columns] = low, high
        return cls(placed[0], placed[1], slots, columns)

    def count(self, scores: Scores, pool: Executor) -> tuple[IntArray, IntArray]:
        """Returns what `count_places` does for the columns of `scores` (N, C), in the threads of `pool`."""
        counts = np.zeros((2, *self.low.shape), dtype=np.int64)
        starts = range(0, scores.shape[1], _TILE_COLUMNS)
        list(pool.map(lambda start: self._count(scores, counts, slice(start, start + _TILE_COLUMNS)), starts))
        return counts[0, self.slots, self.columns], counts[1, self.slots, self.columns]

    def _count(self, scores: Scores, counts: IntArray, part: slice) -> None:
        """Adds to `counts` (2, S, C) what some columns hold, tile by tile within the cache."""
        mask = np.empty((_TILE_ROWS, _TILE_COLUMNS), dtype=np.bool_)
        for top in range(0, len(scores), _TILE_ROWS):
            tile = scores[top : top + _TILE_ROWS, part]
            found = mask[: tile.shape[0], : tile.shape[1]]
            for slot in range(len(self.low)):
                # A tile has fewer rows than a byte can count, and bytes are added many at a time.
                np.greater(tile, self.high[slot, part], out=found)
                counts[0, slot, part] += np.add.reduce(found.view(np.uint8), axis=0, dtype=np.uint8)
                np.greater_equal(tile, self.low[slot, part], out=found)
                counts[1, slot, part] += np.add.reduce(found.view(np.uint8), axis=0, dtype=np.uint8)


def pair_scores(
    queries: npt.NDArray[Any], corpus: npt.NDArray[Any], rows: IntArray, items: IntArray, at_once: int
) -> Scores:
    """Returns the dot products (P,) float32 of pairs of a query (Q, D) and an item (C, D), `at_once` at a time."""
    own = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), at_once):
        part = slice(start, start + at_once)
        np.einsum("pd,pd->p", queries[rows[part]], corpus[items[part]], out=own[part])
    return own
