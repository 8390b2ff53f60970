"""M-CLIP of 2022 (package multilingual-clip): a BERT-type text tower with one linear layer; no image tower.

    config.json              model_type `M-CLIP`; `modelBase` names the backbone, or its fields stand in the same file
    pytorch_model.bin        or safetensors, single or sharded, or tf_model.h5
    tokenizer.json           or the older vocabulary files

Vector = `LinearTransformation(masked mean of the last hidden states, special tokens included)`, not normalised.
The original fetches the whole backbone named by `modelBase` and then overwrites its weights; here its config is enough,
and what the folder's own tensors and config say comes first. With all backbone fields inline (as Kandinsky 2.1 has
them) no name is needed. Source: github FreddeFrallan/Multilingual-CLIP, `pt_multilingual_clip.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints.build import read_config
from babelclip.models.checkpoints.files import tokenizer_files
from babelclip.models.checkpoints.files.tensors import Tensors, open_tensors, weight_files
from babelclip.models.checkpoints.keymap import Rule, convert
from babelclip.models.checkpoints.text_body import (
    body_config,
    body_rules,
    body_tower,
    named_backbone,
    refuse_image,
    width,
    with_sizes_of,
)
from babelclip.models.clip import Clip

NAME = "mclip"
CONFIG = "config.json"
BODY = "transformer."
HEAD = "LinearTransformation."
_PICTURES = "M-CLIP published text towers alone; take the pictures to the CLIP whose space it was trained for."


def recognises(folder: Path) -> bool:
    """Returns whether `folder` holds an M-CLIP of 2022, as its config says."""
    path = folder / CONFIG
    return path.is_file() and read_config(path).get("model_type") == "M-CLIP"


def wanted(names: list[str], towers: str) -> list[str]:
    """Returns which of a repository's files a load reads; the weights in one form only."""
    refuse_image(towers, "This M-CLIP repository", _PICTURES)
    # A backbone's config in a sub-folder, where `modelBase` names one.
    configs = [name for name in names if name.count("/") == 1 and name.endswith("/" + CONFIG)]
    return [name for name in (CONFIG, *configs, *weight_files(names), *tokenizer_files.wanted(names)) if name in names]


def load(folder: Path, towers: str) -> Clip:
    """Returns the text tower of an M-CLIP folder, on the CPU.

    The original truncates nothing and fails above 512 tokens; here a text is cut at 512 tokens, or earlier where
    tokenizer or backbone have less room. Training captions had at most 32 tokens.

    Raises:
        BabelclipError: the image tower alone is asked for, the backbone is not known, a file is missing or damaged, or
            config and tensors do not fit; it names file and tensors.
    """
    refuse_image(towers, str(folder), _PICTURES)
    config = read_config(folder / CONFIG)
    tensors = open_tensors(folder)
    backbone = _backbone(config, tensors, folder)
    head = [{"kind": "linear", "out": _dimensions(config, tensors, folder)}]
    rules, left_out = body_rules(BODY)
    weights = convert(tensors, (*rules, Rule(r"LinearTransformation\.(weight|bias)", r"head.0.\1")), known=left_out)
    return Clip(space="", text=body_tower(folder, backbone, weights, pooling="mean", head=head))


def _backbone(config: dict[str, Any], tensors: Tensors, folder: Path) -> dict[str, Any]:
    """Returns the body config: what config.json states, then sizes of the tensors, then what `modelBase` names."""
    base = config.get("modelBase")
    if isinstance(base, str):
        named = named_backbone(base, folder)
        inline = body_config({**config, "model_type": named["model_type"]}, folder / CONFIG)
    else:
        # Kandinsky's config class is that of XLM-R with two fields more; DistilBERT shows in its own field names.
        named = {}
        family = "distilbert" if "n_heads" in config else "xlm-roberta"
        inline = body_config({**config, "model_type": family}, folder / CONFIG)
        if "n_heads" not in inline and "num_attention_heads" not in inline:
            raise BabelclipError(
                f"{folder / CONFIG} has neither a modelBase (it is {base!r}) nor the fields of a backbone. "
                'Write "modelBase": "xlm-roberta-large" or whichever it was, or the backbone\'s own fields.'
            )
    sized = with_sizes_of({**named, **inline}, tensors, BODY)
    if named and width(sized) == width(named):
        # It is that backbone, perhaps with fewer words. Were its layers counted, a lost one would go unnoticed.
        layers = "n_layers" if named["model_type"] == "distilbert" else "num_hidden_layers"
        sized[layers] = named[layers]
    return {**sized, **inline}


def _dimensions(config: dict[str, Any], tensors: Tensors, folder: Path) -> int:
    """Returns the dimensions of the space: `numDims` as files have it, `imageDimSize` as the constructor has it."""
    for key in ("numDims", "imageDimSize"):
        if isinstance(config.get(key), int):
            return int(config[key])
    name = HEAD + "weight"
    if name in tensors and len(tensors.shape(name)) == 2:
        return tensors.shape(name)[0]
    raise BabelclipError(
        f"{folder / CONFIG} has no numDims and {tensors.path} no matrix {name} that would show it. "
        "Copy both again from the model's origin."
    )
