"""Translation retrieval: does a text find its own translation among all of them, and back?

`R@1` from one language to another is the accuracy that sentence-transformers' TranslationEvaluator prints; `accuracy`
is the mean of both directions. Scores are made a chunk at a time, so a hundred thousand texts need no N x N matrix.
Entry point: `evaluate_translation`. Legend: N texts in each language.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from babelclip import languages as language_codes
from babelclip.errors import BabelclipError
from babelclip.evaluate.hits import pack_hits
from babelclip.evaluate.metrics import bootstrap_interval, score_queries
from babelclip.evaluate.relevance import same_group
from babelclip.evaluate.result import RunFacts, build_result
from babelclip.evaluate.texts import declares, encoder_in, language_notes

if TYPE_CHECKING:
    from babelclip.evaluate.benchmarks.sets import ParallelTexts

PIVOT = "en"


def evaluate_translation(
    model: Any,
    benchmark: ParallelTexts,
    *,
    facts: RunFacts,
    languages: Sequence[str] | None = None,
    ks: Sequence[int] = (1, 5, 10),
    every_pair: bool = False,
    notes: Sequence[str] = (),
    advance: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Returns one result of the task `translation_retrieval` for each direction, such as `sv->en`.

    Args:
        model: a `Clip`, or anything with `encode_text`.
        benchmark: the same texts in two languages or more.
        facts: what the results state of model and run.
        languages: BCP-47 codes; None: all of the set.
        ks: see `score_queries`.
        every_pair: whether every language meets every other; else each meets English, or the first where there is none.
        notes: added to every result.
        advance: is called with 1 after each pair of languages.

    Raises:
        BabelclipError: a language is not there, or there is only one.
    """
    codes = asked_languages(benchmark, languages)
    pivot = PIVOT if PIVOT in codes else codes[0]
    pairs = [pair for pair in itertools.combinations(codes, 2) if every_pair or pivot in pair]
    start = time.perf_counter()
    vectors = {code: encoder_in(model, code)(benchmark.texts[code]) for code in codes}
    encoding = (time.perf_counter() - start) / len(codes)
    results = []
    for one, other in pairs:
        both = [
            _direction(model, benchmark, vectors, source, target, facts, ks, notes, encoding)
            for source, target in ((one, other), (other, one))
        ]
        mean = float(np.mean([result["metrics"][f"R@{ks[0]}"] for result in both]))
        for result in both:
            result["metrics"]["accuracy"] = mean
        results += both
        if advance is not None:
            advance(1)
    return results


def asked_languages(benchmark: ParallelTexts, languages: Sequence[str] | None) -> list[str]:
    """Returns the canonical codes of the languages to measure, two at least.

    Raises:
        BabelclipError: a language is not there, or there is only one.
    """
    codes = list(dict.fromkeys(benchmark.languages if languages is None else map(language_codes.normalize, languages)))
    absent = [code for code in codes if code not in benchmark.texts]
    if absent or len(codes) < 2:
        raise BabelclipError(
            f"{benchmark.name} was asked for {', '.join(codes) or 'no language'}; translation needs two languages of "
            f"{', '.join(benchmark.languages)}. Ask for two of these or more."
        )
    return codes


def _direction(
    model: Any,
    benchmark: ParallelTexts,
    vectors: dict[str, npt.NDArray[np.floating[Any]]],
    source: str,
    target: str,
    facts: RunFacts,
    ks: Sequence[int],
    notes: Sequence[str],
    encoding: float,
) -> dict[str, Any]:
    start = time.perf_counter()
    # Texts that are equal in the language of the answers are the same answer.
    numbers: dict[str, int] = {}
    own = [numbers.setdefault(text, len(numbers)) for text in benchmark.texts[target]]
    scores = score_queries(vectors[source], vectors[target], same_group(own, own), ks)
    low, high = bootstrap_interval(scores.hits, seed=facts.seed)
    covered = [declares(model, code) for code in (source, target)]
    means = scores.summary()
    return build_result(
        "translation_retrieval",
        facts,
        language=source,
        metrics=means,
        intervals={f"R@{k}": [float(low[i]), float(high[i])] for i, k in enumerate(scores.ks)},
        declared=None if None in covered else all(covered),
        seconds=2 * encoding + time.perf_counter() - start,
        notes=[
            *notes,
            *scores.notes,
            *language_notes(source, covered[0]),
            *language_notes(target, covered[1]),
        ],
        direction=f"{source}->{target}",
        target_language=target,
        n_captions=len(vectors[target]),
        n_queries=len(scores.queries),
        k=list(scores.ks),
        per_query=pack_hits(
            {f"R@{k}": scores.hits[:, place] for place, k in enumerate(scores.ks)}, queries=benchmark.texts[source]
        ),
    )
