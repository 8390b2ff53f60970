"""What the layouts of others share: what they hold, .npy files, and the file that carries what they cannot say.

No layout says which space its vectors are of. An export writes `babelclip.json` beside them, and an import reads it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from babelclip.errors import BabelclipError, shown
from babelclip.files import atomic_path, read_json
from babelclip.store.layout import NPY_FAULTS, SHARD_ROWS
from babelclip.store.parquet import naming

SIDECAR = "babelclip.json"
FORMAT = "babelclip-export"
# The ids of the store, in layouts that know rows by position only.
STORE_ID = "store_id"

Vectors = npt.NDArray[np.floating[Any]]
Block = tuple[Vectors, pa.Table]


@dataclasses.dataclass(frozen=True)
class Foreign:
    """Vectors in another layout, looked at but not read.

    Attributes:
        files: all files, in the order of the rows.
        count: N rows.
        dim: D.
        dtype: `float16` or `float32`, the smallest that loses nothing (float64 becomes float32).
        normalized: whether the layout holds unit vectors; None where it does not say.
        schema: the columns beside the vectors.
        read: yields vectors (n, D) and the table of their columns from a row on, in blocks, each of one file.
        where: the file that a row lies in, for messages.
        facts: what `babelclip.json` says; {} without one.
    """

    files: tuple[Path, ...]
    count: int
    dim: int
    dtype: str
    normalized: bool | None
    schema: pa.Schema
    read: Callable[[int], Iterator[Block]]
    where: Callable[[int], Path]
    facts: dict[str, Any]


def read_sidecar(folder: Path) -> dict[str, Any]:
    """Returns what an export noted about its vectors, {} where there is no such file.

    Raises:
        BabelclipError: the file is damaged, or the export did not come to its end.
    """
    if not (folder / SIDECAR).is_file():
        return {}
    content = read_json(folder / SIDECAR)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return {}
    if not content.get("complete", False):
        raise BabelclipError(
            f"{folder} is an export that was stopped: it holds a part of the vectors. Run `babelclip store export` "
            "again, which goes on, and import then."
        )
    return content


def open_npy(file: Path) -> Vectors:
    """Returns the vectors (n, D) of a .npy file as a read-only memory map.

    Raises:
        BabelclipError: it is missing, cut, or holds something else than rows of floats.
    """
    try:
        vectors = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise BabelclipError(f"{file} does not exist: check the path.") from error
    except NPY_FAULTS as error:
        raise BabelclipError(
            f"{file} cannot be read as .npy ({shown(error)}): it is cut, damaged or of another kind. Copy it again "
            "from where it came from."
        ) from error
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
        kind = f"{vectors.shape} {vectors.dtype}" if isinstance(vectors, np.ndarray) else "an archive"
        raise BabelclipError(
            f"{file} holds {kind}, but vectors are floats of shape (rows, dimensions): give that file."
        )
    return vectors


def common_dtype(dtypes: Iterable[np.dtype[Any]]) -> str:
    """Returns the smallest dtype of a store that holds all `dtypes`; float64 is rounded to float32."""
    return "float16" if all(dtype.itemsize <= 2 for dtype in dtypes) else "float32"


def common_dim(files: Sequence[Path], dims: Sequence[int]) -> int:
    """Returns the one dimension of all files.

    Raises:
        BabelclipError: they differ; names two files.
    """
    for file, dim in zip(files, dims, strict=True):
        if dim != dims[0]:
            raise BabelclipError(
                f"{files[0]} holds vectors of {dims[0]} dimensions and {file} of {dim}: they are not of one model. "
                "Import them into stores of their own, from folders of their own."
            )
    return dims[0]


def common_schema(files: Sequence[Path]) -> pa.Schema:
    """Returns the columns of all Parquet files, in the order met; a column of nulls takes the type it has elsewhere.

    Raises:
        BabelclipError: a file cannot be read, or two give a column different types; names them.
    """
    joined = pa.schema([])
    for file in files:
        with naming(file):
            schema = pq.read_schema(file).remove_metadata()
        try:
            joined = pa.unify_schemas([joined, schema], promote_options="permissive")
        except pa.ArrowException as error:
            raise BabelclipError(
                f"the columns of {file} do not agree with those of the files before it ({shown(error)}): write them "
                "with one type for each column."
            ) from error
    return joined


def conform(table: pa.Table, schema: pa.Schema, file: Path) -> pa.Table:
    """Returns `table` with exactly the columns of `schema`, null where it lacks one.

    Raises:
        BabelclipError: a value does not fit the type; names the file.
    """
    with naming(file):
        columns = [
            table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
            for field in schema
        ]
        return pa.table(columns, schema=schema) if columns else table


def starts_of(counts: Sequence[int]) -> npt.NDArray[np.int64]:
    """Returns the first row of each file and the number of all rows, (files + 1,)."""
    return np.cumsum([0, *counts], dtype=np.int64)


def file_of(row: int, starts: npt.NDArray[np.int64]) -> int:
    """Returns which file a row lies in; files without rows are passed over."""
    return int(np.searchsorted(starts, row, side="right")) - 1


def remaining(starts: npt.NDArray[np.int64], row: int) -> Iterator[tuple[int, int]]:
    """Yields each file that holds rows from `row` on, and the first of its own rows to read."""
    for number in range(len(starts) - 1):
        if starts[number + 1] > row:
            yield number, max(0, row - int(starts[number]))


def write_npy(file: Path, blocks: Iterable[Vectors], count: int, dim: int, dtype: str) -> None:
    """Writes `count` vectors (n, `dim`) that come in blocks as one .npy file, atomically, in memory of one block."""
    stored = np.dtype(dtype).newbyteorder("<")
    header = {"descr": np.lib.format.dtype_to_descr(stored), "fortran_order": False, "shape": (count, dim)}
    with atomic_path(file) as temporary, temporary.open("wb") as opened:
        np.lib.format.write_array_header_1_0(opened, header)
        for block in blocks:
            opened.write(np.ascontiguousarray(block, stored).data)


def write_parquet(file: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Writes tables of one schema as one Parquet file, atomically, in memory of one table."""
    with atomic_path(file) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table, row_group_size=SHARD_ROWS)
