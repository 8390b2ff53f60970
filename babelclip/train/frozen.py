"""Hidden states below the layers that train, computed once.

When only the last k of L layers train, everything below them gives the same states in every epoch. Kept in float16,
they take 2 H bytes a token, and a step costs about k / L of a step through the whole network. Where only the head
trains, one pooled vector a text is kept instead of its tokens.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.masking_utils import create_bidirectional_mask

from babelclip.errors import BabelclipError
from babelclip.files import read_json, sync, write_json
from babelclip.models.batching import token_batches
from babelclip.models.pooling import pool
from babelclip.models.text import TextEncoder, inference
from babelclip.progress import progress_bar
from babelclip.train.texts import TokenTable, offsets_of, padded
from babelclip.train.trainable import encoder_layers

# Batches between two durable marks of progress; a kill costs at most these.
_BATCHES_A_MARK = 64


class UpperLayers(nn.Module):
    """The layers of a student from `first_layer` on, its pooling and its head: states (N, T, H) -> (N, D) raw."""

    def __init__(self, student: TextEncoder, first_layer: int) -> None:
        """Shares the student's modules; training this trains the student."""
        super().__init__()
        self.student = student
        self.first_layer = first_layer

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns the raw projection (N, D) for states that enter `first_layer` (N, T, H) and the mask (N, T)."""
        layers = encoder_layers(self.student.backbone)
        if self.first_layer == len(layers):
            # One pooled vector a text is stored.
            pooled = states[:, 0]
        else:
            states = through_layers(self.student, states, attention_mask, self.first_layer, len(layers))
            pooled = pool(states, attention_mask, self.student.pooling)
        features: Tensor = self.student.head(pooled)
        return features


def through_layers(student: TextEncoder, states: Tensor, attention_mask: Tensor, first: int, last: int) -> Tensor:
    """Returns the states (N, T, H) that leave layer `last - 1`, given those that enter layer `first`."""
    mask = create_bidirectional_mask(student.backbone.config, states, attention_mask)
    for layer in list(encoder_layers(student.backbone))[first:last]:
        states = layer(states, mask)
    return states


def can_cut(student: TextEncoder) -> bool:
    """Returns whether states can be kept for this backbone: only `embeddings`, then `encoder.layer`."""
    names = {name for name, child in student.backbone.named_children() if child is not None}
    encoder = getattr(student.backbone, "encoder", None)
    return names <= {"embeddings", "encoder", "pooler"} and hasattr(encoder, "layer") and "embeddings" in names


class FrozenStates:
    """States that enter a layer, for every text of a table: flat (sum of tokens, H), float16 or float32."""

    def __init__(self, flat: np.ndarray, lengths: np.ndarray, fingerprint: str) -> None:
        """Takes the states one after the other, the states of each text (N,), and what they were computed from."""
        self.flat = flat
        self.lengths = lengths
        self.offsets = offsets_of(lengths)
        self.fingerprint = fingerprint

    @classmethod
    def build(
        cls,
        student: TextEncoder,
        tokens: TokenTable,
        first_layer: int,
        *,
        dtype: str = "float16",
        folder: Path | None = None,
        token_budget: int = 4096,
        progress: bool = False,
    ) -> FrozenStates:
        """Returns the states, computed in eval mode, longest texts first.

        Args:
            student: its layers below `first_layer` must not change afterwards.
            tokens: the texts.
            first_layer: first layer that trains; the number of layers if only the head does.
            dtype: `float16` halves the size; `float32` keeps every bit.
            folder: a memory map is written here, and found or completed by the next call; None: in memory.
            token_budget: most padded tokens of a forward pass.
            progress: show a bar on stderr.

        Raises:
            BabelclipError: the disk is too small, or a state does not fit float16.
        """
        pooled_only = first_layer == len(encoder_layers(student.backbone))
        lengths = np.ones_like(tokens.lengths) if pooled_only else tokens.lengths
        config: Any = student.backbone.config
        shape = (int(lengths.sum()), int(config.hidden_size))
        fingerprint = f"{tokens.fingerprint}-{_weights_below(student, first_layer)}-{first_layer}-{dtype}"
        made = cls(np.empty((0, shape[1])), lengths, fingerprint)
        made.flat, done = _opened(folder, fingerprint, shape, dtype)
        batches = token_batches(tokens.lengths.tolist(), token_budget)
        with inference(student), progress_bar("Frozen layers", len(lengths), shown=progress, unit="texts") as advance:
            for number, rows in enumerate(batches):
                if number >= done:
                    made._fill(student, tokens, rows, first_layer, pooled_only)
                    if folder and ((number + 1) % _BATCHES_A_MARK == 0 or number + 1 == len(batches)):
                        _mark(folder, made.flat, fingerprint, number + 1)
                advance(len(rows))
        return made

    def load(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Returns states (N, T, H) float32, zero where padded, and the mask (N, T) int64."""
        states, mask = padded(self.flat, self.offsets, rows, np.dtype(np.float32), 0.0)
        return torch.from_numpy(states), torch.from_numpy(mask)

    def _fill(
        self, student: TextEncoder, tokens: TokenTable, rows: np.ndarray, first_layer: int, pooled_only: bool
    ) -> None:
        device = next(student.parameters()).device
        input_ids, mask = (tensor.to(device) for tensor in tokens.load(rows))
        if pooled_only:
            states = student.pooled(input_ids, mask).unsqueeze(1)
        else:
            embeddings: Any = student.backbone.embeddings
            states = through_layers(student, embeddings(input_ids=input_ids), mask, 0, first_layer)
        with np.errstate(over="ignore"):
            values = states.float().cpu().numpy().astype(self.flat.dtype)
        for place, row in enumerate(rows):
            kept = values[place, : self.lengths[row]]
            if not np.isfinite(kept).all():
                raise BabelclipError(
                    f"A hidden state does not fit {self.flat.dtype}. "
                    'Set cache = "float32" in [student], or "off" to keep no states.'
                )
            self.flat[self.offsets[row] : self.offsets[row + 1]] = kept


def _opened(folder: Path | None, fingerprint: str, shape: tuple[int, int], dtype: str) -> tuple[np.ndarray, int]:
    """Returns the array to fill, and how many batches of it are done."""
    if folder is None:
        return np.empty(shape, dtype=dtype), 0
    mark, file = folder / "states.json", folder / "states.npy"
    if mark.exists() and file.exists():
        known = read_json(mark)
        if known["fingerprint"] == fingerprint:
            return np.lib.format.open_memmap(file, mode="r+"), int(known["done"])
    mark.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    size = shape[0] * shape[1] * np.dtype(dtype).itemsize
    flat = np.lib.format.open_memmap(file, mode="w+", dtype=np.dtype(dtype), shape=shape)
    try:
        # A memory map on a sparse file dies by SIGBUS when the disk is full; reserved blocks fail here instead.
        with file.open("r+b") as reserved:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(reserved.fileno(), 0, flat.offset + size)
    except OSError as error:
        file.unlink(missing_ok=True)
        raise BabelclipError(
            f"The hidden states take {size / 1e9:.1f} GB, which {folder} has no room for ({error}). "
            'Free some space, or set cache = "off" in [student].'
        ) from error
    return flat, 0


def _mark(folder: Path, flat: np.ndarray, fingerprint: str, done: int) -> None:
    if isinstance(flat, np.memmap):
        flat.flush()
    sync(folder / "states.npy")
    write_json(folder / "states.json", {"fingerprint": fingerprint, "done": done})


def _weights_below(student: TextEncoder, first_layer: int) -> str:
    """Returns a checksum of the weights that the states depend on."""
    layers = encoder_layers(student.backbone)
    above = {id(parameter) for layer in list(layers)[first_layer:] for parameter in layer.parameters()}
    digest = hashlib.sha256(student.pooling.encode())
    for name, parameter in student.backbone.named_parameters():
        if id(parameter) not in above:
            digest.update(name.encode())
            digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def upper_pooled(
    student: TextEncoder,
    states: FrozenStates,
    first_layer: int,
    token_budget: int = 4096,
    *,
    chosen: np.ndarray | None = None,
) -> np.ndarray:
    """Returns the pooled backbone output before the head (N, H) float32, computed from kept states.

    It is what `student.encode(texts, before_head=True)` gives, up to the rounding of the states. `chosen` (N,) names
    the texts, in the order of the result; None takes all.
    """
    config: Any = student.backbone.config
    wanted = np.arange(len(states.lengths)) if chosen is None else chosen
    features = np.empty((len(wanted), int(config.hidden_size)), dtype=np.float32)
    layers = len(encoder_layers(student.backbone))
    device = next(student.parameters()).device
    with inference(student):
        for rows in token_batches(states.lengths[wanted].tolist(), token_budget):
            hidden, mask = (tensor.to(device) for tensor in states.load(wanted[rows]))
            if first_layer < layers:
                hidden = pool(through_layers(student, hidden, mask, first_layer, layers), mask, student.pooling)
            else:
                hidden = hidden[:, 0]
            features[rows] = hidden.float().cpu().numpy()
    return features
