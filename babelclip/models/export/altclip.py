"""AltCLIP as the hub has it: one folder with both towers, which transformers' `AltCLIPModel` and FlagAI read.

    config.json, model.safetensors, tokenizer.json, tokenizer_config.json, preprocessor_config.json

transformers' own `save_pretrained` writes other names for the picture tower from version 5 on, which older versions
and FlagAI do not read; the names here are those of the published files.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch

from babelclip.errors import BabelclipError
from babelclip.files import atomic_folder, write_json
from babelclip.models.checkpoints.altclip import IMAGE_KEYS, TEXT_KEYS
from babelclip.models.clip import Clip
from babelclip.models.export.pictures import hf_processor
from babelclip.models.export.stored import save_weights
from babelclip.models.export.tokenizers import write_tokenizer
from babelclip.models.head import LayerSpec
from babelclip.models.image import ImageEncoder
from babelclip.models.text import TextEncoder

_TEXT_NAMES = (
    (r"backbone\.", "text_model.roberta."),
    (r"head\.0\.", "text_model.pre_LN."),
    (r"head\.1\.", "text_model.transformation."),
    (r"head\.2\.", "text_projection."),
    (r"token_head\.0\.", "text_model.transformation_pre."),
)
_IMAGE_NAMES = ((r"backbone\.", "vision_model."), (r"head\.0\.", "visual_projection."))


def hub_tensors(clip: Clip) -> dict[str, torch.Tensor]:
    """Returns both towers' tensors and `logit_scale` (its logarithm, as stored) under the names of the hub's files.

    Raises:
        BabelclipError: a tower or the scale is absent, or a tower is built otherwise than AltCLIP's.
    """
    text, image, scale = _parts(clip)
    tensors = {_renamed(name, _TEXT_NAMES): tensor for name, tensor in text.state_dict().items()}
    tensors |= {_renamed(name, _IMAGE_NAMES): tensor for name, tensor in image.state_dict().items()}
    tensors["logit_scale"] = torch.tensor(math.log(scale), dtype=tensors["text_projection.weight"].dtype)
    return tensors


def export_altclip(clip: Clip, folder: Path | str) -> Path:
    """Writes `clip` to `folder` in the hub's AltCLIP layout, replacing it whole, and returns the folder.

    Raises:
        BabelclipError: the model does not fit the layout; it says which part.
    """
    text, image, _scale = _parts(clip)
    tensors = hub_tensors(clip)
    folder = Path(folder)
    with atomic_folder(folder) as temporary:
        write_json(temporary / "preprocessor_config.json", _processor(image))
        save_tokenizer(text, temporary)
        write_json(temporary / "config.json", _config(text, image))
        save_weights(tensors, temporary / "model.safetensors")
    return folder


def check_text_tower(text: TextEncoder) -> None:
    """Raises BabelclipError unless a text tower is built as AltCLIP's."""
    config: Any = text.backbone.config
    _refuse(
        "text",
        {
            f"backbone {config.model_type}": config.model_type == "xlm-roberta",
            f"pooling {text.pooling}": text.pooling == "cls",
            f"head {text.head_layers}": _is_altclip_head(text.head_layers, config.layer_norm_eps),
        },
    )


def save_tokenizer(text: TextEncoder, folder: Path) -> None:
    """Writes the tokenizer's files into an existing folder.

    Raises:
        BabelclipError: texts are cleaned or prefixed first, which the programs that read AltCLIP do not.
    """
    cleaning, prefix = text.tokenizer.cleaning, text.tokenizer.prefix
    _refuse("text", {f"cleaning {cleaning!r}": cleaning == "none", f"prefix {prefix!r}": not prefix})
    write_tokenizer(text.tokenizer, folder)


def _processor(image: ImageEncoder) -> dict[str, Any]:
    content, differences = hf_processor(image.preprocess)
    _refuse("picture", {difference: False for difference in differences})
    return content


def _is_altclip_head(layers: list[LayerSpec], eps: float) -> bool:
    if [layer["kind"] for layer in layers] != ["layer_norm", "linear", "linear"]:
        return False
    norm, transformation, projection = layers
    # The layout has one epsilon for body and head, a bias in the first linear layer and none in the second.
    has_biases = (transformation.get("bias", True), projection.get("bias", True))
    return norm.get("eps", 1e-5) == eps and has_biases == (True, False)


def _check_image_tower(image: ImageEncoder) -> None:
    config: Any = image.backbone.config
    kinds = [(layer["kind"], layer.get("bias", True)) for layer in image.head_layers]
    model_type = getattr(config, "model_type", type(image.backbone).__name__)
    _refuse(
        "picture",
        {
            f"backbone {model_type}": model_type == "clip_vision_model",
            f"head {image.head_layers}": kinds == [("linear", False)],
        },
    )


def _refuse(tower: str, parts: dict[str, bool]) -> None:
    wrong = [part for part, fits in parts.items() if not fits]
    if wrong:
        raise BabelclipError(
            f"The {tower} tower has {', '.join(wrong)}; the AltCLIP layout holds XLM-R with token 0, a norm and two "
            "linear layers, and a CLIP vision transformer with one, texts as they are and pictures as transformers "
            "prepares them. Save the model in babelclip's own format."
        )


def _parts(clip: Clip) -> tuple[TextEncoder, ImageEncoder, float]:
    """Returns both towers and the scale of a model that fits the layout."""
    if clip.text is None or clip.image is None or clip.logit_scale is None:
        raise BabelclipError(
            "The AltCLIP layout holds both towers and a logit scale, and this model lacks one of them. "
            "Load it with towers='both'."
        )
    check_text_tower(clip.text)
    _check_image_tower(clip.image)
    return clip.text, clip.image, clip.logit_scale


def _renamed(name: str, names: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in names:
        renamed, found = re.subn(f"^{pattern}", replacement, name)
        if found:
            return renamed
    raise BabelclipError(f"The tensor {name} has no place in the AltCLIP layout. Save in babelclip's own format.")


def _config(text: TextEncoder, image: ImageEncoder) -> dict[str, Any]:
    """Returns `config.json`; what a config class would fill in by default is written out."""
    text_config: Any = text.backbone.config
    image_config: Any = image.backbone.config
    return {
        "model_type": "altclip",
        "architectures": ["AltCLIPModel"],
        "projection_dim": text.embed_dim,
        "logit_scale_init_value": 2.6592,
        "text_config": {
            "model_type": "altclip_text_model",
            **{key: getattr(text_config, key) for key in TEXT_KEYS},
            "project_dim": text.head_layers[1]["out"],
        },
        "vision_config": {
            "model_type": "altclip_vision_model",
            **{key: getattr(image_config, key) for key in IMAGE_KEYS},
            "projection_dim": image.embed_dim,
        },
        "torch_dtype": str(next(text.parameters()).dtype).removeprefix("torch."),
    }
