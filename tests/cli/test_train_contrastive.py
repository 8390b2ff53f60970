"""`babelclip train` with contrastive recipes: one stage, several, and what is printed."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import babelclip
from babelclip.cli.main import app
from babelclip.data.captions import Captions, write_captions
from tests.conftest import make_clip

RECIPE = """
[train]
kind = "contrastive"
steps = 2
batch_size = 6
precision = "fp32"
device = "cpu"
validate_every = 1
best_is = "highest"

[student]
model = "{folder}/base"

[data]
captions = ["{folder}/pictures/captions.jsonl"]
benchmark = ["{folder}/pictures/captions.jsonl"]
"""
STAGES = """
[[stages]]
name = "text"

[[stages]]
name = "heads"

[stages.towers]
image = "head"
text = "head"
"""


@pytest.fixture
def folder(tmp_path: Path, picture_folder: Path) -> Path:
    make_clip().save(tmp_path / "base")
    names = sorted(str(path.relative_to(picture_folder)) for path in picture_folder.rglob("*.png"))
    texts = [Path(name).stem.replace("-", " ") for name in names]
    captions = Captions.from_columns(text=[*texts, "lost"], lang=["en"] * 12 + ["sv"], image=[*names, "lost.png"])
    write_captions(captions, picture_folder / "captions.jsonl")
    return tmp_path


def run(folder: Path, text: str, *more: str):
    (folder / "recipe.toml").write_text(text.format(folder=folder), encoding="utf-8")
    return CliRunner().invoke(app, ["train", str(folder / "recipe.toml"), "--out", str(folder / "out"), *more])


def test_a_recipe_trains_measures_and_saves_and_says_what_it_left_out(folder: Path):
    write = folder / "pictures" / "held-out.jsonl"
    write.write_text((folder / "pictures" / "captions.jsonl").read_text().replace("lost.png", "red-circle.png"))
    result = run(folder, RECIPE, "--set", f'data.benchmark=["{write}"]')
    assert result.exit_code == 0, result.output
    assert "finished at step 2" in result.output
    assert "left out: 1 (picture is not there)" in result.output
    assert "R@10/sv: " in result.output
    clip = babelclip.load(folder / "out" / "model")
    assert clip.space == "test/tiny"
    assert clip.logit_scale != 10.0
    assert clip.encode_text(["red circle"]).shape == (1, 16)


def test_a_recipe_of_stages_makes_a_model_a_stage_and_goes_on_after_them(folder: Path):
    text = RECIPE.replace('benchmark = ["{folder}/pictures/captions.jsonl"]', "").replace('best_is = "highest"', "")
    text = text.replace("validate_every = 1", "")
    result = run(folder, text + STAGES)
    assert result.exit_code == 0, result.output
    spaces = [babelclip.load(folder / "out" / name / "model").space for name in ("stage-1-text", "stage-2-heads")]
    assert spaces == ["test/tiny", "test/tiny+stage-2-heads"]
    again = run(folder, text + STAGES, "--resume")
    assert (again.exit_code, again.output) == (0, "")


def test_a_picture_tower_beside_a_contrastive_recipe_is_refused(folder: Path):
    result = run(folder, RECIPE, "--image", str(folder / "base"))
    assert result.exit_code == 1
    assert "towers.image_model" in str(result.output) + str(result.exception)
