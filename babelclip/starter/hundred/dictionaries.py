"""Nouns in further languages: the dictionaries of FreeDict that the demo has no time for, from Debian.

`freedict.read_dictionary` reads them; which English nouns are looked up is said in `sources.dictionary_words`.
Entry points: `MORE_DICTIONARIES`, `dictionary_rows`.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from babelclip import languages
from babelclip.starter.debian import DebianPart
from babelclip.starter.freedict import read_dictionary
from babelclip.starter.sources import Row

_HUNGARIAN = str.maketrans("ôûÔÛ", "őűŐŰ")
_OLD, _NEW = "2022.04.21-1", "2022.12.07-2"
# language: code of FreeDict, version, SHA-256 of the package
_PACKAGES = {
    "af": ("afr", _OLD, "d8ce4dcca0caaf7c399b1f4535635db2d7ea39cd73be75ae719c75737f69f3e5"),
    "bg": ("bul", _NEW, "91e23fe0ec1dfff19b27d302d7fba32fcc93f95e9b8965939d6f4c966e478389"),
    "cs": ("ces", _OLD, "282e38a11aa8317f61a9f449f028357261b06aabdc35934c1fc04a954d4e5add"),
    "cy": ("cym", _OLD, "bb954743b460b6033233b0d1b15cd51d1cbce913580076d13ddd9127d724d05a"),
    "el": ("ell", _OLD, "b6a7d3154f93fc26554d2e3fd2529b98bfc67d17020a4ff8b2fe804373c83ecc"),
    "fi": ("fin", _NEW, "037351c22b6f803358517d0293bab9619f6bef964e22cab68f63a174b5d22ebe"),
    "ga": ("gle", _OLD, "e91944fce8a445a4454dce0cf93839d4ed61f1ce362074152fbcd3b67ffdca50"),
    "hr": ("hrv", _OLD, "f63ebe17becbcae416fd3ac0d8d949f03e1e876bc5ca51aeb9a1c601e7664897"),
    "hu": ("hun", _OLD, "64eec7b44df8c8f2ce4c787a3070f90c56907b384e72618a9f7bdb9cd988bcb8"),
    "la": ("lat", _OLD, "659c9f87b5f6198ef575e805c09100add95038045987e25af2a1442346983f5d"),
    "lt": ("lit", _OLD, "c4f07e6f56e9e8ba2dfdbf746098c0644edec3497ba9d78962c020e7371f95e0"),
    "nb": ("nor", _NEW, "cf0c56bd607b30ec0481fcc002b062b9f220e6870a0d6abcc2796bebb68b2097"),
    "nl": ("nld", _OLD, "82bc479217e728e95d61aedc4dfb8472b4a9db23412e9754b8f24a9a2d50e943"),
    "sr": ("srp", _OLD, "1c9896e4dbdd0146af09cb7d58903783f007e2d26519d7f22e47ce0db402adb6"),
    "sv": ("swe", _OLD, "55feb9aff9abcc0be412dd11d9d46bc25eec4a80900a7701e57e6ad10331140e"),
    "sw": ("swh", _OLD, "ad003a94afad9b5b70951d287f7a2d28f8c27b9d9108d999f682eca85d26f0d7"),
}


def _part(lang: str, code: str, version: str, sha256: str) -> DebianPart:
    package = f"dict-freedict-eng-{code}"
    return DebianPart(
        title=f"English-{languages.name(lang)} dictionary",
        package=package,
        version=version,
        sha256=sha256,
        inside="usr/share/dictd",
        kept=(f"freedict-eng-{code}.dict.dz", f"freedict-eng-{code}.index"),
        licence="GPL-2.0-or-later" if version == _OLD else "CC-BY-SA-3.0",
        attribution=f"English-{languages.name(lang)} nouns: FreeDict, Debian {package} {version}, free licence in its "
        "copyright file",
    )


MORE_DICTIONARIES: dict[str, DebianPart] = {lang: _part(lang, *facts) for lang, facts in _PACKAGES.items()}


def dictionary_rows(folders: Mapping[DebianPart, Path], words: Mapping[str, bool], skipped: Counter[str]) -> list[Row]:
    """Returns the translations of nouns with the English noun as target, language by language.

    Args:
        folders: where dictionaries are; those that are absent give no rows.
        words: nouns in lower case, and whether each is hardly ever another part of speech.
        skipped: counts damaged lines and entries, by reason.
    """
    rows = []
    for lang, part in MORE_DICTIONARIES.items():
        if part in folders:
            dictionary = read_dictionary(folders[part], lang, words, part)
            skipped.update(dictionary.skipped)
            rows += [Row(_as_written(translation, lang), lang, word) for word, translation in dictionary.pairs]
    return rows


def _as_written(text: str, lang: str) -> str:
    """Returns a word as people write it: without ligatures, Bulgarian stress marks and the hats of old Hungarian fonts.

    >>> _as_written("étkezôkocsi", "hu")
    'étkezőkocsi'
    """
    text = unicodedata.normalize("NFKC", text)
    if lang == "bg":
        return text.replace("\u0300", "").replace("\u0301", "")
    return text.translate(_HUNGARIAN) if lang == "hu" else text
