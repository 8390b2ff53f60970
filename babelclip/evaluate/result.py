"""What every evaluation result states, task by task, and the check that none is written without it.

A result is a flat dictionary that goes to JSON as it is. Its keys are a superset of clip_benchmark's (`dataset`,
`model`, `pretrained`, `task`, `language`, `metrics`), so that tools for those files read ours. What all tasks state
comes first (`COMMON`), then what only one of them does (`TASKS`).
Entry points: `RunFacts` (facts of the run), `model_facts` (facts of a model), `build_result`, `check_result`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from types import MappingProxyType
from typing import Any

from babelclip import __version__
from babelclip.errors import BabelclipError, did_you_mean

# What a note ends in where a set is not the one that published figures are of.
NOT_AS_PUBLISHED = "figures do not compare"
_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pillow")
_NONE = type(None)
Kind = type | tuple[type, ...]

# Field -> type, in the order in which results are written: the head of every result, and its end.
_HEAD: dict[str, Kind] = {
    "dataset": str,
    "model": str,
    "pretrained": str,
    "task": str,
    "language": str,
    "metrics": dict,
    "revision": str,
    "space": str,
    "split": str,
}
_TAIL: dict[str, Kind] = {
    "declared": (bool, _NONE),
    "intervals": dict,
    "text_cleaning": str,
    "max_length": (int, _NONE),
    "padding": str,
    "normalization": str,
    "preprocess": str,
    "parameters": (int, _NONE),
    "dtype": str,
    "device": str,
    "versions": dict,
    "seed": int,
    "seconds": (int, float),
    "leaks": list,
    "notes": list,
}
COMMON: Mapping[str, Kind] = MappingProxyType({**_HEAD, **_TAIL})
# Task -> what it states besides: the conditions under which two of its figures compare.
TASKS: Mapping[str, Mapping[str, Kind]] = MappingProxyType(
    {
        "zeroshot_retrieval": {
            "direction": str,  # t2i, i2t
            "captions_per_image": str,  # all, first
            "relevance": str,
            "n_images": int,
            "n_captions": int,
            "n_queries": int,
            "n_excluded": int,
            "k": list,
            "prompt_set": str,
        },
        "zeroshot_classification": {
            "n_images": int,
            "n_classes": int,
            "multilabel": bool,
            "prompt_set": str,
            "n_templates": int,
            "prompt_source": str,
            "class_source": str,
        },
        "linear_probe": {
            "n_images": int,
            "n_train_images": int,
            "n_classes": int,
            "shots": (int, _NONE),  # pictures a class, None for all
            "solver": str,
        },
        "image_caption_selection": {"n_items": int, "n_images": int, "n_captions": int},
        "sts": {
            "n_pairs": int,
            "subsets": dict,  # subset -> its pairs and figures
            "average": str,  # mean, wmean, all; "none" where there is one subset
            "protocol": str,  # plain, lowercased
        },
        "translation_retrieval": {
            "direction": str,  # source->target
            "target_language": str,
            "n_captions": int,
            "n_queries": int,
            "k": list,
        },
        "fidelity": {"reference": str, "reference_language": str, "n_captions": int},
    }
)
_NEVER_EMPTY = (
    *("dataset", "model", "task", "language", "metrics", "split", "dtype", "device", "versions"),
    *("k", "direction", "captions_per_image", "solver", "average", "protocol", "target_language", "reference"),
)


def fields_of(task: str) -> dict[str, Kind]:
    """Returns field -> type of a task's results, in the order in which they are written.

    Raises:
        BabelclipError: the task is not one of `TASKS`.
    """
    if task not in TASKS:
        raise BabelclipError(f"{task!r} is not a task of evaluation. {did_you_mean(task, TASKS)}")
    return {**_HEAD, **TASKS[task], **_TAIL}


FIELDS = fields_of("zeroshot_retrieval")


@dataclass(frozen=True)
class RunFacts:
    """What a result states of the run and the model besides its figures; empty or None means unknown.

    Attributes:
        model: name of the model, the row of a table.
        dataset: name of the data set.
        split: which part of it.
        revision: revision or checksum of the weights; empty where there is none.
        space: id of the embedding space.
        dtype: precision in which the towers ran.
        device: where they ran.
        prompt_set: the template around each caption; `none` for captions as they are.
        seed: of the intervals.
        text_cleaning: the model's rule for texts, which also decides on upper and lower case.
        max_length: most tokens of a text; longer ones are cut.
        padding: `none` where padding changes nothing, or to how many tokens every text is filled.
        normalization: of vectors before they are compared.
        preprocess: id of what is done to a picture, see `preprocess_id`.
        parameters: of both towers together.
        leaks: what of the data set the model may have seen in training, one sentence each.
    """

    model: str
    dataset: str
    split: str = "test"
    revision: str = ""
    space: str = ""
    dtype: str = "float32"
    device: str = "cpu"
    prompt_set: str = "none"
    seed: int = 0
    text_cleaning: str = ""
    max_length: int | None = None
    padding: str = ""
    normalization: str = "l2"
    preprocess: str = ""
    parameters: int | None = None
    leaks: tuple[str, ...] = ()

    def fields(self) -> dict[str, Any]:
        """Returns the facts as fields of a result, fit for JSON."""
        return {**dataclasses.asdict(self), "leaks": list(self.leaks)}


def model_facts(model: object) -> dict[str, Any]:
    """Returns the facts of a model that `RunFacts` takes, as far as it has them: `RunFacts(..., **model_facts(clip))`.

    A `Clip` has them all. Of anything else that encodes only those are returned that it names itself.
    """
    facts: dict[str, Any] = {
        "revision": str(getattr(model, "revision", "") or ""),
        "space": str(getattr(model, "space", "") or ""),
    }
    text: Any = getattr(model, "text", None)
    image: Any = getattr(model, "image", None)
    towers: list[Any] = [tower for tower in (text, image) if hasattr(tower, "parameters")]
    if towers:
        parameter = next(iter(towers[0].parameters()), None)
        facts["parameters"] = sum(one.numel() for tower in towers for one in tower.parameters())
        if parameter is not None:
            facts["dtype"] = str(parameter.dtype).removeprefix("torch.")
            facts["device"] = str(parameter.device)
    tokenizer = getattr(text, "tokenizer", None)
    if tokenizer is not None:
        facts["text_cleaning"] = tokenizer.cleaning
        facts["max_length"] = tokenizer.max_length
        facts["padding"] = "none" if tokenizer.pad_to is None else f"{tokenizer.pad_to} tokens"
    if hasattr(image, "preprocess"):
        facts["preprocess"] = preprocess_id(image.preprocess)
    return facts


def preprocess_id(preprocess: Any) -> str:
    """Returns the id of a `Preprocess`: what a reader wants to know, then a checksum of all of its fields."""
    fields = dataclasses.asdict(preprocess)
    checksum = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:10]
    return f"{preprocess.fit}-{preprocess.crop}-{preprocess.interpolation}-{checksum}"


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that take part in a figure, as far as they are installed."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    found = {"babelclip": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def build_result(
    task: str,
    facts: RunFacts,
    *,
    language: str,
    metrics: Mapping[str, float],
    declared: bool | None = None,
    intervals: Mapping[str, Sequence[float]] | None = None,
    seconds: float = 0.0,
    notes: Sequence[str] = (),
    **fields: Any,
) -> dict[str, Any]:
    """Returns one checked result, its fields in the order of the task, further `fields` behind them.

    Args:
        task: one of `TASKS`.
        facts: of the run and the model.
        language: BCP-47 code of the texts, or what the data set mixes.
        metrics: name -> finite number.
        declared: whether the model was made for the language; None where unknown.
        intervals: name of a metric -> its lower and upper end.
        seconds: what this result took.
        notes: what a reader of the figures has to know.
        **fields: what the task states besides (`TASKS`), and whatever else is worth keeping.

    Raises:
        BabelclipError: see `check_result`.
    """
    given: dict[str, Any] = {
        **facts.fields(),
        "pretrained": facts.revision,
        "task": task,
        "language": language,
        "metrics": dict(metrics),
        "declared": declared,
        "intervals": {name: [float(end) for end in ends] for name, ends in (intervals or {}).items()},
        "versions": versions(),
        "seconds": round(seconds, 3),
        "notes": list(notes),
        **fields,
    }
    if "prompt_set" not in fields_of(task):
        del given["prompt_set"]
    check_result(given)
    return in_order(given)


def in_order(result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the result with the fields of its task first, in their order."""
    return {**{field: result[field] for field in fields_of(str(result["task"]))}, **result}


def check_result(result: Mapping[str, Any]) -> None:
    """Checks that a result states all that its task must.

    Raises:
        BabelclipError: the task is unknown, a field is missing, empty or of another type, a metric is not a finite
            number, an interval is not two, or the result does not go to JSON. All faults are named at once.
    """
    task = result.get("task")
    fields = fields_of(task) if isinstance(task, str) and task else dict(COMMON)
    faults = [f"{field} is missing" for field in fields if field not in result]
    for field, kind in fields.items():
        value = result.get(field)
        if field not in result:
            continue
        boolean = kind is bool or (isinstance(kind, tuple) and bool in kind)
        if not isinstance(value, kind) or (isinstance(value, bool) and not boolean):
            faults.append(f"{field} is {value!r}, which is not of type {_type_name(kind)}")
        elif field in _NEVER_EMPTY and not value:
            faults.append(f"{field} is empty")
    metrics = result.get("metrics")
    for name, value in metrics.items() if isinstance(metrics, dict) else ():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            faults.append(f"metric {name} is {value!r}, not a finite number")
    if not faults:
        try:
            json.dumps(dict(result), allow_nan=False)
        except (TypeError, ValueError) as error:
            faults.append(f"it does not go to JSON ({error})")
    faults = faults or _faults_of_parts(result)
    if faults:
        named = ("model", "dataset", "language", "direction")
        label = "/".join(str(result[field]) for field in named if field in result)
        raise BabelclipError(
            f"The result {label} is incomplete: {'; '.join(faults)}. Every field of "
            "babelclip.evaluate.result.FIELDS is needed (fields_of(task) for other tasks than retrieval): add it, so "
            "that the figure can be understood later."
        )


def _faults_of_parts(result: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong within the values of a result whose fields are of their types."""
    faults = []
    for name, ends in result["intervals"].items():
        pair = isinstance(ends, (list, tuple)) and len(ends) == 2
        if not pair or not all(isinstance(end, (int, float)) for end in ends):
            faults.append(f"interval {name} is {ends!r}, not two finite numbers")
    for field in ("leaks", "notes"):
        if not all(isinstance(text, str) for text in result[field]):
            faults.append(f"{field} holds something else than texts")
    if result["seed"] < 0:
        faults.append(f"seed is {result['seed']}, below 0")
    return faults


def _type_name(kind: Kind) -> str:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join("null" if one is _NONE else one.__name__ for one in kinds)
