"""Tables of text as they come from files: columns of strings, and what could not be read with its line.

One reader per format gives a `RawTable`; what the columns mean is said by `babelclip.data.captions`.

* **JSONL**: one object a line. **CSV**: RFC 4180 with a header row; quoted values may span lines. **TSV**: a header
  row, and no quoting: a quotation mark is a character like any other. **Parquet**: columns of text or whole numbers.
  **Lines**: one text a line, no header.
* Each may be gzipped. A byte order mark is dropped; lines end in LF or CRLF. Whole numbers become their decimal text.
* Bytes that are not UTF-8 come as lone surrogates, which no valid text contains, so that such a row is found and
  left out by itself.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import dataclasses
import gzip
import io
import json
import re
import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from babelclip.errors import BabelclipError, closest
from babelclip.storage import present

FORMATS = (".parquet", ".jsonl", ".csv", ".tsv")
BLANK = "blank line"
NOT_OBJECT = "not a JSON object"
NOT_TEXT = "value is not text"
NOT_UTF8 = "not UTF-8"
WRONG_COLUMNS = "wrong number of columns"

_OTHER_NAMES = {".pq": ".parquet", ".ndjson": ".jsonl", ".tab": ".tsv"}
_SURROGATE = re.compile("[\ud800-\udfff]")
# Far above any caption: a quotation mark that is never closed ends here instead of eating the memory.
_LARGEST_CSV_VALUE = 1 << 24


@dataclasses.dataclass
class RawTable:
    """N rows of strings.

    Attributes:
        source: the file, for messages.
        names: the names of all columns there, those not wanted included.
        columns: values of the wanted columns by name in lower case, (N,) Arrow strings, null where a value lacks.
        places: (N,) int64, where each row begins: the line, counted from 1, or for Parquet the row, from 0.
        positions: (N,) int64, number of each row in the file, counted from 0 with those that were left out.
        skipped: number of rows left out, by reason.
        first_skipped: place and reason of the first of them.
        unit: what `places` counts, `line` or `row`.
    """

    source: str
    names: list[str]
    columns: dict[str, pa.ChunkedArray]
    places: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    skipped: Counter[str] = dataclasses.field(default_factory=Counter)
    first_skipped: tuple[int, str] | None = None
    unit: str = "line"


def file_format(path: Path) -> str:
    """Returns which of `FORMATS` the name of `path` tells, with or without `.gz`.

    Raises:
        BabelclipError: it tells another or none.
    """
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    suffix = _OTHER_NAMES.get(suffix, suffix)
    if suffix not in FORMATS:
        raise BabelclipError(
            f"{path} has the ending {suffix!r}. Captions are kept in {', '.join(FORMATS)}: convert the file or rename "
            "it; one text a line is read as train.sv or moses:train.en,train.sv (docs/formats.md)."
        )
    return suffix


def read_table(path: Path, wanted: Collection[str]) -> RawTable:
    """Returns the columns of `path` whose names, in lower case, are in `wanted`.

    Raises:
        BabelclipError: the file is missing, of another format, or damaged.
    """
    return next(iter_table(path, wanted, None))


def iter_table(path: Path, wanted: Collection[str], rows: int | None) -> Iterator[RawTable]:
    """Yields what `read_table` returns in parts of `rows` rows of the file, one part at least; None: in one.

    In JSONL a part has the columns of the lines up to its end. Memory depends on `rows` and not on the file.

    Raises:
        BabelclipError: as `read_table`; damage is met where it lies.
    """
    check_file(path)
    readers = {".parquet": _iter_parquet, ".jsonl": _iter_jsonl, ".csv": _iter_csv, ".tsv": _iter_tsv}
    with GzipErrors(path):
        yield from readers[file_format(path)](path, wanted, rows)


def read_plain_lines(path: Path) -> list[str]:
    """Returns the lines of a text file without their ends; bytes that are not UTF-8 come as lone surrogates."""
    return list(iter_plain_lines(path))


def iter_plain_lines(path: Path) -> Iterator[str]:
    """Yields what `read_plain_lines` returns, line by line."""
    check_file(path)
    with GzipErrors(path), _open_text(path) as file:
        for line in file:
            yield _without_end(line)


def count_rows(path: Path) -> int | None:
    """Returns about how many rows a file has, None where only reading it all would tell (.gz).

    Lines are counted for text, so CSV values with line ends make it too large.
    """
    check_file(path)
    kind = file_format(path)
    if path.name.lower().endswith(".gz"):
        return None
    if kind == ".parquet":
        with ParquetErrors(path):
            return int(pq.ParquetFile(path).metadata.num_rows)
    with path.open("rb") as file:
        lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    return lines if kind == ".jsonl" else max(0, lines - 1)


def raw_columns(source: str, columns: dict[str, Any], start: int = 0, count: int = 0) -> RawTable:
    """Returns a table of columns in memory, of one length; values are text, whole numbers or None.

    `start` is the number of the first row, `count` the number of rows where no column is given.
    """
    arrays: dict[str, pa.ChunkedArray] = {}
    problems: dict[int, str] = {}
    for name, values in columns.items():
        arrays[name], found = _strings(values)
        problems.update({**found, **problems})
    count = len(next(iter(arrays.values()))) if arrays else count
    kept = np.setdiff1d(np.arange(count), list(problems))
    if problems:
        arrays = {name: array.take(pa.array(kept)) for name, array in arrays.items()}
    first = min(((start + row, problem) for row, problem in problems.items()), default=None)
    kept = kept + start
    return RawTable(source, list(columns), arrays, kept, kept, Counter(problems.values()), first, unit="row")


def without(raw: RawTable, bad: npt.NDArray[np.bool_], reason: str) -> RawTable:
    """Returns `raw` without the rows of the mask `bad` (N,), which are counted under `reason`."""
    if not bad.any():
        return raw
    keep, first = ~bad, (int(raw.places[np.argmax(bad)]), reason)
    return dataclasses.replace(
        raw,
        columns={name: values.filter(pa.array(keep)) for name, values in raw.columns.items()},
        places=raw.places[keep],
        positions=raw.positions[keep],
        skipped=raw.skipped + Counter({reason: int(bad.sum())}),
        first_skipped=min(raw.first_skipped or first, first),
    )


def with_skipped(table: RawTable, origin: RawTable) -> RawTable:
    """Returns `table`, made from `origin`, with what was left out of that counted too."""
    firsts = [first for first in (table.first_skipped, origin.first_skipped) if first is not None]
    skipped = table.skipped + origin.skipped
    return dataclasses.replace(table, skipped=skipped, first_skipped=min(firsts, default=None), unit=origin.unit)


def is_utf8(text: str) -> bool:
    """Returns whether `text` came from valid UTF-8."""
    return text.isascii() or _SURROGATE.search(text) is None


class RowCollector:
    """Gathers a `RawTable` row by row, in the order of `columns`; several, one after the other, if asked to."""

    def __init__(self, source: str, columns: Iterable[str]) -> None:
        self._source = source
        self.columns: dict[str, list[str | None]] = {name: [] for name in columns}
        self._places: list[int] = []
        self._positions: list[int] = []
        self._problems: list[tuple[int, str]] = []

    def add_column(self, name: str) -> None:
        """Takes a column that the rows so far did not have; it is null there."""
        self.columns[name] = [None] * len(self._places)

    def add(self, line: int, position: int, values: Iterable[Any], problem: str | None = None) -> None:
        """Takes one row, values in the order of the columns; or counts it under `problem`, its own or a value's."""
        texts = []
        for value in values if problem is None else ():
            text, problem = _text_of(value)
            if problem:
                break
            texts.append(text)
        if problem is not None:
            self._problems.append((line, problem))
            return
        self._places.append(line)
        self._positions.append(position)
        for column, text in zip(self.columns.values(), texts, strict=True):
            column.append(text)

    def table(self, names: Iterable[str]) -> RawTable:
        """Returns what was gathered and starts anew; `names` are those of all columns of the file."""
        gathered = RawTable(
            self._source,
            list(names),
            {name: _chunked(pa.array(values, pa.string())) for name, values in self.columns.items()},
            np.array(self._places, np.int64),
            np.array(self._positions, np.int64),
            Counter(problem for _, problem in self._problems),
            min(self._problems, key=lambda problem: problem[0], default=None),
        )
        self.columns = {name: [] for name in self.columns}
        self._places, self._positions, self._problems = [], [], []
        return gathered


# -- one reader per format -------------------------------------------------------------------------------------------


def _iter_jsonl(path: Path, wanted: Collection[str], rows: int | None) -> Iterator[RawTable]:
    names: dict[str, None] = {}
    collector = RowCollector(str(path), ())
    with _open_text(path) as file:
        for position, line in enumerate(file):
            if rows and position and position % rows == 0:
                yield collector.table(names)
            row, problem = _json_object(line)
            found = {name.lower(): value for name, value in row.items()}
            for name in found.keys() - names.keys():
                names[name] = None
                if name in wanted:
                    collector.add_column(name)
            collector.add(position + 1, position, map(found.get, collector.columns), problem)
    yield collector.table(names)


def _json_object(line: str) -> tuple[dict[str, Any], str | None]:
    """Returns (the object in a line, problem)."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}, BLANK if not line.strip() else NOT_OBJECT if is_utf8(line) else NOT_UTF8
    return (row, None) if isinstance(row, dict) else ({}, NOT_OBJECT)


def _iter_csv(path: Path, wanted: Collection[str], rows: int | None) -> Iterator[RawTable]:
    with _open_text(path) as file:
        yield from _iter_rows(path, _csv_rows(path, file), wanted, rows)


def _csv_rows(path: Path, file: TextIO) -> Iterator[tuple[int, list[str]]]:
    """Yields the line where each row begins, and the row."""
    limit = csv.field_size_limit(_LARGEST_CSV_VALUE)
    reader, begin = csv.reader(file, strict=True), 1
    try:
        for row in reader:
            yield begin, row
            begin = reader.line_num + 1
    except csv.Error as error:
        raise BabelclipError(
            f"{path}, line {begin}: {error}. CSV puts values that contain commas, quotation marks or line ends into "
            "quotation marks and doubles those within: write the file again with a CSV library, or use JSONL."
        ) from error
    finally:
        csv.field_size_limit(limit)


def _iter_tsv(path: Path, wanted: Collection[str], rows: int | None) -> Iterator[RawTable]:
    with _open_text(path) as file:
        lines = enumerate(map(_without_end, file), 1)
        split = ((number, line.split("\t") if line else []) for number, line in lines)
        yield from _iter_rows(path, split, wanted, rows)


def _iter_rows(
    path: Path, content: Iterator[tuple[int, list[str]]], wanted: Collection[str], rows: int | None
) -> Iterator[RawTable]:
    """Yields the tables of `content`, which begins with the header; a row [] is a blank line."""
    header = [name.strip().lower() for name in next(content, (1, []))[1]]
    _check_distinct(path, [name for name in header if name in wanted])
    columns = {name: place for place, name in enumerate(header) if name in wanted}
    collector = RowCollector(str(path), columns)
    for position, (line, row) in enumerate(content):
        if rows and position and position % rows == 0:
            yield collector.table(header)
        problem = None if len(row) == len(header) else WRONG_COLUMNS if row else BLANK
        collector.add(line, position, (row[place] for place in columns.values()), problem)
    yield collector.table(header)


def _iter_parquet(path: Path, wanted: Collection[str], rows: int | None) -> Iterator[RawTable]:
    with contextlib.ExitStack() as opened, ParquetErrors(path):
        source: Any = path
        if path.name.lower().endswith(".gz"):
            # Parquet is read from its end, and gzip only from its beginning.
            source = opened.enter_context(tempfile.TemporaryFile())
            with gzip.open(path, "rb") as packed:
                shutil.copyfileobj(packed, source, 1 << 20)
        # A row group may hold the whole file: it is read through a buffer, and not ahead.
        whole = rows is None
        reader = pq.ParquetFile(source, buffer_size=0 if whole else 1 << 18, pre_buffer=whole)
        file = opened.enter_context(reader)
        names = list(file.schema_arrow.names)
        columns = columns_of(path, file.schema_arrow, wanted)
        if not columns:
            none = np.empty(0, np.int64)
            yield RawTable(str(path), names, {}, none, none, unit="row")
            return
        parts = iter([file.read(columns=columns)]) if rows is None else file.iter_batches(rows, columns=columns)
        start = 0
        for part in parts:
            table = raw_columns(str(path), {name.lower(): part[name] for name in columns}, start)
            table.names = names
            yield table
            start += part.num_rows
        if not start and rows is not None:
            empty = file.schema_arrow.empty_table()
            yield raw_columns(str(path), {name.lower(): empty[name] for name in columns})


def is_text_or_integer(kind: pa.DataType) -> bool:
    """Returns whether values of an Arrow type are text, bytes, whole numbers or null, perhaps dictionary-coded."""
    if pa.types.is_nested(kind):
        return False
    name = str(getattr(kind, "value_type", kind))
    return bool(re.fullmatch(r"null|u?int\d+|(large_)?(string|binary)|(string|binary)_view", name))


def columns_of(path: Path, schema: pa.Schema, wanted: Collection[str]) -> list[str]:
    """Returns the columns whose names, in lower case, are in `wanted`; pictures within a table are left there.

    Raises:
        BabelclipError: one is there twice, or neither of text nor of whole numbers.
    """
    fields = [field for field in schema if field.name.lower() in wanted and not _holds_pictures(field.type)]
    _check_distinct(path, [field.name.lower() for field in fields])
    for field in fields:
        if not is_text_or_integer(field.type):
            raise BabelclipError(
                f"{path}: column {field.name!r} has type {field.type}. Captions take columns of text, or of whole "
                "numbers: convert it, for example to one row per text instead of a list of texts."
            )
    return [field.name for field in fields]


def _holds_pictures(kind: pa.DataType) -> bool:
    """Returns whether a column is as `datasets` writes pictures: {bytes, path}."""
    return isinstance(kind, pa.StructType) and kind.get_field_index("bytes") >= 0


# -- parts -----------------------------------------------------------------------------------------------------------


def check_file(path: Path) -> None:
    """Does nothing where `path` is a file; one in object storage is fetched.

    Raises:
        BabelclipError: it is not; names a file with a similar name.
    """
    if path.is_file():
        present(path)
        return
    near = closest(path.name, [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else [])
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else "Check the path."
    raise BabelclipError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}, and a file is needed. {hint}")


def _check_distinct(path: Path, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BabelclipError(
            f"{path} has the column {twice[0]!r} more than once (upper and lower case are the same). A column occurs "
            "once: rename or remove the others."
        )


def _open_text(path: Path) -> TextIO:
    """Returns a text file, gzipped or not, open for reading; only LF ends a line.

    Raises:
        BabelclipError: it is UTF-16, as Excel's "Unicode text" is: no line of it could be used.
    """
    opened: Any = gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")
    try:
        begin = opened.peek(2)[:2]
    except BaseException:
        opened.close()
        raise
    if begin in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        opened.close()
        raise BabelclipError(f"{path} is text in UTF-16, and captions are read in UTF-8: save it again as UTF-8.")
    return io.TextIOWrapper(opened, encoding="utf-8-sig", errors="surrogateescape", newline="\n")


class ParquetErrors:
    """Turns what Arrow raises on a damaged file into a message that names the file; it is fetched where it must be."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        present(self._path)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        # gzip's own error is an OSError as well.
        if isinstance(error, (pa.ArrowException, OSError, UnicodeDecodeError)) and not isinstance(
            error, gzip.BadGzipFile
        ):
            raise BabelclipError(
                f"{self._path} is not a whole Parquet file ({error}): copy it or write it again."
            ) from error


class GzipErrors:
    """Turns what gzip raises on a damaged file into a message that names the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (EOFError, gzip.BadGzipFile, zlib.error)):
            raise BabelclipError(
                f"{self._path} is not a whole gzip file ({error}): copy it again from where it came from."
            ) from error


def _without_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


def _text_of(value: Any) -> tuple[str | None, str | None]:
    """Returns (value as text, problem)."""
    if value is None:
        return None, None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if isinstance(value, str):
        return (value, None) if is_utf8(value) else (None, NOT_UTF8)
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return str(value), None
    return None, NOT_TEXT


def _strings(values: Any) -> tuple[pa.ChunkedArray, dict[int, str]]:
    """Returns values as Arrow strings, and the problem of each row that has one (its value is null)."""
    try:
        if not isinstance(values, (pa.Array, pa.ChunkedArray)):
            return _chunked(pa.array(values, pa.string())), {}
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            # Another tool may have stored any bytes as text, and only the cast from bytes looks at them.
            values = values.cast(pa.binary())
        return _chunked(values.cast(pa.string())), {}
    except (pa.ArrowException, UnicodeError, TypeError, ValueError):
        # Some value is of another type or is not UTF-8: value by value, to name the row.
        if isinstance(values, (pa.Array, pa.ChunkedArray)):
            values = values.cast(pa.binary()) if str(values.type).endswith("string") else values
            values = values.to_pylist()
        pairs = [_text_of(value) for value in values]
        problems = {row: problem for row, (_, problem) in enumerate(pairs) if problem is not None}
        return _chunked(pa.array([text for text, _ in pairs], pa.string())), problems


def _chunked(values: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    return values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
