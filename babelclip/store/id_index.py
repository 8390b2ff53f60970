"""`IdIndex`: which row of an `EmbeddingStore` has a given id.

A dict of 100 million strings takes some 20 GB. This index keeps the ids in Arrow's compact arrays and beside them one
sorted array of 64-bit hashes with its row numbers, 16 bytes a row. A hash only proposes a row; the id itself decides,
so two ids of one hash are no problem.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from babelclip.store.layout import split_rows


class IdIndex:
    """Finds rows by id; grows by one block of ids per shard."""

    def __init__(self) -> None:
        self._blocks: list[pa.ChunkedArray] = []
        self._starts = np.zeros(1, np.int64)
        self._hashes = np.empty(0, np.int64)  # ascending
        self._rows = np.empty(0, np.int64)  # the row of each hash

    def add(self, blocks: Iterable[pa.ChunkedArray]) -> None:
        """Appends the ids of new shards, one block each, as the next rows."""
        blocks = list(blocks)
        hashes = [np.fromiter(map(hash, block.to_pylist()), np.int64, len(block)) for block in blocks]
        first = self._starts[-1]
        self._blocks += blocks
        ends = first + np.cumsum([len(block) for block in blocks], dtype=np.int64)
        self._starts = np.concatenate([self._starts, ends])
        joined = np.concatenate([self._hashes, *hashes])
        # The stable sort of numpy merges the part that is sorted already instead of sorting it again.
        order = np.argsort(joined, kind="stable")
        self._hashes = joined[order]
        self._rows = np.concatenate([self._rows, np.arange(first, self._starts[-1])])[order]

    def find(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Returns the rows (B,) int64 of `ids` (B,), -1 where there is none."""
        found = np.full(len(ids), -1, np.int64)
        if not len(self._rows):
            return found
        wanted = np.array(ids, dtype=object)
        hashes = np.fromiter(map(hash, ids), np.int64, len(ids))
        slots = np.searchsorted(self._hashes, hashes)
        pending = np.arange(len(ids))
        while True:
            inside = pending[slots[pending] < len(self._hashes)]
            pending = inside[self._hashes[slots[inside]] == hashes[inside]]
            if not len(pending):
                return found
            rows = self._rows[slots[pending]]
            same = self._take(rows) == wanted[pending]
            found[pending[same]] = rows[same]
            # What has the same hash but another id looks at the next slot.
            pending = pending[~same]
            slots[pending] += 1

    def _take(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.object_]:
        """Returns the ids of `rows` (B,), in their order."""
        order = np.argsort(rows, kind="stable")
        ids = np.empty(len(rows), dtype=object)
        for number, part, places in split_rows(rows[order], self._starts):
            ids[order[part]] = self._blocks[number].take(pa.array(places)).to_pylist()
        return ids
