"""moto's server, which speaks S3 over HTTP, for the whole session; and what a test needs around it."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("moto.server")

REGION = "us-east-1"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a storage that keeps its objects in memory."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each request is half a second a test
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], str]:
    """Makes addresses in a bucket of the test's own; the environment names the server, and the cache is empty."""
    import boto3

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("BABELCLIP_CACHE", str(tmp_path / "cache"))
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", region_name=REGION).create_bucket(Bucket=bucket)
    return lambda name: f"s3://{bucket}/{name}"


def put_folder(folder: Path, url: str) -> None:
    """Copies a folder of this machine to an address."""
    from babelclip import storage

    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        storage.upload(file, storage.joined(url, file.relative_to(folder).as_posix()))


def objects(url: str) -> dict[str, bytes]:
    """All objects below an address but hidden ones, by name."""
    from babelclip import storage

    return {
        entry.name: storage.read_bytes(entry.url) for entry in storage.list_files(url) if "/." not in f"/{entry.name}"
    }


def files(folder: Path) -> dict[str, bytes]:
    """All files of a folder but hidden ones, by name."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in found}
    return {name: path.read_bytes() for name, path in names.items() if "/." not in f"/{name}"}


def babelclip(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line, in this process, where torch is loaded already."""
    from babelclip.cli import main

    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["babelclip", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main.main()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.argv = before
    return subprocess.CompletedProcess(sys.argv, code, out.getvalue(), err.getvalue())
