"""Captions that occur twice: same text, same language, same source and picture, under two ids.

What was seen is kept as 8 bytes a caption, so 100 million take 0.8 GB (1.6 GB for a moment, where sorted runs are
joined). Two different captions share those 8 bytes with a probability of 1 in 3,700 for 100 million of them, and then
the second is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from babelclip.data.captions import Captions

DUPLICATE = "duplicate row"


def without_duplicates(parts: Iterable[Captions]) -> Iterator[Captions]:
    """Yields `parts` without the captions that occurred before, which are counted; the first one stays."""
    seen = _Seen()
    for part in parts:
        keys = _keys(part)
        _, first = np.unique(keys, return_index=True)
        keep = np.zeros(len(keys), dtype=bool)
        keep[first] = True
        keep &= ~seen.has(keys)
        seen.add(keys[keep])
        left_out = len(keys) - int(keep.sum())
        if not left_out:
            yield part
            continue
        skipped = {**part.skipped, DUPLICATE: part.skipped.get(DUPLICATE, 0) + left_out}
        yield Captions(part.table.filter(pa.array(keep)), skipped)


def _keys(part: Captions) -> npt.NDArray[np.uint64]:
    columns = [part.table[name].to_pylist() for name in ("text", "lang", "source_id", "image")]
    digests = [
        # Length before each value: no two rows run together to the same bytes.
        hashlib.blake2b(
            "".join(f"{len(v)}:{v}" if v is not None else "-" for v in row).encode(), digest_size=8
        ).digest()
        for row in zip(*columns, strict=True)
    ]
    return np.frombuffer(b"".join(digests), np.uint64)


class _Seen:
    """A growing set of numbers, as sorted runs, each at least twice as long as the next."""

    def __init__(self) -> None:
        self._runs: list[npt.NDArray[np.uint64]] = []

    def has(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Returns which of `keys` are in the set."""
        found = np.zeros(len(keys), dtype=bool)
        for run in self._runs:
            places = np.searchsorted(run, keys)
            found |= run[np.minimum(places, len(run) - 1)] == keys
        return found

    def add(self, keys: npt.NDArray[np.uint64]) -> None:
        """Takes `keys`, which are distinct and not in the set."""
        if not len(keys):
            return
        self._runs.append(np.sort(keys))
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]))
