"""Folders of clip-retrieval as collections, read exactly as they are (see `faiss_folder.py`).

With vectors (`img_emb/`) search compares all of them, or, where an index lies beside, the index names candidates and
the vectors give the scores. With an index alone the scores are the index's own, as lossy as it is. A filtered search
compares every row that fulfils the filter, since indexes lose results under filters (measured: recall 0.57).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from babelclip.errors import BabelclipError, require
from babelclip.search import exact as exact_search
from babelclip.search.collection import CollectionStats, ImageSpace, UnsupportedError, bytes_below, refusing
from babelclip.search.columns import ARROW_TYPES, VECTOR, Vectors, check_columns, unit_rows, vector_array
from babelclip.search.faiss_folder import (
    Folder,
    inverse_lengths,
    metadata_schema,
    open_folder,
    open_vectors,
    read_metadata,
    score_blocks,
    stamp,
    unit_block,
    vector_blocks,
)
from babelclip.search.filters import Filter, columns_of, mask
from babelclip.search.foreign_rows import converted, foreign_columns

# Candidates that the index names for each result, where vectors give the scores; and at least so many.
_CANDIDATES, _LEAST_CANDIDATES = 4, 64
_BLOCK = 16_384


def open_faiss(url: str | Path, *, space: str = "") -> FaissCollection:
    """Returns the clip-retrieval folder at `url`, open for reading.

    Raises:
        BabelclipError: its files do not fit together, or nobody says which space its vectors are of.
        MissingExtraError: FAISS is not installed.
    """
    path = Path(url).expanduser()
    folder, index = open_folder(path)
    space = space or str(folder.facts.get("space", ""))
    if not space:
        raise BabelclipError(
            f"{path} does not say which embedding space its vectors are of, and only a model of the same space can "
            'search them: say it, open_collection(..., space="openai/ViT-B-32") or --space.'
        )
    model = str(folder.facts.get("model", "") or space)
    return FaissCollection(folder, index, ImageSpace(space, model, dim=folder.dim))


class FaissCollection:
    """See `babelclip.search.collection.Collection`; reading only. Ids are positions, or `store_id` where it is there.

    Attributes:
        name, url, fingerprint, columns, roots: see there; paths are as the metadata has them, without a root.
    """

    def __init__(self, folder: Folder, index: Any, fingerprint: ImageSpace) -> None:
        self.name, self.url, self.fingerprint = folder.path.resolve().name, str(folder.path), fingerprint
        self.roots: Mapping[str, str] = {}
        self._folder, self._index, self._version = folder, index, stamp(folder)
        self._known = foreign_columns(metadata_schema(folder), ours="format" in folder.facts)
        self.columns: Mapping[str, str] = self._known.columns
        self._cached: dict[str, pa.ChunkedArray] = {}
        self._places: dict[str, int] | None = None
        self._opened: tuple[list[npt.NDArray[Any]], list[Vectors]] | None = None
        if index is not None and not folder.vectors and _is_ivf(index):
            _ivf(index).make_direct_map()  # to read single vectors out of it

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
        """See `Collection.search`."""
        queries = unit_rows(vectors, self.fingerprint.dim, "query")
        k = exact_search.checked_k(k)
        names = check_columns(list(columns), self.columns)
        if where is not None:
            allowed = np.flatnonzero(self._mask(where))
            scores, places = exact_search.best_rows(queries, k, self._blocks(allowed))
            rows = allowed[places] if len(allowed) else places
        elif exact or self._index is None:
            scores, rows = exact_search.best_of_blocks(len(queries), k, self._all_scores(queries))
        else:
            scores, rows = self._search_index(queries, k)
        found = rows >= 0
        numbers = np.repeat(np.arange(len(queries), dtype=np.int32), found.sum(axis=1))
        table = self._rows(rows[found], names, with_vectors)
        table = table.add_column(0, "query", pa.array(numbers)).add_column(2, "score", pa.array(scores[found]))
        return exact_search.sorted_results(table)

    def _search_index(self, queries: Vectors, k: int) -> tuple[Vectors, exact_search.Rows]:
        """Returns scores and rows (Q, K), -1 where the index found less."""
        faiss = require("faiss", "faiss")
        rescored = bool(self._folder.vectors)
        asked = min(max(k * _CANDIDATES, _LEAST_CANDIDATES) if rescored else k, self._folder.count)
        scores, rows = self._index.search(queries, asked)
        if self._index.metric_type == faiss.METRIC_L2:
            scores = 1 - scores / 2  # of unit vectors
        if rescored:
            for number, row in enumerate(rows):
                good = row >= 0
                scores[number, good] = self._vectors(row[good]) @ queries[number]
                scores[number, ~good] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)

    def get(self, ids: Sequence[str], *, columns: Sequence[str] = (), with_vectors: bool = False) -> pa.Table:
        """See `Collection.get`."""
        names = check_columns(list(columns), self.columns)
        rows = [row for name in dict.fromkeys(ids) if (row := self._place(str(name))) >= 0]
        return self._rows(np.array(rows, np.int64), names, with_vectors)

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
        rows = np.arange(self._folder.count) if where is None else np.flatnonzero(self._mask(where))
        for start in range(0, len(rows), batch_rows):
            table = self._rows(rows[start : start + batch_rows], names, with_vectors).combine_chunks()
            yield from table.to_batches()

    def count(self, where: Filter | None = None) -> int:
        """See `Collection.count`."""
        return self._folder.count if where is None else int(self._mask(where).sum())

    def stats(self) -> CollectionStats:
        """See `Collection.stats`."""
        kind = "none" if self._index is None else type(self._index).__name__
        return CollectionStats("faiss", self._folder.count, index=kind, bytes=bytes_below(self._folder.path))

    def version(self) -> int:
        """Returns a number of the files that were opened; they are taken not to change until they are opened anew."""
        return self._version

    def refresh(self) -> None:
        """Does nothing: other files are seen when the folder is opened anew."""

    def close(self) -> None:
        """Gives memory back."""
        self._cached.clear()
        self._opened = None

    def fact(self, key: str) -> Any:
        """Returns None: the folder keeps nothing beside its rows."""

    upsert = refusing("rows cannot be added or changed")
    delete = refusing("rows cannot be deleted")
    add_columns = refusing("columns cannot be added")
    set_roots = refusing("sources have no folders")
    set_fact = refusing("nothing can be noted")
    build_index = refusing("no index is built")
    optimize = refusing("there is nothing to optimize")

    def at(self, version: int) -> FaissCollection:
        """Returns this collection, which has one version.

        Raises:
            BabelclipError: another version.
        """
        if version != self._version:
            raise BabelclipError(f"{self.url} has version {self._version} only, not {version}: read that one.")
        return self

    def refuse(self, what: str) -> UnsupportedError:
        """Returns the error of an operation that such a folder lacks."""
        return UnsupportedError(
            f"{self.url} is a folder of clip-retrieval, which is read as it is: {what}. Import it into a NAME.lance: "
            f"`babelclip index {self.url} --out NAME.lance`."
        )

    def _rows(self, rows: npt.NDArray[np.int64], names: Sequence[str], with_vectors: bool) -> pa.Table:
        """Returns id, `names` and, where asked for, `vector` of rows by number."""
        taken = pa.array(rows)
        ids = self._column("id").take(taken) if self._known.id else taken.cast(pa.string())
        arrays, fields = [ids], [pa.field("id", pa.string())]
        for name in names:
            kind = ARROW_TYPES[self.columns[name]]
            if name == "source_row":
                arrays.append(taken)
            else:
                there = name in self._known.sources
                arrays.append(self._column(name).take(taken) if there else pa.nulls(len(rows), kind))
            fields.append(pa.field(name, kind))
        if with_vectors:
            arrays.append(vector_array(self._vectors(rows)))
            fields.append(pa.field(VECTOR, pa.list_(pa.float32(), self.fingerprint.dim)))
        return pa.table(arrays, schema=pa.schema(fields))

    def _column(self, name: str) -> pa.ChunkedArray:
        """Returns a column of all rows; read at its first use, and kept."""
        if name not in self._cached:
            there = self._known.id if name == "id" else self._known.sources[name]
            kind = ARROW_TYPES[self.columns[name]]
            column = converted(read_metadata(self._folder, [there])[there], kind)
            self._cached[name] = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
        return self._cached[name]

    def _mask(self, where: Filter) -> npt.NDArray[np.bool_]:
        count = self._folder.count
        positions = pa.array(np.arange(count))
        arrays: dict[str, Any] = {"id": self._column("id") if self._known.id else positions.cast(pa.string())}
        for name in columns_of(where):
            if name in self._known.sources:
                arrays[name] = self._column(name)
            elif name in self.columns and name != "id":
                arrays[name] = positions if name == "source_row" else pa.nulls(count, ARROW_TYPES[self.columns[name]])
        found: npt.NDArray[np.bool_] = np.asarray(mask(where, pa.table(arrays), self.columns))
        return found

    def _place(self, name: str) -> int:
        """Returns the row of an id, -1 where there is none."""
        if not self._known.id:
            whole = name.isascii() and name.isdigit() and len(name) < 19 and str(int(name)) == name
            return int(name) if whole and int(name) < self._folder.count else -1
        if self._places is None:
            self._places = {one: row for row, one in enumerate(self._column("id").to_pylist())}
        return self._places.get(name, -1)

    def _blocks(self, rows: npt.NDArray[np.int64] | None) -> Iterator[Vectors]:
        if self._folder.vectors:
            yield from vector_blocks(self._folder, rows)
            return
        count = self._folder.count if rows is None else len(rows)
        for start in range(0, count, _BLOCK):
            end = min(start + _BLOCK, count)
            yield self._vectors(np.arange(start, end) if rows is None else rows[start:end])

    def _all_scores(self, queries: Vectors) -> Iterator[Vectors]:
        if not self._folder.vectors:
            return (queries @ block.T for block in self._blocks(None))
        if self._opened is None:
            parts = open_vectors(self._folder)
            self._opened = parts, inverse_lengths(parts)
        return score_blocks(queries, *self._opened)

    def _vectors(self, rows: npt.NDArray[np.int64]) -> Vectors:
        """Returns the vectors (n, D) of rows in any order, at length 1."""
        if not len(rows):
            return np.zeros((0, self.fingerprint.dim), np.float32)
        if self._folder.vectors:
            ascending, places = np.unique(rows, return_inverse=True)
            return np.concatenate(list(vector_blocks(self._folder, ascending)))[places]
        try:
            return unit_block(self._index.reconstruct_batch(np.ascontiguousarray(rows, np.int64)))
        except RuntimeError as error:
            raise UnsupportedError(
                f"{self.url}: its index ({type(self._index).__name__}) does not give vectors back, which a filtered or "
                "exact search needs. Put img_emb/ beside it."
            ) from error


def _is_ivf(index: Any) -> bool:
    return _ivf(index) is not None


def _ivf(index: Any) -> Any:
    return require("faiss", "faiss").try_extract_index_ivf(index)
