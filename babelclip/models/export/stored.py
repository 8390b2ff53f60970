"""What every export shares: which towers are written, their configs, and the form in which weights are stored."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from babelclip.errors import BabelclipError, did_you_mean
from babelclip.models.clip import Clip
from babelclip.models.image import ImageEncoder
from babelclip.models.text import TextEncoder

# The readers of these layouts compute in float32 either way; float16 halves the files.
DTYPES = {"float32": torch.float32, "float16": torch.float16}
TOWERS = ("both", "text", "image")
# Of a config these say where it came from and how it was run, not what the network is.
_LEFT_OUT = (
    "_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "id2label", "label2id",
    "_attn_implementation", "output_attentions", "output_hidden_states", "return_dict", "problem_type",
)  # fmt: skip


class ExportWarning(UserWarning):
    """The other program computes something a little different from babelclip; the README of the folder says what."""


def chosen_towers(clip: Clip, towers: str) -> tuple[TextEncoder | None, ImageEncoder | None]:
    """Returns the towers to write; "both" of a model that has one is that one.

    Raises:
        BabelclipError: `towers` is no choice, or the model lacks the tower asked for.
    """
    if towers not in TOWERS:
        raise BabelclipError(f"towers={towers!r} is not known. {did_you_mean(towers, TOWERS)}")
    text = clip.text if towers != "image" else None
    image = clip.image if towers != "text" else None
    if text is None and image is None:
        raise BabelclipError(
            f"towers={towers!r} was asked for, and this model was loaded without that tower. "
            'Load it with towers="both", or export the other one.'
        )
    return text, image


def stored(tensors: Mapping[str, torch.Tensor], dtype: str) -> dict[str, torch.Tensor]:
    """Returns the tensors in the dtype that a folder is to hold; whole numbers stay as they are.

    Raises:
        BabelclipError: the dtype is not offered, or a weight does not fit it.
    """
    if dtype not in DTYPES:
        raise BabelclipError(
            f"dtype={dtype!r} cannot be stored in this layout. {did_you_mean(dtype, DTYPES)} "
            "For 8 bits export to onnx or openvino."
        )
    converted = {
        name: tensor.detach().to(DTYPES[dtype]) if tensor.is_floating_point() else tensor.detach()
        for name, tensor in tensors.items()
    }
    too_large = [name for name, tensor in converted.items() if tensor.is_floating_point() and tensor.isinf().any()]
    if too_large:
        raise BabelclipError(
            f"{', '.join(too_large[:3])} hold numbers above 65504, the largest of float16. Export with dtype='float32'."
        )
    return converted


def save_weights(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Writes tensors as safetensors, marked as PyTorch's, which transformers asks for."""
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(content, path, metadata={"format": "pt"})
    # safetensors creates files that only their owner may read; a model folder is made to be shared.
    path.chmod(0o644)


def backbone_config(backbone: nn.Module) -> dict[str, Any]:
    """Returns the whole config of a backbone, defaults included, so that no version fills in its own."""
    config: Any = backbone.config
    content = {key: value for key, value in config.to_dict().items() if key not in _LEFT_OUT}
    # Readers take the dtype of the files otherwise, and layers behind the backbone are float32.
    return {**json.loads(json.dumps(content)), "model_type": config.model_type, "torch_dtype": "float32"}


def model_type(tower: TextEncoder | ImageEncoder) -> str:
    """Returns the transformers type of a tower's backbone, or the name of our class where it is none of theirs."""
    return str(getattr(tower.backbone.config, "model_type", "") or type(tower.backbone).__name__)


def warn_of(notes: Sequence[str], target: str) -> None:
    """Warns once of what the other program does otherwise."""
    if notes:
        warnings.warn(f"Exported to {target}. {' '.join(notes)}", ExportWarning, stacklevel=3)
