"""Optimisers and learning rates: pure functions of the recipe's [train]."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from babelclip.train.recipe import Train
from babelclip.train.trainable import parameter_groups


def build_optimizer(parameters: Mapping[str, nn.Parameter], settings: Train) -> torch.optim.Optimizer:
    """Returns the optimiser of a run over its parameters by name; `peak_lr` of each group is the rate at factor 1."""
    groups = parameter_groups(parameters, settings)
    if settings.optimizer == "rmsprop":
        return torch.optim.RMSprop(
            _without_decay(groups), lr=settings.lr, alpha=settings.alpha, momentum=settings.momentum, eps=settings.eps
        )
    # One pass over weights and moments instead of a dozen; the gradient scaler of fp16 wants to look between them.
    fused = settings.precision != "fp16" and all(p.device.type in ("cpu", "cuda") for p in parameters.values())
    if settings.optimizer == "adam":
        return torch.optim.Adam(
            _without_decay(groups), lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=fused
        )
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=fused)


def _without_decay(groups: list[dict[str, object]]) -> list[dict[str, object]]:
    # Theirs would be an L2 term in the gradient, another thing under the same name.
    return [{**group, "weight_decay": 0.0} for group in groups]


def lr_at(
    step: int,
    *,
    steps: int,
    warmup_steps: int,
    schedule: str,
    lr: float = 1.0,
    lr_steps: Mapping[str, float] | None = None,
) -> float:
    """Returns the factor on the peak learning rate for a step, counted from 0.

    Linear warm-up that reaches 1 at the last of `warmup_steps`, then `constant`, or `linear` or half a `cosine` down
    to 0 at `steps`. With `steps`, the warmed-up factor is the rate of the last key of `lr_steps` not above the step,
    over `lr`; 1 before the first.
    """
    warm = (step + 1) / warmup_steps if step < warmup_steps else 1.0
    if schedule == "steps":
        reached = [(int(start), rate) for start, rate in (lr_steps or {}).items() if int(start) <= step]
        return warm * (max(reached)[1] / lr if reached else 1.0)
    if step < warmup_steps or schedule == "constant":
        return warm
    done = (step - warmup_steps) / max(steps - warmup_steps, 1)
    return 1.0 - done if schedule == "linear" else (1.0 + math.cos(math.pi * done)) / 2
