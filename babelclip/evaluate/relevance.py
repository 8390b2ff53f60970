"""Which items of a corpus answer which query: `same_group`, or `listed` positions.

Legend: Q queries, C corpus items, P pairs of a query and an item that answers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from babelclip.errors import BabelclipError

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Relevance:
    """Which corpus items answer which query: those of query q are `items[starts[q] : starts[q] + counts[q]]`."""

    starts: IntArray
    counts: IntArray
    items: IntArray
    n_corpus: int

    def of(self, query: int) -> IntArray:
        """Returns the positions of the items relevant to one query."""
        return self.items[self.starts[query] : self.starts[query] + self.counts[query]]

    def pairs(self, queries: IntArray) -> tuple[IntArray, IntArray]:
        """Returns the pairs of query and relevant item of some queries: places within `queries` (P,), items (P,)."""
        counts = self.counts[queries]
        rows = np.repeat(np.arange(len(queries)), counts)
        before = np.repeat(np.cumsum(counts) - counts, counts)
        return rows, self.items[np.repeat(self.starts[queries], counts) + np.arange(len(rows)) - before]


def same_group(query_group: npt.ArrayLike, corpus_group: npt.ArrayLike) -> Relevance:
    """Returns the relevance where an item answers every query of its own group.

    Args:
        query_group: (Q,) group ids of the queries, numbers or strings.
        corpus_group: (C,) group ids of the corpus items.

    Raises:
        BabelclipError: one of them is empty or not flat, or they are of different types.
    """
    queries, corpus = np.asarray(query_group), np.asarray(corpus_group)
    if queries.ndim != 1 or corpus.ndim != 1:
        raise BabelclipError(
            f"Group ids have shapes {queries.shape} and {corpus.shape}; they must be (Q,) and (C,), one id an item."
        )
    if not len(queries) or not len(corpus):
        raise BabelclipError(
            f"There are {len(queries)} queries and {len(corpus)} corpus items; retrieval needs at least one of each."
        )
    if (queries.dtype.kind in "US") != (corpus.dtype.kind in "US"):
        raise BabelclipError(
            f"Query groups are of type {queries.dtype}, corpus groups of {corpus.dtype}, so none would ever be "
            "equal. Give both as strings or both as numbers."
        )
    _, numbers = np.unique(np.concatenate([queries, corpus]), return_inverse=True)
    query_numbers, corpus_numbers = numbers[: len(queries)], numbers[len(queries) :]
    items = np.argsort(corpus_numbers, kind="stable").astype(np.int64)
    sizes = np.bincount(corpus_numbers, minlength=numbers.max() + 1)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return Relevance(starts[query_numbers].astype(np.int64), sizes[query_numbers].astype(np.int64), items, len(corpus))


def listed(relevant: Sequence[Sequence[int]], n_corpus: int) -> Relevance:
    """Returns the relevance given as a list of corpus positions a query; a position counts once.

    Raises:
        BabelclipError: a position lies outside the corpus.
    """
    distinct = [np.unique(np.asarray(positions, dtype=np.int64)) for positions in relevant]
    if not distinct:
        raise BabelclipError("There are 0 queries; retrieval needs at least one. Give a list of positions a query.")
    counts = np.array([len(positions) for positions in distinct], dtype=np.int64)
    items = np.concatenate(distinct)
    if len(items) and (items.min() < 0 or items.max() >= n_corpus):
        raise BabelclipError(
            f"Relevant positions run from {items.min()} to {items.max()}, but the corpus has {n_corpus} items "
            f"(0 to {n_corpus - 1}). Check that relevance and corpus belong together."
        )
    return Relevance(np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64), counts, items, n_corpus)
