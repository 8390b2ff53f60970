"""Which language a query is in, as far as a few words tell: by its script, and by py3langid where it is installed.

It is shown to the person, who can correct it; it changes vectors only of models whose first token names the language.
Entry point: `detect`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from babelclip import languages, scripts
from babelclip.errors import MissingExtraError, require

# Words from which on a guess among languages of one script is called sure.
_SURE_WORDS = 4
_SURE = 0.9
# A guess below is none.
_LEAST = 0.5


@functools.lru_cache(maxsize=500)
def detect(text: str, declared: tuple[str, ...]) -> Mapping[str, Any] | None:
    """Returns `{code, name, sure}`, None where nothing tells.

    Args:
        text: the query.
        declared: languages of the model, () where it does not say. Where all languages leave it open, these decide.
    """
    letters = [character for character in text if character.isalpha()]
    if not letters:
        return None
    if any(scripts.belongs(letter, ("Hira", "Kana")) for letter in letters):
        return _said("ja", sure=True)  # no other language is written in kana, whatever stands between them
    ranked = _ranked(text)
    likeliest = max(ranked.items(), key=lambda item: item[1], default=("", 0.0))
    if likeliest[1] >= _LEAST:
        return _said(likeliest[0], sure=likeliest[1] >= _SURE and len(text.split()) >= _SURE_WORDS)
    own = {code: share for code, share in ranked.items() if code in declared}
    whole = sum(own.values())
    best = max(own.items(), key=lambda item: item[1], default=("", 0.0))
    if whole > 0 and best[1] >= _LEAST * whole:
        return _said(best[0], sure=False)
    # A script that one language of the model writes tells it too, with py3langid or without.
    writing = [code for code in declared if code != "ja" and _writes(code, letters)]
    return _said(writing[0], sure=False) if len(writing) == 1 else None


def _writes(code: str, letters: Sequence[str]) -> bool:
    """Returns whether at least three of four letters belong to the scripts of a language."""
    own = scripts.scripts_of(code)
    return 4 * sum(scripts.belongs(letter, own) for letter in letters) >= 3 * len(letters)


def _said(code: str, *, sure: bool) -> dict[str, Any]:
    return {"code": code, "name": languages.name(code), "sure": sure}


@functools.cache
def _identifier() -> Any:
    """Returns py3langid's model with probabilities, None where it is not installed."""
    try:
        langid = require("py3langid.langid", "langid")
    except MissingExtraError:
        return None
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)


def _ranked(text: str) -> dict[str, float]:
    """Returns code -> probability of the languages that the model knows; nothing without it."""
    model = _identifier()
    shares: dict[str, float] = {}
    for label, probability in model.rank(text.lower()) if model is not None else ():
        code = _code(label)
        if code:
            shares[code] = shares.get(code, 0.0) + probability
    return shares


@functools.cache  # a hundred labels; to find out that one is unknown takes milliseconds
def _code(label: str) -> str:
    """Returns the code of a label of py3langid, "" of a dialect that babelclip has no name for."""
    try:
        return languages.normalize(label)
    except languages.UnknownLanguageError:
        return ""
