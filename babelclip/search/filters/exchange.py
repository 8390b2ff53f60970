"""Filters as JSON: what the service takes, and what a cursor carries.

{"op": "eq", "column": "lang", "value": "sv"}          also "ne"
{"op": "in", "column": "lang", "values": ["sv", "de"]}
{"op": "range", "column": "width", "gte": 1000, "lt": 2000}     any of gt, gte, lt, lte
{"op": "is_null", "column": "caption"}
{"op": "and", "parts": [...]}, {"op": "or", "parts": [...]}, {"op": "not", "part": {...}}
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from babelclip.errors import BabelclipError, did_you_mean, shown
from babelclip.search.filters.tree import (
    MAX_DEPTH,
    MAX_VALUES,
    And,
    Eq,
    Filter,
    In,
    IsNull,
    Ne,
    Not,
    Or,
    Range,
    Value,
    brief,
    check_filter,
)

_KEYS = {
    "eq": {"column", "value"},
    "ne": {"column", "value"},
    "in": {"column", "values"},
    "range": {"column", "gt", "gte", "lt", "lte"},
    "is_null": {"column"},
    "and": {"parts"},
    "or": {"parts"},
    "not": {"part"},
}


def to_json(where: Filter) -> dict[str, Any]:
    """Returns a tree as JSON content; times as ISO text."""
    if isinstance(where, (And, Or)):
        return {"op": "and" if isinstance(where, And) else "or", "parts": [to_json(part) for part in where.parts]}
    if isinstance(where, Not):
        return {"op": "not", "part": to_json(where.part)}
    if isinstance(where, IsNull):
        return {"op": "is_null", "column": where.column}
    if isinstance(where, In):
        return {"op": "in", "column": where.column, "values": [_plain(value) for value in where.values]}
    if isinstance(where, Range):
        ends: dict[str, Any] = {}
        if where.low is not None:
            ends["gte" if where.with_low else "gt"] = _plain(where.low)
        if where.high is not None:
            ends["lte" if where.with_high else "lt"] = _plain(where.high)
        return {"op": "range", "column": where.column, **ends}
    return {"op": "eq" if isinstance(where, Eq) else "ne", "column": where.column, "value": _plain(where.value)}


def from_json(content: object, columns: Mapping[str, str]) -> Filter:
    """Returns the checked tree of JSON content that a stranger may have written.

    Raises:
        BabelclipError: it is not such content, or does not fit the columns (see `check_filter`).
    """
    return check_filter(_read(content, 1), columns)


def _read(content: object, depth: int) -> Filter:
    if not isinstance(content, dict) or depth > MAX_DEPTH:
        raise BabelclipError(
            f"{brief(content)} is not a filter: a filter is an object such as "
            f'{{"op": "eq", "column": "lang", "value": "sv"}}, at most {MAX_DEPTH} of them in each other.'
        )
    operation = content.get("op")
    if not isinstance(operation, str) or operation not in _KEYS:
        near = did_you_mean(operation if isinstance(operation, str) else "", _KEYS)
        raise BabelclipError(f"{brief(operation)} is not an operation. {near}")
    for key in content:
        if key != "op" and key not in _KEYS[operation]:
            raise BabelclipError(f"{operation!r} has no key {shown(key)!r}. {did_you_mean(str(key), _KEYS[operation])}")
    if operation in ("and", "or"):
        parts = tuple(_read(part, depth + 1) for part in _list(content.get("parts"), operation))
        return And(parts) if operation == "and" else Or(parts)
    if operation == "not":
        return Not(_read(content.get("part"), depth + 1))
    column = content.get("column")
    if not isinstance(column, str):
        raise BabelclipError(f'{operation!r} needs the name of a column: {{"op": {operation!r}, "column": "lang", …}}.')
    if operation == "is_null":
        return IsNull(column)
    if operation == "in":
        return In(column, tuple(_list(content.get("values"), operation)))
    if operation == "range":
        return _range(content, column)
    if "value" not in content or content["value"] is None:
        raise BabelclipError(f'{operation!r} needs a value; for rows without one use {{"op": "is_null", …}}.')
    value = content["value"]
    return Eq(column, value) if operation == "eq" else Ne(column, value)


def _range(content: dict[str, Any], column: str) -> Range:
    for one, other in (("gt", "gte"), ("lt", "lte")):
        if content.get(one) is not None and content.get(other) is not None:
            raise BabelclipError(f"a range takes {one!r} or {other!r}, not both.")
    with_low, with_high = content.get("gt") is None, content.get("lt") is None
    low = content.get("gte") if with_low else content.get("gt")
    high = content.get("lte") if with_high else content.get("lt")
    return Range(column, low, high, with_low=with_low, with_high=with_high)


def _list(values: object, operation: str) -> list[Any]:
    if not isinstance(values, list) or len(values) > MAX_VALUES:
        raise BabelclipError(f"{operation!r} takes a list of at most {MAX_VALUES}, not {brief(values)}.")
    return values


def _plain(value: Value) -> str | int | float | bool:
    return value.isoformat() if isinstance(value, datetime.datetime) else value
