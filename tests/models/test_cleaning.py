from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import babelclip
from babelclip.errors import BabelclipError
from babelclip.models.cleaning import CLEANINGS, cleaning_rule, plain_phrase
from babelclip.models.tokenization import TextTokenizer
from tests.conftest import make_clip, make_tokenizer

CLEANED = json.loads((Path(__file__).parents[1] / "golden" / "cleaning.json").read_text(encoding="utf-8"))["cleaned"]


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


@pytest.mark.parametrize("rule", ["whitespace", "lower", "canonicalize", "siglip"])
def test_the_rules_of_open_clip_openai_and_transformers_give_their_texts(rule):
    assert len(CLEANED) > 250
    clean = cleaning_rule(rule)
    assert [row["text"] for row in CLEANED if clean(row["text"]) != row[rule]] == []
    assert sum(row["text"] != row[rule] for row in CLEANED) > 100


def test_full_width_half_width_and_ligatures_are_repaired_by_the_rules_that_use_ftfy_alone():
    text = "ＡＢ_Ｃ ｱ ﬁne “q”, &amp;"
    assert cleaning_rule("whitespace")(text) == 'AB_C ア fine "q", &'
    assert cleaning_rule("lower")(text) == 'ab_c ア fine "q", &'
    assert cleaning_rule("canonicalize")(text) == "ab c ア fine q"
    assert cleaning_rule("siglip")(text) == "ａｂｃ ｱ ﬁne “q” amp"
    assert cleaning_rule("lowercase")(text) == "ａｂ_ｃ ｱ ﬁne “q”, &amp;"
