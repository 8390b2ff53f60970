"""The text encoder of an AltDiffusion pipeline, as diffusers' `RobertaSeriesModelWithTransformation` reads it.

    text_encoder/config.json, text_encoder/model.safetensors
    tokenizer/tokenizer.json, tokenizer/tokenizer_config.json

Put both in the place of those of a pipeline folder. The class computes one of two rules (see
`babelclip.models.conditioning`): `altdiffusion-m9`, where it has no `pre_LN` at all, so AltCLIP's is left behind; or
`altdiffusion-m18`, where it holds `transformation` without reading it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from babelclip.errors import BabelclipError, did_you_mean
from babelclip.files import atomic_folder, write_json
from babelclip.models.checkpoints.altclip import TEXT_KEYS
from babelclip.models.export.altclip import check_text_tower, save_tokenizer
from babelclip.models.export.stored import save_weights
from babelclip.models.text import TextEncoder

_RULES = ("altdiffusion", "altdiffusion-m9", "altdiffusion-m18")


def export_diffusers(text: TextEncoder, folder: Path | str, *, preset: str) -> Path:
    """Writes the conditioning encoder for diffusers to `folder`, replacing it whole, and returns the folder.

    Args:
        text: the text tower of an AltCLIP.
        folder: gets `text_encoder/` and `tokenizer/`.
        preset: the rule that the class is to compute: `altdiffusion`, `altdiffusion-m9` or `altdiffusion-m18`.

    Raises:
        BabelclipError: the tower is no AltCLIP's, or lacks the layer that the preset needs.
    """
    if preset not in _RULES:
        raise BabelclipError(f"diffusers has no rule {preset!r}. {did_you_mean(preset, _RULES)}")
    check_text_tower(text)
    pre = preset == "altdiffusion-m18"
    tensors = _tensors(text, pre)
    backbone: Any = text.backbone.config
    config = {
        "model_type": "xlm-roberta",
        "architectures": ["RobertaSeriesModelWithTransformation"],
        **{key: getattr(backbone, key) for key in TEXT_KEYS},
        "project_dim": text.head_layers[1]["out"],
        "pooler_fn": "cls",
        "learn_encoder": False,
        "use_attention_mask": True,
        "has_pre_transformation": pre,
        "torch_dtype": str(next(text.parameters()).dtype).removeprefix("torch."),
    }
    folder = Path(folder)
    with atomic_folder(folder) as temporary:
        for name in ("text_encoder", "tokenizer"):
            (temporary / name).mkdir()
        save_tokenizer(text, temporary / "tokenizer")
        write_json(temporary / "text_encoder" / "config.json", config)
        save_weights(tensors, temporary / "text_encoder" / "model.safetensors")
    return folder


def _tensors(text: TextEncoder, pre: bool) -> dict[str, torch.Tensor]:
    """Returns every weight of the class under its name, so that none is made up when it loads."""
    tensors = {f"roberta.{name}": tensor for name, tensor in text.backbone.state_dict().items()}
    parts = {"transformation": text.head[1]}
    if pre:
        if text.token_head is None:
            raise BabelclipError(
                "This text tower has no transformation_pre, which AltDiffusion-m18 reads; only the diffusion copy of "
                "AltCLIP-m18 has it. Load that checkpoint, or export with preset='altdiffusion-m9'."
            )
        parts |= {"pre_LN": text.head[0], "transformation_pre": text.token_head[0]}
    for part, module in parts.items():
        tensors |= {f"{part}.{name}": tensor for name, tensor in module.state_dict().items()}
    # The class builds a pooler and never reads it. Zeros keep its loader from drawing random numbers, with a warning.
    weight = tensors["transformation.weight"]
    width = weight.shape[1]
    tensors["roberta.pooler.dense.weight"] = weight.new_zeros(width, width)
    tensors["roberta.pooler.dense.bias"] = weight.new_zeros(width)
    return tensors
