"""One run of a job on Ray, in a process of its own: pictures to a store or a collection. Prints one line of JSON.

    python -m tests.cluster.on_ray FOLDER embed|index OUT whole|node|driver|ADDRESS

FOLDER holds `pictures/` and `model/`. `node`: two raylets of one processor each, of which one is killed in the middle
of a shard. `driver`: this process is killed once shards are finished and before the first of them is committed.
ADDRESS: a cluster that is there already.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from babelclip.cluster import embed, index
from babelclip.cluster.job import Means, Shard

SHARD = 64
# Of every process of Ray in tests; workers that give way to all others (15) get nowhere on a busy machine.
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
run_job = embed.run_job


class Noted:
    """A job whose workers note, in a file that all of them see, on which node a shard was begun and finished."""

    def __init__(self, job: Any, log: Path, stop: Callable[[], None] | None = None) -> None:
        self.job, self.log, self.stop = job, log, stop

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "job":
            raise AttributeError(name)
        return getattr(self.job, name)

    def __getstate__(self) -> dict[str, Any]:
        return {"job": self.job, "log": self.log, "stop": None}

    def commit(self, shards: Sequence[Shard]) -> None:
        if self.stop is not None:
            self.stop()
        self.job.commit(shards)

    def worker(self, *args: Any, **kwargs: Any) -> Any:
        import ray

        work, node = self.job.worker(*args, **kwargs), ray.get_runtime_context().get_node_id()

        def note(word: str, shard: Shard) -> None:
            with self.log.open("a") as file:
                file.write(f"{word} {shard.number}-{shard.id[:12]} {node} {os.getpid()}\n")

        def noted(shard: Shard) -> Any:
            note("begun", shard)
            time.sleep(0.05)  # so that every worker has its share, and a node is killed within a shard
            fragment = work(shard)
            note("finished", shard)
            return fragment

        return noted


def events(log: Path) -> list[list[str]]:
    """What workers noted so far, whole lines only."""
    text = log.read_text() if log.exists() else ""
    return [line.split() for line in text[: text.rfind("\n") + 1].splitlines()]


def run(folder: Path, what: str, out: Path, address: str, log: Path, stop: Callable[[], None] | None = None) -> None:
    """Embeds or indexes `folder/pictures` on Ray."""
    means = Means(workers=2, ray_address=address)
    model, pictures = str(folder / "model"), str(folder / "pictures")
    embed.run_job = index.run_job = lambda job, **settings: run_job(Noted(job, log, stop), **settings)
    if what == "embed":
        embed.embed_on("ray", pictures, out, model=model, means=means, pictures=True, shard_rows=SHARD)
    else:
        index.index_on(model, [pictures], out, launcher="ray", means=means, shard_rows=SHARD)


@contextlib.contextmanager
def two_nodes() -> Iterator[Any]:
    """A Ray cluster of a head without processors and two nodes with one each."""
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="bc-ray-", dir="/tmp")
    common: dict[str, Any] = {"object_store_memory": 100 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "temp_dir": folder, **common})
    try:
        cluster.nodes = [cluster.add_node(num_cpus=1, **common) for _ in range(2)]
        cluster.wait_for_nodes()
        yield cluster
    finally:
        with contextlib.suppress(Exception):
            cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def kill_a_node(cluster: Any, log: Path, killed: dict[str, Any]) -> None:
    """Waits until both nodes have finished a shard, then kills one that is in the middle of another."""
    while True:
        noted = events(log)
        finished = {node for word, _number, node, _pid in noted if word == "finished"}
        if len(finished) == 2:
            node = cluster.nodes[0]
            mine = [item for item in noted if item[2] == node.node_id]
            if mine and mine[-1][0] == "begun":
                cluster.remove_node(node, allow_graceful=False)
                killed |= {"node": node.node_id, "shard": mine[-1][1], "noted": len(noted)}
                return
        time.sleep(0.002)


def main(folder: Path, what: str, out: Path, how: str) -> None:
    log = out.with_name(f"{out.name}.log")
    killed: dict[str, Any] = {}
    start = time.perf_counter()
    if how == "node":
        with two_nodes() as cluster:
            killer = threading.Thread(target=kill_a_node, args=(cluster, log, killed), daemon=True)
            killer.start()
            run(folder, what, out, cluster.address, log)
    elif how == "driver":

        def stop() -> None:
            if len([item for item in events(log) if item[0] == "finished"]) >= 8:
                os.kill(os.getpid(), signal.SIGKILL)

        run(folder, what, out, "", log, stop)
    else:
        run(folder, what, out, "" if how == "whole" else how, log)
    noted = events(log)
    found = {
        "seconds": round(time.perf_counter() - start, 1),
        "begun": sum(item[0] == "begun" for item in noted),
        "shards": len({item[1] for item in noted}),
        "nodes": len({item[2] for item in noted}),
        "killed": killed,
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4])
