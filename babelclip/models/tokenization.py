"""Texts to token ids: the checkpoint's cleaning rule and prefix, a fast tokenizer, truncation and padding."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from babelclip import languages
from babelclip.errors import BabelclipError, of_rust, shown
from babelclip.models.cleaning import cleaning_rule


class TextTokenizer:
    """A `tokenizer.json` with what its model expects: a cleaning rule, a prefix before each text, a longest length."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        pad_id: int,
        prefix: str = "",
        cleaning: str = "none",
        pad_to: int | None = None,
        eos_id: int | None = None,
        language: str | None = None,
    ) -> None:
        """Takes a `tokenizers` object whose post-processor adds the special tokens.

        Args:
            tokenizer: it is reconfigured: truncation to `max_length`, no padding.
            max_length: most tokens of a text, special tokens included; longer texts are truncated.
            pad_id: the id that fills short rows; it is masked, so its choice changes nothing, unless `pad_to` is set.
            prefix: put before each text, for example E5's "query: ".
            cleaning: name of the rule that texts go through first (see `cleaning.py`).
            pad_to: fill every text to this many tokens, which the model then reads as any other (SigLIP: 64).
            eos_id: the id that ends a text, where `eos` pooling looks for it (CLIP).
            language: the language of texts whose language is not told (BCP-47), for models whose first token names
                the language in FLORES codes (NLLB); None for all others. One that FLORES lacks is read as its closest
                kin (see `languages.read_as`), here and where a text is told.

        Raises:
            BabelclipError: the cleaning rule is not known, `max_length` leaves no room for the special tokens, or the
                tokenizer has no token for `language`.
        """
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.max_length = max_length
        self.pad_id = pad_id
        self.prefix = prefix
        self.cleaning = cleaning
        self.pad_to = pad_to
        self.eos_id = eos_id
        self.language = None if language is None else languages.read_as(language) or language
        self._clean = cleaning_rule(cleaning)
        if language is not None:
            self._language_id(language)

    @property
    def max_length(self) -> int:
        """Most tokens of a text, special tokens included. It may be set; the backbone has a limit of its own."""
        return self._max_length

    @max_length.setter
    def max_length(self, tokens: int) -> None:
        special = int(self._tokenizer.num_special_tokens_to_add(is_pair=False))
        if tokens < max(special, 1):  # the tokenizer would cut nothing at all
            raise BabelclipError(
                f"max_length is {tokens}, and this tokenizer puts {special} special tokens around every text. Give "
                "more, for example 77."
            )
        self._tokenizer.enable_truncation(tokens)
        self._max_length = tokens

    @classmethod
    def from_file(cls, path: Path | str, **settings: Any) -> TextTokenizer:
        """Returns the tokenizer stored at `path`; `settings` are those of the class.

        Raises:
            BabelclipError: the file is missing or no `tokenizer.json`.
        """
        if not os.path.isfile(path):
            raise BabelclipError(
                f"{path} does not exist. A model folder needs its tokenizer.json: save the model again."
            )
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except BaseException as error:  # the Rust side raises a bare Exception, or panics
            if not of_rust(error):
                raise
            raise BabelclipError(f"{path} is not a tokenizer.json ({error}). Copy it again from its origin.") from error
        return cls(tokenizer, **settings)

    def __call__(self, texts: Sequence[str], lang: str | Sequence[str] | None = None) -> list[list[int]]:
        """Returns the token ids of each text, special tokens included, truncated to `max_length`.

        Args:
            texts: N strings.
            lang: their language, or one for each (BCP-47). Only models whose first token names it read this.

        Raises:
            BabelclipError: an item is not a string (its position is named), the model has no token for a language, or
                its tokenizer is damaged.
        """
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise BabelclipError(
                    f"Text {position} is of type {type(text).__name__}; texts are strings. Give a list of strings."
                )
        token_ids = self._ids_of([self.prefix + self._clean(text) for text in texts])
        if self.language is not None:
            codes = [lang or self.language] * len(texts) if lang is None or isinstance(lang, str) else list(lang)
            ids_of = {code: self._language_id(code) for code in set(codes)}
            token_ids = [[ids_of[code], *ids[1:]] for code, ids in zip(codes, token_ids, strict=True)]
        if self.pad_to is not None:
            token_ids = [ids + [self.pad_id] * (self.pad_to - len(ids)) for ids in token_ids]
        return token_ids

    def _ids_of(self, texts: list[str]) -> list[list[int]]:
        try:
            return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]
        except BaseException as error:
            if isinstance(error, MemoryError) or not of_rust(error):
                raise
            raise BabelclipError(
                f"The model's tokenizer fails at texts ({shown(error)}). A tokenizer.json must name every token that "
                "its rules make: it is damaged, or newer than this tokenizers. Copy it again from the model's origin."
            ) from error

    def _language_id(self, code: str) -> int:
        language = languages.read_as(code)
        token = languages.nllb_token(languages.flores(language) or "") if language else "no FLORES code"
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise BabelclipError(
                f"This model has no token for the language {code} ({token}). Give the language of the text as one that "
                "FLORES-200 lists, or the closest to it."
            )
        return int(found)

    def pad(self, token_ids: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns `input_ids` and `attention_mask`, both int64 (N, T), T the longest row, padded on the right."""
        lengths = np.asarray([len(row) for row in token_ids], dtype=np.int64)
        attention_mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
        input_ids = np.full(attention_mask.shape, self.pad_id, dtype=np.int64)
        input_ids[attention_mask] = [token for row in token_ids for token in row]
        return torch.from_numpy(input_ids), torch.from_numpy(attention_mask.astype(np.int64))

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens, added tokens included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def to_json(self) -> str:
        """Returns the content of `tokenizer.json`."""
        return str(self._tokenizer.to_str())
