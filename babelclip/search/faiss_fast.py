"""Fast mode: a copy of a collection in memory whose vectors lie in a FAISS index.

An HNSW graph over bytes (SQ8) names candidates, and half-precision vectors beside it put them in order: SQ8 alone
stays below a recall of 0.95. Filtered searches compare the half-precision vectors of the rows that fulfil the filter,
where these are few. The index is kept in a folder so that a restart does not build it again; it is written atomically,
with checksums, and is made anew where it is missing, damaged or of another version.

Entry point: `open_fast`. Letters: N rows, Q queries, K results, D embed_dim.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from babelclip.errors import BabelclipError, require
from babelclip.files import atomic_path, cache_folder, read_json, sha256, write_json
from babelclip.search import exact as exact_search
from babelclip.search.collection import Collection, snapshot_of
from babelclip.search.columns import VECTOR, Vectors, vectors_of
from babelclip.search.exact import Rows
from babelclip.search.memory import MemoryCollection, copied, light_columns, table_of

# Below it comparing all vectors in memory is as fast.
_GRAPH_FROM = 10_000
_LINKS, _BUILD_EFFORT, _EFFORT, _CANDIDATES = 32, 80, 64, 4
# Rows that fulfil a filter and are compared one by one; beyond these the collection's own index is quicker.
_COMPARED = 50_000
_INDEX, _IDS, _FACTS = "fast.index", "fast.ids.arrow", "fast.json"
_BLOCK = 16_384
# Vectors that are added without asking whether somebody still waits: some tenths of a second.
_ADDED = 1024
# Vectors that the range of a byte is taken from.
_SAMPLE = 20_000


def open_fast(
    collection: Collection,
    *,
    folder: Path | str | None = None,
    effort: int = _EFFORT,
    wanted: Callable[[], bool] = lambda: True,
) -> MemoryCollection:
    """Returns the fast mode of a collection as it is now, from the copy in `folder` or built now.

    Args:
        collection: any; it stays open, and gives thumbnails and what else the copy does not hold.
        folder: where the index is kept; None takes a folder in the cache.
        effort: candidates that the graph looks at (efSearch): more find more, and take longer.
        wanted: is asked while a graph is built, which takes minutes; it ends where the answer is no.

    Raises:
        BabelclipError: the collection is empty, or the graph is not wanted any more.
        MissingExtraError: FAISS is not installed.
    """
    faiss = require("faiss", "faiss")
    snapshot = snapshot_of(collection)
    rows = snapshot.count()
    if not rows:
        raise BabelclipError(f"{collection.url} is empty: index pictures before serving it in fast mode.")
    if rows < _GRAPH_FROM:
        few = copied(snapshot, most_rows=_GRAPH_FROM, most_bytes=1 << 40)
        if few is not None:
            return few
    if folder is None:
        key = os.path.abspath(collection.url) if "://" not in collection.url else collection.url
        folder = cache_folder() / "fast" / hashlib.sha256(key.encode()).hexdigest()[:20]
    index, ids = _read(snapshot, Path(folder)) or _built(snapshot, rows, Path(folder), wanted)
    batches = list(snapshot.scan(columns=light_columns(snapshot), batch_rows=_BLOCK))
    table = table_of(snapshot, batches)
    if not table["id"].combine_chunks().equals(ids):
        table = table.take(pc.index_in(ids, table["id"].combine_chunks()))
    return MemoryCollection(snapshot, table, Graph(index, faiss, effort))


class Graph:
    """Vectors as an HNSW graph over bytes, with half-precision vectors that give the scores. See `memory.Finder`."""

    kind, backend = "hnsw_sq8+fp16", "fast"

    def __init__(self, index: Any, faiss: Any, effort: int) -> None:
        self._index, self._faiss, self._effort = index, faiss, effort
        self._half = faiss.downcast_index(index.refine_index)
        # A view of what the index holds, (N, D) float16.
        self._codes = faiss.rev_swig_ptr(self._half.codes.data(), self._half.codes.size()).view(np.float16)
        self._codes = self._codes.reshape(index.ntotal, index.d)

    def best(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """See `Finder.best`."""
        inner = self._faiss.SearchParametersHNSW(efSearch=max(self._effort, _CANDIDATES * k))
        # Parameters of this query: no state is shared between threads.
        params = self._faiss.IndexRefineSearchParameters(k_factor=float(_CANDIDATES), base_index_params=inner)
        scores, rows = self._index.search(queries, min(k, self._index.ntotal), params=params)
        return scores, rows

    def best_of(self, queries: Vectors, k: int, rows: Rows) -> tuple[Vectors, Rows] | None:
        """See `Finder.best_of`."""
        if len(rows) > _COMPARED:
            return None
        scores, places = exact_search.best_rows(queries, k, self._blocks(rows))
        return scores, rows[places]

    def _blocks(self, rows: Rows) -> Iterator[Vectors]:
        for start in range(0, len(rows), _BLOCK):
            yield self.vectors(rows[start : start + _BLOCK])

    def vectors(self, rows: Rows) -> Vectors:
        """See `Finder.vectors`."""
        found: Vectors = self._codes[rows].astype(np.float32)
        return found


def _facts(collection: Collection) -> dict[str, Any]:
    settings = [_LINKS, _BUILD_EFFORT, collection.fingerprint.dim]
    return {
        "format": "babelclip-fast", "url": collection.url, "version": collection.version(), "settings": settings
    }  # fmt: skip


def _read(collection: Collection, folder: Path) -> tuple[Any, pa.Array] | None:
    """Returns the copy on disk where it is whole and of this version: index, and ids in its order."""
    faiss = require("faiss", "faiss")
    try:
        facts = read_json(folder / _FACTS)
        wanted = _facts(collection)
        if not isinstance(facts, dict) or any(facts.get(name) != value for name, value in wanted.items()):
            return None
        if any(sha256(folder / name) != facts["sha256"][name] for name in (_INDEX, _IDS)):
            return None
        ids = pa.ipc.open_file(pa.memory_map(str(folder / _IDS))).read_all()["id"].combine_chunks()
        return faiss.read_index(str(folder / _INDEX)), ids
    except (BabelclipError, OSError, KeyError, TypeError, RuntimeError, pa.ArrowException):
        return None  # a copy is no data: it is made anew


def _built(collection: Collection, rows: int, folder: Path, wanted: Callable[[], bool]) -> tuple[Any, pa.Array]:
    faiss = require("faiss", "faiss")
    dim = collection.fingerprint.dim
    graph = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_8bit, _LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = _BUILD_EFFORT
    exact = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index = faiss.IndexRefine(graph, exact)
    # Vectors from everywhere in the collection: the first ones may all be of one kind.
    step = max(1, rows // _SAMPLE)
    index.train(np.concatenate([vectors[::step] for _ids, vectors in _vectors(collection)]))
    ids: list[pa.Array] = []
    for names, vectors in _vectors(collection):
        for start in range(0, len(vectors), _ADDED):
            if not wanted():
                raise BabelclipError(f"the graph of {collection.url} was given up: open it again to build it anew.")
            index.add(vectors[start : start + _ADDED])
        ids.append(names)
    joined = pa.concat_arrays(ids)
    _write(collection, folder, lambda file: faiss.write_index(index, file), joined)
    return index, joined


def _vectors(collection: Collection) -> Iterator[tuple[pa.Array, Vectors]]:
    for batch in collection.scan(with_vectors=True, batch_rows=_BLOCK):
        yield batch["id"], vectors_of(batch[VECTOR])


def _write(collection: Collection, folder: Path, write_index: Callable[[str], None], ids: pa.Array) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _FACTS).unlink(missing_ok=True)  # nothing vouches for the files while they change
    with atomic_path(folder / _INDEX) as temporary:
        write_index(str(temporary))
    table = pa.table({"id": ids})
    with atomic_path(folder / _IDS) as temporary, pa.ipc.new_file(str(temporary), table.schema) as writer:
        writer.write_table(table)
    sums = {name: sha256(folder / name) for name in (_INDEX, _IDS)}
    write_json(folder / _FACTS, {**_facts(collection), "sha256": sums})
