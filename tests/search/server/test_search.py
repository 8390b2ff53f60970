"""Searching over HTTP: terms, filters, vectors, pages that stay whole, safety (S7, S8, S16)."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pytest

from babelclip.search.collection import open_collection
from babelclip.search.server.tokens import Signer
from tests.search.server.conftest import problem, search

SEARCH = "/v1/collections/shapes/search"


def test_a_collection_says_what_can_be_asked_of_it(client):
    (facts,) = client.get("/v1/collections").json()["collections"]
    assert client.get("/v1/collections/shapes").json() == facts
    assert (facts["rows"], facts["space"], facts["text_encoder"]) == (96, "test/tiny", "tiny")
    assert {fact["column"] for fact in facts["filterable"]} == {"width", "height", "modified"}
    problem(client.get("/v1/collections/other"), 404, "not_found")
    problem(client.post("/v1/collections/other/search", json={}), 404, "not_found")


def test_terms_add_up_and_take_away(client, item):
    first = search(client, terms=[{"id": item["id"]}], k=5)
    assert item["id"] not in [hit["id"] for hit in first["hits"]]
    line = search(client, query="red circle - blue", k=5)
    apart = search(client, terms=[{"text": "red circle"}, {"text": "blue", "weight": -0.5}], k=5)
    assert [hit["id"] for hit in line["hits"]] == [hit["id"] for hit in apart["hits"]]
    scores = [hit["score"] for hit in line["hits"]]
    assert scores == sorted(scores, reverse=True)
    problem(client.post(SEARCH, json={"terms": [{"text": "a"}, {"text": "a", "weight": -1}]}), 400, "bad_request")
    problem(client.post(SEARCH, json={"terms": [{"id": "absent"}]}), 400, "bad_request")


def test_rows_stream_as_lines(client):
    answer = client.post(SEARCH, json={"k": 3}, headers={"Accept": "application/x-ndjson"})
    *hits, end = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [hit["id"] for hit in hits] == [hit["id"] for hit in search(client, k=3)["hits"]]
    assert end["end"]["cursor"]


@pytest.mark.parametrize("asked", [{}, {"query": "red circle"}, {"query": "a", "dedup": False}])
def test_pages_hold_every_row_once(client, asked):
    seen, cursor = [], None
    while True:
        page = search(client, **asked, k=20, cursor=cursor)
        seen += [hit["id"] for hit in page["hits"]]
        cursor = page["cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen))
    if asked != {"query": "red circle"}:
        assert len(seen) == 96


def test_pages_stay_whole_while_rows_come_and_go(serve, own_collection):
    client = serve(own_collection)
    whole = [hit["id"] for hit in search(client, query="red", dedup=False, k=96)["hits"]]
    first = search(client, query="red", dedup=False, k=30)
    changed = open_collection(own_collection, write=True)
    changed.delete(ids=whole[:10] + whole[40:50])
    second = search(client, query="red", dedup=False, k=30, cursor=first["cursor"])
    assert [hit["id"] for hit in second["hits"]] == whole[30:60]
    assert second["version"] == first["version"]
    assert search(client, query="red", dedup=False, k=10)["hits"][0]["id"] == whole[10]
    # When the version is cleaned up, scrolling says so, and a new search goes on.
    changed.optimize(keep_versions_for=0)
    client.service.collections["shapes"].expire()
    problem(
        client.post(SEARCH, json={"query": "red", "dedup": False, "k": 30, "cursor": second["cursor"]}), 410, "gone"
    )
    assert search(client, query="red", dedup=False, k=10)["hits"][0]["id"] == whole[10]
    # A process that has not heard of it reads anew by itself.
    changed.delete(ids=whole[10:12])
    changed.optimize(keep_versions_for=0)
    assert client.get("/v1/collections/shapes").json()["rows"] == 96 - 22


def test_a_cursor_is_of_one_question_one_collection_and_one_service(client):
    cursor = search(client, query="red", k=5)["cursor"]
    text, _, mark = cursor.rpartition(".")
    changed = json.loads(base64.urlsafe_b64decode(text + "=="))
    further = base64.urlsafe_b64encode(json.dumps({**changed, "o": 9000}).encode()).decode().rstrip("=")
    for asked in (
        {"query": "blue", "k": 5, "cursor": cursor}, {"query": "red", "k": 6, "cursor": cursor},
        {"query": "red", "k": 5, "cursor": f"{further}.{mark}"}, {"query": "red", "k": 5, "cursor": cursor[:-1]},
        {"query": "red", "k": 5, "cursor": Signer().seal("cursor", changed)}, {"query": "red", "k": 5, "cursor": ""},
        {"query": "red", "k": 5, "cursor": client.service.signer.seal("upload", changed)},
        {"query": "red", "k": 5, "where": {"op": "is_null", "column": "lang"}, "cursor": cursor},
        {"query": "red", "k": 5, "cursor": "é.é"}, {"query": "red", "k": 5, "cursor": "."},
    ):  # fmt: skip
        problem(client.post(SEARCH, json=asked), 400, "bad_request")
    assert search(client, query="red", k=5, cursor=cursor)["hits"]


@pytest.mark.parametrize(
    "where",
    [
        {"op": "eq", "column": "width", "value": "40 OR 1=1"}, {"op": "eq", "column": "1=1 OR width", "value": 40},
        {"op": "eq", "column": "width; DROP TABLE pictures", "value": 40}, {"op": "eq", "column": "`width`",
        "value": 40},
        {"op": "eq", "column": "vector", "value": 1}, {"op": "eq", "column": "thumbnail", "value": "a"},
        {"op": "eq", "column": "_rowid", "value": 1}, {"op": "sql", "value": "1=1"}, {"op": "eq", "column": "width"},
        {"op": "eq", "column": "width", "value": {"op": "eq"}}, {"op": "eq", "column": "width", "value": [40]},
        {"op": "in", "column": "width", "values": "40"}, {"op": "range", "column": "width"}, {"op": "and"},
        {"op": "not"}, {},
        {"op": "range", "column": "width", "gte": "a"}, {"op": "eq", "column": "lang", "value": "a" * 5000},
        {"op": "eq", "column": "width", "value": 10**40}, {"op": "eq", "column": "modified", "value": "yesterday"},
        {"op": "eq", "column": "width", "value": True}, {"op": "eq", "column": None, "value": 1},
        {"op": ["eq"], "column": "width"},
    ],
)  # fmt: skip
def test_a_filter_that_is_none_is_refused(client, where):
    answer = client.post(SEARCH, json={"where": where})
    assert answer.status_code in (400, 422)
    problem(answer, answer.status_code, "bad_request")


@pytest.mark.parametrize(
    "value", ["' OR '1'='1", "'; DROP TABLE pictures; --", "\\' OR 1=1", "%", "_", "\0", "`", '"', "*/ OR 1=1 /*"]
)
def test_a_value_is_a_value_whatever_it_looks_like(client, value):
    for where in (
        {"op": "eq", "column": "caption", "value": value},
        {"op": "in", "column": "caption", "values": [value]},
    ):
        answer = client.post(SEARCH, json={"where": where})
        assert answer.status_code in (200, 400), answer.text
        assert answer.status_code == 400 or answer.json()["hits"] == []
    problem(client.get(f"/v1/collections/shapes/items/{quote(value, safe='')}"), 404)


def test_filters_find_what_fulfils_them(client):
    hits = search(client, query="red", where={"op": "range", "column": "width", "gte": 64}, k=96, dedup=False)["hits"]
    assert {hit["width"] for hit in hits} == {64, 68}
    caption = hits[0]["caption"]
    (only,) = search(client, where={"op": "eq", "column": "caption", "value": caption}, columns=["sha256"])["hits"]
    assert only["caption"] == caption
    assert len(only["columns"]["sha256"]) == 64


@pytest.mark.parametrize(
    "vector", [[], [1.0], [0.0] * 16, [1e300] * 16, [1e-300] * 16, [None] * 16, ["a"] * 16, [1.0] * 17, 1.0, "AAAA"]
)
def test_a_vector_that_is_none_is_refused(client, vector):
    answer = client.post(SEARCH, json={"terms": [{"vector": vector}]})
    assert answer.status_code in (400, 422)
    for number in ("NaN", "Infinity", "-Infinity", "1e999"):
        body = '{"terms": [{"vector": [' + ", ".join([number] * 16) + "]}]}"
        assert client.post(SEARCH, content=body, headers={"Content-Type": "application/json"}).status_code in (400, 422)


def test_a_vector_counts_by_its_direction(client):
    vector = np.random.default_rng(0).normal(size=16)
    near, far = (search(client, terms=[{"vector": (vector * by).tolist()}], k=5)["hits"] for by in (1, 1e6))
    assert near == far
    assert all(-1 <= hit["score"] <= 1 for hit in near)


def test_vectors_and_labels_come_without_a_collection(client, collection):
    listed = client.post("/v1/embed", json={"texts": ["a", "två hundar", "狗"]}).json()
    packed = client.post("/v1/embed", json={"texts": ["a", "två hundar", "狗"], "format": "base64"}).json()
    rows = np.frombuffer(base64.b64decode(packed["vectors"]), "<f4").reshape(packed["n"], packed["dim"])
    assert np.allclose(rows, listed["vectors"])
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert (
        search(client, terms=[{"vector": listed["vectors"][0]}], k=3)["hits"][0]["id"]
        == search(client, query="a", k=3)["hits"][0]["id"]
    )
    picture = base64.b64encode((collection.parent / "shapes" / "red-circle-48.png").read_bytes()).decode()
    answer = client.post(
        "/v1/zero-shot", json={"image": picture, "labels": [{"text": "röd", "lang": "sv"}, {"text": "blue"}]}
    )
    assert sum(label["probability"] for label in answer.json()["labels"]) == pytest.approx(1, abs=1e-5)
    for asked, status in (
        ({"texts": ["a"] * 65}, 422), ({"texts": ["a" * 2001]}, 413), ({}, 422), ({"texts": [], "images": []}, 422),
        ({"texts": ["a"], "model": "other"}, 400), ({"images": ["%"]}, 400),
        ({"texts": ["a"], "lang": "no language"}, 400),
    ):  # fmt: skip
        problem(client.post("/v1/embed", json=asked), status)
    for asked in ({"labels": [{"text": "a"}]}, {"labels": [], "image": picture},
    {"labels": [{"text": "a"}] * 65, "image": picture},
                  {"labels": [{"text": "a"}], "image": picture, "template": "no place"}):  # fmt: skip
        problem(client.post("/v1/zero-shot", json=asked), 422)


@pytest.fixture
def rated(own_collection):
    """A collection that says of each row how unfit it is: not at all, much, or nothing."""
    collection = open_collection(own_collection, write=True)
    collection.add_columns({"nsfw": "float"})
    batch = pa.Table.from_batches(list(collection.scan(columns=list(collection.columns), with_vectors=True)))
    says = pa.array([(0.1, 0.9, None)[place % 3] for place in range(len(batch))], pa.float64())
    collection.upsert(
        batch.drop_columns([name for name in ("nsfw",) if name in batch.column_names]).append_column("nsfw", says)
    )
    return own_collection


def test_safety_leaves_out_what_is_not_said_to_be_safe(serve, rated):
    client = serve(rated)
    hits = search(client, query="red", safety=True, columns=["nsfw"], k=96, dedup=False)["hits"]
    assert {hit["columns"]["nsfw"] for hit in hits} == {0.1}
    assert len(hits) == 32
    assert len(search(client, query="red", k=96, dedup=False)["hits"]) == 96


def test_safety_that_cannot_be_had_is_refused(client, serve):
    problem(client.post(SEARCH, json={"query": "red", "safety": True}), 400, "no_safety")
    legacy = {"text": "red", "modality": "image", "num_images": 3, "indice_name": None, "use_safety_model": True}
    problem(client.post("/knn-service", json=legacy), 400, "no_safety")
    legacy = {**legacy, "use_safety_model": False, "use_violence_detector": True}
    problem(client.post("/knn-service", json=legacy), 400, "no_safety")
    told = serve(ignore_safety=True)
    assert len(told.post("/knn-service", json=legacy).json()) == 3
    # That word of the operator is about clip-retrieval's clients, who ask by default.
    problem(told.post(SEARCH, json={"query": "red", "safety": True}), 400, "no_safety")


def test_numbers_that_are_none_are_null(serve, own_collection):
    collection = open_collection(own_collection, write=True)
    collection.add_columns({"weight": "float"})
    row = next(iter(collection.scan(columns=["caption"], with_vectors=True))).slice(0, 3)
    weights = pa.array([float("nan"), float("inf"), 1.0])
    collection.upsert(pa.table({"id": row["id"], "vector": row["vector"], "weight": weights}))
    client = serve(own_collection)
    hits = search(client, columns=["weight"], k=96)["hits"]
    assert sorted({hit["columns"]["weight"] for hit in hits}, key=str) == [1.0, None]
    assert client.get("/v1/collections").status_code == 200


def test_a_model_of_another_space_is_no_encoder_here(client):
    assert client.service.encoder_for(client.service.collections["shapes"], "tiny") is not None
    problem(client.post(SEARCH, json={"query": "a", "encoder": "absent"}), 400)
