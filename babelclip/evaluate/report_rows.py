"""One figure with all that decides on what it compares with, whoever measured it.

Results of babelclip, files of other tools and published numbers become `Row`s; rows with equal `Conditions` may stand
in one table. Entry points: `Row`, `row_of`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from babelclip import languages
from babelclip.evaluate.dataset_names import dataset_key
from babelclip.evaluate.leaks import leak_notes

# What each task's tables show, the one of the open table first.
METRICS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "zeroshot_retrieval": ("R@10", "R@5", "R@1"),
        "translation_retrieval": ("R@1", "R@5", "R@10"),
        "zeroshot_classification": ("acc1", "acc5", "mean_per_class_recall", "mean_average_precision"),
        "linear_probe": ("lp_acc1", "lp_acc5", "lp_mean_per_class_recall"),
        "image_caption_selection": ("acc", "text_acc", "image_acc"),
        "sts": ("spearman", "pearson"),
        "fidelity": ("cosine",),
    }
)
TASK_TITLES: Mapping[str, str] = MappingProxyType(
    {
        "zeroshot_retrieval": "retrieval",
        "translation_retrieval": "translation retrieval",
        "zeroshot_classification": "zero-shot classification",
        "linear_probe": "linear probe",
        "image_caption_selection": "picture and caption selection",
        "sts": "sentence similarity",
        "fidelity": "fidelity to the teacher",
    }
)
DIRECTION_TITLES: Mapping[str, str] = MappingProxyType({"t2i": "text to picture", "i2t": "picture to text"})


_LARGEST = 1e300


class Conditions(NamedTuple):
    """What two figures must share before they stand in one table."""

    task: str
    dataset: str  # key
    split: str
    direction: str
    protocol: str  # the rest, in words: captions per picture, relevance, prompts


@dataclass(frozen=True)
class Row:
    """The figures of one model in one language under one set of conditions.

    Attributes:
        conditions: what it compares with.
        model: its name.
        language: BCP-47; `mean` over languages that a source averaged.
        metrics: name -> value; shares are fractions.
        intervals: name of a metric -> lower and upper end.
        declared: whether the model was made for the language; None where unknown.
        leaks: what the model may have seen of the data set.
        notes: what else a reader has to know.
        origin: `babelclip`, the name of another tool, or the source of a published figure.
        published: it was not measured by the reader but is quoted.
        result: the record as it was read; empty for published figures.
    """

    conditions: Conditions
    model: str
    language: str
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    declared: bool | None = None
    leaks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    origin: str = "babelclip"
    published: bool = False
    result: Mapping[str, Any] = field(default_factory=dict)


def row_of(result: Mapping[str, Any]) -> Row:
    """Returns a result of babelclip as a row; it was checked before."""
    dataset, model = str(result["dataset"]), str(result["model"])
    leaks = dict.fromkeys([*result.get("leaks", ()), *leak_notes(model, dataset)])
    return Row(
        Conditions(
            task=str(result["task"]),
            dataset=dataset_key(dataset),
            split=str(result.get("split", "")),
            direction=str(result.get("direction", "")),
            protocol=_protocol(result),
        ),
        model=model,
        language=language_code(str(result["language"])),
        metrics=finite(result["metrics"]),
        intervals={name: (ends[0], ends[1]) for name, ends in result.get("intervals", {}).items()},
        declared=result.get("declared"),
        leaks=tuple(leaks),
        notes=tuple(result.get("notes", ())),
        result=result,
    )


def _protocol(result: Mapping[str, Any]) -> str:
    """Returns the conditions that have no field of their own in `Conditions`, in words."""
    task = result["task"]
    if task == "zeroshot_retrieval":
        prompts = str(result.get("prompt_set", "none"))
        parts = [
            retrieval_protocol(str(result.get("captions_per_image", "all"))),
            "" if result.get("relevance") in ("own picture", "", None) else f"relevant: {result['relevance']}",
            "" if prompts == "none" else f"captions in {prompts!r}",
        ]
    elif task == "zeroshot_classification":
        # Numbers and texts of templates differ from language to language within one protocol.
        parts = ["class names alone" if result.get("prompt_set") == "none" else "prompts"]
    elif task == "linear_probe":
        shots = result.get("shots")
        parts = [str(result.get("solver", "")), "all pictures" if shots is None else f"{shots} pictures a class"]
    elif task == "sts":
        parts = [str(result.get("protocol", "")), f"average: {result.get('average', '')}"]
    elif task == "fidelity":
        parts = [f"to {result.get('reference', '')}"]
    else:
        parts = []
    return ", ".join(part for part in parts if part)


def retrieval_protocol(captions_per_image: str) -> str:
    """Returns the words for how many captions of a picture take part."""
    return {"all": "all captions", "first": "first caption of a picture"}.get(captions_per_image, captions_per_image)


def language_code(code: str) -> str:
    """Returns the canonical code, or the text itself where it names no single language (`mean`, `mixed`)."""
    try:
        return languages.normalize(code)
    except languages.UnknownLanguageError:
        return code


def finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Returns the metrics that are finite numbers: clip_benchmark writes NaN for what it does not define.

    In per cent, as they are shown, they must be finite too.
    """
    return {
        str(name): float(value)
        for name, value in metrics.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LARGEST
    }
