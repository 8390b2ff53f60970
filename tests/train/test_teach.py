"""Teacher learning from a recipe to a saved model, through the command line."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import babelclip
from babelclip.cli.main import app
from babelclip.data.captions import Captions, write_captions
from babelclip.data.embed import embed_file
from babelclip.errors import BabelclipError
from babelclip.models.clip import Clip
from babelclip.train.distill import distill
from babelclip.train.log import read_log
from babelclip.train.pair_sources import open_pairs
from babelclip.train.recall import Benchmark, SeenBenchmark, seen_by
from babelclip.train.recipe import Recipe, load_recipe, recipe_from_dict, to_toml
from babelclip.train.teach import teach
from tests.conftest import draw_shape, make_clip, make_text_encoder
from tests.train.parts import make_captions, make_store
from tests.train.test_assemble import make_student, make_teacher

RECIPES = Path(__file__).parents[2] / "recipes"
TINY = {"steps": 4, "lr": 1e-3, "warmup_steps": 0, "precision": "fp32", "batch_size": 16, "device": "cpu"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a student, a teacher, captions, a held-out set with pictures, and targets of both kinds."""
    Clip(space="", text=make_text_encoder(1), languages=("en",), name="student").save(tmp_path / "student")
    make_teacher().save(tmp_path / "teacher")
    captions = make_captions()
    write_captions(captions, tmp_path / "captions.jsonl")
    write_captions(captions.select(lang="en"), tmp_path / "english.jsonl")
    write_captions(captions.select(lang="sv"), tmp_path / "swedish.jsonl")
    colours = ["red", "green", "blue"]
    for colour in colours:
        draw_shape(colour, "circle").save(tmp_path / f"{colour}.png")
    texts = [*(f"a {colour} circle" for colour in colours), *(f"{colour} två" for colour in colours)]
    ids = [f"{lang}{number}" for lang in "ab" for number in range(3)]
    images = [f"{colour}.png" for colour in colours] * 2
    held_out = Captions.from_columns(id=ids, text=texts, lang=["en"] * 3 + ["sv"] * 3, image=images)
    write_captions(held_out, tmp_path / "held-out.jsonl")
    for target in ("projected", "pooled"):
        embed_file(
            babelclip.load(tmp_path / "teacher", device="cpu"), tmp_path / "english.jsonl", tmp_path / target,
            target=target, dtype="float32",
        )  # fmt: skip
    return tmp_path


def recipe_of(place: Path, **sections: Any) -> Recipe:
    content: dict[str, Any] = {
        "train": {**TINY, **sections.pop("train", {})},
        "student": {"model": str(place / "student"), **sections.pop("student", {})},
        "teacher": sections.pop("teacher", {"targets": str(place / "projected")}),
    }
    if "mix" not in sections:
        content["data"] = {"captions": [str(place / "captions.jsonl")], **sections.pop("data", {})}
    return recipe_from_dict(content | sections)


def run(recipe: Recipe | Path, place: Path, *more: str) -> str:
    file = place / "recipe.toml"
    if isinstance(recipe, Recipe):
        file.write_text(to_toml(recipe), encoding="utf-8")
    else:
        file = recipe
    result = CliRunner().invoke(app, ["train", str(file), "--out", str(place / "run"), *more], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_recipe_trains_measures_and_saves_a_model_with_pictures(place: Path):
    recipe = recipe_of(
        place,
        train={"validate_every": 2},
        data={"validation": [str(place / "captions.jsonl")], "benchmark": [str(place / "held-out.jsonl")]},
    )
    said = run(recipe, place, "--image", str(place / "teacher"))
    figures = [line for line in read_log(place / "run" / "log.jsonl") if line["event"] == "validate"]
    assert [line["step"] for line in figures] == [0, 2, 4]
    assert {"mse/sv", "cosine/en", "trivial_mse", "R@1", "R@5/sv", "R@10/en"} <= set(figures[0])
    assert all(0 <= line["R@1/sv"] <= line["R@5/sv"] <= 1 for line in figures)
    assert f"mse: {figures[0]['mse']:.4g} -> {figures[-1]['mse']:.4g}" in said
    assert "120 captions read" in said
    clip = babelclip.load(place / "run" / "model", device="cpu")
    assert (clip.space, clip.languages, clip.logit_scale) == ("test/tiny", ("en", "sv"), 10.0)
    assert clip.encode_image([place / "red.png"]).shape == (1, 16)


def seen(place: Path, teacher: Clip) -> SeenBenchmark:
    assert teacher.image is not None
    return seen_by(Benchmark(*open_pairs([str(place / "held-out.jsonl")], "data.benchmark")), teacher.image)


def test_recall_is_that_of_the_captions_own_pictures(place: Path):
    teacher = babelclip.load(place / "teacher", device="cpu")
    assert teacher.image is not None
    benchmark = seen(place, teacher)
    assert benchmark.text_groups.tolist() == benchmark.picture_groups[[0, 1, 2, 0, 1, 2]].tolist()
    perfect = benchmark.vectors[[0, 1, 2, 0, 1, 2]] * 3.0
    # Swedish is one picture off.
    perfect[3:] = benchmark.vectors[[1, 2, 0]]
    figures = benchmark.recalls(perfect)
    assert (figures["R@1/en"], figures["R@1/sv"], figures["R@1"], figures["R@5"]) == (1.0, 0.0, 0.5, 1.0)
    Path(place / "red.png").unlink()
    with pytest.raises(BabelclipError, match=r"1 of 3 pictures of data\.benchmark do not exist"):
        seen(place, teacher)


def test_early_stop_on_recall_ends_a_run(place: Path):
    recipe = recipe_of(
        place,
        train={
            "steps": 400, "lr": 0.0, "validate_every": 1, "early_stop": 2, "best_metric": "R@1", "best_is": "highest",
        },
        data={"benchmark": [str(place / "held-out.jsonl")]},
    )  # fmt: skip
    taught = teach(recipe, place / "run", image=str(place / "teacher"), progress=False)
    assert taught.result.run.step == 2


def test_a_pooled_student_becomes_a_whole_clip(place: Path):
    make = make_student(32)
    Clip(space="", text=make, name="body").save(place / "body")
    recipe = recipe_of(
        place,
        student={"model": str(place / "body")},
        teacher={"targets": str(place / "pooled")},
        data={"benchmark": [str(place / "held-out.jsonl")]},
    )
    taught = teach(recipe, place / "run", image=str(place / "teacher"), progress=False)
    assert taught.clip.text is not None
    assert [layer["kind"] for layer in taught.clip.text.head_layers] == ["layer_norm", "linear", "linear"]
    assert taught.clip.embed_dim == 16
    benchmark = seen(place, make_teacher())
    own = benchmark.recalls(taught.clip.encode_text(benchmark.captions.texts))
    assert own["R@1"] == pytest.approx(taught.result.run.validation["R@1"])
    with pytest.raises(BabelclipError, match="pooled vectors, and a student of those needs the teacher"):
        teach(recipe, place / "again", progress=False)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_live_teacher_needs_no_store(place: Path, mixed: bool):
    sections: dict[str, Any] = {"teacher": {"model": str(place / "teacher")}}
    if mixed:
        sections["mix"] = {"sources": [{"captions": str(place / "captions.jsonl")}], "english_share": 0.5}
    taught = teach(recipe_of(place, **sections), place / "run", progress=False)
    stored = teach(
        recipe_of(place, **{**sections, "teacher": {"targets": str(place / "projected")}}), place / "b", progress=False
    )
    assert taught.clip.image is not None
    texts = ["a red dog"]
    expected = stored.clip.encode_text(texts, normalize=False)
    np.testing.assert_allclose(taught.clip.encode_text(texts, normalize=False), expected, atol=1e-3)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_live_teacher_reads_sources_from_where_the_recipe_says(place: Path, mixed: bool):
    captions, model = str(place / "swedish.jsonl"), str(place / "teacher")
    data = (
        {"mix": {"sources": [{"captions": captions}], "english_share": 0.0}}
        if mixed
        else {"data": {"captions": [captions]}}
    )
    with pytest.raises(BabelclipError, match=r"no source text for the teacher to read"):
        teach(recipe_of(place, teacher={"model": model}, **data), place / "run", progress=False)
    told = {"model": model, "sources": [str(place / "english.jsonl")]}
    # In the same folder, as a person does who was told what to set.
    taught = teach(recipe_of(place, teacher=told, **data), place / "run", progress=False)
    assert taught.result.languages == {"sv": 60}


def test_a_mix_warns_without_english_and_names_missing_targets_before_the_first_step(
    place: Path, caplog: pytest.LogCaptureFixture
):
    mix = {"sources": [{"captions": str(place / "swedish.jsonl")}], "english_share": 0.0}
    with caplog.at_level(logging.WARNING):
        teach(recipe_of(place, mix=mix), place / "run", progress=False)
    assert "english_share=0" in caplog.text
    make_store(place / "few", 30, space="test/tiny")
    recipe = recipe_of(place, mix=mix, teacher={"targets": str(place / "few")})
    with pytest.raises(BabelclipError, match="embed these captions into the store too"):
        teach(recipe, place / "run2", progress=False)
    assert not (place / "run2" / "log.jsonl").exists()


def test_what_a_recipe_lacks_is_said(place: Path):
    for sections, message in (
        ({"teacher": {}}, "does not say where the teacher's vectors come from"),
        ({"data": {"captions": []}}, "names no captions"),
        ({"data": {"benchmark": [str(place / "held-out.jsonl")]}}, "no picture tower is given"),
    ):
        with pytest.raises(BabelclipError, match=message):
            teach(recipe_of(place, **sections), place / "run", progress=False)


def test_a_mix_is_part_of_a_recipe(place: Path):
    mix = {"sources": [{"captions": "a.jsonl", "weight": 2.0}], "temperature": 3.0}
    recipe = recipe_of(place, mix=mix)
    (place / "recipe.toml").write_text(to_toml(recipe), encoding="utf-8")
    again = load_recipe(place / "recipe.toml", ["mix.temperature=2", "mix.languages=sv=2"])
    assert again.mix["temperature"] == 2.0
    assert again.mix["languages"] == {"sv": 2.0}
    assert again.mix["sources"] == recipe.mix["sources"]
    with pytest.raises(BabelclipError, match="temprature"):
        recipe_of(place, mix={"temprature": 1})


@pytest.mark.parametrize("name", ["add-a-language", "prompts"])
def test_the_recipes_run_as_they_stand_on_tiny_models(place: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    """Only names of files, and the length of the run, differ."""
    monkeypatch.chdir(place)
    captions = make_captions()
    for folder in ("old-languages", "new-language", "translated"):
        Path(folder).mkdir()
        write_captions(captions, Path(folder) / "captions.jsonl")
    write_captions(captions, Path("prompts.jsonl"))
    write_captions(captions, Path("held-out-targets.jsonl"))
    for picture in ("red", "green", "blue"):
        assert Image.open(f"{picture}.png").size == (40, 40)
    more = [
        "--set", "student.model=student", "--set", "teacher.targets=projected", "--set", "train.steps=3",
        "--set", "train.validate_every=2", "--set", "data.validation=held-out-targets.jsonl",
        "--set", "data.benchmark=held-out.jsonl", "--set", "student.trainable=last 1 layers",
        "--image", "teacher",
    ]  # fmt: skip
    said = run(RECIPES / f"{name}.toml", place, *more).splitlines()
    # Every language, old and new, is shown before the first step and after the last one, on the same pictures.
    benchmark = seen(place, babelclip.load("teacher", device="cpu"))
    before, after = (
        benchmark.recalls(babelclip.load(model, device="cpu", dtype="float32").encode_text(benchmark.captions.texts))
        for model in ("student", "run/model")
    )
    for figure in ("R@1/sv", "R@1/en", "R@10/sv", "R@10/en", "R@1"):
        assert f"  {figure}: {before[figure]:.4g} -> {after[figure]:.4g}" in said
    card = (place / "run" / "model" / "README.md").read_text(encoding="utf-8")
    row = next(line for line in card.splitlines() if line.startswith("| Swedish (sv) | ") and " → " in line)
    assert f" {before['R@1/sv']:.4g} → {after['R@1/sv']:.4g} " in row
    assert babelclip.load("run/model", device="cpu").languages == ("en", "sv")


def test_a_clip_of_another_space_is_refused(place: Path):
    other = make_clip()
    other.space = "elsewhere"
    other.save(place / "other")
    with pytest.raises(BabelclipError, match="elsewhere"):
        teach(recipe_of(place), place / "run", image=str(place / "other"), progress=False)


def test_kept_states_serve_the_benchmark_too(place: Path):
    teacher = babelclip.load(place / "teacher", device="cpu")
    assert teacher.image is not None
    benchmark = seen(place, teacher)
    student = make_text_encoder(1)
    recipe = recipe_from_dict({"train": TINY, "student": {"trainable": "last 1 layers", "cache": "float32"}})
    store = make_store(place / "store")
    result = distill(student, make_captions(), store, recipe, place / "run", benchmark=benchmark, progress=False)
    own = benchmark.recalls(student.encode(benchmark.captions.texts, normalize=False))
    assert result.cached_layers == 2
    assert {name: result.run.validation[name] for name in own} == pytest.approx(own)


def test_a_figure_that_rises_is_not_taken_for_one_that_falls(place: Path):
    held_out = [str(place / "held-out.jsonl")]
    stop = {"early_stop": 1, "validate_every": 1, "best_metric": "cosine/sv"}
    for data, train in (({"benchmark": held_out}, {"keep": "best"}), ({"validation": held_out}, stop)):
        recipe = recipe_of(place, train=train, data=data)
        with pytest.raises(BabelclipError, match='set best_is = "highest"'):
            teach(recipe, place / "run", image=str(place / "teacher"), progress=False)
