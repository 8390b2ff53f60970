"""Exact search by reading every vector once, and the table that every search returns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from babelclip.errors import BabelclipError
from babelclip.search.collection import Collection
from babelclip.search.columns import VECTOR, Vectors, vectors_of
from babelclip.search.filters import Filter

# Results of one query: beyond it an answer is no search any more, and memory would grow with it.
MAX_K = 100_000
_BLOCK = 8192
Rows = npt.NDArray[np.int64]


def checked_k(k: int) -> int:
    """Returns k.

    Raises:
        BabelclipError: it is not between 1 and 100,000.
    """
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= MAX_K:
        raise BabelclipError(f"k is {k!r}, but a search gives between 1 and {MAX_K:,} results: ask for as many.")
    return int(k)


def best_rows(queries: Vectors, k: int, blocks: Iterable[Vectors]) -> tuple[Vectors, Rows]:
    """Returns the `k` best of all rows for each query, by inner product, in memory of one block.

    Args:
        queries: (Q, D) float32.
        k: results for each query.
        blocks: (n, D) each, one after another; any float dtype.

    Returns:
        See `best_of_blocks`.
    """
    return best_of_blocks(len(queries), k, (queries @ np.asarray(block, np.float32).T for block in blocks))


def best_of_blocks(queries: int, k: int, blocks: Iterable[Vectors]) -> tuple[Vectors, Rows]:
    """Returns the `k` best of all rows for each query, whose scores come in blocks.

    Args:
        queries: Q.
        k: results for each query.
        blocks: scores (Q, n) each, of n rows after those of the block before.

    Returns:
        Scores (Q, K) float32 descending and row numbers (Q, K) int64, counted over all blocks; K is less than k where
        there are fewer rows. Rows of equal score come in their order.
    """
    scores = np.zeros((queries, 0), np.float32)
    rows = np.zeros((queries, 0), np.int64)
    start = 0
    for block in blocks:
        found, places = best_scores(block, k)
        scores = np.concatenate([scores, found], axis=1)
        rows = np.concatenate([rows, places + start], axis=1)
        start += block.shape[1]
        scores, order = best_scores(scores, k)
        rows = np.take_along_axis(rows, order, axis=1)
    return scores, rows


def best_scores(scores: Vectors, k: int) -> tuple[Vectors, Rows]:
    """Returns the `k` best of each row of scores (Q, N), descending, and their places (Q, K); K <= N.

    Equal scores come in the order of their places, the last of the K among them; NaN comes last.
    """
    distances = -scores
    if scores.shape[1] <= k:
        best = np.argsort(distances, axis=1, kind="stable")
        return np.take_along_axis(scores, best, axis=1), best
    best = np.empty((len(scores), k), np.int64)
    for number, row in enumerate(distances):
        last = np.partition(row, k - 1)[k - 1]
        places = np.flatnonzero(row <= last) if last == last else np.arange(len(row))
        best[number] = places[np.argsort(row[places], kind="stable")[:k]]
    return np.take_along_axis(scores, best, axis=1), best


def exact_table(
    collection: Collection, queries: Vectors, k: int, where: Filter | None, names: Sequence[str], schema: pa.Schema
) -> pa.Table:
    """Returns the results of exact search in any collection, by a scan of its vectors.

    Args:
        collection: to search.
        queries: (Q, D) of length 1.
        k: results for each query.
        where: only rows that fulfil it.
        names: further columns of the result, `vector` among them where asked for.
        schema: of the result.
    """
    ids: list[pa.Array] = []

    def blocks() -> Iterator[Vectors]:
        for batch in collection.scan(where=where, with_vectors=True, batch_rows=_BLOCK):
            ids.append(batch["id"])
            yield vectors_of(batch[VECTOR])

    scores, rows = best_rows(queries, k, blocks())
    known = pa.concat_arrays(ids) if ids else pa.array([], pa.string())
    found = known.take(pa.array(rows.reshape(-1)))
    numbers = pa.array(np.repeat(np.arange(len(queries), dtype=np.int32), rows.shape[1]))
    arrays = [numbers, found, pa.array(scores.reshape(-1))]
    if names:
        others = [name for name in names if name != VECTOR]
        table = collection.get(pc.unique(found).to_pylist(), columns=others, with_vectors=VECTOR in names)
        places = pc.index_in(found, table["id"].combine_chunks())
        arrays += [table[name].take(places) for name in names]
    return sorted_results(pa.table(arrays, schema=schema))


def result_schema(columns: Sequence[pa.Field]) -> pa.Schema:
    """Returns the schema of results: query, id, score, then `columns`."""
    head = [pa.field("query", pa.int32()), pa.field("id", pa.string()), pa.field("score", pa.float32())]
    return pa.schema([*head, *columns])


def sorted_results(table: pa.Table) -> pa.Table:
    """Returns results in the order that all backends give: by query, score descending, then id."""
    order = pc.sort_indices(table, [("query", "ascending"), ("score", "descending"), ("id", "ascending")])
    return table.take(order)


def first_of_each(table: pa.Table, k: int) -> pa.Table:
    """Returns the first `k` results of each query of a table in the order of `sorted_results`."""
    numbers = table["query"].to_numpy()
    ranks = np.arange(len(numbers)) - np.searchsorted(numbers, numbers)
    return table if not len(ranks) or ranks.max() < k else table.filter(pa.array(ranks < k))


def take_ids(table: pa.Table, ids: Sequence[str]) -> pa.Table:
    """Returns the rows of `ids` in their order, each once; those that `table` lacks are left out."""
    places = {name: row for row, name in enumerate(table["id"].to_pylist())}
    return table.take(pa.array([places[name] for name in dict.fromkeys(ids) if name in places], pa.int64()))
