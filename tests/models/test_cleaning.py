from __future__ import annotations

import numpy as np
import pytest

import babelclip
from babelclip.errors import BabelclipError
from babelclip.models.cleaning import CLEANINGS, cleaning_rule, plain_phrase
from babelclip.models.tokenization import TextTokenizer
from tests.conftest import make_clip, make_tokenizer


@pytest.mark.parametrize(
    ("given", "cleaned"),
    [
        ("En hund.", "en hund"),
        ("  Красная роза.  ", "красная роза"),
        ("一只狗。", "一只狗"),
        ("एक बाघ।", "एक बाघ"),
        ("A dog", "a dog"),
        ("NASA.", "NASA"),
        ("F-22", "F-22"),
        ("Éléphant", "éléphant"),
        ("Is it a dog?", "is it a dog?"),
        ("A", "A"),
        ("", ""),
        ("...", ""),
        ("iPhone", "iPhone"),
    ],
)
def test_a_sentence_becomes_a_phrase(given, cleaned):
    assert plain_phrase(given) == cleaned
    assert plain_phrase(cleaned) == cleaned


def test_the_rule_belongs_to_the_model_and_survives_saving(tmp_path):
    clip = make_clip()
    plain = clip.encode_text(["a dog"])
    assert np.abs(clip.encode_text(["A dog."]) - plain).max() > 1e-3
    clip.text.tokenizer = TextTokenizer(make_tokenizer()._tokenizer, max_length=16, pad_id=1, cleaning="plain_phrase")
    clip.save(tmp_path / "model")
    again = babelclip.load(tmp_path / "model")
    np.testing.assert_array_equal(again.encode_text(["A dog."]), again.encode_text(["a dog"]))
    np.testing.assert_allclose(again.encode_text(["A dog."]), plain, atol=1e-6)


def test_an_unknown_rule_names_the_closest():
    assert {"none", "plain_phrase", "whitespace", "lower", "canonicalize", "siglip", "lowercase"} <= set(CLEANINGS)
    with pytest.raises(BabelclipError, match="Did you mean 'plain_phrase'"):
        cleaning_rule("plain_phrases")
