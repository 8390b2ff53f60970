"""A tokenizer.json of a stranger may be readable and still fail at the first text."""

from __future__ import annotations

import json

import pytest

from babelclip.errors import BabelclipError, of_rust
from babelclip.models.tokenization import TextTokenizer
from tests.conftest import make_tokenizer


def test_a_tokenizer_that_panics_at_a_text_is_an_error_that_says_so(tmp_path, capfd):
    content = json.loads(make_tokenizer().to_json())
    tokens = content["post_processor"]["special_tokens"]
    tokens["<]/s>"] = tokens.pop("</s>")  # the template still asks for </s>
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = TextTokenizer.from_file(tmp_path / "tokenizer.json", max_length=8, pad_id=1)
    with pytest.raises(BabelclipError, match=r"tokenizer fails at texts \(.*\).*Copy it again from the model's origin"):
        tokenizer(["two dogs"])
    assert "panicked" in capfd.readouterr().err


def test_what_the_user_stops_is_no_fault_of_a_library():
    assert of_rust(ValueError())
    assert not of_rust(KeyboardInterrupt())
    assert not of_rust(SystemExit())


def test_a_length_without_room_for_special_tokens_is_refused_and_not_taken_for_no_limit():
    tokenizer = TextTokenizer(make_tokenizer()._tokenizer, max_length=8, pad_id=1)
    for tokens in (-1, 0, 1):
        with pytest.raises(BabelclipError, match=f"max_length is {tokens}, and this tokenizer puts 2 special tokens"):
            tokenizer.max_length = tokens
    assert tokenizer.max_length == 8
    assert len(tokenizer(["a dog " * 50])[0]) == 8
