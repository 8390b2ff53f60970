"""What open_clip's own towers share: the names of their transformer blocks, and how a config describes them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from babelclip.errors import BabelclipError, did_you_mean
from babelclip.models.checkpoints.keymap import Rule

# Names of the text tower where no `text.` stands before them, as in OpenAI's and most of LAION's checkpoints.
TEXT_NAMES = (
    r"text\..+", r"transformer\..+", r"token_embedding\..+", "positional_embedding", r"ln_final\..+",
    r"text_projection(\..+)?",
)  # fmt: skip
IMAGE_NAMES = (r"visual\..+",)
# Read on their own, or saved by old versions though they follow from the sizes.
ALWAYS_LEFT_OUT = (
    "logit_scale",
    "logit_bias",
    r"(text\.)?attn_mask",
    "input_resolution",
    "context_length",
    "vocab_size",
)

# What a tower may say only in this way: other values change the network.
_PLAIN_BLOCKS: Mapping[str, Sequence[Any]] = {
    "ls_init_value": (None,), "block_type": (None, "default"), "qk_norm": (False,), "scaled_cosine_attn": (False,),
    "scale_heads": (False,), "scale_attn_inner": (False,), "scale_attn": (False,), "scale_fc": (False,),
}  # fmt: skip
# The deepest native tower of open_clip 3.3, ViT-e, has 56 blocks.
_MOST_LAYERS = 512
_BLOCK_KEYS = ("width", "layers", "mlp_ratio", "act_kwargs", "norm_kwargs", "output_tokens")


def block_rules(source: str) -> tuple[Rule, ...]:
    r"""Returns the rules for the blocks below `source`, a pattern without groups such as `visual\.transformer`."""
    block, layer = source + r"\.resblocks\.(\d+)\.", r"backbone.encoder.layers.\1."
    projections = tuple(f"{layer}self_attn.{part}_proj.\\2" for part in "qkv")
    return (
        Rule(block + r"ln_([12])\.(weight|bias)", layer + r"layer_norm\2.\3"),
        Rule(block + r"attn\.in_proj_(weight|bias)", projections, "split"),
        Rule(block + r"attn\.out_proj\.(weight|bias)", layer + r"self_attn.out_proj.\2"),
        Rule(block + r"mlp\.c_fc\.(weight|bias)", layer + r"mlp.fc1.\2"),
        Rule(block + r"mlp\.c_proj\.(weight|bias)", layer + r"mlp.fc2.\2"),
    )


def block_config(config: Mapping[str, Any], quick_gelu: bool, path: Path, *, width: int) -> dict[str, Any]:
    """Returns the keys of a transformers config that describe the blocks of a native tower, heads excepted.

    Args:
        config: `vision_cfg` or `text_cfg`.
        quick_gelu: the model's activation; `act_kwargs` may ask for the tanh approximation of the plain one.
        path: the config's file, for messages.
        width: open_clip's default where the config is silent.
    """
    activation = config.get("act_kwargs") or {}
    norm = config.get("norm_kwargs") or {}
    if activation not in ({}, {"approximate": "tanh"}) or (activation and quick_gelu):
        raise not_readable(path, f"act_kwargs = {activation}", 'none, or {"approximate": "tanh"} without quick_gelu')
    if set(norm) - {"eps"}:
        raise not_readable(path, f"norm_kwargs = {norm}", "eps alone")
    width, layers = int(config.get("width", width)), int(config.get("layers", 12))
    check_layers(layers, path)
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "intermediate_size": int(width * config.get("mlp_ratio", 4.0)),
        "hidden_act": "quick_gelu" if quick_gelu else "gelu_pytorch_tanh" if activation else "gelu",
        "layer_norm_eps": norm.get("eps", 1e-5),
    }


def check_keys(
    config: Mapping[str, Any], path: Path, part: str, *, read: Collection[str], only: Mapping[str, Sequence[Any]]
) -> None:
    """Checks that a tower's config says nothing that would be overlooked.

    Args:
        config: `vision_cfg` or `text_cfg`.
        path: its file, for messages.
        part: its name, for messages.
        read: keys that the reader follows or that change nothing in evaluation, beside those of all blocks.
        only: keys that may have only these values, because others change the network.

    Raises:
        BabelclipError: it names the key, what is readable, and the closest known key.
    """
    fixed = {**_PLAIN_BLOCKS, **only}
    known = {*fixed, *read, *_BLOCK_KEYS}
    for key, value in config.items():
        if key not in known:
            raise BabelclipError(
                f"{path}: {part} has the key {key!r}, which open_clip 3.3 does not have. {did_you_mean(key, known)} "
                "Copy the file again from the model's origin, or ask for a reader of this model."
            )
        if key in fixed and value not in fixed[key]:
            allowed = " or ".join(repr(option) for option in fixed[key])
            raise not_readable(path, f"{part}.{key} = {value!r}", allowed)


def check_layers(layers: int, path: Path) -> None:
    """Raises BabelclipError for more blocks than any tower has: a damaged file must not build for hours."""
    if not 0 < layers <= _MOST_LAYERS:
        raise not_readable(path, f"a tower of {layers} layers", f"1 to {_MOST_LAYERS}")


def not_readable(path: Path, given: str, readable: str) -> BabelclipError:
    """Returns the error for a kind of tower that no class here builds."""
    return BabelclipError(
        f"{path} asks for {given}, which babelclip does not build; readable: {readable}. "
        "Load this model with open_clip itself, or ask for a reader of it."
    )
