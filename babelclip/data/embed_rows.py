"""What a store keeps beside the vectors of captions, so that texts are compared and encoded once.

| column | meaning |
|---|---|
| `lang` | language of the text, BCP-47 |
| `source` | name of the file that the row came from |
| `text_hash` | BLAKE2b-128 of the text, hexadecimal; with its language where the model reads that |
| `repeat` | whether an earlier row has the same text, from which the vector was taken |

`KnownTexts` finds the row of a text among all rows, in memory that does not grow with them. `text_hash` also proves
that an id still names the text that its vector was made from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from babelclip.data.captions import Captions
from babelclip.errors import BabelclipError, shown
from babelclip.store import EmbeddingStore, layout
from babelclip.store.id_file import IdFile

TEXT_HASH = "text_hash"
REPEAT = "repeat"
SOURCE = "source"


def text_hash(text: str, lang: str = "") -> str:
    """Returns what equal texts share: 128 bits as 32 hexadecimal digits.

    Args:
        text: the text, as it is.
        lang: its language, for a model whose first token names it: the vector then depends on it.
    """
    content = f"{text}\0{lang}" if lang else text
    return blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def row_columns(langs: list[str], hashes: list[str], repeats: list[bool], source: str) -> dict[str, list[Any]]:
    """Returns the columns of the N rows of a shard beside `id`, as the table above says."""
    columns: dict[str, list[Any]] = {"lang": langs, SOURCE: [source or None] * len(langs)}
    return {**columns, TEXT_HASH: hashes, REPEAT: repeats}


class KnownTexts:
    """Finds the first row of a store that has a text; grows by one shard at a time."""

    def __init__(self, store: EmbeddingStore, later: Callable[[int], pa.ChunkedArray] | None = None) -> None:
        """Reads the hashes of the texts of a store that `embed_captions` wrote, open for appending.

        Args:
            store: whose shards come first.
            later: reads what `add` was given for shards that are not in the store yet, counted from 0.
        """
        there = shard_count(store)
        path = store.path

        def first(number: int) -> pa.ChunkedArray:
            return later(number - there) if later is not None and number >= there else _first_hashes(path, number)

        self._file = IdFile(path, first)
        self._file.add(map(first, range(there)))

    def find(self, hashes: Sequence[str]) -> npt.NDArray[np.int64]:
        """Returns the rows (B,) int64 of `hashes` (B,), -1 where no row has the text."""
        return self._file.find(hashes)

    def add(self, hashes: Sequence[str], repeats: Sequence[bool]) -> None:
        """Takes the columns of the shard that was appended."""
        self._file.add([only_first(pa.chunked_array([pa.array(hashes)]), pa.chunked_array([pa.array(repeats)]))])


class Row(NamedTuple):
    """A caption that is to have a vector."""

    id: str
    text: str
    lang: str
    hash: str


class Sieve:
    """Finds what a store lacks of captions that come in parts; ids that come twice, or name another text."""

    def __init__(self, store: EmbeddingStore, source: str, with_language: bool) -> None:
        check_columns(store, TEXT_HASH)
        self._store, self._source, self._with_language = store, source, with_language
        self._there_before = len(store)
        # Captions usually come as they did in the run before: rows of the store gone through in its own order.
        self._passed = 0

    def lacking(self, part: Captions) -> list[Row]:
        """Returns the captions that the store lacks.

        Raises:
            BabelclipError: an id was in this or an earlier part already, or has the vector of another text.
        """
        rows = [
            Row(name, text, lang, text_hash(text, lang if self._with_language else ""))
            for name, text, lang in zip(part.ids, part.texts, part.langs, strict=True)
        ]
        here = min(len(rows), self._there_before - self._passed)
        if here > 0:
            places = np.arange(self._passed, self._passed + here)
            if self._store.ids_between(self._passed, self._passed + here) == [row.id for row in rows[:here]]:
                self._check_texts(rows[:here], places)
                self._passed += here
                rows = rows[here:]
        if not rows:
            return []
        found = self._store.find([row.id for row in rows])
        # Other rows of the store may be of an earlier file, or of another order of this one.
        again = (found >= self._there_before) | ((found >= 0) & (found < self._passed))
        refuse_twice([rows[place].id for place in np.flatnonzero(again).tolist()])
        known = np.flatnonzero(found >= 0)
        self._check_texts([rows[place] for place in known.tolist()], found[known])
        return [rows[place] for place in np.flatnonzero(found < 0).tolist()]

    def _check_texts(self, rows: list[Row], places: np.ndarray) -> None:
        """Raises where the vector at one of `places` was made from another text than the caption of the same id has."""
        if not rows:
            return
        stored = values_of(self._store, places, TEXT_HASH)
        other = [number for number, row in enumerate(rows) if row.hash != stored[number]]
        if other:
            row, place = rows[other[0]], places[other[0] : other[0] + 1]
            origin = values_of(self._store, place, SOURCE)[0]
            raise BabelclipError(
                f"{len(other)} of {len(rows)} ids that {self._store.path} has stand for other texts in "
                f"{self._source or 'these captions'}: first id {row.id!r}, here {shown(row.text, 60)!r}, while row "
                f"{int(place[0])} of the store was made from another text{f' of {origin}' if origin else ''}. An id "
                "names one text, for training finds targets by it (rows of a file without a column id are numbered "
                "from 0): give the captions ids of their own, or embed them into a new folder."
            )


def refuse_twice(twice: list[str]) -> None:
    """Raises, naming them, where ids occur twice."""
    if twice:
        raise BabelclipError(
            f"{len(twice)} ids occur more than once in the captions, first {twice[:3]}. An id names one caption: give "
            "each its own, for example with the language at its end, or leave the column out; then run the same again, "
            "which goes on where it stopped."
        )


def values_of(store: EmbeddingStore, rows: npt.NDArray[np.int64], column: str) -> list[Any]:
    """Returns the values of a column at `rows` (B,), in their order; only the shards that hold them are read."""
    starts = np.cumsum([0, *(shard.count for shard in layout.read_manifest(store.path)[1])], dtype=np.int64)
    order = np.argsort(rows, kind="stable")
    values: list[Any] = [None] * len(rows)
    for number, part, places in layout.split_rows(rows[order], starts):
        taken = _read(store.path, number, [column])[column].take(pa.array(places)).to_pylist()
        for place, value in zip(order[part].tolist(), taken, strict=True):
            values[place] = value
    return values


def check_columns(store: EmbeddingStore, column: str) -> None:
    """Does nothing where the rows of `store` have `column`, or there are none.

    Raises:
        BabelclipError: they lack it: an import, or written by other means than `babelclip embed`.
    """
    if len(store) and column not in pq.read_schema(layout.rows_file(store.path, 0)).names:
        raise BabelclipError(
            f"{store.path} has {len(store)} rows without the column {column!r}, by which `babelclip embed` knows what "
            "a vector was made from; it was imported, or made by an older babelclip. It can be read but not added to: "
            "embed into a new folder, and join the two by `babelclip store merge` where they belong together."
        )


def shard_count(store: EmbeddingStore) -> int:
    """Returns the number of shards of a store as its manifest has them."""
    return len(layout.read_manifest(store.path)[1])


def _first_hashes(path: Path, number: int) -> pa.ChunkedArray:
    table = _read(path, number, [TEXT_HASH, REPEAT])
    return only_first(table[TEXT_HASH], table[REPEAT])


def only_first(hashes: pa.ChunkedArray, repeats: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns the hashes (N,) of a shard, null where an earlier row has the text."""
    # A caption that a million rows share would otherwise be a million rows to look at, for each question.
    return pc.if_else(repeats, pa.scalar(None, pa.string()), hashes)


def _read(path: Path, number: int, columns: list[str]) -> pa.Table:
    return pq.ParquetFile(layout.rows_file(path, number)).read(columns=columns)
