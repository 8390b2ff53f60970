"""What a collection has already, and what became of it: new, changed, told anew, or the same.

Memory: 25 bytes a row of the collection. Ids and facts are kept as 64-bit hashes; two ids of one hash, some 1 in 10^4
in a collection of 10^8, would make a run take a new picture for a changed one, and write it.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from babelclip.search.collection import Collection
from babelclip.search.index_sources import Found

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
_MICROSECOND = datetime.timedelta(microseconds=1)

NEW, CHANGED, TOLD, SAME = "new", "changed", "told", "same"
Hashes = npt.NDArray[np.uint64]


class Known:
    """The rows of a collection by id: what their files were, and what was told of them.

    `own` are the metadata columns that count.
    """

    def __init__(self, collection: Collection, own: Sequence[str]) -> None:
        self._own = tuple(own)
        parts: list[tuple[Hashes, Hashes, Hashes]] = []
        for batch in collection.scan(columns=["bytes", "modified", "caption", "lang", *own]):
            rows = batch.to_pylist()
            parts.append(
                (
                    _hashes(row["id"] for row in rows),
                    _hashes(_file_facts(row["bytes"], row["modified"]) for row in rows),
                    _hashes(self._told(row) for row in rows),
                )
            )
        empty = np.zeros(0, np.uint64)
        ids, files, told = (np.concatenate(column) for column in zip(*parts, strict=True)) if parts else (empty,) * 3
        order = np.argsort(ids)
        self._ids, self._files, self._texts = ids[order], files[order], told[order]
        self._seen = np.zeros(len(ids), bool)

    def __len__(self) -> int:
        return len(self._ids)

    def compare(self, found: Sequence[Found]) -> list[str]:
        """Returns NEW, CHANGED, TOLD or SAME for each picture, and notes that it is there.

        TOLD: the file is the same, and its caption or metadata are others. What a source does not say is not compared:
        a run without the table of captions takes none away.
        """
        places = self._places([item.id for item in found])
        kinds = []
        for item, place in zip(found, places.tolist(), strict=True):
            if place < 0:
                kinds.append(NEW)
                continue
            self._seen[place] = True
            told = {"caption": item.caption, "lang": item.lang, **item.values}
            if self._files[place] != _hash(_file_facts(item.size, at(item.modified))):
                kinds.append(CHANGED)
            elif any(value is not None for value in told.values()) and self._texts[place] != _hash(self._told(told)):
                kinds.append(TOLD)
            else:
                kinds.append(SAME)
        return kinds

    def has(self, ids: Sequence[str]) -> list[bool]:
        """Returns which of `ids` are there, and notes that they are in the source."""
        places = self._places(ids)
        self._seen[places[places >= 0]] = True
        return [place >= 0 for place in places.tolist()]

    def unseen(self, ids: Sequence[str]) -> list[str]:
        """Returns those of `ids`, rows of the collection, that no call of `compare` or `has` has met."""
        places = self._places(ids)
        return [name for name, place in zip(ids, places.tolist(), strict=True) if place >= 0 and not self._seen[place]]

    def _places(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        asked = _hashes(ids)
        if not len(self._ids):
            return np.full(len(asked), -1, np.int64)
        places = np.minimum(np.searchsorted(self._ids, asked), len(self._ids) - 1)
        return np.where(self._ids[places] == asked, places, -1).astype(np.int64)

    def _told(self, row: Mapping[str, Any]) -> str:
        return repr([_plain(row.get(name)) for name in ("caption", "lang", *self._own)])


def at(microseconds: int) -> datetime.datetime:
    """Returns the time so many microseconds after 1970, UTC."""
    return _EPOCH + microseconds * _MICROSECOND


def _file_facts(size: int | None, modified: datetime.datetime | None) -> str:
    return f"{size}|{None if modified is None else (modified - _EPOCH) // _MICROSECOND}"


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.datetime):
        return (value - _EPOCH) // _MICROSECOND
    return value + 0.0 if isinstance(value, float) else value


def _hashes(texts: Iterable[str]) -> Hashes:
    return np.array([_hash(text) for text in texts], np.uint64)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
