"""open_clip's own losses, in the current oracle environment: `ClipLoss` and `SigLipLoss` on random vectors.

Writes losses/contrastive_losses/expected.npz: raw vectors, scale and bias, and for each loss its value and its
gradients in them, all in float64. As in open_clip's models, vectors are normalised on their way into the loss. It knows
no positives but the diagonal.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

import tests.golden.make.torchvision_shim  # noqa: F401, I001  (first, see there)
import numpy as np
import torch
from open_clip.loss import ClipLoss, SigLipLoss

from tests.golden.inputs import SEED
from tests.golden.make.common import out_folder, save_expected

ENVIRONMENT = "current"

N, D = 9, 16


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7 + SEED)
    vectors = {
        name: torch.randn(N, D, generator=generator, dtype=torch.float64)
        for name in ("image_features", "text_features")
    }
    scale, bias = torch.tensor(13.5, dtype=torch.float64), torch.tensor(-8.25, dtype=torch.float64)
    return {**vectors, "scale": scale, "bias": bias}


def of(loss: torch.nn.Module, given: dict[str, torch.Tensor], names: list[str], prefix: str) -> dict[str, np.ndarray]:
    leaves = [given[name].clone().requires_grad_() for name in names]
    pictures, texts, *scalars = leaves
    value = loss(*(torch.nn.functional.normalize(vectors, dim=-1) for vectors in (pictures, texts)), *scalars)
    value.backward()
    gradients = {f"{prefix}_d_{name}": leaf.grad.numpy() for name, leaf in zip(names, leaves, strict=True)}
    return {prefix: value.detach().numpy(), **gradients}


def main() -> None:
    given = inputs()
    names = ["image_features", "text_features", "scale"]
    arrays = of(ClipLoss(), given, names, "clip") | of(SigLipLoss(), given, [*names, "bias"], "sigmoid")
    packages = {name: version(name) for name in ("open_clip_torch", "torch")}
    save_expected(
        out_folder("losses/contrastive_losses"),
        "open_clip.loss.ClipLoss, SigLipLoss",
        packages,
        "gradients by torch.autograd",
        **{name: tensor.numpy() for name, tensor in given.items()},
        **arrays,
    )


if __name__ == "__main__":
    main()
