"""`babelclip export`: what it prints, what it keeps, and what it refuses."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from babelclip.cli import export as verb
from babelclip.cli.main import app
from babelclip.errors import BabelclipError, MissingExtraError
from babelclip.models.clip import Clip
from babelclip.models.export import TARGETS, export, export_checked, parity
from tests.conftest import make_clip, make_text_encoder

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Clip(space="test/tiny", text=make_text_encoder(layers=1)).save(tmp_path / "model")


def run(*arguments: object):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def test_onnx_is_written_compared_and_reported(model: Path, tmp_path: Path):
    done = run(model, "--to", "onnx", "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["kept"]
    (compared,) = report["parity"]
    assert (compared["tower"], compared["read_by"], compared["passed"]) == ("text", "onnxruntime", True)
    assert compared["max_difference"] < 1e-5
    assert compared["min_cosine"] > 0.99999
    assert (tmp_path / "out" / "text_encoder.onnx").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


@pytest.mark.parametrize(
    ("to", "name", "towers"),
    [("mclip", "mclip_xlmr", ["text"]), ("altclip", "altclip_hub", ["text", "image"])],
)
def test_other_layouts_are_compared_too(tmp_path: Path, to: str, name: str, towers: list[str]):
    done = run(GOLDEN / name, "--to", to, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert re.search("max difference +min cosine", done.output)
    assert [tower for tower in ("text", "image") if f" {tower} " in done.output] == towers


def test_float16_and_diffusers_without_its_library_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parity, "find_spec", lambda _name: None)
    settings = ("--preset", "altdiffusion-m9", "--dtype", "float16")
    done = run(GOLDEN / "altclip_hub", "--to", "diffusers", "--out", tmp_path / "out", *settings)
    assert done.exit_code == 0, done.output
    assert "Not compared" in done.output
    assert '"torch_dtype": "float16"' in (tmp_path / "out" / "text_encoder" / "config.json").read_text()


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison finds other vectors."""
    own = parity._own

    def mirrored(*arguments):
        reader = own(*arguments)
        return parity._Reader("babelclip", lambda texts: reader.text(texts)[:, ::-1])

    monkeypatch.setitem(parity._READERS, "mclip", mirrored)


def test_files_that_differ_are_not_kept_and_an_older_folder_stays(tmp_path: Path, wrong: None):
    out = tmp_path / "out"
    out.mkdir()
    (out / "older").write_text("still here")
    done = run(GOLDEN / "mclip_xlmr", "--to", "mclip", "--out", out, "--overwrite")
    assert done.exit_code == 1
    assert "TOO FAR" in done.output
    assert "Nothing was kept" in done.output
    assert [path.name for path in out.iterdir()] == ["older"]
    assert list(tmp_path.iterdir()) == [out]


def test_force_keeps_files_that_differ(tmp_path: Path, wrong: None):
    done = run(GOLDEN / "mclip_xlmr", "--to", "mclip", "--out", tmp_path / "out", "--force")
    assert done.exit_code == 0
    assert "TOO FAR" in done.output
    assert (tmp_path / "out" / "config.json").is_file()


def test_a_vector_that_is_no_number_fails_the_comparison():
    wanted = np.eye(3)
    found = wanted.copy()
    found[1, 1] = np.nan
    assert not parity._figures("text", "x", 3, found, wanted, "int8").passed
    assert parity._figures("text", "x", 3, wanted, wanted, "float32").passed


def test_the_folder_that_one_is_in_is_never_replaced(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    work = tmp_path / "work"
    (work / "here").mkdir(parents=True)
    (work / "note.txt").write_text("kept")
    monkeypatch.chdir(work / "here")
    for out in ("..", work):
        result = run(model, "--to", "mclip", "--out", out, "--overwrite")
        assert result.exit_code == 1
        assert "the folder that you are in" in str(result.exception)
    assert (work / "note.txt").read_text() == "kept"


def test_a_folder_with_files_is_not_replaced_unasked(model: Path):
    with pytest.raises(BabelclipError, match=r"not empty.*--overwrite"):
        verb.export(model=str(model), to="onnx", out=model, overwrite=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"to": "onx"}, "Did you mean 'onnx'"),
        ({"to": "mclip", "dtype": "int8"}, "no dtype 'int8'.*float32"),
        ({"to": "altclip", "towers": "text"}, "no towers 'text'"),
        ({"to": "onnx", "preset": "m9"}, "no option 'preset'. It has none"),
        ({"to": "diffusers"}, "--preset altdiffusion-m9"),
    ],
)
def test_what_a_target_does_not_offer_is_refused(tmp_path: Path, settings: dict, message: str):
    with pytest.raises(BabelclipError, match=message):
        export(make_clip(), tmp_path / "out", **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"babelclip\[export\]"):
        export_checked(make_clip(), tmp_path / "out", to="openvino")
    assert list(tmp_path.iterdir()) == []


def test_the_help_names_every_target():
    help_text = run("--help").output
    assert [name for name in TARGETS if name not in help_text] == []


@pytest.mark.parametrize("to", sorted(TARGETS))
def test_a_model_in_int8_is_refused_with_the_way_round(tmp_path: Path, to: str):
    from babelclip.models.quantize import quantize

    clip = Clip(space="test/tiny", text=quantize(make_text_encoder(layers=1)), name="tiny")
    with pytest.raises(BabelclipError, match="tiny was loaded in int8"):
        export(clip, tmp_path / "out", to=to, towers="text" if "text" in TARGETS[to].towers else "both")
    assert not (tmp_path / "out").exists()
