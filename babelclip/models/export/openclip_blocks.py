"""The towers of open_clip's own networks: their part of `model_cfg`, and their weights under its names.

The inverse of `checkpoints/openclip_text.py` and `checkpoints/openclip_image.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from babelclip.errors import BabelclipError
from babelclip.models.export.stored import model_type
from babelclip.models.head import LayerSpec
from babelclip.models.image import ImageEncoder
from babelclip.models.text import TextEncoder

Tensors = dict[str, torch.Tensor]
VIT_TYPES = ("clip_vision_model", "metaclip_2_vision_model")
CLIP_TEXT_TYPES = ("clip_text_model", "metaclip_2_text_model")
_EPS = 1e-5
# timm's SigLIP trunks by width and patch size. Each name stands for one activation, and for the sizes of `_SIZES`.
_TRUNKS = {
    (768, 16, "gelu"): "vit_base_patch16_siglip_224",
    (768, 32, "gelu_pytorch_tanh"): "vit_base_patch32_siglip_256",
    (1024, 16, "gelu"): "vit_large_patch16_siglip_256",
    (1024, 16, "gelu_pytorch_tanh"): "vit_large_patch16_siglip_512",
    (1152, 14, "gelu"): "vit_so400m_patch14_siglip_224",
    (1152, 16, "gelu_pytorch_tanh"): "vit_so400m_patch16_siglip_256",
    (1536, 16, "gelu_pytorch_tanh"): "vit_giantopt_patch16_siglip_256",
}
# Layers, heads and inner width by the width. timm builds them by the name alone, and heads show in no tensor.
_SIZES = {768: (12, 12, 3072), 1024: (24, 16, 4096), 1152: (27, 16, 4304), 1536: (40, 16, 6144)}


def vit(image: ImageEncoder) -> tuple[dict[str, Any], Tensors]:
    """Returns `vision_cfg` and weights of a CLIP vision transformer with one projection without bias."""
    config: Any = image.backbone.config
    _refuse_head(image.head_layers, "picture", without_bias(image.head_layers) == 1, "one linear layer without bias")
    state = image.state_dict()
    described = {
        **_described(config),
        "head_width": config.hidden_size // config.num_attention_heads,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
    }
    tensors = {
        "visual.class_embedding": state["backbone.embeddings.class_embedding"],
        "visual.positional_embedding": state["backbone.embeddings.position_embedding.weight"],
        "visual.conv1.weight": state["backbone.embeddings.patch_embedding.weight"],
        "visual.proj": state["head.0.weight"].T,
        **_blocks(state, "visual.transformer", config.num_hidden_layers),
    }
    for theirs, ours in (("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm")):
        tensors |= {f"visual.{theirs}.{part}": state[f"backbone.{ours}.{part}"] for part in ("weight", "bias")}
    return described, tensors


def resnet(image: ImageEncoder) -> tuple[dict[str, Any], Tensors]:
    """Returns `vision_cfg` and weights of OpenAI's ResNet, whose pooling ends with the projection."""
    config: Any = image.backbone.config
    fits = [(layer["kind"], layer.get("bias", True)) for layer in image.head_layers] == [("linear", True)]
    _refuse_head(image.head_layers, "picture", fits, "one linear layer with bias")
    described = {
        "image_size": config.image_size,
        "layers": list(config.layers),
        "width": config.width,
        "head_width": config.head_width,
        "patch_size": None,
    }
    tensors = {f"visual.{name}": tensor for name, tensor in image.backbone.state_dict().items()}
    tensors |= {f"visual.attnpool.c_proj.{name}": tensor for name, tensor in image.head[0].state_dict().items()}
    return described, tensors


def trunk(image: ImageEncoder, name: str | None = None) -> tuple[dict[str, Any], Tensors]:
    """Returns `vision_cfg` and weights of SigLIP's picture tower, which timm builds; `name` is the trunk's.

    Raises:
        BabelclipError: timm has no trunk of this width and patch size, or the tower has a head of its own.
    """
    config: Any = image.backbone.config
    _refuse_head(image.head_layers, "picture", not image.head_layers, "none")
    state = image.backbone.state_dict()
    described = {
        "image_size": config.image_size,
        "timm_model_name": name or _trunk_name(config),
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    }
    query, rest = {}, {}
    for part in ("weight", "bias"):
        joined = state[f"head.attention.in_proj_{part}"]
        query[f"q.{part}"], rest[f"kv.{part}"] = joined[: config.hidden_size], joined[config.hidden_size :]
    position = state["embeddings.position_embedding.weight"]
    tensors = {"pos_embed": position[None], "attn_pool.latent": state["head.probe"]}
    tensors |= {f"attn_pool.{name}": tensor for name, tensor in (query | rest).items()}
    names = {
        "patch_embed.proj": "embeddings.patch_embedding", "norm": "post_layernorm",
        "attn_pool.proj": "head.attention.out_proj", "attn_pool.norm": "head.layernorm",
        "attn_pool.mlp.fc1": "head.mlp.fc1", "attn_pool.mlp.fc2": "head.mlp.fc2",
    }  # fmt: skip
    for layer in range(config.num_hidden_layers):
        theirs, ours = f"blocks.{layer}", f"encoder.layers.{layer}"
        names |= {
            f"{theirs}.norm1": f"{ours}.layer_norm1", f"{theirs}.norm2": f"{ours}.layer_norm2",
            f"{theirs}.attn.proj": f"{ours}.self_attn.out_proj",
            f"{theirs}.mlp.fc1": f"{ours}.mlp.fc1", f"{theirs}.mlp.fc2": f"{ours}.mlp.fc2",
        }  # fmt: skip
        for part in ("weight", "bias"):
            parts = [state[f"{ours}.self_attn.{letter}_proj.{part}"] for letter in "qkv"]
            tensors[f"{theirs}.attn.qkv.{part}"] = torch.cat(parts)
    tensors |= {f"{to}.{part}": state[f"{name}.{part}"] for to, name in names.items() for part in ("weight", "bias")}
    return described, {f"visual.trunk.{name}": tensor for name, tensor in tensors.items()}


def clip_text(text: TextEncoder) -> tuple[dict[str, Any], Tensors]:
    """Returns `text_cfg` (without the tokenizer's part) and weights of a causal text tower pooled at the end of text.

    Raises:
        BabelclipError: another pooling, or a head that is not one linear layer.
    """
    if text.pooling != "eos":
        raise BabelclipError(
            f"The text tower is a {model_type(text)} pooled by {text.pooling!r}; open_clip pools such a tower at the "
            "end of text. Export to onnx, or save the model in babelclip's own format."
        )
    described, tensors = _native_text(text, "")
    layers = [layer["kind"] for layer in text.head_layers]
    _refuse_head(text.head_layers, "text", layers in ([], ["linear"]), "one linear layer, or none at one width")
    head = text.head.state_dict()
    if not layers:
        described["proj_type"] = "none"
    elif "0.bias" in head:
        described["proj_bias"] = True
        tensors |= {f"text_projection.{part}": head[f"0.{part}"] for part in ("weight", "bias")}
    else:
        tensors["text_projection"] = head["0.weight"].T
    return described, tensors


def siglip_text(text: TextEncoder, prefix: str) -> tuple[dict[str, Any], Tensors]:
    """Returns `text_cfg` (without the tokenizer's part) and weights of SigLIP's text tower."""
    _refuse_head(text.head_layers, "text", not text.head_layers, "none beside its own projection")
    described, tensors = _native_text(text, prefix)
    described |= {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}
    state = text.backbone.state_dict()
    tensors |= {f"{prefix}text_projection.{part}": state[f"head.{part}"] for part in ("weight", "bias")}
    return described, tensors


def without_bias(layers: list[LayerSpec]) -> int:
    """Returns how many layers a head has where all are linear without bias, else -1."""
    plain = all(layer["kind"] == "linear" and not layer.get("bias", True) for layer in layers)
    return len(layers) if plain else -1


def _native_text(text: TextEncoder, prefix: str) -> tuple[dict[str, Any], Tensors]:
    config: Any = text.backbone.config
    state = text.state_dict()
    described = {
        **_described(config),
        "heads": config.num_attention_heads,
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
    }
    tensors = {
        f"{prefix}token_embedding.weight": state["backbone.embeddings.token_embedding.weight"],
        f"{prefix}positional_embedding": state["backbone.embeddings.position_embedding.weight"],
        **_blocks(state, f"{prefix}transformer", config.num_hidden_layers),
    }
    for part in ("weight", "bias"):
        tensors[f"{prefix}ln_final.{part}"] = state[f"backbone.final_layer_norm.{part}"]
    return described, tensors


def _described(config: Any) -> dict[str, Any]:
    """Returns the keys that both kinds of towers have; what is open_clip's default is left out."""
    width, inner = config.hidden_size, config.intermediate_size
    ratio = inner / width
    if int(width * ratio) != inner:  # open_clip rounds down
        ratio = (inner + 0.5) / width
    described: dict[str, Any] = {"width": width, "layers": config.num_hidden_layers, "mlp_ratio": ratio}
    if config.hidden_act == "gelu_pytorch_tanh":
        described["act_kwargs"] = {"approximate": "tanh"}
    elif config.hidden_act not in ("gelu", "quick_gelu"):
        raise BabelclipError(
            f"A tower has the activation {config.hidden_act!r}; open_clip builds gelu, its tanh form, and quick_gelu. "
            "Export to onnx, or save the model in babelclip's own format."
        )
    if config.layer_norm_eps != _EPS:
        described["norm_kwargs"] = {"eps": config.layer_norm_eps}
    return described


def _blocks(state: Mapping[str, torch.Tensor], target: str, layers: int) -> Tensors:
    tensors: Tensors = {}
    for layer in range(layers):
        theirs, ours = f"{target}.resblocks.{layer}", f"backbone.encoder.layers.{layer}"
        for part in ("weight", "bias"):
            projections = [state[f"{ours}.self_attn.{letter}_proj.{part}"] for letter in "qkv"]
            tensors |= {
                f"{theirs}.attn.in_proj_{part}": torch.cat(projections),
                f"{theirs}.attn.out_proj.{part}": state[f"{ours}.self_attn.out_proj.{part}"],
                f"{theirs}.ln_1.{part}": state[f"{ours}.layer_norm1.{part}"],
                f"{theirs}.ln_2.{part}": state[f"{ours}.layer_norm2.{part}"],
                f"{theirs}.mlp.c_fc.{part}": state[f"{ours}.mlp.fc1.{part}"],
                f"{theirs}.mlp.c_proj.{part}": state[f"{ours}.mlp.fc2.{part}"],
            }
    return tensors


def _trunk_name(config: Any) -> str:
    key = (config.hidden_size, config.patch_size, config.hidden_act)
    sizes = (config.num_hidden_layers, config.num_attention_heads, config.intermediate_size)
    if key in _TRUNKS and sizes != _SIZES[config.hidden_size]:
        raise BabelclipError(
            f"The picture tower is a SigLIP {key[0]} wide of {sizes[0]} layers, {sizes[1]} heads and {sizes[2]} inner "
            f"dimensions; timm, by which open_clip builds it, has {_SIZES[config.hidden_size]} at that width. Export "
            "to onnx, or name the trunk by timm_model_name=."
        )
    if key not in _TRUNKS:
        known = "; ".join(f"{width} wide, patches of {patch}, {act}" for width, patch, act in _TRUNKS)
        raise BabelclipError(
            f"The picture tower is a SigLIP {key[0]} wide with patches of {key[1]} pixels and {key[2]}; timm, by which "
            f"open_clip builds it, has: {known}. Export to onnx, or name the trunk by timm_model_name=."
        )
    return _TRUNKS[key]


def _refuse_head(layers: list[LayerSpec], tower: str, fits: bool, allowed: str) -> None:
    if not fits:
        raise BabelclipError(
            f"The head of the {tower} tower is {layers}; open_clip has for such a tower: {allowed}. "
            "Export to sentence-transformers or onnx, or save the model in babelclip's own format."
        )
