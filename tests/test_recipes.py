"""Every recipe that is shipped: it loads, it is planned without network, models or data, and README.md knows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from babelclip.train.plan import plan
from babelclip.train.recipe import load_recipe, stage_recipes
from tests.cli.test_cli import call

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))
NAMES = [path.stem for path in RECIPES]
README = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
# Recipes of published models start from models whose sizes are published; the others from folders of the user.
PUBLISHED = {
    "mclip-xlmr-large-vit-l-14": 559_628_032,  # without the pooler, which the head's 787,200 replaces
    "mclip-xlmr-large-vit-b-32": 559_365_632,
    "mclip-xlmr-large-vit-b-16plus": 559_496_832,
    "mclip-labse-vit-l-14": 470_926_848,
    "mclip-2021-distil-40": 135_226_240,
    "mclip-2021-base-vit-b-32": 177_656_576,
    "mclip-2021-swedish": 124_592_512,
    "clip-vit-b-32-multilingual-v1": 135_127_808,
    "altclip-stage1": 559_630_080,
    "altclip-m18-stage1": 559_892_480,
    "nllb-clip-base": 414_035_968,
    "frozen-h14-xlmr": 560_937_984,
    "xlmr-base-vit-b-32": 366_121_472,
    "ct-bert-base": 217_783_296,
    "ct-bert-large": 668_184_576,
    "ct-distilbert": 132_725_760,
}


def test_there_are_recipes_and_each_published_one_is_among_them():
    assert len(RECIPES) > 20
    assert set(PUBLISHED) <= set(NAMES)


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_every_recipe_is_planned_without_models_or_data(path: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(path)
    plans = plan(recipe)
    assert [made.name for made in plans] == ([name for name, _ in stage_recipes(recipe)] or [""])
    for made in plans:
        assert made.seconds is None
        assert made.measured
        if made.memory is not None:
            assert made.memory.peak > made.memory.weights > 0
    if path.stem in PUBLISHED:
        trained = [sum(t.trainable + t.trainable_embeddings for t in made.towers) for made in plans]
        assert trained[0] == PUBLISHED[path.stem]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_every_recipe_says_how_it_is_run_and_what_is_unknown(path: Path):
    head = path.read_text(encoding="utf-8").partition("[train]")[0]
    assert f"train recipes/{path.name}" in head or path.stem == "teach"
    assert f"({path.name})" in README
    for named in re.findall(r"recipes/([\w-]+)\.toml", head):
        assert named in NAMES
    if path.stem in PUBLISHED:
        assert re.search(r"^# (Published)", head, flags=re.MULTILINE)
        assert "Unknown" in head


def test_the_command_prints_the_plan_with_an_override(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = ROOT / "recipes" / "mclip-xlmr-large-vit-l-14.toml"
    code, out, error = call("train", str(path), "--set", "train.lr=2e-5", "--dry-run")
    assert (code, error) == (0, "")
    assert "lr = 2e-05" in out
    assert "303,625,984" in out  # body and head
    assert "256,002,048" in out  # word embeddings, apart
    assert "memory    about " in out
    assert "steps     200,000, batches of 256 x 8" in out
    assert "duration  unknown: FacebookAI/xlm-roberta-large, targets, translated is not on this machine" in out
    code, _, error = call("train", str(path))
    assert code == 1
    assert "Give --out FOLDER, or --dry-run" in error
