"""A version of a collection in memory: ids, vectors and all columns but those of bytes, so that no engine is asked.

Where rows are few, comparing all vectors in one matrix product takes less than an engine takes to understand the
question, and finds everything. Bytes (thumbnails) stay with the collection. What is read is one version: a copy stays
what it is, and whoever wants what others have written since makes another.

Entry points: `copied`, `MemoryCollection`, `Finder`. Letters: N rows, Q queries, K results, D embed_dim.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from babelclip.search import exact as exact_search
from babelclip.search.collection import (
    Collection,
    CollectionStats,
    UnsupportedError,
    refusing,
)
from babelclip.search.columns import ARROW_TYPES, VECTOR, Vectors, check_columns, unit_rows, vector_array, vectors_of
from babelclip.search.exact import Rows
from babelclip.search.filters import Filter, columns_of, mask
from babelclip.search.near_pairs import have_neighbours

_BLOCK = 16_384
# Rows of which columns are kept as lists besides, once they are asked for.
_LISTED = 20_000


class Finder(Protocol):
    """The vectors (N, D) of a copy, by row number.

    Attributes:
        kind: of its index, `none` where all vectors are compared.
        backend: what `CollectionStats.backend` says.
    """

    kind: str
    backend: str

    def best(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """Returns scores (Q, K) float32 descending and rows (Q, K), -1 where fewer are found.

        Args:
            queries: (Q, D) of length 1.
            k: results for each query; K is less where there are fewer rows.
        """

    def best_of(self, queries: Vectors, k: int, rows: Rows) -> tuple[Vectors, Rows] | None:
        """Returns the best among ascending `rows` alone, exactly; None where the collection itself is quicker."""

    def vectors(self, rows: Rows) -> Vectors:
        """Returns the vectors (n, D) float32 of rows."""


class Matrix:
    """All vectors as one float32 matrix (N, D): every row is compared."""

    kind, backend = "none", "memory"

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors

    def best(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """See `Finder.best`."""
        return exact_search.best_scores(queries @ self._vectors.T, k)

    def best_of(self, queries: Vectors, k: int, rows: Rows) -> tuple[Vectors, Rows]:
        """See `Finder.best_of`."""
        if 2 * len(rows) > len(self._vectors):  # a product with all rows costs less than a copy of half of them
            scores, places = exact_search.best_scores((queries @ self._vectors.T)[:, rows], k)
        else:
            scores, places = exact_search.best_scores(queries @ self._vectors[rows].T, k)
        return scores, rows[places]

    def vectors(self, rows: Rows) -> Vectors:
        """See `Finder.vectors`."""
        return self._vectors[rows]


def copied(collection: Collection, *, most_rows: int, most_bytes: int) -> MemoryCollection | None:
    """Returns a version of a collection in memory; None where it is larger than it may be.

    Its rows come in the order of their ids: of equal scores the same ones are found first then, however many are asked
    for, so that a page begins where the one before ended.

    Args:
        collection: a version that stays what it is (`Collection.at`).
        most_rows: rows that are compared one by one.
        most_bytes: of vectors and columns together.
    """
    rows, dim = collection.count(), collection.fingerprint.dim
    if rows > most_rows or 4 * rows * dim > most_bytes:
        return None
    vectors = np.empty((rows, dim), np.float32)
    batches, start = [], 0
    left = most_bytes - vectors.nbytes
    for batch in collection.scan(columns=light_columns(collection), with_vectors=True, batch_rows=_BLOCK):
        vectors[start : start + len(batch)] = vectors_of(batch[VECTOR])
        start += len(batch)
        batches.append(batch.drop_columns([VECTOR]))
        left -= batches[-1].nbytes
        if left < 0:
            return None
    table = table_of(collection, batches)
    order = pc.sort_indices(table["id"]).to_numpy()
    return MemoryCollection(collection, table.take(order), Matrix(vectors[:start][order]))


def light_columns(collection: Collection) -> list[str]:
    """Returns the columns that a copy holds: all but those of bytes."""
    return [name for name, kind in collection.columns.items() if kind != "bytes" and name != "id"]


def table_of(collection: Collection, batches: Sequence[pa.RecordBatch]) -> pa.Table:
    """Returns scanned batches (id, then `light_columns`) as one table whose columns have one part each."""
    names = ["id", *light_columns(collection)]
    schema = pa.schema([pa.field(name, ARROW_TYPES[collection.columns[name]]) for name in names])
    return pa.Table.from_batches([batch.cast(schema) for batch in batches], schema).combine_chunks()


class MemoryCollection:
    """See `babelclip.search.collection.Collection`; reading only.

    Attributes:
        name, url, fingerprint, columns: of the collection that it is a copy of.
    """

    def __init__(self, base: Collection, table: pa.Table, finder: Finder) -> None:
        """Remembers the copy.

        Args:
            base: the collection, at the version that was copied.
            table: id and `light_columns` of all rows (N), see `table_of`.
            finder: their vectors, in the same order.
        """
        self._base, self._finder = base, finder
        self.name, self.url, self.fingerprint = base.name, base.url, base.fingerprint
        self.columns: Mapping[str, str] = base.columns
        parts = [column.combine_chunks() for column in table.columns]
        self._columns = pa.record_batch(parts, schema=table.schema)
        self._names = frozenset(table.schema.names)
        self._rows, self._version = len(table), base.version()
        self._places: dict[str, int] | None = None
        self._lists: dict[str, list[Any]] = {}
        self._twins: npt.NDArray[np.bool_] | None = None

    @property
    def numbers(self) -> int:
        """Numbers (N x D) that a search reads where it compares all rows."""
        return self._rows * self.fingerprint.dim

    @property
    def base(self) -> Collection:
        """The collection at this version, without the copy."""
        return self._base

    @property
    def roots(self) -> Mapping[str, str]:
        """Name of a source -> its folder."""
        return self._base.roots

    def search(
        self,
        vectors: npt.ArrayLike,
        k: int,
        *,
        where: Filter | None = None,
        columns: Sequence[str] = (),
        with_vectors: bool = False,
        exact: bool = False,
    ) -> pa.Table:
        """See `Collection.search`. What the copy does not hold, the collection itself is asked."""
        names = check_columns(list(columns), self.columns)
        queries = unit_rows(vectors, self.fingerprint.dim, "query")
        k = exact_search.checked_k(k)
        found = None
        if self._holds(names, where) and not (exact and self._finder.kind != "none"):
            found = self._best(queries, k, where)
        if found is None:
            return self._base.search(vectors, k, where=where, columns=columns, with_vectors=with_vectors, exact=exact)
        scores, rows = found
        there = rows >= 0
        numbers = np.repeat(np.arange(len(queries), dtype=np.int32), there.sum(axis=1))
        table = self._taken(rows[there], names, with_vectors)
        table = table.add_column(0, "query", pa.array(numbers)).add_column(2, "score", pa.array(scores[there]))
        # Results are in order already; only those of equal score may need another one.
        tied = bool((scores[:, 1:] == scores[:, :-1]).any())
        return exact_search.sorted_results(table) if tied else table

    def _best(self, queries: Vectors, k: int, where: Filter | None) -> tuple[Vectors, Rows] | None:
        if where is None:
            return self._finder.best(queries, k)
        return self._finder.best_of(queries, k, np.flatnonzero(self._mask(where)))

    def nearest(
        self, vector: npt.ArrayLike, k: int, where: Filter | None, columns: Sequence[str]
    ) -> tuple[npt.NDArray[np.float32], Rows] | None:
        """Returns what `search` finds for one vector (D,) as scores (K,) and row numbers (K,), in the same order.

        None where `values` and `vectors` cannot give the rows' content: many rows, or columns that are not here.
        """
        names = check_columns(list(columns), self.columns)
        if not self._listed or not self._holds(names, where):
            return None
        found = self._best(unit_rows(vector, self.fingerprint.dim, "query"), exact_search.checked_k(k), where)
        if found is None:
            return None
        return found[0][0], found[1][0]

    @property
    def _listed(self) -> bool:
        """Whether `nearest` answers: rows are few, and all of them are compared."""
        return self._rows <= _LISTED and self._finder.kind == "none"

    def values(self, column: str) -> list[Any]:
        """Returns a column as a list (N), made when it is first asked for."""
        kept = self._lists.get(column)
        if kept is None:
            kept = self._lists[column] = self._columns[column].to_pylist()
        return kept

    def vectors(self, rows: Rows) -> Vectors:
        """Returns the vectors (n, D) of rows by number."""
        return self._finder.vectors(rows)

    def note_twins(self, columns: Sequence[str], least: float) -> None:
        """Notes for `twins` which rows have near duplicates: N x N cosines once, which no search need compare again.

        Does nothing where `nearest` does not answer, since nobody asks then.

        Args:
            columns: rows with equal values in one of them are near duplicates; those that are not here are left out.
            least: cosine of vectors that are.
        """
        if not self._listed:
            return
        twins = have_neighbours(self.vectors(np.arange(self._rows)), least)
        for name in self._names.intersection(columns):
            values = self.values(name)
            counts = Counter(value for value in values if value)
            twins |= np.fromiter((counts[value] > 1 for value in values), np.bool_, self._rows)
        self._twins = twins

    def twins(self, rows: Rows) -> list[int] | None:
        """Returns the places in `rows` of those that may have near duplicates; None where that was not noted."""
        return None if self._twins is None else np.flatnonzero(self._twins[rows]).tolist()

    def get(self, ids: Sequence[str], *, columns: Sequence[str] = (), with_vectors: bool = False) -> pa.Table:
        """See `Collection.get`."""
        names = check_columns(list(columns), self.columns)
        if not self._holds(names, None) or (with_vectors and self._finder.kind != "none"):
            return self._base.get(ids, columns=columns, with_vectors=with_vectors)
        if self._places is None:
            self._places = {name: row for row, name in enumerate(self.values("id"))}
        rows = [self._places[name] for name in dict.fromkeys(ids) if name in self._places]
        return self._taken(np.array(rows, np.int64), names, with_vectors)

    def scan(
        self,
        *,
        columns: Sequence[str] = (),
        where: Filter | None = None,
        with_vectors: bool = False,
        batch_rows: int = 4096,
    ) -> Iterator[pa.RecordBatch]:
        """See `Collection.scan`."""
        names = check_columns(list(columns), self.columns)
        if not self._holds(names, where) or (with_vectors and self._finder.kind != "none"):
            yield from self._base.scan(columns=columns, where=where, with_vectors=with_vectors, batch_rows=batch_rows)
            return
        rows = np.arange(self._rows) if where is None else np.flatnonzero(self._mask(where))
        for start in range(0, len(rows), batch_rows):
            yield from self._taken(rows[start : start + batch_rows], names, with_vectors).to_batches()

    def count(self, where: Filter | None = None) -> int:
        """See `Collection.count`."""
        if where is None:
            return self._rows
        return int(self._mask(where).sum()) if self._holds([], where) else self._base.count(where)

    def stats(self) -> CollectionStats:
        """See `Collection.stats`."""
        known = self._base.stats()
        return CollectionStats(
            self._finder.backend, known.rows, 0, self._finder.kind, 0, known.bytes, known.versions, known.report
        )

    def version(self) -> int:
        """Returns the version that this is a copy of."""
        return self._version

    def at(self, version: int) -> Collection:
        """Returns a snapshot: this one, or, of another version, of the collection without a copy."""
        return self if version == self._version else self._base.at(version)

    def refresh(self) -> None:
        """Does nothing: a copy stays what it is."""

    def close(self) -> None:
        """Closes the collection; memory goes with the last who holds this."""
        self._base.close()

    def fact(self, key: str) -> Any:
        """See `Collection.fact`."""
        return self._base.fact(key)

    upsert = refusing("rows cannot be added or changed")
    delete = refusing("rows cannot be deleted")
    add_columns = refusing("columns cannot be added")
    set_roots = refusing("folders of sources cannot be changed")
    set_fact = refusing("nothing can be noted")
    build_index = refusing("no index is built")
    optimize = refusing("nothing is optimized")

    def refuse(self, what: str) -> UnsupportedError:
        """Returns the error of an operation that only the collection itself has."""
        return UnsupportedError(
            f"this is a copy of {self.url} in memory, for reading, in which {what}: open {self.url} itself with "
            "open_collection(..., write=True), then make another copy."
        )

    def _holds(self, names: Sequence[str], where: Filter | None) -> bool:
        """Returns whether these columns, and those of a filter, are in memory; a filter's unknown ones are an error."""
        needed = {*names, *(columns_of(where) if where is not None else ())}
        return all(name in self._names or name not in self.columns for name in needed)

    def _mask(self, where: Filter) -> npt.NDArray[np.bool_]:
        named = self._columns.select(sorted({"id", *columns_of(where)} & self._names))
        found: npt.NDArray[np.bool_] = np.asarray(mask(where, pa.Table.from_batches([named]), self.columns))
        return found

    def _taken(self, rows: Rows, names: Sequence[str], with_vectors: bool) -> pa.Table:
        """Returns id, `names` and, where asked for, `vector` of rows by number, in their order."""
        table = pa.Table.from_batches([self._columns.select(["id", *names]).take(pa.array(rows))])
        return table.append_column(VECTOR, vector_array(self._finder.vectors(rows))) if with_vectors else table
