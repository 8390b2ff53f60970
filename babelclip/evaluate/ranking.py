"""nDCG@10, MRR@10 and MAP@100 of rankings with binary relevance, as expectations over the order of equal items.

Definitions as in pytrec_eval, which mteb uses:

* nDCG@10: sum over the relevant items at ranks r <= 10 of 1 / log2(r + 1), divided by what the best order would give.
* MRR@10: 1 / rank of the first relevant item, 0 where that rank is beyond 10.
* MAP@100: the precision at each relevant item's rank r <= 100, summed and divided by the number of **all** relevant
  items.

Where items have equal scores, each is the mean over all their orders. Input are places as `metrics` finds them: how
many items are better than a relevant one, and how many are equal to it, itself included.
Legend: P pairs of a query and a relevant item, Q queries.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]

NDCG_TOP, MRR_TOP, MAP_TOP = 10, 10, 100
# What the first r ranks give together, r from 0.
_DISCOUNTS = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, NDCG_TOP + 2)))])


def ndcg(first: IntArray, better: IntArray, equal: IntArray) -> FloatArray:
    """Returns nDCG@10 of each query (Q,).

    Args:
        first: (Q,) where the pairs of each query begin; pairs lie query by query.
        better: (P,) items with a higher score than the pair's item.
        equal: (P,) items with the same score, itself included.
    """
    ends, starts = np.minimum(better + equal, NDCG_TOP), np.minimum(better, NDCG_TOP)
    gains = np.add.reduceat((_DISCOUNTS[ends] - _DISCOUNTS[starts]) / equal, first)
    counts = np.diff(first, append=len(better))
    return np.asarray(gains / _DISCOUNTS[np.minimum(counts, NDCG_TOP)])


def average_precision(first: IntArray, better: IntArray, equal: IntArray) -> FloatArray:
    """Returns AP@100 of each query (Q,); arguments as in `ndcg`."""
    counts = np.diff(first, append=len(better))
    rows = np.repeat(np.arange(len(first)), counts)
    order = np.lexsort((better, rows))
    above, level = better[order], equal[order]
    # Relevant items of the same query with a better score, and with the same one.
    new_step = np.concatenate([[True], (np.diff(above) != 0) | (np.diff(rows) != 0)])
    starts = np.flatnonzero(new_step)
    members = np.diff(starts, append=len(above))
    step = np.cumsum(new_step) - 1
    found = starts[step] - first[rows]
    same = np.minimum(members[step], level)
    precision = np.where(above < MAP_TOP, (found + 1) / (above + 1), 0.0)
    tied = np.flatnonzero((level > 1) & (above < MAP_TOP))
    if len(tied):
        precision[tied] = _precision_of_tied(above[tied], level[tied], found[tied], same[tied])
    return np.asarray(np.add.reduceat(precision, first) / counts)


def _precision_of_tied(above: IntArray, level: IntArray, found: IntArray, same: IntArray) -> FloatArray:
    """Returns the expected precision at an item that stands anywhere among `level` equal ones.

    At their place j, a share (same - 1) / (level - 1) of the j - 1 equal ones before it are expected to be relevant.
    """
    expected = np.zeros(len(above))
    share = (same - 1) / (level - 1)
    for place in range(1, min(int(level.max()), MAP_TOP) + 1):
        there = (place <= level) & (above + place <= MAP_TOP)
        expected += np.where(there, (found + 1 + (place - 1) * share) / (above + place), 0.0)
    return np.asarray(expected / level)


def reciprocal_rank(better: IntArray, equal: IntArray, relevant: IntArray) -> FloatArray:
    """Returns the expected reciprocal rank within the first ten of each query (Q,).

    Args:
        better: (Q,) items better than the best relevant one.
        equal: (Q,) items equal to it, itself included.
        relevant: (Q,) how many of these are relevant.
    """
    expected = np.zeros(len(better))
    chance = relevant / equal  # that the first of the equal ones is relevant, then that only the second is, ...
    for place in range(1, MRR_TOP + 1):
        expected += np.where(better + place <= MRR_TOP, chance / (better + place), 0.0)
        left = np.maximum(equal - place, 1)
        chance = chance * np.maximum(equal - place - relevant + 1, 0) / left
    return expected
