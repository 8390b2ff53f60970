"""Names and keywords of emoji in a hundred languages: Unicode CLDR annotations, from npm.

A file is `annotations[character] = {"tts": [name], "default": [keywords]}`, one a locale. Names are translations of one
another. Keywords are not, one by one: a keyword and an English one are taken for translations of each other where they
stand with nearly the same emoji. Entry points: `ANNOTATIONS`, `DERIVED`, `read_annotations`, `name_rows`,
`keyword_rows`, `word_rows`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from babelclip import languages
from babelclip.data.captions import text_key
from babelclip.files import read_json
from babelclip.starter.hundred.npm import NpmPart
from babelclip.starter.sources import Row

_VERSION = "48.2.0"
ANNOTATIONS = NpmPart(
    title="names and keywords of emoji, Unicode CLDR",
    package="cldr-annotations-full",
    version=_VERSION,
    sha256="28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1",
    inside="annotations",
    ending="annotations.json",
    attribution=f"Names and keywords of emoji: Unicode CLDR {_VERSION}, npm cldr-annotations-full, Unicode-3.0",
)
DERIVED = NpmPart(
    title="names of composed emoji, Unicode CLDR",
    package="cldr-annotations-derived-full",
    version=_VERSION,
    sha256="4be946ff5815f806ec78b50363d577a769f2fbfb90c6380a44e161a92436996e",
    inside="annotationsDerived",
    ending="annotations.json",
    attribution=f"Names of composed emoji: Unicode CLDR {_VERSION}, npm cldr-annotations-derived-full, Unicode-3.0",
)

# The bare code of CLDR is the Portuguese of Brazil, and its `no` is Bokmål.
_CODES = {"pt": "pt-BR", "pt-PT": "pt", "no": "nb"}
# "es-419", "de-CH": a few names that differ from those of the bare code.
_REGION = re.compile(r"-(?:[A-Z]{2}|\d{3})$")
_SKIN_TONES = re.compile("[\U0001f3fb-\U0001f3ff]")
_FLAG = "flag: "
# Below lie signs: letters, arrows, mathematics. Names of what cannot be seen on a picture.
_FIRST_PICTURE = "\u2600"
_LEAST_NAMES = 200
_MOST_KEYWORDS = 4
# Emoji that a keyword must share with an English one, and the share of all emoji of either.
_LEAST_SHARED = 2
_LEAST_OVERLAP = 0.5


class Annotation(NamedTuple):
    """What a locale calls an emoji: its name, and keywords in the order of the file."""

    name: str
    keywords: tuple[str, ...]


Locales = dict[str, dict[str, Annotation]]


def read_annotations(folders: Sequence[Path], skipped: Counter[str]) -> Locales:
    """Returns the annotations by language and emoji.

    Signs, skin tones, regional variants and near-empty locales are left out.

    Args:
        folders: with one folder a locale; a later one adds emoji to the locales of an earlier one.
        skipped: counts what could not be used, by reason.
    """
    found: Locales = defaultdict(dict)
    for folder in folders:
        for path in sorted(folder.glob("*/annotations.json")):
            lang = _language(path.parent.name, skipped)
            if lang is not None:
                found[lang].update(_annotations(path))
    for lang in [lang for lang, known in found.items() if len(known) < _LEAST_NAMES]:
        skipped["CLDR locale with few names"] += 1
        del found[lang]
    return dict(found)


def _language(locale: str, skipped: Counter[str]) -> str | None:
    if locale == "und":
        return None
    try:
        lang = languages.normalize(_CODES.get(locale, locale))
    except languages.UnknownLanguageError:
        skipped[f"CLDR locale {locale}, an unknown language"] += 1
        return None
    if _REGION.search(lang) and lang != "pt-BR":
        skipped["CLDR locale of a region"] += 1
        return None
    return lang


def _annotations(path: Path) -> dict[str, Annotation]:
    (content,) = read_json(path).values()
    known = {}
    for emoji, facts in content.get("annotations", {}).items():
        name = next(iter(facts.get("tts", ())), "")
        if name and emoji[0] >= _FIRST_PICTURE and not _SKIN_TONES.search(emoji):
            known[emoji] = Annotation(name, tuple(facts.get("default", ())))
    return known


def name_rows(locales: Locales, flags: bool = False) -> list[Row]:
    """Returns the names with the English name as target, English first: those of flags, or all others."""
    rows = _rows(locales, lambda annotation: annotation.name)
    return [row for row in rows if row.english.startswith(_FLAG) == flags]


def keyword_rows(locales: Locales) -> list[Row]:
    """Returns the first keywords of each emoji side by side, with the English ones as target."""
    return _rows(locales, lambda annotation: ", ".join(annotation.keywords[:_MOST_KEYWORDS]))


def _rows(locales: Locales, text_of: Callable[[Annotation], str]) -> list[Row]:
    english = {emoji: text_of(annotation) for emoji, annotation in locales.get("en", {}).items()}
    rows = []
    for lang in _english_first(locales):
        for emoji, annotation in locales[lang].items():
            text, source = text_of(annotation), english.get(emoji, "")
            # A name that equals the English one is, as a rule, one that nobody has translated yet.
            if text and source and (lang == "en" or text_key(text) != text_key(source)):
                rows.append(Row(text, lang, source))
    return rows


def word_rows(locales: Locales) -> list[Row]:
    """Returns keywords with the English keyword that stands with nearly the same emoji, each being the other's best.

    The measure is the overlap of the two sets of emoji, shared over all, of those that both languages annotate.
    """
    english = locales.get("en", {})
    rows = [Row(word, "en", word) for word in _emoji_of_words(english, english)]
    for lang in _english_first(locales)[1:]:
        sources, words = _emoji_of_words(english, locales[lang]), _emoji_of_words(locales[lang], english)
        rows += [Row(word, lang, source) for word, source in _mutual_best(words, sources)]
    return rows


def _english_first(locales: Locales) -> list[str]:
    return sorted(locales, key=lambda lang: (lang != "en", lang))


def _emoji_of_words(annotations: Mapping[str, Annotation], known: Mapping[str, Annotation]) -> dict[str, set[str]]:
    """Returns keyword -> emoji, of the emoji that are `known` too."""
    places: dict[str, set[str]] = defaultdict(set)
    for emoji, annotation in annotations.items():
        if emoji in known:
            for word in annotation.keywords:
                places[word].add(emoji)
    return {word: emoji for word, emoji in places.items() if len(emoji) >= _LEAST_SHARED}


def _mutual_best(words: Mapping[str, set[str]], sources: Mapping[str, set[str]]) -> Iterator[tuple[str, str]]:
    at: dict[str, list[str]] = defaultdict(list)
    for source, emoji in sources.items():
        for one in emoji:
            at[one].append(source)
    best_of_word: dict[str, tuple[float, str]] = {}
    best_of_source: dict[str, tuple[float, str]] = {}
    for word, emoji in words.items():
        for source, shared in Counter(source for one in emoji for source in at[one]).items():
            overlap = shared / len(emoji | sources[source])
            if shared >= _LEAST_SHARED and overlap >= _LEAST_OVERLAP:
                best_of_word[word] = max(best_of_word.get(word, (0.0, "")), (overlap, source))
                best_of_source[source] = max(best_of_source.get(source, (0.0, "")), (overlap, word))
    for word, (_overlap, source) in best_of_word.items():
        if best_of_source[source][1] == word and text_key(word) != text_key(source):
            yield word, source
