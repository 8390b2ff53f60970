"""`babelclip train` with a classify recipe: what is printed, saved, and refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import babelclip
from babelclip.cli.main import app
from babelclip.train.recipe import load_recipe
from tests.conftest import draw_shape, make_clip

RECIPE = """
[train]
kind = "classify"
steps = 4
batch_size = 6
lr = 1e-3
precision = "fp32"
device = "cpu"

[student]
model = "{folder}/model"

[classify]
pictures = "{folder}/train"
validation = "{folder}/held"
second_lang = "sv"
second_templates = ["ett {{}} foto"]
interpolate = [0.5, 1]

[classify.second_names]
red = "rött"
blue = "blått"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_clip().save(tmp_path / "model")
    for split, count in (("train", 6), ("held", 2)):
        for colour in ("red", "blue"):
            (tmp_path / split / colour).mkdir(parents=True)
            for number in range(count):
                draw_shape(colour, ("circle", "square")[number % 2], 30 + number).save(
                    tmp_path / split / colour / f"{number}.png"
                )
    (tmp_path / "train" / "red" / "broken.jpg").write_bytes(b"this is no picture")
    (tmp_path / "recipe.toml").write_text(RECIPE.format(folder=tmp_path), encoding="utf-8")
    return tmp_path


def train(folder: Path, *more: str):
    return CliRunner().invoke(app, ["train", str(folder / "recipe.toml"), "--out", str(folder / "out"), *more])


def test_a_recipe_trains_and_says_what_it_gave_in_both_languages(folder: Path):
    done = train(folder)
    assert done.exit_code == 0, done.output
    assert "train: 12 pictures, validation: 4 pictures" in done.output
    assert "left out: 1 (picture is unreadable)" in done.output
    assert done.output.count("<- chosen") == 1
    assert "acc1/en: " in done.output
    assert "mean_per_class_recall/sv: " in done.output
    clip = babelclip.load(folder / "out" / "model")
    assert (clip.name, clip.space) == ("out", "test/tiny+out")
    again = train(folder, "--resume")
    assert again.exit_code == 0, again.output
    assert "finished at step 4" in again.output


def test_a_picture_tower_from_elsewhere_and_a_class_that_is_not_held_out_are_errors(folder: Path):
    refused = train(folder, "--image", str(folder / "model"))
    assert refused.exit_code == 1
    assert "trains a model of two towers. Drop --image" in str(refused.exception)
    (folder / "held" / "red").rename(folder / "held" / "pink")
    refused = train(folder)
    assert refused.exit_code == 1
    assert "classify.validation" in str(refused.exception)
    assert "lacks the class folders red" in str(refused.exception)


def test_the_recipe_that_is_shipped_has_a_german_name_for_every_class_of_cifar10():
    recipe = load_recipe(Path(__file__).parents[2] / "recipes" / "classify-cifar10.toml")
    assert recipe.train.kind == "classify"
    classes = "airplane automobile bird cat deer dog frog horse ship truck".split()
    assert sorted(recipe.classify.second_names) == classes
    assert len(set(recipe.classify.second_names.values())) == 10
