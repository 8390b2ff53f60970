"""Webdataset tars: members of one key, one after the other, are a sample: `0001.jpg`, `0001.txt`, `0001.json`.

The key is the member's path up to the first dot of its name, and it is the id; `image` is `shard.tar::0001.jpg`, with
the path of the tar relative to what was opened. Captions are the lines of `.txt`; or else `caption` or `text` of the
`.json`, one text or a list. Where both tell the same text, its line ends do not divide it. `.json` may name `lang` and
`label`, and `.cls` is a label too.

A tar is read from front to end, never unpacked, and pictures are passed over: nothing is written, links and devices are
not followed, a name that leads out of the archive is not used. A tar that breaks off gives what lies before that, and
is counted; with `strict` it is an error.
"""

from __future__ import annotations

import gzip
import json
import logging
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from babelclip import storage
from babelclip.data import tables
from babelclip.data.images import picture_suffixes
from babelclip.data.readers.picture_texts import (
    LARGEST_TEXT,
    TOO_LONG,
    WITHOUT_PICTURE,
    WITHOUT_TEXT,
    lines_of,
    numbered,
)
from babelclip.data.tables import RawTable
from babelclip.errors import BabelclipError

BROKEN_OFF = "tar breaks off here"
NOT_JSON = "its .json is no JSON object"
UNSAFE_NAME = "member whose name leads out of the tar"

_COLUMNS = ("id", "text", "lang", "image", "label")
_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_log = logging.getLogger(__name__)


def is_tar(path: Path) -> bool:
    """Returns whether the name of `path` ends in .tar, .tar.gz or .tgz."""
    return path.name.lower().endswith(_SUFFIXES)


def has_tars(folder: Path) -> bool:
    """Returns whether tars lie in `folder` itself."""
    return any(is_tar(path) for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def iter_tar(path: Path, rows: int, lang: str | None = None) -> Iterator[RawTable]:
    """Yields the captions of one tar in parts of about `rows`.

    Raises:
        BabelclipError: the file is missing or no tar.
    """
    del lang  # the caller's default holds for rows that name none
    tables.check_file(path)
    samples = _Samples(path)
    for members, broken in iter_samples(path):
        samples.add(members, broken)
        if samples.gathered >= rows:
            yield samples.table()
    yield samples.table()


def iter_tars(folder: Path, rows: int, lang: str | None = None) -> Iterator[RawTable]:
    """Yields the captions of all tars in `folder`, in order of their names."""
    for path in sorted(folder.iterdir()):
        if is_tar(path) and path.is_file() and not path.name.startswith("."):
            yield from iter_tar(path, rows, lang)


class _Member(tarfile.TarInfo):
    """A header of a member. A damaged one is an error wherever it lies; tarfile takes it for the end of the tar."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Member:
        try:
            return super().fromtarfile(archive)  # type: ignore[return-value]
        except tarfile.HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":  # the two empty blocks at the end
                raise
            raise tarfile.ReadError(str(error)) from error


Sample = dict[str, "bytes | str | None"]  # ending -> content; for a picture its name, None where it is too long


def iter_samples(path: Path) -> Iterator[tuple[tuple[str, Sample], str | None]]:
    """Yields ((key, sample), problem) for the members of one key after the other; problem: the tar is damaged there.

    A sample holds the name of its picture under "image", and its `.txt`, `.json` and `.cls` as bytes, None where one is
    larger than a text about a picture can be.

    Raises:
        BabelclipError: the file is no tar.
    """
    key, sample, count = "", Sample(), 0
    try:
        with _open(path) as file, tarfile.open(fileobj=file, mode=_mode(path), tarinfo=_Member) as archive:
            while (member := archive.next()) is not None:
                count += 1
                archive.members = []  # type: ignore[attr-defined]  # else every header ever read stays in memory
                if not member.isreg():
                    continue
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts:
                    yield (member.name, {}), UNSAFE_NAME
                    continue
                stem, _, ending = name.name.partition(".")
                here = str(name.parent / stem)
                if here != key and sample:
                    yield (key, sample), None
                    sample = {}
                key = here
                _take(archive, member, f".{ending.lower()}", sample)
        if sample:
            yield (key, sample), None
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        if not count:
            raise BabelclipError(
                f"{path} is not a tar ({error}). A webdataset is a .tar whose members are 0001.jpg, 0001.txt and so "
                "on: fetch it again, or check what it is."
            ) from error
        # The sample that was being read may lack members, so it goes too.
        yield (key, {}), BROKEN_OFF
        _log.warning("%s breaks off after %d members (%s); what lies before is used.", path, count, error)


def _open(path: Path) -> Any:
    storage.present(path)
    return path.open("rb") if path.name.lower().endswith(".tar") else gzip.open(path, "rb")


def _mode(path: Path) -> Any:
    """Plain tars are read by seeking past the pictures, gzipped ones as a stream."""
    return "r:" if path.name.lower().endswith(".tar") else "r|"


def _take(archive: tarfile.TarFile, member: tarfile.TarInfo, ending: str, sample: Sample) -> None:
    """Takes a member into the sample of its key, where it is of use."""
    if ending in picture_suffixes():
        sample.setdefault("image", member.name)
    elif ending in (".txt", ".json", ".cls"):
        if member.size > LARGEST_TEXT:
            sample[ending] = None
            return
        content = archive.extractfile(member)
        sample[ending] = content.read() if content is not None else b""
    else:
        sample.setdefault("other", b"")


class _Samples:
    """Gathers the rows of samples."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._collector = tables.RowCollector(str(path), _COLUMNS)
        self._number = 0
        self.gathered = 0

    def add(self, sample: tuple[str, Sample], broken: str | None) -> None:
        """Takes the captions of one sample, or counts why there are none."""
        key, members = sample
        self._number += 1
        self.gathered += 1
        found, captions, problem = ({}, [], broken) if broken else _captions(members)
        image = members.get("image")
        if problem is None:
            problem = WITHOUT_PICTURE if image is None else WITHOUT_TEXT if captions is None else None
        if problem is not None:
            self._collector.add(self._number, self._number - 1, (), problem)
            return
        reference = f"{self._path.name}::{image!s}"
        for name, caption in numbered(key, captions or [""]):
            values = (name, caption, found.get("lang"), reference, found.get("label"))
            self._collector.add(self._number, self._number - 1, values)

    def table(self) -> RawTable:
        """Returns what was gathered and starts anew."""
        raw = self._collector.table(_COLUMNS)
        raw.unit, self.gathered = "sample", 0
        return raw


def _captions(members: Sample) -> tuple[dict[str, Any], list[Any] | None, str | None]:
    """Returns (language and label, captions or None without any member for them, problem)."""
    if any(name in members and members[name] is None for name in (".txt", ".json", ".cls")):
        return {}, None, TOO_LONG
    found: dict[str, Any] = {}
    told: Any = None
    if isinstance(packed := members.get(".json"), bytes):
        try:
            facts = json.loads(packed.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            return {}, None, NOT_JSON
        if not isinstance(facts, dict):
            return {}, None, NOT_JSON
        found["lang"] = facts.get("lang") or facts.get("language")
        found["label"] = facts.get("label")
        told = facts.get("text") if facts.get("caption") is None else facts["caption"]
    if isinstance(label := members.get(".cls"), bytes):
        found["label"] = label.decode("utf-8-sig", "surrogateescape").strip()
    if isinstance(text := members.get(".txt"), bytes):
        captions: list[Any] = lines_of(text)
        whole = text.decode("utf-8-sig", "surrogateescape")
        return found, [told] if isinstance(told, str) and told.strip() == whole.strip() else captions, None
    if told is None:
        return found, None, None
    return found, told if isinstance(told, list) else [told], None
