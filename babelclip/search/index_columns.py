"""Captions and metadata of pictures: columns as they are asked for, values as a collection keeps them, side tables.

A side table names pictures in a column (`image`, `filepath`, `file_name`, …) and brings captions and metadata for
sources that have none of their own. It is held in memory: some 200 bytes a row.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from babelclip import languages
from babelclip.data import tables
from babelclip.data.captions import ALIASES
from babelclip.errors import BabelclipError, did_you_mean
from babelclip.search.columns import ARROW_TYPES, all_columns, type_of
from babelclip.storage import shadow

# Names under which tables keep what a caption table keeps, the first that is there.
IMAGE = ("image", *ALIASES["image"])
TEXT = ("text", *ALIASES["text"])
LANG = ("lang", *ALIASES["lang"])
_TRUE, _FALSE = {"true", "yes", "1"}, {"false", "no", "0"}
_ROWS = 8192


@dataclasses.dataclass
class Told:
    """What a side table says of one picture."""

    caption: str | None = None
    lang: str | None = None
    values: dict[str, Any] = dataclasses.field(default_factory=dict)


class Side:
    """Captions and metadata by picture."""

    def __init__(self, told: Mapping[str, Told]) -> None:
        self._told = told
        self.used: set[str] = set()

    def __len__(self) -> int:
        return len(self._told)

    def of(self, path: str, picture: str) -> Told:
        """Returns what is said of the picture at `path` in its source, or else by its absolute path."""
        for name in (path, picture):
            if name in self._told:
                self.used.add(name)
                return self._told[name]
        return Told()


def parse_columns(asked: Sequence[str]) -> dict[str, str]:
    """Returns name -> type of metadata columns told as `name` or `name:type`; "" where no type is told.

    Raises:
        BabelclipError: a name or type is not allowed, or a name is that of a fixed column.
    """
    columns: dict[str, str] = {}
    for words in (part.strip() for item in asked for part in item.split(",") if part.strip()):
        name, colon, kind = words.partition(":")
        if colon and kind not in ARROW_TYPES:
            raise BabelclipError(
                f"column {words!r} is of type {kind!r}, which is not known. {did_you_mean(kind, ARROW_TYPES)} Columns "
                "are told as name or name:type, for example --columns licence,year:int."
            )
        columns[name] = kind
    all_columns({name: kind or "text" for name, kind in columns.items()})
    return columns


def read_side(file: Path | str, columns: Mapping[str, str], lang: str | None = None) -> Side:
    """Returns captions and metadata of a table: Parquet, JSONL, CSV, TSV, by the column that names the picture.

    Several rows of one picture give its captions line by line; metadata are those of the first row that has any.

    Raises:
        BabelclipError: the file is missing or damaged, or no column names pictures.
    """
    told: dict[str, Told] = {}
    for row in iter_rows(shadow(file), [*IMAGE, *TEXT, *LANG, *columns]):
        image = next((row[name] for name in IMAGE if row.get(name)), None)
        if not isinstance(image, str):
            continue
        entry = told.setdefault(image, Told())
        merge(entry, row, columns, lang)
    if not told:
        raise BabelclipError(
            f"{file} names no picture: captions and metadata belong to the picture that a column names (one of "
            f"{', '.join(IMAGE)}), relative to the folder of pictures. Add such a column."
        )
    return Side(told)


def merge(entry: Told, row: Mapping[str, Any], columns: Mapping[str, str], lang: str | None) -> None:
    """Adds to `entry` what one row of a table says."""
    text = next((row[name] for name in TEXT if row.get(name)), None)
    code = language_of(row, lang)
    caption = joined_captions(text if isinstance(text, list) else [text])
    if caption:
        if entry.caption and entry.lang != code:
            code = None  # captions of several languages
        entry.caption = f"{entry.caption}\n{caption}" if entry.caption else caption
        entry.lang = code
    for name, kind in columns.items():
        if entry.values.get(name) is None:
            entry.values[name] = converted(row.get(name), kind)


def language_of(row: Mapping[str, Any], default: str | None) -> str | None:
    """Returns the language that a row names, as BCP-47; else `default`."""
    code = next((row[name] for name in LANG if row.get(name)), None)
    try:
        return languages.normalize(code) if isinstance(code, str) else default
    except BabelclipError:
        return default


def joined_captions(captions: Sequence[Any]) -> str | None:
    """Returns captions line by line, each once; None where none is a text with something in it, in valid Unicode."""
    usable = (item.strip() for item in captions if isinstance(item, str) and item.strip() and tables.is_utf8(item))
    lines = list(dict.fromkeys(" ".join(item.split()) for item in usable))
    return "\n".join(lines) if lines else None


def iter_rows(file: Path, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields the rows of a table with the wanted columns that it has, by the names asked for, in upper or lower case.

    Raises:
        BabelclipError: the file is missing, of another format, or damaged.
    """
    tables.check_file(file)
    by_lower = {name.lower(): name for name in wanted}
    if tables.file_format(file) == ".parquet":
        with tables.ParquetErrors(file):
            opened = pq.ParquetFile(file)
            names = [name for name in opened.schema_arrow.names if name.lower() in by_lower]
            for batch in opened.iter_batches(_ROWS, columns=names):
                for row in batch.to_pylist():
                    yield {by_lower[name.lower()]: value for name, value in row.items()}
        return
    for part in tables.iter_table(file, set(by_lower), _ROWS):
        columns = {by_lower[name]: values.to_pylist() for name, values in part.columns.items()}
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True))


def with_types(columns: Mapping[str, str], schema: pa.Schema | None) -> dict[str, str]:
    """Returns columns with a type for each: the one told, else that of the table's column, else text."""
    fields = {field.name.lower(): field.type for field in schema} if schema is not None else {}
    found = {name: type_of(fields[name.lower()]) if name.lower() in fields else "" for name in columns}
    return {name: kind or found[name] or "text" for name, kind in columns.items()}


def converted(value: Any, kind: str) -> Any:
    """Returns a value of a source in the type of its column; None where it does not fit."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    try:
        if kind == "text":
            text = value if isinstance(value, str) else str(value)
            return text if tables.is_utf8(text) else None
        if kind == "bool":
            word = str(value).lower()
            return True if word in _TRUE else False if word in _FALSE else None
        if kind == "int":
            number = int(value)
            return number if -(1 << 63) <= number < 1 << 63 else None
        if kind == "float":
            return float(value)
        if kind == "time":
            return _time(value)
        return value if isinstance(value, bytes) else None
    except (ValueError, TypeError, OverflowError):
        return None


def _time(value: Any) -> datetime.datetime | None:
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    if isinstance(value, datetime.datetime):
        time = value
    else:
        time = datetime.datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    return time if time.tzinfo is not None else time.replace(tzinfo=datetime.timezone.utc)
