"""Texts to token ids: the checkpoint's cleaning rule and prefix, a fast tokenizer, truncation and padding."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from babelclip.errors import BabelclipError
from babelclip.models.cleaning import cleaning_rule


class TextTokenizer:
    """A `tokenizer.json` with what its model expects: a cleaning rule, a prefix before each text, a longest length."""

    def __init__(
        self, tokenizer: Tokenizer, *, max_length: int, pad_id: int, prefix: str = "", cleaning: str = "none"
    ) -> None:
        """Takes a `tokenizers` object whose post-processor adds the special tokens.

        Args:
            tokenizer: it is reconfigured: truncation to `max_length`, no padding.
            max_length: most tokens of a text, special tokens included; longer texts are truncated.
            pad_id: the id that fills short rows; it is masked, so its choice changes nothing.
            prefix: put before each text, for example E5's "query: ".
            cleaning: name of the rule that texts go through first (see `cleaning.py`).
        """
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length)
        self._tokenizer = tokenizer
        self.max_length = max_length
        self.pad_id = pad_id
        self.prefix = prefix
        self.cleaning = cleaning
        self._clean = cleaning_rule(cleaning)

    @classmethod
    def from_file(
        cls, path: Path | str, *, max_length: int, pad_id: int, prefix: str = "", cleaning: str = "none"
    ) -> TextTokenizer:
        """Returns the tokenizer stored at `path`.

        Raises:
            BabelclipError: the file is missing or no `tokenizer.json`.
        """
        if not os.path.isfile(path):
            raise BabelclipError(
                f"{path} does not exist. A model folder needs its tokenizer.json: save the model again."
            )
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises a bare Exception
            raise BabelclipError(f"{path} is not a tokenizer.json ({error}). Copy it again from its origin.") from error
        return cls(tokenizer, max_length=max_length, pad_id=pad_id, prefix=prefix, cleaning=cleaning)

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of each text, special tokens included, truncated to `max_length`.

        Raises:
            BabelclipError: an item is not a string; its position is named.
        """
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise BabelclipError(
                    f"Text {position} is of type {type(text).__name__}; texts are strings. Give a list of strings."
                )
        encodings = self._tokenizer.encode_batch_fast([self.prefix + self._clean(text) for text in texts])
        return [encoding.ids for encoding in encodings]

    def pad(self, token_ids: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns `input_ids` and `attention_mask`, both int64 (N, T), T the longest row, padded on the right."""
        longest = max((len(row) for row in token_ids), default=0)
        input_ids = np.full((len(token_ids), longest), self.pad_id, dtype=np.int64)
        attention_mask = np.zeros((len(token_ids), longest), dtype=np.int64)
        for row, ids in enumerate(token_ids):
            input_ids[row, : len(ids)] = ids
            attention_mask[row, : len(ids)] = 1
        return torch.from_numpy(input_ids), torch.from_numpy(attention_mask)

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens, added tokens included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def to_json(self) -> str:
        """Returns the content of `tokenizer.json`."""
        return str(self._tokenizer.to_str())
