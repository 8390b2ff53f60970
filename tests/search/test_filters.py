"""Filters as text and JSON: what is read, and what is refused with a cure."""

from __future__ import annotations

import datetime

import pytest

from babelclip.errors import BabelclipError
from babelclip.search.filters import (
    And,
    Eq,
    In,
    IsNull,
    Ne,
    Not,
    Or,
    Range,
    columns_of,
    from_json,
    parse_where,
    to_json,
    to_lance,
    to_milvus,
)

COLUMNS = {"width": "int", "lang": "text", "price": "float", "liked": "bool", "taken": "time", "raw": "bytes"}
UTC = datetime.timezone.utc


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("width >= 1000", Range("width", low=1000)),
        (
            "width<5 and width > -3",
            And((Range("width", high=5, with_high=False), Range("width", low=-3, with_low=False))),
        ),
        ("lang = 'sv' OR lang == \"de\"", Or((Eq("lang", "sv"), Eq("lang", "de")))),
        ("lang != 'it''s' and price<>.5e1", And((Ne("lang", "it's"), Ne("price", 5.0)))),
        ("not (liked = true or liked is null)", Not(Or((Eq("liked", True), IsNull("liked"))))),
        ("lang in ('sv', 'de') and lang not in ('x')", And((In("lang", ("sv", "de")), Not(In("lang", ("x",)))))),
        ("width between 1 and 3 or width is not null", Or((Range("width", 1, 3), Not(IsNull("width"))))),
        ("taken >= '2024-05-01'", Range("taken", low=datetime.datetime(2024, 5, 1, tzinfo=UTC))),
        ("taken = '2024-05-01T12:00:00+02:00'", Eq("taken", datetime.datetime(2024, 5, 1, 10, tzinfo=UTC))),
        ("taken = '2024-05-01T12:00:00Z'", Eq("taken", datetime.datetime(2024, 5, 1, 12, tzinfo=UTC))),
        ("price = 3", Eq("price", 3.0)),
        ("lang = '狗 or 1=1'", Eq("lang", "狗 or 1=1")),
    ],
)
def test_what_a_person_writes_becomes_a_tree(text, expected):
    assert parse_where(text, COLUMNS) == expected
    assert from_json(to_json(expected), COLUMNS) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("widht >= 3", "Did you mean 'width'"),
        ("width >= 'wide'", "a whole number"),
        ("width = 1.5", "a whole number"),
        ("width = 9223372036854775808", "64 bits"),
        ("liked > true", "no order"),
        ("liked = 1", "true or false"),
        ("taken > 'yesterday'", "such as '2024-05-01'"),
        ("raw = 'x'", "whether it is null"),
        ("lang = sv", "text in quotes"),
        ("lang = 'sv", "quotes must be closed"),
        ("lang = 'sv' lang = 'de'", "and, or, or the end"),
        ("lang", "= != <"),
        ("", "a column at its end"),
        ("width in ()", "a value"),
        ("(width = 1", r"needs \)"),
        ("width = 1; drop table x", "cannot be read"),
        ("width = 1 -- x", "cannot be read"),
        ("lang like '%'", "= != <"),
        ("length(lang) = 1", "no column|= != <"),
        ("not " * 40 + "width = 1", "too deep"),
        ("(" * 40 + "width = 1" + ")" * 40, "too deep"),
        (" or ".join(["width = 1"] * 300), "too large"),
        ("width = " + "9" * 5000, "too long"),
        ("lang = '" + "x" * 5000 + "'", "4096"),
        ("x" * 100_000, "characters"),
        ("width in (" + ",".join("1" * 1 for _ in range(1001)) + ")", "1000"),
    ],
)
def test_what_cannot_be_read_says_where_and_what_is_allowed(text, told):
    with pytest.raises(BabelclipError, match=told) as caught:
        parse_where(text, COLUMNS)
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "is not a filter"),
        ([], "is not a filter"),
        ({"op": "sql", "column": "lang"}, "not an operation"),
        ({"op": ["eq"]}, "not an operation"),
        ({"op": "eq", "column": "lang", "value": "x", "sql": "1"}, "no key 'sql'"),
        ({"op": "eq", "column": "lang"}, "needs a value"),
        ({"op": "eq", "column": "lang", "value": None}, "is_null"),
        ({"op": "eq", "column": "lang", "value": {"a": 1}}, "give text"),
        ({"op": "eq", "column": {"a": 1}, "value": "x"}, "name of a column"),
        ({"op": "eq", "column": "lang`", "value": "x"}, "no column"),
        ({"op": "eq", "column": "price", "value": float("nan")}, "finite"),
        ({"op": "eq", "column": "price", "value": 10**400}, "finite"),
        ({"op": "eq", "column": "lang", "value": "\ud800"}, "give text"),
        ({"op": "eq", "column": "lang", "value": "a\x00b"}, "give text"),
        ({"op": "in", "column": "lang", "values": "sv"}, "takes a list"),
        ({"op": "range", "column": "width"}, "has no end"),
        ({"op": "range", "column": "width", "gt": 1, "gte": 2}, "not both"),
        ({"op": "not"}, "is not a filter"),
        ({"op": "and", "parts": [{"op": "or", "parts": 3}]}, "takes a list"),
    ],
)
def test_json_of_a_stranger_is_refused_with_a_reason(content, told):
    with pytest.raises(BabelclipError, match=told):
        from_json(content, COLUMNS)


def test_json_that_is_nested_without_end_is_refused():
    deep: dict = {"op": "is_null", "column": "lang"}
    for _ in range(2000):
        deep = {"op": "not", "part": deep}
    with pytest.raises(BabelclipError, match="16 of them in each other"):
        from_json(deep, COLUMNS)
    for content in ({"op": deep}, {"op": "in", "column": "lang", "values": deep}, {"op": "eq", "column": deep}):
        with pytest.raises(BabelclipError):
            from_json(content, COLUMNS)
    with pytest.raises(BabelclipError, match="dict: give text"):
        from_json({"op": "eq", "column": "lang", "value": deep}, COLUMNS)


def test_literals_are_escaped_and_columns_quoted():
    where = And((Eq("lang", 'it\'s `x` "y" \\'), Not(In("width", (1, -(2**63))))))
    sql = to_lance(where, COLUMNS)
    assert "'it''s `x` \"y\" \\'" in sql
    assert "`lang` IS NOT NULL" in sql
    assert to_milvus(where, COLUMNS, "c_").count("c_width != ") == 2
    assert '"it\'s `x` \\"y\\" \\\\"' in to_milvus(where, COLUMNS, "c_")
    for compile_filter in (to_lance, to_milvus):
        with pytest.raises(BabelclipError, match="no column"):
            compile_filter(Eq("lang` = '' OR `lang", "x"), COLUMNS)
        with pytest.raises(BabelclipError, match="is not a condition"):
            compile_filter("lang = 'sv'", COLUMNS)


def test_the_columns_of_a_filter():
    assert columns_of(Not(Or((Eq("a", 1), And((IsNull("b"), In("c", (1,)))))))) == {"a", "b", "c"}
