"""Which model translates English into which language: the table `languages.toml`, read on the first question.

The 48 rows of the original (M-CLIP 2022) are in it as they were, and beside each what serves the language better today;
then the languages that it missed. Every further language of FLORES-200 is served by NLLB-200.

Entry points: `original`, `recommended`, `opus_model`, `targets`, `known`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, NamedTuple

from babelclip import languages
from babelclip.errors import BabelclipError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ORIGINAL = "48"


class Row(NamedTuple):
    """A row of the original's table.

    Attributes:
        number: its place there, from 0.
        name: what the language is called there, for example "chinese_simplified".
        code: its language code there; "zh" stands for both Chinese scripts.
        lang: BCP-47.
        model: repository of the hub; "" for English, which was copied.
        tag: the target tag without ">>" and "<<"; "" where the model was given none.
    """

    number: int
    name: str
    code: str
    lang: str
    model: str
    tag: str


class Choice(NamedTuple):
    """What translates from English into one language.

    Attributes:
        lang: BCP-47.
        engine: "opus" or "nllb".
        model: repository of the hub.
        tag: OPUS-MT's target tag without ">>" and "<<"; "": the engine looks into the model's vocabulary.
        why: why it and not the original's model; "" where it is that one, or the original lacks the language.
    """

    lang: str
    engine: str
    model: str
    tag: str = ""
    why: str = ""


def original() -> tuple[Row, ...]:
    """Returns the 48 rows of the original in their order, English included."""
    rows = [
        Row(given["row"], given["name"], given["code"], lang, given["model"], given.get("tag", ""))
        for lang, entry in _languages().items()
        if (given := entry.get("original"))
    ]
    return tuple(sorted(rows))


def recommended(lang: str) -> Choice:
    """Returns the best open model known for a language.

    Raises:
        UnknownLanguageError: `lang` is not known.
        BabelclipError: no model is known for it, or it is English.
    """
    lang = languages.normalize(lang)
    entry = _languages().get(lang, {})
    given, row = entry.get("recommended"), entry.get("original")
    if given is None and row is not None and row["model"]:
        return Choice(lang, "opus", row["model"], row.get("tag", ""))
    if given is not None and given["engine"] == "opus":
        return Choice(lang, "opus", given["model"], given.get("tag", ""), _reason(given))
    if given is not None or (languages.flores(lang) and lang != "en"):
        return Choice(lang, "nllb", nllb_model(), why=_reason(given or {}))
    raise BabelclipError(
        f"No model is known that translates English into {lang} ({languages.name(lang)}). Served are the "
        f"{len(known())} languages of babelclip.translate.table.known(): leave {lang} out, or give a model of your own."
    )


def opus_model(lang: str) -> Choice | None:
    """Returns the best OPUS-MT model (or other Marian model) for a language, None where none is known."""
    lang = languages.normalize(lang)
    entry = _languages().get(lang, {})
    if entry.get("recommended", {}).get("engine") == "opus":
        return recommended(lang)
    given = entry.get("opus") or entry.get("original") or {"model": ""}
    return Choice(lang, "opus", given["model"], given.get("tag", "")) if given["model"] else None


def nllb_model() -> str:
    """Returns the NLLB-200 model that serves unless another is asked for."""
    return str(_table()["nllb"]["model"])


def apertium_packages() -> dict[str, str]:
    """Returns which Debian package translates English into which language by rules."""
    return {lang: entry["apertium"] for lang, entry in _languages().items() if "apertium" in entry}


def known() -> tuple[str, ...]:
    """Returns the languages for which a model is known, sorted; English is not among them."""
    flores = {code for code in languages.known() if languages.flores(code)}
    return tuple(sorted((flores | set(_languages())) - {"en"}))


def targets(spec: str) -> list[str]:
    """Returns the languages that `spec` asks for, BCP-47, each once, in the order given.

    Args:
        spec: codes with commas between them; "48" stands for the original's rows. English is not part of "48": its
            copies are a share of their own (`--keep-english`).

    Example:
        >>> targets("sv, deu_Latn,zh_TW"), len(targets("48"))
        (['sv', 'de', 'zh-Hant'], 47)

    Raises:
        UnknownLanguageError: a code is not known.
        BabelclipError: the list is empty.
    """
    found: dict[str, None] = {}
    for part in filter(None, (part.strip() for part in spec.split(","))):
        codes = [row.lang for row in original() if row.model] if part == ORIGINAL else [languages.normalize(part)]
        found.update(dict.fromkeys(codes))
    if not found:
        raise BabelclipError(
            f"{spec!r} names no language. Give codes with commas between them, such as 'sv,de,zh-Hant', or "
            f"{ORIGINAL!r} for those of the original."
        )
    return list(found)


@functools.cache
def _table() -> Mapping[str, Any]:
    text = files("babelclip.translate").joinpath("languages.toml").read_text(encoding="utf-8")
    table: Mapping[str, Any] = tomllib.loads(text)
    return table


def _languages() -> Mapping[str, Any]:
    entries: Mapping[str, Any] = _table()["languages"]
    return entries


def _reason(given: Mapping[str, Any]) -> str:
    return str(_table()["reasons"][given["why"]]) if "why" in given else ""
