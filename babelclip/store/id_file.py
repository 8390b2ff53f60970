"""`IdFile`: which row of a store that is being written has a given id, in memory that does not grow with the rows.

A writer must know at each append whether an id is there already. `IdIndex` answers from memory, some 30 bytes a row and
the ids themselves: fine for training, which asks for rows at random, but 100 million captions would take gigabytes for
a question that is only ever asked for the ids of one shard at a time. So the 64-bit hashes of all ids lie one after
the other in a file without a name, 8 bytes a row, and a question reads it once from front to back (100 million rows:
about a second). What has the hash of an id asked for is then looked up in the rows of its shard, and the id itself
decides.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from babelclip.store.layout import split_rows

# Hashes read at once: 2 MiB stay in the cache.
_BLOCK = 1 << 18
# The first bits of a hash choose one of 4 million places of a table; a question fills at most 1 in 64 of them.
_TABLE_BITS = 22


class IdFile:
    """Finds rows by id; grows by one block of ids per shard. The file vanishes with the object or its process."""

    def __init__(self, folder: Path, ids_of_shard: Callable[[int], pa.ChunkedArray]) -> None:
        """Takes the folder for the file, on a disk with room, and what reads the ids of a shard again."""
        # Not /tmp, which may lie in memory. Unbuffered: what is written is read back at once.
        self._file = tempfile.TemporaryFile(dir=folder, prefix=".ids.", buffering=0)
        self._ids_of_shard = ids_of_shard
        self._starts = np.zeros(1, np.int64)

    def add(self, blocks: Iterable[pa.ChunkedArray]) -> None:
        """Appends the ids of new shards, one block each, as the next rows."""
        self._file.seek(0, 2)
        ends = [self._starts[-1]]
        for block in blocks:
            hashes = memoryview(_hashes(block.to_pylist()).tobytes())
            while hashes:
                hashes = hashes[self._file.write(hashes) :]
            ends.append(ends[-1] + len(block))
        self._starts = np.concatenate([self._starts, np.array(ends[1:], np.int64)])

    def find(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Returns the rows (B,) int64 of `ids` (B,), -1 where there is none."""
        rows = self._rows_of_hashes(np.unique(_hashes(ids)))
        wanted = set(ids)
        found: dict[str, int] = {}
        for number, part, places in split_rows(rows, self._starts):
            names = self._ids_of_shard(number).take(pa.array(places)).to_pylist()
            found.update((name, row) for name, row in zip(names, rows[part].tolist(), strict=True) if name in wanted)
        return np.fromiter((found.get(name, -1) for name in ids), np.int64, len(ids))

    def _rows_of_hashes(self, wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Returns the rows, ascending, whose hash is among the `wanted`, which ascend."""
        found = [np.empty(0, np.int64)]
        if len(wanted):
            table = np.zeros(1 << _TABLE_BITS, dtype=bool)
            table[_place(wanted)] = True
            buffer = bytearray(_BLOCK * 8)
            self._file.seek(0)
            start = 0
            while count := (self._file.readinto(buffer) or 0) // 8:  # of a file on disk, whole hashes
                block = np.frombuffer(buffer, np.int64, count)
                candidates = np.flatnonzero(table.take(_place(block)))
                slots = np.searchsorted(wanted, block[candidates]).clip(max=len(wanted) - 1)
                found.append(start + candidates[wanted[slots] == block[candidates]])
                start += count
        return np.concatenate(found)


def _hashes(ids: Sequence[str]) -> npt.NDArray[np.int64]:
    # Python's own hash differs from process to process, and so does this file.
    return np.fromiter(map(hash, ids), np.int64, len(ids))


def _place(hashes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    places: npt.NDArray[np.uint64] = hashes.view(np.uint64) >> np.uint64(64 - _TABLE_BITS)
    return places.view(np.int64)
