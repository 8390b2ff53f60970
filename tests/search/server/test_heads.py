"""What a client may send before and behind a body, byte by byte, to the service as it runs."""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Iterable

import pytest

from babelclip.search.server.heads import MOST
from tests.search.serving import make_service, running

START = b"GET /v1/collections HTTP/1.1\r\nHost: 127.0.0.1\r\n"
PARTS = (
    b"POST /v1/collections/shapes/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"
)
ENDLESS = {
    "a header that does not end": (START + b"X-A: ", b"a" * 1000),
    "a name that does not end": (START, b"a" * 1000),
    "an address that does not end": (b"GET /", b"a" * 1000),
    "headers that do not end": (START, b"X-A: " + b"a" * 500 + b"\r\n"),
    "trailers that do not end": (PARTS + b"0\r\n", b"X-A: " + b"a" * 500 + b"\r\n"),
    "a note on a part that does not end": (PARTS + b"2;a=", b"a" * 1000),
    "blank lines that do not end": (b"", b"\r\n" * 500),
}


@pytest.fixture(scope="module")
def address(clip, collection):
    with running(make_service(collection, clip)) as at:
        yield at.removeprefix("http://")


def told(address: str, pieces: Iterable[bytes]) -> tuple[int, bytes]:
    """Sends piece after piece until the service hangs up; returns how many bytes it took, and what it said."""
    host, port = address.split(":")
    sent, answer = 0, b""
    with socket.create_connection((host, int(port)), timeout=20) as line:
        line.settimeout(0.01)
        for piece in pieces:
            try:
                answer += line.recv(65536)
                line.settimeout(20)
                line.sendall(piece)
                sent += len(piece)
            except TimeoutError:
                line.settimeout(20)
                line.sendall(piece)
                sent += len(piece)
            except (BrokenPipeError, ConnectionResetError):
                break
            line.settimeout(0.001)
    return sent, answer


@pytest.mark.parametrize("case", ENDLESS)
def test_a_head_has_an_end(address, case):
    start, more = ENDLESS[case]
    sent, answer = told(address, itertools.chain([start], itertools.repeat(more, 2000)))
    assert sent < 8 * MOST, f"{sent} bytes were taken"
    if answer:
        assert b" 400 " in answer or b" 200 " in answer.splitlines()[0]


def test_bodies_and_requests_behind_each_other_pass(address):
    host, port = address.split(":")
    body = json.dumps({"query": "red circle", "k": 3, "columns": ["caption"] * 20, "lang": "en"}).encode()
    body += b" " * (3 * MOST)
    head = (
        f"POST /v1/collections/shapes/search HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nX-Long: {'a' * 20_000}\r\n\r\n"
    ).encode()
    with socket.create_connection((host, int(port)), timeout=20) as line:
        for _turn in range(3):
            line.sendall(head + body)
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += line.recv(65536)
            first, _, rest = answer.partition(b"\r\n\r\n")
            assert first.startswith(b"HTTP/1.1 200 ")
            length = int(
                next(part for part in first.lower().split(b"\r\n") if b"content-length" in part).split(b":")[1]
            )
            while len(rest) < length:
                rest += line.recv(65536)
            assert len(json.loads(rest)["hits"]) == 3
