"""Where the pictures of a collection come from: what a source has, found without opening a picture.

| source | pictures | caption and metadata |
|---|---|---|
| a folder and all below it | files; members of `.tar` (webdataset, img2dataset) | `dog.txt`, `dog.json` |
| a `.tar` | its members | members of the same key |
| Parquet with pictures in it (`index_tables.py`) | bytes, or `{bytes, path}` | its columns |
| a table of captions (`index_tables.py`) | the files that its column `image` names | its columns |

The id of a picture is made of the name of its source and its path there, so it stays when the content changes, and does
not depend on order. Walking costs a `stat` for each picture; memory holds the names of one folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from babelclip.data.images import picture_suffixes
from babelclip.data.readers.picture_texts import LARGEST_TEXT, lines_of
from babelclip.data.readers.webdataset import BROKEN_OFF, NOT_JSON, iter_samples
from babelclip.data.tables import is_utf8
from babelclip.errors import BabelclipError
from babelclip.models.tar_pictures import member_size
from babelclip.search.index_columns import Side, converted, joined_captions
from babelclip.search.thumbnails import HeldPicture
from babelclip.storage import present

NOT_UTF8 = "its name is not UTF-8, so it can be no id: rename it"
PACKED_TAR = "a packed tar cannot be read picture by picture: unpack it to a .tar"
_CAPTION_KEYS = ("caption", "text")


@dataclasses.dataclass(frozen=True)
class Found:
    """A picture that a source has.

    Attributes:
        id: 24 hexadecimal digits made of `source` and `path`.
        source: name of the source.
        path: relative to the folder of the source, with slashes; `a.tar::member` in a tar.
        picture: the absolute path, as `open_picture` takes it; or the file itself, where it lies in a table.
        size: bytes of the picture file.
        modified: when it was changed (that of the tar or table it lies in), microseconds since 1970, UTC.
        caption: one caption a line; None without.
        lang: BCP-47, where it is known.
        row: position in the table that it comes from.
        values: metadata by column.
    """

    id: str
    source: str
    path: str
    picture: str | HeldPicture
    size: int
    modified: int
    caption: str | None = None
    lang: str | None = None
    row: int | None = None
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Problems:
    """What a source could not give: counted by reason, the first of each by name.

    Attributes:
        counts: by reason.
        first: name of the first of each reason.
        incomplete: sources that could not be listed whole, so that what seems gone may still be there.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self.incomplete: set[str] = set()

    def add(self, reason: str, name: str, source: str = "") -> None:
        """Counts one; `source` where it may hide pictures that are still there."""
        self.counts[reason] += 1
        self.first.setdefault(reason, name)
        if source:
            self.incomplete.add(source)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is asked of every source.

    Attributes:
        columns: metadata columns to look for, name -> type.
        side: captions and metadata by picture, from a table of their own; None without.
        lang: language of captions whose source does not say it.
        problems: where what cannot be used is counted.
    """

    columns: Mapping[str, str]
    side: Side | None
    lang: str | None
    problems: Problems


# (name of the source, what is wanted) -> its pictures
Walk = Callable[[str, Wanted], Iterator[Found]]


@dataclasses.dataclass(frozen=True)
class PictureSource:
    """One source of pictures.

    Attributes:
        name: what rows call it, distinct within a collection.
        root: the folder that paths are relative to.
        walk: yields its pictures in order of their names.
    """

    name: str
    root: Path
    walk: Walk


def picture_id(source: str, path: str) -> str:
    """Returns the id of the picture at a path of a source: 24 hexadecimal digits."""
    return hashlib.sha256(f"{source}\0{path}".encode()).hexdigest()[:24]


def walk_folder(folder: Path, name: str, wanted: Wanted) -> Iterator[Found]:
    """Yields the pictures below `folder`, and those in tars there, folder by folder in order of names.

    Hidden files and folders are left out; links to folders are not followed.
    """

    def refused(error: OSError) -> None:
        wanted.problems.add("folder cannot be opened", str(error.filename), name)

    for here, folders, files in os.walk(folder, onerror=refused):
        folders[:] = sorted(item for item in folders if not item.startswith(".") and not item.endswith(".lance"))
        there = {item for item in files if not item.startswith(".")}
        for item in sorted(there):
            path = Path(here, item)
            lower = item.lower()
            if not is_utf8(str(path.relative_to(folder))):
                if os.path.splitext(lower)[1] in picture_suffixes():
                    wanted.problems.add(NOT_UTF8, ascii(str(path)))
            elif lower.endswith(".tar"):
                yield from walk_tar(path, folder, name, wanted)
            elif lower.endswith((".tar.gz", ".tgz")):
                wanted.problems.add(PACKED_TAR, str(path))
            elif os.path.splitext(lower)[1] in picture_suffixes() and (
                found := _file(path, folder, name, there, wanted)
            ):
                yield found


def walk_tar(tar: Path, root: Path, name: str, wanted: Wanted) -> Iterator[Found]:
    """Yields the pictures in a tar, in its order; of a key with several, the first."""
    try:
        modified = tar.stat().st_mtime_ns // 1000
        for (key, sample), problem in iter_samples(tar):
            member = sample.get("image")
            if problem is not None:
                wanted.problems.add(problem, f"{tar}::{key}", name if problem == BROKEN_OFF else "")
            elif isinstance(member, str):
                inside = f"{tar.relative_to(root).as_posix()}::{member}"
                if not is_utf8(inside):
                    wanted.problems.add(NOT_UTF8, f"{tar}::{member!a}")
                    continue
                facts = _facts_of(sample.get(".json"), wanted, f"{tar}::{key}.json")
                text = sample.get(".txt")
                yield _found(
                    name,
                    inside,
                    f"{tar}::{member}",
                    member_size(tar, member),
                    modified,
                    joined_captions(lines_of(text)) if isinstance(text, bytes) else None,
                    facts,
                    wanted,
                )
    except (OSError, BabelclipError) as error:
        wanted.problems.add("tar cannot be read", f"{tar} ({error})", name)


def _file(path: Path, root: Path, name: str, there: set[str], wanted: Wanted) -> Found | None:
    try:
        facts = path.stat()
    except OSError as error:
        # A link to nothing hides no picture, a folder that may not be entered may.
        hides = "" if isinstance(error, FileNotFoundError) else name
        wanted.problems.add("file cannot be opened", str(path), hides)
        return None
    text = _beside(path, ".txt", there)
    described = _beside(path, ".json", there) if wanted.columns or text is None else None
    caption = joined_captions(lines_of(text)) if text is not None else None
    found = _facts_of(described, wanted, f"{path.with_suffix('.json')}")
    relative = path.relative_to(root).as_posix()
    return _found(name, relative, str(path), facts.st_size, facts.st_mtime_ns // 1000, caption, found, wanted)


def _found(
    source: str,
    path: str,
    picture: str,
    size: int,
    modified: int,
    caption: str | None,
    facts: Mapping[str, Any],
    wanted: Wanted,
) -> Found:
    """Returns a picture with its caption: of the table of captions, else the text beside it, else its JSON."""
    lang = facts.get("lang") or facts.get("language")
    caption = caption or next((_text(facts.get(key)) for key in _CAPTION_KEYS if facts.get(key)), None)
    values = {column: converted(facts.get(column), kind) for column, kind in wanted.columns.items()}
    if wanted.side is not None:
        told = wanted.side.of(path, picture)
        caption, lang = (told.caption, told.lang) if told.caption else (caption, lang)
        values |= {column: value for column, value in told.values.items() if value is not None}
    code = _language(lang) or (wanted.lang if caption else None)
    return Found(picture_id(source, path), source, path, picture, size, modified, caption, code, None, values)


def _beside(path: Path, ending: str, there: set[str]) -> bytes | None:
    """Returns the text file beside a picture; None without one, or where it is no text about a picture."""
    beside = f"{path.stem}{ending}"
    if beside not in there:
        return None
    try:
        with present(path.with_name(beside)).open("rb") as file:
            content = file.read(LARGEST_TEXT + 1)
    except OSError:
        return None
    return content if len(content) <= LARGEST_TEXT else None


def _facts_of(content: bytes | str | None, wanted: Wanted, name: str) -> dict[str, Any]:
    if not isinstance(content, bytes):
        return {}
    try:
        facts = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        wanted.problems.add(NOT_JSON, name)
        return {}
    return facts


def _text(value: Any) -> str | None:
    if isinstance(value, list):
        return joined_captions([item for item in value if isinstance(item, str)])
    return joined_captions([value]) if isinstance(value, str) else None


def _language(code: Any) -> str | None:
    from babelclip import languages

    try:
        return languages.normalize(code) if isinstance(code, str) and code else None
    except BabelclipError:
        return None


def has_pictures(folder: Path) -> bool:
    """Returns whether a picture or a tar lies in `folder` or below it, by names alone."""
    for _here, folders, files in os.walk(folder):
        folders[:] = [item for item in folders if not item.startswith(".") and not item.endswith(".lance")]
        for item in files:
            suffix = PurePosixPath(item).suffix.lower()
            if not item.startswith(".") and (suffix == ".tar" or suffix in picture_suffixes()):
                return True
    return False
