"""Figures on an address of their own: there and nowhere else, for this machine or for keys (S1, S13)."""

from __future__ import annotations

import socket
import time
import urllib.error
import urllib.request

import pytest

from babelclip.errors import BabelclipError
from babelclip.search.server.figures import elsewhere
from babelclip.search.server.metrics import Metrics
from babelclip.search.server.settings import Settings, address_of, check_settings
from babelclip.search.server.tokens import make_key


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def ask(address: str, token: str = "", host: str = "") -> tuple[int, str]:
    """Status and body; asked again while nobody listens yet."""
    headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **({"Host": host} if host else {})}
    until = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.02)


def test_figures_are_told_on_their_own_address_and_not_beside_the_rest(serve):
    port = free_port()
    client = serve(metrics_at=f"127.0.0.1:{port}")
    client.get("/v1/collections")
    for path in ("/metrics", "/metrics-summary"):
        assert client.get(path).status_code == 404
    with elsewhere(client.service.settings, client.service.metrics):
        status, text = ask(f"http://127.0.0.1:{port}/metrics")
        assert status == 200
        assert 'babelclip_requests_total{route="/v1/collections",status="200"} 1.0' in text
        assert ask(f"http://127.0.0.1:{port}/metrics-summary")[1].startswith("name ")
        # Nothing else is there, and a page that points its name here learns nothing.
        for path in ("/", "/v1/collections", "/openapi.json", "/docs"):
            assert ask(f"http://127.0.0.1:{port}{path}")[0] == 404
        assert ask(f"http://127.0.0.1:{port}/metrics", host="evil.example")[0] == 421
        with pytest.raises(BabelclipError, match="--metrics-at"), elsewhere(client.service.settings, Metrics()):
            pass
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 1)


def test_other_machines_need_a_key_for_them(tmp_path):
    keys = tmp_path / "keys"
    reader, scraper = make_key(keys, "anna"), make_key(keys, "prometheus", ("metrics",))
    port = free_port()
    settings = Settings({}, metrics_at=f"0.0.0.0:{port}", token_file=str(keys), hosts=("127.0.0.1",))
    with elsewhere(settings, Metrics()):
        place = f"http://127.0.0.1:{port}/metrics"
        assert [ask(place)[0], ask(place, "guess")[0], ask(place, reader)[0], ask(place, scraper)[0]] == [
            401, 401, 403, 200,
        ]  # fmt: skip
        keys.write_text("nonsense\n")
        assert ask(place, scraper)[0] == 503


def test_an_address_for_them_is_checked():
    with pytest.raises(BabelclipError, match="--token-file"):
        check_settings(Settings({}, metrics_at="0.0.0.0:9100"))
    check_settings(Settings({}, metrics_at="0.0.0.0:9100", allow_open=True))
    check_settings(Settings({}, metrics_at="9100"))
    assert address_of("9100", "--x") == ("127.0.0.1", 9100)
    assert address_of("[::1]:9100", "--x") == ("::1", 9100)
    for wrong in ("here", "127.0.0.1:", "127.0.0.1:70000", "::1:9100", "127.0.0.1:-1", ":²"):
        with pytest.raises(BabelclipError, match="--x is"):
            address_of(wrong, "--x")
