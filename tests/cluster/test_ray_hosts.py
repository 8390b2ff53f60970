"""One Ray cluster over two hosts (network namespaces): a job's bytes are those of one process, a host lost or not."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import Host
from tests.cluster.on_ray import RAY_ENVIRONMENT, SHARD, events
from tests.cluster.pictures import digests, make_model, make_pictures

pytestmark = pytest.mark.cluster
pytest.importorskip("ray")
ROOT = Path(__file__).parents[2]
COUNT = 600


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """Of every process of the cluster: they know each other by a token of the cluster's own."""
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text(secrets.token_hex(32))
    told = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "PYTHONPATH": str(ROOT)}
    return {**RAY_ENVIRONMENT, **told}


@pytest.fixture
def cluster(two_hosts, tmp_path, environment) -> Iterator[tuple[Host, Host, str]]:
    """The two hosts, a raylet of one processor on each, and the cluster's address."""
    first, second = two_hosts
    address, folder = f"{first.address}:6379", tempfile.mkdtemp(prefix="bc-ray-", dir="/tmp")
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
    ray += ["--num-cpus=1", "--object-store-memory=100000000"]
    head = [f"--node-ip-address={first.address}", "--head", "--port=6379", f"--temp-dir={folder}"]
    other = [f"--node-ip-address={second.address}", f"--address={address}"]
    try:
        first.start([*ray, *head, "--include-dashboard=false"], log=tmp_path / "head.log", environment=environment)
        wait_for_text(tmp_path / "head.log", "Ray runtime started")
        second.start([*ray, *other], log=tmp_path / "other.log", environment=environment)
        wait_for_text(tmp_path / "other.log", "Ray runtime started")
        yield first, second, address
    finally:
        for host in (second, first):
            host.power_off()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_text(log: Path, text: str, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while text not in (log.read_text() if log.exists() else ""):
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)


@pytest.fixture
def folder(tmp_path) -> Path:
    """`pictures/`, `model/`, and `store/` as one process makes it."""
    import babelclip
    from babelclip.data.embed_images import embed_pictures

    make_pictures(tmp_path / "pictures", COUNT)
    clip = babelclip.load(make_model(tmp_path / "model"))
    embed_pictures(clip, tmp_path / "pictures", tmp_path / "store", shard_rows=SHARD)
    return tmp_path


def power_off_in_a_shard(host: Host, log: Path) -> None:
    """Takes the power from a host once both nodes have begun something."""
    while len({node for word, _number, node, _pid in events(log) if word == "begun"}) < 2:
        time.sleep(0.002)
    host.power_off()


@pytest.mark.parametrize("lost", [False, True], ids=["whole", "one host lost"])
def test_two_hosts_make_the_store_of_one_process(cluster, folder, environment, lost):
    first, second, address = cluster
    out = folder / "out"
    if lost:
        off = threading.Thread(target=power_off_in_a_shard, args=(second, folder / "out.log"), daemon=True)
        off.start()
    command = [sys.executable, "-m", "tests.cluster.on_ray", str(folder), "embed", str(out), address]
    done = first.run(command, timeout=600, environment=environment, cwd=ROOT)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["nodes"] == 2
    assert digests(out) == digests(folder / "store")
    assert not lost or not second.processes()
