"""The tree of conditions, and its check against the columns of a collection."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from babelclip.errors import BabelclipError, did_you_mean, shown

Value: TypeAlias = "str | int | float | bool | datetime.datetime"

# What a filter may cost: beyond it a query is a mistake or an attack.
MAX_DEPTH, MAX_CONDITIONS, MAX_VALUES, MAX_TEXT = 16, 256, 1000, 4096


@dataclass(frozen=True)
class Eq:
    """The column has this value."""

    column: str
    value: Value


@dataclass(frozen=True)
class Ne:
    """The column has another value, or none."""

    column: str
    value: Value


@dataclass(frozen=True)
class In:
    """The column has one of these values; none of none."""

    column: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Range:
    """The column lies between two values; None leaves an end open, `with_...` say whether it counts itself."""

    column: str
    low: Value | None = None
    high: Value | None = None
    with_low: bool = True
    with_high: bool = True


@dataclass(frozen=True)
class IsNull:
    """The column has no value."""

    column: str


@dataclass(frozen=True)
class And:
    """All of these hold; true of none."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class Or:
    """One of these holds; false of none."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class Not:
    """This does not hold."""

    part: Filter


Filter: TypeAlias = "Eq | Ne | In | Range | IsNull | And | Or | Not"


def check_filter(where: Filter, columns: Mapping[str, str]) -> Filter:
    """Returns the same tree with each value in the type of its column: a time given as ISO text becomes a datetime.

    Args:
        where: the tree.
        columns: name -> type, those that may be asked for.

    Raises:
        BabelclipError: an unknown column, a value of another type, an order on a column without one, or a tree too
            large (16 levels, 256 conditions, 1,000 values in one list).
    """
    budget = [MAX_CONDITIONS]
    return _checked(where, columns, 1, budget)


def _checked(where: Filter, columns: Mapping[str, str], depth: int, budget: list[int]) -> Filter:
    budget[0] -= 1
    if depth > MAX_DEPTH or budget[0] < 0:
        raise BabelclipError(
            f"the filter is too large: at most {MAX_DEPTH} levels and {MAX_CONDITIONS} conditions. Ask for less."
        )
    if isinstance(where, (And, Or)):
        parts = tuple(_checked(part, columns, depth + 1, budget) for part in where.parts)
        return type(where)(parts)
    if isinstance(where, Not):
        return Not(_checked(where.part, columns, depth + 1, budget))
    if not isinstance(where, (Eq, Ne, In, Range, IsNull)):
        raise BabelclipError(
            f"{brief(where)} is not a condition: use Eq, Ne, In, Range, IsNull, And, Or, Not, or parse_where(text)."
        )
    return _checked_leaf(where, columns)


def _checked_leaf(where: Eq | Ne | In | Range | IsNull, columns: Mapping[str, str]) -> Filter:
    if where.column not in columns:
        raise BabelclipError(f"there is no column {brief(where.column)}. {did_you_mean(shown(where.column), columns)}")
    kind = columns[where.column]
    if isinstance(where, IsNull):
        return where
    if kind == "bytes":
        raise BabelclipError(f"column {where.column!r} holds bytes: a filter can ask only whether it is null.")
    if isinstance(where, In):
        if len(where.values) > MAX_VALUES:
            raise BabelclipError(
                f"{len(where.values)} values for column {where.column!r}: at most {MAX_VALUES}. Ask in several steps."
            )
        return In(where.column, tuple(checked_value(value, where.column, kind) for value in where.values))
    if isinstance(where, Range):
        if kind == "bool":
            raise BabelclipError(f"column {where.column!r} is true or false and has no order: use = or !=.")
        if where.low is None and where.high is None:
            raise BabelclipError(f"the range of column {where.column!r} has no end: give low, high or both.")
        low, high = (None if end is None else checked_value(end, where.column, kind) for end in (where.low, where.high))
        # An open end has one writing only.
        with_low, with_high = where.with_low or low is None, where.with_high or high is None
        return Range(where.column, low, high, with_low, with_high)
    return type(where)(where.column, checked_value(where.value, where.column, kind))


def columns_of(where: Filter) -> set[str]:
    """Returns the columns that a tree asks for."""
    if isinstance(where, (And, Or)):
        return {name for part in where.parts for name in columns_of(part)}
    return columns_of(where.part) if isinstance(where, Not) else {where.column}


def brief(value: object) -> str:
    """Returns what a stranger gave, for a message; of things with parts only what they are, however deep."""
    return repr(shown(value, 60)) if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__


def checked_value(value: object, column: str, kind: str) -> Value:
    """Returns `value` in the type of its column.

    Raises:
        BabelclipError: it is of another type, not finite, too long or too large.
    """
    if kind == "text" and isinstance(value, str) and len(value) <= MAX_TEXT and _is_unicode(value):
        return value
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind == "int" and isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
        return value
    if kind == "float" and isinstance(value, (int, float)) and not isinstance(value, bool):
        if abs(value) <= 1.7e308 and math.isfinite(value):
            return float(value) + 0.0  # -0.0 is 0.0
    if kind == "time":
        moment = _time(value)
        if moment is not None:
            return moment
    wanted = {
        "text": f"text of at most {MAX_TEXT} characters",
        "int": "a whole number of 64 bits",
        "float": "a finite number",
        "bool": "true or false",
        "time": "a time such as '2024-05-01' or '2024-05-01T12:00:00+02:00'",
    }[kind]
    raise BabelclipError(f"column {column!r} is {kind} and cannot be compared with {brief(value)}: give {wanted}.")


def _time(value: object) -> datetime.datetime | None:
    if isinstance(value, str) and len(value) <= 40:
        try:
            # Python 3.10 does not know the Z.
            value = datetime.datetime.fromisoformat(value.replace("Z", "+00:00").replace("z", "+00:00"))
        except ValueError:
            return None
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime.datetime) or not 1 < value.year < 9999:
        return None
    moment = value if value.tzinfo is not None else value.replace(tzinfo=datetime.timezone.utc)
    return moment.astimezone(datetime.timezone.utc)


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\x00" not in text
