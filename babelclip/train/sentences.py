"""Sentences as tokens, each distinct one once: what trainings on pairs of sentences read.

Two texts count as one sentence where their tokens are the same: a model cannot tell them apart, so neither may be a
negative of the other.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from babelclip.errors import BabelclipError
from babelclip.models.text import TextEncoder
from babelclip.models.tokenization import TextTokenizer
from babelclip.train.recipe import Student
from babelclip.train.texts import TokenTable


@dataclass(frozen=True)
class Sentences:
    """The tokens of M distinct sentences, and which of them each of N texts is.

    Attributes:
        tokens: of the M sentences, in the order in which they first occur.
        of_text: (N,) int64 below M; -1 for a text that is left out.
        long: texts of more than `student.max_length` tokens, truncated or left out as `student.long` says.
    """

    tokens: TokenTable
    of_text: np.ndarray
    long: int

    def __len__(self) -> int:
        return len(self.tokens.lengths)


def distinct_sentences(student: TextEncoder, texts: Sequence[str], settings: Student) -> Sentences:
    """Returns the distinct sentences among `texts` as `student` tokenises them, within `settings.max_length`.

    Raises:
        BabelclipError: `student.max_length` is above what the model reads.
    """
    tokenizer = student.tokenizer
    limit = settings.max_length or tokenizer.max_length
    if limit > tokenizer.max_length:
        raise BabelclipError(
            f"student.max_length = {limit}, but the model reads {tokenizer.max_length} tokens at most: lower it."
        )
    with _reading(tokenizer, limit + 1):
        token_ids = student.tokenize(texts)
    too_long = [place for place, ids in enumerate(token_ids) if len(ids) > limit]
    with _reading(tokenizer, limit):
        shorter = student.tokenize([texts[place] for place in too_long])
    for place, ids in zip(too_long, shorter, strict=True):
        token_ids[place] = [] if settings.long == "skip" else ids
    place_of: dict[bytes, int] = {}
    kept: list[np.ndarray] = []
    of_text = np.full(len(texts), -1, dtype=np.int64)
    for place, ids in enumerate(token_ids):
        if not ids:
            continue
        row = np.asarray(ids, dtype=np.int32)
        of_text[place] = place_of.setdefault(row.tobytes(), len(kept))
        if of_text[place] == len(kept):
            kept.append(row)
    flat = np.concatenate(kept) if kept else np.empty(0, np.int32)
    lengths = np.asarray([len(row) for row in kept], dtype=np.int64)
    return Sentences(TokenTable(flat, lengths, tokenizer.pad_id), of_text, len(too_long))


@contextlib.contextmanager
def _reading(tokenizer: TextTokenizer, tokens: int) -> Iterator[None]:
    before = tokenizer.max_length
    tokenizer.max_length = tokens
    try:
        yield
    finally:
        tokenizer.max_length = before


def own_space(kind: str, encoder: nn.Module) -> str:
    """Returns the id of the space of an encoder that follows no teacher: `kind/` and a digest of its weights.

    Such training starts a space of its own; vectors of two runs, or of f1 and f2, do not compare.
    """
    digest = hashlib.sha256()
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return f"{kind}/{digest.hexdigest()[:12]}"
