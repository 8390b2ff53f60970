"""M-CLIP of 2021: a transformers folder with the pickled linear head that was published apart from it.

    config.json                            model_type bert or distilbert
    pytorch_model.bin                      the transformer alone
    M-BERT Distil 40 Linear Weights.pkl    any .pkl: [kernel (H, D), bias (D,)], or the safetensors file made from it
    vocab.txt                              the tokenizer

Vector = `linear(masked mean of the last hidden states, special tokens included)`, not normalised. The original class
declares 640 outputs and then replaces the layer's weights, so D is what the head has: 512 for M-BERT-Base-ViT-B.
The heads lie outside the hub (github FreddeFrallan/Multilingual-CLIP, `legacy_get-weights.sh`): put the file into the
model's folder. Its first load writes a safetensors file beside the pickle, which later loads read.
"""

from __future__ import annotations

from pathlib import Path

import torch

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints.build import read_config
from babelclip.models.checkpoints.files import legacy_pickle, tokenizer_files
from babelclip.models.checkpoints.files.tensors import INDEX, WEIGHT_NAMES, open_tensors, weight_files
from babelclip.models.checkpoints.text_body import (
    MODEL_TYPES,
    body_config,
    body_tower,
    body_weights,
    refuse_image,
)
from babelclip.models.clip import Clip

NAME = "mclip_legacy"
CONFIG = "config.json"
PICKLE = ".pkl"
_PICTURES = "Its pictures belong to OpenAI's RN50x4, or ViT-B/32 where the vectors have 512 dimensions."


def recognises(folder: Path) -> bool:
    """Returns whether `folder` holds a transformer and a linear head beside it."""
    path = folder / CONFIG
    return path.is_file() and read_config(path).get("model_type") in MODEL_TYPES and bool(heads(folder))


def wanted(names: list[str], towers: str) -> list[str]:
    """Returns which of a repository's files a load reads; the head in either form where it is there."""
    refuse_image(towers, "This M-CLIP repository", _PICTURES)
    # Other safetensors files may be large; a head made from a pickle keeps its name, in which all published say so.
    found = [n for n in names if "/" not in n and (n.endswith(PICKLE) or (_may_be_head(n) and "linear" in n.lower()))]
    files = (CONFIG, *weight_files(names), *tokenizer_files.wanted(names), *found)
    return [name for name in dict.fromkeys(files) if name in names]


def load(folder: Path, towers: str, head: Path | None = None) -> Clip:
    """Returns the text tower of a folder with its head, on the CPU; texts are cut at 512 tokens.

    Args:
        folder: the transformer, its tokenizer, and the head.
        towers: "text" or "both"; there is no image tower.
        head: the head's file where it lies elsewhere.

    Raises:
        BabelclipError: the image tower alone is asked for, there is no head or more than one, a file is missing,
            damaged or refused, or the parts do not fit; it names file and tensors.
    """
    refuse_image(towers, str(folder), _PICTURES)
    config = read_config(folder / CONFIG)
    path = _only(folder, heads(folder)) if head is None else head
    weight, bias = legacy_pickle.head_arrays(path)
    weights = body_weights(open_tensors(folder))
    for name, array in (("weight", weight), ("bias", bias)):
        weights[f"head.0.{name}"] = torch.from_numpy(array)
        weights.origin[f"head.0.{name}"] = f"{path.name}: {name}"
    layers = [{"kind": "linear", "out": len(bias)}]
    return Clip(
        space="", text=body_tower(folder, body_config(config, folder / CONFIG), weights, pooling="mean", head=layers)
    )


def heads(folder: Path) -> list[Path]:
    """Returns the heads in `folder`: pickles, or where there is none the safetensors files made from them."""
    pickles = sorted(folder.glob(f"*{PICKLE}"))
    if pickles:
        return pickles
    others = sorted(path for path in folder.glob("*" + legacy_pickle.CONVERTED) if _may_be_head(path.name))
    return [path for path in others if _is_head(path)]


def _is_head(path: Path) -> bool:
    try:
        return set(open_tensors(path)) == {"weight", "bias"}
    except BabelclipError:  # a damaged file of another kind does not concern this model
        return False


def _may_be_head(name: str) -> bool:
    """Returns whether a safetensors file is no part of the transformer, by its name."""
    stems = [known.removesuffix(INDEX).removesuffix(".safetensors") for known in WEIGHT_NAMES]
    shard = any(name.startswith(f"{stem}-") and "-of-" in name for stem in stems)
    return name.endswith(legacy_pickle.CONVERTED) and name not in WEIGHT_NAMES and not shard


def _only(folder: Path, found: list[Path]) -> Path:
    if len(found) != 1:
        listed = ", ".join(path.name for path in found) or "none"
        raise BabelclipError(
            f"{folder} must hold one linear head (a .pkl of M-CLIP 2021, or the safetensors file made from it); it "
            f"holds {listed}. Copy the head that belongs to this transformer into the folder, and no other."
        )
    return found[0]
