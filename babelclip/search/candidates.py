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
_FOLDED = ("group", "sha256")


class Candidates(NamedTuple):
    """What was found for one query, best first.

    Attributes:
        ids: of the items (M).
        scores: cosines (M), descending.
        columns: name -> values (M).
        vectors: (M, D) float32 of length 1; None where they were not asked for.
    """

    ids: list[str]
    scores: list[float]
    columns: Mapping[str, list[Any]]
    vectors: Vector | None


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
        with_vectors: whether `Candidates.vectors` is wanted.
        exact: compare with every row, without the index.
    """
    if isinstance(collection, MemoryCollection):
        near = collection.nearest(vector, k, where, columns)
        if near is not None:
            scores, rows = near
            places = rows.tolist()
            picked = {name: list(map(collection.values(name).__getitem__, places)) for name in ("id", *columns)}
            return Candidates(picked["id"], scores.tolist(), picked, collection.vectors(rows) if with_vectors else None)
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
    keys: list[Sequence[Any]] = []
    if found.vectors is not None and found.ids:
        keys.append(groups_of_vectors(found.vectors, LEAST_COSINE))
    keys += [[value or None for value in found.columns[name]] for name in _FOLDED if dedup and name in found.columns]
    keys += [found.columns[group_by]] if group_by else []
    # A column in which no value comes twice folds nothing; most are such.
    each: list[tuple[Sequence[Any], dict[Any, int]]] = [(values, {}) for values in keys if _repeats(values)]
    if not each and not without and (not found.scores or found.scores[-1] >= least):
        return [(row, 0) for row in range(len(found.ids))]
    kept: list[tuple[int, int]] = []
    for row, (name, score) in enumerate(zip(found.ids, found.scores, strict=True)):
        if score < least or name in without:
            continue
        there = -1
        for values, known in each:
            there = known.get(values[row], -1)
            if there >= 0:
                kept[there] = (kept[there][0], kept[there][1] + 1)
                break
        else:
            there = len(kept)
            kept.append((row, 0))
        for values, known in each:
            if values[row] is not None:
                known.setdefault(values[row], there)
    return kept


def _repeats(values: Sequence[Any]) -> bool:
    """Returns whether a value other than None comes twice."""
    there = [value for value in values if value is not None]
    return len(set(there)) < len(there)
