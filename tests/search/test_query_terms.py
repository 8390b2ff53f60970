from __future__ import annotations

import numpy as np
import pytest

from babelclip.errors import BabelclipError
from babelclip.search.query_terms import Term, normal, parse_query

CASES = {
    "beach": [("beach", 1)],
    "beach - people + 'at night'": [("beach", 1), ("people", -0.5), ("at night", 1)],
    "black -white cat": [("black", 1), ("white cat", -0.5)],
    "- people": [("people", -0.5)],
    "t-shirt -5 degrees": [("t-shirt -5 degrees", 1)],
    '"a - b" + c^2': [("a - b", 1), ("c", 2)],
    "code - bugs^1.5": [("code", 1), ("bugs", -1.5)],
    "code - bugs^1": [("code", 1), ("bugs", -1)],
    "l'été - 'la plage'": [("l'été", 1), ("la plage", -0.5)],
    "海 － 人": [("海", 1), ("人", -0.5)],
    "海\u3000－人": [("海", 1), ("人", -0.5)],
    "„zwei Hunde“ + «снег» + 「雪」": [("zwei Hunde", 1), ("снег", 1), ("雪", 1)],
    "rock -- roll": [("rock -- roll", 1)],
    "C++": [("C++", 1)],
    "'90s cars": [("'90s cars", 1)],
    '"unclosed - mark': [('"unclosed', 1), ("mark", -0.5)],
    "2^3": [("2", 3)],
    "": [],
    "  -  ": [],
    "a -": [("a", 1)],
}


@pytest.mark.parametrize("line", CASES)
def test_a_line_of_text_becomes_terms(line):
    assert [(term.text, term.weight) for term in parse_query(line)] == CASES[line]


def test_texts_are_in_one_form_however_they_were_typed():
    assert normal("  e\u0301te\u0301 ") == "été"
    assert parse_query("e\u0301te\u0301")[0].text == "été"


def test_a_term_is_one_thing_with_a_weight():
    vector = np.ones(3, np.float32)
    cases = [({}, "nothing"), ({"text": "a", "id": "b"}, "text and id"), ({"text": " "}, "empty")]
    cases += [({"vector": vector, "weight": 0.0}, "weight 0"), ({"id": "a", "weight": float("nan")}, "nan")]
    for settings, words in cases:
        with pytest.raises(BabelclipError, match=words):
            Term(**settings)
    assert (Term(vector=vector).kind, Term(text="a").kind) == ("image", "text")


def test_too_many_terms_and_weights_of_zero_are_refused():
    with pytest.raises(BabelclipError, match="33 terms"):
        parse_query(" + ".join("a" * 33))
    with pytest.raises(BabelclipError, match="weight 0"):
        parse_query("a + b^0")
