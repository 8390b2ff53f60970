"""Fast mode: the vectors of a collection in memory, in a FAISS index that is a disposable copy.

An HNSW graph over bytes (SQ8) names candidates, and half-precision vectors beside it put them in order: SQ8 alone
stays below a recall of 0.95. The copy is kept in a folder so that a restart does not build it again; it is written
atomically, with checksums, and is made anew where it is missing, damaged or of another version. Rows, columns and
filters stay with the collection that it was made of.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from babelclip.errors import BabelclipError, require
from babelclip.files import atomic_path, cache_folder, read_json, sha256, write_json
from babelclip.search import exact as exact_search
from babelclip.search.collection import (
    Collection,
    CollectionStats,
    ImageSpace,
    IndexReport,
    IndexSpec,
    UnsupportedError,
)
from babelclip.search.columns import VECTOR, check_columns, unit_rows, vector_array, vectors_of
from babelclip.search.filters import Filter

# Below it comparing all vectors in memory is as fast.
_GRAPH_FROM = 10_000
_LINKS, _BUILD_EFFORT, _EFFORT, _CANDIDATES = 32, 80, 64, 4
_INDEX, _IDS, _FACTS = "fast.index", "fast.ids.arrow", "fast.json"
_BLOCK = 16_384
# Vectors that the range of a byte is taken from.
_SAMPLE = 20_000


def open_fast(collection: Collection, *, folder: Path | str | None = None, effort: int = _EFFORT) -> FastCollection:
    """Returns the fast mode of a collection, from the copy in `folder` or built now.

    Args:
        collection: any; it stays open, and gives rows and filtered searches.
        folder: where the copy is kept; None takes a folder in the cache.
        effort: candidates that the graph looks at (efSearch): more find more, and take longer.

    Raises:
        BabelclipError: the collection is empty.
        MissingExtraError: FAISS is not installed.
    """
    if folder is None:
        key = os.path.abspath(collection.url) if "://" not in collection.url else collection.url
        folder = cache_folder() / "fast" / hashlib.sha256(key.encode()).hexdigest()[:20]
    return FastCollection(collection, Path(folder), effort)


class FastCollection:
    """See `babelclip.search.collection.Collection`; reading only. Made by `open_fast`.

    Attributes:
        name, url, fingerprint, columns, roots: of the collection that it was made of.
    """

    def __init__(self, base: Collection, folder: Path, effort: int) -> None:
        self._live, self._folder, self._effort = base, folder, effort
        self._index: Any = None
        self._load()

    @property
    def name(self) -> str:
        """Name of the collection."""
        return self._base.name

    @property
    def url(self) -> str:
        """Address of the collection."""
        return self._base.url

    @property
    def fingerprint(self) -> ImageSpace:
        """What made the vectors."""
        return self._base.fingerprint

    @property
    def columns(self) -> Mapping[str, str]:
        """Name -> type of all columns but the vector."""
        return self._base.columns

    @property
    def roots(self) -> Mapping[str, str]:
        """Name of a source -> its folder."""
        return self._live.roots

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
        """See `Collection.search`. With a filter, or `exact`, the collection itself is asked."""
        if where is not None or exact:
            return self._base.search(vectors, k, where=where, columns=columns, with_vectors=with_vectors, exact=exact)
        queries = unit_rows(vectors, self.fingerprint.dim, "query")
        k = exact_search.checked_k(k)
        names = check_columns(list(columns), self.columns)
        scores, rows = self._index.search(queries, min(k, len(self._ids)), params=self._params(k))
        found = rows >= 0
        numbers = np.repeat(np.arange(len(queries), dtype=np.int32), found.sum(axis=1))
        ids = self._ids.take(pa.array(rows[found]))
        table = pa.table([pa.array(numbers), ids, pa.array(scores[found])], schema=exact_search.result_schema([]))
        if names or with_vectors:
            table = self._with_columns(table, names, with_vectors)
        # The index gives results in order; only those of equal score may need another one.
        tied = bool((scores[:, 1:] == scores[:, :-1]).any())
        return exact_search.sorted_results(table) if tied else table

    def _with_columns(self, table: pa.Table, names: list[str], with_vectors: bool) -> pa.Table:
        if names:
            unique = table["id"].unique()
            known = self._base.get(unique.to_pylist(), columns=names)
            places = pc.index_in(table["id"], known["id"].combine_chunks())
            for name in names:
                table = table.append_column(known.schema.field(name), known[name].take(places))
        if with_vectors:
            vectors = self._base.get(table["id"].to_pylist(), with_vectors=True)
            places = pc.index_in(table["id"], vectors["id"].combine_chunks())
            table = table.append_column(VECTOR, vector_array(vectors_of(vectors[VECTOR].take(places))))
        return table

    def get(self, ids: Sequence[str], *, columns: Sequence[str] = (), with_vectors: bool = False) -> pa.Table:
        """See `Collection.get`."""
        return self._base.get(ids, columns=columns, with_vectors=with_vectors)

    def scan(
        self,
        *,
        columns: Sequence[str] = (),
        where: Filter | None = None,
        with_vectors: bool = False,
        batch_rows: int = 4096,
    ) -> Iterator[pa.RecordBatch]:
        """See `Collection.scan`."""
        return self._base.scan(columns=columns, where=where, with_vectors=with_vectors, batch_rows=batch_rows)

    def count(self, where: Filter | None = None) -> int:
        """See `Collection.count`."""
        return self._base.count(where)

    def stats(self) -> CollectionStats:
        """See `Collection.stats`."""
        known = self._base.stats()
        kind = "hnsw_sq8+fp16" if len(self._ids) >= _GRAPH_FROM else "flat"
        return replace(known, backend="fast", index=kind, unindexed=0, deltas=1, advice="")

    def version(self) -> int:
        """Returns the version of the collection that the copy was made of."""
        return self._version

    def at(self, version: int) -> Collection:
        """Returns a snapshot: this one, or, of another version, of the collection without fast mode."""
        return self if version == self._version else self._live.at(version)

    def refresh(self) -> None:
        """Makes the copy anew where the collection has changed since."""
        self._live.refresh()
        if self._live.version() != self._version:
            self._load()

    def close(self) -> None:
        """Gives memory back; the copy on disk stays."""
        self._index = None
        self._live.close()

    def fact(self, key: str) -> Any:
        """See `Collection.fact`."""
        return self._live.fact(key)

    def upsert(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Raises an error."""
        self._refuse("add rows")

    def delete(self, *, ids: Sequence[str] | None = None, where: Filter | None = None) -> int:
        """Raises an error."""
        self._refuse("delete rows")

    def add_columns(self, columns: Mapping[str, str]) -> None:
        """Raises an error."""
        self._refuse("add columns")

    def set_roots(self, roots: Mapping[str, str]) -> None:
        """Raises an error."""
        self._refuse("change roots")

    def set_fact(self, key: str, value: Any) -> None:
        """Raises an error."""
        self._refuse("note facts")

    def build_index(self, spec: IndexSpec | None = None) -> IndexReport:
        """Raises an error."""
        self._refuse("build an index")

    def optimize(self, *, keep_versions_for: float = 3600.0) -> None:
        """Raises an error."""
        self._refuse("optimize")

    def _refuse(self, what: str) -> NoReturn:
        raise UnsupportedError(
            f"this is the fast mode of {self.url}, a copy for reading: to {what}, open {self.url} itself with "
            "open_collection(..., write=True), then refresh() here."
        )

    def _params(self, k: int) -> Any:
        """Returns search parameters of this query: no state is shared between threads."""
        faiss = require("faiss", "faiss")
        if len(self._ids) < _GRAPH_FROM:
            return None
        inner = faiss.SearchParametersHNSW(efSearch=max(self._effort, _CANDIDATES * k))
        return faiss.IndexRefineSearchParameters(k_factor=float(_CANDIDATES), base_index_params=inner)

    def _load(self) -> None:
        """Takes the copy on disk where it is whole and of this version, and makes it otherwise."""
        self._version = self._live.version()
        try:
            self._base: Collection = self._live.at(self._version)
        except UnsupportedError:  # a backend without versions
            self._base = self._live
        known = self._read()
        self._index, self._ids = self._build() if known is None else known

    def _read(self) -> tuple[Any, pa.Array] | None:
        faiss = require("faiss", "faiss")
        try:
            facts = read_json(self._folder / _FACTS)
            wanted = self._facts()
            if not isinstance(facts, dict) or any(facts.get(name) != value for name, value in wanted.items()):
                return None
            if any(sha256(self._folder / name) != facts["sha256"][name] for name in (_INDEX, _IDS)):
                return None
            ids = pa.ipc.open_file(pa.memory_map(str(self._folder / _IDS))).read_all()["id"].combine_chunks()
            return faiss.read_index(str(self._folder / _INDEX)), ids
        except (BabelclipError, OSError, KeyError, TypeError, RuntimeError, pa.ArrowException):
            return None  # a copy is no data: it is made anew

    def _facts(self) -> dict[str, Any]:
        settings = [_LINKS, _BUILD_EFFORT, self.fingerprint.dim]
        return {"format": "babelclip-fast", "url": self.url, "version": self._version, "settings": settings}

    def _build(self) -> tuple[Any, pa.Array]:
        faiss = require("faiss", "faiss")
        rows, dim = self._base.count(), self.fingerprint.dim
        if not rows:
            raise BabelclipError(f"{self.url} is empty: index pictures before serving it in fast mode.")
        if rows < _GRAPH_FROM:
            index: Any = faiss.IndexFlatIP(dim)
        else:
            graph = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_8bit, _LINKS, faiss.METRIC_INNER_PRODUCT)
            graph.hnsw.efConstruction = _BUILD_EFFORT
            exact = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
            index = faiss.IndexRefine(graph, exact)
        if not index.is_trained:
            index.train(self._sample(rows))
        ids: list[pa.Array] = []
        for batch in self._base.scan(with_vectors=True, batch_rows=_BLOCK):
            index.add(vectors_of(batch[VECTOR]))
            ids.append(batch["id"])
        joined = pa.concat_arrays(ids)
        self._write(index, joined)
        return index, joined

    def _sample(self, rows: int) -> npt.NDArray[np.float32]:
        """Returns vectors from everywhere in the collection: the first ones may all be of one kind."""
        step = max(1, rows // _SAMPLE)
        batches = self._base.scan(with_vectors=True, batch_rows=_BLOCK)
        return np.concatenate([vectors_of(batch[VECTOR])[::step] for batch in batches])

    def _write(self, index: Any, ids: pa.Array) -> None:
        faiss = require("faiss", "faiss")
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / _FACTS).unlink(missing_ok=True)  # nothing vouches for the files while they change
        with atomic_path(self._folder / _INDEX) as temporary:
            faiss.write_index(index, str(temporary))
        table = pa.table({"id": ids})
        with atomic_path(self._folder / _IDS) as temporary, pa.ipc.new_file(str(temporary), table.schema) as writer:
            writer.write_table(table)
        sums = {name: sha256(self._folder / name) for name in (_INDEX, _IDS)}
        write_json(self._folder / _FACTS, {**self._facts(), "sha256": sums})
