"""Rows that a search found, as Python's own values, and which of them stand for themselves.

Of a small collection in memory they are picked from lists: tables of a few dozen rows cost more to make and to read
than the search itself (measured: 1.2 of 2.7 ms of a request). Entry points: `candidates_of`, `collapsed`. M rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from babelclip.search.collection import Collection
from babelclip.search.columns import VECTOR, vectors_of
from babelclip.search.filters import Filter
from babelclip.search.memory import MemoryCollection
from babelclip.search.near_duplicates import LEAST_COSINE
from babelclip.search.near_pairs import groups_of_vectors

Vector = npt.NDArray[np.float32]
# Columns whose equal values make rows near duplicates.
FOLDED = ("group", "sha256")


class Candidates(NamedTuple):
    """What was found for one query, best first.

    Attributes:
        ids: of the items (M).
        scores: cosines (M), descending.
        columns: name -> values (M).
        vectors: (M, D) float32 of length 1; None where they were not asked for, or fewer than two rows have `twins`.
        twins: places of the rows that may have near duplicates; None where all may.
    """

    ids: list[str]
    scores: list[float]
    columns: Mapping[str, list[Any]]
    vectors: Vector | None
    twins: Sequence[int] | None = None


def candidates_of(
    collection: Collection,
    vector: Vector,
    k: int,
    *,
    where: Filter | None,
    columns: Sequence[str],
    with_vectors: bool,
    exact: bool,
) -> Candidates:
    """Returns the `k` best rows for a query; see `Collection.search` for the arguments and the order.

    Args:
        collection: to search.
        vector: (D,) float32.
        k: rows; fewer are returned only where there are no more.
        where: only rows that fulfil it.
        columns: in `Candidates.columns`.
        with_vectors: whether `Candidates.vectors` is wanted, for near duplicates.
        exact: compare with every row, without the index.
    """
    if isinstance(collection, MemoryCollection):
        near = collection.nearest(vector, k, where, columns)
        if near is not None:
            scores, rows = near
            places = rows.tolist()
            picked = {name: list(map(collection.values(name).__getitem__, places)) for name in ("id", *columns)}
            twins = collection.twins(rows)
            vectors = collection.vectors(rows) if with_vectors and (twins is None or len(twins) > 1) else None
            return Candidates(picked["id"], scores.tolist(), picked, vectors, twins)
    found = collection.search(vector, k, where=where, columns=columns, with_vectors=with_vectors, exact=exact)
    return Candidates(
        found["id"].to_pylist(),
        found["score"].to_pylist(),
        {name: found[name].to_pylist() for name in columns},
        vectors_of(found[VECTOR]) if with_vectors else None,
    )


def collapsed(
    found: Candidates, without: Sequence[str], least: float, *, dedup: bool, group_by: str
) -> list[tuple[int, int]]:
    """Returns the places of rows that stand for themselves or for others, best first, with how many others.

    Args:
        found: rows, with vectors where near duplicates are folded.
        without: ids that are left out.
        least: score below which rows are left out.
        dedup: whether near duplicates (of one `group`, one `sha256`, or by their vectors) are folded.
        group_by: a column of which each value is shown once; "" for none.
    """
    good = [row for row, name in enumerate(found.ids) if found.scores[row] >= least and name not in without]
    twins = range(len(found.ids)) if found.twins is None else found.twins
    keys = _twin_keys(found, twins) if dedup and len(twins) > 1 else []
    if group_by:
        twins, keys = range(len(found.ids)), [*keys, dict(enumerate(found.columns[group_by]))]
    # A column in which no value comes twice folds nothing; most are such.
    each = [(values, dict[Any, int]()) for values in keys if _repeats(values)]
    if not each:
        return [(row, 0) for row in good]
    others: dict[int, int] = {}
    folded = set()
    for row in sorted(set(good).intersection(twins)):
        first = next((known[values[row]] for values, known in each if values.get(row) in known), row)
        if first != row:
            folded.add(row)
            others[first] = others.get(first, 0) + 1
        for values, known in each:
            if values.get(row) is not None:
                known.setdefault(values[row], first)
    return [(row, others.get(row, 0)) for row in good if row not in folded]


def _twin_keys(found: Candidates, twins: Sequence[int]) -> list[dict[int, Any]]:
    """Returns row -> value, for each way to know near duplicates: they have equal values that are not None."""
    names = [name for name in FOLDED if name in found.columns]
    keys = [{row: found.columns[name][row] or None for row in twins} for name in names]
    if found.vectors is not None:
        vectors = found.vectors if len(twins) == len(found.ids) else found.vectors[twins]
        keys.insert(0, dict(zip(twins, groups_of_vectors(vectors, LEAST_COSINE), strict=True)))
    return keys


def _repeats(values: Mapping[int, Any]) -> bool:
    """Returns whether a value other than None comes twice."""
    there = [value for value in values.values() if value is not None]
    return len(set(there)) < len(there)
