"""Which version of a collection answers, and that a copy in memory answers as the collection itself does."""

from __future__ import annotations

import threading
import time

import numpy as np
import pyarrow as pa
import pytest

from babelclip.search.collection import UnsupportedError, open_collection, snapshot_of
from babelclip.search.filters import Eq, In, IsNull, Not, Range
from babelclip.search.lance import LanceCollection
from babelclip.search.memory import MemoryCollection, copied
from babelclip.search.query import QueryVector, find_vector
from babelclip.search.server.versions import Versions
from tests.search.collections import DIM, ROWS, SCORE_TOLERANCE, in_memory, make_collection, make_rows
from tests.search.server.conftest import search

COLUMNS = ["caption", "lang", "width", "modified", "group", "sha256"]
FILTERS = [None, Eq("lang", "sv"), Not(In("lang", ("sv", "de"))), Range("width", low=1), IsNull("thumbnail")]


def rows_with_doubles():
    """The usual rows, of which every fourth picture is nearly the one before, some by vector and some by group."""
    rows = make_rows()
    vectors = np.array(rows["vector"].to_pylist(), np.float32)
    vectors[3::8] = vectors[2::8] + 1e-3
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    groups = [f"g{row // 4}" if row % 8 in (6, 7) else None for row in range(ROWS)]
    table = rows.set_column(rows.column_names.index("vector"), "vector", pa.array(list(vectors)))
    return table.append_column("group", pa.array(groups))


def same(one, other):
    """Whether two pages hold the same hits in the same order."""
    assert [hit._replace(score=0) for hit in one.rows] == [hit._replace(score=0) for hit in other.rows]
    scores = [[hit.score for hit in page.rows] for page in (one, other)]
    assert np.abs(np.array(scores[0]) - np.array(scores[1])).max(initial=0) < SCORE_TOLERANCE
    assert one.exhausted == other.exhausted
    return True


@pytest.mark.parametrize("where", FILTERS)
@pytest.mark.parametrize("backend", ["memory", "fast"])
def test_a_copy_gives_the_pages_that_the_collection_gives(tmp_path, backend, where):
    collection = make_collection("lance", tmp_path, rows_with_doubles())
    copy = in_memory(collection) if backend == "memory" else make_collection("fast", tmp_path, rows_with_doubles())
    for seed in range(3):
        query = QueryVector(np.random.default_rng(seed).standard_normal(DIM).astype(np.float32))
        for offset in (0, 7, 200):
            for asked in ({}, {"dedup": False}, {"group_by": "lang"}, {"min_score": 0.1}):
                pages = [
                    find_vector(rows, query, 7, where=where, offset=offset, columns=COLUMNS, **asked)
                    for rows in (copy, collection)
                ]
                assert same(*pages)
    assert copy.count(where) == collection.count(where)


def test_a_collection_that_is_too_large_is_not_copied(tmp_path):
    collection = snapshot_of(make_collection("lance", tmp_path))
    assert copied(collection, most_rows=ROWS - 1, most_bytes=1 << 30) is None
    assert copied(collection, most_rows=ROWS, most_bytes=4 * DIM * ROWS) is None  # its columns take some too
    assert copied(collection, most_rows=ROWS, most_bytes=1 << 30).count() == ROWS


def test_twins_are_noted_only_where_they_are_asked_for(tmp_path, monkeypatch):
    copy = in_memory(make_collection("lance", tmp_path))
    monkeypatch.setattr("babelclip.search.memory._LISTED", ROWS - 1)
    copy.note_twins(("group",), 0.94)
    assert copy.twins(np.arange(ROWS)) is None
    monkeypatch.setattr("babelclip.search.memory._LISTED", ROWS)
    copy.note_twins(("group",), 0.94)
    assert copy.twins(np.arange(ROWS)) is not None


def wait(condition):
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def few(collection, _wanted):
    return copied(collection, most_rows=10_000, most_bytes=1 << 24)


def test_a_newer_version_is_looked_for_beside_the_answers(tmp_path):
    writer = make_collection("lance", tmp_path)
    versions = Versions(open_collection(writer.url), 0.2, few)
    first = versions.current()
    assert isinstance(first, MemoryCollection)
    writer.delete(ids=["r1"])
    assert versions.current() is first
    wait(lambda: versions.current().version() == writer.version())  # asks all the time, and never waits for the look
    assert versions.current().get(["r1"]).num_rows == 0
    assert versions.at(first.version()).get(["r1"]).num_rows == 1
    assert not isinstance(versions.at(first.version()), MemoryCollection)  # only the newest takes memory
    writer.delete(ids=["r2"])
    time.sleep(1.1)  # nobody has asked for long: the next one gets what is there now
    assert versions.ready() is None
    assert versions.current().get(["r2"]).num_rows == 0
    versions.close()


def test_what_is_changed_here_is_seen_at_once(tmp_path):
    writer = make_collection("lance", tmp_path)
    versions = Versions(open_collection(writer.url), 3600.0, few)
    writer.upsert(make_rows(200, 203))
    assert versions.current().count() == ROWS
    versions.expire()
    assert versions.current().count() == ROWS + 3
    versions.close()


def test_pictures_that_were_moved_are_looked_for_where_they_are_now(tmp_path, monkeypatch):
    monkeypatch.setattr("babelclip.search.server.versions._COPYING", 1e9)  # copies one after the other
    writer = make_collection("lance", tmp_path)
    versions = Versions(open_collection(writer.url), 0.0, few)
    first = versions.current()
    writer.set_roots({"home": "/elsewhere"})  # no row changes, so the version stays
    assert versions.current().roots == {"home": "/elsewhere"}
    assert versions.current().version() == first.version()
    assert isinstance(versions.current(), MemoryCollection)
    versions.close()


def test_the_collection_answers_until_a_slow_copy_is_made_and_after_one_that_failed(tmp_path, monkeypatch):
    monkeypatch.setattr("babelclip.search.server.versions.QUICK", 0)
    collection = make_collection("lance", tmp_path)
    let = threading.Event()

    def slow(version, wanted):
        let.wait(10)
        return few(version, wanted)

    versions = Versions(open_collection(collection.url), 3600.0, slow)
    assert not isinstance(versions.current(), MemoryCollection)
    assert versions.current().count() == ROWS
    let.set()
    wait(lambda: isinstance(versions.current(), MemoryCollection))
    versions.close()

    def broken(_version, _wanted):
        raise OSError("no room")

    versions = Versions(open_collection(collection.url), 3600.0, broken)
    wait(lambda: versions._copying is None)
    assert versions.current().count() == ROWS
    versions.close()


@pytest.fixture
def without_versions(monkeypatch):
    """Lance as an engine that keeps no versions, such as Milvus."""

    def refused(_collection, _version):
        raise UnsupportedError("there are no versions")

    monkeypatch.setattr(LanceCollection, "at", refused)
    monkeypatch.setattr(LanceCollection, "version", lambda _collection: 0)


@pytest.mark.parametrize("fast", [False, True])
def test_rows_of_an_engine_without_versions_are_as_they_are_now(serve, own_collection, without_versions, fast):
    client = serve(own_collection, fast=fast)
    served = client.service.collections["shapes"]
    assert not isinstance(served.current(), MemoryCollection)
    before = search(client, query="red circle", k=40)["hits"]
    order = [hit["id"] for hit in search(client, k=200)["hits"]]
    assert len(order) == served.current().count()
    first, second = before[0]["id"], before[1]["id"]
    writer = open_collection(own_collection, write=True)
    row = writer.get([first], columns=["width", "height"], with_vectors=True)
    writer.upsert(row.append_column("caption", pa.array(["another"])))
    writer.delete(ids=[second])
    after = {hit["id"]: hit for hit in search(client, query="red circle", k=40)["hits"]}
    assert after[first]["caption"] == "another"
    assert second not in after
    assert [hit["id"] for hit in search(client, k=200)["hits"]] != order
    assert second not in {hit["id"] for hit in search(client, k=200)["hits"]}
    page = search(client, query="red circle", k=10)
    assert len(search(client, query="red circle", k=10, cursor=page["cursor"])["hits"]) == 10


def test_closing_gives_up_a_copy_that_is_being_made(tmp_path, monkeypatch):
    monkeypatch.setattr("babelclip.search.server.versions.QUICK", 0)
    collection = make_collection("lance", tmp_path)
    asked = []

    def endless(_version, wanted):
        while wanted():
            asked.append(1)
            time.sleep(0.01)

    versions = Versions(open_collection(collection.url), 3600.0, endless)
    wait(lambda: asked)
    versions.close()
    told = len(asked)
    time.sleep(0.05)
    assert len(asked) == told


def test_the_service_answers_from_memory_as_it_does_from_the_collection(serve, own_collection, monkeypatch):
    client = serve(own_collection)
    served = client.service.collections["shapes"]
    assert served.current().stats().backend == "memory"
    asked = [{"query": "red circle"}, {"query": "a", "where": {"op": "range", "column": "width", "gte": 50}}, {}]
    here = [search(client, **question, k=30) for question in asked]
    monkeypatch.setattr("babelclip.search.server.served._COMPARED", 0)
    there = serve(own_collection)
    assert there.service.collections["shapes"].current().stats().backend == "lance"
    for one, question in zip(here, asked, strict=True):
        other = search(there, **question, k=30)
        for first, second in zip(one["hits"], other["hits"], strict=True):
            assert first.pop("score") == pytest.approx(second.pop("score"), abs=2e-6)
            assert first.pop("relative") == pytest.approx(second.pop("relative"), abs=1e-4)
            assert first == second
    page = search(client, query="red circle", k=10)
    second = search(client, query="red circle", k=10, cursor=page["cursor"])
    assert [hit["id"] for hit in [*page["hits"], *second["hits"]]] == [hit["id"] for hit in here[0]["hits"][:20]]


def test_fast_mode_is_a_switch_of_the_service(serve, own_collection, monkeypatch, tmp_path):
    pytest.importorskip("faiss")
    monkeypatch.setattr("babelclip.search.faiss_fast._GRAPH_FROM", 50)
    monkeypatch.setattr("babelclip.search.faiss_fast.cache_folder", lambda: tmp_path)
    client = serve(own_collection, fast=True)
    served = client.service.collections["shapes"]
    assert served.current().stats().backend == "fast"
    whole = [hit["id"] for hit in search(client, query="red circle", k=30)["hits"]]
    exact = find_vector(
        served.current().base,
        QueryVector(served.current().get(whole[:1], with_vectors=True)["vector"][0].values.to_numpy()),
        10,
    )
    alike = client.get(f"/v1/collections/shapes/items/{whole[0]}/similar?k=10").json()["hits"]
    assert len({hit["id"] for hit in alike} & {hit.id for hit in exact.rows}) >= 8
    gone = open_collection(own_collection, write=True)
    gone.delete(ids=whole[:5])
    assert not {*whole[:5]} & {hit["id"] for hit in search(client, query="red circle", k=30)["hits"]}
