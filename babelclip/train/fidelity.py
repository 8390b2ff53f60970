"""How near a student comes to its teacher on held-out captions: MSE, cosine, and the trivial predictor beside them."""

from __future__ import annotations

from collections.abc import Sequence
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


def features_of(model: nn.Module, inputs: Inputs, lengths: np.ndarray, dim: int, token_budget: int) -> np.ndarray:
    """Returns the model's raw vectors (N, D) float32 of inputs of N texts with `lengths` (N,) tokens; D = `dim`."""
    features = np.empty((len(lengths), dim), dtype=np.float32)
    device = next(model.parameters()).device
    with inference(model):
        for rows in token_batches(lengths.tolist(), token_budget):
            read, mask = inputs.load(rows)
            features[rows] = model(read.to(device), mask.to(device)).float().cpu().numpy()
    return features


def measure(model: nn.Module, held_out: HeldOut, token_budget: int) -> dict[str, float]:
    """Returns `fidelity` of the model's raw vectors (inputs, mask -> (N, D)) on held-out captions."""
    dim = held_out.targets.shape[1]
    features = features_of(model, held_out.inputs, held_out.lengths, dim, token_budget)
    return fidelity(features, held_out.targets, held_out.langs)
