"""How near a student comes to its teacher on held-out captions: MSE, cosine, and the trivial predictor beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import nn

from babelclip.models.batching import token_batches
from babelclip.models.text import inference
from babelclip.train.texts import Inputs


class HeldOut(NamedTuple):
    """Held-out captions: inputs of the model, tokens of each (N,), raw targets (N, D) float32, languages (N,)."""

    inputs: Inputs
    lengths: np.ndarray
    targets: np.ndarray
    langs: Sequence[str]


def fidelity(features: np.ndarray, targets: np.ndarray, langs: Sequence[str]) -> dict[str, float]:
    """Returns `mse`, `cosine` (similarity) and `trivial_mse` over all rows, and `mse/sv` and so on by language.

    `trivial_mse` is the MSE of answering the mean of the targets to everything; see the element-mean trap in `losses`.

    Args:
        features: the student's raw vectors (N, D).
        targets: the teacher's raw vectors (N, D).
        langs: language of each row (N,).
    """
    errors = np.square(features - targets, dtype=np.float64).mean(axis=1)
    lengths = np.linalg.norm(features, axis=1) * np.linalg.norm(targets, axis=1)
    cosines = (features * targets).sum(axis=1, dtype=np.float64) / np.maximum(lengths, 1e-12)
    of_lang = np.asarray(langs)
    chosen = {"": np.ones(len(langs), dtype=bool)}
    chosen |= {f"/{lang}": of_lang == lang for lang in sorted(set(langs))}
    figures: dict[str, float] = {}
    for suffix, rows in chosen.items():
        figures[f"mse{suffix}"] = float(errors[rows].mean())
        figures[f"cosine{suffix}"] = float(cosines[rows].mean())
        figures[f"trivial_mse{suffix}"] = float(np.var(targets[rows], axis=0, dtype=np.float64).mean())
    return figures


def measure(model: nn.Module, held_out: HeldOut, token_budget: int) -> dict[str, float]:
    """Returns `fidelity` of the model's raw vectors (inputs, mask -> (N, D)) on held-out captions."""
    features = np.empty(held_out.targets.shape, dtype=np.float32)
    device = next(model.parameters()).device
    with inference(model):
        for rows in token_batches(held_out.lengths.tolist(), token_budget):
            inputs, mask = held_out.inputs.load(rows)
            features[rows] = model(inputs.to(device), mask.to(device)).float().cpu().numpy()
    return fidelity(features, held_out.targets, held_out.langs)


def validation(
    model: nn.Module,
    held_out: HeldOut | None,
    token_budget: int,
    further: Callable[[], Mapping[str, float]] | None,
) -> Callable[[], Mapping[str, float]] | None:
    """Returns the validation of a run: fidelity on held-out captions, then the caller's `further` figures."""
    if held_out is None:
        return further

    def validate() -> dict[str, float]:
        return measure(model, held_out, token_budget) | dict(further() if further else {})

    return validate
