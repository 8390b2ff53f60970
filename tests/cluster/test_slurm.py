"""The real SLURM on one node: what its array tasks are told, and jobs of `--launcher rank` whose tasks are stopped."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from babelclip.data.captions import Captions, write_captions
from babelclip.data.embed import embed_file
from babelclip.store import EmbeddingStore
from tests.cluster import slurm
from tests.conftest import make_clip
from tests.data.killed_embed import content

pytestmark = pytest.mark.cluster
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "embed.sbatch"
CAPTIONS, DISTINCT, SHARD, RANKS = 2400, 2000, 6, 4

TASK = """#!/bin/sh
echo "task $SLURM_ARRAY_TASK_ID of $SLURM_ARRAY_TASK_COUNT, rank $SLURM_PROCID, restarts ${SLURM_RESTART_COUNT:-0}"
[ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] || sleep $1
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if reason := slurm.why_not():
        pytest.skip(reason)
    with slurm.slurm(tmp_path_factory.mktemp("slurm")) as running:
        yield running
    assert slurm.processes(running) == []


def test_array_tasks_know_their_number_and_how_many_there_are(cluster, tmp_path):
    script = tmp_path / "task.sh"
    script.write_text(TASK.replace("$1", "0"))
    job = cluster.submit(script, "--array=0-2", cwd=tmp_path)
    assert cluster.wait(job) == ["COMPLETED"] * 3
    said = [(tmp_path / f"{job}_{task}.out").read_text() for task in range(3)]
    assert said == [f"task {task} of 3, rank 0, restarts 0\n" for task in range(3)]


def test_task_that_is_put_back_into_the_queue_starts_again(cluster, tmp_path):
    script = tmp_path / "task.sh"
    script.write_text(TASK.replace("$1", "300"))
    job = cluster.submit(script, "--array=0-0", "--requeue", cwd=tmp_path)
    log = tmp_path / f"{job}_0.out"
    while not log.exists() or "restarts 0" not in log.read_text():
        time.sleep(0.1)
    cluster.requeue(f"{job}_0")
    assert cluster.wait(job) == ["COMPLETED"]
    assert "restarts 1" in log.read_text()


@pytest.fixture
def home(tmp_path) -> Path:
    """A model, captions of which some come twice, and what one process makes of them."""
    clip = make_clip()
    clip.save(tmp_path / "model")
    texts = [f"{'red green blue'.split()[n % 3]} circle {n % DISTINCT}" for n in range(CAPTIONS)]
    write_captions(Captions.from_columns(text=texts, lang="en"), tmp_path / "captions.jsonl")
    embed_file(clip, tmp_path / "captions.jsonl", tmp_path / "alone", shard_rows=SHARD)
    return tmp_path


def submit_embed(cluster: slurm.Slurm, home: Path) -> str:
    """Submits the example of docs/scale.md, with fewer tasks and smaller shards."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    given = {"SOURCE": home / "captions.jsonl", "MODEL": home / "model", "OUT": home / "targets", "SHARD_ROWS": SHARD}
    given |= {"PATH": path, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": 1, "HF_HUB_OFFLINE": 1}
    export = ",".join(f"{name}={value}" for name, value in given.items())
    return cluster.submit(EXAMPLE, f"--array=0-{RANKS - 1}", f"--export=ALL,{export}", cwd=home)


def until(holds: Callable[[], bool], cluster: slurm.Slurm, seconds: float = 120.0) -> None:
    """Waits for something that must come true."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, cluster.logs()
        time.sleep(0.02)


def done_of(home: Path, rank: int) -> int:
    """How many shards of a rank are in the ledger."""
    return sum(int(entry.stem) % RANKS == rank for entry in (home / "targets.job" / "done").glob("[0-9]*.json"))


def process_of(cluster: slurm.Slurm, job: str, task: int) -> int:
    """The process of a task's command, told from its shell by what runs in it; -1 where there is none."""
    mark = f"SLURM_ARRAY_TASK_ID={task}".encode()
    for process in slurm.processes(cluster):
        folder = Path("/proc") / str(process)
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if mark in environment and f"SLURM_ARRAY_JOB_ID={job}".encode() in environment and b"babelclip" in command:
            return process
    return -1


def test_embed_as_an_array_of_which_one_task_is_requeued_and_one_killed_is_the_same_to_the_byte(cluster, home):
    job = submit_embed(cluster, home)
    # One task goes back into the queue in the middle of its work, as when SLURM loses its node.
    until(lambda: done_of(home, 1) >= 3, cluster)
    cluster.requeue(f"{job}_1")
    at_requeue = done_of(home, 1)
    # Another one is killed, fails, and is started again by hand.
    until(lambda: process_of(cluster, job, 2) > 0, cluster)
    doomed = process_of(cluster, job, 2)
    until(lambda: done_of(home, 2) >= 3, cluster)
    assert doomed > 1  # -1 would be everybody
    os.kill(doomed, signal.SIGKILL)
    until(lambda: f"{job}_2" not in cluster.tasks(job), cluster)
    at_kill = done_of(home, 2)
    cluster.requeue(f"{job}_2")
    assert cluster.wait(job, timeout=240) == ["COMPLETED"] * RANKS

    shares = [CAPTIONS // SHARD // RANKS] * RANKS
    assert 3 <= at_requeue < shares[1]
    assert 3 <= at_kill < shares[2]
    said = [(home / f"{job}_{task}.out").read_text() for task in range(RANKS)]
    assert "DUE TO JOB REQUEUE" in said[1]
    # One of them committed, and the others say that it would.
    assert sum(f"{CAPTIONS:,} vectors of" in text for text in said) == 1
    assert content(home / "targets") == content(home / "alone")
    assert len(EmbeddingStore.open(home / "targets")) == CAPTIONS
    assert sorted(path.name for path in (home / "targets.job").iterdir() if path.is_dir()) == []
