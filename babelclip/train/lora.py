"""Low-rank adapters in a tower (LoRA, Hu et al., arXiv 2106.09685), through peft: added, trained, merged back.

W stays and W + B A trains, A (rank, in) and B (out, rank), B from zero, so the tower is at first what it was. Linear
layers and ungrouped convolutions of backbone and head get one; norms, biases and word embeddings stay as they are,
those of a vision tower too: their few weights move features the most. A checkpoint holds the adapters alone. Merging
adds B A to W and takes the adapters out, so that the tower has its own names and shapes again and saves as any other.

Packed attention (`nn.MultiheadAttention`) reads its weights past the layers, where an adapter would do nothing; it is
left out. Entry points: `add_adapters`, `merge_adapters`, `adapted_weights`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from babelclip.errors import BabelclipError, require

_MARK = ".lora_"


def add_adapters(tower: nn.Module, rank: int, seed: int) -> dict[str, nn.Parameter]:
    """Adds adapters to a tower in place, and returns their parameters by name; nothing else of the tower trains.

    Args:
        tower: has none yet.
        rank: of A and B; B A is added as it is, without a factor.
        seed: of A, which is drawn here.

    Raises:
        BabelclipError: the tower has no layer that can have an adapter.
        MissingExtraError: peft is not installed.
    """
    peft: Any = require("peft", "train")
    names = _layers(tower)
    if not names:
        raise BabelclipError(
            f'classify.trainable = "lora" finds no linear layer or convolution in {type(tower).__name__} to adapt: set '
            'it to "all", "heads" or one tower.'
        )
    config = peft.LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, bias="none", target_modules=names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, tower)
    added = {}
    for name, parameter in tower.named_parameters():
        parameter.requires_grad_(_MARK in name)
        if _MARK in name:
            added[name] = parameter
    return added


def merge_adapters(tower: nn.Module) -> None:
    """Adds what the adapters have learned to the weights below them, in place, and takes the adapters out.

    Raises:
        BabelclipError: an adapter holds numbers that are not finite.
    """
    for name, layer in _adapted(tower).items():
        try:
            layer.merge(safe_merge=True)
        except ValueError as error:
            raise BabelclipError(
                f"The adapter of {name} is not finite ({error}): lower train.lr and train again."
            ) from error
        parent, _, last = name.rpartition(".")
        setattr(tower.get_submodule(parent), last, layer.get_base_layer())
    tower.requires_grad_(False)


def adapted_weights(tower: nn.Module) -> dict[str, Tensor]:
    """Returns the weights below the adapters, by the names that they have without them: what merging will change."""
    return {f"{name}.weight": layer.get_base_layer().weight.detach() for name, layer in _adapted(tower).items()}


def _adapted(tower: nn.Module) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in tower.named_modules() if isinstance(module, LoraLayer)}


def _layers(tower: nn.Module) -> list[str]:
    packed = [f"{name}." for name, module in tower.named_modules() if isinstance(module, nn.MultiheadAttention)]
    return [
        name
        for name, module in tower.named_modules()
        if (isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1))
        and not any(name.startswith(start) for start in packed)
    ]
