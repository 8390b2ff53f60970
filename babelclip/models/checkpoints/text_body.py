"""The body of a BERT-type text encoder, as four layouts share it: its config, sizes, tensor names and longest text.

    M-CLIP 2022, M-CLIP 2021, plain transformers folders, sentence-transformers

A body is one of `MODEL_TYPES`. Its sizes are read from the tensors where a config does not state them, and a config
may name a published backbone, whose sizes are shipped in `backbones/*.json` (facts with their sources, no weights).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from babelclip.errors import BabelclipError, did_you_mean
from babelclip.files import read_json
from babelclip.models.checkpoints.build import read_config, text_tower
from babelclip.models.checkpoints.files.tensors import Tensors
from babelclip.models.checkpoints.files.tokenizer_files import read_tokenizer
from babelclip.models.checkpoints.keymap import Rule, Weights, convert
from babelclip.models.head import LayerSpec
from babelclip.models.text import TextEncoder

BERT_TYPES = ("bert", "roberta", "xlm-roberta", "camembert")
MODEL_TYPES = (*BERT_TYPES, "distilbert")
# Position 0 of these starts behind the id for padding, so 514 rows make room for 512 tokens.
_OFFSET_TYPES = ("roberta", "xlm-roberta", "camembert")
# No member of these families was trained on longer texts, and a longer one is quadratic in time.
MOST_TOKENS = 512

# Of a config only these describe the body; files add dozens of keys about generation and task heads.
BERT_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "max_position_embeddings", "type_vocab_size", "hidden_act", "layer_norm_eps", "hidden_dropout_prob",
    "attention_probs_dropout_prob", "pad_token_id", "bos_token_id", "eos_token_id",
)  # fmt: skip
_DISTIL_KEYS = (
    "vocab_size", "dim", "hidden_dim", "n_layers", "n_heads", "max_position_embeddings", "activation", "dropout",
    "attention_dropout", "sinusoidal_pos_embds", "pad_token_id",
)  # fmt: skip

_SIZES = {
    "vocab_size", "hidden_size", "dim", "intermediate_size", "hidden_dim", "num_hidden_layers", "n_layers",
    "num_attention_heads", "n_heads", "max_position_embeddings", "type_vocab_size", "pad_token_id",
}  # fmt: skip

# (key of the config, tensor, dimension of its shape), tensor names behind the prefix of the layout.
_BERT_SIZES = (
    ("vocab_size", "embeddings.word_embeddings.weight", 0),
    ("hidden_size", "embeddings.word_embeddings.weight", 1),
    ("max_position_embeddings", "embeddings.position_embeddings.weight", 0),
    ("type_vocab_size", "embeddings.token_type_embeddings.weight", 0),
    ("intermediate_size", "encoder.layer.0.intermediate.dense.weight", 0),
)
_DISTIL_SIZES = (
    ("vocab_size", "embeddings.word_embeddings.weight", 0),
    ("dim", "embeddings.word_embeddings.weight", 1),
    ("max_position_embeddings", "embeddings.position_embeddings.weight", 0),
    ("hidden_dim", "transformer.layer.0.ffn.lin1.weight", 0),
)
# A pooler that no layout here reads, and buffers that old versions saved: they only count positions or hold zeros.
_LEFT_OUT = r"pooler\.dense\.(?:weight|bias)|embeddings\.(?:position_ids|token_type_ids)"
# Heads of the task that a body was trained with, by their class in transformers; nothing here reads them.
TASK_HEADS = (
    r"cls\.(?:predictions|seq_relationship)\..+",  # BertForPreTraining, BertForMaskedLM
    r"lm_head\..+",  # RobertaForMaskedLM
    r"vocab_(?:transform|layer_norm|projector)\..+",  # DistilBertForMaskedLM
)
# A class with a task head keeps the body under its family's name.
_FAMILIES = ("", "bert.", "roberta.", "distilbert.")


def body_config(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Returns the keys of a transformers config that describe the body, `model_type` included.

    Args:
        config: the content of config.json.
        path: its file, for messages.

    Raises:
        BabelclipError: the type is none of `MODEL_TYPES`, or a size is no whole number.
    """
    given = str(config.get("model_type"))
    if given not in MODEL_TYPES:
        raise BabelclipError(
            f"{path} names the model_type {given!r}; text encoders of this layout are {', '.join(MODEL_TYPES)}. "
            "Give the folder of such a model."
        )
    keys = _DISTIL_KEYS if given == "distilbert" else BERT_KEYS
    chosen = {key: config[key] for key in keys if config.get(key) is not None}
    for key in _SIZES & chosen.keys():
        if isinstance(chosen[key], bool) or not isinstance(chosen[key], int) or chosen[key] < 0:
            raise BabelclipError(
                f"{path} states {key} as {chosen[key]!r}; it is a whole number. Copy it again from the model's origin."
            )
    return {"model_type": given, **chosen}


def with_sizes_of(config: Mapping[str, Any], tensors: Tensors, prefix: str = "") -> dict[str, Any]:
    """Returns `config` with every size that the tensors show: vocabulary, width, layers, positions.

    The number of attention heads shows in no shape; it stays as the config has it.

    Args:
        config: a body config.
        tensors: names and shapes of the checkpoint.
        prefix: what stands before the body's names, for example `transformer.`.
    """
    distil = config["model_type"] == "distilbert"
    found = dict(config)
    for key, name, dimension in _DISTIL_SIZES if distil else _BERT_SIZES:
        shape = tensors.shape(prefix + name) if prefix + name in tensors else ()
        if dimension < len(shape):
            found[key] = shape[dimension]
    layer = re.compile(re.escape(prefix) + (r"transformer" if distil else r"encoder") + r"\.layer\.(\d{1,4})\.")
    numbers = {int(match[1]) for name in tensors if (match := layer.match(name))}
    # As many as there are: a gap in the numbers is then a missing and a left-over layer, which `fill` names.
    if numbers:
        found["n_layers" if distil else "num_hidden_layers"] = len(numbers)
    return found


def room(config: Mapping[str, Any]) -> int:
    """Returns the most tokens that the body's position table has room for, special tokens included."""
    positions = config.get("max_position_embeddings", MOST_TOKENS)
    if config["model_type"] in _OFFSET_TYPES:
        positions -= config.get("pad_token_id", 1) + 1
    return max(1, int(positions))


def width(config: Mapping[str, Any]) -> int:
    """Returns the width H of the body's token states; 0 where the config does not say."""
    return int(config.get("dim" if config["model_type"] == "distilbert" else "hidden_size", 0))


def body_rules(prefix: str) -> tuple[tuple[Rule, ...], tuple[str, ...]]:
    """Returns the rules for the body's tensors and the patterns of those left out (see `convert`).

    Args:
        prefix: what stands before the body's names, for example `transformer.`.
    """
    start = re.escape(prefix)
    rules = (
        # Files of the first years, KB/bert-base-swedish-cased among them, name a LayerNorm's weights as TensorFlow did.
        Rule(rf"{start}((?:embeddings|encoder)\..*LayerNorm)\.gamma", r"backbone.\1.weight"),
        Rule(rf"{start}((?:embeddings|encoder)\..*LayerNorm)\.beta", r"backbone.\1.bias"),
        Rule(rf"{start}(?!{_LEFT_OUT})((?:embeddings|encoder|transformer)\..+)", r"backbone.\1"),
    )
    return rules, (rf"{start}(?:{_LEFT_OUT})",)


def body_weights(tensors: Tensors) -> Weights:
    """Returns the tensors of a body saved by a transformers class; poolers, task heads and buffers are left out.

    Raises:
        BabelclipError: a tensor is none of these; it names file and tensor.
    """
    found = [prefix for prefix in _FAMILIES if f"{prefix}embeddings.word_embeddings.weight" in tensors]
    rules, left_out = body_rules(found[0] if found else "")
    return convert(tensors, rules, known=(*left_out, *TASK_HEADS))


def body_tower(
    folder: Path,
    config: Mapping[str, Any],
    weights: Weights,
    *,
    pooling: str,
    head: list[LayerSpec],
    max_length: int = MOST_TOKENS,
    cleaning: str = "none",
    token_head: list[LayerSpec] | None = None,
) -> TextEncoder:
    """Returns the text tower of a body and its head; texts are cut where tokenizer, body or `max_length` end first.

    Raises:
        BabelclipError: the tokenizer is missing or damaged, or config and weights do not fit.
    """
    tokenizer = read_tokenizer(
        folder,
        max_length=min(max_length, room(config)),
        cleaning=cleaning,
        pad_id=config.get("pad_token_id"),
        model_type=config["model_type"],
    )
    return text_tower(
        dict(config), pooling=pooling, head=head, tokenizer=tokenizer, weights=weights, token_head=token_head
    )


def refuse_image(towers: str, what: str, advice: str = "") -> None:
    """Raises BabelclipError where the image tower alone is asked of a text model; `advice` says where pictures go."""
    if towers == "image":
        raise BabelclipError(f"{what} holds a text tower alone. Load it with towers='text'.{advice and ' ' + advice}")


def named_backbone(name: str, folder: Path) -> dict[str, Any]:
    """Returns the body config of a published backbone by its hub name, or of a folder given in its place.

    A folder counts from the model's own one, so a self-contained model may carry `backbone/config.json`. No weights
    are read and nothing is fetched.

    Raises:
        BabelclipError: the name is neither shipped nor a folder with a config.json of a known type.
    """
    path = folder / name / "config.json"
    if os.path.isfile(path):  # unlike Path.is_file, it takes any string for a name
        return body_config(read_config(path), path)
    known = published_backbones()
    if name not in known:
        raise BabelclipError(
            f'{folder / "config.json"} names the backbone "modelBase": {name!r}, whose config is not shipped. '
            f"{did_you_mean(name, known)} Write the backbone's own fields (hidden_size, num_attention_heads, ...) into "
            "config.json, or put its config.json into a sub-folder and name that."
        )
    return dict(known[name])


@cache
def published_backbones() -> dict[str, dict[str, Any]]:
    """Returns the shipped body configs by hub name; each file states the source of its facts."""
    found = {}
    for path in sorted((Path(__file__).parent / "backbones").glob("*.json")):
        content = read_json(path)
        found.update(dict.fromkeys(content["names"], content["config"]))
    return found
