"""Translations of English nouns from the FreeDict dictionaries, as Debian packs them for dictd.

A dictionary is `name.dict.dz`, the entries one behind the other, gzipped, and `name.index`, lines of headword, offset
and length, tab-separated, the numbers in base 64. The dictionaries are of many hands: some name parts of speech, some
do not; some have several meanings in an entry, some several entries. What is not surely the translation of a noun is
left out, since one wrong target does more harm than one right one does good. Entry points: `DICTIONARIES`,
`read_dictionary`.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from babelclip import languages
from babelclip.starter.debian import DebianPart


def _part(code: str, language: str, version: str, licence: str, sha256: str) -> DebianPart:
    return DebianPart(
        title=f"English-{language} dictionary",
        package=f"dict-freedict-eng-{code}",
        version=version,
        sha256=sha256,
        inside="usr/share/dictd",
        kept=(f"freedict-eng-{code}.dict.dz", f"freedict-eng-{code}.index"),
        licence=licence,
        attribution=f"English-{language} nouns: FreeDict, Debian dict-freedict-eng-{code} {version}, {licence}",
    )


_OLD, _NEW = "2022.04.21-1", "2022.12.07-2"
_GPL2, _GPL3, _SHARE_ALIKE = "GPL-2.0-or-later", "GPL-3.0 and AGPL-3.0", "CC-BY-SA-3.0"
DICTIONARIES = {
    "ar": _part("ara", "Arabic", _OLD, _GPL2, "a4528bf4f3a340f71d229526cd7e1853f1bc0477da4c0b7944bdb9595c7f23d3"),
    "de": _part("deu", "German", _OLD, _GPL3, "e85da1519a4d5efdbd7a5a169e828b97920f91e899f45d56fd5b2266a05b5906"),
    "es": _part("spa", "Spanish", _OLD, _GPL2, "1b6a624048eddad805dcf0473a74e53420fbe391e7f2638090bddf625e9ad2b6"),
    "fr": _part("fra", "French", _OLD, _GPL2, "b8db6774b640ae8a372bee119b4304d88e6fd471a283d1326d7ec0abcc8b930e"),
    "id": _part(
        "ind", "Indonesian", _NEW, _SHARE_ALIKE, "d2929618bdbdfecf7f71bc46e038fe873d3e6a50ec29cecc1f60ef1c4e940070"
    ),
    "it": _part("ita", "Italian", _OLD, _GPL2, "aef18ac10bd7582f99b819f634edad0dc0060e59a06f3f041a40203c53e9bb22"),
    "ja": _part(
        "jpn", "Japanese", _NEW, _SHARE_ALIKE, "3d06a55a8fa16a529b9f95b8d2fe3f7163700cea03aa7ee5b53c40dcdd6c6868"
    ),
    "pt": _part("por", "Portuguese", _OLD, _GPL2, "ef942ae345dda5f504b256a9df131993350737f70a1e55c58f49e4ae3196ec3f"),
    "ru": _part("rus", "Russian", _OLD, _GPL2, "0683c8eda017ff1082815c3bd918a7c9f1516b18621fcdf0ef46a9a1b9d61ea3"),
    "tr": _part("tur", "Turkish", _OLD, _GPL2, "dd18d6682827301cb7131fda95728dd4c5ec3d73da6dab1f98619310608fbd99"),
}

MALFORMED_INDEX = "malformed line of a dictionary index"
NOT_UTF8 = "dictionary entry of invalid UTF-8"
OUTSIDE = "dictionary entry outside its file"
_DIGITS = {c: n for n, c in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}
# "dog /dɒɡ/ <n>": headword, pronunciations, part of speech.
_HEAD = re.compile(r"(?P<word>[^/<\[(]+?)\s*(?:/.*/\s*)?(?:<(?P<part>[^>]*)>.*)?")
_NOUN_MARKS = frozenset({"n", "s", "noun"})
_GENDER = re.compile(r"<(?:masc|fem|neut)\b")
_ASIDE = re.compile(r"<[^>]*>|\[[^\]]*\]|\([^)]*\)|\{[^}]*\}|/[^/]*/")
_END_OF_FIRST = re.compile(r"[,;،؛、]|\.\s|\s[-–]\s")
_NO_TRANSLATION = re.compile(r"[\d:=~<>\[\](){}|]")
_VOWEL_SIGNS = re.compile("[\u064b-\u0652\u0670]")
_MOST_WORDS = 4
# The Spanish dictionary lost the spaces of its translations: "tartademanzana".
_LONGEST_SPANISH_WORD = 13


@dataclass(frozen=True)
class Dictionary:
    """What was read of a dictionary.

    Attributes:
        pairs: English noun and translation, in order of the index, each noun once.
        skipped: damaged lines and entries, by reason.
    """

    pairs: tuple[tuple[str, str], ...]
    skipped: dict[str, int]


def read_dictionary(folder: Path, lang: str, words: Mapping[str, bool], part: DebianPart | None = None) -> Dictionary:
    """Returns the first translation of English nouns.

    Where the dictionary does not say that an entry is a noun, it is used if the word has no other entry and is hardly
    ever anything but a noun. A word whose entries disagree is left out.

    Args:
        folder: with the files of the part.
        lang: of the translations.
        words: nouns in lower case, and whether each is hardly ever another part of speech.
        part: the dictionary; None: `DICTIONARIES[lang]`.
    """
    archive, index = (folder / name for name in (part or DICTIONARIES[lang]).kept)
    skipped: Counter[str] = Counter()
    try:
        content = gzip.decompress(archive.read_bytes())
    except (OSError, EOFError, zlib.error):
        return Dictionary((), {f"damaged dictionary {archive.name}": 1})
    entries: dict[str, list[str]] = {}
    for word, start, length in _places(index, words, skipped):
        block = content[start : start + length]
        if len(block) < length:
            skipped[OUTSIDE] += 1
            continue
        try:
            entries.setdefault(word, []).append(block.decode("utf-8"))
        except UnicodeDecodeError:
            skipped[NOT_UTF8] += 1
    pairs = []
    for word, texts in entries.items():
        unmarked = words[word] and len(texts) == 1
        found = {_translation(text, word, lang, unmarked=unmarked) for text in texts} - {""}
        # Entries of one word come in no order: the first German one of "dog" is a cramp iron.
        if len(found) == 1:
            pairs.append((word, found.pop()))
    return Dictionary(tuple(pairs), dict(skipped))


def _places(index: Path, words: Mapping[str, bool], skipped: Counter[str]) -> list[tuple[str, int, int]]:
    """Returns headword, offset and length in bytes of the entries of `words`."""
    places = []
    for line in index.read_text(encoding="utf-8", errors="replace").split("\n"):
        if not line:
            continue
        word, *numbers = line.split("\t")
        try:
            start, length = (_number(digits) for digits in numbers[:2])
        except (KeyError, ValueError):
            skipped[MALFORMED_INDEX] += 1
            continue
        if word in words:
            places.append((word, start, length))
    return places


def _number(digits: str) -> int:
    """Returns the number that dictd writes in base 64, most significant digit first."""
    if not digits:
        raise ValueError(digits)
    number = 0
    for digit in digits:
        number = number * 64 + _DIGITS[digit]
    return number


def _translation(entry: str, word: str, lang: str, *, unmarked: bool) -> str:
    """Returns the first translation of an entry, or nothing where it is not surely that of the noun.

    Args:
        entry: headword in the first line, translations below.
        word: the noun that is asked for; headwords in the index have lost capitals and marks.
        lang: of the translation.
        unmarked: whether an entry without a part of speech counts as a noun.
    """
    head, *body = entry.strip("\n").split("\n")
    match = _HEAD.fullmatch(head.strip())
    lines = [line for line in body if line and not line[0].isspace() and not line.startswith(("see", "Note", "Syn"))]
    if match is None or match["word"].lower() != word or not lines:
        return ""
    part = match["part"]
    if part is None and not unmarked and not _GENDER.search(lines[0]):
        return ""
    if part and part not in _NOUN_MARKS:
        return ""
    # Neither the number of a meaning nor what stands in brackets belongs to the translation.
    line = _ASIDE.sub(" ", re.sub(r"^\d+\.\s*", "", lines[0]))
    translation = " ".join(_END_OF_FIRST.split(line)[0].split()).strip(" .\"'")
    if lang == "ar":
        translation = _VOWEL_SIGNS.sub("", translation)
    return translation if _is_plausible(translation, lang) else ""


def _is_plausible(translation: str, lang: str) -> bool:
    parts = translation.split()
    if not 1 <= len(parts) <= _MOST_WORDS or _NO_TRANSLATION.search(translation):
        return False
    if lang == "es" and max(map(len, parts)) > _LONGEST_SPANISH_WORD:
        return False
    return languages.script(lang) == "Latn" or not re.search("[A-Za-z]", translation)
