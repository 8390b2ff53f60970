"""The layers between a tower's pooled vector and the embedding space, named by the checkpoint's config.

A head is a short list of layers, for example `[{"kind": "linear", "out": 512}]` for M-CLIP, or
`[{"kind": "normalize"}, {"kind": "shift"}]` for a sentence encoder whose space is moved to another origin. The list
lives in `config.json`, the weights beside it, so the projection can never be left behind when a model is saved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from babelclip.errors import BabelclipError, did_you_mean

LayerSpec = dict[str, Any]


class Normalize(nn.Module):
    """Scales each row to unit length."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns `x` (N, D) with L2-normalised rows."""
        return functional.normalize(x, dim=-1)


class Shift(nn.Module):
    """Adds one vector to every row, for example minus the mean of the space."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns `x` (N, D) plus the bias (D,)."""
        return x + self.bias


def backbone_width(backbone: nn.Module, pooling: str = "") -> int:
    """Returns the width H of a backbone's pooled output, as its config states it."""
    config: Any = backbone.config
    if pooling == "pooler":
        # SigLIP's text towers project inside their own pooler.
        return int(getattr(config, "projection_size", config.hidden_size))
    return int(config.hidden_size)


def build_head(specs: list[LayerSpec], in_dim: int) -> tuple[nn.Sequential, int]:
    """Returns the head as a module (N, in_dim) -> (N, D), and D.

    Kinds: `linear` (`out`, `bias` = true), `shift`, `normalize`, `softmax`, `tanh`, `gelu`, `layer_norm` (`eps`).

    Raises:
        BabelclipError: a kind is not known, or an epsilon is no number.
    """
    layers: list[nn.Module] = []
    dim = in_dim
    for spec in specs:
        kind = spec.get("kind", "")
        if kind == "linear":
            layers.append(nn.Linear(dim, spec["out"], bias=spec.get("bias", True)))
            dim = spec["out"]
        elif kind == "layer_norm":
            layers.append(nn.LayerNorm(dim, eps=_epsilon(spec)))
        elif kind in _SIMPLE:
            layers.append(_SIMPLE[kind](dim))
        else:
            raise BabelclipError(f"Head layer {kind!r} is not known. {did_you_mean(kind, HEAD_LAYERS)}")
    return nn.Sequential(*layers), dim


def _epsilon(spec: LayerSpec) -> float:
    value = spec.get("eps", 1e-5)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise BabelclipError(
            f"A layer_norm of the head has eps = {value!r}; it is a positive number up to 1, for example 1e-5. Copy "
            "config.json again from the model's origin."
        )
    return value


def projection_start(specs: list[LayerSpec]) -> int:
    """Returns the position in a head of the projection into the space; the layers before it belong to the body.

    The vector that enters there is the `pooled` target: CLIP's end-of-text state after the final layer norm (head
    `[linear]`), AltCLIP's token 0 after `pre_LN` and `transformation` (`[layer_norm, linear, linear]`), M-CLIP's mean.
    Only a linear layer right behind another one begins a projection of its own; two with an activation in between are
    one projection (open_clip's `mlp`). It is 0 for most heads, and for the empty one of SigLIP, which projects nothing.
    """
    last = max((place for place, spec in enumerate(specs) if spec.get("kind") == "linear"), default=0)
    return last if last and specs[last - 1].get("kind") == "linear" else 0


_SIMPLE: dict[str, Callable[[int], nn.Module]] = {
    "shift": Shift,
    "normalize": lambda _dim: Normalize(),
    "softmax": lambda _dim: nn.Softmax(dim=-1),
    "tanh": lambda _dim: nn.Tanh(),
    "gelu": lambda _dim: nn.GELU(),
}
HEAD_LAYERS = ("linear", "layer_norm", *_SIMPLE)
