"""Percentile bootstrap of figures that are no plain mean: correlations, means of class means, average precision.

`metrics.bootstrap_interval` is for means, and faster. Entry points: `resampled`, `draws`, `ends`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from babelclip.errors import BabelclipError

IntArray = npt.NDArray[np.int64]


def resampled(
    statistics: Callable[[IntArray], Mapping[str, float]],
    n: int,
    *,
    confidence: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Returns the two ends of the interval of each statistic by its name.

    Samples in which a statistic is not finite (a correlation where all drawn values are equal) are left out for it; a
    statistic that never is finite has no interval.

    Args:
        statistics: positions drawn with repetition (n,) -> figures by name.
        n: how many items there are to draw from.
        confidence: probability mass between the two ends.
        samples: how often is drawn.
        seed: the same seed gives the same interval.

    Raises:
        BabelclipError: there is nothing to draw from, or `confidence` or `samples` is out of range.
    """
    drawn: dict[str, list[float]] = {}
    for positions in draws(n, samples=samples, seed=seed):
        for name, value in statistics(positions).items():
            if np.isfinite(value):
                drawn.setdefault(name, []).append(float(value))
    return {name: ends(values, confidence) for name, values in drawn.items()}


def draws(n: int, *, samples: int = 1000, seed: int = 0) -> Iterator[IntArray]:
    """Yields `samples` times n positions (n,) below n, drawn with repetition.

    Raises:
        BabelclipError: n or `samples` is below 1.
    """
    if n < 1 or samples < 1:
        raise BabelclipError(f"{samples} samples of {n} items cannot be drawn: both must be at least 1.")
    random = np.random.default_rng(seed)
    for _ in range(samples):
        yield random.integers(n, size=n)


def ends(values: Sequence[float] | npt.NDArray[np.floating[Any]], confidence: float = 0.95) -> list[float]:
    """Returns the lower and the upper end between which a share `confidence` of the values lies.

    Raises:
        BabelclipError: `confidence` does not lie between 0 and 1, or there are no values.
    """
    if not 0 < confidence < 1 or not len(values):
        raise BabelclipError(
            f"confidence is {confidence} for {len(values)} values; it must lie between 0 and 1, for one value at least."
        )
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(np.asarray(values, dtype=np.float64), [tail, 100 - tail])
    return [float(low), float(high)]
