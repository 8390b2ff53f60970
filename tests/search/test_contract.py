"""Every backend keeps the same contract: the same rows, scores and errors."""

from __future__ import annotations

import datetime
import math
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from babelclip.errors import BabelclipError
from babelclip.search.collection import UnsupportedError, open_collection
from babelclip.search.filters import (
    And,
    Eq,
    In,
    IsNull,
    Ne,
    Not,
    Or,
    Range,
    check_filter,
    from_json,
    mask,
    parse_where,
    to_json,
)
from tests.search.collections import (
    BACKENDS,
    DIM,
    FLOATS,
    OWN,
    READERS,
    ROWS,
    SCORE_TOLERANCE,
    SPACE,
    TEXTS,
    TIMES,
    WHOLE,
    WRITERS,
    make_collection,
    make_rows,
)

ROWS_TABLE = make_rows()
IDS = ROWS_TABLE["id"].to_pylist()
VECTORS = np.array(ROWS_TABLE["vector"].to_pylist(), np.float32)
BY_ID = {row["id"]: row for row in ROWS_TABLE.drop_columns(["vector"]).to_pylist()}


def made(backend, folder, rows=None):
    try:
        return make_collection(backend, folder, rows)
    except (ImportError, OSError) as error:
        if backend == "milvus":
            pytest.skip(f"milvus-lite does not start here: {error}")
        raise


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory):
    """The same rows in every backend that starts here."""
    collections = {}
    for backend in BACKENDS:
        try:
            collections[backend] = make_collection(backend, tmp_path_factory.mktemp(backend))
        except (ImportError, OSError):
            assert backend == "milvus"
    yield collections
    for collection in collections.values():
        collection.close()


@pytest.fixture(scope="module", params=BACKENDS)
def collection(request, everywhere):
    if request.param not in everywhere:
        pytest.skip("milvus-lite does not start here")
    return everywhere[request.param]


@pytest.fixture(params=WRITERS)
def writable(request, tmp_path):
    collection = made(request.param, tmp_path)
    yield collection
    collection.close()


def queries(count=5):
    return np.random.default_rng(9).standard_normal((count, DIM)).astype(np.float32)


@pytest.mark.parametrize("exact", [False, True])
def test_search_finds_what_comparing_all_vectors_finds(collection, exact):
    asked = queries()
    found = collection.search(asked, 7, columns=["caption", "width"], with_vectors=True, exact=exact)
    assert found.schema == pa.schema(
        [
            ("query", pa.int32()),
            ("id", pa.string()),
            ("score", pa.float32()),
            ("caption", pa.string()),
            ("width", pa.int64()),
            ("vector", pa.list_(pa.float32(), DIM)),
        ]
    )
    units = asked.astype(np.float64) / np.linalg.norm(asked, axis=1, keepdims=True)
    scores = units @ VECTORS.astype(np.float64).T
    best = np.argsort(-scores, axis=1)[:, :7]
    assert found["query"].to_pylist() == [n for n in range(5) for _ in range(7)]
    assert found["id"].to_pylist() == [IDS[row] for row in best.reshape(-1)]
    expected = np.take_along_axis(scores, best, axis=1).reshape(-1)
    assert np.abs(found["score"].to_numpy() - expected).max() < SCORE_TOLERANCE
    for row in found.to_pylist():
        assert row["caption"] == BY_ID[row["id"]]["caption"]
        assert row["width"] == BY_ID[row["id"]]["width"]
        assert np.abs(np.array(row["vector"]) - VECTORS[IDS.index(row["id"])]).max() < 1e-6


def test_the_length_of_a_query_does_not_matter(collection):
    one, other = collection.search(queries(1)[0], 3), collection.search(queries(1) * 1000, 3)
    assert one["id"] == other["id"]
    assert np.allclose(one["score"].to_numpy(), other["score"].to_numpy(), atol=1e-6)


def test_a_picture_finds_itself_with_a_score_of_one(collection):
    found = collection.search(VECTORS[:20], 1)
    assert found["id"].to_pylist() == IDS[:20]
    assert np.abs(found["score"].to_numpy() - 1).max() < SCORE_TOLERANCE


def test_no_query_gives_no_result_and_more_than_all_rows_gives_all(collection):
    assert collection.search(np.zeros((0, DIM)), 5, columns=["lang"]).column_names == ["query", "id", "score", "lang"]
    assert collection.search(queries(2), ROWS + 50).num_rows == 2 * ROWS


def test_a_filtered_search_is_never_short_of_k(collection):
    where = In("lang", ("sv", "zh"))
    matching = {name for name, row in BY_ID.items() if row["lang"] in ("sv", "zh")}
    for k in (3, len(matching), ROWS):
        found = collection.search(queries(3), k, where=where)
        assert found.num_rows == 3 * min(k, len(matching))
        assert set(found["id"].to_pylist()) <= matching
    assert collection.search(queries(2), 5, where=Eq("lang", "nobody speaks this")).num_rows == 0
    assert collection.search(queries(2), 5, where=Eq("lang", "x"), exact=True, columns=["lang"]).num_rows == 0


def test_get_keeps_the_order_and_leaves_out_what_is_not_there(collection):
    asked = [IDS[5], "not there", IDS[0], IDS[5], "", "' OR 1=1 --", IDS[-1]]
    found = collection.get(asked, columns=["lang", "modified"], with_vectors=True)
    assert found["id"].to_pylist() == [IDS[5], IDS[0], IDS[-1]]
    assert found["modified"].to_pylist() == [BY_ID[name]["modified"] for name in (IDS[5], IDS[0], IDS[-1])]
    assert np.abs(np.array(found["vector"].to_pylist()) - VECTORS[[5, 0, -1]]).max() < 1e-6
    assert collection.get([]).num_rows == 0


def test_every_value_of_every_column_comes_back_as_it_was_written(collection):
    names = [name for name in ROWS_TABLE.column_names if name not in ("id", "vector")]
    rows = [row for batch in collection.scan(columns=names, batch_rows=50) for row in batch.to_pylist()]
    assert len(rows) == ROWS
    assert {row["id"]: row for row in rows} == BY_ID


def test_scan_and_count_agree_with_the_filter(collection):
    where = Range("width", low=0)
    expected = {name for name, row in BY_ID.items() if row["width"] is not None and row["width"] >= 0}
    batches = list(collection.scan(where=where, with_vectors=True, batch_rows=10))
    assert {name for batch in batches for name in batch["id"].to_pylist()} == expected
    assert max(batch.num_rows for batch in batches) <= 10
    assert batches[0].schema.names == ["id", "vector"]
    assert collection.count(where) == len(expected)
    assert collection.count() == ROWS


def test_facts_of_the_collection(collection):
    assert collection.fingerprint.space == SPACE.space
    assert collection.fingerprint.dim == DIM
    assert {name: collection.columns[name] for name in OWN} == OWN
    assert collection.columns["width"] == "int"
    stats = collection.stats()
    assert stats.rows == ROWS
    assert stats.unindexed == 0
    assert stats.advice == ""


@pytest.mark.parametrize(
    ("vectors", "k", "more", "told"),
    [
        (np.full(DIM, np.nan), 3, {}, "NaN or infinity"),
        (np.full((2, DIM), np.inf), 3, {}, "NaN or infinity"),
        (np.zeros(DIM), 3, {}, "is zero"),
        (np.ones(DIM + 1), 3, {}, f"{DIM} dimensions"),
        (np.ones((2, 2, DIM)), 3, {}, f"{DIM} dimensions"),
        (np.array(["a"] * DIM), 3, {}, f"{DIM} dimensions"),
        (np.ones(DIM), 0, {}, "between 1 and"),
        (np.ones(DIM), -1, {}, "between 1 and"),
        (np.ones(DIM), 10**9, {}, "between 1 and"),
        (np.ones(DIM), True, {}, "between 1 and"),
        (np.ones(DIM), 3, {"columns": ["capton"]}, "Did you mean 'caption'"),
        (np.ones(DIM), 3, {"columns": ["vector"]}, "no column 'vector'"),
        (np.ones(DIM), 3, {"where": Eq("id; DROP", "x")}, "no column"),
    ],
)
def test_what_cannot_be_asked_is_an_error_and_not_an_empty_answer(collection, vectors, k, more, told):
    with pytest.raises(BabelclipError, match=told):
        collection.search(vectors, k, **more)


# Filters: every backend against a reading of the rows in plain Python.


def holds(where, row):
    if isinstance(where, And):
        return all(holds(part, row) for part in where.parts)
    if isinstance(where, Or):
        return any(holds(part, row) for part in where.parts)
    if isinstance(where, Not):
        return not holds(where.part, row)
    value = row.get(where.column)
    if isinstance(where, IsNull):
        return value is None
    if isinstance(where, Ne):
        return value is None or value != where.value
    if value is None:
        return False
    if isinstance(where, Eq):
        return value == where.value
    if isinstance(where, In):
        return value in where.values
    above = where.low is None or (value >= where.low if where.with_low else value > where.low)
    below = where.high is None or (value <= where.high if where.with_high else value < where.high)
    return above and below


VALUES = {
    "caption": st.sampled_from(TEXTS) | st.text(max_size=5).filter(lambda t: "\x00" not in t and t.isprintable()),
    "Title": st.sampled_from(TEXTS),
    "lang": st.sampled_from(["sv", "de", "en"]),
    "width": st.sampled_from(WHOLE) | st.integers(-(2**63), 2**63 - 1),
    "stars": st.integers(0, 6),
    "price": st.sampled_from(FLOATS) | st.floats(allow_nan=False, allow_infinity=False, width=64),
    "liked": st.booleans(),
    "modified": st.sampled_from(TIMES) | st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2100, 1, 1)),
    "id": st.sampled_from(IDS) | st.sampled_from(TEXTS[1:]),
}


def utc(value):
    return value.replace(tzinfo=datetime.timezone.utc) if isinstance(value, datetime.datetime) else value


@st.composite
def conditions(draw):
    column = draw(st.sampled_from(sorted(VALUES)))
    kind = draw(st.sampled_from(["eq", "ne", "in", "range", "null"]))
    value = VALUES[column].map(utc)
    if kind == "null":
        return IsNull(draw(st.sampled_from([*sorted(VALUES), "thumbnail", "taken"])))
    if kind == "in":
        return In(column, tuple(draw(st.lists(value, max_size=4))))
    if kind == "range" and column != "liked":
        low, high = draw(st.none() | value), draw(st.none() | value)
        if low is None and high is None:
            low = draw(value)
        return Range(column, low, high, draw(st.booleans()), draw(st.booleans()))
    return (Eq if kind != "ne" else Ne)(column, draw(value))


FILTERS = st.recursive(
    conditions(),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda parts: And(tuple(parts)))
        | st.lists(inner, max_size=3).map(lambda parts: Or(tuple(parts)))
        | inner.map(Not)
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(where=FILTERS)
def test_a_filter_means_the_same_rows_in_every_backend(everywhere, where):
    expected = sorted(name for name, row in BY_ID.items() if holds(where, row))
    for backend, collection in everywhere.items():
        found = sorted(name for batch in collection.scan(where=where) for name in batch["id"].to_pylist())
        assert found == expected, backend
        assert collection.count(where) == len(expected), backend


@settings(max_examples=200, deadline=None, derandomize=True)
@given(where=FILTERS)
def test_a_filter_survives_json_and_its_mask_is_its_meaning(where):
    columns = {"id": "text", "caption": "text", "lang": "text", "width": "int", "modified": "time"}
    columns |= {"thumbnail": "bytes", **OWN}
    assert from_json(to_json(where), columns) == check_filter(where, columns)
    found = mask(where, ROWS_TABLE.drop_columns(["vector"])).to_pylist()
    assert found == [holds(where, row) for row in BY_ID.values()]


@pytest.mark.parametrize(
    "text",
    [
        "x' OR '1'='1",
        "x'; DROP TABLE pictures; --",
        'x" or id != "',
        "x\\' OR 1=1 --",
        'x\\" or true or "',
        "`id` IS NOT NULL",
        "x') OR (1=1",
        "{expr}",
        "${jndi:ldap}",
        "%' OR caption LIKE '%",
    ],
)
def test_values_that_look_like_code_match_nothing_but_themselves(collection, text):
    for where in (Eq("caption", text), In("id", (text,)), Range("lang", low=text, high=text), Eq("Title", text)):
        assert collection.count(where) == 0
        assert collection.count(Not(where)) == ROWS
    written = parse_where(f"caption = '{text}'".replace(text, text.replace("'", "''")), collection.columns)
    assert written == Eq("caption", text)


# Writing.


def test_upsert_adds_and_replaces(writable):
    changed = make_rows(100, 130, seed=5)
    writable.upsert(changed)
    assert writable.count() == 130
    found = writable.search(np.array(changed["vector"].to_pylist(), np.float32), 1, columns=["width"])
    assert found["id"].to_pylist() == changed["id"].to_pylist()
    assert found["width"].to_pylist() == changed["width"].to_pylist()
    writable.upsert(changed.slice(0, 0))
    only = changed.slice(0, 1).select(["id", "vector"])
    writable.upsert(only.to_batches()[0])  # what is not given is null
    assert writable.get(only["id"].to_pylist(), columns=["width", "lang"]).to_pylist()[0]["lang"] is None


def test_what_is_deleted_is_gone_at_once(writable):
    before = writable.count()
    assert writable.delete(ids=[IDS[3], "not there", IDS[3]]) == 1
    assert writable.delete(ids=[IDS[3]]) == 0
    expected = {name for name, row in BY_ID.items() if row["lang"] == "de"} - {IDS[3]}
    assert writable.delete(where=Eq("lang", "de")) == len(expected)
    assert writable.delete(ids=IDS[:20], where=IsNull("lang")) == sum(
        BY_ID[name]["lang"] is None for name in set(IDS[:20]) - {IDS[3]}
    )
    left = {name for batch in writable.scan() for name in batch["id"].to_pylist()}
    assert not left & (expected | {IDS[3]})
    assert writable.count() == len(left) < before
    assert writable.search(VECTORS[3], 3)["id"].to_pylist()[0] != IDS[3]
    with pytest.raises(BabelclipError, match="ids or a filter"):
        writable.delete()


def test_rows_that_do_not_fit_are_refused_and_nothing_is_written(writable):
    good = make_rows(200, 203)
    vectors = np.array(good["vector"].to_pylist(), np.float32)
    broken = vectors.copy()
    broken[1, 0] = np.nan
    refused = {
        "NaN": pa.table({"id": ["a", "b", "c"], "vector": list(broken)}),
        "is zero": pa.table({"id": ["a"], "vector": [np.zeros(DIM, np.float32)]}),
        f"{DIM} dimensions": pa.table({"id": ["a"], "vector": [np.ones(DIM - 1, np.float32)]}),
        "occurs twice": pa.table({"id": ["a", "b", "a"], "vector": list(vectors)}),
        "cannot be an id": pa.table({"id": ["a", "", "c"], "vector": list(vectors)}),
        "Did you mean 'caption'": good.append_column("captoin", good["caption"]),
        "does not fit its type": pa.table({"id": ["a"], "vector": [vectors[0]], "width": ["wide"]}),
        "no column 'vector'": good.drop_columns(["vector"]),
    }
    for told, rows in refused.items():
        with pytest.raises(BabelclipError, match=told):
            writable.upsert(rows)
    assert writable.count() == ROWS


def test_vectors_are_normalised_and_nan_in_a_column_is_a_missing_value(writable):
    raw = np.array(make_rows(300, 302)["vector"].to_pylist()) * [[40], [0.001]]
    writable.upsert(pa.table({"id": ["raw1", "raw2"], "vector": list(raw), "price": [math.nan, -0.0]}))
    found = writable.get(["raw1", "raw2"], columns=["price"], with_vectors=True)
    assert np.allclose(np.linalg.norm(np.array(found["vector"].to_pylist()), axis=1), 1, atol=1e-6)
    assert found["price"].to_pylist() == [None, 0.0]
    assert writable.count(And((Eq("price", 0.0), Eq("id", "raw2")))) == 1


def test_facts_and_roots_are_kept_and_a_reader_sees_them(writable):
    writable.set_fact("calibration", {"mean": 0.25, "texts": ["å"]})
    writable.set_roots({"home": "/elsewhere"})
    writable.close()
    reader = open_collection(writable.url)
    assert reader.fact("calibration") == {"mean": 0.25, "texts": ["å"]}
    assert reader.fact("nothing") is None
    assert reader.roots == {"home": "/elsewhere"}
    assert reader.fingerprint == SPACE
    assert reader.count() == ROWS
    for change in (
        lambda: reader.upsert(make_rows(0, 1)),
        lambda: reader.delete(ids=["r1"]),
        lambda: reader.set_fact("a", 1),
        lambda: reader.build_index(),
        lambda: reader.optimize(),
    ):
        with pytest.raises(BabelclipError, match="open for reading only"):
            change()
    reader.close()


@pytest.mark.parametrize("backend", WRITERS)
def test_what_another_process_wrote_is_found(tmp_path, backend):
    code = "import sys; from pathlib import Path; from tests.search.collections import make_collection as make\n"
    code += "print(make(sys.argv[1], Path(sys.argv[2])).url)"
    done = subprocess.run([sys.executable, "-c", code, backend, tmp_path], capture_output=True, text=True, check=False)
    if backend == "milvus" and done.returncode:
        pytest.skip(f"milvus-lite does not start here: {done.stderr[-200:]}")
    collection = open_collection(done.stdout.splitlines()[-1])
    assert collection.count() == ROWS
    assert collection.search(VECTORS[:9], 1)["id"].to_pylist() == IDS[:9]
    collection.close()


def test_an_index_below_its_threshold_is_none_and_search_stays_exact(writable):
    report = writable.build_index()
    assert report.kind == "none"
    assert report.rows == ROWS
    assert "search is exact" in report.sentence()
    writable.optimize()
    assert writable.search(VECTORS[:5], 1)["id"].to_pylist() == IDS[:5]
    assert writable.stats().report == report


def test_an_empty_collection_answers_with_nothing(tmp_path):
    for backend in WRITERS:
        empty = made(backend, tmp_path, make_rows(0, 0))
        assert empty.search(queries(2), 5, columns=["lang"]).num_rows == 0
        assert empty.search(queries(2), 5, columns=["lang"], exact=True).num_rows == 0
        assert list(empty.scan()) == []
        assert empty.count() == 0
        assert empty.get(["a"]).num_rows == 0
        empty.close()


@pytest.mark.parametrize("backend", READERS)
def test_a_backend_that_cannot_write_says_so_and_what_can(everywhere, backend):
    collection = everywhere[backend]
    for change in (
        lambda: collection.upsert(make_rows(0, 1)),
        lambda: collection.delete(ids=["r1"]),
        lambda: collection.add_columns({"new": "int"}),
        lambda: collection.set_roots({}),
        lambda: collection.set_fact("a", 1),
        lambda: collection.build_index(),
        lambda: collection.optimize(),
    ):
        with pytest.raises(UnsupportedError, match=r"babelclip index|open_collection"):
            change()
    assert collection.count() == ROWS
