"""The real SLURM on one node: what its array tasks are told, and that one that is put back into the queue goes on."""

import time

import pytest

from tests.cluster import slurm

pytestmark = pytest.mark.cluster

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
