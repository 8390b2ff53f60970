"""Configs of open_clip models whose weights were published without one; open_clip keeps them in its package.

LAION's XLM-R repositories and the release files of ViT-B-16-plus-240 hold tensors alone. Their sizes are like those of
no other published model, so the tensors tell which config is theirs. For the sizes that OpenAI and LAION share (B/32,
L/14) they do not tell the activation, and no config is guessed.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from babelclip.models.checkpoints.files.tensors import Tensors
from babelclip.models.checkpoints.text_body import published_backbones

_HF_TABLE = "text.transformer.embeddings.word_embeddings.weight"
_OWN_TABLE = "token_embedding.weight"
_TELLING = ("visual.conv1.weight", "visual.positional_embedding", _HF_TABLE, _OWN_TABLE)


def known_config(tensors: Tensors) -> dict[str, Any] | None:
    """Returns the `model_cfg` of the shipped configs that the shapes of `tensors` fit, or None."""
    shapes = {name: tensors.shape(name) for name in _TELLING if name in tensors}
    for file in resources.files("babelclip.models.checkpoints").joinpath("openclip_configs").iterdir():
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["model_cfg"]
        if _shapes(config) == shapes:
            return config
    return None


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    vision, text = config["vision_cfg"], config["text_cfg"]
    width, patch = vision["width"], vision["patch_size"]
    positions = (vision["image_size"] // patch) ** 2 + 1
    if "hf_model_name" in text:
        body = published_backbones()[text["hf_model_name"]]
        table = {_HF_TABLE: (body["vocab_size"], body["hidden_size"])}
    else:
        table = {_OWN_TABLE: (text["vocab_size"], text["width"])}
    return {
        "visual.conv1.weight": (width, 3, patch, patch),
        "visual.positional_embedding": (positions, width),
        **table,
    }
