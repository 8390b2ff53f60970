"""A tokenizer.json of a stranger may be readable and still fail at the first text."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, models, processors

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


def test_languages_that_flores_lacks_get_the_token_of_their_kin():
    names = ["<unk>", "<pad>", "</s>", "eng_Latn", "nob_Latn", "quy_Latn", "por_Latn"]
    inner = Tokenizer(models.WordLevel({name: place for place, name in enumerate(names)}, unk_token="<unk>"))
    inner.post_processor = processors.TemplateProcessing(
        single="eng_Latn $A </s>", special_tokens=[("eng_Latn", 3), ("</s>", 2)]
    )
    tokenizer = TextTokenizer(inner, max_length=8, pad_id=1, language="no")
    told = [None, "en", "no", "quz", "pt-BR"]
    assert [row[0] for code in told for row in tokenizer(["a"], code)] == [4, 3, 4, 5, 6]
    assert tokenizer.language == "nb"  # what is saved and exported has a token of its own
    for code in ("sv", "sr-Latn"):
        with pytest.raises(BabelclipError, match=f"no token for the language {code}"):
            tokenizer(["a"], code)
