"""The service on Ray Serve: two replicas of the same application behind Ray's own proxy."""

from __future__ import annotations

import json
import sys

import pytest

from babelclip.errors import BabelclipError, MissingExtraError
from babelclip.search.server.settings import Limits, Settings
from tests.cluster import replicas as processes
from tests.cluster.slurm import free_ports
from tests.conftest import make_clip

pytest.importorskip("lancedb")
SEARCH = "/v1/collections/shapes/search"
ASKED = {"query": "a red circle", "k": 5, "dedup": 0}


def test_replicas_without_a_shared_secret_are_refused():
    from babelclip.cluster.serve import replicas

    with pytest.raises(BabelclipError, match="all of them share a secret"):
        replicas(Settings({"shapes": "shapes.lance"}), b"")


def test_missing_ray_serve_names_what_to_install(monkeypatch):
    from babelclip.cluster.serve import replicas

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"'ray\[serve\]'"):
        replicas(Settings({"shapes": "shapes.lance"}), b"secret")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of Ray's proxy, and a key."""
    ray = pytest.importorskip("ray")
    serve = pytest.importorskip("ray.serve", reason="needs ray[serve]", exc_type=ImportError)
    from babelclip.cluster.serve import replicas
    from babelclip.search.server.secret import shared_secret
    from babelclip.search.server.tokens import make_key
    from tests.search.serving import make_collection

    home = tmp_path_factory.mktemp("ray-serve")
    clip = make_clip()
    clip.save(home / "model")
    key = make_key(home / "keys", "reader")
    (port,) = free_ports(1)
    settings = Settings(
        {"shapes": str(make_collection(clip, home))},
        models=(str(home / "model"),),
        token_file=str(home / "keys"),
        hosts=(processes.HOST,),
        threads=1,
        limits=Limits(per_minute=0),
    )
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        application = replicas(settings, shared_secret(home / "secret"), count=2, cpus=0.5)
        serve.run(application, name="babelclip", route_prefix="/")
        yield f"http://127.0.0.1:{port}", key
    finally:
        serve.shutdown()
        ray.shutdown()


@pytest.mark.cluster
def test_ray_serves_cursors_and_pictures_whichever_replica_is_asked(served):
    address, key = served
    assert processes.ask(address + "/readyz")[0] == 200
    assert processes.ask(address + SEARCH, json.dumps(ASKED).encode())[0] == 401
    status, content = processes.ask(address + SEARCH, json.dumps(ASKED).encode(), key=key)
    assert status == 200, content
    first = json.loads(content)
    # Whichever replica answers, it knows the cursor and the addresses that another one signed.
    further = json.dumps(ASKED | {"cursor": first["cursor"]}).encode()
    for _ in range(8):
        status, content = processes.ask(address + SEARCH, further, key=key)
        assert status == 200, content
        assert not {hit["id"] for hit in first["hits"]} & {hit["id"] for hit in json.loads(content)["hits"]}
        assert processes.ask(address + first["hits"][0]["thumbnail"])[0] == 200
