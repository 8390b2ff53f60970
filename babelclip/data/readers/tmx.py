"""TMX, the exchange format of translation memories, element by element: memory does not grow with the file.

A unit becomes its source row, `id` = tuid or else the number of the unit from 0, and one row a translation with the id
`<unit>-<lang>` and `source_id` = the unit. The source language is that of the unit, else that of the header; where it
is `*all*`, English if the unit has it, else its first. Text inside <hi> belongs to the sentence; markup codes (<bpt>,
<ept>, <it>, <ph>, <ut>) and what lies in them do not.

TMX files come from strangers, so nothing is expanded or fetched: a declaration of an entity ends the reading (that is
how a few lines become gigabytes), and a DTD that is merely named, as most files do, is not opened.
"""

from __future__ import annotations

import codecs
import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.parsers import expat

from babelclip import languages
from babelclip.data import tables
from babelclip.data.captions import EMPTY_SOURCE, EMPTY_TEXT
from babelclip.data.tables import RawTable
from babelclip.errors import BabelclipError, shown

UNKNOWN_ENTITY = "entity that is not declared"
NO_SOURCE = "unit without text in the source language"
SECOND = "second text in one language"

_COLUMNS = ("id", "source_id", "text", "lang")
_CODES = frozenset({"bpt", "ept", "it", "ph", "ut"})
_BLOCK = 1 << 16
# Far above any sentence: an element that is never closed ends here instead of eating the memory.
_LARGEST = 1 << 22
# Stands for bytes that are not UTF-8; XML allows the character and Unicode promises never to use it.
_BROKEN = "\ufdd0"
_SURROGATE = re.compile("[\ud800-\udfff]")
_DECLARED = re.compile(rb"""<\?xml[^>]*?encoding\s*=\s*["']([\w.\-]+)""")


def is_tmx(path: Path) -> bool:
    """Returns whether the name of `path` ends in .tmx or .tmx.gz."""
    return path.name.lower().removesuffix(".gz").endswith(".tmx")


def iter_tmx(path: Path, rows: int, lang: str | None = None) -> Iterator[RawTable]:
    """Yields the units of a TMX file in parts of `rows` rows or a little more.

    Raises:
        BabelclipError: the file is missing, is no well-formed XML, declares entities, or is no TMX.
    """
    del lang  # every text names its own
    tables.check_file(path)
    with tables.GzipErrors(path), _open(path) as file:
        yield from _Units(path).read(file, rows)


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")


class _Units:
    """Gathers units from the events of a parser."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._collector = tables.RowCollector(str(path), _COLUMNS)
        self._gathered = 0
        self._is_tmx = False
        self._default = "*all*"
        self._unit = -1
        self._id = self._source = ""
        self._line = 0
        self._texts: list[tuple[str, str, str | None]] = []  # language, text, problem
        self._lang = ""
        self._text: list[str] | None = None  # of the open <seg>
        self._length = 0
        self._codes = 0  # how deep within markup codes
        self._problem: str | None = None
        self._known: dict[str, str] = {}

    def read(self, file: Any, rows: int) -> Iterator[RawTable]:
        """Yields tables from an open file.

        Raises:
            BabelclipError: the file is empty or malformed.
        """
        first = file.read(_BLOCK)
        if not first.strip():
            raise BabelclipError(f"{self._path} is empty. A TMX file begins with <tmx>: check how it was made.")
        encoding = _encoding(first)
        decode = codecs.getincrementaldecoder(encoding)("surrogateescape") if encoding else None
        self._parser = expat.ParserCreate("utf-8" if decode else None)
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.EntityDeclHandler = self._entity
        self._parser.SkippedEntityHandler = self._skipped_entity
        block, ended = first, False
        while not ended:
            following = file.read(_BLOCK)
            ended = not following
            if decode is not None:
                block = _SURROGATE.sub(_BROKEN, decode.decode(block, ended)).encode()
            try:
                self._parser.Parse(block, ended)
            except (expat.ExpatError, LookupError, UnicodeError) as error:
                raise self._malformed(str(error)) from error
            block = following
            if self._gathered >= rows:
                self._gathered = 0
                yield self._collector.table(_COLUMNS)
        yield self._collector.table(_COLUMNS)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.lower()
        if not self._is_tmx:
            if name != "tmx":
                raise self._malformed(f"it begins with <{shown(name, 40)}>")
            self._is_tmx = True
        elif self._text is not None:
            self._codes += self._codes > 0 or name in _CODES
        elif name == "header":
            self._default = attributes.get("srclang", self._default)
        elif name == "tu":
            self._unit += 1
            self._id = attributes.get("tuid") or str(self._unit)
            self._source = attributes.get("srclang") or self._default
            self._line = self._parser.CurrentLineNumber
            self._texts = []
        elif name == "tuv":
            self._lang = attributes.get("xml:lang") or attributes.get("lang") or ""
        elif name == "seg":
            self._text, self._length, self._codes, self._problem = [], 0, 0, None

    def _end(self, name: str) -> None:
        name = name.lower()
        if name == "seg" and self._text is not None and not self._codes:
            text = "".join(self._text)
            if _BROKEN in text:
                self._problem = tables.NOT_UTF8
            self._texts.append((self._lang, text, self._problem))
            self._text = None
        elif self._text is not None:
            self._codes -= self._codes > 0
        elif name == "tu":
            self._add_unit()

    def _characters(self, text: str) -> None:
        if self._text is None or self._codes:
            return
        self._text.append(text)
        self._length += len(text)
        if self._length > _LARGEST:
            raise self._malformed(f"a <seg> of more than {_LARGEST} characters")

    def _skipped_entity(self, name: str, is_parameter: bool) -> None:
        del name
        if not is_parameter:
            self._problem = UNKNOWN_ENTITY

    def _entity(self, name: str, *rest: Any) -> None:
        del rest
        raise BabelclipError(
            f"{self._path}, line {self._parser.CurrentLineNumber}: it declares the entity {shown(name, 40)!r}. "
            "Entities of a file are neither expanded, because a few lines of them fill any memory, nor fetched: "
            "write the file again with the characters themselves."
        )

    def _add_unit(self) -> None:
        """Takes the rows of the unit that ends here."""
        texts = [(self._canonical(lang), text, problem) for lang, text, problem in self._texts]
        codes = [lang for lang, _, _ in texts]
        source = self._canonical(self._source)
        if source.lower() == "*all*":
            source = "en" if "en" in codes else codes[0] if codes else ""
        # The language itself before a variety of it.
        varieties = (row for row in texts if row[0].startswith(f"{source}-"))
        original = next((row for row in texts if row[0] == source), None) or next(varieties, None)
        if original is None:
            self._row((), NO_SOURCE)
            return
        lang, text, problem = original
        self._row((self._id, None, text, lang), problem)
        problem = problem or (EMPTY_SOURCE if not text.strip() else None)
        there = {lang}
        for row in texts:
            if row is original:
                continue
            lang, text, own = row
            own = own or (SECOND if lang in there else None) or (EMPTY_TEXT if not text.strip() else None)
            there.add(lang)
            self._row((f"{self._id}-{lang}", self._id, text, lang or None), own or problem)

    def _row(self, values: tuple[str | None, ...], problem: str | None) -> None:
        self._gathered += 1
        self._collector.add(self._line, self._unit, values, problem)

    def _canonical(self, code: str) -> str:
        """Returns the BCP-47 code, or `code` itself where it is not known: the row is counted as such later."""
        if code not in self._known:
            try:
                self._known[code] = languages.normalize(code)
            except languages.UnknownLanguageError:
                self._known[code] = code
        return self._known[code]

    def _malformed(self, what: str) -> BabelclipError:
        return BabelclipError(
            f"{self._path} cannot be read as TMX: {what}. TMX is well-formed XML that begins with <tmx> and is read up "
            "to its end tag: take the file again from where it came from, or mend that place."
        )


def _encoding(first: bytes) -> str | None:
    """Returns "utf-8-sig" for UTF-8, whose broken bytes can be left out, and None where the parser must find out."""
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in first[:4]:
        return None
    declared = _DECLARED.match(first.removeprefix(codecs.BOM_UTF8).lstrip())
    return None if declared and declared[1].lower().replace(b"-", b"") != b"utf8" else "utf-8-sig"
