"""The text towers of open_clip checkpoints.

    transformer.* or text.transformer.resblocks.*    its own: causal and pooled at the end of text (CLIP, MetaCLIP 2) ->
                                                     transformers' `clip_text_model` + projection; or pooled at the
                                                     last of all positions, without mask (SigLIP) -> `siglip_text_model`
    text.transformer.*, text.proj.*                  a transformers encoder named by `hf_model_name` (XLM-R, NLLB)

open_clip pads every text to the context length. Where the padding is masked or comes behind all that is read, shorter
rows give the same vectors; SigLIP attends to it, so its rows are padded to the full length here as well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from babelclip.errors import BabelclipError, did_you_mean
from babelclip.models.checkpoints.build import read_config, text_tower
from babelclip.models.checkpoints.files.tensors import Tensors
from babelclip.models.checkpoints.keymap import Rule, Weights, convert
from babelclip.models.checkpoints.openclip_native import (
    ALWAYS_LEFT_OUT,
    IMAGE_NAMES,
    block_config,
    block_rules,
    check_keys,
    not_readable,
)
from babelclip.models.checkpoints.openclip_tokenizer import CONTEXT_LENGTH, read_clip_tokenizer, tokenizer_place
from babelclip.models.checkpoints.text_body import (
    BERT_TYPES,
    body_config,
    published_backbones,
    room,
    with_sizes_of,
)
from babelclip.models.text import TextEncoder
from babelclip.models.tokenization import TextTokenizer

_KNOWN = (*ALWAYS_LEFT_OUT, *IMAGE_NAMES)
_NATIVE_RULES = (
    Rule(r"(?:text\.)?token_embedding\.weight", "backbone.embeddings.token_embedding.weight"),
    Rule(r"(?:text\.)?positional_embedding", "backbone.embeddings.position_embedding.weight"),
    Rule(r"(?:text\.)?ln_final\.(weight|bias)", r"backbone.final_layer_norm.\1"),
    *block_rules(r"(?:text\.)?transformer"),
)
# Buffers that old versions saved: positions counted, zeros, and the sinus table of NLLB, which is computed.
_BUFFERS = (r"embeddings\.position_ids", r"embeddings\.token_type_ids", r"embed_positions\.weights")
_POOLER = r"pooler\.dense\.(?:weight|bias)"
_POOLERS = {"mean_pooler": "mean", "max_pooler": "max", "cls_last_hidden_state_pooler": "cls", "cls_pooler": "cls"}
_M2M_KEYS = (
    "model_type", "vocab_size", "d_model", "encoder_layers", "encoder_ffn_dim", "encoder_attention_heads",
    "activation_function", "scale_embedding", "max_position_embeddings", "pad_token_id", "dropout",
    "attention_dropout", "activation_dropout",
)  # fmt: skip
# Texts whose language is not told count as English, as open_clip's tokenizer has it.
_NLLB_LANGUAGE = "en"
_NATIVE_KEYS = ("heads", "pad_id", "eos_id", "no_causal_mask", "final_ln_after_pool", "pool_type", "proj_bias")
_HF_KEYS = ("hf_model_name", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type")
_TOKENIZER_KEYS = ("context_length", "vocab_size", "hf_tokenizer_name", "tokenizer_kwargs")


def read_text(
    folder: Path, model_cfg: Mapping[str, Any], tensors: Tensors, path: Path, tokenizer_folder: Path | None = None
) -> TextEncoder:
    """Returns the text tower of an open_clip checkpoint.

    Args:
        folder: holds the tokenizer's files (or its sub-folder `tokenizer`), and maybe a backbone's config.
        model_cfg: open_clip's description of the model.
        tensors: the checkpoint; names below `visual.` are not read.
        path: the config's file, for messages.
        tokenizer_folder: where the tokenizer's files lie, if not there.

    Raises:
        BabelclipError: no class here builds the tower, the tokenizer's files are missing, or weights are missing, left
            over or of another shape.
    """
    text = model_cfg["text_cfg"]
    source = _Source(folder, model_cfg, text, tensors, path, tokenizer_folder or tokenizer_place(folder))
    if text.get("hf_model_name"):
        return _transformers(source)
    only: dict[str, tuple[Any, ...]] = {
        "embed_cls": (False,),
        "tokenizer_mode": (None, ""),
        "proj_type": ("linear", "none"),
    }
    check_keys(text, path, "text_cfg", read=(*_NATIVE_KEYS, *_HF_KEYS, *_TOKENIZER_KEYS), only=only)
    pool_type, masked = text.get("pool_type", "argmax"), not text.get("no_causal_mask", False)
    if pool_type == "last" and not masked:
        return _siglip(source)
    if pool_type not in ("argmax", "eos") or not masked:
        raise not_readable(
            path,
            f"a text tower with pool_type {pool_type!r} {'with' if masked else 'without'} causal mask",
            '"argmax" or "eos" with the mask (CLIP, MetaCLIP 2), "last" without it (SigLIP)',
        )
    return _clip(source)


@dataclass(frozen=True)
class _Source:
    """One checkpoint: the arguments of `read_text`, and `text_cfg`."""

    folder: Path
    model_cfg: Mapping[str, Any]
    text: Mapping[str, Any]
    tensors: Tensors
    path: Path
    tokenizer_folder: Path

    @property
    def embed_dim(self) -> int:
        return int(self.model_cfg["embed_dim"])

    def native_config(self, model_type: str) -> dict[str, Any]:
        return {
            "model_type": model_type,
            **block_config(self.text, bool(self.model_cfg.get("quick_gelu")), self.path, width=512),
            "num_attention_heads": int(self.text.get("heads", 8)),
            "vocab_size": int(self.text.get("vocab_size", 49408)),
            "max_position_embeddings": int(self.text.get("context_length", CONTEXT_LENGTH)),
        }

    def tokenizer(self, vocab_size: int, **settings: Any) -> TextTokenizer:
        return read_clip_tokenizer(self.tokenizer_folder, self.text, self.path, vocab_size=vocab_size, **settings)


def _clip(source: _Source) -> TextEncoder:
    text, path = source.text, source.path
    rules, head = list(_NATIVE_RULES), []
    if text.get("proj_type", "linear") == "linear":
        head = [{"kind": "linear", "out": source.embed_dim, "bias": bool(text.get("proj_bias", False))}]
        rules += [
            Rule(r"(?:text\.)?text_projection", "head.0.weight", "transpose"),
            Rule(r"(?:text\.)?text_projection\.(weight|bias)", r"head.0.\1"),
        ]
    eos_id = None
    if text.get("hf_tokenizer_name"):
        if text.get("pool_type", "argmax") == "argmax":
            raise not_readable(
                path,
                f"pooling at the largest id with the tokenizer {text['hf_tokenizer_name']!r}",
                'pool_type "eos" with an eos_id, or "argmax" with the English tokenizer of CLIP',
            )
        eos_id = int(text.get("eos_id", 2))
    config = source.native_config("clip_text_model")
    tokenizer = source.tokenizer(config["vocab_size"], eos_id=eos_id)
    return text_tower(
        {**config, "eos_token_id": tokenizer.eos_id, "bos_token_id": None},
        pooling="eos",
        head=head,
        tokenizer=tokenizer,
        weights=convert(source.tensors, rules, known=_KNOWN),
    )


def _siglip(source: _Source) -> TextEncoder:
    rules = (
        *_NATIVE_RULES,
        Rule(r"(?:text\.)?text_projection", "backbone.head.weight", "transpose"),
        Rule(r"(?:text\.)?text_projection\.(weight|bias)", r"backbone.head.\1"),
    )
    weights = convert(source.tensors, rules, known=_KNOWN)
    config = source.native_config("siglip_text_model")
    _complete_projection(weights, source.text, source.embed_dim, config["hidden_size"], source.path)
    return text_tower(
        {**config, "projection_size": source.embed_dim, "eos_token_id": None, "bos_token_id": None},
        pooling="pooler",
        head=[],
        tokenizer=source.tokenizer(config["vocab_size"], pad_to=config["max_position_embeddings"]),
        weights=weights,
    )


def _complete_projection(weights: Weights, text: Mapping[str, Any], embed_dim: int, width: int, path: Path) -> None:
    """Adds what transformers' SigLIP always has: no projection is the identity, no bias is zero."""
    if text.get("proj_type", "linear") == "none":
        if embed_dim != width:
            raise not_readable(path, f"no text projection from {width} to {embed_dim} dimensions", "equal widths")
        weights["backbone.head.weight"] = torch.eye(width)
    if text.get("proj_type", "linear") == "none" or not text.get("proj_bias", False):
        weights["backbone.head.bias"] = torch.zeros(embed_dim)


def _transformers(source: _Source) -> TextEncoder:
    text, path = source.text, source.path
    only: dict[str, tuple[Any, ...]] = {"tokenizer_mode": (None, "")}
    # The sizes of open_clip's own transformer count for nothing here.
    unused = (*_NATIVE_KEYS, "embed_cls", "proj_type")
    check_keys(text, path, "text_cfg", read=(*_HF_KEYS, *_TOKENIZER_KEYS, *unused), only=only)
    config = _backbone(source.folder, str(text["hf_model_name"]), source.tensors, path)
    m2m = config["model_type"] == "m2m_100"
    pooler = str(text.get("hf_pooler_type", "mean_pooler"))
    if pooler not in _POOLERS:
        raise BabelclipError(f"{path}: hf_pooler_type {pooler!r} is not known. {did_you_mean(pooler, _POOLERS)}")
    # `cls_pooler` takes transformers' own pooler where the class has one.
    pooling = "pooler" if pooler == "cls_pooler" and not m2m else _POOLERS[pooler]
    body = r"text\.transformer\."
    left_out = _BUFFERS if pooling == "pooler" else (*_BUFFERS, _POOLER)
    rules = (
        Rule(rf"{body}(?!(?:{'|'.join(left_out)})$)(.+)", r"backbone.\1"),
        Rule(r"text\.proj\.weight", "head.0.weight"),
        Rule(r"text\.proj\.([02])\.weight", r"head.\1.weight"),
    )
    weights = convert(source.tensors, rules, known=(*_KNOWN, *(body + name for name in left_out)))
    width = int(config["d_model" if m2m else "hidden_size"])
    context = int(text.get("context_length", CONTEXT_LENGTH))
    return text_tower(
        config,
        pooling=pooling,
        head=_projection(text.get("hf_proj_type", "mlp"), width, source.embed_dim, path),
        tokenizer=source.tokenizer(
            int(config.get("vocab_size", 0)),
            max_length=context if m2m else min(context, room(config)),
            language=_NLLB_LANGUAGE if m2m else None,
            pad_id=int(config.get("pad_token_id", 1)),
        ),
        weights=weights,
    )


def _projection(kind: str | None, width: int, embed_dim: int, path: Path) -> list[dict[str, Any]]:
    if kind == "mlp":
        middle = (width + embed_dim) // 2
        linear = [{"kind": "linear", "out": out, "bias": False} for out in (middle, embed_dim)]
        return [linear[0], {"kind": "gelu"}, linear[1]]
    if kind == "linear":
        return [{"kind": "linear", "out": embed_dim, "bias": False}]
    if kind is None and width == embed_dim:
        return []
    raise not_readable(
        path, f"hf_proj_type = {kind!r} from {width} to {embed_dim} dimensions", '"mlp", "linear", or null at one width'
    )


def _backbone(folder: Path, name: str, tensors: Tensors, path: Path) -> dict[str, Any]:
    """Returns the config of the transformers encoder: the bundle's own file, else the published backbone's.

    `hf_model_name` may be a folder inside the bundle; a config.json beside the weights counts where it describes such
    an encoder. Sizes that the tensors show win over both.
    """
    types = (*BERT_TYPES, "m2m_100")
    config: dict[str, Any] = {}
    stated = path
    # A name that leads out of the bundle is none of its folders.
    inside = [] if Path(name).is_absolute() or ".." in Path(name).parts else [folder / name / "config.json"]
    for place in (*inside, folder / "config.json"):
        content = read_config(place) if os.path.isfile(place) else {}  # a damaged name may be too long for a path
        if content.get("model_type") in types:
            config, stated = content, place
            break
    known = published_backbones()
    if not config:
        config = known.get(name, {})
    if config.get("model_type") not in types:
        raise BabelclipError(
            f"{path} names the text encoder hf_model_name = {name!r}, whose config is not shipped. "
            f"{did_you_mean(name, known)} Put its config.json ({', '.join(types)}) beside the weights."
        )
    if config["model_type"] != "m2m_100":
        return with_sizes_of(body_config(config, stated), tensors, "text.transformer.")
    return _with_m2m_sizes({key: config[key] for key in _M2M_KEYS if config.get(key) is not None}, tensors)


def _with_m2m_sizes(config: dict[str, Any], tensors: Tensors) -> dict[str, Any]:
    body = "text.transformer."
    for name, keys in (("embed_tokens", ("vocab_size", "d_model")), ("layers.0.fc1", ("encoder_ffn_dim",))):
        weight = f"{body}{name}.weight"
        shape = tensors.shape(weight) if weight in tensors else ()
        config.update(zip(keys, shape, strict=False))
    layers = {name.split(".")[3] for name in tensors if name.startswith(f"{body}layers.")}
    return {**config, "encoder_layers": len(layers), "num_hidden_layers": len(layers)}
