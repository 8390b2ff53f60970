"""One tiny model and one small collection for all tests of the service; those that change rows take a copy."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from babelclip.search.server.app import create_app
from tests.search.serving import make_collection, make_service, seeing_clip

HERE = "http://127.0.0.1"


@pytest.fixture(scope="package")
def clip(tmp_path_factory):
    return seeing_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="package")
def collection(clip, tmp_path_factory) -> Path:
    return make_collection(clip, tmp_path_factory.mktemp("collection"))


@pytest.fixture
def own_collection(collection, tmp_path) -> Path:
    """A copy to change; its pictures lie where those of the original do."""
    return Path(shutil.copytree(collection, tmp_path / "own.lance"))


@pytest.fixture
def serve(clip, collection) -> Iterator[Callable[..., TestClient]]:
    """Starts a service with settings of one's own and returns a client of it."""
    with contextlib.ExitStack() as stack:

        def start(place: Path | None = None, keys: Path | None = None, **choices: Any) -> TestClient:
            if keys is not None:
                choices["token_file"] = str(keys)
            service = make_service(place or collection, clip, keys, **choices)
            client = stack.enter_context(TestClient(create_app(service), base_url=HERE, raise_server_exceptions=False))
            client.service = service
            return client

        yield start


@pytest.fixture(scope="package")
def client(clip, collection) -> Iterator[TestClient]:
    """A service without keys that many tests ask; none of them changes it."""
    service = make_service(collection, clip)
    with TestClient(create_app(service), base_url=HERE, raise_server_exceptions=False) as asked:
        asked.service = service
        yield asked


@pytest.fixture
def item(client) -> dict[str, Any]:
    """A row of the collection."""
    return search(client, k=1)["hits"][0]


def search(client: TestClient, **asked: Any) -> dict[str, Any]:
    """The answer of a search that must work."""
    answer = client.post("/v1/collections/shapes/search", json=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def problem(answer: Any, status: int, code: str = "") -> dict[str, Any]:
    """The content of a refusal, which must be a Problem Details of this status."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/problem+json"
    content = answer.json()
    assert content["status"] == status
    assert set(content) == {"type", "title", "status", "detail", "code"}
    assert "Traceback" not in content["detail"]
    assert code in ("", content["code"])
    return content
