"""Recipes: a frozen dataclass = one TOML file = the flags `--set section.key=value`, with the same names in all three.

The dataclasses below are the only list of settings. Types, choices and limits are read from their annotations and
metadata, so a new setting, or a new section, is one more field. Entry points: `load_recipe`, `recipe_from_dict`,
`apply_overrides`, `to_toml`. This module imports neither torch nor numpy.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import json
import math
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from babelclip.errors import BabelclipError, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LOSSES = ("mse", "mse_sum", "cosine", "infonce", "clip")


def _setting(default: Any, about: str, *, least: float | None = None, above: float | None = None) -> Any:
    """Returns a dataclass field with its help text and limits (`least` is allowed, `above` is not)."""
    metadata = {"about": about, "least": least, "above": above}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Train:
    """`[train]`: the loop."""

    kind: Literal["distill", "contrastive"] = _setting("distill", "which training")
    steps: int = _setting(1000, "optimiser steps", least=1)
    tokens_per_batch: int = _setting(4096, "padded tokens of a batch; used where batch_size is 0", least=1)
    batch_size: int = _setting(0, "captions of a batch; 0 = fill tokens_per_batch", least=0)
    accumulation: int = _setting(1, "batches of one optimiser step", least=1)
    lr: float = _setting(1e-4, "peak learning rate", least=0.0)
    head_lr: float | None = _setting(None, "peak learning rate of the head; absent = lr", least=0.0)
    weight_decay: float = _setting(0.0, "AdamW decay, on matrices only", least=0.0)
    betas: tuple[float, float] = _setting((0.9, 0.999), "AdamW betas", least=0.0)
    eps: float = _setting(1e-8, "AdamW epsilon", above=0.0)
    warmup_steps: int = _setting(100, "steps of linear warm-up", least=0)
    schedule: Literal["constant", "cosine", "linear"] = _setting("constant", "learning rate after warm-up")
    clip_norm: float = _setting(1.0, "largest gradient norm; 0 = no clipping", least=0.0)
    seed: int = _setting(0, "seed of data order and dropout", least=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = _setting("auto", "of the forward pass; weights stay fp32")
    device: Literal["auto", "cpu"] = _setting("auto", "auto = an accelerator where there is one")
    validate_every: int = _setting(0, "steps between validations; 0 = at the end only", least=0)
    save_every: int = _setting(500, "steps between checkpoints; 0 = at the end only", least=0)
    log_every: int = _setting(10, "steps between lines of the log", least=1)
    best_metric: str = _setting("", "validation metric of the best checkpoint; empty = the first one")
    best_is: Literal["lowest", "highest"] = _setting("lowest", "which value of best_metric is best")
    keep: Literal["last", "best"] = _setting("last", "which weights the model holds at the end")
    tensorboard: bool = _setting(False, "write TensorBoard files beside log.jsonl")


@dataclasses.dataclass(frozen=True)
class Student:
    """`[student]`: the text encoder that learns."""

    model: str = _setting("", "folder or name of the student")
    embed_dim: int | None = _setting(None, "dimension of its head; absent = as it is", least=1)
    trainable: str = _setting("all", "all, head, or last N layers")
    freeze_embeddings: bool = _setting(False, "keep the word embeddings as they are")
    dropout: float = _setting(0.0, "0 is right for regression", least=0.0)
    cache: Literal["off", "float16", "float32"] = _setting("float16", "keep the states below the trained layers")


@dataclasses.dataclass(frozen=True)
class Teacher:
    """`[teacher]`: where the targets come from."""

    targets: str = _setting("", "folder of the EmbeddingStore with the teacher's vectors")
    space: str = _setting("", "space that the targets must have; empty = any")


@dataclasses.dataclass(frozen=True)
class Data:
    """`[data]`: captions."""

    captions: tuple[str, ...] = _setting((), "caption files")
    validation: tuple[str, ...] = _setting((), "held-out caption files")
    weights: Mapping[str, float] = _setting(
        {}, "language = times an epoch that its captions are seen; absent = 1", least=0
    )


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
    logit_scale: Literal["free", "locked"] = _setting("free", "locked keeps the temperature")
    max_logit_scale: float = _setting(100.0, "upper clamp of the logit scale", above=0.0)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One training run. Every field is a section of the TOML file."""

    train: Train = Train()
    student: Student = Student()
    teacher: Teacher = Teacher()
    data: Data = Data()
    loss: Loss = Loss()
    towers: Towers = Towers()

    def loss_terms(self) -> dict[str, float]:
        """Returns the weight of each loss term, in the order of `loss.name`."""
        name = self.loss.name
        if name == "auto":
            name = "clip" if self.train.kind == "contrastive" else "mse"
        return {term: self.loss.weights.get(term, 1.0) for term in name.split("+")}


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Returns the recipe in a TOML file, with `section.key=value` overrides applied in order.

    Raises:
        BabelclipError: the file is missing, is not TOML, or a section, key, type or value is not allowed.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BabelclipError(f"Recipe {path} does not exist. Check the path; recipes end in .toml.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BabelclipError(f"Recipe {path} is not valid TOML: {error}. Correct that line.") from error
    return apply_overrides(recipe_from_dict(content), overrides)


def recipe_from_dict(content: Mapping[str, Any]) -> Recipe:
    """Returns the recipe for nested mappings as they come from TOML or JSON; what is absent takes its default.

    >>> recipe_from_dict({"train": {"steps": 5}}).train.steps
    5

    Raises:
        BabelclipError: a section or key is not known, or a value has another type or lies outside its limits.
    """
    kinds = typing.get_type_hints(Recipe)
    sections: dict[str, Any] = {}
    for section, values in content.items():
        if section not in kinds:
            raise BabelclipError(f"Section [{section}] is not known. {did_you_mean(section, kinds)}")
        if not isinstance(values, Mapping):
            raise BabelclipError(
                f"{section} = {values!r} stands outside a section. Write it under [section], for example [train]."
            )
        sections[section] = _section_from_dict(section, kinds[section], values)
    recipe = Recipe(**sections)
    _check_terms(recipe)
    return recipe


def recipe_to_dict(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Returns the recipe as nested dictionaries of JSON types; settings that are None are left out."""
    return {
        section: {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in values.items()
            if value is not None
        }
        for section, values in dataclasses.asdict(recipe).items()
    }


def apply_overrides(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Returns `recipe` with each `section.key=value` set; `section.key.name=value` sets one entry of a table.

    >>> apply_overrides(Recipe(), ["train.lr=2e-5"]).train.lr
    2e-05

    Raises:
        BabelclipError: an override has another form, or its key or value is not allowed.
    """
    content = recipe_to_dict(recipe)
    kinds = typing.get_type_hints(Recipe)
    for override in overrides:
        name, equals, text = override.partition("=")
        parts = name.strip().split(".")
        if not equals or len(parts) < 2 or not all(parts):
            raise BabelclipError(
                f"Override {override!r} cannot be read; its form is section.key=value, for example train.lr=2e-5."
            )
        section, key, *entry = parts
        if section not in kinds:
            raise BabelclipError(f"Section {section!r} in {override!r} is not known. {did_you_mean(section, kinds)}")
        kind = _kind_of(section, kinds[section], key)
        if entry and typing.get_origin(kind) is collections.abc.Mapping:
            table = content[section].setdefault(key, {})
            table[".".join(entry)] = _parsed(name, text, typing.get_args(kind)[1])
        elif entry:
            raise BabelclipError(
                f"Override {override!r} goes into a table, but {section}.{key} is none: drop '.{entry[0]}'."
            )
        else:
            content[section][key] = _parsed(name, text, kind)
    return recipe_from_dict(content)


def to_toml(recipe: Recipe) -> str:
    """Returns the recipe as TOML text that `load_recipe` reads back to an equal recipe."""
    lines: list[str] = []
    for section, values in recipe_to_dict(recipe).items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
        lines.append("")
    return "\n".join(lines)


def describe() -> list[tuple[str, str, str, str]]:
    """Returns (name, type, default, meaning) of every setting, for help texts and documentation."""
    rows = []
    for section, section_type in typing.get_type_hints(Recipe).items():
        kinds = typing.get_type_hints(section_type)
        default = section_type()
        for field in dataclasses.fields(section_type):
            value = getattr(default, field.name)
            shown = "" if value is None else _toml(list(value) if isinstance(value, tuple) else value)
            rows.append((f"{section}.{field.name}", _kind_name(kinds[field.name]), shown, field.metadata["about"]))
    return rows


def _section_from_dict(section: str, section_type: type, values: Mapping[str, Any]) -> Any:
    given = {}
    for key, value in values.items():
        kind = _kind_of(section, section_type, key)
        given[key] = _checked(f"{section}.{key}", value, kind)
    made = section_type(**given)
    for field in dataclasses.fields(section_type):
        _check_limits(f"{section}.{field.name}", getattr(made, field.name), field.metadata)
    return made


def _kind_of(section: str, section_type: type, key: str) -> Any:
    kinds = typing.get_type_hints(section_type)
    if key not in kinds:
        raise BabelclipError(f"Key {key!r} in [{section}] is not known. {did_you_mean(key, kinds)}")
    return kinds[key]


def _checked(name: str, value: Any, kind: Any) -> Any:
    """Returns `value` as `kind`, widened from int to float and from list to tuple; never from text."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    wrong = BabelclipError(f"{name} = {value!r} is of type {type(value).__name__}; expected {_kind_name(kind)}.")
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _checked(name, value, arguments[0])
    if origin is Literal:
        if not isinstance(value, str):
            raise wrong
        if value not in arguments:
            raise BabelclipError(f"{name} = {value!r} is not known. {did_you_mean(value, arguments)}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise wrong
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(value):
            raise BabelclipError(f"{name} has {len(value)} values; expected {len(kinds)}: {_kind_name(kind)}.")
        return tuple(_checked(f"{name}[{i}]", item, kinds[i]) for i, item in enumerate(value))
    if origin is collections.abc.Mapping:
        if not isinstance(value, Mapping):
            raise wrong
        return {str(key): _checked(f"{name}.{key}", item, arguments[1]) for key, item in value.items()}
    # bool is a kind of int in Python; a setting that says `true` for a number is a mistake all the same.
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
        return value
    raise wrong


def _parsed(name: str, text: str, kind: Any) -> Any:
    """Returns the text after `=` as a value of `kind`; text that does not parse is left for `_checked` to refuse."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    text = text.strip()
    if origin in (types.UnionType, typing.Union):
        return None if text.lower() == "none" else _parsed(name, text, arguments[0])
    if origin is tuple:
        items = [item.strip().strip("\"'") for item in text.strip("[]").split(",") if item.strip()]
        return [_parsed(name, item, arguments[0]) for item in items]
    if origin is collections.abc.Mapping:
        pairs = [pair.partition("=") for pair in text.strip("{}").split(",") if pair.strip()]
        return {key.strip(): _parsed(name, value, arguments[1]) for key, _, value in pairs}
    if kind is bool:
        # Strictly the two words of TOML: a flag read as true because its text is not empty is a known trap.
        return {"true": True, "false": False}.get(text, text)
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return text
    return text.strip("\"'")


def _check_limits(name: str, value: Any, limits: Mapping[str, Any]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _check_limits(f"{name}.{key}", item, limits)
    elif isinstance(value, tuple):
        for item in value:
            _check_limits(name, item, limits)
    elif isinstance(value, (int, float)):
        if not math.isfinite(value):
            raise BabelclipError(f"{name} = {value} is not a finite number. Give a finite one.")
        if limits["least"] is not None and value < limits["least"]:
            raise BabelclipError(f"{name} = {value} is too small; it must be at least {limits['least']:g}.")
        if limits["above"] is not None and value <= limits["above"]:
            raise BabelclipError(f"{name} = {value} is too small; it must be above {limits['above']:g}.")


def _check_terms(recipe: Recipe) -> None:
    terms = recipe.loss_terms()
    for term in (*terms, *recipe.loss.weights):
        if term not in LOSSES:
            raise BabelclipError(f"Loss {term!r} in [loss] is not known. {did_you_mean(term, LOSSES)}")
    for term in recipe.loss.weights:
        if term not in terms:
            raise BabelclipError(
                f"loss.weights.{term} weighs a term that loss.name = {recipe.loss.name!r} does not have. "
                f"Set loss.name = {'+'.join((*terms, term))!r}, or drop the weight."
            )


def _kind_name(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return f"{_kind_name(arguments[0])} (or absent)"
    if origin is Literal:
        return " | ".join(json.dumps(choice) for choice in arguments)
    if origin is tuple:
        return f"list of {_kind_name(arguments[0])}"
    if origin is collections.abc.Mapping:
        return f"table of {_kind_name(arguments[1])}"
    return {bool: "true or false", int: "integer", float: "number", str: "text"}.get(kind, str(kind))


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, float):
        # TOML needs a digit on both sides of the point of a float; 1e-08 has none and is valid as it is.
        return repr(value)
    return json.dumps(value, ensure_ascii=False)
