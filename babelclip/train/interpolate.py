"""Weights between a model as it was and as it was tuned: what is learned, without all that is forgotten.

WiSE-FT (Wortsman et al., arXiv 2109.01903, equation 2): every tensor that moved is (1 - a) of the start and a of the
tuned one. Tuning on class names in one language moves the others with it; a share a below 1 often keeps most of the
gain and most of the rest. Which share is best is chosen on held-out pictures of training, never on a test.

Entry points: `snapshot` before training, `sweep` and `blend` after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from babelclip.errors import BabelclipError


@dataclass(frozen=True)
class Point:
    """The figures of one share `alpha` of the tuned weights."""

    alpha: float
    scores: dict[str, float]


def snapshot(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns copies of the tensors as they are."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def blend(targets: Mapping[str, Tensor], start: Mapping[str, Tensor], end: Mapping[str, Tensor], alpha: float) -> None:
    """Writes (1 - alpha) start + alpha end into the targets; 0 and 1 give either bit for bit.

    Counters, which are whole numbers, are those of the end, unless alpha is 0.

    Raises:
        BabelclipError: the three do not hold tensors of the same names.
    """
    if not targets.keys() == start.keys() == end.keys():
        odd = sorted((targets.keys() ^ start.keys()) | (targets.keys() ^ end.keys()))
        raise BabelclipError(
            f"Weights to be interpolated have different names, for example {', '.join(odd[:3])}: take both from one "
            "model, before and after it was tuned."
        )
    with torch.no_grad():
        for name, target in targets.items():
            first, last = start[name], end[name]
            if not target.is_floating_point() or alpha in (0.0, 1.0):
                target.copy_(first if alpha == 0.0 else last)
            else:
                target.copy_(torch.lerp(first, last, alpha))


def sweep(
    targets: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
    alphas: Sequence[float],
    score: Callable[[], Mapping[str, float]],
    metric: str,
    known: Mapping[float, Mapping[str, float]] | None = None,
) -> tuple[list[Point], Point]:
    """Returns the figures at each share, and the best point; the targets, tuned at first, then hold the best.

    Of equal shares the smaller one is best: it is nearer to what the model was.

    Args:
        targets: the tensors of the model that moved, as tuned.
        start: the same tensors before.
        alphas: shares to try; none = 1, the tuned weights.
        score: measures the model as it is, on held-out pictures.
        metric: a figure that is better where it is higher.
        known: share -> figures that were measured before, as those of 0 and 1 often are.

    Raises:
        BabelclipError: `score` does not give the metric.
    """
    end = snapshot(targets)
    points = []
    for alpha in sorted(set(alphas) or {1.0}):
        scores = (known or {}).get(alpha)
        if scores is None:
            blend(targets, start, end, alpha)
            scores = score()
        points.append(Point(alpha, dict(scores)))
        if metric not in points[-1].scores:
            raise BabelclipError(
                f"{metric!r} chooses among interpolated weights, but only {', '.join(points[-1].scores)} were "
                "measured: set train.best_metric to one of them."
            )
    # `max` keeps the first of equals.
    best = max(points, key=lambda point: point.scores[metric])
    blend(targets, start, end, best.alpha)
    return points, best
