"""How many scores of a query are better than that of its relevant item: the one slow part of every retrieval metric.

All ranks follow from two counts a pair of query and relevant item, so nothing is sorted and nothing of the size (Q, C)
is kept. Of a model that finds what it looks for, few scores reach that of a relevant item: one comparison says which,
and only these are counted. Legend: Q queries, C corpus items, P pairs, S slots.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

# A tile of scores and its mask lie in a megabyte or two of cache. Its rows are counted in a byte.
_TILE_ROWS, _TILE_SCORES = 250, 312_500
# Share of a tile from which all of it is counted: picking scores out takes longer than comparing them then.
_MANY = 1 / 32
# Vectors whose products are taken at once; they lie in the cache too.
_PAIRS_AT_ONCE = 512


def window(own: Scores, tolerance: float) -> tuple[Scores, Scores]:
    """Returns the lowest and the highest score (P,) that count as equal to `own` (P,)."""
    width = np.float32(tolerance) * np.maximum(np.float32(1), np.abs(own))
    return own - width, own + width


@dataclass(frozen=True)
class Bounds:
    """What is looked for in each row, or each column, of a matrix of scores: `low` and `high` of each pair.

    Attributes:
        low: (S, M) float32, the pairs of each of M rows or columns, ascending; infinite where there are fewer than S.
        high: (S, M) float32, likewise.
        slots: (P,) where each pair lies.
        members: (P,) the row or column of each pair.
    """

    low: Scores
    high: Scores
    slots: IntArray
    members: IntArray

    @classmethod
    def of_pairs(cls, members: IntArray, low: Scores, high: Scores, n_members: int) -> Bounds:
        """Returns pairs (P,) in slots; `members` (P,) ascends."""
        order = np.lexsort((low, members))
        slots = np.empty(len(members), dtype=np.int64)
        slots[order] = np.arange(len(members)) - np.searchsorted(members, members)
        placed = np.full((2, int(slots.max(initial=0)) + 1, n_members), np.inf, dtype=np.float32)
        placed[:, slots, members] = low, high
        return cls(placed[0], placed[1], slots, members)

    def count(self, scores: Scores, axis: int, pool: Executor) -> tuple[IntArray, IntArray]:
        """Returns, for each pair (P,), how many scores exceed its `high`, and how many are at least its `low`.

        Args:
            scores: (M, N) float32 for axis 1, where members are rows; (N, M) for axis 0, where they are columns.
            axis: along which scores are counted.
            pool: whose threads count.
        """
        counts = np.zeros((2, *self.low.shape), dtype=np.int64)
        list(pool.map(lambda part: self._count(scores, axis, counts, part), _parts(scores.shape, axis)))
        return counts[0, self.slots, self.members], counts[1, self.slots, self.members]

    def _count(self, scores: Scores, axis: int, counts: IntArray, part: slice) -> None:
        """Adds to `counts` (2, S, M) what some members hold, tile by tile."""
        low, high, found = self.low[:, part], self.high[:, part], counts[:, :, part]
        if axis == 1:
            _count_tile(scores[part], low, high, 1, found)
            return
        for top in range(0, len(scores), _TILE_ROWS):
            _count_tile(scores[top : top + _TILE_ROWS, part], low, high, 0, found)


def _parts(shape: tuple[int, ...], axis: int) -> Iterator[slice]:
    """Yields the rows or columns that make a tile."""
    step = _TILE_SCORES // _TILE_ROWS if axis == 0 else max(1, min(_TILE_ROWS, _TILE_SCORES // shape[1]))
    for start in range(0, shape[1 - axis], step):
        yield slice(start, start + step)


def _count_tile(tile: Scores, low: Scores, high: Scores, axis: int, counts: IntArray) -> None:
    """Adds to `counts` (2, S, m) what a tile (n, m), or (m, n) for axis 1, holds above `high` and from `low` (S, m)."""
    mask = np.greater_equal(tile, np.expand_dims(low[0], axis))
    if np.count_nonzero(mask) > _MANY * mask.size:
        for slot in range(len(low)):
            counts[0, slot] += _true(np.greater(tile, np.expand_dims(high[slot], axis), out=mask), axis)
            counts[1, slot] += _true(np.greater_equal(tile, np.expand_dims(low[slot], axis), out=mask), axis)
        return
    places = np.divmod(np.flatnonzero(mask), tile.shape[1])
    values, members = tile[places], places[1 - axis]
    for slot in range(len(low)):
        if slot:  # what a slot lets pass, the lower one before has let pass
            passed = values >= low[slot, members]
            values, members = values[passed], members[passed]
        counts[0, slot] += np.bincount(members[values > high[slot, members]], minlength=low.shape[1])
        counts[1, slot] += np.bincount(members, minlength=low.shape[1])


def _true(mask: npt.NDArray[np.bool_], axis: int) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Returns how many are true along an axis."""
    # A tile has fewer rows than a byte can count, and bytes are added many at a time.
    counted: npt.NDArray[np.unsignedinteger[Any]] = np.add.reduce(
        mask.view(np.uint8), axis=axis, dtype=np.uint32 if axis else np.uint8
    )
    return counted


def pair_scores(queries: npt.NDArray[Any], corpus: npt.NDArray[Any], rows: IntArray, items: IntArray) -> Scores:
    """Returns the dot products (P,) float32 of pairs of a query (Q, D) and an item (C, D)."""
    own = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        np.einsum("pd,pd->p", queries[rows[part]], corpus[items[part]], out=own[part])
    return own
