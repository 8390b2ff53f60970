"""How much memory a training takes, before it takes it: weights, gradients, optimiser, and what a backward pass keeps.

What a pass keeps is not guessed by formula: the model runs on tensors without memory (`skeleton.Fake`), and autograd is
asked what it saves, so that locked layers, pooling, heads, dropout and mixed precision all count as they are. Entry
points: `held`, `text_pass`, `image_pass`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from babelclip.models.image import ImageEncoder
from babelclip.models.text import TextEncoder
from babelclip.train.layers import layer_stacks
from babelclip.train.recipe import Train

_FLOAT = 4
# Gradients of activations, scratch, and freed blocks that do not fit again: found by benchmarks/dry_run.py.
_BESIDE = 1.25


@dataclass(frozen=True)
class Memory:
    """Bytes of one process.

    Attributes:
        program: of the program itself, with what it has loaded.
        weights: of all towers, in float32.
        gradients: of what trains.
        optimizer: its moments.
        average: the moving average of the weights.
        activations: what the forward pass of one batch, or of one part of it, keeps for the backward pass.
        loss: matrices of similarities.
    """

    program: int = 0
    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    average: int = 0
    activations: int = 0
    loss: int = 0

    @property
    def peak(self) -> int:
        """The most at one time, with room for what the backward pass needs besides and what the allocator keeps."""
        staying = self.program + self.weights + self.optimizer + self.average + self.gradients
        return staying + round(_BESIDE * (self.activations + self.loss))


def resident() -> int:
    """Returns the bytes of memory that this process holds now; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def held(trainable: int, frozen: int, settings: Train, program: int) -> Memory:
    """Returns what stays for the whole run, for numbers of single weights; nothing of the passes."""
    moments = {"adamw": 2, "adam": 2, "rmsprop": 2 if settings.momentum else 1}[settings.optimizer]
    return Memory(
        program=program,
        weights=_FLOAT * (trainable + frozen),
        gradients=_FLOAT * trainable,
        optimizer=_FLOAT * moments * trainable,
        average=_FLOAT * trainable if settings.ema else 0,
    )


def text_pass(tower: nn.Module, rows: int, tokens: int, width: int, *, bf16: bool, recomputed: bool) -> int:
    """Returns the bytes that a pass of `rows` texts of `tokens` tokens keeps, for a fake tower, within `Fake`.

    Args:
        tower: a `TextEncoder`, or its `UpperLayers`, which read states.
        rows: texts.
        tokens: of each.
        width: of the states.
        bf16: whether the pass runs in bfloat16 where autocast allows it.
        recomputed: whether layers keep their inputs only (`train.gradient_checkpointing`).
    """
    mask = torch.ones(rows, tokens, dtype=torch.int64)
    inputs = mask if isinstance(tower, TextEncoder) else torch.ones(rows, tokens, width)
    kept = saved(tower, lambda: tower(inputs, mask), bf16)
    return _recomputed(tower, kept, rows * tokens * width, bf16) if recomputed else kept


def image_pass(tower: ImageEncoder, rows: int, *, bf16: bool, recomputed: bool) -> int:
    """Returns the bytes that a pass of `rows` pictures keeps, for a fake tower, within `Fake`."""
    size = tower.preprocess.crop or tower.preprocess.resize
    pixels = torch.ones(rows, 3, int(size), int(size))
    kept = saved(tower, lambda: tower(pixels), bf16) + pixels.nbytes
    if not recomputed:
        return kept
    config = tower.backbone.config
    patches = (int(size) // int(getattr(config, "patch_size", 16))) ** 2 + 1
    return _recomputed(tower, kept, rows * patches * int(getattr(config, "hidden_size", 768)), bf16)


def saved(module: nn.Module, forward: Callable[[], Tensor], bf16: bool = False) -> int:
    """Returns the bytes that autograd keeps of a forward pass, the module's own weights not counted."""
    own = {tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers())}
    # Storages are held until they are counted, else their numbers are used again.
    found: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage._cdata] = storage
        return tensor

    with (
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
    ):
        features = forward()
    del features
    return sum(storage.nbytes() for number, storage in found.items() if number not in own)


def _recomputed(tower: nn.Module, kept: int, states: int, bf16: bool) -> int:
    """Returns what is kept where each layer keeps its input, and one at a time everything."""
    layers = sum(
        any(weight.requires_grad for weight in layer.parameters()) for stack in layer_stacks(tower) for layer in stack
    )
    if layers < 2:
        return kept
    return min(kept, kept // layers + layers * states * (2 if bf16 else _FLOAT))
