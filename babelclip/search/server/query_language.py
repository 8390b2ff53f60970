"""Which language a query is in, as far as a few words tell: by its script, and by py3langid where it is installed.

It is shown to the person, who can correct it; it changes vectors only of models whose first token names the language.
Entry point: `detect`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from babelclip import languages, scripts

# Words from which on a guess among languages of one script is called sure.
_SURE_WORDS = 4
_SURE = 0.9


def detect(text: str, declared: Sequence[str]) -> dict[str, Any] | None:
    """Returns `{code, name, sure}`, None where nothing tells.

    Args:
        text: the query.
        declared: languages of the model; a guess is one of them. () allows all.
    """
    letters = [character for character in text if character.isalpha()]
    if not letters:
        return None
    codes = tuple(declared) or languages.known()
    fitting = [code for code in codes if _writes(code, letters)]
    if not fitting:
        return None
    # Kana tell Japanese from Chinese, which is written with some of its characters.
    if "ja" in fitting and "zh" in fitting and not _kana(letters):
        fitting.remove("ja")
    if len(fitting) == 1:
        return _said(fitting[0], sure=True)
    ranked = _ranked(text, tuple(fitting))
    if ranked is None:
        return None
    code, probability = ranked
    return _said(code, sure=probability >= _SURE and len(text.split()) >= _SURE_WORDS)


def _writes(code: str, letters: Sequence[str]) -> bool:
    """Returns whether at least three of four letters belong to the scripts of a language."""
    try:
        own = scripts.scripts_of(code)
    except ValueError:
        return False
    fits = sum(scripts.belongs(letter, own) for letter in letters)
    # Katakana's long-vowel mark and such belong to no script of their own.
    return 4 * fits >= 3 * len(letters)


def _kana(letters: Sequence[str]) -> bool:
    return any(scripts.belongs(letter, ("Hira", "Kana")) for letter in letters)


def _said(code: str, *, sure: bool) -> dict[str, Any]:
    return {"code": code, "name": languages.name(code), "sure": sure}


@functools.cache
def _identifier() -> Any:
    """Returns py3langid's model with probabilities, None where it is not installed."""
    from babelclip.errors import MissingExtraError, require

    try:
        langid = require("py3langid.langid", "langid")
    except MissingExtraError:
        return None
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)


def _ranked(text: str, codes: Sequence[str]) -> tuple[str, float] | None:
    """Returns the likeliest of `codes` and its share of their probability."""
    model = _identifier()
    if model is None:
        return None
    wanted = {code.split("-")[0]: code for code in reversed(codes)}
    shares = [(wanted[label], probability) for label, probability in model.rank(text.lower()) if label in wanted]
    whole = sum(probability for _code, probability in shares)
    return (shares[0][0], shares[0][1] / whole) if shares and whole > 0 else None
