"""What was asked of a reader, and the errors that say which files it expects."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from babelclip import languages
from babelclip.data import tables
from babelclip.errors import BabelclipError, shown
from babelclip.evaluate.benchmarks.catalog import Entry

T = TypeVar("T")
FIRST = "first"
# How deep below the folder that was given the files of a benchmark are looked for.
_DEPTHS = ("", "*/", "*/*/")


@dataclasses.dataclass(frozen=True)
class Request:
    """One benchmark to be read.

    Attributes:
        entry: what is known of it.
        root: the folder, or the file, that was given.
        images: folder of the pictures, where it is another.
        names: folder or file of class names and templates.
        templates: file of templates, where it is another.
        title: name for the results where the entry's is too general (`class-folders`).
        languages: BCP-47 codes asked for; None: all there are.
        split: as asked for, or the usual one.
        protocol: "" or one of the entry's.
        strict: whether what cannot be used is an error instead of a counted skip.
    """

    entry: Entry
    root: Path
    images: Path | None = None
    names: Path | None = None
    templates: Path | None = None
    title: str = ""
    languages: tuple[str, ...] | None = None
    split: str = ""
    protocol: str = ""
    strict: bool = False

    @property
    def folder(self) -> Path:
        """The folder that was given, or that of the file that was given."""
        return self.root.parent if self.root.is_file() else self.root

    @property
    def is_json(self) -> bool:
        """Whether a JSON file was given, packed or not."""
        return ".json" in self.root.suffixes[-2:]

    @property
    def name(self) -> str:
        """The name for results: the protocol belongs to it, because figures of two protocols do not compare."""
        name = self.title or self.entry.name
        return f"{name}-{self.protocol}" if self.protocol else name

    def find(self, *patterns: str) -> list[Path]:
        """Returns the files of the first pattern that has any, sorted: in the folder, else up to two folders below."""
        for pattern in patterns:
            for depth in _DEPTHS:
                found = sorted(path for path in self.folder.glob(depth + pattern) if not path.name.startswith("."))
                if found:
                    return found
        return []

    def need(self, *patterns: str) -> Path:
        """Returns the first file of `find`; the file that was given where it is one.

        Raises:
            BabelclipError: there is none; shows the expected tree.
        """
        if self.root.is_file():
            return self.root
        found = self.find(*patterns)
        if not found:
            raise self.missing(" or ".join(patterns))
        return found[0]

    def missing(self, what: str) -> BabelclipError:
        """Returns the error for files that are not there, with the tree that is expected and who publishes it."""
        there = sorted(item.name for item in self.folder.iterdir()) if self.folder.is_dir() else []
        there = [name for name in there if not name.startswith(".")]
        found = f"it has {', '.join(there[:6])}{' …' if len(there) > 6 else ''}" if there else "it is empty"
        found = found if self.folder.is_dir() else "it does not exist"
        tree = "\n".join(f"  {line}" for line in self.entry.tree.strip().splitlines())
        return BabelclipError(
            f"{self.root} has no {what} ({found}). {self.entry.title} is read from\n{tree}\n"
            f"Get it from {self.entry.published}, and give the folder as {self.entry.name}=DIR."
        )

    def wants(self, lang: str) -> bool:
        """Returns whether a language, BCP-47, was asked for."""
        return self.languages is None or lang in self.languages

    def check_languages(self, there: Iterable[str]) -> None:
        """Does nothing where every language asked for is `there`; raises BabelclipError otherwise."""
        known = sorted(set(there))
        absent = [lang for lang in self.languages or () if lang not in known]
        if absent:
            raise BabelclipError(
                f"{self.root} has no {self.entry.title} in {', '.join(absent)}. It has {', '.join(known) or 'none'}: "
                "ask for some of these, or for all."
            )

    def choose_split(self, there: Iterable[str]) -> str:
        """Returns the split to read: the one asked for, or the first usual one that is there.

        Raises:
            BabelclipError: it is not there; names those that are.
        """
        known = list(dict.fromkeys(there))
        if self.split:
            if self.split in known:
                return self.split
            raise BabelclipError(
                f"{self.root} has no split {self.split!r}. It has {', '.join(known) or 'none'}: ask for one of these."
            )
        usual = [split for split in self.entry.splits if split in known]
        if not (usual or known):
            raise self.missing(f"split {self.entry.splits[0]!r}")
        return (usual or known)[0]


def language_of(code: str) -> str | None:
    """Returns the BCP-47 code of a language as a benchmark spells it, None where it is not known."""
    try:
        return languages.normalize(code)
    except languages.UnknownLanguageError:
        return None


class Skips:
    """Counts what is left out, by reason; with `strict` the first one is an error."""

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self.counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, reason: str, where: str) -> None:
        """Counts one thing more under `reason`; `where` names the first.

        Raises:
            BabelclipError: with `strict`.
        """
        if self._strict:
            raise BabelclipError(
                f"{where}: {reason}. With strict everything must be usable: mend the file, or read without strict to "
                "skip and count."
            )
        self.count(reason, where)

    def count(self, reason: str, where: str) -> None:
        """Counts what is no fault of a file, and so no error with `strict` either."""
        self.counts[reason] += 1
        self._first.setdefault(reason, where)

    def notes(self) -> tuple[str, ...]:
        """Returns a sentence for each reason."""
        return tuple(f"{n} left out: {why} (first: {self._first[why]})" for why, n in sorted(self.counts.items()))


def text_problem(text: object) -> str | None:
    """Returns why something is no usable text, None where it is one."""
    if not isinstance(text, str):
        return tables.NOT_TEXT
    if not tables.is_utf8(text):
        return tables.NOT_UTF8
    return None if text.strip() else "empty text"


def load_json(path: Path, kind: type[T]) -> T:
    """Returns the content of a JSON file, also .gz; a byte order mark is dropped, bytes that are not UTF-8 are kept.

    Raises:
        BabelclipError: it is missing, is not JSON, or does not hold a `kind`.
    """
    text = "\n".join(tables.iter_plain_lines(path))
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BabelclipError(
            f"{path} is not valid JSON ({shown(error)}). A whole JSON file is needed: copy it again from its origin."
        ) from error
    return typed(content, kind, path, "the file")


def iter_jsonl(path: Path, skips: Skips) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (where, object) of each line of a JSONL file; other lines are counted, blank ones are not.

    Raises:
        BabelclipError: the file is missing; with strict, a line is no object.
    """
    for number, line in enumerate(tables.iter_plain_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield where, row
        else:
            skips.add(tables.NOT_OBJECT if tables.is_utf8(line) else tables.NOT_UTF8, where)


def typed(value: object, kind: type[T], path: Path, what: str) -> T:
    """Returns `value` if it is a `kind`.

    Raises:
        BabelclipError: it is not.
    """
    if isinstance(value, kind):
        return value
    needed = {"dict": "an object", "list": "a list", "str": "a text"}.get(kind.__name__, kind.__name__)
    raise BabelclipError(
        f"{path}: {what} is {shown(json.dumps(value, default=str), 60)}, and {needed} is needed there. "
        "It is a file of another kind, or damaged: take the one that its authors published."
    )


def member(content: dict[str, Any], key: str, kind: type[T], path: Path) -> T:
    """Returns `content[key]`, a `kind`.

    Raises:
        BabelclipError: there is no such key, or it is another kind.
    """
    if key not in content:
        raise BabelclipError(
            f"{path} has no key {key!r}; it has {shown(', '.join(map(str, content)), 80) or 'none'}. "
            "It is a file of another kind: take the one that its authors published."
        )
    return typed(content[key], kind, path, repr(key))
