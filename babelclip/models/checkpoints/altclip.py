"""AltCLIP, AltCLIP-m9 and AltCLIP-m18: both towers in one file, as the hub, FlagAI and transformers write them.

    config.json                  model_type `altclip`: text_config, vision_config, projection_dim
    pytorch_model.bin            or safetensors, single or sharded; FlagAI wraps its tensors in {"module": ...}
    tokenizer.json               or sentencepiece.bpe.model
    preprocessor_config.json     scalar or dictionary sizes; transformers 5 writes processor_config.json

Text: XLM-R without pooler -> token 0 -> `pre_LN` -> `transformation` (to the teacher's width) -> `text_projection`.
The original normalises and transforms every token and takes position 0 afterwards, which is the same vector.
Image: CLIP vision transformer -> `visual_projection`. Both original calls give vectors that are not normalised.

transformers alone is no help for one tower: `AltCLIPTextModel.from_pretrained` of 5.23 leaves every text weight of a
whole checkpoint random. Names therefore go through the key map below, which refuses what it cannot place.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints import two_tower
from babelclip.models.checkpoints.build import CONFIG_FAULTS, image_tower, read_config
from babelclip.models.checkpoints.files.preprocess_files import preprocess_from_hf
from babelclip.models.checkpoints.files.tensors import Tensors, open_tensors
from babelclip.models.checkpoints.keymap import Rule, convert
from babelclip.models.checkpoints.text_body import BERT_KEYS, body_config, body_tower
from babelclip.models.clip import Clip
from babelclip.models.image import ImageEncoder
from babelclip.models.text import TextEncoder

NAME = "altclip"
CONFIG = two_tower.CONFIG
# FlagAI's scripts cut texts at 77 tokens and training saw 70 to 75 of them. The position table has room for 512:
# `clip.text.tokenizer.max_length = 512` reads longer texts, untrained. transformers alone cuts nothing.
MAX_LENGTH = 77

# "layer" and "layers" both occur on both sides: the hub writes one for the text tower and the other for the image
# tower, `save_pretrained` of transformers 5 writes "layer" for both.
_TEXT_RULES = (
    Rule(r"text_model\.roberta\.encoder\.layers?\.(.+)", r"backbone.encoder.layer.\1"),
    Rule(r"text_model\.roberta\.embeddings\.(?!position_ids)(.+)", r"backbone.embeddings.\1"),
    Rule(r"text_model\.pre_LN\.(weight|bias)", r"head.0.\1"),
    Rule(r"text_model\.transformation\.(weight|bias)", r"head.1.\1"),
    Rule(r"text_projection\.weight", "head.2.weight"),
    Rule(r"text_model\.transformation_pre\.(weight|bias)", r"token_head.0.\1"),
)
_IMAGE_RULES = (
    Rule(r"vision_model\.encoder\.layers?\.(.+)", r"backbone.encoder.layers.\1"),
    Rule(r"vision_model\.embeddings\.(?!position_ids)(.+)", r"backbone.embeddings.\1"),
    Rule(r"vision_model\.(pre_layrnorm|post_layernorm)\.(weight|bias)", r"backbone.\1.\2"),
    Rule(r"visual_projection\.weight", "head.0.weight"),
)
# Buffers of old versions that only count positions, a pooler that nothing reads, and the scalar read on its own.
_ALWAYS_LEFT_OUT = (r".*\.position_ids", r"text_model\.roberta\.pooler\..+", "logit_scale")
_TEXT_TENSORS = (r"text_model\..+", r"text_projection\..+")
_IMAGE_TENSORS = (r"vision_model\..+", r"visual_projection\..+")

# Of a tower's config these describe the tower.
TEXT_KEYS = BERT_KEYS
IMAGE_KEYS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels", "image_size",
    "patch_size", "hidden_act", "layer_norm_eps", "attention_dropout",
)  # fmt: skip


def recognises(folder: Path) -> bool:
    """Returns whether `folder` holds an AltCLIP, as its config says."""
    return two_tower.model_type(folder) == "altclip"


wanted = two_tower.wanted


def load(folder: Path, towers: str) -> Clip:
    """Returns the towers of an AltCLIP folder, on the CPU; a tower not asked for is neither read nor built.

    Texts are cut at 77 tokens, as FlagAI does (see `MAX_LENGTH`). `logit_scale` is exponentiated and not clamped.

    Raises:
        BabelclipError: a file is missing or damaged, or config and tensors do not fit; it names file and tensors.
    """
    config = _parsed(folder / CONFIG)
    tensors = open_tensors(folder)
    return Clip(
        space="",
        text=_text(folder, config, tensors) if towers != "image" else None,
        image=_image(folder, config, tensors) if towers != "text" else None,
        logit_scale=two_tower.logit_scale(tensors),
    )


def _parsed(path: Path) -> Any:
    """Returns a transformers config: its class fills defaults, and lets `*_config_dict` of old files override."""
    from transformers import AltCLIPConfig

    content = read_config(path)
    try:
        return AltCLIPConfig(**copy.deepcopy({key: value for key, value in content.items() if key != "model_type"}))
    except CONFIG_FAULTS as error:
        raise BabelclipError(
            f"{path} does not describe an AltCLIP ({type(error).__name__}: {error}). "
            "Copy config.json again from the model's origin."
        ) from error


def _text(folder: Path, config: Any, tensors: Tensors) -> TextEncoder:
    settings = config.text_config
    head = [
        {"kind": "layer_norm", "eps": settings.layer_norm_eps},
        {"kind": "linear", "out": settings.project_dim},
        {"kind": "linear", "out": config.projection_dim, "bias": False},
    ]
    weights = convert(tensors, _TEXT_RULES, known=(*_ALWAYS_LEFT_OUT, *_IMAGE_TENSORS))
    has_token_head = any(name.startswith("token_head.") for name in weights)
    return body_tower(
        folder,
        body_config({"model_type": "xlm-roberta", **_chosen(settings, TEXT_KEYS)}, folder / CONFIG),
        weights,
        pooling="cls",
        head=head,
        max_length=MAX_LENGTH,
        token_head=[{"kind": "linear", "out": settings.project_dim}] if has_token_head else None,
    )


def _image(folder: Path, config: Any, tensors: Tensors) -> ImageEncoder:
    settings = config.vision_config
    return image_tower(
        {"model_type": "clip_vision_model", **_chosen(settings, IMAGE_KEYS)},
        head=[{"kind": "linear", "out": config.projection_dim, "bias": False}],
        preprocess=preprocess_from_hf(two_tower.read_preprocessor(folder), default_size=settings.image_size),
        weights=convert(tensors, _IMAGE_RULES, known=(*_ALWAYS_LEFT_OUT, *_TEXT_TENSORS)),
    )


def _chosen(settings: Any, keys: Sequence[str]) -> dict[str, Any]:
    return {key: getattr(settings, key) for key in keys}
