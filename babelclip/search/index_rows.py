"""Rows of a collection from what a source has and what decoding and the model gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from babelclip.search.columns import VECTOR, schema_of, vector_array
from babelclip.search.index_known import at
from babelclip.search.index_sources import Found
from babelclip.search.thumbnails import Look


def table_of(
    found: Sequence[Found],
    looks: Sequence[Look | None],
    vectors: npt.NDArray[np.float32],
    columns: Mapping[str, str],
) -> pa.Table:
    """Returns N rows with the `columns` of a collection.

    Args:
        found: N pictures.
        looks: what decoding gave, None where there is no picture file.
        vectors: (N, D) float32, rows of length 1.
        columns: name -> type of the collection.
    """
    rows = [row_of(item, look) for item, look in zip(found, looks, strict=True)]
    return rows_table(rows, vectors, columns)


def row_of(found: Found, look: Look | None) -> dict[str, Any]:
    """Returns the values of one row by column."""
    row: dict[str, Any] = {
        "id": found.id,
        "source": found.source,
        "path": found.path,
        "caption": found.caption,
        "lang": found.lang,
        "bytes": found.size,
        "modified": at(found.modified),
        "source_row": found.row,
        **found.values,
    }
    return row if look is None else row | values_of(look)


def values_of(look: Look) -> dict[str, Any]:
    """Returns the values of a row that decoding gave, by column."""
    return {
        "width": look.width,
        "height": look.height,
        "bytes": look.size,
        "sha256": look.sha256,
        "colour": look.colour,
        "thumbnail": look.thumbnail,
    }


def rows_table(
    rows: Sequence[Mapping[str, Any]], vectors: npt.NDArray[np.float32], columns: Mapping[str, str]
) -> pa.Table:
    """Returns rows given as values by column, with their vectors (N, D); a value that lacks is null."""
    schema = schema_of(columns, vectors.shape[1])
    arrays = [
        vector_array(vectors) if field.name == VECTOR else pa.array([row.get(field.name) for row in rows], field.type)
        for field in schema
    ]
    return pa.table(arrays, schema=schema)


def told_over(row: Mapping[str, Any], found: Found) -> dict[str, Any]:
    """Returns a row of the collection with what a source says now; what it does not say stays."""
    told = {"caption": found.caption, "lang": found.lang, **found.values}
    return {
        **row,
        **{name: value for name, value in told.items() if value is not None},
        "bytes": found.size,
        "modified": at(found.modified),
        "source_row": found.row,
        "source": found.source,
        "path": found.path,
    }
