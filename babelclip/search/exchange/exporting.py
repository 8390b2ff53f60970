"""The vectors and columns of a collection, for others to read without babelclip."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa

from babelclip.errors import BabelclipError, did_you_mean
from babelclip.progress import progress_bar
from babelclip.search.collection import Collection
from babelclip.search.columns import VECTOR, vectors_of
from babelclip.search.filters import Filter
from babelclip.store import EmbeddingStore
from babelclip.store.exchange import export_store
from babelclip.store.layout import SHARD_ROWS

LAYOUTS = ("store", "clip-retrieval", "dataset", "npy")


def export_collection(
    collection: Collection,
    out: Path | str,
    *,
    layout: str = "store",
    where: Filter | None = None,
    dtype: str = "float32",
    progress: bool = False,
) -> Path:
    """Writes vectors and columns (thumbnails apart) to the new folder `out`, and returns it.

    Run again after a kill, it goes on behind the last whole file.

    Args:
        collection: any.
        out: a new folder, or that of the same export that was stopped.
        layout: `store` (an `EmbeddingStore`), or a layout of `babelclip store export`: `clip-retrieval` (float16 npy
            and Parquet; `image_path` is the whole path where the root of the source is known), `dataset`, `npy`.
        where: only rows that fulfil it.
        dtype: of a store, float16 or float32.
        progress: show a bar on stderr.

    Raises:
        BabelclipError: no row, an unknown layout, or the folder holds other things.
    """
    if layout not in LAYOUTS:
        raise BabelclipError(f"layout {layout!r} is not known. {did_you_mean(layout, LAYOUTS)}")
    out = Path(out).expanduser()
    count = collection.count(where)
    if not count:
        raise BabelclipError(f"{collection.url} holds no row to export: index pictures first, or ask for others.")
    folder = out if layout == "store" else out.with_name(f".{out.name}.store")
    _write_store(collection, folder, where, dtype, count, paths=layout == "clip-retrieval", progress=progress)
    if layout != "store":
        export_store(folder, out, layout=layout, progress=progress)
        shutil.rmtree(folder)
    return out


def _write_store(
    collection: Collection,
    folder: Path,
    where: Filter | None,
    dtype: str,
    count: int,
    *,
    paths: bool,
    progress: bool,
) -> None:
    space = collection.fingerprint
    columns = [name for name, kind in collection.columns.items() if kind != "bytes" and name != "id"]
    with (
        EmbeddingStore.open_or_create(
            folder,
            space=space.space,
            model=space.image_model,
            dim=space.dim,
            dtype=dtype,
            normalized=True,
            kind="image",
        ) as store,
        progress_bar("Exporting", count, shown=progress, unit="rows") as advance,
    ):
        for batch in collection.scan(columns=columns, where=where, with_vectors=True, batch_rows=SHARD_ROWS):
            table = pa.Table.from_batches([batch])
            new = table.filter(pa.array(store.find(table["id"].to_pylist()) < 0))
            if len(new):
                values = {name: new[name] for name in columns}
                if paths:
                    values["image_path"] = _whole_paths(collection, new)
                    del values["path"]
                store.append(new["id"].to_pylist(), np.array(vectors_of(new[VECTOR])), values)
            advance(len(table), len(new))


def _whole_paths(collection: Collection, rows: pa.Table) -> pa.Array:
    roots = collection.roots
    pairs = zip(rows["source"].to_pylist(), rows["path"].to_pylist(), strict=True)
    return pa.array([f"{roots[source]}/{path}" if path and source in roots else path for source, path in pairs])
