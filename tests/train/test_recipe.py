from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from babelclip.errors import BabelclipError
from babelclip.train.recipe import (
    Recipe,
    apply_overrides,
    describe,
    load_recipe,
    recipe_from_dict,
    recipe_to_dict,
    stage_recipes,
    to_toml,
)


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_empty_file_is_the_default_recipe(tmp_path: Path):
    assert load_recipe(write(tmp_path, "")) == Recipe()


def test_a_recipe_survives_the_way_through_toml(tmp_path: Path):
    recipe = apply_overrides(
        Recipe(),
        [
            "train.lr=2e-5",
            "train.head_lr=1e-3",
            "train.betas=0.9,0.98",
            "train.tensorboard=true",
            "student.trainable=last 4 layers",
            "data.captions=a.parquet, b \\ c.jsonl",
            "data.weights.en=2.5",
            "data.weights.zh-Hant=0.5",
            "loss.name=mse+cosine",
            "loss.weights.cosine=0.25",
        ],
    )
    assert recipe.train.betas == (0.9, 0.98)
    assert recipe.data.captions == ("a.parquet", "b \\ c.jsonl")
    assert recipe.data.weights == {"en": 2.5, "zh-Hant": 0.5}
    assert recipe.loss_terms() == {"mse": 1.0, "cosine": 0.25}
    assert load_recipe(write(tmp_path, to_toml(recipe))) == recipe
    assert recipe_from_dict(recipe_to_dict(recipe)) == recipe


def test_overrides_come_after_the_file_and_in_order(tmp_path: Path):
    path = write(tmp_path, "[train]\nlr = 1\nsteps = 7\n")
    assert load_recipe(path, ["train.lr=0.5", "train.lr=0.25"]).train.lr == 0.25
    assert load_recipe(path).train.lr == 1.0
    assert isinstance(load_recipe(path).train.lr, float)
    assert load_recipe(path, ["train.steps=9"]).train.steps == 9


def test_none_puts_an_optional_setting_back_to_absent():
    recipe = apply_overrides(Recipe(), ["train.head_lr=0.1"])
    assert apply_overrides(recipe, ["train.head_lr=none"]).train.head_lr is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"trian": {}}, "[trian] is not known. Did you mean 'train'"),
        ({"train": {"warmup": 3}}, "Did you mean 'warmup_steps'"),
        ({"train": {"steps": 1.5}}, "train.steps = 1.5 is of type float; expected integer"),
        ({"train": {"steps": True}}, "expected integer"),
        ({"train": {"steps": 0}}, "must be at least 1"),
        ({"train": {"lr": "fast"}}, "expected number"),
        ({"train": {"lr": float("nan")}}, "finite"),
        ({"train": {"eps": 0.0}}, "must be above 0"),
        ({"train": {"tensorboard": 1}}, "expected true or false"),
        ({"train": {"schedule": "cosin"}}, "Did you mean 'cosine'"),
        ({"train": {"betas": [0.9]}}, "has 1 values; expected 2"),
        ({"data": {"captions": "a.tsv"}}, "expected list of text"),
        ({"data": {"weights": {"en": "much"}}}, "data.weights.en = 'much'"),
        ({"data": {"weights": {"en": -1}}}, "at least 0"),
        ({"loss": {"name": "mse+cosin"}}, "Did you mean 'cosine'"),
        ({"loss": {"weights": {"cosine": 1}}}, "Set loss.name = 'mse+cosine'"),
        ({"train": 3}, "outside a section"),
        ({"train": {"schedule": "steps"}}, "needs lr_steps"),
        ({"train": {"lr_steps": {"500": 1e-5}}}, "only that reads them"),
        ({"train": {"schedule": "steps", "lr_steps": {"late": 1e-5}}}, "its keys are steps"),
        ({"train": {"ema": 1.0}}, "must be below 1"),
        ({"train": {"betas": [0.9, 1.0]}}, "both must be below 1"),
        ({"train": {"lr": 0.0, "schedule": "steps", "lr_steps": {"5": 1e-5}}}, "Set lr above 0"),
        ({"train": {"early_stop": 3}}, "set train.validate_every"),
        ({"stages": [{"name": "a/b"}]}, "a name of letters"),
        ({"stages": [{"name": "a"}, {"name": "a"}]}, "Two stages are named 'a'"),
        ({"stages": [{"name": "a", "steps": 5}]}, "sections, for example [stages.train]"),
        ({"stages": [{"name": "a", "train": {"stepz": 5}}]}, "Stage 'a': Key 'stepz' in [train]"),
    ],
)
def test_what_is_wrong_is_named_with_its_cure(content: dict, said: str):
    with pytest.raises(BabelclipError) as error:
        recipe_from_dict(content)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("lr=3", "section.key=value"),
        ("train.lr", "section.key=value"),
        ("trian.lr=3", "Did you mean 'train'"),
        ("train.lrr=3", "Did you mean 'lr'"),
        ("train.lr=quick", "expected number"),
        ("train.steps=1e3", "expected integer"),
        ("train.tensorboard=yes", "expected true or false"),
        ("train.tensorboard=True", "expected true or false"),
        ("train.lr.x=3", "drop '.x'"),
        ("stages.one.train.lr=3", "Stage 'one' in 'stages.one.train.lr=3' is not known"),
    ],
)
def test_a_wrong_override_is_named_with_its_cure(override: str, said: str):
    with pytest.raises(BabelclipError) as error:
        apply_overrides(Recipe(), [override])
    assert said in str(error.value)


STAGES = """
[train]
lr = 1e-4
steps = 100

[[stages]]
name = "distill"
[stages.loss]
name = "mse+cosine"
weights = { cosine = 0.5 }

[[stages]]
name = "locked-image"
[stages.train]
kind = "contrastive"
lr = 2e-6
"""


def test_a_stage_overrides_the_base_and_both_survive_the_way_through_toml(tmp_path: Path):
    recipe = load_recipe(write(tmp_path, STAGES))
    (first, distill), (second, locked) = stage_recipes(recipe)
    assert (first, second) == ("distill", "locked-image")
    assert (distill.train.lr, locked.train.lr) == (1e-4, 2e-6)
    assert (distill.train.steps, locked.train.steps) == (100, 100)
    assert (distill.loss_terms(), locked.loss_terms()) == ({"mse": 1.0, "cosine": 0.5}, {"clip": 1.0})
    assert distill.stages == ()
    assert load_recipe(write(tmp_path, to_toml(recipe))) == recipe
    assert recipe_from_dict(recipe_to_dict(recipe)) == recipe


def test_an_override_holds_for_every_stage_unless_it_names_one(tmp_path: Path):
    path = write(tmp_path, STAGES)

    def rates(*overrides: str) -> list[float]:
        return [stage.train.lr for _, stage in stage_recipes(load_recipe(path, overrides))]

    assert rates("train.lr=1") == [1, 1]
    assert rates("stages.locked-image.train.lr=1") == [1e-4, 1]
    assert rates("train.lr=1", "stages.distill.train.lr=2") == [2, 1]


def test_rates_by_step_are_a_table_also_on_the_command_line():
    recipe = apply_overrides(Recipe(), ["train.schedule=steps", "train.lr_steps=500=8e-6,1000=6e-6"])
    assert recipe.train.lr_steps == {"500": 8e-6, "1000": 6e-6}


def test_a_kind_with_a_loss_of_its_own_has_no_terms():
    assert recipe_from_dict({"train": {"kind": "tension"}}).loss_terms() == {}


def test_false_is_false_and_not_a_text_that_counts_as_true():
    recipe = apply_overrides(Recipe(), ["train.tensorboard=true"])
    assert recipe.train.tensorboard is True
    assert apply_overrides(recipe, ["train.tensorboard=false"]).train.tensorboard is False


def test_a_missing_or_broken_file_is_one_clear_error(tmp_path: Path):
    with pytest.raises(BabelclipError, match="does not exist"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(BabelclipError, match="not valid TOML"):
        load_recipe(write(tmp_path, "[train\nlr = 3"))
    with pytest.raises(BabelclipError, match="not valid TOML"):
        load_recipe(write(tmp_path, "lr = " + "[" * 5000))


def test_every_setting_is_described_with_a_default_that_reads_back():
    rows = describe()
    assert len({name for name, *_ in rows}) == len(rows) > 30
    assert all(about for *_, about in rows)
    for name, _, default, _ in rows:
        if default:
            assert apply_overrides(Recipe(), [f"{name}={default}"]) == Recipe(), name


def test_the_recipe_module_imports_no_torch():
    code = "import sys, babelclip.train.recipe; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ('classify.templates=["a {}, fried", "{}"]', ("a {}, fried", "{}")),
        ("classify.templates=[{}]", ("{}",)),
        ("classify.templates={}", ("{}",)),
        ("data.captions=[a.jsonl, b.jsonl]", ("a.jsonl", "b.jsonl")),
        ("data.captions='a.jsonl', b.jsonl", ("a.jsonl", "b.jsonl")),
        ('data.weights={ "zh-Hant" = 2, sv = 1.5 }', {"zh-Hant": 2.0, "sv": 1.5}),
        ("classify.names={ cat = katt, dog = hund }", {"cat": "katt", "dog": "hund"}),
    ],
)
def test_lists_and_tables_of_the_command_line_are_those_of_toml_or_bare_words(override: str, expected: object):
    section, key = override.partition("=")[0].split(".")
    assert getattr(getattr(apply_overrides(Recipe(), [override]), section), key) == expected


def test_a_setting_that_a_stage_puts_back_to_absent_is_not_written(tmp_path: Path):
    recipe = recipe_from_dict({"stages": [{"name": "first", "train": {"head_lr": 1e-3, "steps": 5}}]})
    recipe = apply_overrides(recipe, ["stages.first.train.head_lr=none"])
    (tmp_path / "recipe.toml").write_text(to_toml(recipe), encoding="utf-8")
    [(_, again)] = stage_recipes(load_recipe(tmp_path / "recipe.toml"))
    assert (again.train.head_lr, again.train.steps) == (None, 5)
