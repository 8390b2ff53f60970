from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints.files.tokenizer_files import read_tokenizer, wanted
from tests.golden.inputs import TEXTS

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.mark.parametrize("name", ["tokenizer_sentencepiece", "tokenizer_wordpiece"])
def test_a_folder_without_tokenizer_json_gives_the_ids_of_transformers(name):
    expected = json.loads((GOLDEN / name / "expected.json").read_text())
    tokenizer = read_tokenizer(GOLDEN / name, max_length=24)
    assert tokenizer(TEXTS) == expected["ids"]
    assert tokenizer.pad_id == expected["pad_id"]


@pytest.mark.parametrize("model_type", ["M-CLIP", "xlm-roberta"])
def test_an_old_folder_that_does_not_name_its_tokenizer_is_told_by_the_kind_of_its_model(tmp_path, model_type):
    origin = GOLDEN / "tokenizer_sentencepiece"
    shutil.copy(origin / "sentencepiece.bpe.model", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    assert read_tokenizer(tmp_path, max_length=24)(TEXTS) == read_tokenizer(origin, max_length=24)(TEXTS)


def test_a_language_needs_a_tokenizer_of_nllb(tmp_path):
    folder = shutil.copytree(GOLDEN / "tokenizer_wordpiece", tmp_path / "copy")
    with pytest.raises(BabelclipError, match=r"without the token </s>, so it is none of NLLB's"):
        read_tokenizer(folder, max_length=24, language="sv")


def test_the_folders_own_limit_wins_where_it_is_shorter(tmp_path):
    folder = shutil.copytree(GOLDEN / "tokenizer_wordpiece", tmp_path / "copy")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 9}))
    assert read_tokenizer(folder, max_length=24).max_length == 9
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 10**30}))
    assert read_tokenizer(folder, max_length=24).max_length == 24


def test_a_folder_without_any_tokenizer_says_which_files_would_do(tmp_path):
    with pytest.raises(BabelclipError, match=r"none of tokenizer\.json, vocab\.txt.*towers=\"image\""):
        read_tokenizer(tmp_path, max_length=8)


@pytest.mark.parametrize("damage", ["", "{}", "no json"])
def test_a_damaged_tokenizer_json_is_named(tmp_path, damage):
    (tmp_path / "tokenizer.json").write_text(damage)
    with pytest.raises(BabelclipError, match=r"tokenizer\.json is not a tokenizer\.json"):
        read_tokenizer(tmp_path, max_length=8)


def test_a_damaged_sentencepiece_model_is_named(tmp_path):
    folder = shutil.copytree(GOLDEN / "tokenizer_sentencepiece", tmp_path / "copy")
    (folder / "sentencepiece.bpe.model").write_bytes(b"\x00\x01 no model")
    with pytest.raises(BabelclipError, match=r"sentencepiece\.bpe\.model gives no tokenizer"):
        read_tokenizer(folder, max_length=8)


def test_only_what_is_read_is_fetched():
    names = ["tokenizer.json", "sentencepiece.bpe.model", "tokenizer_config.json", "README.md", "model.safetensors"]
    assert wanted(names) == ["tokenizer.json", "tokenizer_config.json"]
    assert wanted(names[1:]) == ["sentencepiece.bpe.model", "tokenizer_config.json"]
