"""Arrow files: IPC files (Feather 2, clip-retrieval's metadata) and IPC streams (the cache of `datasets`)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from babelclip.data import tables
from babelclip.data.tables import RawTable
from babelclip.errors import BabelclipError

SUFFIXES = (".arrow", ".feather", ".ipc")


def is_arrow(path: Path) -> bool:
    """Returns whether the name of `path` ends as Arrow files do."""
    return path.suffix.lower() in SUFFIXES


def iter_arrow(path: Path, wanted: Collection[str], rows: int) -> Iterator[RawTable]:
    """Yields the columns whose names, in lower case, are in `wanted`, as `tables.iter_table` does.

    Raises:
        BabelclipError: the file is missing or damaged, a column is there twice, or neither of text nor of whole
            numbers.
    """
    tables.check_file(path)
    with _ArrowErrors(path), pa.memory_map(str(path)) as file:
        schema, batches = _batches(file)
        names = list(schema.names)
        columns = tables.columns_of(path, schema, wanted)
        start = 0
        for batch in batches:
            for name in columns:
                _check_offsets(batch.column(name))
            for begin in range(0, batch.num_rows, rows):
                part = batch.slice(begin, rows)
                yield _table(path, names, {name.lower(): part.column(name) for name in columns}, part.num_rows, start)
                start += part.num_rows
        if not start:
            empty = schema.empty_table()
            yield _table(path, names, {name.lower(): empty[name] for name in columns}, 0, 0)


def column_types(path: Path) -> dict[str, pa.DataType]:
    """Returns the columns of an Arrow file by name in lower case; raises BabelclipError where it is damaged."""
    tables.check_file(path)
    with _ArrowErrors(path), pa.memory_map(str(path)) as file:
        return {field.name.lower(): field.type for field in _batches(file)[0]}


def count_arrow(path: Path) -> int | None:
    """Returns the number of rows, None for a stream, which does not tell."""
    tables.check_file(path)
    with _ArrowErrors(path), pa.memory_map(str(path)) as file:
        if not _is_file(file):
            return None
        reader = pa.ipc.open_file(file)
        return sum(int(reader.get_batch(number).num_rows) for number in range(reader.num_record_batches))


def _check_offsets(values: pa.Array) -> None:
    """Raises ArrowInvalid where damaged offsets lead out of the file: following them would end the process."""
    plain = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(values.type)
    # Seen as bytes, so that a text that is not UTF-8 costs its row alone.
    (values if plain is None else values.view(plain)).validate(full=True)


def _table(path: Path, names: list[str], columns: dict[str, Any], count: int, start: int) -> RawTable:
    raw = tables.raw_columns(str(path), columns, start, count)
    raw.names = names
    return raw


def _batches(file: Any) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    if _is_file(file):
        reader = pa.ipc.open_file(file)
        return reader.schema, (reader.get_batch(number) for number in range(reader.num_record_batches))
    stream = pa.ipc.open_stream(file)
    return stream.schema, iter(stream)


def _is_file(file: Any) -> bool:
    magic = bytes(file.read(6))
    file.seek(0)
    return magic == b"ARROW1"


class _ArrowErrors:
    """Turns what Arrow raises on a damaged file into a message that names the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        # Damage within the schema comes out of Arrow as whatever it led to.
        if isinstance(error, (pa.ArrowException, OSError, UnicodeDecodeError, SystemError)):
            raise BabelclipError(
                f"{self._path} is not a whole Arrow file ({error}). Feather 2 and Arrow's file and stream formats are "
                "read: copy it or write it again."
            ) from error
