from __future__ import annotations

import sys

import pytest

from babelclip.data.captions import Captions
from babelclip.errors import BabelclipError, MissingExtraError
from babelclip.translate.engine import ENGINES, open_engine


def test_an_unknown_engine_is_met_with_the_closest_name():
    with pytest.raises(BabelclipError, match=r"'apertum' is not known\. Did you mean 'apertium'"):
        open_engine("apertum")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"compute": "int4"}, "compute='int4' is not known. Did you mean 'int8'"),
        ({"device": "gpu"}, "device='gpu' is not known"),
        ({"beam_size": 0}, "beam_size=0 is too small"),
        ({"threads": -1}, "threads=-1 is too small"),
    ],
)
def test_settings_of_neural_engines_are_checked_before_anything_is_loaded(given, said):
    with pytest.raises(BabelclipError, match=said):
        open_engine("opus", **given)


@pytest.mark.parametrize(
    ("name", "module"), [("opus", "ctranslate2"), ("opus", "sacremoses"), ("nllb", "sentencepiece")]
)
def test_a_missing_extra_is_named(monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"{module}.*babelclip\[translate\]"):
        open_engine(name)


def test_the_dictionary_must_be_given():
    with pytest.raises(BabelclipError, match="Give dictionary=Captions"):
        open_engine("dictionary")


def test_engines_are_named_as_they_are_opened():
    pairs = Captions.from_columns(id=["a", "b"], text=["dog", "hund"], lang=["en", "sv"], source_id=[None, "a"])
    for name in ENGINES:
        if name != "apertium":
            engine = open_engine(name, dictionary=pairs)
            assert engine.name == name
            assert engine.batch_size > 0
            assert list(engine.languages()) == sorted(set(engine.languages()))
            engine.close()
            engine.close()


def test_what_a_neural_engine_has_no_model_for_is_said_with_a_cure():
    with pytest.raises(BabelclipError, match=r"No OPUS-MT model from English into ko.*the engine nllb"):
        open_engine("opus").translate(["a dog"], "en", "ko")
    with pytest.raises(BabelclipError, match="the texts are in sv"):
        open_engine("opus").translate(["en hund"], "sv", "de")
