"""Table files, one or many in a row: Parquet, JSONL, CSV, TSV, and Arrow or Feather.

Several files read as one: a row without id gets the number of the row in all of them, so that ids stay distinct.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from babelclip.data import tables
from babelclip.data.captions import COLUMN_NAMES
from babelclip.data.parts import one_naming
from babelclip.data.tables import RawTable


def iter_file(path: Path, rows: int, lang: str | None = None) -> Iterator[RawTable]:
    """Yields the rows of one table file in parts of `rows`.

    Raises:
        BabelclipError: the file is missing, of another format, or damaged.
    """
    return iter_files([path], rows, lang)


def iter_files(paths: Sequence[Path], rows: int, lang: str | None = None) -> Iterator[RawTable]:
    """Yields the rows of several table files as if they were one.

    Raises:
        BabelclipError: as `iter_file`; or the columns for text and id differ between them.
    """
    del lang  # columns or the caller's default name it
    return one_naming(renumbered(tables.iter_table(path, COLUMN_NAMES, rows) for path in paths))


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


def count_files(paths: Iterable[Path], count: Callable[[Path], int | None] = tables.count_rows) -> int | None:
    """Returns how many rows the files have together, None where one of them does not tell."""
    total = 0
    for path in paths:
        rows = count(path)
        if rows is None:
            return None
        total += rows
    return total
