"""Recipes: a frozen dataclass = one TOML file = the flags `--set section.key=value`, with the same names in all three.

The dataclasses below are the only list of settings. Types, choices and limits are read from their annotations and
metadata (`settings.py`), so a new setting, or a new section, is one more field. Entry points: `load_recipe`,
`recipe_from_dict`, `apply_overrides`, `to_toml`; `stage_recipes` for recipes of several stages. This module imports
neither torch nor numpy.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import re
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from babelclip.errors import BabelclipError, did_you_mean
from babelclip.files import atomic_path
from babelclip.storage import local
from babelclip.train.recipe_checks import check_recipe
from babelclip.train.settings import check_limits, checked, kind_name, parsed, toml
from babelclip.train.settings import setting as _setting

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LOSSES = ("mse", "mse_sum", "cosine", "infonce", "clip", "sigmoid")
# What `loss.name = "auto"` is; the other kinds have their loss in their own section.
_AUTO_LOSS = {"distill": "mse", "contrastive": "clip"}


@dataclasses.dataclass(frozen=True)
class Train:
    """`[train]`: the loop."""

    kind: Literal["distill", "contrastive", "tension", "sts", "classify"] = _setting("distill", "which training")
    steps: int = _setting(1000, "optimiser steps; used where epochs is 0", least=1)
    epochs: float = _setting(0.0, "passes over the data; 0 = count steps", least=0.0)
    tokens_per_batch: int = _setting(4096, "padded tokens of a batch; used where batch_size is 0", least=1)
    batch_size: int = _setting(0, "rows of a batch over all processes; 0 = fill tokens_per_batch", least=0)
    micro_batch: int = _setting(
        0, "rows of one forward pass where a loss needs the whole batch (gradient cache); 0 = the batch", least=0
    )
    accumulation: int = _setting(1, "batches of one optimiser step", least=1)
    optimizer: Literal["adamw", "adam", "rmsprop"] = _setting("adamw", "adam has no decay, rmsprop no first moment")
    lr: float = _setting(1e-4, "peak learning rate", least=0.0)
    head_lr: float | None = _setting(None, "peak learning rate of the head; absent = lr", least=0.0)
    weight_decay: float = _setting(0.0, "decoupled decay of adamw, on matrices only", least=0.0)
    betas: tuple[float, float] = _setting((0.9, 0.999), "of adamw and adam", least=0.0)
    alpha: float = _setting(0.9, "rmsprop: decay of the mean square", least=0.0)
    momentum: float = _setting(0.0, "rmsprop: momentum", least=0.0)
    eps: float = _setting(1e-8, "of the optimiser", above=0.0)
    warmup_steps: int = _setting(100, "steps of linear warm-up", least=0)
    schedule: Literal["constant", "cosine", "linear", "steps"] = _setting("constant", "learning rate after warm-up")
    lr_steps: Mapping[str, float] = _setting(
        {}, "schedule steps: step = learning rate from there on, as in { 500 = 8e-6 }; lr before", least=0.0
    )
    clip_norm: float = _setting(1.0, "largest gradient norm; 0 = no clipping", least=0.0)
    ema: float = _setting(
        0.0, "decay of the moving average of the weights, which is then the model; 0 = off", least=0.0
    )
    gradient_checkpointing: bool = _setting(False, "compute states of trained layers twice instead of keeping them")
    parallel: Literal["ddp", "fsdp"] = _setting("ddp", "several processes: ddp = whole copies, fsdp = shared weights")
    timeout: float = _setting(
        600.0, "several processes: seconds of silence after which one of them counts as lost", above=0.0
    )
    seed: int = _setting(0, "seed of data order and dropout", least=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = _setting("auto", "of the forward pass; weights stay fp32")
    device: Literal["auto", "cpu"] = _setting("auto", "auto = an accelerator where there is one")
    validate_every: int = _setting(0, "steps between validations; 0 = at the end only", least=0)
    early_stop: int = _setting(0, "validations without a better best_metric that end the run; 0 = off", least=0)
    save_every: int = _setting(500, "steps between checkpoints; 0 = at the end only", least=0)
    log_every: int = _setting(10, "steps between lines of the log", least=1)
    best_metric: str = _setting("", "validation metric of the best checkpoint; empty = the first one")
    best_is: Literal["lowest", "highest"] = _setting("lowest", "which value of best_metric is best")
    keep: Literal["last", "best"] = _setting("last", "which weights the model holds at the end")
    tensorboard: bool = _setting(False, "write TensorBoard files beside log.jsonl")
    wandb: bool = _setting(False, "log to Weights & Biases as well, if it is installed")


@dataclasses.dataclass(frozen=True)
class Student:
    """`[student]`: the text encoder that learns."""

    model: str = _setting("", "folder or name of the student")
    pooling: Literal["", "mean", "cls", "eos", "max"] = _setting("", "of the token states; empty = as the model")
    head: Literal["", "linear", "tanh+linear", "mlp", "norm+linear", "linear-nobias", "mlp-nobias"] = _setting(
        "",
        "a new head of this form (norm+linear: AltCLIP's; nobias: open_clip's); empty = as the model, linear where it "
        "has none",
    )
    embed_dim: int | None = _setting(None, "dimension of its head; absent = that of the targets", least=1)
    max_length: int = _setting(0, "most tokens of a text, special ones included; 0 = as the model", least=0)
    long: Literal["truncate", "skip"] = _setting("truncate", "what happens to longer texts; both are counted")
    trainable: str = _setting("all", "all, head, or last N layers")
    freeze_embeddings: bool = _setting(False, "keep the word embeddings as they are")
    dropout: float = _setting(0.0, "0 is right for regression", least=0.0)
    cache: Literal["off", "float16", "float32"] = _setting("float16", "keep the states below the trained layers")


@dataclasses.dataclass(frozen=True)
class Teacher:
    """`[teacher]`: where the targets come from."""

    targets: str = _setting("", "folder of the EmbeddingStore with the teacher's vectors")
    space: str = _setting("", "space that the targets must have; empty = any")
    model: str = _setting("", "folder or name of a teacher that computes targets as it goes, where no store is given")
    target: Literal["projected", "pooled"] = _setting("projected", "vector of a live teacher: after or before its head")
    sources: tuple[str, ...] = _setting(
        (), "captions whose texts a live teacher reads, by id; empty = those of the data, or of its folder sources/"
    )
    missing: Literal["error", "drop"] = _setting(
        "error", "captions without a target: an error, or left out and counted"
    )


@dataclasses.dataclass(frozen=True)
class Data:
    """`[data]`: captions."""

    captions: tuple[str, ...] = _setting((), "caption files")
    validation: tuple[str, ...] = _setting((), "held-out caption files")
    lang: str = _setting("", "language of captions that name none; empty = they are left out (a mix says it itself)")
    benchmark: tuple[str, ...] = _setting((), "held-out captions with pictures, for R@k while training")
    weights: Mapping[str, float] = _setting(
        {}, "language = times an epoch that its captions are seen; absent = 1", least=0.0
    )
    window: int = _setting(
        65536,
        "rows of a mix read ahead and batched by length together, or of a stream shuffled together",
        least=1,
    )
    stream: bool = _setting(
        False, "contrastive: captions and pictures are read from tars shard by shard, more than memory or a seek bears"
    )
    lanes: int = _setting(
        32, "stream: tars that a batch mixes; a multiple of the processes, as is then batch_size of it", least=1
    )
    strict: bool = _setting(False, "a caption whose picture is missing or unreadable is an error, else left out")
    workers: int = _setting(0, "processes that decode pictures; 0 = threads", least=0)


@dataclasses.dataclass(frozen=True)
class Loss:
    """`[loss]`: terms joined by +, for example mse+cosine."""

    name: str = _setting("auto", f"terms of {', '.join(LOSSES)}; auto = mse for distill, clip for contrastive")
    weights: Mapping[str, float] = _setting({}, "term = weight; absent = 1", least=0.0)
    relative: bool = _setting(False, "divide mse by the variance of the targets, so that 1 is the trivial predictor")
    temperature: float = _setting(0.05, "of infonce", above=0.0)
    negatives: int = _setting(0, "further targets, drawn anew for each batch, that infonce compares with", least=0)


@dataclasses.dataclass(frozen=True)
class Towers:
    """`[towers]`: what contrastive training may move."""

    image: str = _setting("locked", "locked, head, last N layers, or free")
    text: str = _setting("free", "locked, head, last N layers, or free")
    image_model: str = _setting("", "folder or name of the model with the picture tower; empty = student.model")
    image_features: str = _setting(
        "", "store of a locked picture tower's vectors by picture; empty = computed once, live = at each step"
    )
    text_features: str = _setting(
        "", "store of a locked text tower's vectors by caption id; empty = computed once, live = at each step"
    )
    logit_scale: Literal["free", "locked"] = _setting("free", "locked keeps the temperature, and the bias of sigmoid")
    max_logit_scale: float = _setting(100.0, "upper clamp of the logit scale; the lower one is 1", least=1.0)


@dataclasses.dataclass(frozen=True)
class Tension:
    """`[tension]`: Contrastive Tension, two copies of one encoder."""

    variant: Literal["original", "in_batch"] = _setting("original", "original = 1 positive to K negatives")
    negatives: int = _setting(7, "original: K, negatives to each positive", least=1)
    scale: float = _setting(20.0, "in_batch: factor on the cosine at the start; its logarithm is learned", above=0.0)
    select: Literal["f1", "f2", "best"] = _setting("best", "which of the two encoders is kept")


@dataclasses.dataclass(frozen=True)
class Sts:
    """`[sts]`: supervised sentence similarity."""

    stage: Literal["sts", "nli"] = _setting("sts", "sts = regression of the cosine, nli = classes of pairs before it")
    nli_loss: Literal["softmax", "ranking"] = _setting(
        "softmax", "nli: three classes of (u, v, |u - v|), or the entailed hypothesis among all of the batch"
    )
    scale: float = _setting(20.0, "nli, ranking: factor on the cosines", above=0.0)
    pairs: tuple[str, ...] = _setting((), "files of scored pairs")
    validation: tuple[str, ...] = _setting((), "held-out files of scored pairs")


@dataclasses.dataclass(frozen=True)
class Classify:
    """`[classify]`: fine-tuning on pictures in folders named by class."""

    pictures: str = _setting("", "folder of class/picture")
    validation: str = _setting(
        "", "held-out folder of class/picture, for choices; empty = validation_share of pictures"
    )
    validation_share: float = _setting(0.1, "share of each class that is held out for choices", above=0.0)
    test: str = _setting("", "held-out folder of class/picture, for the report only; empty = none")
    lang: str = _setting("en", "language of the class names")
    names: Mapping[str, str] = _setting({}, "folder = class name in lang; absent = the name of the folder")
    templates: tuple[str, ...] = _setting((), 'prompts in lang with a {} for the class name; empty = "{}"')
    second_lang: str = _setting("", "language that is scored as well and not trained on; empty = none")
    second_names: Mapping[str, str] = _setting({}, "folder = class name in second_lang, for every class")
    second_templates: tuple[str, ...] = _setting((), 'prompts in second_lang; empty = "{}"')
    loss: Literal["multi_positive", "class_vectors", "sigmoid", "diagonal"] = _setting(
        "multi_positive",
        "class_vectors compares with every class; diagonal takes pictures of one class for negatives of each other",
    )
    trainable: Literal["text", "text_head", "image", "image_head", "heads", "all", "lora"] = _setting(
        "heads", "which weights move; lora = adapters of both towers, merged at the end"
    )
    rank: int = _setting(8, "of lora", least=1)
    interpolate: tuple[float, ...] = _setting(
        (), "shares of the tuned weights, 0 to 1, between which validation chooses; empty = tuned as it is", least=0.0
    )


@dataclasses.dataclass(frozen=True)
class Stage:
    """A table of `[[stages]]`: its name, and sections that override those of the recipe."""

    name: str
    sections: Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One training run. Every field but `stages` is a section of the TOML file.

    `mix` is the table that `babelclip.data.mix.Mix.from_table` reads, checked by it; empty where there is none.
    """

    train: Train = Train()
    student: Student = Student()
    teacher: Teacher = Teacher()
    data: Data = Data()
    loss: Loss = Loss()
    towers: Towers = Towers()
    tension: Tension = Tension()
    sts: Sts = Sts()
    classify: Classify = Classify()
    mix: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    stages: tuple[Stage, ...] = ()

    def loss_terms(self) -> dict[str, float]:
        """Returns the weight of each loss term, in the order of `loss.name`; none where the kind has its own loss."""
        name = self.loss.name
        if name == "auto":
            name = _AUTO_LOSS.get(self.train.kind, "")
        return {term: self.loss.weights.get(term, 1.0) for term in name.split("+") if name}


def sections() -> dict[str, type]:
    """Returns the dataclass of each section of a recipe, in the order of the file; `[mix]` has its own."""
    kinds = typing.get_type_hints(Recipe)
    del kinds["stages"], kinds["mix"]
    return kinds


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Returns the recipe in a TOML file, with `section.key=value` overrides applied in order.

    Raises:
        BabelclipError: the file is missing, is not TOML, or a section, key, type or value is not allowed.
    """
    try:
        content = tomllib.loads(local(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BabelclipError(f"Recipe {path} does not exist. Check the path; recipes end in .toml.") from error
    except IsADirectoryError as error:
        raise BabelclipError(f"{path} is a folder. A recipe is one file that ends in .toml: give that file.") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, endless digits; nested too deeply
        raise BabelclipError(f"Recipe {path} is not valid TOML: {error}. Correct that line.") from error
    return apply_overrides(recipe_from_dict(content), overrides)


def recipe_from_dict(content: Mapping[str, Any]) -> Recipe:
    """Returns the recipe for nested mappings as they come from TOML or JSON; what is absent takes its default.

    >>> recipe_from_dict({"train": {"steps": 5}}).train.steps
    5

    Raises:
        BabelclipError: a section or key is not known, or a value has another type or lies outside its limits.
    """
    kinds = sections()
    made: dict[str, Any] = {}
    for section, values in content.items():
        if section == "stages":
            made["stages"] = _stages(values)
            continue
        if section not in kinds and section != "mix":
            raise BabelclipError(
                f"Section [{section}] is not known. {did_you_mean(section, [*kinds, 'mix', 'stages'])}"
            )
        if not isinstance(values, Mapping):
            raise BabelclipError(
                f"{section} = {values!r} stands outside a section. Write it under [section], for example [train]."
            )
        made[section] = _mix(values) if section == "mix" else _section_from_dict(section, kinds[section], values)
    recipe = Recipe(**made)
    check_recipe(recipe, LOSSES)
    stage_recipes(recipe)  # raises where one is wrong
    return recipe


def stage_recipes(recipe: Recipe) -> list[tuple[str, Recipe]]:
    """Returns name and whole recipe of each stage, in order; none for a recipe of one training.

    Raises:
        BabelclipError: a stage has an unknown section, key or value; the message names the stage.
    """
    base = recipe_to_dict(dataclasses.replace(recipe, stages=()))
    resolved = []
    for stage in recipe.stages:
        merged = {section: {**values, **stage.sections.get(section, {})} for section, values in base.items()}
        merged |= {section: dict(values) for section, values in stage.sections.items() if section not in merged}
        try:
            resolved.append((stage.name, recipe_from_dict(merged)))
        except BabelclipError as error:
            raise BabelclipError(f"Stage {stage.name!r}: {error}") from error
    return resolved


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Returns the recipe as nested dictionaries of JSON types; settings that are None, and no stages, are left out."""
    content: dict[str, Any] = {
        section: {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(getattr(recipe, section)).items()
            if value is not None
        }
        for section in sections()
    }
    if recipe.mix:
        content["mix"] = dict(recipe.mix)
    if recipe.stages:
        content["stages"] = [
            {"name": stage.name, **{section: dict(values) for section, values in stage.sections.items()}}
            for stage in recipe.stages
        ]
    return content


def apply_overrides(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Returns `recipe` with each `section.key=value` set; `section.key.name=value` sets one entry of a table.

    In a recipe of several stages that holds for all of them; `stages.NAME.section.key=value` sets one stage.

    >>> apply_overrides(Recipe(), ["train.lr=2e-5"]).train.lr
    2e-05

    Raises:
        BabelclipError: an override has another form, or its key or value is not allowed.
    """
    content = recipe_to_dict(recipe)
    by_name: dict[str, dict[str, Any]] = {stage["name"]: stage for stage in content.get("stages", ())}
    for override in overrides:
        name, equals, text = override.partition("=")
        parts = name.strip().split(".")
        target = content
        if parts[0] == "stages" and len(parts) > 2:
            if parts[1] not in by_name:
                raise BabelclipError(
                    f"Stage {parts[1]!r} in {override!r} is not known. {did_you_mean(parts[1], by_name)}"
                )
            target, parts = by_name[parts[1]], parts[2:]
        if not equals or len(parts) < 2 or not all(parts):
            raise BabelclipError(
                f"Override {override!r} cannot be read; its form is section.key=value, for example train.lr=2e-5."
            )
        _set_override(target, override, parts, text)
        if target is content:
            # What is given last counts: a stage must not put its own value over it.
            for stage in by_name.values():
                if parts[1] in stage.get(parts[0], {}):
                    _set_override(stage, override, parts, text)
    return recipe_from_dict(content)


def _set_override(content: dict[str, Any], override: str, parts: Sequence[str], text: str) -> None:
    section, key, *entry = parts
    kinds = sections()
    if section == "mix":
        # Only a recipe that has one pays for numpy.
        from babelclip.data.mix import Mix

        kinds["mix"] = Mix
    if section not in kinds:
        raise BabelclipError(f"Section {section!r} in {override!r} is not known. {did_you_mean(section, kinds)}")
    kind, name = _kind_of(section, kinds[section], key), ".".join(parts)
    values = content.setdefault(section, {})
    if entry and typing.get_origin(kind) is collections.abc.Mapping:
        values[key] = {**values.get(key, {}), ".".join(entry): parsed(name, text, typing.get_args(kind)[1])}
    elif entry:
        raise BabelclipError(
            f"Override {override!r} goes into a table, but {section}.{key} is none: drop '.{entry[0]}'."
        )
    else:
        values[key] = parsed(name, text, kind)


def to_toml(recipe: Recipe) -> str:
    """Returns the recipe as TOML text that `load_recipe` reads back to an equal recipe."""
    content = recipe_to_dict(recipe)
    stages = content.pop("stages", [])
    lines: list[str] = []
    for section, values in content.items():
        lines += [f"[{section}]", *(f"{key} = {toml(value)}" for key, value in values.items()), ""]
    for stage in stages:
        lines += ["[[stages]]", f"name = {toml(stage.pop('name'))}"]
        for section, values in stage.items():
            # TOML has no word for absent.
            given = {key: value for key, value in values.items() if value is not None}
            lines += [f"[stages.{section}]", *(f"{key} = {toml(value)}" for key, value in given.items())]
        lines.append("")
    return "\n".join(lines)


def describe() -> list[tuple[str, str, str, str]]:
    """Returns (name, type, default, meaning) of every setting, for help texts and documentation."""
    rows = []
    for section, section_type in sections().items():
        kinds = typing.get_type_hints(section_type)
        default = section_type()
        for field in dataclasses.fields(section_type):
            value = getattr(default, field.name)
            shown = "" if value is None else toml(list(value) if isinstance(value, tuple) else value)
            rows.append((f"{section}.{field.name}", kind_name(kinds[field.name]), shown, field.metadata["about"]))
    return rows


def _mix(table: Mapping[str, Any]) -> Mapping[str, Any]:
    from babelclip.data.mix import Mix

    return Mix.from_table(table).to_table()


def _section_from_dict(section: str, section_type: type, values: Mapping[str, Any]) -> Any:
    given = {}
    for key, value in values.items():
        kind = _kind_of(section, section_type, key)
        given[key] = checked(f"{section}.{key}", value, kind)
    made = section_type(**given)
    for field in dataclasses.fields(section_type):
        check_limits(f"{section}.{field.name}", getattr(made, field.name), field.metadata)
    return made


def _kind_of(section: str, section_type: type, key: str) -> Any:
    kinds = typing.get_type_hints(section_type)
    if key not in kinds:
        raise BabelclipError(f"Key {key!r} in [{section}] is not known. {did_you_mean(key, kinds)}")
    return kinds[key]


def _stages(tables: Any) -> tuple[Stage, ...]:
    stages: list[Stage] = []
    for table in tables if isinstance(tables, Sequence) and not isinstance(tables, str) else [tables]:
        name = table.get("name") if isinstance(table, Mapping) else None
        # A folder is named by it.
        if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
            raise BabelclipError(
                f"Stage {len(stages) + 1} has the name {name!r}; a stage is a table [[stages]] with a name of letters, "
                'digits, _ and -, for example name = "distill", and sections such as [stages.train].'
            )
        if name in {stage.name for stage in stages}:
            raise BabelclipError(f"Two stages are named {name!r}. Give each a name of its own.")
        overridden = {section: values for section, values in table.items() if section != "name"}
        for section, values in overridden.items():
            if section == "stages" or not isinstance(values, Mapping):
                raise BabelclipError(
                    f"Stage {name!r} holds {section} = {values!r}; a stage holds its name and sections, for example "
                    "[stages.train]."
                )
        stages.append(Stage(name, {section: dict(values) for section, values in overridden.items()}))
    return tuple(stages)


def write_recipe(recipe: Recipe, out: Path) -> None:
    """Writes the resolved recipe as `recipe.toml` into the folder of a run, which is made where it is missing."""
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / "recipe.toml") as temporary:
        temporary.write_text(to_toml(recipe), encoding="utf-8")
