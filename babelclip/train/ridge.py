"""The closed-form head start: the best linear head on a frozen backbone, found without a single step."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from babelclip.data.captions import Captions
from babelclip.errors import BabelclipError
from babelclip.models.text import TextEncoder
from babelclip.train.losses import dim_mismatch
from babelclip.train.texts import langs_of


def pooled_features(
    student: TextEncoder, captions: Captions, *, token_budget: int | None = None, progress: bool = False
) -> np.ndarray:
    """Returns the pooled backbone output before the head (N, H) float32, not normalised, in the order of `captions`."""
    lang = langs_of(student, captions.langs)
    return student.encode(captions.texts, lang=lang, before_head=True, token_budget=token_budget, progress=progress)


def fit_ridge(
    features: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None, regularisation: float = 1e-2
) -> tuple[np.ndarray, np.ndarray]:
    """Returns matrix (D, H) and bias (D,), float64, of the linear map from features to targets.

    Minimises mean_n w_n |A x_n + b - y_n|^2 + regularisation * v * |A|^2 with v the mean variance of a feature, so that
    the same regularisation suits features of any scale; b is not shrunk (Hoerl and Kennard 1970, on centred data).

    Args:
        features: (N, H), for example of `pooled_features`.
        targets: (N, D), the teacher's raw vectors.
        weights: importance of each row (N,), not negative; None: equal.
        regularisation: 0 gives least squares; 1e-2 suits a few thousand captions.

    Raises:
        BabelclipError: numbers of rows differ, values are not finite, or the weights are negative or all 0.
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or not len(x) == len(y) == len(w) or not len(x):
        raise BabelclipError(
            f"features are {x.shape}, targets {y.shape}, weights {w.shape}: give (N, H), (N, D), (N,) with N above 0."
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all() and np.isfinite(w).all()):
        raise BabelclipError("Features, targets or weights hold values that are not finite: encode them again.")
    if (w < 0).any() or not w.any() or regularisation < 0:
        raise BabelclipError("Weights must be at least 0 and not all 0, and regularisation at least 0.")
    w = w / w.sum()
    x_mean, y_mean = w @ x, w @ y
    x, y = x - x_mean, y - y_mean
    covariance = (x * w[:, None]).T @ x
    shrink = regularisation * np.trace(covariance) / len(covariance)
    cross = (x * w[:, None]).T @ y
    # Through least squares where the matrix may be singular; it is (H, H), so the cost does not grow with N.
    solution = np.linalg.lstsq(covariance + shrink * np.eye(len(covariance)), cross, rcond=None)[0]
    return solution.T, y_mean - x_mean @ solution


def set_linear_head(student: TextEncoder, matrix: np.ndarray, bias: np.ndarray) -> None:
    """Copies a linear map into the head of a student whose head is one linear layer with bias.

    Args:
        student: its head is changed in place.
        matrix: (D, H).
        bias: (D,).

    Raises:
        BabelclipError: the head has another form, or the shapes differ.
    """
    layers = list(student.head)
    if len(layers) != 1 or not isinstance(layers[0], nn.Linear) or layers[0].bias is None:
        kinds = ", ".join(type(layer).__name__ for layer in layers) or "nothing"
        raise BabelclipError(
            f"A closed-form head needs a student whose head is one linear layer with bias; this one has {kinds}. "
            "Build the student with such a head, or train its head by steps."
        )
    linear = layers[0]
    if len(matrix) != student.embed_dim:
        raise BabelclipError(dim_mismatch((len(matrix),), student.embed_dim))
    if matrix.shape != tuple(linear.weight.shape) or bias.shape != (student.embed_dim,):
        raise BabelclipError(
            f"matrix is {matrix.shape} and bias {bias.shape}, but the head holds {tuple(linear.weight.shape)}: "
            "fit it on the pooled features of this student."
        )
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(np.ascontiguousarray(matrix)))
        linear.bias.copy_(torch.from_numpy(np.ascontiguousarray(bias)))
