"""A hub on this machine: repositories in memory, the parts of the HTTP interface that a load uses, and faults."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = 2000  # bytes from which a file counts as one of Git LFS, named by its SHA-256


class LocalHub:
    """Answers until `close`.

    Attributes:
        requests: every request as (method, path, Range header or "").
        refusal: status and X-Error-Code that answers everything, or None.
        cut: file name -> number of bytes after which the connection breaks, once.
        drops: file name -> number of bytes after which every connection breaks.
        silent: file name -> number of bytes after which nothing more comes, and the connection stays.
        hanging: names of files (or "api") for which nothing is ever answered.
        ranges: False to ignore Range, as some mirrors do.
        corrupt: names of files that come with one byte changed.
        listing: replaces the JSON that describes a repository.
    """

    def __init__(self):
        self.repositories = {}
        self.main = {}
        self.requests = []
        self.refusal = None
        self.cut = {}
        self.drops = {}
        self.silent = {}
        self.hanging = set()
        self.ranges = True
        self.corrupt = set()
        self.listing = None
        self.after_listing = None
        self.closed = threading.Event()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def push(self, name, files, branch="main"):
        """Adds a commit to a repository, makes it the head of `branch`, and returns its id."""
        content = b"".join(key.encode() + value for key, value in sorted(files.items()))
        commit = hashlib.sha1(content).hexdigest()
        self.repositories.setdefault(name, {})[commit] = dict(files)
        self.main.setdefault(name, {})[branch] = commit
        return commit

    def fetched(self):
        """The names of the files that were asked for, in order."""
        return [path.split("/resolve/")[1].split("/", 1)[1] for _, path, _ in self.requests if "/resolve/" in path]

    def close(self):
        self.closed.set()
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        if self.hub.refusal:
            status, code = self.hub.refusal
            self._answer(status, b"{}", {"X-Error-Code": code} if code else {})
        elif path.startswith("/api/models/"):
            self._describe(path.removeprefix("/api/models/"))
        else:
            name, rest = path[1:].split("/resolve/")
            commit, file = rest.split("/", 1)
            self._send(file, self.hub.repositories[name][commit][file], commit)

    def _describe(self, path):
        if "api" in self.hub.hanging:
            time.sleep(30)
        name, _, revision = path.partition("/revision/")
        commits = self.hub.repositories.get(name)
        if commits is None:
            return self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        commit = self.hub.main[name].get(revision or "main", revision)
        if commit not in commits:
            return self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        siblings = [_sibling(file, content) for file, content in commits[commit].items()]
        described = {"id": name, "sha": commit, "siblings": siblings, "private": False, "tags": [], "downloads": 0}
        body = self.hub.listing if self.hub.listing is not None else json.dumps(described).encode()
        self._answer(200, body, {"Content-Type": "application/json"})
        if self.hub.after_listing:
            self.hub.after_listing()
        return None

    def _send(self, file, content, commit):
        if file in self.hub.hanging:
            time.sleep(30)
        if file in self.hub.corrupt:
            content = bytes([content[0] ^ 1]) + content[1:]
        start = 0
        asked = self.headers.get("Range", "")
        if asked and self.hub.ranges:
            start = int(asked.removeprefix("bytes=").split("-")[0])
        headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": commit, "X-Linked-Size": str(len(content))}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = self.hub.cut.pop(file, self.hub.drops.get(file))
        self._answer(206 if start else 200, content[start:], headers, cut, self.hub.silent.get(file))

    def _answer(self, status, body, headers, cut=None, silent=None):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if silent is not None:
            self.wfile.write(body[:silent])
            self.wfile.flush()
            return self.hub.closed.wait(30)
        self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        return None


def _etag(content):
    if len(content) >= LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sibling(file, content):
    described = {"rfilename": file, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
    if len(content) >= LARGE:
        return {**described, "lfs": {"sha256": _etag(content), "size": len(content), "pointerSize": 130}}
    return {**described, "blobId": _etag(content)}
