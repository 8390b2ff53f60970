"""Vectors that are there already, into a collection: an `EmbeddingStore` of pictures, or a folder of clip-retrieval."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from babelclip.errors import BabelclipError
from babelclip.progress import progress_bar
from babelclip.search.collection import Collection, ImageSpace, create_collection, open_collection
from babelclip.search.columns import FIXED, VECTOR, vector_array
from babelclip.search.faiss import open_faiss
from babelclip.search.faiss_folder import unit_block
from babelclip.search.foreign_rows import ForeignColumns, foreign_columns, foreign_rows
from babelclip.store import EmbeddingStore
from babelclip.store.exchange import clip_retrieval
from babelclip.store.layout import MANIFEST

# Name of the fact that says how far each import has come.
IMPORTS = "imports"
_ROWS_AT_ONCE = 16_384


@dataclass(frozen=True)
class _Source:
    """Rows to import: yields tables with `id`, `vector` and columns from a position on."""

    count: int
    fingerprint: ImageSpace
    own: dict[str, str]
    read: Callable[[int], Iterator[pa.Table]]
    positions: bool  # whether ids are positions


def import_vectors(
    source: Path | str,
    url: Path | str,
    *,
    space: str = "",
    name: str = "",
    root: Path | str = "",
    prefix: str = "",
    progress: bool = False,
) -> Collection:
    """Brings pictures with their vectors into the collection at `url`, made where there is none; returns it.

    Run again after a kill, it goes on behind the last block that was written; rows that are there are replaced.

    Args:
        source: an `EmbeddingStore` of kind `image`, or a folder of clip-retrieval (vectors, or an index alone).
        url: the collection.
        space: of a clip-retrieval folder, which does not say it.
        name: what column `source` calls these rows; default: the name of the folder.
        root: folder of the pictures: paths below it become relative to it, and it is noted as that of the source.
        prefix: put before ids. A clip-retrieval folder knows rows by position only, which two folders share.
        progress: show a bar on stderr.

    Raises:
        SpaceMismatchError: the collection is of another space.
        BabelclipError: files do not fit together (names them), or ids of another import would be overwritten.
    """
    path = Path(source).expanduser()
    name = name or path.resolve().name
    there = _opened(path, space)
    collection = _open_or_create(url, there.fingerprint, there.own, f"{path} and collection {url}")
    imports = dict(collection.fact(IMPORTS) or {})
    for other, facts in imports.items():
        if other != name and there.positions and facts.get("positions") and facts.get("prefix") == prefix:
            raise BabelclipError(
                f"{url} holds rows of {other!r} whose ids are positions, as are those of {name!r}: they would replace "
                f"each other. Give these a prefix, for example prefix={name + '-'!r}."
            )
    begun = imports.get(name, {})
    same = begun.get("count") == there.count and begun.get("prefix") == prefix
    done = int(begun.get("rows", 0)) if same else 0
    done = 0 if done == there.count else done  # a finished one that is asked for again is brought up to date
    if root:
        collection.set_roots({**collection.roots, name: str(Path(root).expanduser().resolve())})
    with progress_bar("Importing", there.count, shown=progress, unit="rows") as advance:
        advance(done, 0)
        for rows in there.read(done):
            collection.upsert(_placed(rows, name, str(collection.roots.get(name, "")), prefix))
            done += len(rows)
            facts = {"rows": done, "count": there.count, "prefix": prefix, "positions": there.positions}
            imports[name] = facts
            collection.set_fact(IMPORTS, imports)
            advance(len(rows))
    return collection


def _open_or_create(url: Path | str, fingerprint: ImageSpace, own: dict[str, str], what: str) -> Collection:
    try:
        collection = open_collection(url, write=True)
    except BabelclipError:
        # What is there and cannot be opened is refused here too.
        collection = create_collection(url, fingerprint, columns=own)
    collection.fingerprint.check_same(fingerprint, what)
    collection.add_columns(own)
    return collection


def _opened(path: Path, space: str) -> _Source:
    if (path / MANIFEST).is_file():
        return _of_store(path)
    if clip_retrieval.recognises(path) and next((path / "metadata").glob("*.parquet"), None):
        there = clip_retrieval.open_clip_retrieval(path, "image")
        space = space or str(there.facts.get("space", ""))
        known = foreign_columns(there.schema, ours="format" in there.facts)
        if space:
            model = str(there.facts.get("model", "") or space)
            fingerprint = ImageSpace(space, model, dim=there.dim)
            return _Source(there.count, fingerprint, dict(known.own), _reader(there.read, known), not known.id)
    folder = open_faiss(path, space=space)  # raises where the space is not known
    columns = [column for column in folder.columns if column not in ("id", "source")]
    own = {column: kind for column, kind in folder.columns.items() if column not in FIXED}

    def read(start: int) -> Iterator[pa.Table]:
        for batch in folder.scan(columns=columns, with_vectors=True, batch_rows=_ROWS_AT_ONCE):
            table = pa.Table.from_batches([batch])
            if start < len(table):
                yield table.slice(start)
            start = max(0, start - len(table))

    return _Source(folder.count(), folder.fingerprint, own, read, True)


def _of_store(path: Path) -> _Source:
    store = EmbeddingStore.open(path)
    if store.kind != "image" or store.target != "projected":
        raise BabelclipError(
            f"{path} holds vectors of {store.kind}s ({store.target}), but a collection holds projected vectors of "
            "pictures: give a store made by `babelclip embed --images`."
        )
    known = foreign_columns(store.row_schema, "id")
    fingerprint = ImageSpace(store.space, store.model, dim=store.dim, dtype=store.dtype)
    return _Source(len(store), fingerprint, dict(known.own), _reader(store.blocks, known), False)


def _reader(blocks: Any, known: ForeignColumns) -> Callable[[int], Iterator[pa.Table]]:
    def read(start: int) -> Iterator[pa.Table]:
        for vectors, table in blocks(start):
            rows = foreign_rows(table, known, start)
            if known.id == "id" and "path" not in rows.column_names:
                rows = rows.append_column("path", rows["id"])  # pictures of a store are known by their path
            yield rows.append_column(VECTOR, vector_array(unit_block(np.asarray(vectors))))
            start += len(rows)

    return read


def _placed(rows: pa.Table, name: str, root: str, prefix: str) -> pa.Table:
    """Returns rows with their source, paths relative to its root, and the prefix before ids."""
    arrays = {column: rows[column] for column in rows.column_names}
    arrays["source"] = pa.array([name] * len(rows), pa.string())
    if prefix:
        arrays["id"] = pc.binary_join_element_wise(prefix, arrays["id"], "")
    if root and "path" in arrays:
        inside = root.rstrip("/") + "/"
        below = pc.starts_with(arrays["path"], inside)
        arrays["path"] = pc.if_else(below, pc.utf8_slice_codeunits(arrays["path"], len(inside)), arrays["path"])
    return pa.table(arrays)
