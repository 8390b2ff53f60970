"""Settings with a type, a default, limits and a help text, read from dataclass fields: the machinery of recipes.

`setting` declares one; `checked`, `parsed` and `check_limits` hold a value against its annotation; `toml` writes it.
This module knows no recipe and imports neither torch nor numpy.
"""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import json
import math
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from babelclip.errors import BabelclipError, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def setting(default: Any, about: str, *, least: float | None = None, above: float | None = None) -> Any:
    """Returns a dataclass field with its help text and limits (`least` is allowed, `above` is not)."""
    metadata = {"about": about, "least": least, "above": above}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def checked(name: str, value: Any, kind: Any) -> Any:
    """Returns `value` as `kind`, widened from int to float and from list to tuple; never from text.

    Raises:
        BabelclipError: it is of another type, or no allowed choice.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    wrong = BabelclipError(f"{name} = {value!r} is of type {type(value).__name__}; expected {kind_name(kind)}.")
    if origin in (types.UnionType, typing.Union):
        return None if value is None else checked(name, value, arguments[0])
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
            raise BabelclipError(f"{name} has {len(value)} values; expected {len(kinds)}: {kind_name(kind)}.")
        return tuple(checked(f"{name}[{i}]", item, kinds[i]) for i, item in enumerate(value))
    if origin is collections.abc.Mapping:
        if not isinstance(value, Mapping):
            raise wrong
        return {str(key): checked(f"{name}.{key}", item, arguments[1]) for key, item in value.items()}
    # bool is a kind of int in Python; a setting that says `true` for a number is a mistake all the same.
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
        return value
    raise wrong


def parsed(name: str, text: str, kind: Any) -> Any:
    """Returns the text after `=` as a value of `kind`; text that does not parse is left for `checked` to refuse."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    text = text.strip()
    if origin in (types.UnionType, typing.Union):
        return None if text.lower() == "none" else parsed(name, text, arguments[0])
    if text[:1] == {tuple: "[", collections.abc.Mapping: "{"}.get(origin):
        # Commas within quotes, and quoted keys, are TOML's to read; what is not TOML, as bare words, is cut at commas.
        with contextlib.suppress(tomllib.TOMLDecodeError):
            found = tomllib.loads(f"value = {text}")["value"]
            # `[{}]` is meant as a template without quotes.
            if not any(isinstance(item, dict) for item in (found.values() if isinstance(found, dict) else found)):
                return found
    if origin is tuple:
        items = [item.strip().strip("\"'") for item in text.strip("[]").split(",") if item.strip()]
        return [parsed(name, item, arguments[0]) for item in items]
    if origin is collections.abc.Mapping:
        pairs = [pair.partition("=") for pair in text.strip("{}").split(",") if pair.strip()]
        return {key.strip(): parsed(name, value, arguments[1]) for key, _, value in pairs}
    if kind is bool:
        # Strictly the two words of TOML: a flag read as true because its text is not empty is a known trap.
        return {"true": True, "false": False}.get(text, text)
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return text
    return text.strip("\"'")


def check_limits(name: str, value: Any, limits: Mapping[str, Any]) -> None:
    """Checks numbers, also those in lists and tables, against `least` and `above` of a field.

    Raises:
        BabelclipError: a number is not finite or lies outside.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            check_limits(f"{name}.{key}", item, limits)
    elif isinstance(value, tuple):
        for item in value:
            check_limits(name, item, limits)
    elif isinstance(value, (int, float)):
        if not math.isfinite(value):
            raise BabelclipError(f"{name} = {value} is not a finite number. Give a finite one.")
        if limits["least"] is not None and value < limits["least"]:
            raise BabelclipError(f"{name} = {value} is too small; it must be at least {limits['least']:g}.")
        if limits["above"] is not None and value <= limits["above"]:
            raise BabelclipError(f"{name} = {value} is too small; it must be above {limits['above']:g}.")


def kind_name(kind: Any) -> str:
    """Returns what a person calls a type: "integer", "list of text"."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return f"{kind_name(arguments[0])} (or absent)"
    if origin is Literal:
        return " | ".join(json.dumps(choice) for choice in arguments)
    if origin is tuple:
        return f"list of {kind_name(arguments[0])}"
    if origin is collections.abc.Mapping:
        return f"table of {kind_name(arguments[1])}"
    return {bool: "true or false", int: "integer", float: "number", str: "text"}.get(kind, str(kind))


def toml(value: Any) -> str:
    """Returns a value of JSON types as TOML text on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, float):
        # TOML needs a digit on both sides of the point of a float; 1e-08 has none and is valid as it is.
        return repr(value)
    return json.dumps(value, ensure_ascii=False)
