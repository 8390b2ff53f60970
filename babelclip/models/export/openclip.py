"""A bundle for open_clip: `create_model_from_pretrained("local-dir:FOLDER")`.

    open_clip_config.json           {"model_cfg": ..., "preprocess_cfg": ...}
    open_clip_model.safetensors     both towers and the logit scale
    tokenizer.json, tokenizer_config.json
    config.json                     of the text encoder, where it is one of transformers

open_clip builds a text encoder of transformers from the config that `text_cfg.hf_model_name` names, and takes that for
a path from where the program runs, never from the bundle. So the folder's absolute path stands there: the bundle loads
without a network as long as it stays where it was exported to. Reading it by babelclip needs no path.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from babelclip.errors import BabelclipError
from babelclip.files import atomic_folder, write_json
from babelclip.models.checkpoints.build import read_config
from babelclip.models.checkpoints.openclip import CONFIG
from babelclip.models.clip import Clip
from babelclip.models.export import openclip_blocks as blocks
from babelclip.models.export.pictures import open_clip_preprocess
from babelclip.models.export.readme import write_readme
from babelclip.models.export.stored import (
    backbone_config,
    chosen_towers,
    model_type,
    save_weights,
    stored,
    warn_of,
)
from babelclip.models.export.tokenizers import is_english_clip, write_tokenizer
from babelclip.models.image import ImageEncoder
from babelclip.models.text import TextEncoder

_HF_TYPES = ("roberta", "xlm-roberta", "bert", "m2m_100")
_POOLERS = {"mean": "mean_pooler", "cls": "cls_last_hidden_state_pooler", "pooler": "cls_pooler"}
_CLEANINGS = ("whitespace", "lower", "canonicalize")
_FTFY = (
    "open_clip repairs every text with ftfy and resolves HTML entities before its tokenizer; this model's texts were "
    "not cleaned so. Full-width and half-width forms, ligatures, curly quotes and entities get other tokens there."
)


def export_openclip(
    clip: Clip,
    folder: Path | str,
    *,
    dtype: str = "float32",
    towers: str = "both",
    hf_model_name: str | None = None,
    timm_model_name: str | None = None,
) -> Path:
    """Writes `clip` to `folder` as an open_clip bundle, replacing it whole, and returns the folder.

    Args:
        clip: the model; open_clip has no model of one tower.
        folder: where it goes, with a README.md that says how to load it and what it does otherwise.
        dtype: in which weights are stored: "float32" or "float16".
        towers: "both".
        hf_model_name: where open_clip finds the config of a transformers text encoder: a path, or a hub repository
            for a bundle that is to be uploaded. None is the absolute path of `folder`.
        timm_model_name: the trunk by which timm builds a SigLIP picture tower; None finds it by its sizes.

    Raises:
        BabelclipError: a tower or the logit scale is absent, or open_clip has no place for a backbone, pooling, head
            or preprocessing; it says which.
    """
    text, image = chosen_towers(clip, towers)
    if text is None or image is None or clip.logit_scale is None:
        lacks = "a tower" if text is None or image is None else "the logit scale"
        raise BabelclipError(
            f"open_clip's models have both towers and a logit scale, and {lacks} is not here. Load the model with "
            "towers='both', or join the towers of two models by `babelclip.pair`."
        )
    folder = Path(folder)
    with atomic_folder(folder) as temporary:
        name = hf_model_name or str(folder.resolve())
        model_cfg, tensors, notes = _model(text, image, temporary, name, timm_model_name)
        preprocess_cfg, differences = open_clip_preprocess(image.preprocess)
        notes += differences
        # Single numbers stay float32: half precision moves the scale of CLIP by 0.01.
        scalars = {"logit_scale": torch.tensor(math.log(clip.logit_scale))}
        if clip.logit_bias is not None:
            model_cfg["init_logit_bias"] = clip.logit_bias
            scalars["logit_bias"] = torch.tensor(clip.logit_bias)
        config = {"model_cfg": {"embed_dim": clip.embed_dim, **model_cfg}, "preprocess_cfg": preprocess_cfg}
        write_json(temporary / CONFIG, config)
        save_weights({**stored(tensors, dtype), **scalars}, temporary / "open_clip_model.safetensors")
        write_readme(
            temporary,
            clip,
            target="open_clip 3.3",
            dtype=dtype,
            towers=["text", "image"],
            loads=_example(folder.name),
            notes=notes,
        )
    warn_of(notes, "open_clip")
    return folder


def placed(folder: Path, was: Path) -> None:
    """Sets the paths in a bundle that was written to `was` and has since been moved to `folder`."""
    path = folder / CONFIG
    content = read_config(path)
    text_cfg = content["model_cfg"]["text_cfg"]
    for key in ("hf_model_name", "hf_tokenizer_name"):
        if text_cfg.get(key) == str(was.resolve()):
            text_cfg[key] = str(folder.resolve())
    write_json(path, content)


def _model(
    text: TextEncoder, image: ImageEncoder, folder: Path, name: str, timm_model_name: str | None
) -> tuple[dict[str, Any], dict[str, torch.Tensor], list[str]]:
    """Returns `model_cfg`, all weights and notes; writes the text encoder's files."""
    vision, tensors = _image(image, timm_model_name)
    kind = model_type(text)
    model_cfg: dict[str, Any] = {}
    activations = [_activation(image)]
    if kind in blocks.CLIP_TEXT_TYPES:
        text_cfg, text_tensors = blocks.clip_text(text)
        notes = _native_tokenizer(text, folder, text_cfg, name)
        activations.append(_activation(text))
    elif kind == "siglip_text_model":
        text_cfg, text_tensors = blocks.siglip_text(text, "text.")
        notes = _hf_tokenizer(text, folder, text_cfg, name)
        model_cfg["custom_text"] = True
    elif kind in _HF_TYPES:
        text_cfg, text_tensors, notes = _hf_text(text, folder, name)
    else:
        raise BabelclipError(
            f"The text tower's backbone is {kind}; open_clip 3.3 has its own CLIP and SigLIP, and of transformers "
            f"{', '.join(_HF_TYPES)}. Export to sentence-transformers or onnx."
        )
    told = {activation for activation in activations if activation is not None}
    if len(told) > 1:
        raise BabelclipError(
            "One tower has quick_gelu and the other gelu; open_clip has one activation for both. Export to "
            "sentence-transformers or onnx, or save the model in babelclip's own format."
        )
    if True in told:
        model_cfg["quick_gelu"] = True
    return {**model_cfg, "vision_cfg": vision, "text_cfg": text_cfg}, tensors | text_tensors, notes


def _activation(tower: TextEncoder | ImageEncoder) -> bool | None:
    """Returns whether a native transformer has quick_gelu; None where open_clip does not ask."""
    kind = model_type(tower)
    if kind not in (*blocks.VIT_TYPES, *blocks.CLIP_TEXT_TYPES):
        return None
    config: Any = tower.backbone.config
    return bool(config.hidden_act == "quick_gelu")


def _image(image: ImageEncoder, timm_model_name: str | None) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    kind = model_type(image)
    if kind in blocks.VIT_TYPES:
        return blocks.vit(image)
    if kind == "siglip_vision_model":
        return blocks.trunk(image, timm_model_name)
    if kind == "ClipResNet":
        return blocks.resnet(image)
    raise BabelclipError(
        f"The picture tower's backbone is {kind}; open_clip bundles are written for {', '.join(blocks.VIT_TYPES)}, "
        "siglip_vision_model and OpenAI's ResNets. Export to onnx, or save the model in babelclip's own format."
    )


def _native_tokenizer(text: TextEncoder, folder: Path, text_cfg: dict[str, Any], name: str) -> list[str]:
    """Completes `text_cfg` by the tokenizer's part and writes its files."""
    tokenizer = text.tokenizer
    if is_english_clip(tokenizer):
        # open_clip carries this tokenizer; the files are for babelclip.
        write_tokenizer(tokenizer, folder, cleans=False)
        return [] if tokenizer.cleaning == "lower" else [_FTFY]
    end = tokenizer.eos_id if tokenizer.eos_id is not None else tokenizer([""])[0][-1]
    text_cfg |= {"pool_type": "eos", "eos_id": end}
    return _hf_tokenizer(text, folder, text_cfg, name)


def _hf_tokenizer(text: TextEncoder, folder: Path, text_cfg: dict[str, Any], name: str) -> list[str]:
    tokenizer = text.tokenizer
    native = tokenizer.cleaning in _CLEANINGS
    notes = write_tokenizer(tokenizer, folder, cleans=not native)
    # A bundle's own files are read whatever stands here; it says that they are of transformers' kind.
    text_cfg["hf_tokenizer_name"] = name
    if native and tokenizer.cleaning != "whitespace":
        text_cfg["tokenizer_kwargs"] = {"clean": tokenizer.cleaning}
    return notes if native else [*notes, _FTFY]


def _hf_text(text: TextEncoder, folder: Path, name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor], list[str]]:
    """Returns `text_cfg`, weights and notes of a transformers encoder; writes its config and tokenizer."""
    kind = model_type(text)
    pooler = "cls_pooler" if kind == "m2m_100" and text.pooling == "cls" else _POOLERS.get(text.pooling)
    if pooler is None:
        raise BabelclipError(
            f"The text tower pools by {text.pooling!r}; open_clip 3.3 pools by {', '.join(_POOLERS)} (its max also "
            "reads the padding). Export to sentence-transformers or onnx."
        )
    config = backbone_config(text.backbone)
    if config["pad_token_id"] != text.tokenizer.pad_id:
        raise BabelclipError(
            f"The tokenizer pads with id {text.tokenizer.pad_id} and the backbone's config says "
            f"{config['pad_token_id']}; open_clip masks what equals the latter. Set both alike before the export."
        )
    write_json(folder / "config.json", config)
    text_cfg: dict[str, Any] = {
        "hf_model_name": name,
        # Its weights are in the bundle; open_clip would look for others where the caller gives a text_cfg.
        "hf_model_pretrained": False,
        "hf_pooler_type": pooler,
        "hf_proj_type": _projection(text),
        "context_length": text.tokenizer.max_length,
        "vocab_size": config["vocab_size"],
    }
    notes = _hf_tokenizer(text, folder, text_cfg, name)
    tensors = {f"text.transformer.{key}": tensor for key, tensor in text.backbone.state_dict().items()}
    # One linear layer is `proj` itself; of the MLP the layers are counted, the activation in the middle too.
    for key, tensor in text.head.state_dict().items():
        part = key.removeprefix("0.") if text_cfg["hf_proj_type"] == "linear" else key
        tensors[f"text.proj.{part}"] = tensor
    return text_cfg, tensors, notes


def _projection(text: TextEncoder) -> str | None:
    layers = text.head_layers
    kinds = [layer["kind"] for layer in layers]
    plain = [layer for layer in layers if layer["kind"] == "linear"]
    if not layers:
        return None
    if blocks.without_bias(plain) == len(plain):
        if kinds == ["linear"]:
            return "linear"
        if kinds == ["linear", "gelu", "linear"] and layers[0]["out"] == (text.width + text.embed_dim) // 2:
            return "mlp"
    raise BabelclipError(
        f"The head of the text tower is {layers}; open_clip has, behind a transformers encoder, one linear layer "
        f"without bias, or two with {(text.width + text.embed_dim) // 2} between them and gelu. Export to "
        "sentence-transformers, mclip or onnx."
    )


def _example(name: str) -> str:
    return f"""
import open_clip

model, preprocess = open_clip.create_model_from_pretrained("local-dir:{name}")
model.eval()  # open_clip leaves a text encoder of transformers and a ResNet in training mode
tokenizer = open_clip.get_tokenizer("local-dir:{name}")
vectors = model.encode_text(tokenizer(["två hundar i snön"]))

# After the folder was moved, and for a text encoder of transformers: say where its config.json is now.
# import json
# config = json.load(open("{name}/open_clip_config.json"))["model_cfg"]
# text_cfg = {{**config["text_cfg"], "hf_model_name": "{name}"}}
# model, preprocess = open_clip.create_model_from_pretrained("local-dir:{name}", text_cfg=text_cfg)
"""
