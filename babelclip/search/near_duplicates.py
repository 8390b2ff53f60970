"""Groups of pictures that are nearly the same: equal files, and vectors of cosine >= 0.94, joined by connection.

The threshold is that of clip-retrieval's service, which groups at each query (specs/search-and-serving.md 1.5); here it
is done once, after indexing, so that a query only compares names of groups. Each picture that is new asks the
collection for its neighbours, so the work grows with what is new, by the index of the collection where it has one.
Memory holds a batch of queries, and the ids of what is new and of what it resembles. A group is called by the smallest
id in it.

A row that is removed may have tied two others: groups are not taken apart. `regroup=True` makes them all anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from babelclip.progress import progress_bar
from babelclip.search.collection import Collection
from babelclip.search.columns import VECTOR, vectors_of
from babelclip.search.filters import In, IsNull, Not
from babelclip.search.index_state import Waiting

LEAST_COSINE = 0.94
# Neighbours asked for at first; a picture whose last neighbour is still a near duplicate asks for more.
_NEIGHBOURS, _MOST = 16, 1024
# Queries at once, and rows that are read or written at once.
_QUERIES, _ROWS = 128, 500


def group(
    collection: Collection,
    url: Path | str,
    *,
    least: float = LEAST_COSINE,
    regroup: bool = False,
    progress: bool = False,
) -> tuple[int, int]:
    """Returns how many groups the collection has and how many pictures are in them, after grouping what is new.

    What is new is kept beside the collection until its groups are written, so a kill loses nothing.

    Args:
        collection: open for writing.
        url: where it lies.
        least: cosine from which two pictures are near duplicates.
        regroup: forget all groups first.
        progress: show a bar on stderr.
    """
    waiting = Waiting(url)
    ids = waiting.ids()
    if regroup:
        ids = [name for batch in collection.scan() for name in batch["id"].to_pylist()]
    if ids:
        joined = _Joined()
        with progress_bar("Near duplicates", len(ids), shown=progress, unit="pictures") as advance:
            for start in range(0, len(ids), _QUERIES):
                part = ids[start : start + _QUERIES]
                _join_neighbours(collection, part, least, joined)
                advance(len(part))
        if not regroup:
            _join_groups(collection, joined)
        _write(collection, ids, joined)
        waiting.clear()
    sizes: dict[str, list[str]] = {}
    for batch in collection.scan(columns=["group"], where=Not(IsNull("group"))):
        for name, label in zip(batch["id"].to_pylist(), batch["group"].to_pylist(), strict=True):
            sizes.setdefault(label, []).append(name)
    # What was in a group with a picture that changed or went stands alone now.
    alone = [names[0] for names in sizes.values() if len(names) == 1]
    _relabel(collection, dict.fromkeys(alone))
    return len(sizes) - len(alone), sum(len(names) for names in sizes.values()) - len(alone)


class _Joined:
    """Sets of ids that belong together (union-find); the smallest id stands for its set."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def first(self, name: str) -> str:
        """Returns the id that stands for the set of `name`."""
        top = name
        while (above := self._above.get(top, top)) != top:
            top = above
        while name != top:  # shorten the way for the next one
            self._above[name], name = top, self._above.get(name, top)
        return top

    def join(self, one: str, other: str) -> None:
        """Joins the sets of two ids."""
        low, high = sorted((self.first(one), self.first(other)))
        self._above.setdefault(low, low)
        self._above[high] = low

    def members(self) -> list[str]:
        """Returns all ids that were joined to another."""
        return list(self._above)


def _join_neighbours(collection: Collection, ids: Sequence[str], least: float, joined: _Joined) -> None:
    rows = collection.get(ids, columns=["sha256"], with_vectors=True)
    if not len(rows):
        return  # removed since
    names, digests = rows["id"].to_pylist(), rows["sha256"].to_pylist()
    for part in _equal_files(collection, [digest for digest in digests if digest]):
        for other in part[1:]:
            joined.join(part[0], other)
    left, vectors, k = list(range(len(names))), vectors_of(rows[VECTOR]), _NEIGHBOURS
    while left and k <= _MOST:
        found = collection.search(vectors[left], k)
        queries, others, scores = (found[name].to_pylist() for name in ("query", "id", "score"))
        near: Counter[int] = Counter()
        for query, other, score in zip(queries, others, scores, strict=True):
            if score >= least:
                near[query] += 1
                if other != names[left[query]]:
                    joined.join(names[left[query]], other)
        left = [left[query] for query, count in near.items() if count >= k]
        k *= 8


def _equal_files(collection: Collection, digests: Sequence[str]) -> Iterator[list[str]]:
    """Yields the ids of rows whose file has the same content, for each digest that several have."""
    by_digest: dict[str, list[str]] = {}
    for start in range(0, len(digests), _ROWS):
        where = In("sha256", tuple(digests[start : start + _ROWS]))
        for batch in collection.scan(columns=["sha256"], where=where):
            for name, digest in zip(batch["id"].to_pylist(), batch["sha256"].to_pylist(), strict=True):
                by_digest.setdefault(digest, []).append(name)
    yield from (names for names in by_digest.values() if len(names) > 1)


def _join_groups(collection: Collection, joined: _Joined) -> None:
    """Joins what is new to the whole groups that its neighbours are in."""
    members = joined.members()
    groups: set[str] = set()
    for start in range(0, len(members), _ROWS):
        rows = collection.get(members[start : start + _ROWS], columns=["group"])
        groups |= {name for name in rows["group"].to_pylist() if name}
    names = sorted(groups)
    for start in range(0, len(names), _ROWS):
        for batch in collection.scan(columns=["group"], where=In("group", tuple(names[start : start + _ROWS]))):
            for name, label in zip(batch["id"].to_pylist(), batch["group"].to_pylist(), strict=True):
                # The group's name is an id that may be gone, and still ties its members.
                joined.join(name, label)


def _write(collection: Collection, ids: Sequence[str], joined: _Joined) -> None:
    """Writes the group of every picture whose group is another than its row says."""
    asked = list(dict.fromkeys([*ids, *joined.members()]))
    sizes: Counter[str] = Counter()
    there: list[tuple[str, str | None]] = []
    for start in range(0, len(asked), _ROWS):
        rows = collection.get(asked[start : start + _ROWS], columns=["group"])
        there += zip(rows["id"].to_pylist(), rows["group"].to_pylist(), strict=True)
    sizes.update(joined.first(name) for name, _label in there)
    smallest: dict[str, str] = {}
    for name, _label in there:
        top = joined.first(name)
        smallest[top] = min(smallest.get(top, name), name)
    wrong = {
        name: label
        for name, old in there
        if (label := smallest[joined.first(name)] if sizes[joined.first(name)] > 1 else None) != old
    }
    _relabel(collection, wrong)


def _relabel(collection: Collection, wrong: Mapping[str, str | None]) -> None:
    """Writes the group of each id."""
    names = list(wrong)
    for start in range(0, len(names), _ROWS):
        part = names[start : start + _ROWS]
        columns = [name for name in collection.columns if name != "id"]
        rows = collection.get(part, columns=columns, with_vectors=True)
        labels: list[Any] = [wrong[name] for name in rows["id"].to_pylist()]
        place = rows.column_names.index("group")
        collection.upsert(rows.set_column(place, "group", pa.array(labels, pa.string())))


def groups_of_vectors(vectors: np.ndarray, least: float = LEAST_COSINE) -> list[int]:
    """Returns for each of N vectors (N, D), best first, the number of the first that it belongs to; its own if none.

    For a page of results, whose near duplicates may not have been looked for.
    """
    first: list[int] = []
    for start in range(0, len(vectors), _QUERIES):
        near = vectors[start : start + _QUERIES] @ vectors[: start + _QUERIES].T >= least
        for row in range(start, min(start + _QUERIES, len(vectors))):
            earlier = np.flatnonzero(near[row - start, :row])
            first.append(first[int(earlier[0])] if len(earlier) else row)
    return first
