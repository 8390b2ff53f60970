r"""The picture towers of open_clip checkpoints: its own ViT, OpenAI's ResNets, and the SigLIP trunks of timm.

visual.transformer.*    native ViT        -> transformers' `clip_vision_model` + projection
visual.layer1.* ...     ModifiedResNet    -> `models/resnet.py` + projection
visual.trunk.*          vit_*_siglip_*    -> transformers' `siglip_vision_model`
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints.build import image_tower
from babelclip.models.checkpoints.files.preprocess_files import preprocess_from_open_clip
from babelclip.models.checkpoints.files.tensors import Tensors
from babelclip.models.checkpoints.keymap import Rule, Weights, convert
from babelclip.models.checkpoints.openclip_native import (
    ALWAYS_LEFT_OUT,
    TEXT_NAMES,
    block_config,
    block_rules,
    check_keys,
    check_layers,
    not_readable,
)
from babelclip.models.image import ImageEncoder
from babelclip.models.preprocess import Preprocess

_KNOWN = (*ALWAYS_LEFT_OUT, *TEXT_NAMES)
_VIT_RULES = (
    Rule(r"visual\.class_embedding", "backbone.embeddings.class_embedding"),
    Rule(r"visual\.positional_embedding", "backbone.embeddings.position_embedding.weight"),
    Rule(r"visual\.conv1\.weight", "backbone.embeddings.patch_embedding.weight"),
    Rule(r"visual\.ln_pre\.(weight|bias)", r"backbone.pre_layrnorm.\1"),
    Rule(r"visual\.ln_post\.(weight|bias)", r"backbone.post_layernorm.\1"),
    Rule(r"visual\.proj", "head.0.weight", "transpose"),
    *block_rules(r"visual\.transformer"),
)
_RESNET_RULES = (
    Rule(r"visual\.attnpool\.c_proj\.(weight|bias)", r"head.0.\1"),
    Rule(r"visual\.(.+)", r"backbone.\1"),
)
_TRUNK, _LAYER = r"visual\.trunk\.", r"backbone.encoder.layers.\1."
_TRUNK_RULES = (
    Rule(_TRUNK + r"patch_embed\.proj\.(weight|bias)", r"backbone.embeddings.patch_embedding.\1"),
    Rule(_TRUNK + "pos_embed", "backbone.embeddings.position_embedding.weight"),
    Rule(_TRUNK + r"blocks\.(\d+)\.norm([12])\.(weight|bias)", _LAYER + r"layer_norm\2.\3"),
    Rule(
        _TRUNK + r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)",
        tuple(f"{_LAYER}self_attn.{part}_proj.\\2" for part in "qkv"),
        "split",
    ),
    Rule(_TRUNK + r"blocks\.(\d+)\.attn\.proj\.(weight|bias)", _LAYER + r"self_attn.out_proj.\2"),
    Rule(_TRUNK + r"blocks\.(\d+)\.mlp\.(fc[12])\.(weight|bias)", _LAYER + r"mlp.\2.\3"),
    Rule(_TRUNK + r"norm\.(weight|bias)", r"backbone.post_layernorm.\1"),
    Rule(_TRUNK + r"attn_pool\.latent", "backbone.head.probe"),
    # Query and key-value lie apart in timm and as one tensor in transformers: `_joined` puts them together.
    Rule(_TRUNK + r"attn_pool\.(q|kv)\.(weight|bias)", r"\1.\2"),
    Rule(_TRUNK + r"attn_pool\.proj\.(weight|bias)", r"backbone.head.attention.out_proj.\1"),
    Rule(_TRUNK + r"attn_pool\.norm\.(weight|bias)", r"backbone.head.layernorm.\1"),
    Rule(_TRUNK + r"attn_pool\.mlp\.(fc[12])\.(weight|bias)", r"backbone.head.mlp.\1.\2"),
)
# Heads and activation show in no tensor: in timm 1.0.31 they belong to the trunk's name.
_TRUNK_NAME = re.compile(r"vit_(base|large|so400m|giantopt)_patch\d+_siglip_\d+")
_TRUNK_HEADS = {"base": 12, "large": 16, "so400m": 16, "giantopt": 16}
_TANH_TRUNKS = frozenset(
    f"vit_{name}"
    for name in (
        "base_patch32_siglip_256", "large_patch16_siglip_512", "so400m_patch16_siglip_256",
        "so400m_patch16_siglip_384", "so400m_patch16_siglip_512", "giantopt_patch16_siglip_256",
        "giantopt_patch16_siglip_384",
    )
)  # fmt: skip
_TRUNK_EPS = 1e-6
# Keys that act in training alone.
_TRAINING = ("patch_dropout", "timm_model_pretrained", "timm_drop", "timm_drop_path")


def read_image(
    model_cfg: Mapping[str, Any], preprocess_cfg: Mapping[str, Any], tensors: Tensors, path: Path
) -> ImageEncoder:
    """Returns the picture tower of an open_clip checkpoint.

    Args:
        model_cfg: open_clip's description of the model.
        preprocess_cfg: its description of the preprocessing; the tower's `image_size` is the size.
        tensors: the checkpoint; only names below `visual.` are read.
        path: the config's file, for messages.

    Raises:
        BabelclipError: no class here builds the tower, or weights are missing, left over or of another shape.
    """
    vision = model_cfg["vision_cfg"]
    preprocess = preprocess_from_open_clip({**preprocess_cfg, "size": vision.get("image_size", 224)})
    if vision.get("timm_model_name"):
        return _trunk(vision, preprocess, tensors, path)
    if isinstance(vision.get("layers"), (list, tuple)):
        return _resnet(model_cfg, vision, preprocess, tensors, path)
    return _vit(model_cfg, vision, preprocess, tensors, path)


def _vit(
    model_cfg: Mapping[str, Any], vision: Mapping[str, Any], preprocess: Preprocess, tensors: Tensors, path: Path
) -> ImageEncoder:
    check_keys(
        vision,
        path,
        "vision_cfg",
        # With the class token pooled, it is one whether the last norm comes before or after the pooling.
        read=("image_size", "patch_size", "head_width", "final_ln_after_pool", *_TRAINING),
        only={
            "no_ln_pre": (False,),
            "attentional_pool": (False,),
            "pos_embed_type": ("learnable",),
            "pool_type": ("tok",),
            "timm_model_name": (None, ""),
        },
    )
    config = block_config(vision, bool(model_cfg.get("quick_gelu")), path, width=768)
    backbone = {
        "model_type": "clip_vision_model",
        **config,
        "num_attention_heads": config["hidden_size"] // int(vision.get("head_width", 64)),
        "image_size": preprocess.crop,
        "patch_size": int(vision.get("patch_size", 16)),
    }
    head = [{"kind": "linear", "out": int(model_cfg["embed_dim"]), "bias": False}]
    return image_tower(backbone, head=head, preprocess=preprocess, weights=convert(tensors, _VIT_RULES, known=_KNOWN))


def _resnet(
    model_cfg: Mapping[str, Any], vision: Mapping[str, Any], preprocess: Preprocess, tensors: Tensors, path: Path
) -> ImageEncoder:
    check_keys(
        vision,
        path,
        "vision_cfg",
        read=("image_size", "head_width", "patch_size", *_TRAINING),
        only={"timm_model_name": (None, "")},
    )
    if len(vision["layers"]) != 4:
        raise not_readable(path, f"a ResNet with layers {vision['layers']}", "four stages")
    layers = [int(blocks) for blocks in vision["layers"]]
    for blocks in layers:
        check_layers(blocks, path)
    backbone = {
        "model_type": "clip_resnet",
        "layers": layers,
        "width": int(vision.get("width", 64)),
        "image_size": preprocess.crop,
        "head_width": int(vision.get("head_width", 64)),
    }
    head = [{"kind": "linear", "out": int(model_cfg["embed_dim"])}]
    weights = convert(tensors, _RESNET_RULES, known=_KNOWN)
    return image_tower(backbone, head=head, preprocess=preprocess, weights=weights)


def _trunk(vision: Mapping[str, Any], preprocess: Preprocess, tensors: Tensors, path: Path) -> ImageEncoder:
    name = str(vision["timm_model_name"])
    match = _TRUNK_NAME.fullmatch(name)
    if match is None or vision.get("timm_pool", "avg") != "map" or vision.get("timm_proj", "linear") != "none":
        pooling = f"timm_pool {vision.get('timm_pool', 'avg')!r}, timm_proj {vision.get('timm_proj', 'linear')!r}"
        raise not_readable(
            path,
            f"the timm trunk {name!r} ({pooling})",
            'vit_{base,large,so400m,giantopt}_patchN_siglip_N with timm_pool "map" and timm_proj "none", open_clip\'s '
            "own ViT, and OpenAI's ResNets",
        )
    check_keys(
        vision,
        path,
        "vision_cfg",
        read=("image_size", "timm_model_name", "timm_pool", "timm_proj", *_TRAINING),
        only={"timm_proj_bias": (False,)},
    )
    weights = _joined(convert(tensors, _TRUNK_RULES, known=_KNOWN))
    width, _, patch, _ = _shape(weights, "backbone.embeddings.patch_embedding.weight", 4)
    layers = {name.split(".")[3] for name in weights if name.startswith("backbone.encoder.layers.")}
    backbone = {
        "model_type": "siglip_vision_model",
        "hidden_size": width,
        "num_hidden_layers": len(layers),
        "num_attention_heads": _TRUNK_HEADS[match[1]],
        "intermediate_size": _shape(weights, "backbone.encoder.layers.0.mlp.fc1.weight", 2)[0],
        "image_size": preprocess.crop,
        "patch_size": patch,
        "hidden_act": "gelu_pytorch_tanh" if name in _TANH_TRUNKS else "gelu",
        "layer_norm_eps": _TRUNK_EPS,
    }
    return image_tower(backbone, head=[], preprocess=preprocess, weights=weights)


def _joined(weights: Weights) -> Weights:
    """Returns the weights of a timm trunk with the shapes and the one tensor of three that transformers has."""
    position = weights.get("backbone.embeddings.position_embedding.weight")
    if position is not None and position.ndim == 3:
        weights["backbone.embeddings.position_embedding.weight"] = position.flatten(0, 1)
    for kind in ("weight", "bias"):
        if f"q.{kind}" in weights and f"kv.{kind}" in weights:
            target = f"backbone.head.attention.in_proj_{kind}"
            query, rest = weights.pop(f"q.{kind}"), weights.pop(f"kv.{kind}")
            if query.shape[1:] != rest.shape[1:]:
                raise BabelclipError(
                    f"{weights.path}: {weights.origin[f'q.{kind}']} is {tuple(query.shape)} and "
                    f"{weights.origin[f'kv.{kind}']} is {tuple(rest.shape)}; their rows must have one width. "
                    "Copy the checkpoint again from its origin."
                )
            weights[target] = torch.cat([query, rest])
            weights.origin[target] = weights.origin[f"kv.{kind}"]
    return weights


def _shape(weights: Weights, name: str, dimensions: int) -> torch.Size:
    tensor = weights.get(name)
    if tensor is None or tensor.ndim != dimensions:
        given = "is missing" if tensor is None else f"is {tuple(tensor.shape)}"
        raise BabelclipError(
            f"{weights.path}: {weights.origin.get(name, name)} {given}; {dimensions} dimensions are expected there, "
            "which tell the size of the tower. Copy the checkpoint again from its origin."
        )
    return tensor.shape
