"""Stacks of layers in a model, whichever class it is of, and computing their states twice instead of keeping them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


def layer_stacks(model: nn.Module) -> list[list[nn.Module]]:
    """Returns the stacks of layers in a model, input first: lists of at least two modules of one class.

    Lists inside a layer are parts of it.
    """
    stacks: list[list[nn.Module]] = []
    inside: set[int] = set()
    for module in model.modules():
        if not isinstance(module, nn.ModuleList) or id(module) in inside:
            continue
        layers = list(module)
        if len(layers) < 2 or len({type(layer) for layer in layers}) > 1:
            continue
        for layer in layers:
            inside |= {id(part) for part in layer.modules()}
        stacks.append(layers)
    return stacks


@contextlib.contextmanager
def recomputed(model: nn.Module) -> Iterator[int]:
    """Layers keep their inputs only, and run again in the backward pass; yields how many.

    Layers below the first one with a trained weight keep nothing anyway, and are left alone. The switch of transformers
    works in train mode only, but regression runs in eval mode, without dropout; so each layer's forward is wrapped for
    the time of the block. Random states are put back for the second run, so dropout masks are the same.
    """
    chosen: list[nn.Module] = []
    for layers in layer_stacks(model):
        trained = [any(weight.requires_grad for weight in layer.parameters()) for layer in layers]
        if any(trained):
            chosen += layers[trained.index(True) :]
    for layer in chosen:
        layer.forward = functools.partial(_twice, layer.forward)
    try:
        yield len(chosen)
    finally:
        for layer in chosen:
            del layer.forward


def _twice(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    return checkpoint(forward, *inputs, use_reentrant=False, **options)
