"""Bounds on what one client, and all of them together, may ask for (S6)."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from babelclip.search.server.batcher import Batcher
from babelclip.search.server.json_depth import half_characters, nesting
from babelclip.search.server.limits import Gate
from babelclip.search.server.problems import Problem, response_of
from babelclip.search.server.rates import Rates, network_of
from babelclip.search.server.settings import Limits, Settings
from babelclip.search.server.tokens import make_key
from tests.search.server.conftest import problem, search
from tests.search.serving import make_service, running

SEARCH = "/v1/collections/shapes/search"


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"k": 201}, 422), ({"k": 0}, 422), ({"k": -1}, 422), ({"k": 10**30}, 422), ({"k": 1.5}, 422),
        ({"k": "all"}, 422),
        ({"query": "a" * 2001}, 413), ({"terms": [{"text": "a" * 2001}]}, 413), ({"terms": [{"text": "a"}] * 17}, 422),
        ({"query": "a " + "+ b " * 30}, 422), ({"query": "dog^99"}, 422), ({"terms": [{"text": ""}]}, 422),
        ({"terms": [{}]}, 422), ({"terms": [{"text": "a", "id": "b"}]}, 422), ({"terms": [{"text": "a",
        "weight": 11}]}, 422),
        ({"terms": [{"id": "a" * 1025}]}, 422), ({"terms": [{"vector": [0.1] * 9000}]}, 422),
        ({"cursor": "a" * 2049}, 422),
        ({"where": {"op": "and", "parts": [{"op": "is_null", "column": "lang"}] * 33}}, 422),
        ({"where": {"op": "in", "column": "lang", "values": ["a"] * 100}}, 422), ({"columns": ["lang"] * 65}, 422),
        ({"unknown": 1}, 422), ({"min_score": 2}, 422), ({"cut": 1}, 422), ({"lang": "x" * 36}, 422), ([], 422),
        (None, 422),
        ({"query": "a", "lang": "klingon"}, 400), ({"encoder": "other"}, 400), ({"group_by": "nothing"}, 400),
    ],
)  # fmt: skip
def test_a_search_beyond_its_bounds_is_refused(client, asked, status):
    problem(client.post(SEARCH, json=asked), status)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b"[" * 1000, b'{"a":' * 30 + b"1" + b"}" * 30, b"nonsense", b"1" * 9999]
)
def test_a_body_that_is_no_honest_json_is_refused(client, body):
    for path in (SEARCH, "/knn-service", "/metadata", "/v1/embed"):
        answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422), answer.text
        problem(answer, answer.status_code)


def test_half_a_character_is_refused_wherever_it_stands(client):
    for body in ('{"query": "\\ud800"}', '{"terms": [{"id": "a\\udfff"}]}', '{"\\ud800": 1}',
    '{"where": {"op": "\\ud800"}}',
                 '{"cursor": "\\ud800.a"}'):  # fmt: skip
        for path in (SEARCH, "/knn-service"):
            problem(client.post(path, content=body, headers={"Content-Type": "application/json"}), 400, "bad_request")
    assert not half_characters(json.dumps({"query": "😀 \\ud800"}).encode())
    assert half_characters(b'"\\ud83d"')
    assert search(client, query="😀")["hits"]


def test_nesting_is_counted_outside_of_texts():
    assert nesting(b'{"a": [1, {"b": "[[[[[\\"[["}]}') == 3
    assert nesting(b'"[[[') == 0
    assert nesting(b"]]]][") == 0


@pytest.mark.parametrize("length", ["17000000", "-1", "1e3", "", "9" * 30])
def test_a_body_that_says_it_is_too_large_is_not_read(client, length):
    problem(client.post(SEARCH, content=b"{}", headers={"Content-Length": length}), 413, "too_large")


def test_a_body_that_grows_too_large_is_cut_off(serve):
    def parts():
        for _ in range(100):
            yield b" " * 1000

    client = serve(limits=Limits(per_minute=0, body=20_000))
    problem(client.post(SEARCH, content=parts()), 413, "too_large")
    assert client.post(SEARCH, content=b"{}" + b" " * 10_000).status_code == 422  # no JSON type: but read
    crowded = serve(limits=Limits(per_minute=0, bodies=20_000))
    refused = crowded.post(SEARCH, content=parts())
    problem(refused, 503, "busy")
    assert refused.headers["retry-after"]
    assert crowded.post(SEARCH, json={"k": 1}).status_code == 200  # what was held is given back


def test_one_client_may_ask_so_often(serve, tmp_path):
    client = serve(limits=Limits(per_minute=5))
    assert [client.get("/v1/collections/none").status_code for _ in range(7)] == [404] * 5 + [429] * 2
    refused = client.get("/v1/collections")
    problem(refused, 429, "too_many_requests")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert client.get("/healthz").status_code == 200
    # A key has a bound of its own: it may be used from many places.
    token = make_key(tmp_path / "keys", "anna")
    service = serve(keys=tmp_path / "keys", limits=Limits(per_minute=5)).service
    assert [service.rates.take("anna") > 0 for _ in range(6)] == [False] * 5 + [True]
    assert service.rates.take("bo") == 0
    assert token


def test_a_bucket_fills_with_time_and_forgets_the_oldest(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    rates = Rates(60)
    assert [rates.take("a") for _ in range(61)] == [0.0] * 60 + [1.0]
    now[0] = 1.0
    assert (rates.take("a"), rates.take("a")) == (0.0, 1.0)
    for number in range(20_000):
        rates.take(str(number))
    assert len(rates._buckets) == 10_000
    assert all(Rates(0).take("a") == 0 for _ in range(10))
    assert network_of("2001:db8:1:2:3::4") == network_of("2001:db8:1:2:ffff::1") != network_of("2001:db8:1:3::1")
    assert network_of("1.2.3.4") == "1.2.3.4"


def ask_gate(gate: Gate, path: str = "/a", gone: asyncio.Event | None = None) -> dict:
    """What a gate answers to a GET; the client leaves when `gone` is set."""

    async def ask() -> dict:
        sent: list[dict] = []
        state = {"asked": False}

        async def receive():
            if not state["asked"]:
                state["asked"] = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await (gone or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "headers": [(b"host", b"127.0.0.1")],
            "client": ("1.1.1.1", 1),
        }
        await gate(scope, receive, send)
        start = sent[0] if sent else {"status": 0, "headers": []}
        return {"status": start["status"], **{name.decode(): value.decode() for name, value in start["headers"]}}

    return ask()


def test_more_than_so_many_at_once_are_sent_away():
    async def test() -> None:
        free = asyncio.Event()

        async def app(scope, receive, send):
            await free.wait()
            await response_of(404, "not_found", "a")(scope, receive, send)

        seen = []
        gate = Gate(app, Settings({}, limits=Limits(concurrent=2)), lambda *facts: seen.append(facts[:2]))
        under_way = [asyncio.create_task(ask_gate(gate)) for _ in range(2)]
        await asyncio.sleep(0)
        away = await ask_gate(gate)
        assert (away["status"], away["retry-after"]) == (503, "1")
        free.set()
        assert [(await one)["status"] for one in under_way] == [404, 404]
        assert (await ask_gate(gate))["status"] == 404
        # Addresses that are no route's are counted as one, or a scanner would fill the memory.
        assert {route for route, _status in seen} == {"unknown"}

    asyncio.run(test())


def test_a_request_that_takes_too_long_is_ended_and_one_whose_asker_left_too():
    async def test() -> None:
        ended = []

        async def app(scope, receive, send):
            try:
                while (await receive())["type"] != "http.disconnect":
                    pass
                await asyncio.sleep(30)
            finally:
                ended.append(scope["path"])

        async def slow(scope, receive, send):
            await receive()
            try:
                await asyncio.sleep(30)
            finally:
                ended.append(scope["path"])

        late = await ask_gate(Gate(slow, Settings({}, limits=Limits(seconds=0.05)), lambda *_: None), "/late")
        assert (late["status"], late["retry-after"]) == (503, "2")
        gone = asyncio.Event()
        left = asyncio.create_task(ask_gate(Gate(slow, Settings({}), lambda *_: None), "/left", gone))
        await asyncio.sleep(0.05)
        gone.set()
        assert (await asyncio.wait_for(left, 5))["status"] == 0
        # Only events of jobs go on; a name that looks like them does not.
        assert (await ask_gate(Gate(slow, Settings({}, limits=Limits(seconds=0.05)), lambda *_: None), "/v1/x/events"))[
            "status"
        ] == 503
        assert ended == ["/late", "/left", "/v1/x/events"]

    asyncio.run(test())


def test_a_failure_tells_the_operator_and_not_the_client(serve, caplog, monkeypatch):
    client = serve()
    monkeypatch.setattr("babelclip.search.server.answers.find_rows", lambda *_: 1 / 0)
    content = problem(client.post(SEARCH, json={"k": 1}), 500, "failed")
    assert "ZeroDivision" not in json.dumps(content)
    assert "ZeroDivisionError" in caplog.text


def test_errors_name_no_path(serve, own_collection, monkeypatch):
    from babelclip.errors import BabelclipError

    client = serve(own_collection)

    def broken(*_):
        raise BabelclipError(f"{own_collection} cannot be read")

    monkeypatch.setattr("babelclip.search.server.answers.find_rows", broken)
    assert problem(client.post(SEARCH, json={"k": 1}), 400)["detail"] == "shapes cannot be read"


def test_queries_that_come_together_are_encoded_together_and_left_ones_not_at_all():
    async def test() -> None:
        batches, hold = [], threading.Event()

        def work(items):
            batches.append(list(items))
            hold.wait(5)
            return [item * 2 for item in items]

        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher(work, thread, most=4, wait=0.05, queue=6, observe=lambda *_: None)
            first = asyncio.create_task(batcher.ask(1))
            await asyncio.sleep(0.02)
            rest = [asyncio.create_task(batcher.ask(number)) for number in range(2, 8)]
            await asyncio.sleep(0.02)
            with pytest.raises(Problem) as full:
                await batcher.ask(9)
            assert (full.value.status, full.value.headers["Retry-After"]) == (503, "1")
            rest[0].cancel()
            hold.set()
            assert await first == 2
            assert [await one for one in rest[1:]] == [6, 8, 10, 12, 14]
            assert batches[0] == [1]
            assert 2 not in [item for batch in batches for item in batch]
            assert max(map(len, batches)) <= 4
            await batcher.close()

    asyncio.run(test())


def test_an_encoder_that_fails_tells_each_asker_and_goes_on():
    async def test() -> None:
        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher(
                lambda items: [1 / item for item in items], thread, most=4, wait=0, queue=6, observe=lambda *_: None
            )
            with pytest.raises(ZeroDivisionError):
                await batcher.ask(0)
            assert await batcher.ask(2) == 0.5
            await batcher.close()

    asyncio.run(test())


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_memory_does_not_grow_with_requests(client, item):
    """A small soak; benchmarks/serve.py asks 10,000 times."""

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def ask(number: int) -> None:
        search(client, query=f"wish {number}", k=20)
        search(client, terms=[{"id": item["id"]}], k=20)
        client.get(item["thumbnail"])
        problem(client.post(SEARCH, json={"query": "a" * 2001}), 413)
        problem(client.get(f"/v1/collections/shapes/items/absent-{number}"), 404)

    for number in range(15):
        ask(number)
    before = resident()
    for number in range(15, 65):
        ask(number)
    assert resident() - before < 25


def test_a_client_that_hangs_up_frees_its_place(clip, collection, monkeypatch):
    service = make_service(collection, clip)
    asked, ended = threading.Event(), threading.Event()

    async def never(*_):
        asked.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    monkeypatch.setattr("babelclip.search.server.search_routes._search", never)
    with running(service) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as line:
            kind = "Content-Type: application/json\r\nContent-Length: 2"
            line.sendall(f"POST {SEARCH} HTTP/1.1\r\nHost: {host}\r\n{kind}\r\n\r\n{{}}".encode())
            assert asked.wait(10)
        assert ended.wait(5)
