"""Which engine translates which language: what a user says, and a form of it that travels to other processes.

Entry points: `engine_choices`, `EngineChoice`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from babelclip import languages
from babelclip.errors import BabelclipError, did_you_mean
from babelclip.translate import table
from babelclip.translate.engine import ENGINES, Engine, open_engine

NEURAL = ("opus", "nllb")


@dataclasses.dataclass(frozen=True)
class EngineChoice:
    """Which engine is to translate, in a form that travels to other processes: each opens the engine for itself.

    Attributes:
        name: see `babelclip.translate.engine.open_engine`, as are `models`, `compute` and `beam_size`.
        models: pairs of language and model; a language without one gets the engine's own choice.
        compute: number format of neural engines.
        beam_size: hypotheses of neural engines.
        dictionary: captions that the engine `dictionary` looks texts up in; see `babelclip.data.sources`.
        opener: for an engine of one's own: a function at the top of a module, from device to engine.
    """

    name: str
    models: tuple[tuple[str, str], ...] = ()
    compute: str = "int8"
    beam_size: int = 4
    dictionary: str = ""
    opener: Callable[[str], Engine] | None = None

    def open(self, device: str = "cpu", threads: int = 0) -> Engine:
        """Returns the engine.

        Raises:
            BabelclipError: a name or value is not known, or what the engine needs is not there.
            MissingExtraError: the extra `translate` is not installed.
        """
        if self.opener is not None:
            return self.opener(device)
        from babelclip.data.sources import read_all

        return open_engine(
            self.name,
            models=dict(self.models),
            compute=self.compute,
            beam_size=self.beam_size,
            device=device,
            threads=threads,
            dictionary=read_all(self.dictionary) if self.dictionary else None,
        )

    def facts(self, lang: str) -> dict[str, Any]:
        """Returns the choice for one language as it stands in a manifest."""
        models = dict(self.models)
        facts: dict[str, Any] = {"engine": self.name, "model": models.get(lang, models.get("*", ""))}
        if self.name in NEURAL:
            facts |= {"compute": self.compute, "beam_size": self.beam_size}
        return facts | ({"dictionary": self.dictionary} if self.dictionary else {})


def engine_choices(
    to: Sequence[str],
    engine: str = "",
    choose: Mapping[str, str] | None = None,
    *,
    compute: str = "int8",
    beam_size: int = 4,
    dictionary: str = "",
) -> dict[str, EngineChoice]:
    """Returns what translates each language.

    Languages of one engine share one choice, so that a model that serves several is loaded once.

    Args:
        to: languages.
        engine: one of `ENGINES` for all of them; "" for what `table.recommended` names for each, OPUS-MT or NLLB.
        choose: language -> "engine" or "engine:model" for what is to be otherwise; "*" stands for every language.
        compute: see `open_engine`; so are `beam_size` and `dictionary`, which is a source of captions here.
        beam_size: hypotheses of neural engines.
        dictionary: captions for the engine `dictionary`.

    Raises:
        UnknownLanguageError: a language is not known.
        BabelclipError: an engine is not known, a choice is for a language not asked for, or no model is known.
    """
    targets = list(dict.fromkeys(languages.normalize(code) for code in to))
    if engine and engine not in ENGINES:
        raise BabelclipError(f"engine {engine!r} is not known. {did_you_mean(engine, ENGINES)}")
    chosen = _parsed(choose or {}, targets)
    names: dict[str, str] = {}
    models: dict[str, dict[str, str]] = {name: {} for name in ENGINES}
    for lang in targets:
        name, model = chosen.get(lang, chosen.get("*", ("", "")))
        if not name and engine:
            name = engine
        elif not name:
            best = table.recommended(lang)
            name, model = best.engine, f"{best.model}:{best.tag}" if best.tag else best.model
        names[lang] = name
        if model:
            models[name][lang] = model
    made = {
        name: EngineChoice(
            name, tuple(models[name].items()), compute, beam_size, dictionary if name == "dictionary" else ""
        )
        for name in set(names.values())
    }
    return {lang: made[name] for lang, name in names.items()}


def _parsed(choose: Mapping[str, str], targets: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Returns language -> engine and model."""
    parsed = {}
    for code, words in choose.items():
        lang = code if code == "*" else languages.normalize(code)
        name, _, model = words.partition(":")
        if name not in ENGINES:
            raise BabelclipError(
                f"{code}={words} chooses the engine {name!r}, which is not known. {did_you_mean(name, ENGINES)} A "
                f"model comes behind a colon: {code}=opus:FOLDER-OR-NAME."
            )
        if lang != "*" and lang not in targets:
            raise BabelclipError(
                f"{code}={words} chooses an engine for {lang}, which is not among the languages {', '.join(targets)}. "
                "Add it to these, or drop the choice."
            )
        if model and name not in NEURAL:
            raise BabelclipError(
                f"{code}={words} names a model, and {name} has none to choose. Give {code}={name}, or a neural engine "
                f"({', '.join(NEURAL)}) with the model."
            )
        parsed[lang] = (name, model)
    return parsed
