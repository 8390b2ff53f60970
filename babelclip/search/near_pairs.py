"""Pairs of near duplicates: pictures with equal files, or with vectors whose cosine reaches a threshold.

Without an index, what is new is compared with every row by matrix products, a block of rows at a time: exact, and at
the 50,000 rows up to which collections have no index 10^12 operations at most. With an index each new picture asks it
for neighbours, and for more where the last of them is a near duplicate still.

Letters: N rows of the collection, M pictures that are new, D embed_dim.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from babelclip.search.collection import Collection
from babelclip.search.columns import VECTOR, vectors_of

# Neighbours asked for at first, and at most.
_NEIGHBOURS, _MOST = 16, 1024
# Queries at once: of an index, and of a matrix product; rows of the latter.
_QUERIES, _ROWS = 128, 2048
# By how much cosines differ from product to product.
_ROUNDING = 1e-5
Advance = Callable[[int], None]


class Joined:
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


def join_all(collection: Collection, ids: Sequence[str], least: float, joined: Joined, advance: Advance) -> None:
    """Joins the near duplicates of new pictures.

    Args:
        collection: holds them, and all others.
        ids: of the M new ones.
        least: cosine from which two pictures are near duplicates.
        joined: takes the pairs.
        advance: is called with how many of `ids` are done.
    """
    _join_equal_files(collection, set(ids), joined)
    if collection.stats().index == "none":
        _join_exactly(collection, ids, least, joined, advance)
        return
    for start in range(0, len(ids), _QUERIES):
        part = ids[start : start + _QUERIES]
        _join_by_index(collection, part, least, joined)
        advance(len(part))


def _join_equal_files(collection: Collection, new: set[str], joined: Joined) -> None:
    """Joins rows of one SHA-256. Two passes: 8 bytes a row say which hashes come twice, then their ids are read."""
    hashes = [np.zeros(0, np.uint64)]
    for names, digests in _digests(collection):
        del names
        hashes.append(np.array([_short(digest) for digest in digests if digest], np.uint64))
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    twice = set(values[counts > 1].tolist())
    if not twice:
        return
    equal: dict[str, list[str]] = {}
    for names, digests in _digests(collection):
        for name, digest in zip(names, digests, strict=True):
            if digest and _short(digest) in twice:
                equal.setdefault(digest, []).append(name)
    for members in equal.values():
        if len(members) > 1 and any(name in new for name in members):
            for name in members[1:]:
                joined.join(members[0], name)


def _digests(collection: Collection) -> Iterator[tuple[list[str], list[str | None]]]:
    for batch in collection.scan(columns=["sha256"], batch_rows=1 << 14):
        yield batch["id"].to_pylist(), batch["sha256"].to_pylist()


def _short(digest: str) -> int:
    return int.from_bytes(hashlib.blake2b(digest.encode(), digest_size=8).digest(), "little")


def _join_exactly(collection: Collection, ids: Sequence[str], least: float, joined: Joined, advance: Advance) -> None:
    for start in range(0, len(ids), _ROWS):
        part = ids[start : start + _ROWS]
        rows = collection.get(part, with_vectors=True)
        if len(rows):
            names, vectors = rows["id"].to_pylist(), vectors_of(rows[VECTOR])
            for batch in collection.scan(with_vectors=True, batch_rows=_ROWS):
                _join_block(names, vectors, batch["id"].to_pylist(), vectors_of(batch[VECTOR]), least, joined)
        advance(len(part))


def _join_block(
    names: list[str],
    vectors: npt.NDArray[np.float32],
    others: list[str],
    against: npt.NDArray[np.float32],
    least: float,
    joined: Joined,
) -> None:
    near = vectors @ against.T >= least
    # Rows with the same neighbours say the same, and a group of thousands has as many such rows: one of them is enough,
    # and the others join it.
    seen: dict[bytes, str] = {}
    for row in np.flatnonzero(near.any(axis=1)).tolist():
        key = np.packbits(near[row]).tobytes()
        if key in seen:
            joined.join(seen[key], names[row])
            continue
        seen[key] = names[row]
        for place in np.flatnonzero(near[row]).tolist():
            if others[place] != names[row]:
                joined.join(names[row], others[place])


def _join_by_index(collection: Collection, ids: Sequence[str], least: float, joined: Joined) -> None:
    rows = collection.get(ids, with_vectors=True)
    if not len(rows):
        return  # removed since
    names, vectors = rows["id"].to_pylist(), vectors_of(rows[VECTOR])
    left, k = list(range(len(names))), _NEIGHBOURS
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


def have_neighbours(vectors: npt.NDArray[np.float32], least: float) -> npt.NDArray[np.bool_]:
    """Returns for each of N vectors (N, D) of length 1 whether another one's cosine with it reaches `least`.

    What other products of the same vectors round to more than `least` is never left out.
    """
    near = np.zeros(len(vectors), np.bool_)
    for start in range(0, len(vectors), _ROWS):
        cosines = vectors[start : start + _ROWS] @ vectors.T
        own = np.arange(len(cosines))
        cosines[own, start + own] = -1
        # No maximum: that of every row would be NaN where one vector is none, as in a damaged folder of others.
        near[start : start + _ROWS] = (cosines >= least - _ROUNDING).any(axis=1)
    return near


def groups_of_vectors(vectors: npt.NDArray[np.float32], least: float) -> list[int]:
    """Returns for each of M vectors (M, D), best first, the number of the first that it belongs to; its own if none.

    For a page of results, whose near duplicates may not have been looked for.
    """
    first = list(range(len(vectors)))
    for start in range(0, len(vectors), _QUERIES):
        near = vectors[start : start + _QUERIES] @ vectors[: start + _QUERIES].T >= least
        if np.count_nonzero(near) == np.count_nonzero(near.diagonal(start)):
            continue  # each is near itself alone
        earlier = np.tril(near, start - 1)
        for row in np.flatnonzero(earlier.any(axis=1)).tolist():
            first[start + row] = first[int(earlier[row].argmax())]
    return first
