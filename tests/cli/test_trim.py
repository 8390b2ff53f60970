from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

import babelclip
from babelclip.data.captions import Captions, write_captions
from tests.cli.test_cli import call
from tests.conftest import make_clip


@pytest.fixture
def model(tmp_path):
    return make_clip().save(tmp_path / "model")


@pytest.fixture
def captions(tmp_path):
    path = tmp_path / "captions.jsonl"
    texts = [f"a {colour} {shape}" for colour in ("red", "green", "blue") for shape in ("circle", "star", "dog", "cat")]
    texts += ["två hundar", "röd katt", "собака"]
    langs = ["en"] * 12 + ["sv"] * 2 + ["ru"]
    write_captions(Captions.from_columns(text=texts, lang=langs), path)
    return path


def test_a_model_is_trimmed_to_the_scripts_of_its_languages(tmp_path, model):
    code, out, error = call("trim", model, "--lang", "sv,en", "--out", tmp_path / "small")
    assert code == 0, error
    assert "largest difference to the whole model 0" in out
    whole, small = babelclip.load(model, device="cpu"), babelclip.load(tmp_path / "small", device="cpu")
    texts = ["två hundar", "A red star, 12!"]
    np.testing.assert_array_equal(small.encode_text(texts), whole.encode_text(texts))
    assert small.image is not None
    assert (small.name, small.space) == ("tiny-trimmed", "test/tiny")
    assert small.text.tokenizer.vocabulary_size < whole.text.tokenizer.vocabulary_size


def test_the_report_is_json_with_captions_held_out_texts_and_samples(tmp_path, model, captions):
    (tmp_path / "sample.txt").write_text("a yellow square\na red dog\n", encoding="utf-8")
    arguments = ("--captions", captions, "--sample", f"en={tmp_path / 'sample.txt'}", "--json")
    code, out, error = call("trim", model, "--lang", "en,sv", "--out", tmp_path / "small", *arguments)
    assert code == 0, error
    assert "1 in ru left out" in error
    report = json.loads(out)
    assert report["languages"] == ["en", "sv"]
    assert report["pieces"] < report["pieces_before"]
    assert report["exact"]["max_difference"] == 0.0
    assert {code: row["texts"] for code, row in report["captions"].items()} == {"en": 12, "sv": 2}
    for row in report["captions"].values():
        assert (row["texts_changed"], row["words_changed"], row["unknown_share"]) == (0, 0, 0.0)
    assert report["held_out"]["en"]["texts"] == 2
    assert (report["samples"]["en"]["texts"], report["samples"]["en"]["texts_changed"]) == (2, 1)
    assert babelclip.load(tmp_path / "small").text.tokenizer.vocabulary_size == report["pieces"]


def test_plain_lines_take_their_language_from_the_name_of_the_file(tmp_path, model):
    with gzip.open(tmp_path / "train.sv.gz", "wt", encoding="utf-8") as file:
        file.write("två hundar\nröd katt\n")
    base = ("trim", model, "--out", tmp_path / "small", "--lang", "en,sv", "--json", "--captions")
    assert json.loads(call(*base, tmp_path / "train.sv.gz")[1])["captions"]["sv"]["texts"] == 2
    (tmp_path / "lines.txt").write_text("a dog\n", encoding="utf-8")
    code, _, error = call(*base, tmp_path / "lines.txt")
    assert code == 1
    assert f"--captions en={tmp_path / 'lines.txt'}" in error


def test_what_became_unknown_is_a_warning(tmp_path, model):
    (tmp_path / "sample.txt").write_text("a dog\nкрасный\n", encoding="utf-8")
    arguments = ("--lang", "en", "--sample", tmp_path / "sample.txt", "--out", tmp_path / "small")
    code, out, error = call("trim", model, *arguments)
    assert code == 0
    assert "of the samples in en are unknown now, against 0.00% before" in error
    assert "sample, en" in out


def test_a_trimmed_model_says_so_when_it_is_trimmed_again(tmp_path, model):
    assert call("trim", model, "--lang", "en", "--out", tmp_path / "small")[0] == 0
    code, _, error = call("trim", tmp_path / "small", "--lang", "en,de", "--out", tmp_path / "smaller")
    assert code == 0
    assert "This model was trimmed before" in error
    assert "Nothing was dropped" in error
    assert "was not trained on de" in error
    code, _, error = call("trim", tmp_path / "small", "--lang", "en,ru", "--out", tmp_path / "smaller")
    assert (code, "take the original model if this one was trimmed before" in error) == (1, True)


def test_vectors_that_differ_stop_the_command_before_it_writes(tmp_path, model, monkeypatch):
    monkeypatch.setattr("babelclip.models.trim_report.largest_difference", lambda *_: (3, 0.25))
    code, _, error = call("trim", model, "--lang", "en", "--out", tmp_path / "small")
    assert code == 1
    assert "differ by up to 0.25" in error
    assert not (tmp_path / "small").exists()


def test_wrong_input_ends_in_one_error_and_writes_nothing(tmp_path, model, captions):
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    clip = make_clip()
    clip.text = None
    pictures = clip.save(tmp_path / "pictures")
    cases = {
        ("--lang", "swedish"): "Did you mean sv",
        ("--lang", ","): "at least one",
        ("--lang", "th"): "no piece in the script of Thai",
        ("--lang", "de", "--captions", captions): "holds no text in de",
        ("--lang", "en", "--captions", tmp_path / "empty.txt"): "empty.txt",
        ("--lang", "en", "--captions", tmp_path / "absent.txt"): "absent.txt",
        ("--lang", "ja", "--captions", f"ja={tmp_path / 'latin.txt'}"): "another script",
        ("--lang", "en", "--min-count", "0"): "min_count is 0",
    }
    (tmp_path / "latin.txt").write_text("a dog\n", encoding="utf-8")
    for arguments, message in cases.items():
        code, out, error = call("trim", model, *arguments, "--out", tmp_path / "small")
        assert (code, out) == (1, ""), arguments
        assert message in error, error
        assert error.count("error: ") == 1
    code, _, error = call("trim", pictures, "--lang", "en", "--out", tmp_path / "small")
    assert (code, "no text tower" in error) == (1, True)
    assert not (tmp_path / "small").exists()
    code, _, error = call("trim", model, "--lang", "en", "--out", model)
    assert (code, "is the model itself" in error) == (1, True)


def test_the_help_has_examples():
    code, out, _ = call("trim", "--help")
    assert code == 0
    assert "Examples:" in out
    assert "  babelclip trim" in out
