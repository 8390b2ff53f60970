"""What a person writes on the command line: `width >= 1000 and lang in ('sv', 'de') and not caption is null`.

filter    = all { "or" all }
all       = one { "and" one }
one       = "not" one | "(" filter ")" | condition
condition = column ( = != < <= > >= ) value | column [ "not" ] "in" "(" value { "," value } ")"
          | column "is" [ "not" ] "null" | column [ "not" ] "between" value "and" value
value     = number | true | false | 'text' | "text"        a quote inside is doubled
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from babelclip.errors import BabelclipError, shown
from babelclip.search.filters.tree import (
    MAX_DEPTH,
    MAX_TEXT,
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
    check_filter,
)

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
    | (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?![A-Za-z_])
    | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<sign><=|>=|!=|<>|==|=|<|>|\(|\)|,)
    )""",
    re.VERBOSE,
)
_EXAMPLE = "for example width >= 1000 and lang = 'sv'"


def parse_where(text: str, columns: Mapping[str, str]) -> Filter:
    """Returns the checked tree of a written filter.

    Args:
        text: see the grammar above; words in any letter case, columns as they are called.
        columns: name -> type, those that may be asked for.

    Raises:
        BabelclipError: it does not follow the grammar (the message shows where), or does not fit the columns.
    """
    if len(text) > 4 * MAX_TEXT:
        raise BabelclipError(f"the filter has {len(text)} characters: at most {4 * MAX_TEXT}. Ask for less.")
    reader = _Reader(text, _tokens(text))
    where = reader.any_of(1)
    if reader.position < len(reader.tokens):
        raise reader.error("and, or, or the end")
    return check_filter(where, columns)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    start: int


def _tokens(text: str) -> list[_Token]:
    tokens, position = [], 0
    end = len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            raise BabelclipError(
                f"the filter {shown(text)!r} cannot be read at {shown(text[position:].lstrip(), 20)!r}: quotes must be "
                f"closed, and only columns, values, comparisons, and, or, not are known, {_EXAMPLE}."
            )
        tokens.append(_Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)))
        position = match.end()
    return tokens


class _Reader:
    """A position in the tokens, and one function for each rule of the grammar."""

    def __init__(self, text: str, tokens: list[_Token]) -> None:
        self.text, self.tokens, self.position = text, tokens, 0

    def any_of(self, depth: int) -> Filter:
        parts = [self.all_of(depth)]
        while self.takes("or"):
            parts.append(self.all_of(depth))
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def all_of(self, depth: int) -> Filter:
        parts = [self.one(depth)]
        while self.takes("and"):
            parts.append(self.one(depth))
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def one(self, depth: int) -> Filter:
        if depth > MAX_DEPTH:
            raise BabelclipError(f"the filter is too deep: at most {MAX_DEPTH} levels of brackets and not.")
        if self.takes("not"):
            return Not(self.one(depth + 1))
        if self.takes("("):
            inner = self.any_of(depth + 1)
            self.needs(")")
            return inner
        return self.condition()

    def condition(self) -> Filter:
        token = self.next("a column")
        if token.kind != "word":
            self.position -= 1
            raise self.error("a column")
        column = token.text
        if self.takes("is"):
            negated = self.takes("not")
            self.needs("null")
            return Not(IsNull(column)) if negated else IsNull(column)
        negated = self.takes("not")
        found: Filter
        if self.takes("in"):
            found = In(column, self.values())
        elif self.takes("between"):
            low = self.value()
            self.needs("and")
            found = Range(column, low, self.value())
        elif negated:
            raise self.error("in or between")
        else:
            return self.comparison(column)
        return Not(found) if negated else found

    def comparison(self, column: str) -> Filter:
        sign = self.next("= != < <= > >= in is between").text
        if sign in ("=", "=="):
            return Eq(column, self.value())
        if sign in ("!=", "<>"):
            return Ne(column, self.value())
        if sign in ("<", "<="):
            return Range(column, high=self.value(), with_high=sign == "<=")
        if sign in (">", ">="):
            return Range(column, low=self.value(), with_low=sign == ">=")
        self.position -= 1
        raise self.error("= != < <= > >= in is between")

    def values(self) -> tuple[Value, ...]:
        self.needs("(")
        values = [self.value()]
        while self.takes(","):
            values.append(self.value())
        self.needs(")")
        return tuple(values)

    def value(self) -> Value:
        token = self.next("a value")
        if token.kind == "text":
            quote = token.text[0]
            return token.text[1:-1].replace(quote * 2, quote)
        if token.kind == "number":
            # Far beyond any value, and Python refuses to read numbers of thousands of digits.
            if len(token.text) > 40:
                raise BabelclipError(f"the number {shown(token.text, 30)} is too long: at most 40 characters.")
            return int(token.text) if token.text.lstrip("+-").isdigit() else float(token.text)
        if token.text.lower() in ("true", "false"):
            return token.text.lower() == "true"
        self.position -= 1
        raise self.error("a value: a number, true, false, or text in quotes")

    def takes(self, wanted: str) -> bool:
        if self.position < len(self.tokens):
            token = self.tokens[self.position]
            if token.kind in ("word", "sign") and token.text.lower() == wanted:
                self.position += 1
                return True
        return False

    def needs(self, wanted: str) -> None:
        if not self.takes(wanted):
            raise self.error(wanted)

    def next(self, wanted: str) -> _Token:
        if self.position >= len(self.tokens):
            raise self.error(wanted)
        self.position += 1
        return self.tokens[self.position - 1]

    def error(self, wanted: str) -> BabelclipError:
        at_end = self.position >= len(self.tokens)
        place = "at its end" if at_end else f"at {shown(self.text[self.tokens[self.position].start :], 20)!r}"
        return BabelclipError(f"the filter {shown(self.text)!r} needs {wanted} {place}: {_EXAMPLE}.")
