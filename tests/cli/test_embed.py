"""`babelclip embed`: captions and pictures, what it says, and what it refuses before it begins."""

from __future__ import annotations

import pytest

from babelclip.data.captions import Captions, write_captions
from babelclip.store import EmbeddingStore
from tests.cli.test_cli import call
from tests.conftest import make_clip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_clip().save(folder)
    return folder


@pytest.fixture
def captions(tmp_path):
    rows = Captions.from_columns(
        id=["1", "1-sv", "2", "2-de", "3"],
        text=["a dog", "en hund", "a cat", "eine Katze", "a dog"],
        lang=["en", "sv", "en", "de", "en"],
        source_id=[None, "1", None, "2", None],
        image=["red-circle.png", None, "broken.jpg", None, "red-circle.png"],
    )
    write_captions(rows, tmp_path / "captions.jsonl")
    return tmp_path / "captions.jsonl"


def test_embed_says_what_it_did_and_what_it_left_out(tmp_path, model, captions):
    code, out, error = call("embed", captions, "--sources-only", "--model", model, "--out", tmp_path / "s")
    assert code == 0, error
    assert "3 vectors of 16 dimensions, float16, projected, space test/tiny" in out
    assert "3 captions added to 0; 2 distinct texts encoded" in error
    assert "left out: 2 left to its source's vector" in error
    assert "not trained on" not in error
    code, _, error = call("embed", captions, "--model", model, "--out", tmp_path / "s")
    assert code == 0, error
    assert "2 captions added to 3; 2 distinct texts encoded" in error
    assert "warning: tiny was not trained on de, and its vectors of 1 captions may be poor" in error


def test_embed_stores_pooled_targets_and_says_what_they_are(tmp_path, model, captions):
    arguments = ("embed", captions, "--lang", "en", "--model", model, "--target", "pooled", "--dtype", "float32")
    code, out, error = call(*arguments, "--devices", "cpu,cpu", "--batch", 64, "--out", tmp_path / "s")
    assert code == 0, error
    assert "3 vectors of 32 dimensions, float32, pooled" in out
    assert "target pooled: mean of the token states, before the projection" in error
    assert EmbeddingStore.open(tmp_path / "s").target == "pooled"


def test_embed_takes_a_folder_of_pictures_names_the_bad_and_says_what_was_the_limit(tmp_path, model, picture_folder):
    code, out, error = call("embed", picture_folder, "--model", model, "--out", tmp_path / "s")
    assert code == 0, error
    assert "12 vectors of 16 dimensions" in out
    assert "12 pictures added to 0; 1 skipped" in error
    assert "skipped: " in error
    assert "broken.jpg" in error
    assert "was the limit" in error
    code, _, error = call("embed", picture_folder, "--model", model, "--out", tmp_path / "t", "--strict")
    assert code == 1
    assert "broken.jpg" in error


def test_embed_takes_the_pictures_of_captions_when_asked(tmp_path, model, picture_folder, captions):
    arguments = ("embed", captions, "--images", "--image-root", picture_folder, "--model", model)
    code, _, error = call(*arguments, "--out", tmp_path / "s")
    assert code == 0, error
    assert EmbeddingStore.open(tmp_path / "s").ids == ["red-circle.png"]
    assert "1 pictures added to 0; 1 skipped" in error
    assert "left out: 2 captions that name no picture" in error


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--target", "penultimate"), "one vector a row"),
        (("--target", "poled"), "Did you mean 'pooled'"),
        (("--workers", 2), "--workers was given, but texts are embedded"),
        (("--image-root", "x"), "add --images"),
        (("--images", "--sources-only"), "--sources-only was given, but pictures are embedded"),
        (("--publish", "x"), "without --licence"),
        (("--licence", "x"), "belong to --publish"),
        (("--devices", "cuda:77"), "cuda:77"),
        (("--lang", "germn"), "germn"),
    ],
)
def test_embed_refuses_what_makes_no_sense_and_says_what_to_do(tmp_path, model, captions, given, told):
    code, out, error = call("embed", captions, "--model", model, "--out", tmp_path / "s", *given)
    assert (code, out) == (1, "")
    assert told in error
    assert "Traceback" not in error


def test_embed_finds_out_that_a_source_is_missing_before_it_loads_the_model(tmp_path):
    code, _, error = call("embed", tmp_path / "absent.jsonl", "--model", "no/such", "--out", tmp_path / "s")
    assert code == 1
    assert "absent.jsonl" in error


def test_ctrl_c_says_what_is_kept(tmp_path, model, captions, monkeypatch):
    assert call("embed", captions, "--lang", "en", "--model", model, "--out", tmp_path / "s")[0] == 0

    def interrupted(*_given, **_settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("babelclip.data.embed.embed_captions", interrupted)
    code, _, error = call("embed", captions, "--model", model, "--out", tmp_path / "s")
    assert code == 130
    assert f"{tmp_path / 's'} keeps 3 vectors." in error
    assert "Run the same command again" in error


def test_embed_publishes_the_sources_of_a_translate_folder_with_vectors_and_the_rest_without(tmp_path, model):
    folder = tmp_path / "translated"
    english = Captions.from_columns(text=["a dog", "a cat"], lang="en", id=["1", "2"])
    swedish = Captions.from_columns(text=["en hund"], lang="sv", id=["1-sv"], source_id=["1"])
    for name, rows in (("sources", english), ("translations/sv", swedish)):
        (folder / name).mkdir(parents=True)
        write_captions(rows, folder / name / "00000.parquet")
    (folder / "manifest.json").write_text('{"complete": true}')
    arguments = ("embed", folder, "--model", model, "--out", tmp_path / "s", "--publish", tmp_path / "hub")
    code, out, error = call(*arguments, "--licence", "cc0-1.0")
    assert code == 0, error
    assert "is a folder of translations: embedding its sources" in error
    assert "2 rows with vectors, 1 translations, cc0-1.0" in out


def test_embed_publishes_vectors_with_their_captions(tmp_path, model, captions):
    arguments = ("embed", captions, "--sources-only", "--model", model, "--out", tmp_path / "s")
    code, out, error = call(*arguments, "--publish", tmp_path / "hub", "--licence", "cc-by-4.0", "--attribution", "Me")
    assert code == 0, error
    assert "3 rows with vectors, 2 translations, cc-by-4.0" in out
    assert "cc-by-4.0" in (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")


def test_embed_publishes_the_captions_that_it_embeds_with_the_language_that_was_told(tmp_path, model):
    path = tmp_path / "c.jsonl"
    path.write_text('{"id": 1, "text": "a dog"}\n{"id": 2, "text": "en hund", "lang": "sv"}\n', encoding="utf-8")
    arguments = ("embed", path, "--lang", "en", "--default-lang", "en", "--model", model, "--out", tmp_path / "s")
    code, out, error = call(*arguments, "--publish", tmp_path / "hub", "--licence", "cc0-1.0")
    assert code == 0, error
    assert "1 rows with vectors, 0 translations" in out
