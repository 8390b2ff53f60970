"""One query in many languages: do its translations find the same pictures, and how surely?

The view for finding out what a model, or a translation, does to a language: a low overlap with high scores points to
the translation (it says something else), low scores point to the model (it hardly knows the language).

Entry points: `compare`, `translations`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from babelclip import languages
from babelclip.data.sources import open_captions
from babelclip.errors import BabelclipError, shown
from babelclip.models.clip import Clip
from babelclip.search.collection import Collection
from babelclip.search.filters import Filter
from babelclip.search.query import Hit, QueryVector, find_vector
from babelclip.search.query_background import background
from babelclip.search.query_terms import normal

if TYPE_CHECKING:
    from babelclip.translate.engine import Engine


@dataclasses.dataclass(frozen=True)
class Compared:
    """What one language found.

    Attributes:
        lang: BCP-47.
        text: the query in it.
        overlap: share of the reference's results that are among its own (near duplicates count as one).
        cosine: of its vector with that of the reference.
        best: score of its first result.
        mean: score of its results.
        z: how far `best` lies above the scores of unrelated texts, in standard deviations.
        declared: whether the model says that it knows the language; None where it names none.
        hits: its results, best first.
    """

    lang: str
    text: str
    overlap: float
    cosine: float
    best: float
    mean: float
    z: float
    declared: bool | None
    hits: list[Hit]


def compare(
    collection: Collection,
    clip: Clip,
    texts: Mapping[str, str],
    k: int = 10,
    *,
    reference: str = "",
    where: Filter | str | None = None,
    columns: Sequence[str] = (),
) -> list[Compared]:
    """Returns what each language finds, the reference first, then by falling overlap.

    Args:
        collection: what is searched.
        clip: encodes the texts; those of languages that it was not trained on too.
        texts: language (BCP-47) -> the query in it; at least two.
        k: results of each.
        reference: the language that the others are compared with; "" takes the first.
        where: only rows that fulfil it.
        columns: in `Hit.values`.

    Raises:
        UnknownLanguageError: a language is not known.
        SpaceMismatchError: the model is of another space than the collection.
        BabelclipError: there is one language only, or the reference is none of them.
    """
    collection.fingerprint.check_space(clip.space, f"collection {collection.name} and model {clip.name}")
    named = {languages.normalize(code): normal(text) for code, text in texts.items()}
    first = languages.normalize(reference) if reference else next(iter(named), "")
    if len(named) < 2 or first not in named:
        raise BabelclipError(
            f"The query was given in {', '.join(named) or 'no language'}, and is compared with {first or 'none'}. Give "
            "it in two languages or more, the reference among them: --as sv=hund, or by --engine or --captions."
        )
    codes = [first, *(code for code in named if code != first)]
    vectors = clip.encode_text([named[code] for code in codes])
    spread = background(collection, clip)
    mean, std = spread.of([("text", 1.0)])
    asked = [*dict.fromkeys([*columns, "group"])]
    queries = [QueryVector(vector, (("text", 1.0),)) for vector in vectors]
    found = [find_vector(collection, query, k, where=where, columns=asked, spread=spread).rows for query in queries]
    wanted = _names(found[0])
    rows = []
    for code, vector, hits in zip(codes, vectors, found, strict=True):
        scores = np.array([hit.score for hit in hits] or [0.0])
        rows.append(
            Compared(
                lang=code,
                text=named[code],
                overlap=len(wanted & _names(hits)) / max(len(wanted), 1),
                cosine=float(np.dot(vector, vectors[0])),
                best=float(scores[0]),
                mean=float(scores.mean()),
                z=(float(scores[0]) - mean) / std,
                declared=languages.covers(clip.languages, code) if clip.languages else None,
                hits=hits,
            )
        )
    return [rows[0], *sorted(rows[1:], key=lambda row: (-row.overlap, -row.cosine, row.lang))]


def _names(hits: Sequence[Hit]) -> set[str]:
    """Returns what was found, near duplicates by the name of their group."""
    return {hit.values["group"] or hit.id for hit in hits}


def translations(
    text: str,
    lang: str,
    *,
    told: Sequence[str] = (),
    captions: Path | str | None = None,
    engine: Engine | None = None,
    to: Sequence[str] = (),
) -> dict[str, str]:
    """Returns the query by language, its own first: as told, as a table of captions has it, or translated.

    Args:
        text: the query.
        lang: its language.
        told: "sv=hund" for each translation; these win.
        captions: a table in which `text` is a caption, and others translate it (`source_id`).
        engine: translates into what neither gives; it is not closed.
        to: only these languages; of an engine, the languages to translate into; () for all that it has.

    Raises:
        UnknownLanguageError: a language is not known.
        BabelclipError: a translation is not told as language=text, or the table does not have the query.
    """
    own = languages.normalize(lang)
    wanted = [languages.normalize(code) for code in to]
    found = {own: text}
    for words in told:
        code, mark, translated = words.partition("=")
        if not mark or not translated.strip():
            raise BabelclipError(f"{words!r} is no translation. Tell one as language=text, for example sv=hund.")
        found[languages.normalize(code.strip())] = translated.strip()
    if captions is not None:
        for code, translated in _of_table(captions, text, own).items():
            found.setdefault(code, translated)
    if engine is not None:
        for code in wanted or engine.languages():
            if code not in found and (translated := engine.translate([text], own, code)[0].strip()):
                found[code] = translated
    return {code: words for code, words in found.items() if code == own or not wanted or code in wanted}


def _of_table(captions: Path | str, text: str, lang: str) -> dict[str, str]:
    """Returns the translations of a text in a table: the first of each language."""
    sources: set[str] = set()
    rows: list[tuple[str, str, str | None]] = []
    for part in open_captions(captions):
        columns = (part.table[name].to_pylist() for name in ("id", "text", "lang", "source_id"))
        for name, words, code, source in zip(*columns, strict=True):
            if code == lang and normal(words).casefold() == normal(text).casefold():
                sources.add(name)
                if source:
                    sources.add(source)
            if source:
                rows.append((code, words, source))
    found: dict[str, str] = {}
    for code, words, source in rows:
        if source in sources and code != lang:
            found.setdefault(code, words)
    if not found:
        raise BabelclipError(
            f"{captions} has no translation of {shown(text)!r} ({lang}). Translations name the id of their source in "
            "the column source_id: give a text that is in the table, or tell translations by --as sv=hund."
        )
    return found
