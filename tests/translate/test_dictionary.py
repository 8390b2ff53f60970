from __future__ import annotations

import pytest

from babelclip.data.captions import Captions
from babelclip.errors import BabelclipError
from babelclip.translate.engine import open_engine

PAIRS = Captions.from_columns(
    id=["1", "2", "3", "4", "5", "6"],
    text=["dog", "hund", "Hund", "cat", "jycke", "chien"],
    lang=["en", "sv", "de", "en", "sv", "fr"],
    source_id=[None, "1", "1", None, "1", "7"],
)


def test_texts_are_looked_up_exactly():
    engine = open_engine("dictionary", dictionary=PAIRS)
    assert engine.translate(["dog", "Dog", "cat", "", "dog"], "en", "swe_Latn") == ["hund", "", "", "", "hund"]
    assert engine.translate(["dog"], "eng_Latn", "de") == ["Hund"]


def test_languages_are_those_with_a_pair():
    engine = open_engine("dictionary", dictionary=PAIRS)
    assert engine.languages() == ("de", "sv")
    assert engine.model("sv") == "dictionary of 1 texts"
    with pytest.raises(BabelclipError, match=r"from en into fr.*it has de, sv"):
        engine.translate(["dog"], "en", "fr")


def test_a_table_without_pairs_is_an_error():
    with pytest.raises(BabelclipError, match="None of the 1 captions"):
        open_engine("dictionary", dictionary=PAIRS.select(lang="fr"))
