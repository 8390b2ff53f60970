"""Which of G kinds of rows stands at position i of an endless sequence, in given shares, without counting up to i.

A binary tree has the kinds as leaves. At an inner node whose left side has the share f, the first j visits send
F(j) = floor(j f + 1/2) to the left: visit j goes there where F(j + 1) > F(j), and is then visit number F(j) of that
side. From position i at the root, the descent ends at a kind and at the number of earlier positions of the same kind.
Both are functions of i alone, and every stretch of the sequence has its shares to within a few rows: a node is off by
half a row at most, and the tree is Huffman's, in which two steps down at least halve a share, so that after any
number of positions a kind is off by less than 1/2 (1 + 1 + 1/2 + 1/2 + 1/4 + ...) = 2 rows. A tree of trees adds the
errors of its floors.

f is a multiple of 2^-32, so that all of this is whole-number arithmetic, exact for 2^62 positions.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

# A kind, or a tree of its own over some kinds.
Kinds: TypeAlias = "int | Sequence[Kinds]"

_BITS = 32
_ONE = 1 << _BITS


class _Node(NamedTuple):
    """`left` is F's share f in units of 2^-32; a side is a node or, as a number, a kind."""

    left: int
    sides: tuple[_Node | int, _Node | int]


class Stretch(NamedTuple):
    """The rows of one kind between two positions: the first is number `first` of its kind, they stand at `places`."""

    kind: int
    first: int
    places: npt.NDArray[np.int64]


class Schedule:
    """An endless sequence of kinds.

    Example:
        >>> schedule = Schedule([0.25, 0.75], [0, 1])
        >>> schedule.counts(1000).tolist()
        [250, 750]
        >>> [(part.kind, part.first, part.places.tolist()) for part in schedule.between(4, 8)]
        [(1, 3, [0, 2, 3]), (0, 1, [1])]
    """

    def __init__(self, shares: npt.ArrayLike, kinds: Sequence[Kinds]) -> None:
        """Makes the tree.

        Args:
            shares: (G,) of the kinds, not negative, not all 0; they are divided by their sum.
            kinds: the numbers 0..G-1; those in a nested sequence are held together: as a whole they have the sum of
                their shares to within the bound above.
        """
        self._shares = np.asarray(shares, np.float64)
        tree = _tree(kinds, self._shares.tolist())
        if tree is None:
            raise ValueError("all shares are 0")
        self._root = tree[1]

    def shares(self) -> npt.NDArray[np.float64]:
        """Returns the shares (G,) that the sequence has in the long run: those asked for, each side to 2^-32."""
        shares = np.zeros(len(self._shares))
        waiting: list[tuple[_Node | int, float]] = [(self._root, 1.0)]
        while waiting:
            node, share = waiting.pop()
            if isinstance(node, int):
                shares[node] = share
            else:
                waiting.append((node.sides[0], share * (node.left / _ONE)))
                waiting.append((node.sides[1], share * ((_ONE - node.left) / _ONE)))
        return shares

    def counts(self, positions: int) -> npt.NDArray[np.int64]:
        """Returns how many of the first `positions` positions each kind has (G,) int64; takes G steps."""
        counts = np.zeros(len(self._shares), np.int64)
        waiting: list[tuple[_Node | int, int]] = [(self._root, positions)]
        while waiting:
            node, visits = waiting.pop()
            if isinstance(node, int):
                counts[node] = visits
            else:
                to_left = _to_left(node, visits)
                waiting += [(node.sides[0], to_left), (node.sides[1], visits - to_left)]
        return counts

    def between(self, start: int, end: int) -> Iterator[Stretch]:
        """Yields the kinds that occur from position `start` to before `end`, one each, `places` counted from `start`.

        Where the first of a kind is number k, the others are k + 1, k + 2 and so on, in ascending places.
        """
        waiting: list[tuple[_Node | int, int, npt.NDArray[np.int64]]] = [
            (self._root, start, np.arange(end - start, dtype=np.int64))
        ]
        while waiting:
            node, first, places = waiting.pop()
            if not len(places):
                continue
            if isinstance(node, int):
                yield Stretch(node, first, places)
                continue
            goes_left = _goes_left(node, first, len(places))
            before = _to_left(node, first)
            waiting.append((node.sides[0], before, places[goes_left]))
            waiting.append((node.sides[1], first - before, places[~goes_left]))


def _to_left(node: _Node, visits: int) -> int:
    """Returns F(visits)."""
    return (visits * node.left + _ONE // 2) >> _BITS


def _goes_left(node: _Node, first: int, count: int) -> npt.NDArray[np.bool_]:
    """Returns which of the visits `first`, `first + 1`, ... (count,) go to the left side."""
    # Only the fraction of j f counts, and a product of 2^32 and 2^32 would leave no bit for the sum.
    fractions = np.arange(count, dtype=np.uint64)
    fractions *= np.uint64(node.left)
    fractions += np.uint64((first * node.left + _ONE // 2) & (_ONE - 1))
    fractions &= np.uint64(_ONE - 1)
    # F rises with the step from j to j + 1 exactly where the fraction runs over.
    goes_left: npt.NDArray[np.bool_] = fractions >= np.uint64(_ONE - node.left)
    return goes_left


def _tree(kinds: Kinds, shares: Sequence[float]) -> tuple[float, _Node | int] | None:
    """Returns the share of `kinds` and their Huffman tree; None where all of them have none."""
    if isinstance(kinds, int):
        return (shares[kinds], kinds) if shares[kinds] > 0 else None
    parts = [part for part in (_tree(item, shares) for item in kinds) if part is not None]
    # The number in the middle settles between equal shares, so that the tree does not hang on chance.
    heap: list[tuple[float, int, _Node | int]] = [(share, number, node) for number, (share, node) in enumerate(parts)]
    heapq.heapify(heap)
    following = len(heap)
    while len(heap) > 1:
        (small, _, left), (large, _, right) = heapq.heappop(heap), heapq.heappop(heap)
        fraction = min(max(round(small / (small + large) * _ONE), 1), _ONE - 1)
        heapq.heappush(heap, (math.fsum((small, large)), following, _Node(fraction, (left, right))))
        following += 1
    return (heap[0][0], heap[0][2]) if heap else None
