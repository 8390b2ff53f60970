"""What the columns of clip-retrieval's metadata, and of an `EmbeddingStore`, become in a collection."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from babelclip.search.columns import ARROW_TYPES, FIXED, all_columns, type_of

# Columns that others call differently; `image` and `text` are those of an EmbeddingStore of captions or pictures.
_NAMES = {"image_path": "path", "image": "path", "text": "caption"}
# Where ids come from, first found first; without one, the position.
_IDS = ("store_id",)


@dataclass(frozen=True)
class ForeignColumns:
    """How the columns of a table become those of a collection.

    Attributes:
        sources: name in the collection -> name there.
        own: name -> type of the columns that are not fixed ones.
        id: the column of ids there, "" where a row is known by its position.
    """

    sources: Mapping[str, str]
    own: Mapping[str, str]
    id: str

    @property
    def columns(self) -> dict[str, str]:
        """Name -> type of all columns of the collection."""
        return all_columns(self.own)


def foreign_columns(schema: pa.Schema, id_column: str = "", *, ours: bool = True) -> ForeignColumns:
    """Returns what the columns of `schema` become.

    Names that a collection cannot have (`exif.iso`) get underscores; one that is taken, or whose type differs from
    that of the fixed column, becomes `original_<name>`. Types that no column keeps become JSON text.

    Args:
        schema: of the table.
        id_column: of its ids; "" for `store_id`, or positions.
        ours: whether babelclip wrote it. Elsewhere `group` is anything, and not near duplicates, which searches fold.
    """
    id_column = id_column or next((name for name in _IDS if name in schema.names), "")
    sources: dict[str, str] = {}
    own: dict[str, str] = {}
    for field in schema:
        if field.name == id_column:
            continue
        kind = type_of(field.type) or "text"
        name = _NAMES.get(field.name, field.name)
        fixed = name in FIXED and name != "id" and (ours or name != "group")
        if fixed and FIXED[name] == kind and name not in sources:
            sources[name] = field.name
            continue
        name = free_name(field.name, {*FIXED, *own})
        own[name], sources[name] = kind, field.name
    return ForeignColumns(sources, own, id_column)


def free_name(name: str, taken: set[str]) -> str:
    """Returns a name that a column can have and that is not taken, close to `name`."""
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)[:48] or "column"
    plain = plain if plain[0].isalpha() else f"c_{plain}"
    lower = {other.lower() for other in taken} | {"vector", "score", "query", "rank"}
    if plain.lower() not in lower:
        return plain
    plain, number = f"original_{plain}", 2
    while plain.lower() in lower:
        plain, number = f"{plain.rstrip('0123456789')}{number}", number + 1
    return plain


def foreign_rows(table: pa.Table, known: ForeignColumns, start: int) -> pa.Table:
    """Returns the rows (N) of a foreign table as those of a collection, without vectors.

    Args:
        table: any of the columns that `known` names.
        known: what they become.
        start: position of the first row in its source.
    """
    positions = pa.array(np.arange(start, start + len(table)))
    ids = table[known.id].cast(pa.string()) if known.id else positions.cast(pa.string())
    arrays = {"id": ids, "source_row": positions}
    columns = known.columns
    for name, there in known.sources.items():
        if there in table.column_names:
            arrays[name] = converted(table[there], ARROW_TYPES[columns[name]])
    return pa.table(arrays)


def converted(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | pa.Array:
    """Returns a column in the type of a collection; values of types that it lacks as JSON text."""
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    if column.type == kind:
        return column
    if type_of(column.type) or pa.types.is_null(column.type):
        if pa.types.is_timestamp(column.type) and column.type.tz is None:
            column = pc.assume_timezone(column, "UTC")
        return column.cast(kind, safe=not pa.types.is_timestamp(kind))
    values = column.to_pylist()
    return pa.array([None if v is None else json.dumps(v, default=str, ensure_ascii=False) for v in values], kind)
