"""babelclip's own checkpoint: a self-contained folder, described in docs/formats.md.

    config.json                  what to build: space, towers, pooling, head, preprocessing, languages, attribution
    text_encoder.safetensors     the text tower, head included
    tokenizer.json               its tokenizer
    image_encoder.safetensors    the picture tower, head included

One file a tower, so that loading one tower reads nothing of the other.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from babelclip.errors import BabelclipError, shown
from babelclip.files import atomic_folder, read_json, write_json
from babelclip.models.checkpoints.build import image_tower, text_tower
from babelclip.models.checkpoints.keymap import Weights
from babelclip.models.clip import Clip
from babelclip.models.image import ImageEncoder
from babelclip.models.preprocess import Preprocess
from babelclip.models.quantize import is_quantized
from babelclip.models.text import TextEncoder
from babelclip.models.tokenization import TextTokenizer

NAME = "native"
FORMAT = "babelclip"
VERSION = 1
TEXT_WEIGHTS = "text_encoder.safetensors"
IMAGE_WEIGHTS = "image_encoder.safetensors"
TOKENIZER = "tokenizer.json"
FILES = ("config.json", TOKENIZER, TEXT_WEIGHTS, IMAGE_WEIGHTS)
# What a tower's part of config.json holds. A value of another type would fail at the first text, far from its file.
_KINDS: dict[str, tuple[type, ...]] = {
    "backbone": (dict,), "head": (list,), "preprocess": (dict,), "pooling": (str,), "prefix": (str,),
    "cleaning": (str,), "max_length": (int,), "pad_id": (int,), "pad_to": (int, NoneType), "eos_id": (int, NoneType),
    "language": (str, NoneType), "token_head": (list, NoneType), "quantization": (dict, NoneType),
}  # fmt: skip
_LARGEST = 2**31


def recognises(folder: Path) -> bool:
    """Returns whether `folder` holds a checkpoint of this format, of any version."""
    path = folder / "config.json"
    if not path.is_file():
        return False
    config = read_json(path)
    return isinstance(config, dict) and config.get("format") == FORMAT


def wanted(names: list[str], towers: str) -> list[str]:
    """Returns the files of a hub repository that loading `towers` needs."""
    unwanted = {"text": (IMAGE_WEIGHTS,), "image": (TEXT_WEIGHTS, TOKENIZER)}.get(towers, ())
    return [name for name in names if name in FILES and name not in unwanted]


def save(clip: Clip, folder: Path) -> Path:
    """Writes `clip` to `folder`, replacing it whole, and returns the folder."""
    config: dict[str, Any] = {
        "format": FORMAT,
        "format_version": VERSION,
        "name": clip.name,
        "space": clip.space,
        "embed_dim": clip.embed_dim,
        "languages": list(clip.languages),
        "logit_scale": clip.logit_scale,
        "logit_bias": clip.logit_bias,
        "revision": clip.revision,
        "attribution": list(clip.attribution),
    }
    with atomic_folder(folder) as temporary:
        if clip.text is not None:
            config["text"] = _text_config(clip.text)
            if is_quantized(clip.text):
                config["text"]["quantization"] = {"dtype": "int8", **clip.fidelity.get("text", {})}
            (temporary / TOKENIZER).write_text(clip.text.tokenizer.to_json(), encoding="utf-8")
            _save_weights(clip.text, temporary / TEXT_WEIGHTS)
        if clip.image is not None:
            config["image"] = {
                "backbone": _backbone_config(clip.image.backbone),
                "head": clip.image.head_layers,
                "preprocess": clip.image.preprocess.to_dict(),
            }
            _save_weights(clip.image, temporary / IMAGE_WEIGHTS)
        write_json(temporary / "config.json", config)
    return folder


def load(folder: Path, towers: str) -> Clip:
    """Returns the model in `folder` with the towers asked for, on the CPU, in float32.

    Raises:
        BabelclipError: the version is newer, a tower is absent, or a file does not fit its config.
    """
    config = read_json(folder / "config.json")
    if config.get("format_version") != VERSION:
        raise BabelclipError(
            f"{folder} has format version {config.get('format_version')}; this babelclip reads version {VERSION}. "
            "Install the babelclip that wrote it, or a newer one."
        )
    try:
        for tower in ("text", "image"):
            _check_types(tower, config.get(tower, {}))
        if towers != "both" and towers not in config:
            raise BabelclipError(f"{folder} has no {towers} tower; it was saved without. Load it with towers='both'.")
        text = _load_text(folder, config["text"]) if towers != "image" and "text" in config else None
        image = _load_image(folder, config["image"]) if towers != "text" and "image" in config else None
        return Clip(
            space=config["space"],
            text=text,
            image=image,
            logit_scale=config["logit_scale"],
            logit_bias=config.get("logit_bias"),
            revision=config.get("revision", ""),
            languages=tuple(config["languages"]),
            name=config["name"],
            attribution=tuple(config["attribution"]),
            fidelity={"text": config["text"]["quantization"]} if text is not None and is_quantized(text) else {},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise BabelclipError(
            f"{folder}/config.json is incomplete or of wrong types ({type(error).__name__}: {error}). "
            "Save the model again, or copy the folder again from its origin."
        ) from error


def _check_types(tower: str, config: dict[str, Any]) -> None:
    for key, value in config.items():
        kinds = _KINDS.get(key, (object,))
        if isinstance(value, int) and int in kinds:
            fits = not isinstance(value, bool) and 0 <= value < _LARGEST
        else:
            fits = isinstance(value, kinds)
        if not fits:
            raise TypeError(f"{tower}.{key} is {shown(repr(value), 60)}")


def _text_config(text: TextEncoder) -> dict[str, Any]:
    return {
        "backbone": _backbone_config(text.backbone),
        "pooling": text.pooling,
        "head": text.head_layers,
        "max_length": text.tokenizer.max_length,
        "pad_id": text.tokenizer.pad_id,
        "prefix": text.tokenizer.prefix,
        "cleaning": text.tokenizer.cleaning,
        "pad_to": text.tokenizer.pad_to,
        "eos_id": text.tokenizer.eos_id,
        "language": text.tokenizer.language,
        "token_head": text.token_head_layers,
    }


def _backbone_config(backbone: nn.Module) -> dict[str, Any]:
    """Returns the config of a backbone without what changes from machine to machine (paths, versions)."""
    config: Any = backbone.config
    content = config.to_dict() if not hasattr(config, "to_diff_dict") else config.to_diff_dict()
    dropped = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")
    content = {key: value for key, value in content.items() if key not in dropped}
    # Through JSON once, so that what is built now equals what is built after loading (tuples become lists).
    return dict(json.loads(json.dumps({"model_type": getattr(config, "model_type", None), **content})))


def _load_text(folder: Path, config: dict[str, Any]) -> TextEncoder:
    # Settings that came later are absent from older folders and then take their defaults.
    names = ("max_length", "pad_id", "prefix", "cleaning", "pad_to", "eos_id", "language")
    tokenizer = TextTokenizer.from_file(folder / TOKENIZER, **{name: config[name] for name in names if name in config})
    return text_tower(
        config["backbone"],
        pooling=config["pooling"],
        head=config["head"],
        tokenizer=tokenizer,
        weights=Weights(folder / TEXT_WEIGHTS, read_weights(folder / TEXT_WEIGHTS)),
        token_head=config.get("token_head"),
        int8=_is_int8(folder, config.get("quantization")),
    )


def _is_int8(folder: Path, quantization: dict[str, Any] | None) -> bool:
    if quantization is not None and quantization["dtype"] != "int8":
        raise BabelclipError(
            f"{folder}/config.json says that the text tower is in {quantization['dtype']!r}; this babelclip reads int8 "
            "and plain weights. Install the babelclip that wrote it, or a newer one."
        )
    return quantization is not None


def _load_image(folder: Path, config: dict[str, Any]) -> ImageEncoder:
    return image_tower(
        config["backbone"],
        head=config["head"],
        preprocess=Preprocess.from_dict(config["preprocess"]),
        weights=Weights(folder / IMAGE_WEIGHTS, read_weights(folder / IMAGE_WEIGHTS)),
    )


def _save_weights(module: nn.Module, path: Path) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}, path)
    # safetensors creates files that only their owner may read; a model folder is made to be shared.
    path.chmod(0o644)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Returns the tensors of a safetensors file, memory-mapped.

    Raises:
        BabelclipError: the file is missing or damaged.
    """
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
        return tensors
    except FileNotFoundError as error:
        raise BabelclipError(f"{path} does not exist. Copy the model folder again from its origin.") from error
    except (SafetensorError, OSError) as error:
        raise BabelclipError(
            f"{path} is not a whole safetensors file ({error}). Copy it again from its origin."
        ) from error
