"""Changing a collection over HTTP: adding, deleting for good, jobs, and the lines that say who did it (S12, S15)."""

from __future__ import annotations

import base64
import json
import time

import pytest

from babelclip.search.collection import open_collection
from babelclip.search.server.jobs import Jobs
from babelclip.search.server.tokens import make_key
from tests.search.server.conftest import problem, search

ITEMS = "/v1/collections/shapes/items"


@pytest.fixture
def admin(serve, own_collection, tmp_path):
    """A client with the key of an administrator, of a collection of its own."""
    file = tmp_path / "keys"
    token = make_key(file, "boss", ("admin",))
    client = serve(own_collection, keys=file)
    client.headers["Authorization"] = f"Bearer {token}"
    return client


def ended(client, answer) -> dict:
    """The job of an answer, when it has ended."""
    assert answer.status_code == 202, answer.text
    until = time.monotonic() + 30
    while True:
        job = client.get(f"/v1/jobs/{answer.json()['id']}").json()
        if job["ended"]:
            return job
        assert time.monotonic() < until, job
        time.sleep(0.02)


def on_disk(folder, text: bytes) -> list[str]:
    return [str(file) for file in folder.rglob("*") if file.is_file() and text in file.read_bytes()]


def test_what_is_deleted_is_found_nowhere_and_leaves_the_disk(admin, own_collection):
    row = search(admin, query="red circle", k=1, columns=["sha256"])["hits"][0]
    marks = [row["id"].encode(), row["columns"]["sha256"].encode(), row["caption"].encode()]
    thumbnail = open_collection(own_collection).get([row["id"]], columns=["thumbnail"])["thumbnail"][0].as_py()
    marks.append(thumbnail[-120:-20])
    assert all(on_disk(own_collection, mark) for mark in marks)
    job = ended(admin, admin.request("DELETE", ITEMS, json={"ids": [row["id"], "absent"]}))
    assert (job["state"], job["rows"]) == ("done", 1)
    assert [on_disk(own_collection, mark) for mark in marks] == [[]] * len(marks)
    for part in ("", "/thumbnail", "/picture", "/group"):
        problem(admin.get(f"{ITEMS}/{row['id']}{part}"), 404)
    assert row["id"] not in [hit["id"] for hit in search(admin, query="red circle", k=96, dedup=False)["hits"]]


def test_rows_are_deleted_by_a_filter_and_everything_is_not_deleted_by_mistake(admin):
    problem(admin.request("DELETE", ITEMS, json={}), 422)
    problem(admin.request("DELETE", ITEMS, json={"where": {}}), 400)
    problem(admin.request("DELETE", ITEMS, json={"where": {"op": "eq", "column": "1=1", "value": 1}}), 400)
    job = ended(admin, admin.request("DELETE", ITEMS, json={"where": {"op": "range", "column": "width", "gte": 64}}))
    assert job["rows"] == 24
    assert admin.get("/v1/collections/shapes").json()["rows"] == 72
    assert ended(admin, admin.post("/v1/collections/shapes/optimize"))["state"] == "done"


def test_a_picture_is_added_and_found(admin, collection):
    content = (collection.parent / "shapes" / "red-circle-48.png").read_bytes()
    asked = {"image": base64.b64encode(content).decode(), "id": "new", "caption": "mine", "lang": "SV"}
    assert ended(admin, admin.post(ITEMS, json=asked))["state"] == "done"
    row = admin.get(f"{ITEMS}/new").json()
    assert (row["caption"], row["lang"], row["width"]) == ("mine", "sv", 48)
    assert admin.get(row["thumbnail"]).status_code == 200
    assert ended(admin, admin.post(ITEMS, json={**asked, "caption": "again"}))["rows"] == 1
    assert admin.get(f"{ITEMS}/new").json()["caption"] == "again"
    problem(admin.post(ITEMS, json={**asked, "columns": {"path": "/etc/passwd"}}), 422)
    problem(admin.post(ITEMS, json={**asked, "columns": {"source": "x"}}), 422)
    problem(admin.post(ITEMS, json={**asked, "lang": "no language"}), 400)
    problem(admin.post(ITEMS, json={**asked, "image": "%"}), 400)
    failed = ended(admin, admin.post(ITEMS, json={**asked, "image": base64.b64encode(b"no picture").decode()}))
    assert failed["state"] == "failed"
    assert "picture" in failed["detail"]


def test_states_of_a_job_come_as_events_and_jobs_are_listed(admin):
    name = admin.request("DELETE", ITEMS, json={"ids": ["absent"]}).json()["id"]
    events = [
        json.loads(line[6:])
        for line in admin.get(f"/v1/jobs/{name}/events").text.splitlines()
        if line.startswith("data: ")
    ]
    assert events[-1]["state"] == "done"
    assert admin.get("/v1/jobs").json()["jobs"][0]["id"] == name
    for unknown in ("7", "..%2fjobs%2f7", "%2e%2e%2fsettings", "a" * 500):
        assert admin.get(f"/v1/jobs/{unknown}").status_code == 404


def test_who_changed_what_is_in_the_log_and_what_it_was_is_not(admin, caplog):
    with caplog.at_level("INFO", "babelclip.audit"):
        row = search(admin, k=1)["hits"][0]
        ended(admin, admin.request("DELETE", ITEMS, json={"ids": [row["id"]]}))
        admin.request("DELETE", ITEMS, json={"ids": [row["id"]]}, headers={"Authorization": "Bearer guess"})
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "babelclip.audit"]
    assert [(line["action"], line["outcome"]) for line in lines] == [
        ("delete", "asked"), ("delete", "done"), ("DELETE admin", "refused"),
    ]  # fmt: skip
    assert lines[0]["by"] == lines[1]["by"] == "boss"
    assert lines[1]["rows"] == 1
    assert lines[2]["client"] == "testclient"
    assert row["id"] not in caplog.text


def test_processes_share_their_jobs_and_run_one_at_a_time(tmp_path):
    import asyncio

    async def test() -> None:
        first, second = Jobs(str(tmp_path)), Jobs(str(tmp_path))
        running: list[str] = []

        async def work() -> tuple[int, str]:
            running.append("begin")
            await asyncio.sleep(0.05)
            running.append("end")
            return 1, "done"

        names = [(await jobs.add("add", "shapes", "boss", work)).id for jobs in (first, second, first)]
        until = time.monotonic() + 20
        while not all(second.find(name).ended for name in names):
            assert time.monotonic() < until
            await asyncio.sleep(0.05)
        assert running == ["begin", "end"] * 3
        assert {job.id for job in first.all()} == set(names)
        assert first.find(names[1]).rows == 1
        await first.close()
        await second.close()

    asyncio.run(test())
