"""Folders in which a text lies beside each picture: `dog.jpg` and `dog.txt`, in any folders below.

The text is UTF-8 with one caption a line; blank lines are no captions. `image` is the path relative to the folder, the
id that path without its ending; of several captions the ids end in `#1`, `#2`, … A picture without text and a text
without picture are counted. Hidden files and folders are left aside, links to folders are not followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from babelclip.data import tables
from babelclip.data.images import picture_suffixes, report_left_out
from babelclip.data.tables import RawTable
from babelclip.storage import present

WITHOUT_TEXT = "picture without text"
WITHOUT_PICTURE = "text without picture"
UNREADABLE = "text cannot be opened"

_COLUMNS = ("id", "text", "image")
# A text beside a picture is a few lines. What is longer is something else, and is not read into memory.
LARGEST_TEXT = 1 << 20
TOO_LONG = "text of more than a megabyte"


def has_pairs(folder: Path) -> bool:
    """Returns whether `folder` or one below it has a picture and a text of one name."""
    return any(pictures and text for _, pictures, text in _walk(folder))


def iter_pairs(folder: Path, rows: int, lang: str | None = None) -> Iterator[RawTable]:
    """Yields one row a caption, by folder and name, in parts of about `rows`."""
    del lang  # the caller's default holds for all rows
    collector = tables.RowCollector(str(folder), _COLUMNS)
    place, gathered = 0, 0
    for stem, pictures, text in _walk(folder):
        place += 1
        for _ in pictures[1:] if text else pictures:
            collector.add(place, place - 1, (), WITHOUT_TEXT)
        if text and not pictures:
            collector.add(place, place - 1, (), WITHOUT_PICTURE)
        elif text:
            captions, problem = _read(folder / text)
            if problem or not captions:
                collector.add(place, place - 1, (stem, "", pictures[0]), problem)
            for name, caption in numbered(stem, captions):
                collector.add(place, place - 1, (name, caption, pictures[0]))
            gathered += len(captions)
        if gathered >= rows:
            gathered = 0
            yield _table(collector)
    yield _table(collector)


def numbered(name: str, captions: list[str]) -> list[tuple[str, str]]:
    """Returns (id, caption) of the captions of one picture."""
    if len(captions) == 1:
        return [(name, captions[0])]
    return [(f"{name}#{number}", caption) for number, caption in enumerate(captions, 1)]


def lines_of(content: bytes) -> list[str]:
    """Returns the lines with something on them; bytes that are not UTF-8 come as lone surrogates."""
    text = content.decode("utf-8-sig", "surrogateescape")
    return [line.removesuffix("\r") for line in text.split("\n") if line.strip()]


def _read(path: Path) -> tuple[list[str], str | None]:
    try:
        with present(path).open("rb") as file:
            content = file.read(LARGEST_TEXT + 1)
    except OSError:
        return [], UNREADABLE
    return (lines_of(content), None) if len(content) <= LARGEST_TEXT else ([], TOO_LONG)


def _table(collector: tables.RowCollector) -> RawTable:
    raw = collector.table(_COLUMNS)
    raw.unit = "picture"
    return raw


def _walk(folder: Path) -> Iterator[tuple[str, list[str], str | None]]:
    """Yields (path without ending, pictures, text) by folder and name; paths are relative, with slashes."""
    for here, folders, files in os.walk(folder, onerror=report_left_out):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(here).relative_to(folder)
        found: dict[str, tuple[list[str], list[str]]] = {}
        for name in sorted(files):
            stem, suffix = os.path.splitext(name)
            kind = 1 if suffix.lower() == ".txt" else 0 if suffix.lower() in picture_suffixes() else None
            if kind is not None and not name.startswith("."):
                found.setdefault(stem, ([], []))[kind].append((below / name).as_posix())
        for stem, (pictures, texts) in sorted(found.items()):
            yield (below / stem).as_posix(), pictures, texts[0] if texts else None
