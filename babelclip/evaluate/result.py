"""What every evaluation result states, and the check that none is written without it.

A result is a flat dictionary that goes to JSON as it is. Its keys are a superset of clip_benchmark's (`dataset`,
`model`, `pretrained`, `task`, `language`, `metrics`), so that tools for those files read ours.
Entry points: `RunFacts`, `versions`, `check_result`.
"""

from __future__ import annotations

import functools
import json
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from babelclip import __version__
from babelclip.errors import BabelclipError

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pillow")

# Field -> type, in the order in which results are written.
FIELDS: dict[str, type | tuple[type, ...]] = {
    "dataset": str,
    "model": str,
    "pretrained": str,
    "task": str,
    "language": str,
    "metrics": dict,
    "revision": str,
    "space": str,
    "split": str,
    "direction": str,
    "captions_per_image": str,
    "relevance": str,
    "n_images": int,
    "n_captions": int,
    "n_queries": int,
    "n_excluded": int,
    "k": list,
    "prompt_set": str,
    "declared": (bool, type(None)),
    "intervals": dict,
    "dtype": str,
    "device": str,
    "versions": dict,
    "seed": int,
    "seconds": (int, float),
    "notes": list,
}
_NEVER_EMPTY = ("dataset", "model", "task", "language", "metrics", "split", "k", "dtype", "device", "versions")


@dataclass(frozen=True)
class RunFacts:
    """What a result states of the run besides its figures.

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


def check_result(result: Mapping[str, Any]) -> None:
    """Checks that a result states all it must.

    Raises:
        BabelclipError: a field is missing, empty or of another type, a metric is not a finite number, or the result
            does not go to JSON. All faults are named at once.
    """
    faults = [f"{field} is missing" for field in FIELDS if field not in result]
    for field, kind in FIELDS.items():
        value = result.get(field)
        if field not in result:
            continue
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
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
    if faults:
        label = "/".join(str(result.get(field, "?")) for field in ("model", "dataset", "language", "direction"))
        raise BabelclipError(
            f"The result {label} is incomplete: {'; '.join(faults)}. Every field of "
            "babelclip.evaluate.result.FIELDS is needed: add it, so that the figure can be understood later."
        )


def _type_name(kind: type | tuple[type, ...]) -> str:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join("null" if one is type(None) else one.__name__ for one in kinds)
