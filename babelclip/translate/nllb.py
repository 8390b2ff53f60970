"""NLLB-200 and M2M100: one model for all languages, told the source and the target by a token of each.

NLLB writes languages as FLORES-200 does (`deu_Latn`), M2M100 by its own two or three letters (`__de__`); which of the
two a checkpoint uses is read from its vocabulary. The weights of NLLB-200 are CC-BY-NC-4.0, those of M2M100 MIT.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from babelclip import languages
from babelclip.errors import BabelclipError, require
from babelclip.models.checkpoints.hub.repository import Repository
from babelclip.translate import table
from babelclip.translate.checkpoint import open_checkpoint, quiet
from babelclip.translate.one_model import ANY, Loaded, OneModel, by_language
from babelclip.translate.seq2seq import Settings, open_generator

_M2M100_NAMES = {"fil": "tl", "nb": "no", "nso": "ns"}


class NllbEngine:
    """One model between all languages. See `babelclip.translate.engine.Engine`."""

    name = "nllb"
    batch_size = 1024

    def __init__(self, models: Mapping[str, str], settings: Settings) -> None:
        """Takes the model that the user chose ("*", or by language), and how to run it.

        Raises:
            UnknownLanguageError: a language of `models` is not known.
            MissingExtraError: the extra `translate` is not installed.
        """
        for module in ("ctranslate2", "sentencepiece"):
            require(module, "translate")
        self._models = by_language(models)
        self._loaded = OneModel(functools.partial(_load, settings=settings))

    def languages(self) -> tuple[str, ...]:
        """Returns the languages of FLORES-200, what they stand for (`no`, `pt-BR`), and those with a model of the user.

        M2M100 lacks many of these, and has a few others (`br`, `fy`): whether a model has one, its vocabulary says.
        """
        own = {lang for lang in self._models if lang != ANY}
        return tuple(sorted(own | {lang for lang in table.known() if _flores(lang)}))

    def model(self, target: str) -> str:
        """Returns the model's repository and commit, or its folder; the list of its files is asked for, no weights.

        Raises:
            BabelclipError: the model is not available.
        """
        return self._loaded.stated(self._choice(target))

    def translate(self, batch: Sequence[str], source: str, target: str) -> list[str]:
        """Returns the translations. See `Engine.translate`."""
        if not any(text.strip() for text in batch):
            return ["" for _ in batch]
        name = self._choice(target)
        loaded = self._loaded.get(name)
        tokenizer = loaded.tokenizer
        start, prefix = (_token(loaded, languages.normalize(lang)) for lang in (source, target))

        def encode(texts: list[str]) -> list[list[int]]:
            found = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            return [[start, *ids, tokenizer.eos_token_id] for ids in found]

        return self._loaded.translate(name, batch, encode=encode, prefix=prefix, target=target)

    def close(self) -> None:
        """Frees the model."""
        self._loaded.close()

    def _choice(self, target: str) -> str:
        return self._models.get(languages.normalize(target)) or self._models.get(ANY) or table.nllb_model()


def _load(place: Path | Repository, settings: Settings) -> Loaded:
    from transformers import AutoTokenizer

    checkpoint = open_checkpoint(place, ("m2m_100",))
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
    positions = int(checkpoint.config.get("max_position_embeddings", 1024))
    return Loaded(checkpoint.name, tokenizer, open_generator(checkpoint, tokenizer, settings), positions)


def _flores(lang: str) -> str:
    """Returns the FLORES-200 code of a language, that of its standard for a region (`pt-BR`), "" where none fits."""
    if lang == "no":
        return languages.flores("nb") or ""
    code = languages.flores(lang)
    if code is None and "-" in lang:
        parent = lang.partition("-")[0]
        code = languages.flores(parent) if languages.script(parent) == languages.script(lang) else None
    return code or ""


def _token(loaded: Loaded, lang: str) -> int:
    """Returns the token id of a language.

    Raises:
        BabelclipError: the model does not have it.
    """
    flores = _flores(lang)
    short = lang.partition("-")[0]
    # M2M100 has one token a language, for its usual script: it would write zh-Hant in simplified characters.
    usual = languages.script(short) == languages.script(lang)
    names = [languages.nllb_token(flores), flores, f"__{_M2M100_NAMES.get(short, short)}__" if usual else ""]
    for name in filter(None, names):
        token = loaded.tokenizer.convert_tokens_to_ids(name)
        if token is not None and token != loaded.tokenizer.unk_token_id:
            return int(token)
    raise BabelclipError(
        f"{loaded.name} does not have {lang} ({languages.name(lang)}): its vocabulary lacks "
        f"{' and '.join(dict.fromkeys(filter(None, names)))}. Leave the language out, or choose another model."
    )
