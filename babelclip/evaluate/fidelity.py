"""Fidelity: how near a student's vector of a text lies to its teacher's vector of the English original.

Both vectors are the raw projections, as in teacher learning. An MSE means little by itself, because it depends on the
number of dimensions and on the teacher's norm; so what the **trivial predictor** reaches stands beside it, which
answers the mean of the teacher's vectors to everything. Entry point: `evaluate_fidelity`. Legend: N texts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from babelclip import languages as language_codes
from babelclip.errors import BabelclipError, SpaceMismatchError
from babelclip.evaluate.metrics import bootstrap_interval
from babelclip.evaluate.result import RunFacts, build_result
from babelclip.evaluate.sts import pair_cosines
from babelclip.evaluate.texts import declares, language_notes

if TYPE_CHECKING:
    from babelclip.evaluate.benchmarks.sets import ParallelTexts
    from babelclip.models.clip import Clip


def evaluate_fidelity(
    model: Clip,
    teacher: Clip,
    benchmark: ParallelTexts,
    *,
    facts: RunFacts,
    reference: str = "en",
    languages: Sequence[str] | None = None,
    notes: Sequence[str] = (),
    advance: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Returns one result of the task `fidelity` a language: `cosine`, `mse`, `trivial_cosine`, `trivial_mse`.

    `explained` is 1 - mse / trivial_mse: 1 for the teacher's own vectors, 0 for the trivial predictor.

    Args:
        model: the student; its text tower is used.
        teacher: a model of the same space; its text tower is used.
        benchmark: the same texts in several languages.
        facts: what the results state of model and run.
        reference: the teacher's language.
        languages: BCP-47 codes of the student's texts; None: all of the set, the reference included.
        notes: added to every result.
        advance: is called with 1 after each language.

    Raises:
        SpaceMismatchError: teacher and student are of two spaces.
        BabelclipError: a language is not there.
    """
    if teacher.space != model.space:
        raise SpaceMismatchError(model.space, teacher.space, f"the student {facts.model} and the teacher")
    codes = list(dict.fromkeys(benchmark.languages if languages is None else map(language_codes.normalize, languages)))
    absent = [code for code in [*codes, reference] if code not in benchmark.texts]
    if absent:
        raise BabelclipError(
            f"{benchmark.name} has no texts in {', '.join(absent)}; it has {', '.join(benchmark.languages)}. The "
            f"teacher reads {reference}, the student what was asked for: ask for languages that are there."
        )
    from babelclip.train.fidelity import fidelity

    targets = teacher.encode_text(benchmark.texts[reference], normalize=False, lang=reference)
    trivial = pair_cosines(np.broadcast_to(targets.mean(axis=0), targets.shape), targets).mean()
    results = []
    for code in codes:
        start = time.perf_counter()
        features = _raw(model, benchmark.texts[code], code)
        figures = fidelity(features, targets, [code] * len(targets))
        metrics = {name: figures[name] for name in ("cosine", "mse", "trivial_mse")}
        metrics["trivial_cosine"] = float(trivial)
        if metrics["trivial_mse"] > 0:
            metrics["explained"] = 1 - metrics["mse"] / metrics["trivial_mse"]
        covered = declares(model, code)
        results.append(
            build_result(
                "fidelity",
                facts,
                language=code,
                metrics=metrics,
                intervals={"cosine": bootstrap_interval(pair_cosines(features, targets), seed=facts.seed).tolist()},
                declared=covered,
                seconds=time.perf_counter() - start,
                notes=[*notes, *language_notes(code, covered)],
                reference=teacher.name or teacher.space,
                reference_language=reference,
                n_captions=len(targets),
            )
        )
        if advance is not None:
            advance(1)
    return results


def _raw(model: Clip, texts: Sequence[str], lang: str) -> np.ndarray:
    return model.text_tower().encode(list(texts), False, lang=lang)
