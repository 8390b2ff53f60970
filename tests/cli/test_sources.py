"""Verbs that take captions take every kind of source."""

from __future__ import annotations

import json

import pytest

from tests.cli.test_cli import call
from tests.conftest import COLOURS, draw_shape, make_clip
from tests.data.layouts import write_tar


@pytest.fixture
def model(tmp_path):
    return make_clip().save(tmp_path / "model")


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for colour in COLOURS:
        draw_shape(colour, "circle").save(folder / f"{colour}.png")
        (folder / f"{colour}.txt").write_text(f"en {colour} cirkel\n", encoding="utf-8")
    return folder


def test_evaluate_takes_pictures_with_texts_beside_them(tmp_path, model, pictures):
    code, _, error = call("evaluate", model, "--captions", pictures)
    assert (code, "pass the language" in error) == (1, True)
    code, _, error = call("evaluate", model, "--captions", pictures, "--lang", "sv", "--out", tmp_path / "r.json")
    assert code == 0, error
    results = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert {(row["language"], row["n_images"], row["dataset"]) for row in results} == {("sv", len(COLOURS), "pictures")}


def test_evaluate_reads_pictures_inside_tars(tmp_path, model, pictures):
    members = [(path.name, path.read_bytes()) for path in sorted(pictures.iterdir())]
    tars = tmp_path / "tars"
    tars.mkdir()
    write_tar(tars / "0.tar", members)
    cache = {"BABELCLIP_CACHE": str(tmp_path / "cache")}
    out = tmp_path / "r.json"
    code, _, error = call("evaluate", model, "--captions", tars, "--lang", "sv", "--out", out, **cache)
    assert code == 0, error
    inside = json.loads(out.read_text(encoding="utf-8"))
    code, _, error = call(
        "evaluate", model, "--captions", pictures, "--lang", "sv", "--out", tmp_path / "p.json", **cache
    )
    assert code == 0, error
    beside = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert [row["metrics"] for row in inside] == [row["metrics"] for row in beside]


def test_trim_takes_tmx_and_folders_of_parts(tmp_path, model):
    units = "".join(
        f'<tu><tuv xml:lang="en"><seg>a {word}</seg></tuv><tuv xml:lang="sv"><seg>en {word}</seg></tuv></tu>'
        for word in ("red star", "blue dog")
    )
    (tmp_path / "m.tmx").write_text(f'<tmx><header srclang="en"/><body>{units}</body></tmx>', encoding="utf-8")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "0.jsonl").write_text('{"text": "två hundar", "lang": "sv"}\n', encoding="utf-8")
    sources = ("--captions", tmp_path / "m.tmx", "--captions", tmp_path / "parts", "--json")
    code, out, error = call("trim", model, "--lang", "sv,en", "--out", tmp_path / "small", *sources)
    assert code == 0, error
    assert {code: row["texts"] for code, row in json.loads(out)["captions"].items()} == {"en": 2, "sv": 3}
    code, _, error = call("trim", model, "--lang", "sv", "--captions", tmp_path / "m.tmxx", "--out", tmp_path / "x")
    assert code == 1
    assert "Did you mean" in error
