"""What a recipe would do, before it does it: weights by tower, memory, steps, duration.

Models and data that lie on this machine are read as the training reads them; of others, sizes come from what is
published (`skeleton.py`), and whatever is assumed is said. Entry point: `plan`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from babelclip.data.sources import count_captions
from babelclip.errors import BabelclipError
from babelclip.models.image import ImageEncoder
from babelclip.models.text import TextEncoder
from babelclip.train import gather, memory, skeleton, timed
from babelclip.train.frozen import UpperLayers, can_cut
from babelclip.train.memory import Memory
from babelclip.train.plan_towers import Towers, open_plan_towers
from babelclip.train.recipe import Recipe, stage_recipes
from babelclip.train.trainable import encoder_layers, select_parameters, set_dropout, trained_layers

# Longest text that is assumed where neither the recipe nor the data say: captions of this field are shorter.
_ASSUMED_TOKENS = 77
# Copies of a matrix of similarities: cosines, logits, their softmax, its gradient; of pairs, which are compared both
# ways, 7.4 at the peak were measured with 4,000 to 14,000 rows, for which `Memory.peak` has a quarter more than these.
_IN_LOSS, _IN_PAIR_LOSS = 4, 6


@dataclass(frozen=True)
class TowerCount:
    """Single weights of one tower, its word embeddings counted apart from the rest."""

    name: str
    model: str
    trainable: int
    frozen: int
    trainable_embeddings: int
    frozen_embeddings: int

    @property
    def total(self) -> int:
        """All weights of the tower."""
        return self.trainable + self.frozen + self.trainable_embeddings + self.frozen_embeddings


@dataclass(frozen=True)
class Plan:
    """What one stage would do; None and empty where it is not known.

    Attributes:
        name: of the stage; "" for a recipe of one training.
        recipe: resolved.
        towers: weights that the run holds, those of a teacher or of both copies of one encoder included.
        memory: of one process.
        steps: optimiser steps.
        rows, tokens: of a batch, as the memory is estimated for: its rows, and tokens of its longest text.
        seconds_per_step: measured here.
        measured: how, or why not.
        notes: what was assumed or is missing.
    """

    name: str
    recipe: Recipe
    towers: tuple[TowerCount, ...]
    memory: Memory | None
    steps: int | None
    rows: int
    tokens: int
    seconds_per_step: float | None
    measured: str
    notes: tuple[str, ...] = field(default=())

    @property
    def seconds(self) -> float | None:
        """Of all steps, validation, checkpoints and preparation not counted; None where steps or speed are unknown."""
        return None if self.steps is None or self.seconds_per_step is None else self.steps * self.seconds_per_step


def plan(recipe: Recipe, *, image: str = "", measure: bool = True) -> list[Plan]:
    """Returns what each stage of a recipe would do, one plan for a recipe of one training; nothing is kept on disk.

    Args:
        recipe: of any kind.
        image: as `--image` of the command.
        measure: run a few steps where model and data are on this machine; else the duration is unknown.

    Raises:
        BabelclipError: a setting is refused by the model that it is for, as the training would.
    """
    fake = skeleton.Fake()
    with fake:
        # Loads the libraries, which count as the program.
        skeleton.text_skeleton("distilbert-base-uncased")
    program = memory.resident()
    plans: list[Plan] = []
    before: Towers | None = None
    for number, (name, staged) in enumerate(stage_recipes(recipe) or [("", recipe)]):
        own = number == 0 or "model" in recipe.stages[number].sections.get("student", {})
        towers = open_plan_towers(staged, image, fake, None if own else before)
        with fake:
            made = _planned(name, staged, towers, program)
        if own and measure:
            speed = timed.step_seconds(staged, image, _passed(made), made.tokens)
            made = dataclasses.replace(made, seconds_per_step=speed.seconds, measured=speed.how)
        elif measure:
            made = dataclasses.replace(made, measured="not measured: it starts from the model of the stage before")
        plans.append(made)
        before = towers
    return plans


def _planned(name: str, recipe: Recipe, towers: Towers, program: int) -> Plan:
    notes = list(towers.notes)
    known = _set_trainable(recipe, towers)
    counts = tuple(_count(label, model, module) for label, model, module in towers.all())
    if recipe.train.kind == "tension" and counts:
        counts += (_kept_start(counts[0]),)
    tokens = _tokens(recipe, towers, notes)
    rows = _rows(recipe, tokens)
    held = None
    if known:
        moving = sum(count.trainable + count.trainable_embeddings for count in counts)
        held = memory.held(moving, sum(count.total for count in counts) - moving, recipe.train, program)
        held = _with_passes(held, recipe, towers, rows, tokens, notes)
    if recipe.train.kind == "classify" and recipe.classify.trainable == "lora":
        notes.append(f"the adapters of rank {recipe.classify.rank}, which train, are not counted, nor is memory")
    steps = _steps(recipe, tokens, notes)
    return Plan(name, recipe, counts, held, steps, rows, tokens, None, "not measured", tuple(notes))


def _passed(plan: Plan) -> int:
    """Returns the weights that a step's time follows: those that train, word embeddings not counted."""
    return sum(count.trainable for count in plan.towers)


def _set_trainable(recipe: Recipe, towers: Towers) -> bool:
    """Sets what moves in the towers as the training does; returns whether a tower that moves is known."""
    known = False
    for label, _, module in towers.all():
        wanted = _wanted(recipe, label)
        frozen = recipe.student.freeze_embeddings and label != "picture" and wanted.strip().lower() != "locked"
        setting = "towers.image" if label == "picture" else "student.trainable"
        moving = select_parameters(module, wanted, setting=setting, freeze_embeddings=frozen)
        if moving and isinstance(module, TextEncoder):
            set_dropout(module, recipe.student.dropout)
        known = known or bool(moving)
    return known


def _wanted(recipe: Recipe, label: str) -> str:
    """Returns which part of a tower trains, in the words of `select_parameters`."""
    if label not in ("text", "picture", "f1", "f2"):
        return "locked"
    kind = recipe.train.kind
    if kind == "contrastive":
        return recipe.towers.text if label == "text" else recipe.towers.image
    if kind == "classify":
        name = "text" if label == "text" else "image"
        whole = {name: "all", "all": "all", f"{name}_head": "head", "heads": "head"}
        return whole.get(recipe.classify.trainable, "locked")
    return "locked" if label == "picture" else recipe.student.trainable


def _count(label: str, model: str, module: nn.Module) -> TowerCount:
    find = getattr(getattr(module, "backbone", module), "get_input_embeddings", None)
    words = find() if find is not None and isinstance(module, TextEncoder) else None
    inside = {id(weight) for weight in words.parameters()} if words is not None else set()
    numbers = {(moves, word): 0 for moves in (True, False) for word in (True, False)}
    for weight in module.parameters():
        numbers[weight.requires_grad, id(weight) in inside] += weight.numel()
    return TowerCount(
        label, model, numbers[True, False], numbers[False, False], numbers[True, True], numbers[False, True]
    )


def _kept_start(first: TowerCount) -> TowerCount:
    """Returns the count of the encoder that both copies of Contrastive Tension are made of, which stays in memory."""
    words = first.trainable_embeddings + first.frozen_embeddings
    return TowerCount("start", first.model, 0, first.total - words, 0, words)


def _tokens(recipe: Recipe, towers: Towers, notes: list[str]) -> int:
    """Returns the tokens of the longest text of a batch: of the data where it is here, else an assumption."""
    limit = recipe.student.max_length or (towers.text.tokenizer.max_length if towers.text is not None else 0)
    longest = timed.longest_text(recipe, towers.tokenizer)
    if longest:
        return min(longest, limit) if limit else longest
    assumed = min(limit or _ASSUMED_TOKENS, _ASSUMED_TOKENS) if not recipe.student.max_length else limit
    notes.append(f"the data is not on this machine, or its texts could not be counted: {assumed} tokens a text assumed")
    return assumed


def _rows(recipe: Recipe, tokens: int) -> int:
    """Returns the rows of a batch in one process: texts, pairs, or pictures with a caption."""
    train = recipe.train
    if train.batch_size:
        return train.batch_size
    if train.kind == "tension":
        group = recipe.tension.negatives + 1
        return -(-16 // group) * group if recipe.tension.variant == "original" else 128
    return {"contrastive": 64, "sts": 16, "classify": 64}.get(train.kind, max(train.tokens_per_batch // tokens, 1))


def _with_passes(held: Memory, recipe: Recipe, towers: Towers, rows: int, tokens: int, notes: list[str]) -> Memory:
    """Returns the memory with activations and matrices of similarities of one batch, or of one part of it."""
    train = recipe.train
    how: dict[str, Any] = {"bf16": timed.precision_of(train) != "fp32", "recomputed": train.gradient_checkpointing}
    part = min(train.micro_batch or rows, rows)
    texts = part * _texts_of_a_row(recipe)
    kept = 0
    for label, _, module in towers.all():
        if not any(weight.requires_grad for weight in module.parameters()):
            continue
        try:
            if isinstance(module, ImageEncoder):
                kept += memory.image_pass(module, part, **how)
            elif isinstance(module, TextEncoder):
                reader = _reader(module, recipe) if label == "text" else module
                kept += memory.text_pass(reader, texts, tokens, module.width, **how)
        except (RuntimeError, TypeError, NotImplementedError) as error:
            notes.append(f"what a pass of the {label} tower keeps could not be computed ({type(error).__name__})")
    return dataclasses.replace(held, activations=kept, loss=_of_similarities(recipe, rows))


def _of_similarities(recipe: Recipe, rows: int) -> int:
    """Returns the bytes of the matrices of similarities that the loss of a batch holds at one time."""
    if recipe.train.kind == "contrastive":
        return _IN_PAIR_LOSS * 4 * min(rows, gather.rows_at_once(rows)) * rows
    columns = rows if recipe.train.kind == "classify" else 0
    if "infonce" in recipe.loss_terms():
        columns = rows + recipe.loss.negatives
    return _IN_LOSS * 4 * rows * columns


def _texts_of_a_row(recipe: Recipe) -> int:
    if recipe.train.kind != "sts":
        return 1
    return 3 if recipe.sts.stage == "nli" and recipe.sts.nli_loss == "ranking" else 2


def _reader(text: TextEncoder, recipe: Recipe) -> nn.Module:
    """Returns what the steps of a run call: the tower, or its upper layers where states below them are kept."""
    student = recipe.student
    if recipe.train.kind != "distill" or recipe.mix or student.cache == "off" or student.dropout or not can_cut(text):
        return text
    layers = encoder_layers(text.backbone)
    count = trained_layers(student.trainable, len(layers), "student.trainable")
    return text if count is None else UpperLayers(text, len(layers) - count)


def _steps(recipe: Recipe, tokens: int, notes: list[str]) -> int | None:
    train = recipe.train
    if not train.epochs:
        return train.steps
    if train.kind == "tension" and recipe.tension.variant == "original":
        return max(math.ceil(500 * train.epochs / train.accumulation), 1)
    total = _examples(recipe)
    if total is None:
        notes.append(f"steps of {train.epochs:g} epochs are unknown: the data is not on this machine")
        return None
    if train.kind == "distill" and not train.batch_size:
        notes.append("batches are filled by tokens: their number is a bound, as if every text were the longest")
    batches = -(-total // _rows(recipe, tokens))
    return max(math.ceil(train.epochs * batches / train.accumulation), 1)


def _examples(recipe: Recipe) -> int | None:
    """Returns the rows that a run would read, None where a source is not here or only reading it would tell."""
    if recipe.train.kind == "sts":
        return timed.count_pairs(recipe)
    if recipe.train.kind == "classify":
        folder = Path(recipe.classify.pictures)
        return sum(1 for path in folder.glob("*/*") if path.is_file()) or None if folder.is_dir() else None
    paths = timed.caption_sources(recipe)
    try:
        totals = [count_captions(path) for path in paths]
    except BabelclipError:
        return None
    return sum(total or 0 for total in totals) if totals and None not in totals else None
