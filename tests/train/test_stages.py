from __future__ import annotations

from pathlib import Path

import pytest

from babelclip.errors import BabelclipError
from babelclip.train.recipe import Recipe, apply_overrides, recipe_from_dict
from babelclip.train.stages import Status, run_stages

RECIPE = {
    "train": {"lr": 1e-3, "device": "cpu"},
    "student": {"model": "base"},
    "stages": [
        {"name": "distill"},
        {"name": "locked", "train": {"kind": "contrastive", "lr": 1e-4}},
        {"name": "free", "train": {"kind": "contrastive"}, "student": {"model": "other"}},
    ],
}


class Trainings:
    """Notes what is asked for, and leaves a model; `fails` names the stage that is interrupted or raises."""

    def __init__(self, fails: str = "", how: Status | type[Exception] = "interrupted") -> None:
        self.fails, self.how = fails, how
        self.seen: list[tuple[str, str, str, float, bool]] = []

    def __call__(self, recipe: Recipe, folder: Path, resume: bool) -> Status:
        self.seen.append((folder.name, recipe.train.kind, recipe.student.model, recipe.train.lr, resume))
        if folder.name.endswith(self.fails or "\0"):
            if not isinstance(self.how, str):
                raise self.how
            return self.how
        (folder / "model").mkdir(parents=True)
        return "finished"


def test_stages_run_in_order_each_from_the_model_before(tmp_path: Path):
    trainings = Trainings()
    result = run_stages(recipe_from_dict(RECIPE), tmp_path, trainings)
    assert trainings.seen == [
        ("stage-1-distill", "distill", "base", 1e-3, False),
        ("stage-2-locked", "contrastive", str(tmp_path / "stage-1-distill" / "model"), 1e-4, False),
        ("stage-3-free", "contrastive", "other", 1e-3, False),
    ]
    assert (result.status, result.ran) == ("finished", ("distill", "locked", "free"))
    assert result.model == tmp_path / "stage-3-free" / "model"
    assert result.model.is_dir()


@pytest.mark.parametrize("how", ["interrupted", KeyboardInterrupt])
def test_a_finished_stage_is_not_repeated_and_the_others_follow(tmp_path: Path, how: Status | type[Exception]):
    recipe = recipe_from_dict(RECIPE)
    if isinstance(how, str):
        result = run_stages(recipe, tmp_path / "out", Trainings("locked", how))
        assert (result.status, result.folder.name, result.ran) == (how, "stage-2-locked", ("distill", "locked"))
    else:
        with pytest.raises(how):
            run_stages(recipe, tmp_path / "out", Trainings("locked", how))
    trainings = Trainings()
    # The folder may have moved in between.
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    result = run_stages(recipe, moved, trainings, resume=True)
    assert result.ran == ("locked", "free")
    assert trainings.seen[0][2:] == (str(moved / "stage-1-distill" / "model"), 1e-4, True)
    assert run_stages(recipe, moved, Trainings(), resume=True).ran == ()


def test_a_finished_stage_is_not_run_over_nor_resumed_with_another_recipe(tmp_path: Path):
    recipe = recipe_from_dict(RECIPE)
    run_stages(recipe, tmp_path, Trainings())
    with pytest.raises(BabelclipError, match=r"already finished.*--resume"):
        run_stages(recipe, tmp_path, Trainings())
    changed = apply_overrides(recipe, ["stages.locked.train.lr=0.5"])
    with pytest.raises(BabelclipError, match=r"stage-2-locked.*train\.lr was 0\.0001 and is 0\.5"):
        run_stages(changed, tmp_path, Trainings(), resume=True)
    free = apply_overrides(recipe, ["train.save_every=7"])
    assert run_stages(free, tmp_path, Trainings(), resume=True).ran == (), "how often it is saved changes no result"


def test_a_recipe_without_stages_is_refused(tmp_path: Path):
    with pytest.raises(BabelclipError, match=r"\[\[stages\]\]"):
        run_stages(Recipe(), tmp_path, Trainings())
