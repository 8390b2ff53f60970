"""Vectors as rows of a data set, in the manner of M-CLIP/ImageCaptions-7M-Embeddings, in Parquet.

    data/train-00000-of-00002.parquet    id int64, embedding list<list<float32>> of shape [1, D]

There `id` is the position of the caption in M-CLIP/ImageCaptions-7M-Translations. The published set is a script, which
`datasets` refuses since version 4; its Parquet copies are read here, with [D] in place of [1, D] too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from babelclip.errors import BabelclipError
from babelclip.store import layout
from babelclip.store.embedding_store import EmbeddingStore
from babelclip.store.exchange import foreign
from babelclip.store.exchange.foreign import STORE_ID, Block, Foreign, Vectors
from babelclip.store.parquet import lacking_parts, naming, read_table

EMBEDDING = "embedding"
# Rows of a file: 300 MB of 768 float32.
FILE_ROWS = 100_000


def recognises(folder: Path) -> bool:
    """Returns whether `folder`, or the one file that it is, looks like this layout."""
    files = _files(folder)
    if not files:
        return False
    with naming(files[0]):
        return EMBEDDING in pq.read_schema(files[0]).names


def open_dataset_rows(folder: Path) -> Foreign:
    """Returns what a folder of Parquet files, or one such file, holds.

    Raises:
        BabelclipError: there is none, one has no column `embedding`, one of a numbered set lacks, or vectors are of
            several dimensions.
    """
    files = _files(folder)
    if not files:
        raise BabelclipError(f"{folder} holds no Parquet file: give the folder of a data set's Parquet files.")
    facts = foreign.read_sidecar(folder) if folder.is_dir() else {}
    if not facts:  # an export of ours says how many rows it has
        _check_whole(files)
    counts = _counts(files, folder)
    schema = foreign.common_schema(files)
    if EMBEDDING not in schema.names or (STORE_ID in schema.names and schema.field(STORE_ID).type != pa.string()):
        raise BabelclipError(
            f"{files[0]} has the columns {', '.join(schema.names)}, but vectors are read from a column {EMBEDDING!r} "
            "of lists: rename the column that holds them."
        )
    beside = schema.remove(schema.get_field_index(EMBEDDING))
    starts = foreign.starts_of(counts)
    filled = [file for file, count in zip(files, counts, strict=True) if count]
    heads = [_head(file) for file in filled]
    if not filled:
        raise BabelclipError(f"{folder} holds Parquet files without a row: give the folder of the whole data set.")
    dim = foreign.common_dim(filled, [dim for dim, _ in heads])

    def read(row: int) -> Iterator[Block]:
        for number, first in foreign.remaining(starts, row):
            for table in read_table(files[number], first):
                vectors = vectors_of(table[EMBEDDING], dim, files[number])
                yield vectors, foreign.conform(table.drop_columns([EMBEDDING]), beside, files[number])

    return Foreign(
        files=tuple(files),
        count=int(starts[-1]),
        dim=dim,
        dtype=foreign.common_dtype(kind for _, kind in heads),
        normalized=None,
        schema=beside,
        read=read,
        where=lambda row: files[foreign.file_of(row, starts)],
        facts=facts,
    )


def vectors_of(column: pa.ChunkedArray, dim: int | None, file: Path) -> Vectors:
    """Returns the vectors (n, D) of a column of lists, [1, D] or [D] each.

    Args:
        column: n rows.
        dim: D, which every row must have; None takes that of the first row.
        file: for messages.

    Raises:
        BabelclipError: the column holds something else, or a row is null or of another shape.
    """
    array = column.combine_chunks()
    nested = _is_list(array.type) and _is_list(array.type.value_type)
    if nested:
        _check_lengths(array, 1, file, "[1, D]")
        array = array.flatten()
    if not _is_list(array.type) or not pa.types.is_floating(array.type.value_type):
        raise BabelclipError(
            f"column {EMBEDDING!r} of {file} holds {column.type}, but a vector is a list of floats, [1, D] or [D]: "
            "write the column as such."
        )
    dim = dim if dim is not None or not len(array) else len(array[0])
    _check_lengths(array, dim or 0, file, f"[1, {dim}]" if nested else f"[{dim}]")
    flat = array.flatten()
    if flat.null_count:
        raise BabelclipError(f"column {EMBEDDING!r} of {file} holds lists with null in them: leave these rows out.")
    values: Vectors = flat.to_numpy(zero_copy_only=False).reshape(len(column), dim or 0)
    return values


def _check_lengths(array: pa.Array, expected: int, file: Path, shape: str) -> None:
    lengths = pc.list_value_length(array)
    good = pc.sum(pc.equal(lengths, expected)).as_py() or 0
    if good != len(array):
        other = next(length for length in lengths.to_pylist() if length != expected)
        raise BabelclipError(
            f"{len(array) - good} of {len(array)} rows of {file} do not hold an embedding of shape {shape}, the first "
            f"{'is null' if other is None else f'has length {other} where {expected} is due'}: leave these rows out, "
            "or embed them again."
        )


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _head(file: Path) -> tuple[int, np.dtype[Any]]:
    """Returns D and the dtype of the first row of a file that has rows by its footer.

    Raises:
        BabelclipError: it has none.
    """
    for table in read_table(file, columns=[EMBEDDING]):
        first = vectors_of(table[EMBEDDING].slice(0, 1), None, file)
        return first.shape[1], first.dtype
    raise BabelclipError(f"{file} counts rows and holds none: it is damaged. Copy it again from where it came from.")


def _files(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder] if folder.suffix == ".parquet" else []
    files = (file.relative_to(folder) for file in folder.rglob("*.parquet"))
    # What lies in a hidden folder is a cache.
    return [folder / file for file in sorted(files) if not any(part.startswith(".") for part in file.parts)]


def _counts(files: list[Path], folder: Path) -> list[int]:
    """Returns the rows of each file; raises BabelclipError where some have vectors and others none."""
    counts, without = [], []
    for file in files:
        with naming(file):
            footer = pq.read_metadata(file)
            if EMBEDDING not in footer.schema.to_arrow_schema().names:
                without.append(file)
        counts.append(footer.num_rows)
    if without and len(without) < len(files):
        raise BabelclipError(
            f"{without[0]} has no column {EMBEDDING!r}, and others in {folder} have: two tables are not one data set. "
            "Give the folder or the file that has the vectors; of a folder that `babelclip embed --publish` wrote, "
            "babelclip.data.publish.import_published makes the store again."
        )
    return counts


def _check_whole(files: list[Path]) -> None:
    """Does nothing where of `train-00000-of-00003.parquet` all three are there; raises BabelclipError otherwise."""
    for folder in dict.fromkeys(file.parent for file in files):
        for name, count, lacking in lacking_parts(file.name for file in files if file.parent == folder):
            raise BabelclipError(
                f"{folder} lacks {len(lacking)} of the {count} parts of {name!r}, first number {lacking[0]}. A row is "
                "known by its position over all parts, so all are needed: fetch it again."
            )


def whole_number_ids(store: EmbeddingStore) -> tuple[bool, bool]:
    """Returns whether all ids are whole numbers as they are usually written, and whether they are the positions."""
    start, whole, positions = 0, True, True
    for number in range(len(store.shards)):
        ids = layout.ids_of_shard(store.path, number).combine_chunks()
        count = len(ids)
        positions = positions and ids.equals(pa.array(np.arange(start, start + count)).cast(pa.string()))
        whole = whole and bool(pc.all(pc.match_substring_regex(ids, r"^(0|[1-9]\d{0,17})$")).as_py())
        start += count
    return whole, positions


def write_dataset_rows(
    store: EmbeddingStore, folder: Path, number: int, parts: int, rows: range, ids: tuple[bool, bool]
) -> list[Path]:
    """Writes `rows` of a store as file `number` of `parts` and returns it.

    `id` is the store's id where all ids are whole numbers (it addresses the captions), the position otherwise. Where it
    is not both, `store_id` follows; then the store's other columns.

    Args:
        store: its vectors are written as float32.
        folder: of the data set.
        number: of the file, from 0.
        parts: files of the whole.
        rows: rows of the store.
        ids: what `whole_number_ids` says.

    Raises:
        BabelclipError: a column has a name of the data set's own.
    """
    whole, positions = ids
    others = [name for name in store.row_schema.names if name not in ("id", STORE_ID)]
    if STORE_ID in store.row_schema.names:
        raise BabelclipError(
            f"{store.path} has a column {STORE_ID!r}, which the export uses for the ids: give that column another name."
        )
    fields = [("id", pa.int64()), (EMBEDDING, pa.list_(pa.list_(pa.float32())))]
    fields += [] if positions else [(STORE_ID, pa.string())]
    fields += [(name, store.row_schema.field(name).type) for name in others]
    schema = pa.schema(fields)

    def tables() -> Iterator[pa.Table]:
        position = rows.start
        for vectors, table in store.blocks(rows.start, rows.stop):
            numbers = table["id"].cast(pa.int64()) if whole else pa.array(np.arange(position, position + len(table)))
            columns: list[Any] = [numbers, _nested(vectors), *([] if positions else [table["id"]])]
            yield pa.table([*columns, *(table[name] for name in others)], schema=schema)
            position += len(table)

    file = folder / "data" / f"train-{number:05d}-of-{parts:05d}.parquet"
    foreign.write_parquet(file, tables(), schema)
    return [file]


def _nested(vectors: npt.NDArray[np.floating[Any]]) -> pa.Array:
    """Returns vectors (n, D) as lists of shape [1, D]."""
    count, dim = vectors.shape
    features = np.asarray(vectors, np.float32)
    rows = pa.ListArray.from_arrays(pa.array(np.arange(0, (count + 1) * dim, dim, dtype=np.int32)), features.ravel())
    return pa.ListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int32)), rows)
