"""Our contrastive losses and their gradients against open_clip 3.3.0's, as the oracle job has written them down."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch

from babelclip.train.gather import clip_rows, sigmoid_rows, similarities
from babelclip.train.losses import clip_loss, sigmoid_loss
from babelclip.train.processes import Ranks

FOLDER = Path(__file__).parents[1] / "golden" / "losses" / "contrastive_losses"
NAMES = ("image_features", "text_features", "scale", "bias")


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "expected.npz") as archive:
        return dict(archive)


def as_rows(loss: str, pictures: torch.Tensor, texts: torch.Tensor, *scalars: torch.Tensor) -> torch.Tensor:
    """The loss as training computes it: the rows of one process."""
    ranks = Ranks(0, 1, [len(texts)], contextlib.nullcontext, lambda _: None)
    cosines = similarities(pictures, texts, torch.arange(len(texts))[:, None], ranks)
    return clip_rows(cosines, *scalars) if loss == "clip" else sigmoid_rows(cosines, *scalars)


@pytest.mark.parametrize("how", ["whole", "rows"])
@pytest.mark.parametrize("loss", ["clip", "sigmoid"])
def test_value_and_gradients_are_those_of_open_clip(golden: dict[str, np.ndarray], loss: str, how: str):
    leaves = [torch.from_numpy(golden[name]).requires_grad_() for name in NAMES[: 3 if loss == "clip" else 4]]
    if how == "rows":
        value = as_rows(loss, *leaves)
    else:
        value = clip_loss(*leaves) if loss == "clip" else sigmoid_loss(*leaves)
    np.testing.assert_allclose(value.detach().numpy(), golden[loss], rtol=1e-12)
    for name, gradient in zip(NAMES, torch.autograd.grad(value, leaves), strict=False):
        np.testing.assert_allclose(gradient.numpy(), golden[f"{loss}_d_{name}"], rtol=1e-9, atol=1e-13)
