"""The columns of a collection: their types, which are always there, and the check of rows before they are written.

A column has one of six types, which every backend keeps. Names are plain (letters, digits, underscore), so that no
engine needs a rule of its own for quoting them. Row letters: N rows, D embed_dim.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from babelclip.errors import BabelclipError, did_you_mean, shown

# What a column can hold; times are UTC with microseconds.
ARROW_TYPES: dict[str, pa.DataType] = {
    "text": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "time": pa.timestamp("us", tz="UTC"),
    "bytes": pa.binary(),
}
# The columns that every collection has beside `id` and `vector`.
FIXED: dict[str, str] = {
    "id": "text",
    "source": "text",  # name of the source root
    "path": "text",  # relative to the root; `a.tar::member` inside a tar
    "caption": "text",
    "lang": "text",
    "width": "int",
    "height": "int",
    "bytes": "int",
    "modified": "time",
    "sha256": "text",
    "colour": "int",  # 0xRRGGBB, mean of the picture: what is shown until it has loaded
    "thumbnail": "bytes",  # JPEG, longest side 320, without metadata
    "group": "text",  # near-duplicate group; null where the picture stands alone
    "source_row": "int",  # position in the source, where that is a table
}
VECTOR = "vector"
# Names that answers or engines use.
_RESERVED = {VECTOR, "score", "query", "rank"}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")

# What rounding to float32 does to the length of a unit vector.
_UNIT_TOLERANCE = 1e-6

Vectors = npt.NDArray[np.float32]


def all_columns(own: Mapping[str, str]) -> dict[str, str]:
    """Returns the fixed columns and a user's `own`, name -> type, in the order of the table.

    Raises:
        BabelclipError: a name or type is not allowed, or a name is taken; names that differ in case count as equal.
    """
    columns = dict(FIXED)
    taken = {name.lower() for name in [*columns, *_RESERVED]}
    for name, kind in own.items():
        if not _NAME.fullmatch(name):
            raise BabelclipError(
                f"{shown(name)!r} cannot name a column: a name is a letter, then up to 63 letters, digits and "
                "underscores. Rename it in the source, for example with _ in place of other characters."
            )
        if name.lower() in taken:
            raise BabelclipError(
                f"column {name!r} is there already, or kept for answers ({', '.join(sorted(_RESERVED))}); upper and "
                "lower case count as equal. Give it another name."
            )
        if kind not in ARROW_TYPES:
            raise BabelclipError(
                f"column {name!r} is of type {shown(kind)!r}, which is not a type: {did_you_mean(kind, ARROW_TYPES)}"
            )
        taken.add(name.lower())
        columns[name] = kind
    return columns


def check_columns(asked: object, columns: Mapping[str, str]) -> list[str]:
    """Returns the names `asked` for, each once and in order, without `id`, which every answer has.

    Raises:
        BabelclipError: the collection has no such column.
    """
    names = [str(name) for name in asked] if isinstance(asked, (list, tuple, set, frozenset)) else [str(asked)]
    for name in names:
        if name not in columns:
            raise BabelclipError(f"there is no column {shown(name)!r}. {did_you_mean(name, columns)}")
    return [name for name in dict.fromkeys(names) if name != "id"]


def schema_of(columns: Mapping[str, str], dim: int) -> pa.Schema:
    """Returns the Arrow schema of rows: `id`, `vector` (D float32), then the other columns."""
    fields = [pa.field("id", pa.string(), nullable=False), pa.field(VECTOR, pa.list_(pa.float32(), dim))]
    fields += [pa.field(name, ARROW_TYPES[kind]) for name, kind in columns.items() if name != "id"]
    return pa.schema(fields)


def fields_of(names: Iterable[str], columns: Mapping[str, str], dim: int) -> list[pa.Field]:
    """Returns the fields of `names` as answers have them, `vector` (D float32) among them where it is named."""
    kinds = {VECTOR: pa.list_(pa.float32(), dim)}
    return [pa.field(name, kinds[name] if name in kinds else ARROW_TYPES[columns[name]]) for name in names]


def column_types(schema: pa.Schema) -> dict[str, str]:
    """Returns name -> type of the columns of a table; those that fit no type are left out."""
    return {field.name: kind for field in schema if field.name != VECTOR and (kind := type_of(field.type))}


def type_of(kind: pa.DataType) -> str:
    """Returns the column type that keeps values of an Arrow type, "" where none does."""
    tests = (
        ("text", lambda t: pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_string_view(t)),
        ("bool", pa.types.is_boolean),
        ("int", lambda t: pa.types.is_integer(t) and not pa.types.is_uint64(t)),
        ("float", pa.types.is_floating),
        ("time", lambda t: pa.types.is_timestamp(t) or pa.types.is_date(t)),
        ("bytes", lambda t: pa.types.is_binary(t) or pa.types.is_large_binary(t)),
    )
    return next((name for name, is_one in tests if is_one(kind)), "")


def checked_rows(rows: pa.Table | pa.RecordBatch, columns: Mapping[str, str], dim: int) -> pa.Table:
    """Returns rows (N) as every backend takes them: the schema of `schema_of`, vectors of length 1, no NaN.

    A column that is not given is null. NaN in a float column becomes null and -0.0 becomes 0.0, since engines order
    them differently. Vectors are normalised in float64.

    Raises:
        BabelclipError: an unknown column, a value of another type, ids that are missing, empty or occur twice, or a
            vector of another dimension, without direction or not finite. Nothing is written then.
    """
    table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
    for name in table.column_names:
        if name not in columns and name != VECTOR:
            raise BabelclipError(
                f"rows have a column {shown(name)!r} that the collection lacks. {did_you_mean(name, columns)} Columns "
                "are chosen when a collection is made."
            )
    for name in ("id", VECTOR):
        if name not in table.column_names:
            raise BabelclipError(f"rows have no column {name!r}: each row needs an id and a vector.")
    arrays = {"id": _checked_ids(table["id"]), VECTOR: vector_array(unit_rows(vectors_of(table[VECTOR]), dim))}
    for name, kind in columns.items():
        if name != "id":
            arrays[name] = _cast(table, name, ARROW_TYPES[kind])
    schema = schema_of(columns, dim)
    return pa.table([arrays[field.name] for field in schema], schema=schema)


def vectors_of(column: pa.ChunkedArray | pa.Array) -> Vectors:
    """Returns a column of vectors as (N, D) float32.

    Raises:
        BabelclipError: rows are null, or of several dimensions.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if not (
        pa.types.is_fixed_size_list(array.type) or pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
    ):
        raise BabelclipError(f"column {VECTOR!r} holds {array.type}, but a vector is a list of floats.")
    if not len(array):
        return np.zeros((0, 0), np.float32)
    fixed = pa.types.is_fixed_size_list(array.type)
    lengths = [array.type.list_size] if fixed else pc.unique(pc.list_value_length(array)).to_pylist()
    if array.null_count or len(lengths) != 1:
        raise BabelclipError(
            f"vectors of {len(array)} rows have the lengths {lengths[:4]}, but all rows need a vector of one dimension."
        )
    flat = array.flatten().to_numpy(zero_copy_only=False)
    vectors: Vectors = np.ascontiguousarray(flat, np.float32).reshape(len(array), lengths[0])
    return vectors


def vector_array(vectors: Vectors) -> pa.FixedSizeListArray:
    """Returns (N, D) float32 as an Arrow column, without a copy."""
    flat = np.ascontiguousarray(vectors, np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])


def unit_rows(vectors: npt.ArrayLike, dim: int, what: str = "vector") -> Vectors:
    """Returns vectors (N, D) as float32 rows of length 1, normalised in float64; one vector (D,) counts as one row.

    Raises:
        BabelclipError: another shape, a value that is not finite, or a row of zeros; engines answer these with
            nothing, or nonsense, and no error.
    """
    given = np.asarray(vectors)
    given = given[None] if given.ndim == 1 else given
    if given.ndim != 2 or (len(given) and given.shape[1] != dim) or given.dtype.kind not in "fiu":
        raise BabelclipError(
            f"{what}s are {given.shape} of {given.dtype}, but the collection holds vectors of {dim} dimensions: use "
            "the model that the collection was made with."
        )
    if not len(given):
        return np.zeros((0, dim), np.float32)
    exact = given.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0))
    if len(bad):
        raise BabelclipError(
            f"{what} {bad[0]} of {len(given)} {'is zero' if lengths[bad[0]] == 0 else 'holds NaN or infinity'}: "
            "a vector must be finite and have a direction. Encode the picture or text again."
        )
    # Rows of length 1 keep their bytes, so that writing what was read changes nothing.
    lengths[np.abs(lengths - 1) < _UNIT_TOLERANCE] = 1
    units: Vectors = (exact / lengths).astype(np.float32)
    return units


def _checked_ids(column: pa.ChunkedArray) -> pa.Array:
    if type_of(column.type) != "text":
        raise BabelclipError(f"column 'id' holds {column.type}, but ids are text: cast them.")
    array = pa.chunked_array(column.chunks, type=column.type).cast(pa.string())
    names = array.to_pylist()
    if any(not name or "\x00" in name or len(name) > 1024 for name in names):
        bad = next(name for name in names if not name or "\x00" in name or len(name) > 1024)
        raise BabelclipError(f"{shown(bad)!r} cannot be an id: ids are text of 1 to 1,024 characters without NUL.")
    if len(set(names)) != len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise BabelclipError(f"id {shown(twice)!r} occurs twice in {len(names)} rows: an id names one row.")
    return pa.array(names, pa.string())


def _cast(table: pa.Table, name: str, kind: pa.DataType) -> pa.ChunkedArray | pa.Array:
    if name not in table.column_names:
        return pa.nulls(len(table), kind)
    column = table[name]
    try:
        cast = column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise BabelclipError(
            f"column {name!r} holds {column.type}, which does not fit its type {kind} ({shown(error)}): convert it."
        ) from error
    if pa.types.is_floating(kind):
        cast = pc.if_else(pc.is_nan(cast), pa.scalar(None, kind), pc.add(cast, 0.0))
    return cast
