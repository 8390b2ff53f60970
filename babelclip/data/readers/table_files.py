"""Table files, one or many in a row: Parquet, JSONL, CSV, TSV, and Arrow or Feather.

Several files read as one: a row without id gets the number of the row in all of them, so that ids stay distinct. The
columns decide what a row is: a caption (`babelclip.data.captions`), a row of M-CLIP's translations (`mclip`), or a text
beside its translation (`pairs`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from babelclip.data import tables
from babelclip.data.captions import COLUMN_NAMES
from babelclip.data.parts import one_naming
from babelclip.data.readers import arrow_files, mclip, pairs
from babelclip.data.tables import RawTable
from babelclip.errors import BabelclipError


def is_table(path: Path) -> bool:
    """Returns whether the name of `path` ends as table files do."""
    return bool(table_format(path))


def table_format(path: Path) -> str:
    """Returns the format that the name of `path` tells, "" where it tells none."""
    if arrow_files.is_arrow(path):
        return ".arrow"
    try:
        return tables.file_format(path)
    except BabelclipError:
        return ""


def iter_file(path: Path, rows: int, lang: str | None = None) -> Iterator[RawTable]:
    """Yields the rows of one table file in parts of `rows`.

    Raises:
        BabelclipError: the file is missing, of another format, or damaged.
    """
    return iter_files([path], rows, lang)


def iter_files(paths: Sequence[Path], rows: int, lang: str | None = None) -> Iterator[RawTable]:
    """Yields the rows of several table files as if they were one.

    Args:
        paths: at least one.
        rows: rows of a file in a part.
        lang: language of the translations where a text and its translation are side by side.

    Raises:
        BabelclipError: as `iter_file`; or the columns for text and id differ between the files.
    """
    wanted, convert = reading(column_types(paths[0]), lambda: pairs.language_of(paths[0], lang))
    parts = renumbered(iter_columns(path, wanted, rows) for path in paths)
    return one_naming(convert(raw) for raw in parts)


def reading(
    types: dict[str, pa.DataType | None], lang: Callable[[], str | None]
) -> tuple[Sequence[str], Callable[[RawTable], RawTable]]:
    """Returns which columns to read of a table that has `types`, and what makes captions of its rows."""
    if mclip.is_mclip(types):
        index = types.get("index")
        # A number with a fraction, as data frames make of whole ones, would count as no text.
        is_whole = index is not None and pa.types.is_integer(index)
        return [name for name in mclip.COLUMNS if name != "index" or is_whole], mclip.to_captions
    pair = pairs.pair_of(types)
    if pair and not {"text", "caption", "sentence"} & set(types):
        return pair, lambda raw: pairs.to_captions(raw, lang())
    return COLUMN_NAMES, lambda raw: raw


def iter_columns(path: Path, wanted: Sequence[str], rows: int) -> Iterator[RawTable]:
    """Yields the columns of one table file whose names, in lower case, are in `wanted`."""
    if arrow_files.is_arrow(path):
        return arrow_files.iter_arrow(path, wanted, rows)
    return tables.iter_table(path, wanted, rows)


def column_types(path: Path) -> dict[str, pa.DataType | None]:
    """Returns the columns of a table file, names in lower case; the type is None where the format has none.

    For JSONL these are the names of its first line.
    """
    if arrow_files.is_arrow(path):
        return dict(arrow_files.column_types(path))
    if table_format(path) == ".parquet" and not path.name.lower().endswith(".gz"):
        tables.check_file(path)
        with tables.ParquetErrors(path):
            return {field.name.lower(): field.type for field in pq.read_schema(path)}
    return {name.lower(): None for raw in _first(tables.iter_table(path, (), 1)) for name in raw.names}


def renumbered(files: Iterable[Iterator[RawTable]]) -> Iterator[RawTable]:
    """Yields the parts of all files; positions go on from file to file, rows that were left out counted."""
    start = 0
    for parts in files:
        count = 0
        for raw in parts:
            count += len(raw.places) + sum(raw.skipped.values())
            raw.positions = raw.positions + np.int64(start)
            yield raw
        start += count


def count_file(path: Path) -> int | None:
    """Returns about how many rows a table file gives, None where only reading tells."""
    count = arrow_files.count_arrow(path) if arrow_files.is_arrow(path) else tables.count_rows(path)
    types = column_types(path)
    if count is None:
        return None
    return count * (mclip.count_texts(types) if mclip.is_mclip(types) else 2 if pairs.pair_of(types) else 1)


def count_files(paths: Iterable[Path]) -> int | None:
    """Returns about how many rows the files give together, None where one of them does not tell."""
    total = 0
    for path in paths:
        rows = count_file(path)
        if rows is None:
            return None
        total += rows
    return total


def _first(parts: Iterator[RawTable]) -> Iterator[RawTable]:
    for raw in parts:
        yield raw
        return
