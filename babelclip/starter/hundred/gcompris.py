"""Words that children learn to read, in some 35 languages: the word lists of GCompris, from Debian.

They lie in a resource file of Qt (`lang.rcc`), one JSON file a language: the name of a sound, which is the English
word, and the word. Entry points: `WORDS`, `read_resources`, `word_rows`.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from babelclip import languages
from babelclip.data.captions import text_key
from babelclip.errors import BabelclipError
from babelclip.starter.debian import DebianPart
from babelclip.starter.sources import Row

WORDS = DebianPart(
    title="children's words in 35 languages",
    package="gcompris-qt-data",
    version="3.1-2",
    sha256="e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f",
    inside="usr/share/gcompris-qt/rcc",
    kept=("lang.rcc",),
    licence="GPL-3.0-or-later",
    attribution="Children's words: GCompris and its translators, Debian gcompris-qt-data 3.1, GPL-3+",
)
_LIST = re.compile(r"content-([A-Za-z_@]+)\.json")
_FOLDER, _COMPRESSED = 2, 1
# Letters and numbers: U0041.ogg, 10.ogg
_NO_WORD = re.compile(r"U[0-9A-F]{4,}|\d+")


def read_resources(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of every file in a resource file of Qt (version 1 to 3, plain or zlib).

    Raises:
        BabelclipError: the file is damaged or of another kind.
    """
    content = path.read_bytes()
    if content[:4] != b"qres":
        raise BabelclipError(
            f"{path} is no resource file of Qt: it begins with {content[:4]!r}. Fetch the package again."
        )
    try:
        version, tree, data, names = struct.unpack_from(">4I", content, 4)
        size = 14 if version < 2 else 22
        waiting = [0]
        while waiting:
            at = tree + size * waiting.pop()
            name_at, flags = struct.unpack_from(">IH", content, at)
            if flags & _FOLDER:
                count, first = struct.unpack_from(">2I", content, at + 6)
                waiting += range(first, first + count)
                continue
            (start,) = struct.unpack_from(">I", content, at + 10)
            (length,) = struct.unpack_from(">I", content, data + start)
            body = content[data + start + 4 : data + start + 4 + length]
            (letters,) = struct.unpack_from(">H", content, names + name_at)
            name = content[names + name_at + 6 : names + name_at + 6 + 2 * letters].decode("utf-16-be")
            if flags & ~(_COMPRESSED | _FOLDER) == 0:
                yield name, zlib.decompress(body[4:]) if flags & _COMPRESSED else body
    except (struct.error, zlib.error, UnicodeDecodeError) as error:
        raise BabelclipError(f"{path} is damaged ({error}). Fetch the package again.") from error


def word_rows(folder: Path, skipped: Counter[str]) -> list[Row]:
    """Returns the words of all languages with the English word as target.

    Args:
        folder: with `lang.rcc`.
        skipped: counts what could not be used, by reason.

    Raises:
        BabelclipError: the file is damaged.
    """
    lists: dict[str, dict[str, str]] = {}
    for name, content in read_resources(folder / "lang.rcc"):
        match = _LIST.fullmatch(name)
        if match is None:
            continue
        try:
            lists[languages.normalize(match[1])] = json.loads(content)
        except languages.UnknownLanguageError:
            skipped[f"list of words in the unknown language {match[1]}"] += 1
        except ValueError:
            skipped["damaged list of words"] += 1
    rows = []
    for lang, words in sorted(lists.items(), key=lambda item: (item[0] != "en", item[0])):
        for sound, word in words.items():
            english = _english(sound, lists.get("en", {}))
            if not english or not word.strip():
                skipped["word without a translation"] += 1
            elif lang == "en" or text_key(word) != text_key(english):
                rows.append(Row(word.strip(), lang, english))
    return rows


def _english(sound: str, words: dict[str, str]) -> str:
    """Returns the English word of a sound: what the English list says, or the name of the sound itself."""
    stem = sound.removesuffix(".ogg")
    if _NO_WORD.fullmatch(stem):
        return ""
    return words.get(sound, "").strip() or stem.replace("_", " ").replace("-", " ")
