"""Retrieval over a benchmark that was read: its languages, its corpora, its protocol, and equal captions merged.

`merged_R@k` stands beside `R@k`: captions of two pictures that are equal up to case and space cannot be told apart by
any model, and count as right for both pictures there. In `R@k` the other picture's counts as wrong, as everywhere.
Entry point: `evaluate_retrieval_set`. Legend: N captions, C pictures, D embed_dim.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from babelclip import languages as language_codes
from babelclip.errors import BabelclipError
from babelclip.evaluate.relevance import Relevance, listed
from babelclip.evaluate.result import RunFacts
from babelclip.evaluate.retrieval import evaluate_features
from babelclip.evaluate.texts import encoder_in

if TYPE_CHECKING:
    from babelclip.evaluate.benchmarks.sets import RetrievalSet

IntArray = npt.NDArray[np.int64]


def evaluate_retrieval_set(
    model: Any,
    benchmark: RetrievalSet,
    image_features: npt.ArrayLike,
    *,
    facts: RunFacts,
    kept: Sequence[int] | IntArray | None = None,
    languages: Sequence[str] | None = None,
    ks: Sequence[int] = (1, 5, 10),
    image_seconds: float = 0.0,
    notes: Sequence[str] = (),
    advance: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Returns one result of the task `zeroshot_retrieval` a language and direction.

    Args:
        model: a `Clip`, or anything with `encode_text`.
        benchmark: captions, and which pictures they are ranked against.
        image_features: (M, D) of the pictures that could be read.
        facts: what the results state of model and run.
        kept: (M,) their positions in the set; None: all of its pictures.
        languages: BCP-47 codes, in this order; None: all of the set.
        ks: see `score_queries`.
        image_seconds: what encoding the pictures took, stated apart because languages share it.
        notes: added to every result.
        advance: is called with 1 after each language.

    Raises:
        BabelclipError: a language has no caption whose picture is there, or shapes do not fit.
    """
    features, positions = benchmark.pictures.kept_features(image_features, kept)
    row_of = {int(position): row for row, position in enumerate(positions)}
    captions = _by_language(benchmark)
    results = []
    for code in asked_languages(benchmark, languages):
        corpus = _corpus(benchmark, code, positions, row_of)
        place_of = {benchmark.pictures.ids[positions[row]]: place for place, row in enumerate(corpus)}
        asked = _Asked.of(
            [(number, text, place_of[image]) for number, text, image in captions[code] if image in place_of]
        )
        if not asked.texts:
            raise BabelclipError(
                f"None of the {len(captions[code])} captions in {code} has a picture that could be read. Check the "
                f"folder of the pictures of {benchmark.name}."
            )
        start = time.perf_counter()
        text_features = encoder_in(model, code)(asked.texts)
        text_seconds = time.perf_counter() - start
        groups = _groups(benchmark, positions[corpus])
        ids = [benchmark.pictures.ids[position] for position in positions[corpus]]
        lost = len({number for number, _, _ in captions[code]}) - len(asked.texts)
        own = asked.places[asked.first]
        results += evaluate_features(
            text_features,
            features[corpus],
            groups[own],
            groups,
            facts=facts,
            language=code,
            text_images=own,
            ks=ks,
            captions_per_image=benchmark.captions_per_image,
            relevance=_relevance(benchmark),
            declared=tuple(getattr(model, "languages", ())),
            text_seconds=text_seconds,
            image_seconds=image_seconds,
            notes=[*notes, *([f"{lost} captions lost their picture and were left out"] if lost else [])],
            queries={"t2i": asked.texts, "i2t": ids},
            relevant=None
            if benchmark.text_numbers is None
            else _by_pairs(np.arange(len(own)), asked.of_pair, asked.places, groups),
            merged=merged_duplicates(asked.texts, asked.places, groups, asked.of_pair),
            fields={"benchmark": dict(benchmark.facts)} if benchmark.facts else None,
        )
        if advance is not None:
            advance(1)
    return results


def asked_languages(benchmark: RetrievalSet, languages: Sequence[str] | None) -> list[str]:
    """Returns the canonical codes of the languages to measure.

    Raises:
        BabelclipError: the set has no caption in a language.
    """
    codes = list(benchmark.languages if languages is None else map(language_codes.normalize, languages))
    absent = [code for code in codes if code not in benchmark.languages]
    if absent or not codes:
        raise BabelclipError(
            f"No caption with a picture is in {', '.join(absent) or 'any language'}; {benchmark.name} has "
            f"{', '.join(benchmark.languages) or 'none'}. Ask for one of these."
        )
    return list(dict.fromkeys(codes))


@dataclass(frozen=True)
class _Asked:
    """The N texts of a language, and the P pairs of a text with a picture that answers it.

    Attributes:
        texts: N texts, in the order of the captions.
        of_pair: (P,) the text of each pair, ascending.
        places: (P,) the picture of each pair.
        first: (N,) the first pair of each text.
    """

    texts: list[str]
    of_pair: IntArray
    places: IntArray
    first: IntArray

    @classmethod
    def of(cls, rows: Sequence[tuple[int, str, int]]) -> _Asked:
        """Returns the texts of rows of number, text and picture; rows of one number are one text."""
        rows = sorted(rows, key=lambda row: row[0])
        numbers = np.array([number for number, _, _ in rows], dtype=np.int64)
        _, first, of_pair = np.unique(numbers, return_index=True, return_inverse=True)
        places = np.array([place for _, _, place in rows], dtype=np.int64)
        return cls([rows[at][1] for at in first], of_pair.astype(np.int64), places, first.astype(np.int64))


def merged_duplicates(
    texts: Sequence[str], places: IntArray, groups: IntArray, of_pair: IntArray | None = None
) -> dict[str, Relevance] | None:
    """Returns, by direction, the relevance in which equal captions count as one; None where that changes nothing.

    A caption answers, and is answered by, every picture of the groups that have an equal caption. That is no
    equivalence: a picture with "a dog" and "a black dog" shares only the first with the picture of another dog.

    Args:
        texts: N captions of one language.
        places: (P,) the picture of each pair of caption and picture.
        groups: (C,) group of each picture, numbered from 0.
        of_pair: (P,) the caption of each pair; None: each caption has one picture, and P is N.
    """
    of_pair = np.arange(len(texts)) if of_pair is None else of_pair
    numbers: dict[str, int] = {}
    same = np.array([numbers.setdefault(_plain(text), len(numbers)) for text in texts], dtype=np.int64)
    apart = np.unique(np.stack([of_pair, groups[places]]), axis=1)
    together = np.unique(np.stack([same[of_pair], groups[places]]), axis=1)
    if np.bincount(together[0])[same].sum() == apart.shape[1]:
        return None  # no text gets a group that it did not have
    return _by_pairs(same, of_pair, places, groups)


def _by_pairs(same: IntArray, of_pair: IntArray, places: IntArray, groups: IntArray) -> dict[str, Relevance]:
    """Returns, by direction, the relevance that follows from pairs of a text and a picture.

    Args:
        same: (N,) number of each text, from 0; texts of one number count as one.
        of_pair: (P,) the text of each pair.
        places: (P,) its picture.
        groups: (C,) group of each picture; they are numbered as they come, so they are places of a list.
    """
    pairs = np.unique(np.stack([same[of_pair], groups[places]]), axis=1)
    n_texts, n_groups = int(same.max()) + 1, int(groups.max()) + 1
    groups_of_text, texts_of_group = _lists(pairs[0], pairs[1], n_texts), _lists(pairs[1], pairs[0], n_groups)
    pictures_of_group = _lists(groups, np.arange(len(groups)), n_groups)
    captions_of_text = _lists(same, np.arange(len(same)), n_texts)
    pictures = [np.concatenate([pictures_of_group[group] for group in own]) for own in groups_of_text]
    captions = [
        np.concatenate([captions_of_text[text] for text in own]) if len(own) else np.empty(0, dtype=np.int64)
        for own in texts_of_group
    ]
    return {
        "t2i": listed([pictures[text].tolist() for text in same], len(groups)),
        "i2t": listed([captions[group].tolist() for group in groups], len(same)),
    }


def _lists(keys: IntArray, values: IntArray, n: int) -> list[IntArray]:
    """Returns the values of each key 0..n-1."""
    order = np.argsort(keys, kind="stable")
    return np.split(values[order], np.searchsorted(keys[order], np.arange(1, n)))


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _by_language(benchmark: RetrievalSet) -> dict[str, list[tuple[int, str, str]]]:
    """Returns the rows of each language: number of the text, text, id of the picture."""
    rows: dict[str, list[tuple[int, str, str]]] = {}
    table, numbers = benchmark.captions, benchmark.text_numbers
    told = range(len(table)) if numbers is None else numbers.tolist()
    images = table.table.column("image").to_pylist()
    for number, text, lang, image in zip(told, table.texts, table.langs, images, strict=True):
        rows.setdefault(lang, []).append((number, text, image))
    return rows


def _relevance(benchmark: RetrievalSet) -> str:
    if benchmark.groups is not None:
        return "group"
    return "own picture" if benchmark.text_numbers is None else "any picture of the text"


def _corpus(benchmark: RetrievalSet, code: str, positions: IntArray, row_of: dict[int, int]) -> IntArray:
    """Returns the rows of the picture vectors that captions of a language are ranked against."""
    own = None if benchmark.corpora is None else benchmark.corpora.get(code)
    if own is None:
        return np.arange(len(positions))
    return np.array([row_of[int(position)] for position in own if int(position) in row_of], dtype=np.int64)


def _groups(benchmark: RetrievalSet, positions: IntArray) -> IntArray:
    if benchmark.groups is None:
        return np.arange(len(positions))
    numbers: dict[str, int] = {}
    of_pictures = [benchmark.groups[position] for position in positions]
    return np.array([numbers.setdefault(group, len(numbers)) for group in of_pictures], dtype=np.int64)
