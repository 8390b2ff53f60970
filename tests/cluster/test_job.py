"""A job ends with the same output whoever does its shards, in whatever order, through deaths and damaged files."""

import itertools
import os

import pytest

from babelclip.cluster import local
from babelclip.cluster.job import Means, Shard, commit_done, drive, run_job
from babelclip.errors import BabelclipError
from tests.cluster.toy import ToyJob, whole


@pytest.mark.parametrize("workers", [1, 3])
def test_local_workers_make_the_whole_once_and_in_order(tmp_path, workers):
    job = ToyJob(str(tmp_path / "job"), pause=0.02)
    assert run_job(job, means=Means(workers=workers)) == whole()
    assert len(job.processes()) == workers
    assert (os.getpid() in job.processes()) == (workers == 1)


def test_commits_are_groups_in_order_and_follow_the_work(tmp_path):
    job = ToyJob(str(tmp_path / "job"), count=8)
    run_job(job)
    assert (tmp_path / "job" / "commits.txt").read_text().split() == ["3", "3", "2"]


def test_shards_that_are_done_out_of_order_wait_for_those_before_them(tmp_path):
    job = ToyJob(str(tmp_path / "job"), count=7)
    shards, work, done = job.shards(), job.worker("cpu"), set()
    for number in [6, 1, 2, 4, 5, 0, 3]:
        work(shards[number])
        done.add(number)
        commit_done(job, shards, done)
        if number == 5:
            assert job.lines() == []
        if number == 0:
            assert job.lines() == whole(3).splitlines(keepends=True)
    assert "".join(job.lines()) == whole(7)


def test_what_is_done_is_not_done_again(tmp_path):
    job = ToyJob(str(tmp_path / "job"))
    work = job.worker("cpu")
    for shard in job.shards()[4:9]:
        work(shard)
    before = {number: job.ledger.read(number) for number in range(4, 9)}
    given = []

    def launch(job, shards, means):
        given.extend(shard.number for shard in shards)
        return local.launch(job, shards, means)

    assert drive(job, launch, Means()) == whole()
    assert given == [0, 1, 2, 3, 9, 10, 11]
    assert {number: job.ledger.read(number) for number in range(4, 9)} == before


@pytest.mark.parametrize("damage", ["other bytes of the same length", "gone", "shorter"])
def test_a_damaged_fragment_is_made_again(tmp_path, damage):
    job, said = ToyJob(str(tmp_path / "job")), []
    work = job.worker("cpu")
    for shard in job.shards():
        work(shard)
    file = tmp_path / "job" / "fragments" / "00007" / "line.txt"
    if damage == "gone":
        file.unlink()
    else:
        file.write_text("50\n" if damage.startswith("other") else "4")
    assert run_job(job, means=Means(say=said.append)) == whole()
    assert len(said) == (1 if damage.startswith("other") else 0), "sizes are compared at once, contents by the commit"


def test_an_entry_of_another_job_or_one_that_was_cut_off_counts_as_not_done(tmp_path):
    job = ToyJob(str(tmp_path / "job"))
    work = job.worker("cpu")
    shards = job.shards()
    for shard in shards:
        work(shard)
    entry = tmp_path / "job" / "done" / "00003.json"
    entry.write_text(entry.read_text()[:20])
    assert [shard.number for shard in job.lacking(shards)] == [3]
    others = [Shard(shard.number, "other", 1) for shard in shards]
    assert len(job.lacking(others)) == 12


def test_a_worker_that_dies_ends_the_job_with_its_code_and_the_rest_is_kept(tmp_path):
    with pytest.raises(BabelclipError, match=r"ended with code -9 at shard 7.*run the same again"):
        run_job(ToyJob(str(tmp_path / "job"), die=7, pause=0.01), means=Means(workers=2))
    job = ToyJob(str(tmp_path / "job"))
    assert 1 < len(job.lacking(job.shards())) <= 7
    assert run_job(job) == whole()


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_worker_refuses_is_told_as_it_said_it(tmp_path, workers):
    with pytest.raises(BabelclipError, match="shard 5 is refused"):
        run_job(ToyJob(str(tmp_path / "job"), refuse=5), means=Means(workers=workers))


def test_one_process_drives_a_job_at_a_time(tmp_path):
    job = ToyJob(str(tmp_path / "job"))
    release = job.lock()
    with pytest.raises(BabelclipError, match=rf"in the hands of process {os.getpid()}.*--launcher rank"):
        run_job(job)
    release()
    assert run_job(job) == whole()


def test_an_unknown_launcher_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(BabelclipError, match=r"--launcher ranks is not known. Did you mean 'rank'"):
        run_job(ToyJob(str(tmp_path / "job")), launcher="ranks")


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_ranks_in_any_order_end_with_one_commit(tmp_path, monkeypatch, order):
    job, said, made = ToyJob(str(tmp_path / "job")), [], []
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in order:
        monkeypatch.setenv("RANK", str(rank))
        made.append(run_job(job, launcher="rank", means=Means(say=said.append)))
    assert made == [None, None, whole()]
    assert said[0] == (
        f"rank {order[0]} of 3: its 4 of 12 shards are done, 8 of other ranks are not; the last rank to end commits "
        "them all."
    )


def test_a_rank_that_finds_another_one_at_the_commit_says_so(tmp_path, monkeypatch):
    job, said = ToyJob(str(tmp_path / "job")), []
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    release = job.lock()
    assert run_job(job, launcher="rank", means=Means(say=said.append)) is None
    assert said == [f"rank 0 of 1: all 12 shards are done, and process {os.getpid()} commits them."]
    release()
    assert run_job(job, launcher="rank") == whole()
