"""How many scores of a query are better than that of its relevant item: the one slow part of every retrieval metric.

All ranks follow from two counts a pair of query and relevant item, so nothing is sorted and nothing of the size (Q, C)
is kept. Legend: Q queries, C corpus items, P pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

# From so many items on, a row of scores is compared by itself.
_WIDE = 256
# Rows that are turned at once: numpy's own copy of a transposed matrix of gigabytes misses the cache at every number.
_TURNED_AT_ONCE = 256


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


def turned(scores: Scores) -> Scores:
    """Returns the scores (C, Q) of (Q, C), row by row in memory."""
    columns = np.empty(scores.shape[::-1], dtype=scores.dtype)
    for start in range(0, len(scores), _TURNED_AT_ONCE):
        columns[:, start : start + _TURNED_AT_ONCE] = scores[start : start + _TURNED_AT_ONCE].T
    return columns


def pair_scores(
    queries: npt.NDArray[Any], corpus: npt.NDArray[Any], rows: IntArray, items: IntArray, at_once: int
) -> Scores:
    """Returns the dot products (P,) float32 of pairs of a query (Q, D) and an item (C, D), `at_once` at a time."""
    own = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), at_once):
        part = slice(start, start + at_once)
        np.einsum("pd,pd->p", queries[rows[part]], corpus[items[part]], out=own[part])
    return own
