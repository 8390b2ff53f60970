"""Fetching pictures by address: off, and where it is on, from public hosts only (S3, S14)."""

from __future__ import annotations

import contextlib
import http.server
import socket
import socketserver
import threading
import time

import pytest

from babelclip.search.server import fetch
from babelclip.search.server.fetch import fetch_picture, is_public, opts_out
from babelclip.search.server.problems import Problem
from tests.search.server.conftest import problem

PUBLIC = "93.184.216.34"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1", "100.127.255.255", "198.18.0.1", "192.0.2.1", "192.0.0.1", "203.0.113.9", "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:7f00:1::",
        "2001:0:5db8:d822:0:0:80ff:fffe", "fec0::1", "100::1", "", "localhost", "0x7f000001", "1.1.1",
    ],
)  # fmt: skip
def test_addresses_of_ones_own_network_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_of_the_internet_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "FILE:///etc/passwd", "ftp://h/a", "gopher://h/", "data:image/png;base64,AA==",
        "dict://h:11/",
        "//h/a.png", "h/a.png", "", "http://", "http:///a", "http://h:22/", "http://h:8080/a.png", "https://h:80/a.png",
        "http://user@h/a.png", "http://user:word@h/a.png", "http://h\\@127.0.0.1/", "http://h /a", "http://h\r\nX: y/",
        "http://h/a\r\nHost: 127.0.0.1", "http://ⓛocalhost/", "http://①②⑦.0.0.1/", "http://127。0。0。1/",
        "http://h:port/",
        "http://[::1", "http://h%00.example/", "http://h%2eexample/", "http://" + "a" * 300 + "/",
        "http://h/" + "a" * 5000,
        "http://-h/", "http://h_/", "http://h.:99999/", "jar:http://h!/",
    ],
)  # fmt: skip
def test_what_is_no_plain_web_address_is_refused_before_a_name_is_looked_up(url):
    def resolve(host, port):
        raise AssertionError("looked up")

    with pytest.raises(Problem) as refused:
        fetch_picture(url, "public", 1000, resolve)
    assert refused.value.status == 403


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "0177.0.0.1", "0x7f.0.0.1", "2130706433", "0x7f000001", "017700000001", "127.1", "0", "localhost",
        "[::1]", "[::ffff:127.0.0.1]", "[0:0:0:0:0:ffff:7f00:1]", "[fe80::1%25lo]", "169.254.169.254", "192.168.1.1",
    ],
)  # fmt: skip
def test_this_machine_is_refused_however_it_is_written(host):
    for scheme in ("http", "https"):
        with pytest.raises(Problem) as refused:
            fetch_picture(f"{scheme}://{host}/latest/meta-data", "public", 1000)
        assert refused.value.status == 403


def test_a_name_with_one_private_address_is_refused():
    for addresses in (["10.0.0.1"], [PUBLIC, "127.0.0.1"], ["::1", PUBLIC], [], ["nonsense"]):
        with pytest.raises(Problem, match="public internet"):
            fetch_picture("http://pictures.example/a.png", "public", 1000, lambda *_, found=addresses: found)


class Site(http.server.BaseHTTPRequestHandler):
    """Answers as the first word of the path says."""

    def do_GET(self):
        if self.path == "/robots.txt":
            self.send_response(self.server.robots[0])
            self.send_header("Location", self.server.robots[1])
            self.end_headers()
            self.wfile.write(self.server.robots[1].encode())
            return
        self.server.asked.append((self.path, dict(self.headers)))
        kind = self.path.split("/")[1]
        if kind == "redirect":
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/redirect/"))
            self.end_headers()
        elif kind == "drip":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            for _ in range(100):
                self.wfile.write(b"a")
                self.wfile.flush()
                time.sleep(0.1)
        else:
            self.send_response(404 if kind == "absent" else 200)
            for rule in self.path.split("?rule=")[1:]:
                self.send_header("X-Robots-Tag", rule.replace("+", " "))
            self.end_headers()
            self.wfile.write(b"a" * (50_000 if kind == "large" else 100))

    def log_message(self, *_):
        pass


@pytest.fixture
def site(monkeypatch):
    """A site on this machine that every public name leads to; what was asked of it and where was connected to."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.asked, server.connected, server.robots = [], [], (404, "")
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    connect = socket.create_connection

    def to_site(address, *given, **choices):
        server.connected.append(address)
        return connect(server.server_address, *given, **choices)

    monkeypatch.setattr(socket, "create_connection", to_site)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    yield server
    server.shutdown()
    server.server_close()


def public(host, port):
    return [PUBLIC]


def test_a_picture_of_a_public_host_is_fetched_by_its_checked_address(site):
    looked_up = []

    def rebinding(host, port):
        looked_up.append(host)
        return [PUBLIC] if len(looked_up) == 1 else ["127.0.0.1"]

    assert (
        fetch_picture("http://pictures.example/a/b c.png?x=ä".replace(" ", "%20"), "public", 1000, rebinding)
        == b"a" * 100
    )
    assert looked_up == ["pictures.example"]  # once: a second look could give another address
    assert set(site.connected) == {(PUBLIC, 80)}
    ((path, headers),) = site.asked
    assert path == "/a/b%20c.png?x=%C3%A4"
    assert headers["Host"] == "pictures.example"
    assert headers["User-Agent"].startswith("babelclip/")
    assert "Cookie" not in headers
    assert "Authorization" not in headers


@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.1/", "http://[::1]/", "file:///etc/passwd", "http://u:p@h/", "http://h:8080/", "gopher://h/", ""],
)
def test_a_redirect_is_checked_as_the_address_was(site, target):
    def resolve(host, port):
        return [PUBLIC] if host == "pictures.example" else fetch._resolve(host, port)

    with pytest.raises(Problem):
        fetch_picture(f"http://pictures.example/redirect/{target}", "public", 1000, resolve)
    assert all(address == (PUBLIC, 80) for address in site.connected)


def test_redirects_to_public_hosts_are_followed_three_times(site):
    three = "/redirect/http://b.example" * 3 + "/a.png"
    assert fetch_picture(f"http://a.example{three}", "public", 1000, public) == b"a" * 100
    with pytest.raises(Problem, match="redirects more than 3"):
        fetch_picture(f"http://a.example/redirect/http://b.example{three}", "public", 1000, public)


def test_a_large_a_missing_and_an_endless_answer_are_given_up(site, monkeypatch):
    with pytest.raises(Problem) as large:
        fetch_picture("http://a.example/large", "public", 10_000, public)
    assert large.value.status == 413
    with pytest.raises(Problem):
        fetch_picture("http://a.example/absent", "public", 10_000, public)
    monkeypatch.setattr(fetch, "_TOTAL", 0.5)
    start = time.monotonic()
    with pytest.raises(Problem):
        fetch_picture("http://a.example/drip", "public", 10_000, public)
    assert time.monotonic() - start < 4


def test_an_answer_is_given_up_too_where_connecting_took_all_the_time(site, monkeypatch):
    connect = socket.create_connection

    def late(*given, **choices):
        time.sleep(0.4)
        return connect(*given, **choices)

    monkeypatch.setattr(socket, "create_connection", late)
    monkeypatch.setattr(fetch, "_TOTAL", 0.2)
    start = time.monotonic()
    with pytest.raises(Problem):
        fetch_picture("http://a.example/drip", "public", 10_000, public, opt_outs=False)
    assert time.monotonic() - start < 4


@pytest.fixture
def dripping(monkeypatch):
    """A host that begins a handshake and goes on a byte at a time."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            with contextlib.suppress(OSError):
                made, _address = server.accept()
                with made:
                    made.recv(4096)
                    made.sendall(b"\x16\x03\x03\x40\x00")
                    for _ in range(100):
                        made.sendall(b"a")
                        time.sleep(0.1)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        connect, address = socket.create_connection, server.getsockname()
        monkeypatch.setattr(socket, "create_connection", lambda _to, *given, **named: connect(address, *given, **named))
        yield
    thread.join(5)


def test_a_handshake_is_given_up_when_its_time_is_over(dripping, monkeypatch):
    monkeypatch.setattr(fetch, "_TOTAL", 0.3)
    start = time.monotonic()
    with pytest.raises(Problem):
        fetch_picture("https://a.example/a", "public", 10_000, public, opt_outs=False)
    assert time.monotonic() - start < 3


def test_a_site_that_does_not_want_it_is_left_alone(site):
    for said in ("noai", "noindex,+nofollow", "NoImageAI", "babelclip:+noimageindex", "all?rule=noai"):
        with pytest.raises(Problem, match="does not want"):
            fetch_picture(f"http://a.example/a?rule={said}", "public", 1000, public)
    assert fetch_picture("http://a.example/a?rule=otherbot:+noindex", "public", 1000, public)
    assert not opts_out("")
    assert opts_out("otherbot: all, noai")


@pytest.mark.parametrize(
    ("robots", "path", "allowed"),
    [
        ((200, "User-agent: *\nDisallow: /"), "/a", False),
        ((200, "User-agent: babelclip\nDisallow: /private/"), "/private/a", False),
        ((200, "User-agent: babelclip\nDisallow: /private/"), "/a", True),
        ((200, "User-agent: babelclip\nAllow: /\n\nUser-agent: *\nDisallow: /"), "/a", True),
        ((200, "User-agent: otherbot\nDisallow: /"), "/a", True),
        ((200, "\x00 no rules \xff"), "/a", True),
        ((404, ""), "/a", True), ((403, ""), "/a", True),
        ((500, ""), "/a", False), ((503, ""), "/a", False),
        ((302, "http://127.0.0.1/robots.txt"), "/a", False), ((301, "file:///etc/passwd"), "/a", False),
    ],
)  # fmt: skip
def test_what_robots_txt_keeps_back_is_left_alone(site, robots, path, allowed):
    site.robots = robots

    def resolve(host, port):
        return [PUBLIC] if host == "a.example" else fetch._resolve(host, port)

    if allowed:
        assert fetch_picture(f"http://a.example{path}", "public", 1000, resolve) == b"a" * 100
    else:
        with pytest.raises(Problem) as refused:
            fetch_picture(f"http://a.example{path}", "public", 1000, resolve)
        assert refused.value.status == 403
        assert site.asked == []
        assert all(address == (PUBLIC, 80) for address in site.connected)
        if robots[0] == 200:
            # The operator may have the site's word.
            assert fetch_picture(f"http://a.example{path}?rule=noai", "public", 1000, resolve, opt_outs=False)


def test_robots_txt_holds_for_where_a_redirect_leads_and_is_read_in_bounds(site, monkeypatch):
    site.robots = (200, "User-agent: *\nDisallow: /kept")
    with pytest.raises(Problem, match="does not want"):
        fetch_picture("http://a.example/redirect/http://b.example/kept", "public", 1000, public)
    assert [path for path, _headers in site.asked] == ["/redirect/http://b.example/kept"]
    monkeypatch.setattr(fetch, "_ROBOTS", 20)
    with pytest.raises(Problem) as large:
        fetch_picture("http://a.example/a", "public", 1000, public)
    assert large.value.status == 413


def test_a_proxy_is_told_the_checked_address_and_no_name(site, monkeypatch):
    asked, says = [], [b"HTTP/1.1 200 Connection established\r\n\r\n"]

    class Proxy(socketserver.BaseRequestHandler):
        def handle(self):
            head = b""
            while b"\r\n\r\n" not in head:
                head += self.request.recv(1000)
            asked.append(head.split(b"\r\n")[0])
            self.request.sendall(says[-1])
            if b"200" in says[-1]:
                self.request.recv(1000)
                self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(site, "server_address", server.server_address)
        how = {"proxy": "egress.example:3128", "opt_outs": False}
        assert fetch_picture("http://a.example/a", "public", 1000, public, **how) == b"abc"
        assert asked == [f"CONNECT {PUBLIC}:80 HTTP/1.1".encode()]
        assert site.connected == [("egress.example", 3128)]
        # A private address does not reach the proxy: it may well be one that it can reach.
        with pytest.raises(Problem, match="public internet"):
            fetch_picture("http://a.example/a", "public", 1000, lambda *_: ["10.0.0.1"], **how)
        for refusal in (b"HTTP/1.1 403 no\r\n\r\n", b"nonsense\r\n\r\n"):
            says.append(refusal)
            with pytest.raises(Problem, match="cannot be read"):
                fetch_picture("http://a.example/a", "public", 1000, public, **how)
        server.shutdown()


def test_only_listed_hosts_are_asked_where_there_is_a_list(site):
    policy = "pictures.example, Other.example"
    assert fetch_picture("http://PICTURES.example/a", policy, 1000, public)
    for url in ("http://sub.pictures.example/a", "http://evil.example/a", "http://pictures.example.evil.example/a"):
        with pytest.raises(Problem, match="not fetched from that host"):
            fetch_picture(url, policy, 1000, public)
    # A listed name is no way into one's own network either.
    with pytest.raises(Problem, match="public internet"):
        fetch_picture("http://pictures.example/a", policy, 1000, lambda *_: ["10.0.0.1"])


def test_fetching_is_off_unless_it_is_turned_on(serve, client, site):
    asked = {"terms": [{"url": "http://93.184.216.34/a.png"}]}
    problem(client.post("/v1/collections/shapes/search", json=asked), 403, "forbidden")
    legacy = {"image_url": "file:///etc/passwd", "modality": "image", "num_images": 1, "indice_name": None}
    problem(client.post("/knn-service", json=legacy), 403, "forbidden")
    assert site.connected == []
    on = serve(fetch="public")
    problem(on.post("/knn-service", json=legacy), 403, "forbidden")
    # What comes is decoded as strangers' pictures are.
    problem(on.post("/v1/collections/shapes/search", json=asked), 415, "unsupported_media")
