"""The layout of clip-retrieval, which autofaiss reads too.

    img_emb/img_emb_0.npy            (n, D) float16, rows of length 1; text_emb/text_emb_0.npy likewise
    metadata/metadata_0.parquet      n rows: image_path, caption, and what else is known of each

Files of one number belong together, and a row is known by its position in all files in the order of their names
(rom1504/clip-retrieval 2.45.0, clip_inference/writer.py). So import pairs the files and counts their rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from babelclip.errors import BabelclipError
from babelclip.store.embedding_store import EmbeddingStore
from babelclip.store.exchange import foreign
from babelclip.store.exchange.foreign import STORE_ID, Block, Foreign, Vectors
from babelclip.store.parquet import count_rows, read_table

FOLDERS = {"image": "img_emb", "text": "text_emb"}
# Rows of a file, as clip-retrieval itself writes them.
FILE_ROWS = 1_000_000
# Columns that clip-retrieval knows, and what a store calls them.
_NAMES = {"image_path": ("image_path", "image"), "caption": ("caption", "text")}


def recognises(folder: Path) -> bool:
    """Returns whether `folder` looks like this layout."""
    return any((folder / name).is_dir() for name in FOLDERS.values())


def open_clip_retrieval(folder: Path, kind: str) -> Foreign:
    """Returns what a folder holds.

    Args:
        folder: with `metadata/` and `img_emb/` or `text_emb/`.
        kind: `image` or `text`, which of the two to read; "" takes the one that is there.

    Raises:
        BabelclipError: there are both or none, files lack, or vectors and metadata are misaligned; names the files.
    """
    facts = foreign.read_sidecar(folder)
    kind = kind or str(facts.get("kind", ""))
    there = [name for name, sub in FOLDERS.items() if (folder / sub).is_dir()]
    if kind not in there and (kind or len(there) != 1):
        raise BabelclipError(
            f"{folder} holds vectors of {' and '.join(there) or 'nothing'}"
            + (f", not of {kind}" if kind else "")
            + ": say which to import with kind= (--kind), image for img_emb/ or text for text_emb/."
        )
    name = FOLDERS[kind or there[0]]
    vectors, metadata = _parts(folder / name, name, "npy"), _parts(folder / "metadata", "metadata", "parquet")
    for number in sorted(vectors.keys() ^ metadata.keys()):
        lacking = folder / ("metadata" if number in vectors else name)
        raise BabelclipError(
            f"{vectors.get(number) or metadata.get(number)} has no partner in {lacking}: files of one number belong "
            "together, and without it all rows behind it would be shifted. Copy the missing file, or remove both."
        )
    numbers = sorted(vectors, key=lambda number: vectors[number].name)  # the order of names is that of rows
    files = [vectors[number] for number in numbers]
    if not files:
        raise BabelclipError(f"{folder / name} holds no file {name}_0.npy: give the folder that clip-retrieval wrote.")
    maps = [foreign.open_npy(file) for file in files]
    for file, part, number in zip(files, maps, numbers, strict=True):
        rows = count_rows(metadata[number])
        if rows != len(part):
            raise BabelclipError(
                f"{file} holds {len(part)} vectors and {metadata[number]} {rows} rows, but each vector has one row: "
                "one of the two is cut or of another run. Make both again."
            )
    tables = [metadata[number] for number in numbers]
    starts = foreign.starts_of([len(part) for part in maps])
    schema = foreign.common_schema(tables)

    def read(row: int) -> Iterator[Block]:
        for number, first in foreign.remaining(starts, row):
            part = foreign.open_npy(files[number])  # mapped anew: what was read leaves memory with its file
            for table in read_table(tables[number], first):
                yield part[first : first + len(table)], foreign.conform(table, schema, tables[number])
                first += len(table)

    return Foreign(
        files=tuple(files + tables),
        count=int(starts[-1]),
        dim=foreign.common_dim(files, [part.shape[1] for part in maps]),
        dtype=foreign.common_dtype(part.dtype for part in maps),
        normalized=True,
        schema=schema,
        read=read,
        where=lambda row: files[foreign.file_of(row, starts)],
        facts={**facts, "kind": kind or there[0]},
    )


def _parts(folder: Path, name: str, ending: str) -> dict[str, Path]:
    """Returns the files `<name>_<number>.<ending>` of a folder by their number as written."""
    pattern = re.compile(rf"{name}_(\d+)\.{ending}")
    return {match[1]: file for file in folder.glob("*") if (match := pattern.fullmatch(file.name))}


def renamed_columns(store: EmbeddingStore) -> dict[str, str]:
    """Returns which column of `store` each column of clip-retrieval is made from; a picture without a path has its id.

    Raises:
        BabelclipError: the store has a column that the export needs for its ids.
    """
    columns = store.row_schema.names
    if STORE_ID in columns:
        raise BabelclipError(
            f"{store.path} has a column {STORE_ID!r}, which the export uses for the ids: give that column another name."
        )
    found = {name: next((known for known in wanted if known in columns), "") for name, wanted in _NAMES.items()}
    if store.kind == "image":
        found["image_path"] = found["image_path"] or "id"
    return {name: column for name, column in found.items() if column}


def write_clip_retrieval(store: EmbeddingStore, folder: Path, number: int, parts: int, rows: range) -> list[Path]:
    """Writes the vectors and metadata of `rows` as part `number` of `parts` and returns the files.

    Raises:
        BabelclipError: a vector has no direction.
    """
    name = FOLDERS[store.kind]
    digits = f"{number:0{len(str(parts))}d}"
    vectors = folder / name / f"{name}_{digits}.npy"
    metadata = folder / "metadata" / f"metadata_{digits}.parquet"
    renamed = renamed_columns(store)
    taken = {"id", *renamed.values()}
    others = {name: name for name in store.row_schema.names if name not in taken}
    columns = {**renamed, STORE_ID: "id", **others}
    schema = pa.schema([pa.field(name, store.row_schema.field(of).type) for name, of in columns.items()])
    span = (rows.start, rows.stop)
    units = (_unit(block, table, store) for block, table in store.blocks(*span))
    foreign.write_npy(vectors, units, len(rows), store.dim, "float16")
    tables = (pa.table([table[of] for of in columns.values()], schema=schema) for _, table in store.blocks(*span))
    foreign.write_parquet(metadata, tables, schema)
    return [vectors, metadata]


def _unit(block: Vectors, table: pa.Table, store: EmbeddingStore) -> Vectors:
    """Returns a block as float16 rows of length 1; what is that already keeps its bytes."""
    if store.normalized and store.dtype == "float16":
        return block
    features = np.asarray(block, np.float32)
    lengths = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    if not lengths.all():
        raise BabelclipError(
            f"the vector of id {table['id'][int(lengths.argmin())].as_py()!r} of {store.path} is zero and has no "
            "direction, but clip-retrieval's vectors have length 1: leave this row out, or export as 'dataset'."
        )
    units: Vectors = (features / lengths).astype(np.float16)
    return units
