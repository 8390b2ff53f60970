"""Folders of table files: parts of one table, and what `babelclip translate` writes.

    captions/part-0.parquet, part-1.parquet, …                    parts of one table, in order of their names
    train-00000-of-00003.parquet, …                               the same, and a part that lacks is noticed
    DIR/manifest.json, DIR/translations/sv/00000.parquet, …       a translate folder: its translations, by language

Names that begin with a dot or an underscore (half-written files, `_SUCCESS`) are left aside.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from babelclip.data.readers import table_files
from babelclip.data.tables import RawTable
from babelclip.errors import BabelclipError
from babelclip.files import read_object
from babelclip.store.parquet import lacking_parts, numbered_parts

_log = logging.getLogger(__name__)


def is_translation(folder: Path) -> bool:
    """Returns whether `folder` is one that `babelclip translate` wrote."""
    return (folder / "manifest.json").is_file() and (folder / "translations").is_dir()


def source_of_translation(folder: Path) -> str:
    """Returns the name of what a translate folder was made from, as it was given then."""
    source = read_object(folder / "manifest.json").get("source")
    return str(source.get("name", "")) if isinstance(source, dict) else ""


def iter_translation(folder: Path, rows: int, lang: str | None = None) -> Iterator[RawTable]:
    """Yields the translations of a translate folder, in order of languages and then of shards.

    Raises:
        BabelclipError: there are none yet, or one is damaged.
    """
    shards = translation_shards(folder)
    if not shards:
        raise BabelclipError(
            f"{folder} has no translations yet. A translate folder keeps them in translations/<language>/00000.parquet:"
            " run babelclip translate with the same --out to its end."
        )
    if not read_object(folder / "manifest.json").get("complete", True):
        _log.warning(
            "%s is not translated to its end, and what is there is read. The same babelclip translate goes on.", folder
        )
    return table_files.iter_files(shards, rows, lang)


def count_translation(folder: Path) -> int | None:
    """Returns the number of translations in a translate folder."""
    return table_files.count_files(translation_shards(folder))


def translation_shards(folder: Path) -> list[Path]:
    """Returns the shards of a translate folder, by language and then by number."""
    found = (folder / "translations").glob("*/*.parquet")
    return sorted((path for path in found if path.name[0] not in "._"), key=lambda path: (path.parent.name, path.name))


def has_parts(folder: Path) -> bool:
    """Returns whether `folder` itself holds table files."""
    return any(table_files.table_format(path) for path in visible_files(folder))


def iter_parts(folder: Path, rows: int, lang: str | None = None) -> Iterator[RawTable]:
    """Yields the rows of all parts in order of their names.

    Raises:
        BabelclipError: the files are of several formats, of several splits, or one of a numbered set lacks.
    """
    return table_files.iter_files(part_files(folder), rows, lang)


def count_parts(folder: Path) -> int | None:
    """Returns the number of rows of all parts, None where only reading would tell."""
    return table_files.count_files(part_files(folder))


def part_files(folder: Path) -> list[Path]:
    """Returns the parts in `folder` in order of their names; see `iter_parts` for what it raises."""
    found = [path for path in visible_files(folder) if table_files.table_format(path)]
    formats = sorted({table_files.table_format(path) for path in found})
    if len(formats) > 1:
        raise BabelclipError(
            f"{folder} holds tables of several formats: {', '.join(path.name for path in found[:6])}. Parts of one "
            "table have one format: name the file to read instead of the folder."
        )
    names = [path.name for path in found]
    sets = numbered_parts(names)
    if len(sets) > 1:
        raise BabelclipError(
            f"{folder} holds several sets of parts: {', '.join(sorted(sets))}. They are splits, and one is read at a "
            f"time: give hub:{folder}::{sorted(sets)[-1]}, or a folder with the parts of one."
        )
    for name, count, lacking in lacking_parts(names):
        raise BabelclipError(
            f"{folder} has {count - len(lacking)} of the {count} parts of {name!r}; the first that lacks is number "
            f"{lacking[0]}. Rows are numbered over all parts, so all are needed: fetch it again."
        )
    return found


def visible_files(folder: Path) -> list[Path]:
    """Returns the files of `folder` that are neither hidden nor marked as aside, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.name[0] not in "._" and path.is_file())
