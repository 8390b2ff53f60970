"""Three replicas of the service behind the real nginx, with the file that docs/scale.md shows."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from babelclip.search.server.settings import Limits, Settings
from tests.cluster import replicas
from tests.cluster.replicas import Replica, ask
from tests.conftest import make_clip

pytest.importorskip("lancedb")
pytestmark = pytest.mark.cluster
# A random model sees all pictures as near duplicates: they are not folded.
ASKED = {"query": "a red circle", "k": 5, "dedup": 0}
QUERY = json.dumps(ASKED).encode()
SEARCH = "/v1/collections/shapes/search"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A model, a collection, a key that may read and one that may do all."""
    from babelclip.search.server.tokens import make_key
    from tests.search.serving import make_collection

    folder = tmp_path_factory.mktemp("replicas")
    clip = make_clip()
    clip.save(folder / "model")
    make_collection(clip, folder)
    for name, scope in (("reader", "read"), ("boss", "admin")):
        (folder / name).write_text(make_key(folder / "keys", name, (scope,)))
    return folder


@pytest.fixture(scope="module")
def stored(home) -> Iterator[dict[str, str]]:
    """The same collection in object storage: the environment that opens `s3://pictures/shapes.lance`."""
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        environment = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        bucket = boto3.client("s3", endpoint_url=environment["AWS_ENDPOINT_URL"], **keys)
        bucket.create_bucket(Bucket="pictures")
        for file in (path for path in (home / "shapes.lance").rglob("*") if path.is_file()):
            bucket.upload_file(str(file), "pictures", str(file.relative_to(home)))
        yield environment
    finally:
        server.stop()


@pytest.fixture(scope="module")
def behind(home, stored) -> Iterator[tuple[str, list[Replica], Path]]:
    """The address of nginx, the replicas behind it, and nginx's log of who answered."""
    if reason := replicas.why_not():
        pytest.skip(reason)
    settings = Settings(
        {"shapes": str(home / "shapes.lance"), "far": "s3://pictures/shapes.lance"},
        models=(str(home / "model"),),
        token_file=str(home / "keys"),
        hosts=(replicas.HOST,),
        trusted_proxies=("127.0.0.1",),
        threads=1,
        limits=Limits(per_minute=0),
    )
    with replicas.replicas(home, settings, environment=stored) as running:
        with replicas.nginx(home / "nginx", [replica.port for replica in running]) as address:
            yield address, running, home / "nginx" / "access.log"


@pytest.fixture
def key(home) -> str:
    return (home / "reader").read_text()


class Load:
    """Clients that search without a pause, until they are told to end."""

    def __init__(self, address: str, key: str, clients: int = 6) -> None:
        self.statuses: list[tuple[int, bytes]] = []
        self._address, self._key, self._end = address, key, threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def _run(self) -> None:
        while not self._end.is_set():
            self.statuses.append(ask(self._address + SEARCH, QUERY, key=self._key))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def wait_for(self, more: int) -> None:
        """Waits until that many further requests have been answered."""
        wanted = len(self.statuses) + more
        until(lambda: len(self.statuses) >= wanted)

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    """Waits for something that must come true."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.1)


def answered(log: Path, replica: Replica) -> int:
    """How many searches a replica answered with 200."""
    pattern = rf"{SEARCH} 200 .*127\.0\.0\.1:{replica.port} of=(\d+, )*200$"
    return len(re.findall(pattern, log.read_text(), flags=re.MULTILINE))


def ranking(content: bytes) -> list[tuple[str, float]]:
    return [(hit["id"], hit["score"]) for hit in json.loads(content)["hits"]]


def test_keys_pass_through_the_proxy(behind, key):
    address, running, _log = behind
    assert ask(address + SEARCH, QUERY)[0] == 401
    status, content = ask(address + SEARCH, QUERY, key=key)
    assert status == 200
    direct = ask(f"http://127.0.0.1:{running[0].port}{SEARCH}", QUERY, key=key)[1]
    assert ranking(content) == ranking(direct)


def test_collection_in_object_storage_gives_the_same_answers(behind, key):
    address, running, _log = behind
    near = ask(address + SEARCH, QUERY, key=key)
    for place in [address, *(f"http://127.0.0.1:{replica.port}" for replica in running)]:
        far = ask(place + SEARCH.replace("shapes", "far"), QUERY, key=key)
        assert near[0] == far[0] == 200, far
        assert ranking(far[1]) == ranking(near[1])


def test_every_replica_gets_its_share(behind, key):
    address, running, log = behind
    with Load(address, key) as load:
        load.wait_for(60)
        # The least busy one is asked, so shares follow from what else the machine does; nobody is left out.
        until(lambda: min(answered(log, replica) for replica in running) >= 5)
    assert {status for status, _ in load.statuses} == {200}
    assert len({tuple(ranking(content)) for _, content in load.statuses}) == 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_replica_that_ends_loses_no_request(behind, key, how):
    address, running, log = behind
    with Load(address, key) as load:
        load.wait_for(30)
        running[1].stop(how)
        load.wait_for(90)
        running[1].start()
        running[1].wait()
        before = answered(log, running[1])
        # It comes back by itself, once its pause (fail_timeout) is over.
        until(lambda: answered(log, running[1]) >= before + 3)
    wrong = [(status, content) for status, content in load.statuses if status != 200]
    assert wrong == []
    assert len(load.statuses) >= 120


def test_too_much_is_refused_by_the_proxy_already(behind, key):
    address, _running, log = behind
    assert ask(address + SEARCH, b"x" * ((16 << 20) + 1), key=key)[0] == 413
    until(lambda: f"{SEARCH} 413 to=- of=-" in log.read_text())


def test_scrolling_goes_on_at_another_replica_and_so_do_pictures(behind, key):
    _address, running, _log = behind
    one, other = (f"http://127.0.0.1:{replica.port}" for replica in running[:2])
    status, content = ask(one + SEARCH, QUERY, key=key)
    first = json.loads(content)
    assert status == 200
    rest = json.dumps(ASKED | {"cursor": first["cursor"]}).encode()
    status, content = ask(other + SEARCH, rest, key=key)
    assert status == 200, content
    assert not {hit["id"] for hit in first["hits"]} & {hit["id"] for hit in json.loads(content)["hits"]}
    # Its address is signed by one and opened by the other, without a key, as an <img> asks.
    assert ask(other + first["hits"][0]["thumbnail"])[0] == 200
    assert ask(other + first["hits"][0]["thumbnail"].partition("?")[0])[0] == 401


def test_changes_go_to_one_replica_and_are_seen_by_all(behind, home):
    address, running, log = behind
    boss = (home / "boss").read_text()
    rows = "/v1/collections/shapes"
    before = json.loads(ask(address + rows, key=boss)[1])["rows"]
    where = json.dumps({"where": {"op": "eq", "column": "width", "value": 40}, "forget": False}).encode()
    status, content = ask(f"{address}{rows}/items", where, key=boss, method="DELETE")
    assert status == 202, content
    job = f"/v1/jobs/{json.loads(content)['id']}"
    until(lambda: json.loads(ask(address + job, key=boss)[1])["state"] == "done")
    seen = [f"http://127.0.0.1:{replica.port}{rows}" for replica in running]
    until(lambda: all(json.loads(ask(one, key=boss)[1])["rows"] < before for one in seen))
    changes = re.findall(r"^(?:DELETE|GET) (?:\S+/items|/v1/jobs/\S+) .*$", log.read_text(), flags=re.MULTILINE)
    assert changes
    assert all(f":{running[0].port}" in line for line in changes)


def test_no_replica_is_said_and_ends_with_the_first_that_comes_back(behind, key):
    address, running, _log = behind
    for replica in running:
        replica.stop()
    assert ask(address + "/readyz")[0] in (502, 503)
    assert ask(address + SEARCH, QUERY, key=key)[0] in (502, 503)
    running[0].start()
    running[0].wait()
    until(lambda: ask(address + SEARCH, QUERY, key=key)[0] == 200)
    assert ask(address + "/readyz")[0] == 200
    for replica in running[1:]:
        replica.start()
    for replica in running:
        replica.wait()
