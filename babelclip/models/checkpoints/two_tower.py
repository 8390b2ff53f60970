"""What the readers of transformers' two-tower layouts share (CLIP, SigLIP, MetaCLIP 2): configs, names, files.

    config.json                  model_type, text_config, vision_config
    model.safetensors            or pytorch_model.bin, single or sharded: `text_model.*`, `vision_model.*`, projections
    tokenizer.json               or older vocabulary files
    preprocessor_config.json     transformers 5 writes it into processor_config.json under `image_processor`

A folder may hold one tower alone; its config.json is then the tower's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from babelclip.errors import BabelclipError, shown
from babelclip.models.checkpoints.build import image_tower, read_config
from babelclip.models.checkpoints.files import tokenizer_files
from babelclip.models.checkpoints.files.preprocess_files import preprocess_from_hf
from babelclip.models.checkpoints.files.tensors import Tensors, weight_files
from babelclip.models.checkpoints.keymap import Rule, Weights, convert
from babelclip.models.head import LayerSpec
from babelclip.models.image import ImageEncoder
from babelclip.models.preprocess import Preprocess

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"

# Of a tower's config these describe the tower; old files add dozens of keys about generation and printing.
_ENCODER_KEYS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "layer_norm_eps",
    "attention_dropout",
)  # fmt: skip
_TEXT_KEYS = (
    *_ENCODER_KEYS, "vocab_size", "max_position_embeddings", "projection_size", "pad_token_id", "bos_token_id",
    "eos_token_id",
)  # fmt: skip
_IMAGE_KEYS = (*_ENCODER_KEYS, "num_channels", "image_size", "patch_size", "num_patches", "vision_use_head")

# A buffer of old versions that only counts positions.
_POSITIONS = r"(?:.*\.)?position_ids"
_TEXT_TENSORS = (r"text_model\..+", r"text_projection\..+")
_IMAGE_TENSORS = (r"vision_model\..+", r"visual_projection\..+")
# Its exponential is the largest that float32 holds, in which scores are computed.
_LARGEST_LOGARITHM = 88.0


class TwoTowers(NamedTuple):
    """What a config.json says: the config of each tower it describes, and the rest."""

    path: Path
    text: dict[str, Any] | None
    image: dict[str, Any] | None
    whole: dict[str, Any]


def model_type(folder: Path) -> str:
    """Returns the `model_type` of a folder's config.json; empty where there is none."""
    path = folder / CONFIG
    stated = read_config(path).get("model_type") if path.is_file() else None
    return stated if isinstance(stated, str) else ""


def read_towers(folder: Path, family: str, towers: str) -> TwoTowers:
    """Returns the tower configs of a folder of `family` (for example "clip"), with `model_type` and known keys only.

    `text_config_dict` and `vision_config_dict` of old files replace `text_config` and `vision_config`, as in
    transformers. A tower that the file leaves to the defaults of its class is described by its type alone.

    Raises:
        BabelclipError: config.json is missing or of wrong types, or has not the tower asked for.
    """
    path = folder / CONFIG
    whole = read_config(path)
    types = {"text": f"{family}_text_model", "image": f"{family}_vision_model"}
    alone = next((tower for tower, kind in types.items() if whole.get("model_type") == kind), None)
    if alone is not None and towers not in (alone, "both"):
        other = "image" if alone == "text" else "text"
        raise BabelclipError(
            f"{folder} holds the {alone} tower alone, so towers={towers!r} cannot be loaded from it. Load "
            f'towers="{alone}", or give the folder of the {other} tower.'
        )
    configs: dict[str, dict[str, Any] | None] = {"text": None, "image": None}
    for tower, keys in (("text", _TEXT_KEYS), ("image", _IMAGE_KEYS)):
        if alone in (None, tower):
            settings = whole if alone else _section(path, whole, "text_config" if tower == "text" else "vision_config")
            known = {key: settings[key] for key in keys if settings.get(key) is not None}
            configs[tower] = {"model_type": types[tower], **known}
    return TwoTowers(path, configs["text"], configs["image"], whole)


def _section(path: Path, config: dict[str, Any], name: str) -> dict[str, Any]:
    old = config.get(f"{name}_dict")
    section = config.get(name, {}) if old is None else old
    if section is None:
        section = {}
    if not isinstance(section, dict):
        raise BabelclipError(
            f"{path} says {name} = {section!r}; a JSON object is expected. Copy it again from the model's origin."
        )
    return section


def projection_dim(config: TwoTowers) -> int:
    """Returns D, the dimensions of the embedding space (`projection_dim`; 512, as in CLIP, where the file is silent).

    Raises:
        BabelclipError: it is no positive whole number.
    """
    return whole_number(config.path, config.whole, "projection_dim", 512, least=1)


def context_length(config: TwoTowers, default: int) -> int:
    """Returns the rows of the text tower's position table; `default` is that of the config's class.

    Raises:
        BabelclipError: it is no positive whole number.
    """
    return whole_number(config.path, config.text or {}, "max_position_embeddings", default, least=1)


def whole_number(path: Path, settings: Mapping[str, Any], key: str, default: int, *, least: int = 0) -> int:
    """Returns the whole number that `settings` of the file `path` state under `key`, else `default`.

    Raises:
        BabelclipError: it is something else, or below `least`.
    """
    stated = settings.get(key)
    number = default if stated is None else stated
    if not isinstance(number, int) or isinstance(number, bool) or number < least:
        raise BabelclipError(
            f"{path} says {key} = {shown(repr(number), 60)}; a whole number from {least} is expected, for example "
            f"{default}. Copy it again from the model's origin."
        )
    return number


def text_weights(tensors: Tensors, *, known: Sequence[str] = (), alone: bool = False) -> Weights:
    """Returns the text tower's tensors as `backbone.*` and `head.0.*`; nothing of the picture tower is read.

    Args:
        tensors: the checkpoint.
        known: patterns of further names to leave out, for example `logit_scale`.
        alone: the checkpoint is this tower, whose names may come without `text_model.`.

    Raises:
        BabelclipError: a name belongs to neither tower.
    """
    return convert(tensors, _rules("text_model", "text_projection", alone), known=(_POSITIONS, *_IMAGE_TENSORS, *known))


def image_weights(tensors: Tensors, *, known: Sequence[str] = (), alone: bool = False, inside: str = "") -> Weights:
    """Returns the picture tower's tensors as `backbone.*` and `head.0.*`; see `text_weights`.

    `inside` is put after `backbone.` where ours wraps the module of transformers, for example "transformer.".
    """
    rules = _rules("vision_model", "visual_projection", alone, inside)
    return convert(tensors, rules, known=(_POSITIONS, *_TEXT_TENSORS, *known))


def _rules(tower: str, projection: str, alone: bool, inside: str = "") -> list[Rule]:
    body = r"(?:embeddings|encoder|pre_layrnorm|post_layernorm|final_layer_norm|head)\."
    rules = [
        Rule(rf"{tower}\.(?!.*position_ids)(.+)", rf"backbone.{inside}\1"),
        Rule(rf"{projection}\.(weight|bias)", r"head.0.\1"),
    ]
    return [*rules, Rule(rf"({body}(?!position_ids).+)", rf"backbone.{inside}\1")] if alone else rules


def picture_tower(
    folder: Path,
    backbone: dict[str, Any],
    *,
    head: list[LayerSpec],
    weights: Weights,
    preprocess: Callable[..., Preprocess] = preprocess_from_hf,
) -> ImageEncoder:
    """Returns the picture tower with the preprocessing that the folder states.

    Raises:
        BabelclipError: there is no preprocessing, or config and weights do not fit.
    """
    size = backbone.get("image_size")
    settings = read_preprocessor(folder)
    prepared = preprocess(settings, default_size=size if isinstance(size, int) else None)
    return image_tower(backbone, head=head, preprocess=prepared, weights=weights)


def read_preprocessor(folder: Path) -> dict[str, Any]:
    """Returns the settings of a folder's image processor, from either file that versions of transformers write.

    Raises:
        BabelclipError: there is none: how pictures were prepared cannot be guessed.
    """
    if (folder / PREPROCESSOR).is_file():
        return read_config(folder / PREPROCESSOR)
    nested = read_config(folder / PROCESSOR).get("image_processor") if (folder / PROCESSOR).is_file() else None
    if not isinstance(nested, dict):
        raise BabelclipError(
            f"{folder} has no {PREPROCESSOR}, which says how pictures become input, and it cannot be guessed. Copy it "
            'from the model\'s origin, or load the text tower alone with towers="text".'
        )
    return nested


def scalar(tensors: Tensors, name: str) -> float:
    """Returns the one number that a checkpoint stores under `name`.

    Raises:
        BabelclipError: it is missing or not one number.
    """
    stored = tensors.get(name)
    if stored is None or stored.numel() != 1:
        given = "is missing" if stored is None else f"is {tuple(stored.shape)}"
        raise BabelclipError(
            f"{tensors.path}: {name} {given}; one number is expected. Copy the checkpoint again from its origin."
        )
    return float(stored.to(torch.float64))


def logit_scale(tensors: Tensors) -> float:
    """Returns exp of the stored `logit_scale`: the factor on cosines. Neither clamped nor rounded.

    Raises:
        BabelclipError: it is missing, not one number, or has no exponential, as after a training that diverged.
    """
    stored = scalar(tensors, "logit_scale")
    if not stored < _LARGEST_LOGARITHM:  # nor is NaN
        raise BabelclipError(
            f"{tensors.path}: logit_scale is {stored}; it is the logarithm of a factor such as 100. The training has "
            "diverged or the file is damaged: take an earlier checkpoint, or copy it again from its origin."
        )
    return math.exp(stored)


def wanted(names: list[str], towers: str) -> list[str]:
    """Returns which of a repository's files a load of `towers` reads. Both towers lie in the same weight files."""
    chosen = [CONFIG, *weight_files(names)]
    if towers != "image":
        chosen += tokenizer_files.wanted(names)
    if towers != "text":
        chosen += [PREPROCESSOR] if PREPROCESSOR in names else [PROCESSOR]
    return [name for name in chosen if name in names]
