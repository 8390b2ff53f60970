"""A plain transformers folder of a text encoder, as the eleven models of Contrastive-Tension are published.

    config.json              model_type bert, roberta, xlm-roberta, camembert or distilbert
    pytorch_model.bin        or safetensors, single or sharded, or tf_model.h5
    tokenizer.json           or the older vocabulary files

Vector = masked mean of the last hidden states, special tokens included; no head, not normalised. Such a folder does not
say how it is to be pooled: the mean is what Contrastive-Tension, M-CLIP and most sentence encoders take (source:
github FreddeFrallan/Contrastive-Tension, `Inference.py`). A folder that says otherwise has a `modules.json` and is read
by `sentence_transformers.py`.
"""

from __future__ import annotations

from pathlib import Path

from babelclip.models.checkpoints import mclip_legacy
from babelclip.models.checkpoints.build import read_config
from babelclip.models.checkpoints.files.tensors import open_tensors
from babelclip.models.checkpoints.text_body import (
    MODEL_TYPES,
    body_config,
    body_tower,
    body_weights,
    refuse_image,
)
from babelclip.models.clip import Clip

NAME = "transformer"
CONFIG = "config.json"
# Files by which other layouts show themselves; their readers know what comes after the body.
_OTHER_LAYOUTS = ("modules.json", "open_clip_config.json", "model_index.json")


def recognises(folder: Path) -> bool:
    """Returns whether `folder` holds a text encoder of transformers and nothing that another layout adds to it."""
    path = folder / CONFIG
    if not path.is_file() or any((folder / name).is_file() for name in _OTHER_LAYOUTS):
        return False
    config = read_config(path)
    is_encoder = config.get("model_type") in MODEL_TYPES and not config.get("is_decoder")
    # With the head of an M-CLIP of 2021 beside it, the body alone would give vectors of no space.
    return is_encoder and not mclip_legacy.recognises(folder)


# A head beside the transformer is fetched with it, so that the folder is then read as what it is.
wanted = mclip_legacy.wanted


def load(folder: Path, towers: str) -> Clip:
    """Returns the text tower in a transformers folder, on the CPU.

    Contrastive-Tension truncates nothing and fails above 512 tokens; here a text is cut at 512 tokens, or earlier where
    tokenizer or backbone have less room. Its training texts had 75.

    Raises:
        BabelclipError: the image tower alone is asked for, a file is missing or damaged, or config and tensors do not
            fit; it names file and tensors.
    """
    refuse_image(towers, str(folder))
    config = read_config(folder / CONFIG)
    weights = body_weights(open_tensors(folder))
    return Clip(
        space="", text=body_tower(folder, body_config(config, folder / CONFIG), weights, pooling="mean", head=[])
    )
