"""What docs/serve.md says is run: its services are started as they are written and asked by its own requests."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

import babelclip.search.server.run as server
from babelclip.search.server.app import create_app
from babelclip.search.server.service import open_service
from babelclip.search.server.settings import Limits, check_settings
from tests.cli.test_cli import call
from tests.conftest import COLOURS, EMBED_DIM, draw_shape, make_clip

pytest.importorskip("lancedb")
PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines() if line]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with what the page's commands name."""
    folder = tmp_path_factory.mktemp("serve")
    clip = make_clip()
    clip.save(folder / "demo" / "student")
    (folder / "photos").mkdir()
    for number, colour in enumerate(COLOURS):
        draw_shape(colour, "circle", 40 + number).save(folder / "photos" / f"{colour}.png")
    (folder / "photos" / "red.txt").write_text("a red circle\n")
    draw_shape("yellow", "square", 60).save(folder / "dog.jpg")
    for name in ("photos", "art"):
        made = call("index", "photos/", "--out", f"{name}.lance", "--model", "demo/student", cwd=folder)
        assert made[0] == 0, made
    for name in ("img_emb", "metadata"):
        (folder / "clip-folder" / name).mkdir(parents=True)
    vectors = np.eye(5, EMBED_DIM)
    np.save(folder / "clip-folder" / "img_emb" / "img_emb_0.npy", vectors.astype(np.float16))
    metadata = pa.table({"image_path": [f"{n}.jpg" for n in range(5)], "caption": ["x"] * 5})
    pq.write_table(metadata, folder / "clip-folder" / "metadata" / "metadata_0.parquet")
    return folder


def settings_of(line: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> server.Settings:
    """What the command line would serve."""
    asked: list[server.Settings] = []
    monkeypatch.setattr(server, "run", lambda settings, _ready: asked.append(settings))
    code, _out, error = call(*shlex.split(line)[1:], cwd=home)
    assert code == 0, (line, error)
    return asked[0]


def test_the_page_names_every_choice_that_it_explains():
    shown = call("serve", "--help")[1]
    for option in set(re.findall(r"--[a-z][a-z-]+", PAGE)) - {"--data-binary"}:
        assert option in shown, option


def test_every_security_requirement_names_tests_that_exist():
    rows = re.findall(r"^\| (S\d+) \| .* \| (.*) \|$", PAGE, flags=re.MULTILINE)
    assert [name for name, _tests in rows] == [f"S{number}" for number in range(1, 18)]
    for name, tests in rows:
        named = re.findall(r"`([\w/]+)::(\w+)`", tests)
        assert named, name
        for file, function in named:
            path = Path(__file__).parents[1] / (f"{file}.py" if "/" in file else f"search/server/{file}.py")
            assert f"def {function}(" in path.read_text(encoding="utf-8"), (name, file, function)


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("babelclip serve --make-key")])
def test_keys_are_made(line, home):
    code, token, said = call(*shlex.split(line)[1:], cwd=home)
    assert code == 0, said
    assert len(token.strip()) > 40


@pytest.mark.parametrize(
    "line", [line for line in LINES if line.startswith("babelclip serve") and "--make-key" not in line]
)
def test_services_start_as_they_are_written(line, home, monkeypatch):
    settings = settings_of(line, home, monkeypatch)
    monkeypatch.chdir(home)
    if settings.token_file and not Path(settings.token_file).exists():
        call("serve", "--make-key", "one", "--token-file", settings.token_file)
    check_settings(settings)
    with TestClient(create_app(open_service(settings)), base_url="http://127.0.0.1") as client:
        assert client.get("/readyz").status_code == 200
        names = client.get("/indices-list")
        if settings.protected:
            assert names.status_code == 401
        else:
            assert names.json() == list(settings.collections)
            asked = {"text": "a", "modality": "image", "num_images": 2, "indice_name": None}
            assert len(client.post("/knn-service", content=json.dumps(asked)).json()) == 2


def test_requests_are_answered_as_they_are_written(home, monkeypatch):
    settings = settings_of(LINES[0], home, monkeypatch)
    monkeypatch.chdir(home)
    key = call("serve", "--make-key", "own", "--scopes", "admin", "--token-file", "own.txt", cwd=home)[1].strip()
    with TestClient(create_app(open_service(settings)), base_url="http://127.0.0.1") as client:
        answers = [curl(client, line) for line in LINES if line.startswith("curl") and "DELETE" not in line]
        assert [answer.status_code for answer in answers] == [200] * len(answers)
        assert len(answers) >= 6
        assert answers[1].json()["hits"][0]["thumbnail"]
    guarded = server.dataclasses.replace(settings, token_file="own.txt", limits=Limits(per_minute=0))
    with TestClient(create_app(open_service(guarded)), base_url="http://127.0.0.1") as client:
        (line,) = [line for line in LINES if "DELETE" in line]
        assert curl(client, line.replace("$KEY", key)).status_code == 202
        until = time.monotonic() + 20
        while client.get("/v1/collections/photos", headers={"Authorization": f"Bearer {key}"}).json()["rows"] == 4:
            assert time.monotonic() < until
            time.sleep(0.2)


def curl(client: TestClient, line: str):
    """The answer to a line of the page, read as curl reads it."""
    words = shlex.split(line)
    pairs = list(itertools.pairwise(words))
    headers = dict(word.split(": ") for flag, word in pairs if flag == "-H")
    body = next((word for flag, word in pairs if flag in ("-d", "--data-binary")), None)
    content = Path(body[1:]).read_bytes() if body is not None and body.startswith("@") else body
    method = "DELETE" if "DELETE" in words else "GET" if content is None else "POST"
    address = next(word for word in words if word.startswith("http://"))
    return client.request(method, address.removeprefix("http://127.0.0.1:8000"), content=content, headers=headers)


def test_a_port_that_is_taken_is_an_error_in_words(home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended: list[tuple[int, str, str]] = []
        line = [*shlex.split(LINES[0])[1:], "--port", str(taken.getsockname()[1])]
        asked = threading.Thread(target=lambda: ended.append(call(*line, cwd=home)))
        asked.start()
        asked.join(60)
        assert ended, "the service goes on, although its port is taken"
        assert ended[0][0] != 0
