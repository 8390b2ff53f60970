"""The texts in a hundred languages as one table: English rows, and translations that name them.

`babelclip starter --text hundred --out FOLDER` writes what `recipes/starter-100-languages.toml` is taught from:

    FOLDER/captions.parquet   what is taught; the target of a row is the vector of its `source_id`, or of its own id
    FOLDER/sources.parquet    the English texts whose teacher vectors are the targets, for `babelclip embed`
    FOLDER/counts.json        rows by source and language, what was left out and why, whose texts they are

No caption of a Tux Paint picture is among them, in any language, neither as text nor as source. Entry points:
`SOURCES`, `gather_texts`, `write_texts`.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from babelclip.data.captions import Captions, write_captions
from babelclip.errors import BabelclipError
from babelclip.files import write_json
from babelclip.starter import sources, words
from babelclip.starter.debian import DebianPart, Found, find_folders, left_out
from babelclip.starter.hundred import catalogues, cldr, descriptions, dictionaries, gcompris, gettext
from babelclip.starter.hundred.npm import find_package
from babelclip.starter.parts import CLASS_DESCRIPTIONS, CLASS_NAMES
from babelclip.starter.sources import Row
from babelclip.starter.tuxpaint import STAMPS, read_stamps
from babelclip.starter.wordnet import WORDNET, Nouns, read_nouns
from babelclip.starter.words import Corpus, Source

Say = Callable[[str], None]

# Texts a language; what is short and names what can be seen is taken whole, what is long and technical in part.
SOURCES: dict[str, Source] = {
    "names": Source(most=1200),
    "flags": Source(most=20),
    "keywords": Source(most=150),
    "words of keywords": Source(most=400),
    "children's words": Source(),
    "Wesnoth": Source(most=400),
    "Debian descriptions": Source(most=250),
    "GIMP": Source(most=80),
    "more dictionaries": Source(most=3000),
    # The demo takes parts of these, to stay within its minutes; the emoji names of CLDR take the place of its own.
    **{name: Source() for name in words.SOURCES if name != "emoji names"},
}
# What XLM-R was pretrained on (Conneau et al., 2020): the student's backbone began there.
BACKBONE_LANGUAGES = frozenset(
    """af am ar as az be bg bn br bs ca cs cy da de el en eo es et eu fa fi fil fr fy ga gd gl gu ha he hi hr hu hy id
    is it ja jv ka kk km kn ko ku ky la lo lt lv mg mk ml mn mr ms my nb ne nl nn no om or pa pl ps pt ro ru sa sd si
    sk sl so sq sr su sv sw ta te th tr ug uk ur uz vi xh yi zh""".split()
)
# Of other languages one text in five is taught: what a few upper layers can learn of them is little.
_OTHERS = 5
_OF_STARTER = tuple(name for name in SOURCES if name in words.SOURCES)
PACKAGES: tuple[DebianPart, ...] = (
    *catalogues.WESNOTH,
    catalogues.GIMP,
    gcompris.WORDS,
    *dictionaries.MORE_DICTIONARIES.values(),
    *words.PACKAGES,
)
ATTRIBUTION: tuple[str, ...] = tuple(
    dict.fromkeys(
        (
            cldr.ANNOTATIONS.attribution,
            cldr.DERIVED.attribution,
            descriptions.ATTRIBUTION,
            *(part.attribution for part in PACKAGES),
            CLASS_NAMES.attribution,
            CLASS_DESCRIPTIONS.attribution,
        )
    )
)


def gather_texts(
    *, seed: int = 0, cache: Path | None = None, download: bool = True, say: Say = lambda _line: None
) -> Corpus:
    """Returns the texts of all sources, without the captions of Tux Paint.

    Args:
        seed: of what is drawn from large sources and of what is composed.
        cache: where packages are kept; None is babelclip's cache folder.
        download: whether packages that are not on this machine are fetched.
        say: is told what is read, and what is left out.

    Raises:
        BabelclipError: Tux Paint, whose captions have to be left out, or every source cannot be had; packages of npm
            or of PyPI are absent or damaged.
    """
    stamps, *places = find_folders([STAMPS, *PACKAGES], cache, download)
    if stamps.folder is None:
        raise BabelclipError(f"Captions of the test pictures cannot be left out without them. {stamps.note}")
    missing = [*left_out(places)]
    skipped: Counter[str] = Counter()
    locales = cldr.read_annotations(
        [find_package(part, cache, download) for part in (cldr.ANNOTATIONS, cldr.DERIVED)], skipped
    )
    rows = cldr_rows(locales)
    rows |= _catalogue_rows(places, skipped)
    try:
        rows["Debian descriptions"] = with_english(
            descriptions.list_rows(descriptions.find_lists(cache, download), skipped)
        )
    except BabelclipError as error:
        missing.append(str(error))
    rows |= _starter_rows(places, seed, skipped)
    for name, found in rows.items():
        rows[name] = found = thinned(found)
        say(f"{name}: {len(found):,} rows in {len({row.lang for row in found})} languages")
    corpus = words.build_corpus(rows, read_stamps(stamps.folder).texts, SOURCES, seed=seed)
    captions = dataclasses.replace(corpus.captions, skipped={**corpus.captions.skipped, **skipped})
    return dataclasses.replace(corpus, captions=captions, missing=tuple(missing))


def cldr_rows(locales: cldr.Locales) -> dict[str, list[Row]]:
    """Returns the rows of the sources that CLDR gives."""
    return {
        "names": cldr.name_rows(locales),
        "flags": cldr.name_rows(locales, flags=True),
        "keywords": cldr.keyword_rows(locales),
        "words of keywords": cldr.word_rows(locales),
    }


def thinned(rows: Iterable[Row]) -> list[Row]:
    """Returns all rows in languages of the backbone, and one in five of the others, chosen by their English text."""
    return [
        row
        for row in rows
        if row.lang.split("-")[0] in BACKBONE_LANGUAGES or zlib.crc32(row.english.encode()) % _OTHERS == 0
    ]


def with_english(rows: Iterable[Row]) -> list[Row]:
    """Returns the rows and, before them, a row for each English text among their targets: it is a text to learn too."""
    listed = list(rows)
    english = dict.fromkeys(row.english for row in listed)
    return [*(Row(text, "en", text) for text in english), *listed]


def _catalogue_rows(places: Sequence[Found], skipped: Counter[str]) -> dict[str, list[Row]]:
    folders = {place.part: place.folder for place in places if place.folder is not None}
    rows: dict[str, list[Row]] = {}
    wesnoth = [folders[part] for part in catalogues.WESNOTH if part in folders]
    rows["Wesnoth"] = with_english(row for folder in wesnoth for row in gettext.catalogue_rows(folder, skipped))
    if catalogues.GIMP in folders:
        rows["GIMP"] = with_english(gettext.catalogue_rows(folders[catalogues.GIMP], skipped))
    if gcompris.WORDS in folders:
        rows["children's words"] = gcompris.word_rows(folders[gcompris.WORDS], skipped)
    return rows


def _starter_rows(places: Sequence[Found], seed: int, skipped: Counter[str]) -> dict[str, list[Row]]:
    """Returns the rows of the demo's sources, and of more dictionaries for the same English nouns."""
    folders = {place.part: place.folder for place in places if place.folder is not None}
    no_names = Captions.from_columns(text=["-"], lang="en")  # the emoji names of CLDR take their place
    rows, of_readers = sources.read_sources(_OF_STARTER, no_names, folders, seed)
    skipped.update(of_readers)
    nouns = read_nouns(folders[WORDNET]) if WORDNET in folders else Nouns()
    wanted = sources.dictionary_words(sources.class_names(), sources.taught_synsets(nouns), nouns.words)
    return {"more dictionaries": dictionaries.dictionary_rows(folders, wanted, skipped), **rows}


def write_texts(corpus: Corpus, folder: Path) -> dict[str, Any]:
    """Writes the tables and counts described at the top of this module; returns the counts.

    Args:
        corpus: as `gather_texts` gives it.
        folder: is made where it is missing.
    """
    captions = corpus.captions
    taught = dataclasses.replace(captions, table=captions.table.filter(corpus.weights > 0))
    wanted = set(filter(None, captions.table.column("source_id").to_pylist()))
    is_source = np.array(
        [
            source is None and (lang == "en" or own in wanted)
            for own, source, lang in zip(
                captions.ids, captions.table.column("source_id").to_pylist(), captions.langs, strict=True
            )
        ]
    )
    write_captions(taught, folder / "captions.parquet")
    write_captions(dataclasses.replace(captions, table=captions.table.filter(is_source)), folder / "sources.parquet")
    counts: dict[str, Any] = {
        "taught": len(taught),
        "sources": int(is_source.sum()),
        "removed_as_test_captions": corpus.removed,
        "by_source": {name: dict(by_lang) for name, by_lang in corpus.counts.items()},
        "by_language": taught.language_counts(),
        "skipped": dict(sorted(captions.skipped.items())),
        "missing": list(corpus.missing),
        "attribution": list(ATTRIBUTION),
    }
    write_json(folder / "counts.json", counts)
    return counts


def count_lines(counts: Mapping[str, Any]) -> list[str]:
    """Returns the counts as lines for a terminal: by source, then by language, most first."""
    lines = [f"{counts['taught']:,} texts taught, {counts['sources']:,} English texts as targets"]
    lines.append(f"{counts['removed_as_test_captions']:,} rows left out: a caption of a test picture, or its source")
    for name, by_lang in counts["by_source"].items():
        lines.append(f"  {name:<22} {sum(by_lang.values()):>9,}  in {len(by_lang)} languages")
    by_language = sorted(counts["by_language"].items(), key=lambda item: (-item[1], item[0]))
    for start in range(0, len(by_language), 10):
        lines.append("  " + "  ".join(f"{lang} {count:,}" for lang, count in by_language[start : start + 10]))
    lines += [f"left out: {line}" for line in counts["missing"]]
    return lines
