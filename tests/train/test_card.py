"""The model card that every kind of training writes, read back as a hub and as a person would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import babelclip
from babelclip.cli.main import app
from babelclip.train.card import LOSS, README, VALIDATION, Ran, write_card
from babelclip.train.card_sources import data_lines, licence_of
from babelclip.train.loop import RunResult
from babelclip.train.recipe import load_recipe, recipe_from_dict, to_toml
from tests.conftest import draw_shape, make_clip
from tests.train.test_plan import place, recipe_of  # noqa: F401

SHORT = {"steps": 4, "validate_every": 2, "log_every": 1}


def trained(folder: Path, recipe: Any, *more: str) -> str:
    """Runs the command, and returns the card that it wrote."""
    (folder / "recipe.toml").write_text(to_toml(recipe), encoding="utf-8")
    command = ["train", str(folder / "recipe.toml"), "--out", str(folder / "run"), *more]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output + str(result.exception)
    return (folder / "run" / "model" / README).read_text(encoding="utf-8")


def front_matter(folder: Path) -> dict[str, Any]:
    from huggingface_hub import metadata_load

    return dict(metadata_load(folder / "run" / "model" / README) or {})


def test_a_taught_encoder_says_what_it_was_taught(place: Path):  # noqa: F811
    data = {"validation": [str(place / "captions.parquet")]}
    card = trained(place, recipe_of(place, "distill", train=SHORT, data=data), "--image", str(place / "clip"))
    head = front_matter(place)
    assert head["library_name"] == "babelclip"
    assert head["language"] == ["en", "sv"]
    assert head["license"] == "other"
    assert {"babelclip", "distill", "clip", "multilingual"} <= set(head["tags"])
    assert head["pipeline_tag"] == "zero-shot-image-classification"
    assert "| Swedish (sv) | 60 |" in card  # rows
    row = next(line for line in card.splitlines() if line.startswith("| Swedish (sv) | 60 | "))
    assert row.count(" → ") == 2  # mse and cosine
    assert "* projected vectors of `teacher`: 60 x 16, float32, not normalised" in card
    assert "| steps | 4 |" in card
    assert "* captions read: 120" in card
    block = card.partition("```toml\n")[2].partition("```")[0]
    (place / "again.toml").write_text(block, encoding="utf-8")
    assert load_recipe(place / "again.toml") == load_recipe(place / "recipe.toml")
    for name in (LOSS, VALIDATION):
        assert f"]({name})" in card
        assert (place / "run" / "model" / name).read_text(encoding="utf-8").startswith("<svg ")
    clip = babelclip.load(place / "run" / "model", device="cpu")  # the card does not stand in the way
    assert clip.encode_text(["a red dog"]).shape == (1, 16)


@pytest.mark.parametrize(
    ("kind", "sections", "says"),
    [
        ("contrastive", {"data": {"benchmark": ["pictured.jsonl"]}}, ["| R@1 | ", "* captions: 9", "English (en)"]),
        ("tension", {"sts": {"validation": ["sts.csv"]}}, ["| f1/spearman | ", "* distinct sentences: ", "## Mind"]),
        ("sts", {"sts": {"validation": ["sts.csv"]}}, ["| spearman | ", "* pairs: 20"]),
    ],
)
def test_every_kind_has_a_card(place: Path, kind: str, sections: dict[str, Any], says: list[str]):  # noqa: F811
    sections = {name: {key: [str(place / v) for v in value] for key, value in part.items()} for name, part in
                sections.items()}  # fmt: skip
    train = SHORT | ({"best_is": "highest"} if kind == "contrastive" else {})
    card = trained(place, recipe_of(place, kind, train=train, **sections))
    for words in says:
        assert words in card
    assert kind in front_matter(place)["tags"]
    assert "## Teacher" not in card


def test_fine_tuning_for_classes_has_a_card(place: Path):  # noqa: F811
    for name in ("circle", "square"):
        for number, colour in enumerate(("red", "green", "blue", "yellow") * 2):
            path = place / "classes" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_shape(colour, name, 30 + number).save(path)
    recipe = recipe_from_dict(
        {
            "train": {"kind": "classify", "steps": 3, "precision": "fp32", "device": "cpu", "batch_size": 8},
            "student": {"model": str(place / "clip")},
            "classify": {"pictures": str(place / "classes"), "validation_share": 0.25, "interpolate": [0.0, 1.0]},
        }
    )
    card = trained(place, recipe)
    assert "| validation acc1 | " in card
    assert "* pictures, train: 12" in card
    assert "These are the weights at share " in card


def test_a_stage_tells_of_those_before(place: Path):  # noqa: F811
    recipe = recipe_of(place, "contrastive", train={"steps": 2})
    stages = [{"name": "text"}, {"name": "heads", "towers": {"text": "head", "image": "head"}}]
    (place / "staged.toml").write_text(to_toml(recipe_from_dict({**_dict(recipe), "stages": stages})), encoding="utf-8")
    done = CliRunner().invoke(app, ["train", str(place / "staged.toml"), "--out", str(place / "run")])
    assert done.exit_code == 0, done.output + str(done.exception)
    first = (place / "run" / "stage-1-text" / "model" / README).read_text(encoding="utf-8")
    second = (place / "run" / "stage-2-heads" / "model" / README).read_text(encoding="utf-8")
    assert "## Stages before" not in first
    assert "| text | contrastive | 2 |" in second


def _dict(recipe: Any) -> dict[str, Any]:
    from babelclip.train.recipe import recipe_to_dict

    return recipe_to_dict(recipe)


def test_the_licence_is_named_only_where_all_models_share_one():
    def of(student: str, teacher: str) -> str:
        return licence_of(recipe_from_dict({"student": {"model": student}, "teacher": {"model": teacher}}), "")

    assert of("M-CLIP/LABSE-Vit-L-14", "M-CLIP/XLM-Roberta-Large-Vit-L-14") == "mit"
    assert of("M-CLIP/LABSE-Vit-L-14", "BAAI/AltCLIP") == ""
    assert of("M-CLIP/LABSE-Vit-L-14", "some/folder") == ""


def test_machine_translated_data_names_its_engine(tmp_path: Path):
    (tmp_path / "made" / "translations").mkdir(parents=True)
    engines = {"sv": {"engine": "opus", "model": "opus-mt-en-sv"}, "gl": {"engine": "apertium", "model": ""}}
    (tmp_path / "made" / "manifest.json").write_text(json.dumps({"options": {"engines": engines}}), encoding="utf-8")
    recipe = recipe_from_dict({"data": {"captions": [str(tmp_path / "made")]}})
    lines = data_lines(recipe, {"sv": 3, "gl": 1}, {})
    assert "machine-translated: gl by apertium; sv by opus (opus-mt-en-sv)" in lines[2]
    assert lines[-1] == "| all | 4 |"


def test_what_was_not_measured_is_said_and_not_made_up(tmp_path: Path):
    clip = make_clip()
    clip.save(tmp_path / "model")
    run = RunResult("finished", 3, {}, None, None, tmp_path, 10, 5, 1.5, "fp32", "cpu", 4, 1)
    card = write_card(tmp_path / "model", clip, recipe_from_dict({}), Ran(run), tmp_path).read_text(encoding="utf-8")
    assert "The run measured nothing" in card
    assert "| steps | 3 of 4 (stopped early) |" in card
    assert "svg" not in card
    assert "## Stages before" not in card
