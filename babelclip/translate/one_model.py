"""The model that a neural engine has in memory: one at a time, because the texts of a language come together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from babelclip import languages
from babelclip.models.checkpoints.hub.repository import Repository
from babelclip.translate.checkpoint import locate, stated
from babelclip.translate.seq2seq import Generator, translate_texts, warn_if_unknown

# The models that a user chose, by language. One of the user's own says nothing about its languages: it is used for what
# the user gives it for, which may be any.
ANY = "*"


def by_language(models: Mapping[str, str]) -> dict[str, str]:
    """Returns the models by BCP-47 code, or `ANY`.

    Raises:
        UnknownLanguageError: a language is not known.
    """
    return {lang if lang == ANY else languages.normalize(lang): model for lang, model in models.items()}


class Loaded(NamedTuple):
    """A model in memory.

    Attributes:
        name: what messages call it.
        tokenizer: of transformers.
        generator: runs it.
        positions: the most tokens that it can read or write.
        tags: words of its vocabulary that name a target language (OPUS-MT).
    """

    name: str
    tokenizer: Any
    generator: Generator
    positions: int
    tags: tuple[str, ...] = ()


class OneModel:
    """The models of an engine by the names that the user or the table gives them, one of them in memory."""

    def __init__(self, load: Callable[[Path | Repository], Loaded]) -> None:
        """Takes what brings a model into memory from its folder or repository."""
        self._load = load
        self._places: dict[str, Path | Repository] = {}
        self._held: tuple[str, Loaded] | None = None
        self._warned: set[str] = set()

    def stated(self, name: str) -> str:
        """Returns the model's repository and commit, or its folder; the list of its files is asked for, no weights.

        Raises:
            BabelclipError: the model is not available.
        """
        return stated(self._place(name))

    def get(self, name: str) -> Loaded:
        """Returns the model, which takes the place of the one before.

        Raises:
            BabelclipError: the model is not available, or of another kind.
        """
        if self._held is None or self._held[0] != name:
            self._held = None  # before the next one comes: memory for one is enough
            self._held = (name, self._load(self._place(name)))
        return self._held[1]

    def translate(
        self,
        name: str,
        texts: Sequence[str],
        *,
        encode: Callable[[list[str]], list[list[int]]],
        prefix: int | None,
        target: str,
    ) -> list[str]:
        """Returns the translations of N texts; warns once of a model that cannot spell them.

        Args:
            name: of the model.
            texts: N texts of any length.
            encode: texts to token ids with special tokens.
            prefix: the token that every translation begins with, None where there is none.
            target: BCP-47.
        """
        loaded = self.get(name)
        tokenizer = loaded.tokenizer

        def generate(tokens: Sequence[Sequence[int]], max_length: int) -> list[list[int]]:
            if name not in self._warned and warn_if_unknown(loaded.name, tokens, tokenizer.unk_token_id):
                self._warned.add(name)
            return loaded.generator.generate(tokens, prefix, max_length)

        def decode(ids: list[list[int]]) -> list[str]:
            decoded: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True)
            return decoded

        return translate_texts(
            texts, encode=encode, generate=generate, decode=decode, positions=loaded.positions, target=target
        )

    def close(self) -> None:
        """Frees the model."""
        self._held = None

    def _place(self, name: str) -> Path | Repository:
        if name not in self._places:
            self._places[name] = locate(name)
        return self._places[name]
