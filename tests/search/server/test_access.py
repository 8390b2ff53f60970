"""Who may ask: addresses to listen on, keys, hosts, origins, signed addresses (S1, S2, S9, S12, S13)."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from babelclip.errors import BabelclipError
from babelclip.search.server.app import create_app
from babelclip.search.server.settings import Settings, check_settings
from babelclip.search.server.tokens import KeyFile, Signer, make_key
from tests.search.server.conftest import HERE, problem, search
from tests.search.serving import make_service

SEARCH = "/v1/collections/shapes/search"


@pytest.fixture
def keys(tmp_path):
    return keys_in(tmp_path)


def keys_in(folder):
    """A file with a key for each scope, and the keys."""
    file = folder / "keys.txt"
    return file, {scope: make_key(file, scope, (scope,)) for scope in ("read", "write", "metrics", "admin")}


@pytest.fixture(scope="module")
def guarded(clip, collection, tmp_path_factory):
    """A service with keys that many tests ask, and the keys."""
    folder = tmp_path_factory.mktemp("guarded")
    file, tokens = keys_in(folder)
    own = Path(shutil.copytree(collection, folder / "own.lance"))
    service = make_service(own, clip, file, token_file=str(file))
    with TestClient(create_app(service), base_url=HERE, raise_server_exceptions=False) as client:
        yield client, tokens


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.4", "10.0.0.1", "pictures.example.org", "127.0.0.1.nip.io"]
)
def test_other_machines_are_let_in_only_with_keys_or_an_explicit_word(host, tmp_path):
    with pytest.raises(BabelclipError, match="--token-file"):
        check_settings(Settings({}, host=host))
    check_settings(Settings({}, host=host, allow_open=True))
    make_key(tmp_path / "keys", "anna")
    check_settings(Settings({}, host=host, token_file=str(tmp_path / "keys")))


@pytest.mark.parametrize("damaged", [b"\xff\xfe", b"anna read " + b"\xc3\xa9" * 64, b"anna read " + b"z" * 64])
def test_a_damaged_key_file_is_told_by_its_line(tmp_path, damaged):
    make_key(tmp_path / "keys", "anna")
    (tmp_path / "keys").write_bytes((tmp_path / "keys").read_bytes() + b"\n" + damaged + b"\n")
    with pytest.raises(BabelclipError, match=r"Line \d of the key file keys is not"):
        KeyFile(tmp_path / "keys").find("bc_wrong")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.0.1"])
def test_this_machine_alone_needs_no_key(host):
    check_settings(Settings({}, host=host))
    assert Settings({}).host == "127.0.0.1"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/collections"), ("GET", "/v1/collections/shapes"), ("POST", SEARCH), ("POST", "/v1/uploads"),
        ("GET", "/v1/collections/shapes/items/x"), ("GET", "/v1/collections/shapes/items/x/similar"),
        ("GET", "/v1/collections/shapes/items/x/thumbnail"), ("GET", "/v1/collections/shapes/items/x/picture"),
        ("GET", "/v1/collections/shapes/items/x/group"), ("POST", "/v1/embed"), ("POST", "/v1/zero-shot"),
        ("GET", "/indices-list"), ("POST", "/knn-service"), ("POST", "/metadata"), ("GET", "/metrics-summary"),
        ("GET", "/config.json"), ("GET", "/metrics"),
        ("GET", "/openapi.json"), ("GET", "/v1/jobs"), ("DELETE", "/v1/collections/shapes/items"),
        ("POST", "/v1/collections/shapes/items"), ("POST", "/v1/collections/shapes/optimize"),
    ],
)  # fmt: skip
def test_every_route_wants_a_key_where_there_are_keys(guarded, method, path):
    client, tokens = guarded
    for headers in ({}, bearer("wrong"), {"Authorization": f"Basic {tokens['admin']}"}, bearer(""), bearer("x" * 9999)):
        refused = client.request(method, path, headers=headers, json={})
        assert refused.status_code == 401, (headers, refused.text)
        assert refused.headers["www-authenticate"] == "Bearer"
    # In an address it would be kept by logs, histories and proxies.
    assert client.request(method, f"{path}?token={tokens['admin']}", json={}).status_code == 401
    assert client.request(method, path, headers=bearer(tokens["admin"]), json={}).status_code not in (401, 403)


def test_a_key_opens_only_what_its_scopes_name(guarded):
    client, tokens = guarded
    assert client.get("/v1/collections", headers=bearer(tokens["read"])).status_code == 200
    problem(client.get("/metrics", headers=bearer(tokens["read"])), 403, "forbidden")
    problem(client.get("/v1/jobs", headers=bearer(tokens["read"])), 403, "forbidden")
    problem(client.post("/v1/collections/shapes/items", json={"image": ""}, headers=bearer(tokens["read"])), 403)
    gone = {"ids": ["x"]}
    problem(client.request("DELETE", "/v1/collections/shapes/items", json=gone, headers=bearer(tokens["write"])), 403)
    assert client.get("/metrics", headers=bearer(tokens["metrics"])).status_code == 200
    problem(client.get("/v1/collections", headers=bearer(tokens["metrics"])), 403, "forbidden")
    assert client.get("/metrics", headers=bearer(tokens["admin"])).status_code == 200


def test_nothing_is_changed_where_there_are_no_keys(client):
    for method, path in (("POST", "items"), ("DELETE", "items"), ("POST", "optimize")):
        refused = client.request(method, f"/v1/collections/shapes/{path}", json={"ids": ["x"], "image": ""})
        problem(refused, 403, "forbidden")


def test_keys_are_kept_hashed_rotated_and_withdrawn_while_the_service_runs(serve, keys):
    file, tokens = keys
    text = file.read_text()
    assert not any(token in text for token in tokens.values())
    assert file.stat().st_mode & 0o077 == 0
    client = serve(keys=file)
    assert client.get("/v1/collections", headers=bearer(tokens["read"])).status_code == 200
    new = make_key(file, "read-2")
    assert client.get("/v1/collections", headers=bearer(new)).status_code == 200
    file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith("read ")))
    assert client.get("/v1/collections", headers=bearer(tokens["read"])).status_code == 401
    assert client.get("/v1/collections", headers=bearer(new)).status_code == 200
    # Keys that cannot be read let nobody in, not even those of before.
    file.write_text("read2 everything 12\n")
    problem(client.get("/v1/collections", headers=bearer(new)), 503, "busy")
    file.unlink()
    problem(client.get("/v1/collections", headers=bearer(new)), 503, "busy")


def test_names_and_scopes_of_keys_are_checked(tmp_path):
    make_key(tmp_path / "keys", "anna")
    for name, scopes in (("anna", ("read",)), ("a b", ("read",)), ("", ("read",)), ("bo", ("root",)), ("bo", ())):
        with pytest.raises(BabelclipError):
            make_key(tmp_path / "keys", name, scopes)
    assert KeyFile(tmp_path / "keys").find("") is None


def test_keys_and_queries_are_not_in_the_log(serve, keys, caplog):
    file, tokens = keys
    with caplog.at_level(logging.DEBUG):
        client = serve(keys=file)
        client.post(SEARCH, json={"query": "a very secret wish"}, headers=bearer(tokens["read"]))
        client.post(SEARCH, json={"query": "a very secret wish", "k": 0}, headers=bearer(tokens["read"]))
        client.get("/v1/jobs", headers=bearer(tokens["read"]))
        client.get("/v1/jobs", headers=bearer("guessed-secret"))
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("babelclip"))
    assert '"outcome": "refused"' in ours
    assert "secret" not in ours
    assert not any(token in ours for token in tokens.values())


def test_queries_are_logged_hashed_or_plain_where_the_operator_says_so(serve, caplog):
    with caplog.at_level(logging.INFO, "babelclip.serve"):
        search(serve(log_queries="hashed"), query="wish")
        assert "wish" not in caplog.text
        assert "query " in caplog.text
        search(serve(log_queries="plain"), query="wish\nquery forged")
        assert r"'wish\nquery forged'" in caplog.text


def test_a_picture_address_opens_itself_for_a_while_and_nothing_else(guarded):
    client, tokens = guarded
    hits = client.post(SEARCH, json={"k": 2}, headers=bearer(tokens["read"])).json()["hits"]
    own, other = hits[0]["thumbnail"], hits[1]["thumbnail"]
    assert client.get(own).status_code == 200
    path, signature = own.split("?sig=")
    expires, _, mark = signature.partition(".")
    assert tokens["read"] not in own
    for forged in (
        path, f"{path}?sig=", f"{path}?sig=.", f"{path}?sig={expires}", f"{path}?sig={int(expires) + 900}.{mark}",
        f"{path}?sig={expires}.{mark[:-1]}", f"{path}?sig=99999999999999999999.{mark}", f"{path}?sig=é.{mark}",
        f"{path}?sig=²³.{mark}", other.split("?")[0] + "?sig=" + signature,
        own.replace("/thumbnail?", "/picture?"), own.replace("/thumbnail?", "?"),
    ):  # fmt: skip
        assert client.get(forged).status_code == 401, forged


def test_a_signature_ends(monkeypatch):
    signer, now = Signer(b"x" * 32), time.time()
    path, _, signature = signer.address("/a").partition("?sig=")
    assert signer.opens(path, signature)
    assert not Signer(b"y" * 32).opens(path, signature)
    monkeypatch.setattr(time, "time", lambda: now + 3600 + 901)
    assert not signer.opens(path, signature)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::2]", "2130706433"]
)
def test_a_foreign_host_name_is_refused(client, host):
    problem(client.get("/v1/collections", headers={"Host": host}), 421, "wrong_host")
    # Probes come by the address of the machine, whatever it is, and learn nothing.
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


def test_known_hosts_are_answered(serve):
    client = serve(hosts=("pictures.example.org",))
    for host in ("pictures.example.org", "PICTURES.example.org:8443", "localhost:8000", "[::1]:8000"):
        assert client.get("/v1/collections", headers={"Host": host}).status_code == 200, host


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "file://", "http://127.0.0.1@evil"]
)
def test_pages_of_other_sites_cannot_ask(client, origin):
    problem(client.post(SEARCH, json={}, headers={"Origin": origin}), 403, "forbidden")
    asked = client.options(SEARCH, headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
    assert asked.status_code == 403
    for answer in (asked, client.get("/v1/collections", headers={"Origin": origin})):
        assert not any(name.startswith("access-control-") for name in answer.headers)
    assert client.post(SEARCH, json={}, headers={"Origin": "http://127.0.0.1"}).status_code == 200


def test_answers_say_what_browsers_may_do_with_them(client, item):
    for path in ("/", "/v1/collections", "/nothing", item["thumbnail"], item["picture"], "/static/app.js"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "set-cookie" not in headers
        policy = {part.split()[0]: part.split()[1:] for part in headers["content-security-policy"].split(";")}
        assert policy["default-src"] == ["'none'"]
        assert "'unsafe-inline'" not in headers["content-security-policy"]
        assert "*" not in headers["content-security-policy"]
    page = client.get("/").headers["content-security-policy"]
    assert "frame-ancestors 'none'" in page
    assert "script-src 'self'" in page
    assert "connect-src 'self'" in page


def test_crawlers_are_kept_out_unless_the_operator_lets_them_in(client, serve, item):
    assert client.get("/robots.txt").text == "User-agent: *\nDisallow: /\n"
    for path in ("/", "/v1/collections", "/nothing", item["thumbnail"], item["picture"]):
        assert {"noindex", "noimageindex", "noai"} <= set(client.get(path).headers["x-robots-tag"].split(", "))
    told = serve(indexable=True)
    assert told.get("/robots.txt").text == "User-agent: *\nDisallow: /v1/\n"
    assert "x-robots-tag" not in told.get("/").headers


def test_a_person_is_believed_only_from_a_trusted_proxy(serve):
    with pytest.raises(BabelclipError, match="--trusted-proxy"):
        check_settings(Settings({}, user_header="X-User"))
    with pytest.raises(BabelclipError, match="proxy"):  # requests come from addresses
        check_settings(Settings({}, trusted_proxies=("proxy.example.org",)))
    named = {"X-User": "anna@example.org"}
    stranger = serve(user_header="X-User", trusted_proxies=("10.0.0.1",))
    assert stranger.get("/v1/collections", headers=named).status_code == 401
    behind = serve(user_header="X-User", trusted_proxies=("testclient",))
    assert behind.get("/v1/collections", headers=named).status_code == 200
    assert behind.get("/v1/collections").status_code == 401
    assert behind.get("/v1/collections", headers={"X-User": " "}).status_code == 401
    assert behind.get("/v1/collections", headers=[("X-User", "anna"), ("X-User", "root")]).status_code == 401
    # Such a person reads, and no more.
    assert behind.get("/metrics", headers=named).status_code == 403
    assert behind.request("DELETE", "/v1/collections/shapes/items", json={"ids": []}, headers=named).status_code == 403
    assert "?sig=" in behind.post(SEARCH, json={"k": 1}, headers=named).json()["hits"][0]["thumbnail"]


def test_a_proxys_word_about_the_client_is_taken_from_the_right(serve):
    from babelclip.search.server.limits import Gate

    gate = Gate(lambda *_: None, Settings({}, trusted_proxies=("10.0.0.1", "10.0.0.2")), lambda *_: None)
    for peer, said, client in (
        ("8.8.8.8", "1.1.1.1", "8.8.8.8"),
        ("10.0.0.1", "1.1.1.1", "1.1.1.1"),
        ("10.0.0.1", "6.6.6.6, 1.1.1.1, 10.0.0.2", "1.1.1.1"),
        ("10.0.0.1", "1.1.1.1, nonsense", "1.1.1.1"),
        ("10.0.0.1", "", "10.0.0.1"),
    ):
        assert gate.client_of({"client": (peer, 1)}, {b"x-forwarded-for": said.encode()}) == client
