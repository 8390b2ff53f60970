"""Pictures in tables: Parquet that holds the picture files, and tables whose rows name picture files.

In Parquet a picture is bytes, or a record `{bytes, path}` as the library `datasets` writes it. Its name in the source
is `part.parquet::key`, with the value of `id`, `key`, … or the path of the record; where there is none, the SHA-256 of
the picture, so that the order of rows says nothing. Memory holds the pictures of a small batch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from babelclip.data import tables
from babelclip.data.readers.parts_folder import visible_files
from babelclip.errors import BabelclipError
from babelclip.models.tar_pictures import in_tar, member_size
from babelclip.search.index_columns import IMAGE, LANG, TEXT, Told, iter_rows, merge
from babelclip.search.index_sources import Found, Wanted, picture_id
from babelclip.search.thumbnails import HeldPicture

PICTURE = ("image", "img", "picture", "photo", "image_bytes", "jpg", "jpeg", "png", "webp", "bytes", "content")
KEYS = ("id", "key", "__key__", "image_id", "uid", "caption_id")
# Pictures that are in memory at once while a table is read: 64 of a few MB.
_ROWS = 64


def parquet_files(source: Path) -> list[Path]:
    """Returns the Parquet files that a source is: itself, or those in it; [] where there is none."""
    if source.is_file():
        return [source] if source.suffix.lower() in (".parquet", ".pq") else []
    return [path for path in visible_files(source) if path.suffix.lower() in (".parquet", ".pq")]


def picture_column(schema: pa.Schema) -> str | None:
    """Returns the column of a table that holds picture files, None without one."""
    by_lower = {field.name.lower(): field for field in schema}
    for name in PICTURE:
        field = by_lower.get(name)
        if field is not None and (_is_binary(field.type) or _is_record(field.type)):
            return str(field.name)
    return None


def walk_parquet(files: Sequence[Path], name: str, wanted: Wanted) -> Iterator[Found]:
    """Yields the pictures that Parquet files hold, in order of their rows; of equal names in a file, the first."""
    for file in files:
        try:
            with tables.ParquetErrors(file):
                yield from _rows_with_pictures(file, name, wanted)
        except BabelclipError as error:
            wanted.problems.add("table cannot be read", f"{file} ({error})", name)


def _rows_with_pictures(file: Path, name: str, wanted: Wanted) -> Iterator[Found]:
    opened = pq.ParquetFile(file)
    column = picture_column(opened.schema_arrow)
    if column is None:
        wanted.problems.add("table without pictures", str(file), name)
        return
    by_lower = {item.lower(): item for item in (*KEYS, *TEXT, *LANG, *wanted.columns)}
    others = [item for item in opened.schema_arrow.names if item.lower() in by_lower and item != column]
    modified, row, seen = file.stat().st_mtime_ns // 1000, 0, set[str]()
    for batch in opened.iter_batches(_ROWS, columns=[column, *others]):
        for record in batch.to_pylist():
            row += 1
            held = record.pop(column)
            told = {by_lower[item.lower()]: value for item, value in record.items()}
            content, path = (held.get("bytes"), held.get("path")) if isinstance(held, dict) else (held, None)
            if not content:
                wanted.problems.add("row without a picture", f"{file}, row {row - 1}")
                continue
            key = str(next((told[item] for item in KEYS if told.get(item) is not None), None) or path or "")
            key = key if key and tables.is_utf8(key) else hashlib.sha256(content).hexdigest()
            if key in seen:
                wanted.problems.add("key that came before in its table", f"{file}::{key}")
                continue
            seen.add(key)
            yield _found(file, key, content, modified, row - 1, told, name, wanted)


def _found(
    file: Path, key: str, content: bytes, modified: int, row: int, told: dict[str, Any], name: str, wanted: Wanted
) -> Found:
    inside = f"{file.name}::{key}"
    entry = Told()
    merge(entry, told, wanted.columns, wanted.lang)
    if wanted.side is not None:
        beside = wanted.side.of(key, inside)
        entry = Told(
            beside.caption or entry.caption, beside.lang if beside.caption else entry.lang, entry.values | beside.values
        )
    held = HeldPicture(f"{file}::{key}", content)
    return Found(
        picture_id(name, inside),
        name,
        inside,
        held,
        len(content),
        modified,
        entry.caption,
        entry.lang if entry.caption else None,
        row,
        entry.values,
    )


def held_file(found: Found) -> str:
    """Returns the Parquet file that holds a picture which `walk_parquet` found.

    Raises:
        BabelclipError: the file is gone.
    """
    folder = str(found.picture).removesuffix(found.path)
    for place, _word in enumerate(found.path):
        if found.path.startswith("::", place) and Path(folder + found.path[:place]).is_file():
            return folder + found.path[:place]
    raise BabelclipError(f"{found.picture} lies in no file that is still there: run the same again.")


def held_pictures(file: Path, rows: Sequence[int], names: Sequence[str]) -> Iterator[tuple[int, HeldPicture]]:
    """Yields the pictures in these rows of a Parquet file, in ascending order, reading only the row groups they are in.

    Raises:
        BabelclipError: the file is damaged, or is another one than it was.
    """
    left = dict(zip(rows, names, strict=True))
    with tables.ParquetErrors(file):
        opened, start = pq.ParquetFile(file), 0
        column = picture_column(opened.schema_arrow)
        for group in range(opened.num_row_groups):
            end = start + opened.metadata.row_group(group).num_rows
            here = [row for row in left if start <= row < end]
            if here and column is not None:
                values = opened.read_row_group(group, columns=[column])[column]
                for row in here:
                    held = values[row - start].as_py()
                    content = held.get("bytes") if isinstance(held, dict) else held
                    yield row, HeldPicture(left.pop(row), content or b"")
            start = end
    if left:
        raise BabelclipError(f"{file} has no row {min(left)} any more: it was changed meanwhile. Run the same again.")


def walk_named(file: Path, root: Path, name: str, wanted: Wanted) -> Iterator[Found]:
    """Yields the files below `root` that the rows of a table name, each once, with all captions, in order of names.

    A name that leads out of `root` is counted and not opened: a table from a stranger must not bring other pictures of
    this machine into a collection that is then served.
    """
    told: dict[str, Told] = {}
    rows: dict[str, int] = {}
    for row, record in enumerate(iter_rows(file, [*IMAGE, *TEXT, *LANG, *wanted.columns])):
        image = next((record[item] for item in IMAGE if record.get(item)), None)
        if not isinstance(image, str) or not tables.is_utf8(image):
            wanted.problems.add("row without a picture", f"{file}, row {row}")
            continue
        image = os.path.normpath(os.path.join(root, image))
        if not image.startswith(f"{root}{os.sep}"):
            wanted.problems.add(f"file outside {root}: give the folder that holds all of them (--image-root)", image)
            continue
        merge(told.setdefault(image, Told()), record, wanted.columns, wanted.lang)
        rows.setdefault(image, row)
    for image in sorted(told):
        entry, path = told[image], Path(image)
        inside = path.relative_to(root).as_posix()
        try:
            size, modified = _facts(path)
        except OSError:
            wanted.problems.add("file that is named, and is not there", str(path))
            continue
        yield Found(
            picture_id(name, inside),
            name,
            inside,
            image,
            size,
            modified,
            entry.caption,
            entry.lang if entry.caption else None,
            rows[image],
            entry.values,
        )


def _facts(path: Path) -> tuple[int, int]:
    inside = in_tar(path)
    if inside is None:
        facts = path.stat()
        return facts.st_size, facts.st_mtime_ns // 1000
    return member_size(*inside), inside[0].stat().st_mtime_ns // 1000


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_record(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    fields = {field.name: field.type for field in kind}
    return "bytes" in fields and _is_binary(fields["bytes"])
