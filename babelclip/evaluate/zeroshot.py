"""Zero-shot classification: a picture belongs to the class whose name, put into words, lies nearest.

Pictures are encoded by the caller (`babelclip.evaluate.features`), once, whatever the number of languages. Class
vectors are made as in `babelclip.evaluate.prompts`, figures as in `babelclip.evaluate.classification`.

Entry points: `evaluate_zeroshot` for a set in all its languages, `zero_shot_accuracy` for vectors and names at hand.
Legend: N pictures, C classes, D embed_dim.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from babelclip import languages as language_codes
from babelclip.errors import BabelclipError
from babelclip.evaluate.classification import Figures, multi_label, partial_classes, single_label
from babelclip.evaluate.hits import pack_hits
from babelclip.evaluate.prompts import NAME_ALONE, Encode, Templates, class_vectors, template_count
from babelclip.evaluate.result import RunFacts, build_result
from babelclip.evaluate.texts import declares, encoder_in, language_notes

if TYPE_CHECKING:
    from babelclip.evaluate.benchmarks.sets import ClassificationSet

FloatArray = npt.NDArray[np.floating[Any]]


def zero_shot_accuracy(
    encode: Encode,
    image_features: npt.ArrayLike,
    labels: npt.ArrayLike,
    classnames: Sequence[str],
    templates: Templates = NAME_ALONE,
) -> dict[str, float]:
    """Returns `acc1`, `acc5` (from five classes on), `mean_per_class_recall` and `chance_acc1`.

    >>> letters = lambda texts: np.array([[text.count(c) for c in "dc"] for text in texts], dtype=float)
    >>> zero_shot_accuracy(letters, np.eye(2), [0, 1], ["d", "c"], ["{c}"])["acc1"]
    1.0

    Args:
        encode: texts to vectors, such as `clip.encode_text`.
        image_features: (N, D), rows L2-normalised.
        labels: (N,) place of each picture's class in `classnames`.
        classnames: C names.
        templates: texts with `{c}` or `{}` for the name, or a dictionary of such lists by class name.

    Raises:
        BabelclipError: shapes do not fit, a label is no class, or a template has no place for the name.
    """
    return single_label(image_features, class_vectors(encode, classnames, templates), labels).metrics


def evaluate_zeroshot(
    model: Any,
    benchmark: ClassificationSet,
    image_features: npt.ArrayLike,
    *,
    facts: RunFacts,
    kept: Sequence[int] | npt.NDArray[np.int64] | None = None,
    languages: Sequence[str] | None = None,
    image_seconds: float = 0.0,
    notes: Sequence[str] = (),
    advance: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Returns one result of the task `zeroshot_classification` a language.

    Args:
        model: a `Clip`, or anything with `encode_text`.
        benchmark: labels, names of classes and templates.
        image_features: (M, D), rows L2-normalised, of the pictures that could be read.
        facts: what the results state of model and run.
        kept: (M,) their positions in the set; None: all of its pictures.
        languages: BCP-47 codes, in this order; None: all of the set.
        image_seconds: what encoding the pictures took, stated apart because languages share it.
        notes: added to every result.
        advance: is called with 1 after each language.

    Raises:
        BabelclipError: a language has no names of classes, or shapes do not fit.
    """
    features, positions = benchmark.pictures.kept_features(image_features, kept)
    labels = benchmark.labels[positions]
    ids = np.asarray(benchmark.pictures.ids, dtype=object)[positions]
    results = []
    for code in asked_languages(benchmark, languages):
        start = time.perf_counter()
        rows, truth, own_notes = _pictures_of(benchmark, code, labels)
        templates = benchmark.templates.get(code, NAME_ALONE)
        vectors = class_vectors(encoder_in(model, code), benchmark.classnames[code], templates)
        figures = _figures(features[rows], vectors, truth, facts.seed)
        extra = {"per_query": pack_hits(figures.hits, queries=ids[rows].tolist())} if figures.hits else {}
        covered = declares(model, code)
        results.append(
            build_result(
                "zeroshot_classification",
                _with_prompts(facts, templates),
                language=code,
                metrics=figures.metrics,
                intervals=figures.intervals,
                declared=covered,
                seconds=time.perf_counter() - start,
                notes=[*notes, *own_notes, *figures.notes, *language_notes(code, covered)],
                n_images=len(truth),
                n_classes=len(vectors),
                multilabel=benchmark.multi_label,
                n_templates=template_count(templates),
                prompt_source=benchmark.sources.get("templates", {}).get(code, ""),
                class_source=benchmark.sources.get("classnames", {}).get(code, ""),
                seconds_images=round(image_seconds, 3),
                **extra,
            )
        )
        if advance is not None:
            advance(1)
    return results


def asked_languages(benchmark: ClassificationSet, languages: Sequence[str] | None) -> list[str]:
    """Returns the canonical codes of the languages to measure.

    Raises:
        BabelclipError: a language has no names of classes in the set.
    """
    codes = list(benchmark.languages if languages is None else map(language_codes.normalize, languages))
    absent = [code for code in codes if code not in benchmark.classnames]
    if absent or not codes:
        raise BabelclipError(
            f"{benchmark.name} has no class names in {', '.join(absent) or 'any language'}; it has them in "
            f"{', '.join(benchmark.languages) or 'none'}. Ask for one of these, or add a file of class names."
        )
    return list(dict.fromkeys(codes))


def _pictures_of(
    benchmark: ClassificationSet, code: str, labels: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any], list[str]]:
    """Returns the places of the pictures that count in a language, their labels there, and a note where some do not."""
    everything = np.arange(len(labels))
    chosen = (benchmark.class_indices or {}).get(code)
    if chosen is None or (len(chosen) == len(benchmark.classes) and np.array_equal(chosen, np.arange(len(chosen)))):
        return everything, labels, []
    notes = [
        f"{len(chosen)} of {len(benchmark.classes)} classes have a name in {code} and only their pictures count: "
        "figures of languages with other classes do not compare"
    ]
    if benchmark.multi_label:
        return everything, labels[:, chosen], notes
    rows, truth = partial_classes(labels, chosen)
    return rows, truth, notes


def _figures(features: FloatArray, vectors: FloatArray, truth: npt.NDArray[Any], seed: int) -> Figures:
    measure = multi_label if truth.ndim == 2 else single_label
    return measure(features, vectors, truth, seed=seed)


def _with_prompts(facts: RunFacts, templates: Templates) -> RunFacts:
    if not isinstance(templates, (list, tuple)):
        name = "class-specific"
    elif len(templates) == 1:
        name = "none" if templates[0] in ("{c}", "{}") else templates[0]
    else:
        name = f"{len(templates)} templates"
    return dataclasses.replace(facts, prompt_set=name)
