"""Filters in the words of the engines: Lance SQL, Milvus expressions, and masks over Arrow tables.

Engines disagree about rows without a value under `not`. So negations are moved down to the comparisons first
(De Morgan), and each comparison says itself what becomes of such rows. Values enter as escaped literals of their
checked type, columns only by names that the collection has.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from babelclip.search.columns import ARROW_TYPES, column_types
from babelclip.search.filters.tree import And, Eq, Filter, In, IsNull, Ne, Not, Or, Range, Value, check_filter

_Write = Callable[[str, str, Value], str]  # column, sign, value -> comparison


def to_lance(where: Filter, columns: Mapping[str, str]) -> str:
    """Returns the filter as a condition in the SQL of Lance (DataFusion).

    Raises:
        BabelclipError: it does not fit the columns.
    """

    def write(column: str, sign: str, value: Value) -> str:
        return f"`{column}` {sign} {_sql(value)}"

    def is_null(column: str, negated: bool) -> str:
        return f"`{column}` IS {'NOT ' if negated else ''}NULL"

    return _written(check_filter(where, columns), False, write, is_null, ("AND", "OR", "TRUE", "FALSE"))


def to_milvus(where: Filter, columns: Mapping[str, str], prefix: str = "") -> str:
    """Returns the filter as an expression of Milvus, where column `c` is the field `prefix + c` (`id` stays).

    Times are fields of whole microseconds since 1970 there.

    Raises:
        BabelclipError: it does not fit the columns.
    """

    def field(column: str) -> str:
        return column if column == "id" else prefix + column

    def write(column: str, sign: str, value: Value) -> str:
        return f"{field(column)} {'==' if sign == '=' else '!=' if sign == '<>' else sign} {_milvus(value)}"

    def is_null(column: str, negated: bool) -> str:
        return f"{field(column)} is {'not ' if negated else ''}null"

    # Milvus has no constants: an id is never empty.
    return _written(check_filter(where, columns), False, write, is_null, ("and", "or", 'id != ""', 'id == ""'))


def mask(where: Filter, table: pa.Table, columns: Mapping[str, str] | None = None) -> pa.ChunkedArray | pa.Array:
    """Returns which rows (N bool, no null) of an Arrow table fulfil the filter.

    Args:
        where: the filter.
        table: has the columns that the filter names.
        columns: their types; None takes those of the table.

    Raises:
        BabelclipError: it does not fit the columns.
    """
    types = column_types(table.schema) if columns is None else columns
    return _mask(check_filter(where, types), table, types)


def _mask(where: Filter, table: pa.Table, columns: Mapping[str, str]) -> pa.ChunkedArray | pa.Array:
    if isinstance(where, (And, Or)):
        found = pa.array([isinstance(where, And)] * len(table), pa.bool_())
        for part in where.parts:
            found = (pc.and_ if isinstance(where, And) else pc.or_)(found, _mask(part, table, columns))
        return found
    if isinstance(where, Not):
        return pc.invert(_mask(where.part, table, columns))
    column = table[where.column].cast(ARROW_TYPES[columns[where.column]])
    if isinstance(where, IsNull):
        return pc.is_null(column)
    if isinstance(where, In):
        return pc.and_(pc.is_valid(column), pc.is_in(column, value_set=pa.array(where.values, column.type)))
    if isinstance(where, Range):
        found = pc.is_valid(column)
        if where.low is not None:
            compare = pc.greater_equal if where.with_low else pc.greater
            found = pc.and_(found, pc.fill_null(compare(column, pa.scalar(where.low, column.type)), False))
        if where.high is not None:
            compare = pc.less_equal if where.with_high else pc.less
            found = pc.and_(found, pc.fill_null(compare(column, pa.scalar(where.high, column.type)), False))
        return found
    equal = pc.fill_null(pc.equal(column, pa.scalar(where.value, column.type)), False)
    return equal if isinstance(where, Eq) else pc.invert(equal)


def _written(
    where: Filter,
    negated: bool,
    write: _Write,
    is_null: Callable[[str, bool], str],
    words: tuple[str, str, str, str],
) -> str:
    """Returns `where`, or its opposite where `negated`, as text. `words` are those for and, or, true, false."""
    conjunction, disjunction, true, false = words
    if isinstance(where, Not):
        return _written(where.part, not negated, write, is_null, words)
    if isinstance(where, (And, Or)):
        all_of = isinstance(where, And) != negated
        parts = [_written(part, negated, write, is_null, words) for part in where.parts]
        if not parts:
            return f"({true if all_of else false})"
        return "(" + f" {conjunction if all_of else disjunction} ".join(parts) + ")"
    if isinstance(where, Ne):
        where, negated = Eq(where.column, where.value), not negated
    column = where.column
    if isinstance(where, IsNull):
        return f"({is_null(column, negated)})"
    signs: list[tuple[str, Value]]
    if isinstance(where, Eq):
        signs, inner = [("<>" if negated else "=", where.value)], conjunction
    elif isinstance(where, In):
        if not where.values:
            return f"({true if negated else false})"
        signs = [("<>" if negated else "=", value) for value in where.values]
        inner = conjunction if negated else disjunction
    else:
        signs, inner = _range_signs(where, negated), disjunction if negated else conjunction
    compared = f" {inner} ".join(write(column, sign, value) for sign, value in signs)
    # A row without a value fulfils no comparison, and its opposite always.
    outer = disjunction if negated else conjunction
    return f"({is_null(column, not negated)} {outer} ({compared}))"


def _range_signs(where: Range, negated: bool) -> list[tuple[str, Value]]:
    signs: list[tuple[str, Value]] = []
    if where.low is not None:
        signs.append((("<" if where.with_low else "<=") if negated else (">=" if where.with_low else ">"), where.low))
    if where.high is not None:
        signs.append(
            ((">" if where.with_high else ">=") if negated else ("<=" if where.with_high else "<"), where.high)
        )
    return signs


def _sql(value: Value) -> str:
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, datetime.datetime):
        return f"CAST({microseconds(value)} AS TIMESTAMP)"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    # A cast keeps a whole float from being read as an integer, and the largest negative integer from overflowing.
    return f"CAST('{value!r}' AS {'BIGINT' if isinstance(value, int) else 'DOUBLE'})"


def _milvus(value: Value) -> str:
    if isinstance(value, datetime.datetime):
        return str(microseconds(value))
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def microseconds(moment: datetime.datetime) -> int:
    """Returns whole microseconds since 1970 UTC; exact, which `timestamp()` is not."""
    return (moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)) // datetime.timedelta(microseconds=1)
