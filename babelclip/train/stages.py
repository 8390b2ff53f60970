"""Recipes of several stages: one training after the other, each from the model that the one before has left.

`OUT/stage-1-NAME`, `OUT/stage-2-NAME` and so on are runs of their own, with log, checkpoints and `model/`. A stage that
is finished has `finished.json` and is not repeated. Entry point: `run_stages`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from babelclip.errors import BabelclipError
from babelclip.files import read_json, write_json
from babelclip.train import checkpoint
from babelclip.train.processes import connect
from babelclip.train.recipe import Recipe, recipe_to_dict, stage_recipes

Status = Literal["finished", "interrupted"]
# Trains a recipe in a folder, on from its last checkpoint if asked, and saves the model as folder/"model" at the end.
TrainOne = Callable[[Recipe, Path, bool], Status]


@dataclass(frozen=True)
class StagesResult:
    """How a run of several stages ended: `status` and folder of the last one that was reached, and which ran now."""

    status: Status
    folder: Path
    model: Path
    ran: tuple[str, ...]


def run_stages(recipe: Recipe, out: Path | str, train_one: TrainOne, *, resume: bool = False) -> StagesResult:
    """Runs the stages of a recipe in order, and returns how far they came.

    From the second on, `student.model` is the model of the stage before, unless the stage itself names another.

    Args:
        recipe: has at least one stage.
        out: folder of the stages.
        train_one: trains one recipe without stages; see `TrainOne`.
        resume: go on with the first stage that is not finished; without it, `out` must hold none.

    Raises:
        BabelclipError: there are no stages, a finished one had another recipe, or `out` holds stages already.
    """
    out = Path(out)
    stages = stage_recipes(recipe)
    if not stages:
        raise BabelclipError("The recipe has no stages: write one table [[stages]] with a name for each training.")
    processes = connect(recipe.train)
    if len(processes.leaders(out).ranks) > 1:
        raise BabelclipError(
            f"The recipe has {len(stages)} stages, each of which loads the model that the one before left, but the "
            f"machines of this run see different disks at {out}. Give --out a folder that all of them share, or train "
            "stage by stage."
        )
    own_models = {stage.name: "model" in stage.sections.get("student", {}) for stage in recipe.stages}
    before: Path | None = None
    ran: list[str] = []
    for number, (name, staged) in enumerate(stages, start=1):
        folder = stage_folder(out, number, name)
        if before is not None and not own_models[name]:
            student = dataclasses.replace(staged.student, model=str(before))
            staged = dataclasses.replace(staged, student=student)
        # Where the folder lies, and with it the model of the stage before, may change between two starts.
        facts = checkpoint.as_json(_facts(staged, before, out))
        before = folder / "model"
        if processes.told(_is_finished(folder, facts, resume)):
            continue
        status = train_one(staged, folder, resume)
        ran.append(name)
        if status != "finished":
            return StagesResult(status, folder, before, tuple(ran))
        if processes.writes:
            write_json(folder / "finished.json", {"stage": name, "recipe": facts})
        # The next stage loads the model on every process, and rank 0 has only now saved it.
        processes.wait()
    return StagesResult("finished", folder, folder / "model", tuple(ran))


def stage_folder(out: Path, number: int, name: str) -> Path:
    """Returns the folder of stage `number`, counted from 1."""
    return out / f"stage-{number}-{name}"


def _facts(recipe: Recipe, before: Path | None, out: Path) -> dict[str, Any]:
    content = recipe_to_dict(recipe)
    if before is not None and content["student"]["model"] == str(before):
        content["student"]["model"] = str(before.relative_to(out))
    return content


def _is_finished(folder: Path, facts: dict[str, Any], resume: bool) -> bool:
    marker = folder / "finished.json"
    if not marker.exists():
        return False
    if not resume:
        raise BabelclipError(f"{folder} is already finished. Go on after it (--resume), or choose another folder.")
    checkpoint.check_same_run(read_json(marker)["recipe"], facts, folder)
    return True
