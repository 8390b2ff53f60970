"""OPUS-MT: one small model for each language, or one for a family of languages, told which by a tag.

A family's model wants the target as the first word of the text: `>>deu<< A dog.`, with a space behind the tag as its
card shows it. A model without such words in its vocabulary has one target and gets no tag.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from babelclip import languages
from babelclip.errors import BabelclipError, closest, require
from babelclip.models.checkpoints.hub.repository import Repository
from babelclip.translate import table
from babelclip.translate.checkpoint import open_checkpoint, quiet
from babelclip.translate.one_model import ANY, Loaded, OneModel, by_language
from babelclip.translate.seq2seq import Settings, open_generator

_TAG = re.compile(r">>(.+)<<")


class OpusEngine:
    """Marian models from English. See `babelclip.translate.engine.Engine`. One model is in memory at a time."""

    name = "opus"
    batch_size = 1024

    def __init__(self, models: Mapping[str, str], settings: Settings) -> None:
        """Takes the models that the user chose by language, and how to run them.

        Raises:
            UnknownLanguageError: a language of `models` is not known.
            MissingExtraError: the extra `translate` is not installed.
        """
        for module in ("ctranslate2", "sentencepiece", "sacremoses"):
            require(module, "translate")
        self._models = by_language(models)
        self._loaded = OneModel(functools.partial(_load, settings=settings))

    def languages(self) -> tuple[str, ...]:
        """Returns the languages with a model of the table or of the user."""
        own = {lang for lang in self._models if lang != ANY}
        return tuple(sorted(own | {lang for lang in table.known() if table.opus_model(lang)}))

    def model(self, target: str) -> str:
        """Returns the model's repository and commit, or its folder; the list of its files is asked for, no weights.

        Raises:
            BabelclipError: no model is known for the language, or it is not available.
        """
        return self._loaded.stated(self._choice(target)[0])

    def translate(self, batch: Sequence[str], source: str, target: str) -> list[str]:
        """Returns the translations. See `Engine.translate`.

        Raises:
            BabelclipError: the texts are not in English, and the model is one of the table; or no model is known for
                `target`, or it lacks the tag.
        """
        if languages.normalize(source) != "en" and ANY not in self._models and not self._own(target):
            raise BabelclipError(
                f"The models of the table translate from English, and the texts are in {source}. Give a model for "
                f"{target} that reads {source}, or choose the engine nllb."
            )
        if not any(text.strip() for text in batch):
            return ["" for _ in batch]
        name, tag = self._choice(target)
        loaded = self._loaded.get(name)
        word = self._tag_word(loaded, languages.normalize(target), tag)

        def encode(texts: list[str]) -> list[list[int]]:
            ids: list[list[int]] = loaded.tokenizer([word + text for text in texts], verbose=False)["input_ids"]
            return ids

        return self._loaded.translate(name, batch, encode=encode, prefix=None, target=target)

    def close(self) -> None:
        """Frees the model."""
        self._loaded.close()

    def _own(self, target: str) -> str | None:
        return self._models.get(languages.normalize(target))

    def _choice(self, target: str) -> tuple[str, str]:
        """Returns model and tag for a language; the tag is "" where it is to be looked up in the vocabulary."""
        lang = languages.normalize(target)
        given = self._own(lang) or self._models.get(ANY)
        if given:
            if Path(given).expanduser().is_dir() or ":" not in given:
                known = table.opus_model(lang)
                return given, known.tag if known and known.model == given.partition("@")[0] else ""
            name, _, tag = given.rpartition(":")
            return name, tag
        choice = table.opus_model(lang)
        if choice is None:
            raise BabelclipError(
                f"No OPUS-MT model from English into {lang} ({languages.name(lang)}) is known. Choose the engine nllb "
                f"for it, leave it out, or give a model of your own, as {lang}=FOLDER or {lang}=organisation/name."
            )
        return choice.model, choice.tag

    @staticmethod
    def _tag_word(loaded: Loaded, lang: str, tag: str) -> str:
        """Returns the tag as a word with a space behind it, "" for a model of one target."""
        if tag:
            if tag in loaded.tags:
                return f">>{tag}<< "
            near = closest(tag, loaded.tags) or loaded.tags[:12]
            there = (
                f"it has {', '.join(near)}{', …' if len(near) < len(loaded.tags) else ''}" if near else "it has none"
            )
            raise BabelclipError(
                f"{loaded.name} has no target tag {tag!r}; {there}. Give MODEL:TAG with one of its tags, or the "
                "model alone to let babelclip find it."
            )
        if not loaded.tags:
            return ""
        code, _, script = (languages.flores(lang) or "").partition("_")
        macro = lang.partition("-")[0]
        for candidate in (f"{code}_{script}", code, f"{macro}_{script}", macro):
            if candidate in loaded.tags:
                return f">>{candidate}<< "
        if len(loaded.tags) == 1:
            return f">>{loaded.tags[0]}<< "
        raise BabelclipError(
            f"{loaded.name} has {len(loaded.tags)} target languages and none of their tags is that of {lang} "
            f"({languages.name(lang)}): {', '.join(loaded.tags[:12])}. Give the right one as {lang}=MODEL:TAG."
        )


def _load(place: Path | Repository, settings: Settings) -> Loaded:
    from transformers import MarianTokenizer

    checkpoint = open_checkpoint(place, ("marian",))
    missing = [name for name in ("source.spm", "target.spm", "vocab.json") if not (checkpoint.folder / name).is_file()]
    if missing:
        raise BabelclipError(f"{checkpoint.name} lacks {', '.join(missing)} of its tokenizer: copy the folder whole.")
    with quiet():
        tokenizer = MarianTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
    tags = sorted(match[1] for word in tokenizer.get_vocab() if (match := _TAG.fullmatch(word)))
    positions = int(checkpoint.config.get("max_position_embeddings", 512))
    generator = open_generator(checkpoint, tokenizer, settings)
    return Loaded(checkpoint.name, tokenizer, generator, positions, tuple(tags))
