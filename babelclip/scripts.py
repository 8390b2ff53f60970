"""Which characters belong to which script of Unicode, and which scripts a language is written in.

`languages.script` gives the one ISO 15924 code of a language, which may stand for several scripts (`Jpan`); here they
are taken apart. Entry points: `scripts_of`, `in_scripts`, `belongs`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

from babelclip import languages

# Digits, punctuation, emoji, and marks that go with any letter.
COMMON = ("Zyyy", "Zinh")
# Codes of ISO 15924 that stand for several scripts of Unicode. Korean is written in Hangul; Chinese characters would
# bring as many tokens again for words that hardly a caption holds.
_SCRIPTS = {"Jpan": ("Hira", "Kana", "Hani"), "Kore": ("Hang",), "Hans": ("Hani", "Bopo"), "Hant": ("Hani", "Bopo")}


def scripts_of(code: str) -> tuple[str, ...]:
    """Returns the scripts of Unicode that a language is written in, for example `("Hira", "Kana", "Hani")` for ja."""
    script = languages.script(code)
    return _SCRIPTS.get(script, (script,))


def in_scripts(characters: Iterable[str], scripts: Iterable[str]) -> set[str]:
    """Returns those of the characters that belong to one of the scripts of Unicode."""
    # The Unicode tables of the tokenizers library: Python's own know no scripts.
    from tokenizers import Regex, pre_tokenizers

    wanted = "".join(f"\\p{{{script}}}" for script in scripts)
    if not wanted:
        return set()
    text = "".join(sorted(set(characters)))
    runs = pre_tokenizers.Split(Regex(f"[^{wanted}]+"), "removed").pre_tokenize_str(text)
    return {character for run, _span in runs for character in run}


@functools.lru_cache(maxsize=1 << 16)
def belongs(character: str, scripts: tuple[str, ...]) -> bool:
    """Returns whether a character belongs to one of the scripts of Unicode."""
    return bool(in_scripts(character, scripts))
