"""Tokenizers built from a sentencepiece file give the ids of the original tokenizers, and damage is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints.files.sentencepiece_file import read_sentencepiece, siglip_tokenizer, xlmr_tokenizer
from babelclip.models.cleaning import siglip as cleaned
from tests.golden.inputs import TEXTS
from tests.models.checkpoints.folders import GOLDEN

XLMR = GOLDEN / "tokenizer_sentencepiece" / "sentencepiece.bpe.model"
SIGLIP = GOLDEN / "siglip" / "spiece.model"
MORE = ["a▁b", "a \u200b dog ", "\u3000dog\u00a0dog", "</s> dog", "<unk>", "é", "\n\n", "a" * 300]


def test_xlmr_ids_equal_those_of_transformers():
    expected = json.loads((XLMR.parent / "expected.json").read_text())
    tokenizer = xlmr_tokenizer(XLMR)
    tokenizer.enable_truncation(24)
    assert [tokenizer.encode(text).ids for text in TEXTS] == expected["ids"]
    assert tokenizer.token_to_id("<pad>") == expected["pad_id"] == 1
    assert tokenizer.token_to_id("<mask>") == tokenizer.get_vocab_size() - 1


def test_siglip_ids_equal_those_of_the_published_tokenizer_json():
    built, published = siglip_tokenizer(SIGLIP), Tokenizer.from_file(str(SIGLIP.parent / "tokenizer.json"))
    for text in [cleaned(text) for text in TEXTS + MORE]:
        assert built.encode(text).ids == published.encode(text).ids, text
    assert built.encode("").ids == [1]


def test_the_pieces_and_the_table_of_characters_are_read():
    model = read_sentencepiece(SIGLIP)
    assert [piece for piece, _score in model.pieces[:3]] == ["<pad>", "</s>", "<unk>"]
    assert model.unknown == 2
    assert all(score <= 0 for _piece, score in model.pieces)
    assert len(read_sentencepiece(XLMR).characters) > 100_000


@pytest.mark.parametrize("reader", [xlmr_tokenizer, siglip_tokenizer])
@pytest.mark.parametrize("length", [0, 1, 7, 500, -1])
def test_a_cut_or_foreign_file_is_named(tmp_path: Path, reader, length: int):
    content = SIGLIP.read_bytes()
    path = tmp_path / "spiece.model"
    path.write_bytes(b"\x00\x01 no model" if length < 0 else content[:length])
    with pytest.raises(BabelclipError, match=r"spiece\.model gives no tokenizer.*[Cc]opy|Put"):
        reader(path)


def test_a_damaged_table_of_characters_is_an_error(tmp_path: Path):
    content = bytearray(SIGLIP.read_bytes())
    table = read_sentencepiece(SIGLIP).characters
    start = bytes(content).index(table)
    content[start : start + 4] = b"\xff\xff\xff\xff"
    path = tmp_path / "spiece.model"
    path.write_bytes(bytes(content))
    with pytest.raises(BabelclipError, match="gives no tokenizer"):
        siglip_tokenizer(path)


def outcome(path: Path) -> str:
    try:
        siglip_tokenizer(path).encode("a dog")
    except BabelclipError as error:
        return str(error)
    return f"{path} is read"


def test_every_damaged_byte_gives_a_tokenizer_or_one_error_that_names_the_file(tmp_path: Path):
    content = SIGLIP.read_bytes()
    path = tmp_path / "spiece.model"
    for position in range(0, len(content), 13):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
        assert str(path) in outcome(path)
