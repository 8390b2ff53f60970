"""Packages fetched by the real apt-get from a server on this machine that drops its connections."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from babelclip.starter.debian import find_folder
from tests.starter.test_debian import INSIDE, PACKAGE, STAMPS, away, deb, files_below

VERSION = "2099.1-1"
ARCHIVE = f"{PACKAGE}_{VERSION}_all.deb"
pytestmark = pytest.mark.skipif(
    shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None, reason="apt-get is not on this system"
)


class Mirror:
    """A repository with one package.

    Attributes:
        drops: how many transfers of the package break half-way, before one is whole.
        asked: how often the package was asked for.
    """

    def __init__(self, folder):
        pictures = {f"{INSIDE}/{n}.png": os.urandom(20_000) for n in range(10)}
        self.package = deb(folder / "source.deb", pictures).read_bytes()
        self.drops = self.asked = 0
        described = {
            "Package": PACKAGE,
            "Version": VERSION,
            "Architecture": "all",
            "Filename": f"./{ARCHIVE}",
            "Size": len(self.package),
            "SHA256": hashlib.sha256(self.package).hexdigest(),
            "Description": "tiny",
        }
        self.index = "".join(f"{name}: {value}\n" for name, value in described.items()).encode()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"mirror": self}))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    mirror: Mirror
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        name = self.path.rsplit("/", 1)[-1]
        if name == "Packages":
            return self._send(self.mirror.index)
        if name != ARCHIVE:
            return self.send_error(404)
        self.mirror.asked += 1
        self._send(self.mirror.package, cut=self.mirror.drops >= self.mirror.asked)
        return None

    def _send(self, content, cut=False):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror that is the only one apt-get knows, beside a system on which nothing is installed."""
    mirror = Mirror(tmp_path)
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] http://127.0.0.1:{mirror.server.server_port} ./\n")
    for name in ("state/lists/partial", "apt-cache/archives/partial"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "status").write_text("")
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{tmp_path / "sources.list"}"; Dir::Etc::sourceparts "-"; Dir::Etc::parts "-";\n'
        f'Dir::State "{tmp_path / "state"}"; Dir::State::status "{tmp_path / "status"}";\n'
        f'Dir::Cache "{tmp_path / "apt-cache"}"; APT::Sandbox::User "root";\n'
        'Acquire::http::Proxy "DIRECT"; Acquire::Retries::Delay "false"; Acquire::Languages "none";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield mirror
    mirror.server.shutdown()
    mirror.server.server_close()


def find(tmp_path):
    return find_folder(away(STAMPS, tmp_path), tmp_path / "cache")


def test_a_connection_that_drops_once_is_taken_up_again(tmp_path, mirror):
    mirror.drops = 1
    found = find(tmp_path)
    assert found.folder is not None, found.note
    assert len(files_below(found.folder)) == 10
    assert mirror.asked >= 2


def test_a_server_that_drops_every_connection_leaves_nothing_and_the_next_run_fetches(tmp_path, mirror):
    mirror.drops = 1000
    found = find(tmp_path)
    assert found.folder is None
    assert "apt-get" in found.note
    assert "\n" not in found.note
    assert mirror.asked >= 1
    assert files_below(tmp_path / "cache") == set()
    mirror.drops = 0
    found = find(tmp_path)
    assert found.folder is not None, found.note
    assert len(files_below(found.folder)) == 10
