"""What `babelclip train --dry-run` prints: the recipe as it is, then weights, memory, steps and time of each stage."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from babelclip.train.memory import Memory
    from babelclip.train.plan import Plan
    from babelclip.train.recipe import Recipe


def print_plan(recipe: Recipe, image: str, *, measure: bool = True) -> None:
    """Prints the plan of a recipe; nothing is trained but a few timed steps in a temporary folder."""
    from babelclip.train.plan import plan
    from babelclip.train.recipe import to_toml

    typer.echo(to_toml(recipe).rstrip())
    for made in plan(recipe, image=image, measure=measure):
        typer.echo("\n" + "\n".join(_lines(made)))


def _lines(made: Plan) -> list[str]:
    lines = [f"# Stage {made.name}: {made.recipe.train.kind}" if made.name else f"# {made.recipe.train.kind}"]
    lines += _table(made)
    if made.memory is not None:
        lines += _memory(made.memory, made)
    steps = "unknown" if made.steps is None else f"{made.steps:,}"
    lines.append(f"steps     {steps}, batches of {made.rows:,} x {made.recipe.train.accumulation}")
    speed = made.measured
    if made.seconds_per_step is not None:
        speed = f"{made.seconds_per_step:.3g} s a step ({made.measured})"
    if made.seconds is None:
        lines.append(f"duration  {speed if speed.startswith('unknown') else f'unknown: {speed}'}")
    else:
        lines.append(f"duration  {_time(made.seconds)}: {speed};")
        lines.append("          validation, checkpoints and what is computed once before the steps come on top")
    return [*lines, *(f"assumed   {note}" for note in made.notes)]


def _table(made: Plan) -> list[str]:
    """Returns the weights of each tower: trained and frozen, word embeddings apart."""
    if not made.towers:
        return ["weights   unknown"]
    rows = [["tower", "trainable", "frozen", "embeddings, trainable", "embeddings, frozen", "model"]]
    for tower in made.towers:
        numbers = (tower.trainable, tower.frozen, tower.trainable_embeddings, tower.frozen_embeddings)
        rows.append([tower.name, *(f"{number:,}" for number in numbers), tower.model])
    widths = [max(len(row[place]) for row in rows) for place in range(5)]
    lines = []
    for row in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(row[1:5], widths[1:], strict=True)]
        lines.append("  ".join([f"{row[0]:<{widths[0]}}", *cells, row[5]]))
    moving = sum(tower.trainable + tower.trainable_embeddings for tower in made.towers)
    total = sum(tower.total for tower in made.towers)
    return [*lines, f"weights   {total:,}, of which {moving:,} train"]


def _memory(memory: Memory, made: Plan) -> list[str]:
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimiser": memory.optimizer,
        "moving average": memory.average,
        "activations": memory.activations,
        "similarities": memory.loss,
        "the program": memory.program,
    }
    shown = ", ".join(f"{name} {_size(value)}" for name, value in parts.items() if value)
    longest = f"batches of {made.rows:,} padded to {made.tokens} tokens"
    return [f"memory    about {_size(memory.peak)} at the peak of one process: {shown} ({longest})"]


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**28 else f"{count / 2**20:.0f} MiB"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return str(timedelta(seconds=round(seconds))) + (" (hours:minutes:seconds)" if seconds < 86400 else "")
