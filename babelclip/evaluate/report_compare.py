"""Differences of two models, language by language, with an interval that says whether they are real.

Where both results keep what every query reached (`babelclip.evaluate.hits`) and asked the same queries, the difference
is bootstrapped pair by pair, whole clusters at a time; captions of one picture are not independent. Otherwise the two
intervals are put together as if the measurements were independent, which on shared queries is wider than the truth.
Entry points: `differences`, `Difference`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from babelclip.evaluate.hits import unpack_hits
from babelclip.evaluate.metrics import bootstrap_interval
from babelclip.evaluate.report_rows import Row
from babelclip.evaluate.report_sheets import Sheet

PAIRED, UNPAIRED, BARE = "paired", "unpaired", "without interval"


@dataclass(frozen=True)
class Difference:
    """How much higher `model` is than `base` in one language; a share, so 0.01 is one point.

    Attributes:
        base: model that is subtracted.
        model: the other one.
        language: BCP-47.
        value: figure of `model` minus that of `base`.
        interval: lower and upper end at 95 %, or None.
        kind: `paired`, `unpaired`, or `without interval`.
    """

    base: str
    model: str
    language: str
    value: float
    interval: tuple[float, float] | None
    kind: str

    @property
    def real(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


def differences(sheet: Sheet, base: str, model: str, metric: str) -> list[Difference]:
    """Returns one difference a language that both models have, in the sheet's order."""
    found = []
    for code in sheet.languages:
        first, second = sheet.cells.get((base, code)), sheet.cells.get((model, code))
        if first is None or second is None or metric not in first.metrics or metric not in second.metrics:
            continue
        value = second.metrics[metric] - first.metrics[metric]
        interval, kind = _paired(first, second, metric), PAIRED
        if interval is None:
            interval, kind = _unpaired(first, second, metric, value), UNPAIRED
        found.append(Difference(base, model, code, value, interval, kind if interval is not None else BARE))
    return found


def _paired(base: Row, model: Row, metric: str) -> tuple[float, float] | None:
    """Returns the interval of the mean difference over the same queries, or None where they are not the same."""
    first, second = unpack_hits(base.result), unpack_hits(model.result)
    if first is None or second is None or first.key != second.key:
        return None
    if metric not in first.values or metric not in second.values:
        return None
    change = second.values[metric] - first.values[metric]
    low, high = bootstrap_interval(change, clusters=first.clusters, seed=int(base.result.get("seed", 0)))
    return float(low), float(high)


def _unpaired(base: Row, model: Row, metric: str, value: float) -> tuple[float, float] | None:
    """Returns the interval of a difference of two independent figures, each side's half widths put together."""
    if metric not in base.intervals or metric not in model.intervals:
        return None
    (low_a, high_a), (low_b, high_b) = base.intervals[metric], model.intervals[metric]
    a, b = base.metrics[metric], model.metrics[metric]
    return value - math.hypot(b - low_b, high_a - a), value + math.hypot(high_b - b, a - low_a)


def tally(found: list[Difference]) -> dict[str, float]:
    """Returns the mean difference, and in how many languages it is surely above and surely below zero."""
    values = np.array([one.value for one in found])
    return {
        "mean": float(values.mean()) if len(values) else 0.0,
        "above": sum(one.real and one.value > 0 for one in found),
        "below": sum(one.real and one.value < 0 for one in found),
        "languages": len(found),
    }
