"""The towers of a recipe, opened to be counted: of a model on this machine as they are, of another by its name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

import babelclip
from babelclip.errors import BabelclipError
from babelclip.models.checkpoints.hub.cache import storage
from babelclip.models.clip import Clip
from babelclip.models.image import ImageEncoder
from babelclip.models.text import TextEncoder
from babelclip.models.tokenization import TextTokenizer
from babelclip.store import EmbeddingStore
from babelclip.train import skeleton
from babelclip.train.recipe import Recipe
from babelclip.train.students import fit_student, open_student, with_pooling

_ASSUMED_DIM = 512


@dataclass
class Towers:
    """Towers without memory.

    Attributes:
        text, image: those that a run may train, None where unknown or not used.
        others: label, model and module of what is only in memory: a live teacher, the twin of Contrastive Tension.
        models: what `text` and `image` are of.
        tokenizer: of the text tower, where the model is on this machine.
        notes: what was assumed.
    """

    text: TextEncoder | None = None
    image: ImageEncoder | None = None
    others: list[tuple[str, str, nn.Module]] = field(default_factory=list)
    models: dict[str, str] = field(default_factory=dict)
    tokenizer: TextTokenizer | None = None
    notes: list[str] = field(default_factory=list)

    def all(self) -> Iterator[tuple[str, str, nn.Module]]:
        """Yields label, model and module of every tower."""
        twin = any(label == "f2" for label, _, _ in self.others)
        if self.text is not None:
            yield "f1" if twin else "text", self.models["text"], self.text
        if self.image is not None:
            yield "picture", self.models["image"], self.image
        yield from self.others


def on_this_machine(model: str) -> bool:
    """Returns whether a model is a folder here, or in the hub's cache: nothing is fetched to find out."""
    return bool(model) and (Path(model).is_dir() or (model.count("/") == 1 and storage(model).is_dir()))


def open_plan_towers(recipe: Recipe, image: str, fake: skeleton.Fake, before: Towers | None) -> Towers:
    """Returns the towers that a run of the recipe holds.

    Args:
        recipe: of one stage.
        image: as `--image` of the command.
        fake: where towers are made.
        before: of the stage before, from whose model this one starts; None where it has a model of its own.

    Raises:
        BabelclipError: a setting of [student] does not fit the model.
    """
    towers = Towers()
    kind = recipe.train.kind
    beside = recipe.towers.image_model
    alone = before is None and not beside and kind in ("contrastive", "classify")
    pair = _clip(recipe.student.model) if alone else None
    if kind in ("contrastive", "classify"):
        _add_image(towers, recipe, beside or recipe.student.model, pair, fake, before)
    _add_text(towers, recipe, pair, fake, before)
    if kind == "distill":
        _add_teacher(towers, recipe.teacher.model, "teacher's text", fake)
        _add_teacher(towers, image or recipe.teacher.model, "teacher's picture", fake)
        if image and image != recipe.teacher.model:
            _add_teacher(towers, image, "text beside the picture", fake)
    if kind == "tension" and towers.text is not None:
        pooling, tokenizer = recipe.student.pooling or "mean", towers.text.tokenizer
        with fake:
            towers.text = TextEncoder(towers.text.backbone, pooling=pooling, head=[], tokenizer=tokenizer)
        # A module without memory may stand for both copies.
        towers.others.append(("f2", recipe.student.model, towers.text))
    return towers


def _clip(model: str) -> Clip | None:
    if not on_this_machine(model):
        return None
    return babelclip.load(model, dtype="float32", device="cpu")


def _add_text(towers: Towers, recipe: Recipe, pair: Clip | None, fake: skeleton.Fake, before: Towers | None) -> None:
    model, kind = recipe.student.model, recipe.train.kind
    found: TextEncoder | None = None
    if before is not None:
        found, towers.tokenizer, model = before.text, before.tokenizer, "the stage before"
    elif pair is not None:
        found = pair.text
    elif on_this_machine(model):
        found = open_student(model).text
    if found is not None and before is None:
        towers.tokenizer = found.tokenizer
        found = fake.copied(found)
    if found is None and model:
        with fake:
            found = skeleton.text_skeleton(model)
        towers.notes.append(
            f"{model} is not on this machine, and its sizes are not known: nothing is counted. A known name may stand "
            "in for it, for example --set student.model=xlm-roberta-large"
            if found is None
            else f"{model} is not on this machine: sizes are those published for its backbone"
        )
    if found is None:
        return
    towers.models["text"] = model
    if kind in ("distill", "contrastive"):
        dim = _dimension(towers, recipe, found)
        with fake:
            found = fit_student(found, recipe.student, embed_dim=dim)
    elif kind == "sts":
        with fake:
            found = with_pooling(found, recipe.student.pooling)
    towers.text = found


def _dimension(towers: Towers, recipe: Recipe, text: TextEncoder) -> int:
    """Returns the dimensions that the text tower's head is to have."""
    settings, teacher = recipe.student, recipe.teacher
    if teacher.targets and Path(teacher.targets).is_dir():
        return EmbeddingStore.open(teacher.targets).dim
    if settings.embed_dim:
        return settings.embed_dim
    if towers.image is not None:
        return towers.image.embed_dim
    for name in (teacher.model, teacher.space):
        known = _clip_dim(name) or skeleton.dim_of(name) if name else None
        if known:
            return known
    if text.head_layers and not settings.head:
        return text.embed_dim
    towers.notes.append(f"the targets are not on this machine: {_ASSUMED_DIM} dimensions assumed (student.embed_dim)")
    return _ASSUMED_DIM


def _clip_dim(model: str) -> int | None:
    return babelclip.load(model, towers="text", device="cpu").embed_dim if on_this_machine(model) else None


def _add_image(
    towers: Towers, recipe: Recipe, model: str, pair: Clip | None, fake: skeleton.Fake, before: Towers | None
) -> None:
    found: ImageEncoder | None = None
    if before is not None and not recipe.towers.image_model:
        found, model = before.image, "the stage before"
    elif pair is not None:
        found = pair.image
    elif on_this_machine(model):
        found = babelclip.load(model, towers="image", dtype="float32", device="cpu").image
    if found is not None and before is None:
        found = fake.copied(found)
    if found is None and model:
        with fake:
            found = skeleton.image_skeleton(model)
        towers.notes.append(
            f"the picture tower of {model} is not on this machine"
            + (", and its sizes are not known: it is not counted" if found is None else ": sizes by its name")
        )
    if found is not None:
        towers.image, towers.models["image"] = found, model


def _add_teacher(towers: Towers, model: str, label: str, fake: skeleton.Fake) -> None:
    """Adds a tower that is only in memory; what is neither here nor known is noted."""
    if not model:
        return
    tower: nn.Module | None = None
    which = "image" if "picture" in label else "text"
    if on_this_machine(model):
        try:
            clip = babelclip.load(model, towers=which, dtype="float32", device="cpu")
        except BabelclipError:
            return  # it has no such tower
        tower = clip.image if which == "image" else clip.text
        tower = None if tower is None else fake.copied(tower)
    else:
        with fake:
            tower = skeleton.image_skeleton(model) if which == "image" else None
        towers.notes.append(f"{model} is not on this machine: its {which} tower is counted by its name, or not at all")
    if tower is not None:
        towers.others.append((label, model, tower))
