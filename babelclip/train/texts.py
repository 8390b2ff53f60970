"""Captions as tensors: token ids held flat in memory, batches padded on demand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from babelclip.models.text import TextEncoder
from babelclip.models.tokenization import TextTokenizer

_TOKENISE_AT_ONCE = 65536


class Inputs(Protocol):
    """Rows that a text model can read: token ids, or states computed from them."""

    lengths: np.ndarray
    fingerprint: str

    def load(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Returns the inputs of some rows, padded on the right, and their attention mask (N, T) int64."""


class TokenTable:
    """The token ids of N texts in one flat int32 array: 4 bytes a token, where lists of Python integers take 40."""

    def __init__(self, flat: np.ndarray, lengths: np.ndarray, pad_id: int) -> None:
        """Takes all ids one after the other (sum of lengths,) int32, and the tokens of each text (N,)."""
        self.flat = flat
        self.lengths = lengths
        self.offsets = offsets_of(lengths)
        self.pad_id = pad_id
        self.fingerprint = hashlib.sha256(flat.tobytes() + lengths.tobytes()).hexdigest()[:16]

    @classmethod
    def from_texts(cls, student: TextEncoder, texts: Sequence[str], langs: Sequence[str] | None = None) -> TokenTable:
        """Returns the texts tokenised as `student` does it: truncated, prefix and special tokens included.

        `langs` (N,) is read by students whose first token names the language (NLLB).
        """
        flat: list[np.ndarray] = []
        lengths: list[int] = []
        for start in range(0, len(texts), _TOKENISE_AT_ONCE):
            part = slice(start, start + _TOKENISE_AT_ONCE)
            ids = student.tokenize(texts[part], None if langs is None else langs[part])
            lengths += [len(row) for row in ids]
            flat.append(np.fromiter((token for row in ids for token in row), dtype=np.int32))
        joined = np.concatenate(flat) if flat else np.empty(0, np.int32)
        return cls(joined, np.asarray(lengths, dtype=np.int64), student.tokenizer.pad_id)

    def select(self, keep: np.ndarray) -> TokenTable:
        """Returns the texts that a mask (N,) bool keeps, in their order."""
        return TokenTable(self.flat[np.repeat(keep, self.lengths)], self.lengths[keep], self.pad_id)

    def load(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Returns `input_ids` and `attention_mask` (N, T) int64, T the longest of these rows."""
        ids, mask = padded(self.flat, self.offsets, rows, np.dtype(np.int64), self.pad_id)
        return torch.from_numpy(ids), torch.from_numpy(mask)


def langs_of(tower: TextEncoder, langs: Sequence[str]) -> list[str] | None:
    """Returns the languages (N,) for `TextEncoder.encode`; None for a tower that does not read them."""
    return None if tower.tokenizer.language is None else list(langs)


def beyond_room(tokenizer: TextTokenizer, texts: Sequence[str], lengths: np.ndarray) -> np.ndarray:
    """Returns a mask (N,) bool of the texts that have more tokens than `tokenizer` keeps.

    Args:
        tokenizer: is left as it is.
        texts: N texts.
        lengths: tokens of each, truncated (N,): only those as long as can be are looked at again.
    """
    full = np.flatnonzero(lengths >= tokenizer.max_length)
    long = np.zeros(len(lengths), dtype=bool)
    if len(full):
        # A copy: another thread may use the tokenizer, and its truncation is a setting of the whole.
        longer = TextTokenizer(
            Tokenizer.from_str(tokenizer.to_json()),
            max_length=tokenizer.max_length + 1,
            pad_id=tokenizer.pad_id,
            prefix=tokenizer.prefix,
            cleaning=tokenizer.cleaning,
        )
        ids = longer([texts[place] for place in full.tolist()])
        long[full] = [len(row) > tokenizer.max_length for row in ids]
    return long


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Returns where each row starts in a flat array, and where the last one ends (N + 1,) int64."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def padded(
    flat: np.ndarray, offsets: np.ndarray, rows: np.ndarray, dtype: np.dtype, fill: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows of a flat array as (N, T, ...), filled on the right, and their mask (N, T) int64."""
    lengths = offsets[rows + 1] - offsets[rows]
    longest = int(lengths.max(initial=0))
    values = np.full((len(rows), longest, *flat.shape[1:]), fill, dtype=dtype)
    for place, row in enumerate(rows):
        values[place, : lengths[place]] = flat[offsets[row] : offsets[row + 1]]
    mask = (np.arange(longest)[None, :] < lengths[:, None]).astype(np.int64)
    return values, mask
