"""clip-retrieval's client and page: payloads written down from their source, answers as they read them."""

from __future__ import annotations

import base64
import io
import json

import pyarrow as pa
import pytest
from PIL import Image

from babelclip.search.collection import open_collection
from tests.search.server.conftest import problem

# What ClipClient.__search_knn_api of clip-retrieval 2.45 sends, and its page's search.
CLIENT = {
    "text": None, "image": None, "image_url": None, "embedding_input": None, "modality": "image", "num_images": 40,
    "indice_name": "shapes", "num_result_ids": 40, "use_mclip": False, "deduplicate": True, "use_safety_model": False,
    "use_violence_detector": False, "aesthetic_score": 9, "aesthetic_weight": 0.5,
}  # fmt: skip
PAGE = {
    "text": "red circle", "image": None, "image_url": None, "embedding_input": None, "modality": "image",
    "num_images": 20,
    "indice_name": "shapes", "num_result_ids": 3000, "use_mclip": True, "deduplicate": False, "use_safety_model": False,
    "use_violence_detector": False, "aesthetic_score": "", "aesthetic_weight": "0.5",
}  # fmt: skip


def post(client, path, content):
    """As `requests.post(url, data=json.dumps(...))` and the page's fetch do: without the type of JSON."""
    return client.post(path, content=json.dumps(content))


def test_the_client_gets_rows_with_columns_pictures_and_similarity(client):
    assert client.get("/indices-list").json() == ["shapes"]
    rows = post(client, "/knn-service", {**CLIENT, "text": "red circle"}).json()
    assert 0 < len(rows) <= 40
    assert [row["similarity"] for row in rows] == sorted((row["similarity"] for row in rows), reverse=True)
    for row in rows:
        assert set(row) == {"id", "similarity", "caption", "image"}  # image_path only where the operator shows paths
        assert Image.open(io.BytesIO(base64.b64decode(row["image"]))).format == "JPEG"


def test_the_page_gets_many_ids_of_which_the_first_have_columns(client):
    rows = post(client, "/knn-service", PAGE).json()
    assert len(rows) == 96
    assert all("caption" in row for row in rows[:20])
    assert all(set(row) == {"id", "similarity"} for row in rows[20:])
    ids = [row["id"] for row in rows[20:60]]
    found = post(client, "/metadata", {"ids": ids, "indice_name": "shapes"}).json()
    assert [entry["id"] for entry in found] == ids
    assert all(entry["metadata"]["caption"] for entry in found)
    assert post(client, "/metadata", {"ids": [], "indice_name": "shapes"}).json() == []
    assert post(client, "/metadata", {"ids": ["absent", 7], "indice_name": None}).json() == []


@pytest.mark.parametrize("score", [None, "", 0, 9, "9", {}])
def test_an_aesthetic_score_of_any_kind_is_taken(client, score):
    plain = post(client, "/knn-service", {**PAGE, "aesthetic_score": ""}).json()
    assert post(client, "/knn-service", {**PAGE, "aesthetic_score": score, "unknown": [1]}).json() == plain


def test_pictures_and_vectors_are_asked_with_and_text_goes_first(client, collection):
    content = (collection.parent / "shapes" / "red-circle-48.png").read_bytes()
    image = base64.b64encode(content).decode()
    found = post(client, "/knn-service", {**CLIENT, "image": image, "num_images": 3}).json()
    assert found[0]["caption"].startswith("red circle, 48")
    (vector,) = client.post("/v1/embed", json={"images": [image]}).json()["vectors"]
    long = [number * 1000 for number in vector]  # as they are, and they need not be of length 1
    again = post(client, "/knn-service", {**CLIENT, "embedding_input": long, "num_images": 3}).json()
    assert [row["id"] for row in again] == [row["id"] for row in found]
    assert again[0]["similarity"] == pytest.approx(1, abs=1e-3)
    first = post(client, "/knn-service", {**PAGE, "image": "broken", "image_url": "file:///etc/passwd"}).json()
    assert first == post(client, "/knn-service", PAGE).json()
    # An empty one is none, and the next is taken.
    assert post(client, "/knn-service", {**CLIENT, "text": "", "image": image, "num_images": 3}).json() == found


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"modality": None}, 400), ({"modality": "sound"}, 400), ({"num_images": None}, 400), ({"num_images": 0}, 400),
        ({"num_images": "ten"}, 400), ({"num_images": True}, 400), ({"num_result_ids": -1}, 400),
        ({"indice_name": "other"}, 404),
        ({"indice_name": {"a": 1}}, 404), ({"text": None}, 400), ({"text": 7}, 400), ({"text": "a" * 3000}, 413),
        ({"text": None, "embedding_input": [1, 2]}, 400), ({"text": None, "embedding_input": ["a"] * 16}, 400),
        ({"text": None, "embedding_input": [0] * 16}, 400), ({"text": None, "image": "?"}, 400),
        ({"text": None, "image_url": "http://127.0.0.1/"}, 403),
        ({"text": None, "embedding_input": [10**400] * 16}, 400),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_a_problem_in_json(client, change, status):
    problem(post(client, "/knn-service", {**PAGE, **change}), status)


def test_keys_that_are_needed_are_needed(client):
    for key in ("modality", "num_images", "indice_name"):
        problem(post(client, "/knn-service", {name: value for name, value in PAGE.items() if name != key}), 400)
    for content in ([], "a", None, 7):
        problem(post(client, "/knn-service", content), 400)
    problem(client.post("/knn-service", content=b'{"text": NaN'), 400)
    for ids in (None, "abc", [[1]], [None], list(range(2000)), {"a": 1}):
        problem(post(client, "/metadata", {"ids": ids, "indice_name": "shapes"}), 400)


def test_too_many_are_fewer_and_not_an_error(client):
    rows = post(client, "/knn-service", {**PAGE, "num_images": 10**9, "num_result_ids": 10**9}).json()
    assert len(rows) == 96


def test_numbers_stay_numbers_and_what_is_missing_is_null(serve, own_collection):
    collection = open_collection(own_collection, write=True)
    collection.add_columns({"url": "text", "NSFW": "text"})
    batch = next(iter(collection.scan(with_vectors=True))).slice(0, 4)
    names = ["0", "9007199254740993", "9223372036854775807", "007"]
    rows = {"id": names, "vector": batch["vector"], "url": pa.array(["http://a", None, None, None])}
    collection.upsert(pa.table(rows))
    client = serve(own_collection)
    asked = post(
        client, "/metadata", {"ids": [0, 9007199254740993, "9223372036854775807", "007"], "indice_name": "shapes"}
    )
    assert [entry["id"] for entry in asked.json()] == [0, 9007199254740993, 9223372036854775807, "007"]
    assert asked.json()[1]["metadata"] == {"url": None, "caption": None, "NSFW": None}
    # No thumbnail: then no picture, and no failure.
    (vector,) = batch["vector"].slice(0, 1).to_pylist()
    first = post(client, "/knn-service", {**CLIENT, "embedding_input": vector, "deduplicate": False}).json()[0]
    assert "NaN" not in json.dumps(first)


def test_paths_are_told_where_the_operator_says_so(serve):
    (row,) = post(
        serve(show_paths=True), "/knn-service", {**CLIENT, "text": "a", "num_images": 1, "num_result_ids": 1}
    ).json()
    assert row["image_path"].endswith(".png")
    assert not row["image_path"].startswith("/")


def test_its_page_learns_whom_to_ask(client):
    told = client.get("/config.json").json()
    assert told == {"defaultBackend": "http://127.0.0.1", "defaultIndex": "shapes", "urlColumn": "url"}


def test_a_table_tells_where_time_goes(client):
    post(client, "/knn-service", PAGE)
    lines = client.get("/metrics-summary").text.splitlines()
    assert lines[0].split() == ["name", "description", "calls", "average", "proportion"]
    assert any(line.startswith("search ") for line in lines)
