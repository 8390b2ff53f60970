"""The service as it is started: by the command line, in one process or several, and how it ends (S1, S6)."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager

import pytest

from babelclip.errors import BabelclipError
from babelclip.search.server.app import FAILED, SETTINGS_VARIABLE, from_environment
from babelclip.search.server.listening import bound
from babelclip.search.server.run import _end_when_there, run
from babelclip.search.server.service import open_service
from babelclip.search.server.settings import Limits, Settings
from tests.cli.test_cli import call


@pytest.fixture(scope="module")
def model(clip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    clip.save(folder)
    return folder


@contextmanager
def started(*arguments: str):
    """The service in a process of its own, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "babelclip.cli.main", "serve", *arguments, "--port", str(port)],
        stderr=subprocess.PIPE, text=True, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    address, until = f"http://127.0.0.1:{port}", time.monotonic() + 90
    try:
        while True:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < until, "the service takes too long to start"
            try:
                with urllib.request.urlopen(f"{address}/readyz", timeout=1) as answer:
                    assert answer.status == 200
                break
            except OSError:
                time.sleep(0.1)
        yield process, address
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def ask(address: str, path: str, content: dict | None = None, token: str = "") -> dict:
    data = None if content is None else json.dumps(content).encode()
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    with urllib.request.urlopen(urllib.request.Request(address + path, data, headers), timeout=30) as answer:
        return json.load(answer)


def test_a_service_says_where_it_is_and_answers_what_is_under_way_when_it_is_told_to_end(model, collection):
    with started(f"shapes={collection}", "--model", str(model), "--metrics-at", "0") as (process, address):
        answers = []

        def embed() -> None:
            answers.append(ask(address, "/v1/embed", {"texts": [f"a long text {n} " * 80 for n in range(64)]})["n"])

        asking = [threading.Thread(target=embed) for _ in range(4)]
        for thread in asking:
            thread.start()
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)  # as Ctrl-C does
        for thread in asking:
            thread.join(30)
        assert process.wait(20) == 0
        assert answers == [64] * 4
        said = process.stderr.read()
        assert f"Open {address} in a browser. Ctrl-C ends the service.\n" in said
        assert said.endswith("The service has ended.\n")
        assert "Traceback" not in said


def test_a_service_that_cannot_start_says_so(collection, model, tmp_path, clip):
    code, _out, said = call("serve", str(collection), "--model", str(tmp_path / "absent"))
    assert code != 0
    assert "absent" in said
    _code, _out, said = call("serve", str(collection), "--model", str(model), "--host", "0.0.0.0")
    assert "--token-file" in said
    assert "No collection" in call("serve")[2]
    assert "babelclip index PICTURES --out absent.lance" in call("serve", "absent.lance")[2]
    assert "Name them apart" in call("serve", str(collection), str(collection))[2]
    keys = tmp_path / "keys"
    code, token, said = call("serve", "--make-key", "anna", "--token-file", str(keys), "--scopes", "read,metrics")
    assert code == 0
    assert token.strip() not in keys.read_text()
    assert token.strip() not in said
    with bound("127.0.0.1", 0) as held:
        held.listen()
        taken = held.getsockname()[1]
        with pytest.raises(BabelclipError, match=rf"127.0.0.1:{taken}: .* in use. .*--port {taken + 1}"):
            run(Settings({"a": "absent"}, port=taken))
    with pytest.raises(BabelclipError, match="Take an address of this machine"):
        bound("203.0.113.7", 8000)


def test_a_process_that_cannot_start_says_why_and_is_not_begun_again(model, tmp_path, monkeypatch):
    settings = Settings({"a": str(tmp_path / "none.lance")}, models=(str(model),))
    (tmp_path / "settings").write_text(f"{'00' * 32}\n{settings.to_json()}")
    monkeypatch.setenv(SETTINGS_VARIABLE, str(tmp_path / "settings"))
    with pytest.raises(SystemExit):
        from_environment()
    assert "does not exist" in (tmp_path / FAILED).read_text()
    ended = []
    monkeypatch.setattr(os, "kill", lambda *what: ended.append(what))
    _end_when_there(tmp_path / FAILED)
    assert ended == [(os.getpid(), signal.SIGTERM)]


def test_a_model_of_another_space_does_not_serve_a_collection(collection, clip, tmp_path):
    import dataclasses

    dataclasses.replace(clip, space="another/space").save(tmp_path / "other")
    with pytest.raises(BabelclipError, match=r"another/space.*test/tiny|test/tiny.*another/space"):
        open_service(Settings({"a": str(collection)}, models=(str(tmp_path / "other"),)))


def test_settings_come_to_other_processes_as_they_were():
    settings = Settings({"a": "b"}, models=("m",), hosts=("h",), limits=Limits(k=7, seconds=1.5))
    assert Settings.from_json(settings.to_json()) == settings


def test_several_processes_serve_as_one(model, own_collection, tmp_path):
    _code, token, _said = call(
        "serve", "--make-key", "boss", "--token-file", str(tmp_path / "keys"), "--scopes", "admin"
    )
    token = token.strip()
    place = (f"shapes={own_collection}", "--model", str(model), "--token-file", str(tmp_path / "keys"))
    with bound("127.0.0.1", 0) as held:
        figures = held.getsockname()[1]
    with started(*place, "--workers", "2", "--metrics-at", str(figures)) as (process, address):
        search = "/v1/collections/shapes/search"
        whole = [hit["id"] for hit in ask(address, search, {"query": "red", "k": 96, "dedup": False}, token)["hits"]]
        # Each request is a connection of its own, so any process may get it: cursors and addresses hold in all.
        for _ in range(3):
            seen, cursor = [], None
            while len(seen) < 96:
                page = ask(address, search, {"query": "red", "k": 12, "dedup": False, "cursor": cursor}, token)
                seen += [hit["id"] for hit in page["hits"]]
                cursor = page["cursor"]
                with urllib.request.urlopen(address + page["hits"][0]["thumbnail"], timeout=30) as picture:
                    assert picture.read(2) == b"\xff\xd8"
            assert seen == whole
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        content = json.dumps({"ids": whole[:1]}).encode()
        asked = urllib.request.Request(f"{address}/v1/collections/shapes/items", content, headers, method="DELETE")
        with urllib.request.urlopen(asked, timeout=30) as answer:
            job = json.load(answer)["id"]
        until = time.monotonic() + 30
        while not all(ask(address, f"/v1/jobs/{job}", token=token)["ended"] for _ in range(6)):
            assert time.monotonic() < until
            time.sleep(0.1)
        # The others look for a newer version every two seconds.
        while {ask(address, "/v1/collections/shapes", token=token)["rows"] for _ in range(8)} != {95}:
            assert time.monotonic() < until
            time.sleep(0.1)
        with urllib.request.urlopen(f"http://127.0.0.1:{figures}/metrics", timeout=30) as answer:
            counted = re.search(
                r'requests_total{route="/v1/jobs/{job}",status="200"} ([0-9.]+)', answer.read().decode()
            )
        assert float(counted[1]) >= 6  # of all processes together
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)
