"""Translations of programs: `.mo` files of GNU gettext, cleaned of what is not language.

The files are read here and not by Python's `gettext`, which evaluates the plural rule in the header: some headers are
wrong, and the rule is not needed. Entry points: `read_catalogue`, `catalogue_rows`.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from babelclip import languages
from babelclip.data.captions import text_key
from babelclip.errors import BabelclipError
from babelclip.starter.hundred.sentences import clean_words, sentence_pairs
from babelclip.starter.sources import Row

_MODIFIERS = ("latin", "cyrillic", "valencia")
_MAGIC = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}
_CHARSET = re.compile(r"charset=([\w.-]+)", re.IGNORECASE)
# "context^text", as Wesnoth writes it; gettext's own context ends in \x04.
_CONTEXT = re.compile(r"^[\w .,:;/'()+-]{1,80}\^")
_MARKUP = re.compile(r"<[^<>]{1,200}>|&(?:lt|gt|amp|quot|#\d+);")
# $name, $unit.name|, %s, %(name)s, {0}, \n written out
_VARIABLE = re.compile(r"\$[\w.]+\|?|%\([^)]*\)\w|%[-+ #0-9.]*l?[a-zA-Z]|\{\w*\}|\\[nt]")
# "_File" and "Sa_ve": the letter of a shortcut.
_MNEMONIC = re.compile(r"(?<!\w)_(?=\w)|(?<=\w)_(?=\w)|\(_\w\)")


def read_catalogue(path: Path) -> Iterator[tuple[str, str]]:
    """Yields source and translation of every message of a `.mo` file; of plural forms the last of both.

    Raises:
        BabelclipError: the file is damaged, or its charset is not known.
    """
    content = path.read_bytes()
    order = _MAGIC.get(content[:4])
    if order is None:
        raise BabelclipError(
            f"{path} is not a .mo file: it begins with {content[:4]!r}. Take it from the package again."
        )
    try:
        _revision, count, sources, translations = struct.unpack_from(f"{order}4I", content, 4)
        places = [
            struct.unpack_from(f"{order}{2 * count}I", content, start) if count else ()
            for start in (sources, translations)
        ]
        pairs = [tuple(_bytes(content, place[2 * n + 1], place[2 * n]) for place in places) for n in range(count)]
        charset = _CHARSET.search(next((new for old, new in pairs if not old), b"").decode("latin-1"))
        encoding = charset[1] if charset else "utf-8"
        for old, new in pairs:
            if old and new:
                source = old.split(b"\x04")[-1].split(b"\x00")[-1].decode(encoding)
                yield source, new.split(b"\x00")[-1].decode(encoding)
    except (struct.error, UnicodeDecodeError, LookupError) as error:
        raise BabelclipError(f"{path} is damaged ({error}). Take it from the package again.") from error


def _bytes(content: bytes, start: int, length: int) -> bytes:
    if start + length > len(content):
        raise struct.error(f"a message of {length} bytes at {start} in a file of {len(content)}")
    return content[start : start + length]


def catalogue_rows(folder: Path, skipped: Counter[str]) -> list[Row]:
    """Returns the sentences of all catalogues `<language>/LC_MESSAGES/*.mo` below a folder.

    Args:
        folder: of languages.
        skipped: counts files and messages that could not be used, by reason.
    """
    rows = []
    for path in sorted(folder.glob("*/LC_MESSAGES/*.mo")):
        lang = _language(path.parent.parent.name)
        if lang is None:
            skipped[f"catalogue in {path.parent.parent.name}, which is not taught"] += 1
            continue
        try:
            messages = list(read_catalogue(path))
        except BabelclipError:
            skipped["damaged catalogue"] += 1
            continue
        for source, translation in messages:
            pairs = list(sentence_pairs(clean_message(source), clean_message(translation)))
            rows += [Row(text, lang, english) for english, text in pairs if text_key(text) != text_key(english)]
            skipped["message of few or many words, or of other sentences than its source"] += not pairs
    return rows


def _language(locale: str) -> str | None:
    """Returns the language of a catalogue; None for unknown ones, English ones, and others than the usual spellings."""
    modifier = locale.partition("@")[2]
    try:
        lang = languages.normalize(locale)
    except languages.UnknownLanguageError:
        return None
    # "sr@ijekavianlatin" would pass for Serbian in Cyrillic, and "en@shaw" for English.
    return lang if modifier in ("", *_MODIFIERS) and lang.split("-")[0] != "en" else None


def clean_message(text: str) -> str:
    """Returns a message without context, variables, markup and shortcuts.

    >>> clean_message("unit^<b>Slay</b> $enemy_name| at dawn")
    'Slay at dawn'
    """
    text = _CONTEXT.sub("", text)
    for unwanted in (_MARKUP, _VARIABLE):
        text = unwanted.sub(" ", text)
    return clean_words(_MNEMONIC.sub("", text))
