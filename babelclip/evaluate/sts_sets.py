"""Sentence similarity over a benchmark: STS12 to STS16, STS-b, SICK-R, STS17 across languages.

Three averages over the subsets of a benchmark are in use, and differ by points:

* `mean`: the mean of the subsets' correlations.
* `wmean`: the same weighted by their numbers of pairs.
* `all`: one correlation over all pairs (the tables since SimCSE). `pearson` and `spearman` without an ending are these.

Nothing is trained: the score of a pair is the plain cosine of its vectors. Protocol `lowercased` lower-cases every
sentence, as SentEval's download does, which moves scores; it is stated in the result.
Entry point: `evaluate_sts`. Legend: N pairs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from babelclip import languages as language_codes
from babelclip.errors import BabelclipError
from babelclip.evaluate.intervals import resampled
from babelclip.evaluate.result import RunFacts, build_result
from babelclip.evaluate.sts import correlations, pair_cosines
from babelclip.evaluate.texts import declares, encoder_in, language_notes

if TYPE_CHECKING:
    from babelclip.evaluate.benchmarks.sets import ScoredPairs, SentencePairs

FloatArray = npt.NDArray[np.float64]


def evaluate_sts(
    model: Any,
    benchmark: SentencePairs,
    *,
    facts: RunFacts,
    languages: Sequence[str] | None = None,
    notes: Sequence[str] = (),
    advance: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Returns one result of the task `sts` for each pair of languages; `language` is `en`, or `ar+en`.

    Args:
        model: a `Clip`, or anything with `encode_text`.
        benchmark: subsets of pairs with gold scores.
        facts: what the results state of model and run.
        languages: BCP-47 codes; subsets with another language are left out. None: all.
        notes: added to every result.
        advance: is called with 1 after each pair of languages.

    Raises:
        BabelclipError: no subset is in these languages, or all pairs have the same cosine.
    """
    asked = None if languages is None else {language_codes.normalize(code) for code in languages}
    by_languages: dict[tuple[str, str], dict[str, ScoredPairs]] = {}
    for name, pairs in benchmark.subsets.items():
        spoken = benchmark.pair_languages[name]
        if asked is None or asked.issuperset(spoken):
            by_languages.setdefault(spoken, {})[name] = pairs
    if not by_languages:
        raise BabelclipError(
            f"{benchmark.name} has no pairs within {', '.join(sorted(asked or ()))}; its languages are "
            f"{', '.join(benchmark.languages) or 'none'}. Ask for both languages of a pair."
        )
    results = []
    for (first, second), subsets in by_languages.items():
        start = time.perf_counter()
        lower = benchmark.protocol == "lowercased"
        cosines = {name: _cosines(model, pairs, first, second, lower) for name, pairs in subsets.items()}
        gold = {name: np.asarray(pairs.gold, dtype=np.float64) for name, pairs in subsets.items()}
        metrics, unknown = _finite(averages(cosines, gold))
        if not metrics:
            raise BabelclipError(
                f"All {sum(map(len, gold.values()))} pairs of {benchmark.name} in {first} and {second} have one "
                "cosine, or one gold score, so nothing correlates. Look at the model's vectors: it may give every "
                "text the same."
            )
        joined = np.concatenate(list(cosines.values())), np.concatenate(list(gold.values()))
        covered = _covered(model, first, second)
        results.append(
            build_result(
                "sts",
                facts,
                language=first if first == second else f"{first}+{second}",
                metrics=metrics,
                intervals=_intervals(*joined, facts.seed),
                declared=covered,
                seconds=time.perf_counter() - start,
                notes=[*notes, *unknown, *_notes(first, second, model)],
                n_pairs=len(joined[0]),
                subsets={
                    name: {"n_pairs": len(gold[name]), **_finite(correlations(cosines[name], gold[name]))[0]}
                    for name in subsets
                },
                average="all" if len(subsets) > 1 else "none",
                protocol=benchmark.protocol,
            )
        )
        if advance is not None:
            advance(1)
    return results


def averages(predicted: Mapping[str, npt.ArrayLike], gold: Mapping[str, npt.ArrayLike]) -> dict[str, float]:
    """Returns `pearson` and `spearman` over all pairs and, from two subsets on, each with `_mean`, `_wmean`, `_all`.

    Args:
        predicted: subset -> (N,) what the model says of each pair.
        gold: subset -> (N,) what people say.

    Raises:
        BabelclipError: a subset has fewer than two pairs, or lengths differ.
    """
    names = list(predicted)
    every = correlations(
        np.concatenate([np.asarray(predicted[name]) for name in names]),
        np.concatenate([np.asarray(gold[name]) for name in names]),
    )
    if len(names) < 2:
        return every
    parts = [correlations(predicted[name], gold[name]) for name in names]
    sizes = [len(np.asarray(gold[name])) for name in names]
    found = dict(every)
    for metric, over_all in every.items():
        values = [part[metric] for part in parts]
        found[f"{metric}_mean"] = float(np.mean(values))
        found[f"{metric}_wmean"] = float(np.average(values, weights=sizes))
        found[f"{metric}_all"] = over_all
    return found


def _cosines(model: Any, pairs: ScoredPairs, first: str, second: str, lower: bool) -> FloatArray:
    sides = []
    for texts, lang in ((pairs.first, first), (pairs.second, second)):
        read = [text.lower() for text in texts] if lower else list(texts)
        sides.append((lang, read))
    if first == second:  # each distinct sentence once
        vectors = _vectors(model, first, [*sides[0][1], *sides[1][1]])
        return pair_cosines(vectors[: len(pairs)], vectors[len(pairs) :])
    return pair_cosines(*(_vectors(model, lang, texts) for lang, texts in sides))


def _vectors(model: Any, lang: str, texts: list[str]) -> npt.NDArray[np.floating[Any]]:
    place = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    rows: npt.NDArray[np.floating[Any]] = encoder_in(model, lang)(list(place))[[place[text] for text in texts]]
    return rows


def _intervals(cosines: FloatArray, gold: FloatArray, seed: int) -> dict[str, list[float]]:
    return resampled(lambda drawn: correlations(cosines[drawn], gold[drawn]), len(gold), seed=seed)


def _finite(figures: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
    """Returns the figures that are numbers, and a note on the others."""
    known = {name: value for name, value in figures.items() if math.isfinite(value)}
    lost = [name for name in figures if name not in known]
    return known, [f"{', '.join(lost)} cannot be told: all scores of a subset are equal"] if lost else []


def _covered(model: object, first: str, second: str) -> bool | None:
    both = [declares(model, code) for code in {first, second}]
    return None if None in both else all(both)


def _notes(first: str, second: str, model: object) -> list[str]:
    return [note for code in dict.fromkeys((first, second)) for note in language_notes(code, declares(model, code))]
