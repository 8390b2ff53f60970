"""Vectors as one .npy file, with the ids in a file beside it.

vectors.npy       (N, D) float16 or float32
ids.parquet       N rows: `id` and further columns; or ids.txt with one id a line, UTF-8
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa

from babelclip.errors import BabelclipError
from babelclip.store.embedding_store import EmbeddingStore
from babelclip.store.exchange import foreign
from babelclip.store.exchange.foreign import Block, Foreign
from babelclip.store.layout import SHARD_ROWS
from babelclip.store.parquet import count_rows, read_table

VECTORS = "vectors.npy"
IDS = ("ids.parquet", "ids.txt")
POSITION = "position"


def recognises(path: Path) -> bool:
    """Returns whether `path` is a .npy file or a folder with one of the usual name."""
    return path.suffix == ".npy" or (path / VECTORS).is_file()


def open_numpy_file(path: Path, ids: str) -> Foreign:
    """Returns what a .npy file and its ids hold.

    Args:
        path: the file, or a folder with `vectors.npy` and `ids.parquet` or `ids.txt`.
        ids: a file of ids, `position` to count the rows, or "" to look beside the vectors.

    Raises:
        BabelclipError: there are no ids, or not as many as vectors; names both files.
    """
    folder = path if path.is_dir() else path.parent
    file = path / VECTORS if path.is_dir() else path
    vectors = foreign.open_npy(file)
    names = None if ids == POSITION else Path(ids) if ids else _ids_beside(file, folder)
    schema = pa.schema([]) if names is None else _schema(names)
    if names is not None:
        count = count_rows(names) if names.suffix == ".parquet" else sum(1 for _ in _lines(names))
        if count != len(vectors):
            raise BabelclipError(
                f"{file} holds {len(vectors)} vectors and {names} {count} ids, but each vector has one: one of the two "
                "is cut or of another run. Make both again."
            )

    def read(row: int) -> Iterator[Block]:
        mapped = foreign.open_npy(file)
        for table in _tables(names, row, len(mapped)):
            yield mapped[row : row + len(table)], table
            row += len(table)

    return Foreign(
        files=(file,) if names is None else (file, names),
        count=len(vectors),
        dim=vectors.shape[1],
        dtype=foreign.common_dtype([vectors.dtype]),
        normalized=None,
        schema=schema,
        read=read,
        where=lambda _: file,
        facts=foreign.read_sidecar(folder) if path.is_dir() else {},
    )


def _ids_beside(file: Path, folder: Path) -> Path:
    found = [folder / name for name in IDS if (folder / name).is_file()]
    if file.name != VECTORS or len(found) != 1:
        raise BabelclipError(
            f"{file} comes with {len(found) if file.name == VECTORS else 'no'} file of ids. Name the file that has one "
            "id for each vector, .parquet with a column id or .txt with one a line, or count the rows: ids= (--ids "
            f"FILE, or --ids {POSITION})."
        )
    return found[0]


def _schema(names: Path) -> pa.Schema:
    if names.suffix == ".parquet":
        return foreign.common_schema([names])
    if names.suffix != ".txt":
        raise BabelclipError(f"{names} is no file of ids: give .parquet with a column id, or .txt with one id a line.")
    return pa.schema({"id": pa.string()})


def _tables(names: Path | None, row: int, count: int) -> Iterator[pa.Table]:
    """Yields the ids and columns of the rows from `row` on; without a file, what no rule of ids looks at."""
    if names is not None and names.suffix == ".parquet":
        yield from read_table(names, row)
    elif names is not None:
        lines = islice(_lines(names), row, None)
        while part := list(islice(lines, SHARD_ROWS)):
            yield pa.table({"id": pa.array(part, pa.string())})
    else:
        for start in range(row, count, SHARD_ROWS):
            yield pa.table({"": pa.nulls(min(SHARD_ROWS, count - start))})


def _lines(file: Path) -> Iterator[str]:
    """Yields the lines of a text file.

    Raises:
        BabelclipError: it is missing or not UTF-8.
    """
    try:
        # Only LF and CRLF end a line, and a byte order mark is no part of the first id.
        with file.open(encoding="utf-8-sig", newline="\n") as opened:
            for line in opened:
                yield line.removesuffix("\n").removesuffix("\r")
    except FileNotFoundError as error:
        raise BabelclipError(f"{file} does not exist: check the path.") from error
    except UnicodeDecodeError as error:
        raise BabelclipError(f"{file} is not UTF-8 ({error}): write the ids as UTF-8, one a line.") from error


def write_numpy_file(store: EmbeddingStore, folder: Path, rows: range) -> list[Path]:
    """Writes `rows` of a store as `vectors.npy`, in its own dtype, and `ids.parquet`, and returns both files."""
    vectors, ids = folder / VECTORS, folder / IDS[0]
    blocks = (block for block, _ in store.blocks(rows.start, rows.stop))
    foreign.write_npy(vectors, blocks, len(rows), store.dim, store.dtype)
    foreign.write_parquet(ids, (table for _, table in store.blocks(rows.start, rows.stop)), store.row_schema)
    return [vectors, ids]
