"""OpenAI's original model files (`RN50x4.pt`, `ViT-B-32.pt`, ...): TorchScript archives, read as plain tensors.

Such an archive keeps the program beside the weights. `torch_archive` reads its objects without the program: each module
is an inert placeholder whose state is a dict of attributes, and the names of the tensors are the paths to them, which
are the names that OpenAI's `state_dict()` gives: `visual.conv1.weight`, `token_embedding.weight`, `logit_scale`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints.files.safe_pickle import Inert

# Numbers that OpenAI keeps as buffers and drops before it builds the model; all of them show in other shapes.
DROPPED = ("input_resolution", "context_length", "vocab_size")
# The causal mask is an attribute of the module and no weight; the state dict does not have it either.
DROPPED_ANYWHERE = ("attn_mask",)
MAX_DEPTH = 32
MAX_ATTRIBUTES = 1_000_000


def state_dict(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """Returns the tensors of a TorchScript module by their dotted names, as stored (OpenAI: mostly float16).

    Args:
        content: the object of the archive, as `torch_archive.read_archive` returns it.
        path: the file, for messages.

    Raises:
        BabelclipError: the object is no module, or nests deeper than any model does.
    """
    if not isinstance(content, Inert) or not isinstance(content.state, dict):
        raise BabelclipError(
            f"{path} is a TorchScript archive without a module. It must be a model that torch.jit.save wrote. "
            "Copy it again from its origin."
        )
    tensors = dict(_walk(content, path))
    return {
        name: tensor
        for name, tensor in tensors.items()
        if name not in DROPPED and name.rpartition(".")[2] not in DROPPED_ANYWHERE
    }


def _walk(module: Inert, path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the tensors below `module` in stored order. Bounded, since a pickle can make shared and endless nests."""
    waiting: list[tuple[str, int, Any]] = [("", 0, module)]
    seen = 0
    while waiting:
        prefix, depth, value = waiting.pop()
        if isinstance(value, torch.Tensor):
            yield prefix, value
        elif isinstance(value, Inert) and isinstance(value.state, dict):
            seen += len(value.state)
            if depth >= MAX_DEPTH or seen > MAX_ATTRIBUTES:
                raise BabelclipError(
                    f"{path} nests its modules deeper than {MAX_DEPTH} levels or has more than {MAX_ATTRIBUTES} "
                    "attributes; no CLIP does. Copy it again from its origin."
                )
            named = [(name, item) for name, item in value.state.items() if isinstance(name, str)]
            waiting.extend((f"{prefix}.{name}" if prefix else name, depth + 1, item) for name, item in reversed(named))
