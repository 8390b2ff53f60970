"""Translations by ranks, in any order and through a kill, are the files of one process."""

import json
import os
import signal
import time

import pytest

from babelclip.cluster.job import Means, run_job
from babelclip.cluster.translate import TranslateJob, translate_on
from babelclip.errors import BabelclipError
from babelclip.translate.choices import EngineChoice
from babelclip.translate.pipeline import asked_for, translate_captions
from tests.train.killed_run import ended, forked
from tests.translate.fake import FAKE, open_slow
from tests.translate.test_pipeline import content, make_source

SETTINGS = {"to": ["sv", "de", "fr"], "engine": FAKE, "rows": 15, "batch_size": 5, "plan": "all"}


def as_rank(monkeypatch, rank, world):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_ranks_in_any_order_write_what_one_process_writes(tmp_path, monkeypatch, order):
    source, said, made = make_source(tmp_path), [], []
    translate_captions(source, tmp_path / "plain", **SETTINGS)
    for rank in order:
        as_rank(monkeypatch, rank, 3)
        made.append(translate_on("rank", source, tmp_path / "ranks", means=Means(say=said.append), **SETTINGS))
    assert [report is not None for report in made] == [False, False, True]
    assert len(said) == 2
    assert content(tmp_path / "ranks") == content(tmp_path / "plain")
    timings = (tmp_path / "ranks" / "timings.jsonl").read_text().splitlines()
    assert len(timings) == len(list((tmp_path / "plain" / "shards").glob("*/*.json")))


def test_a_rank_that_was_killed_is_run_again_and_the_end_is_the_same(tmp_path, monkeypatch):
    source = make_source(tmp_path)
    translate_captions(source, tmp_path / "plain", **SETTINGS)
    slow = {**SETTINGS, "engine": EngineChoice("fake", opener=open_slow)}
    out = tmp_path / "ranks"

    def work(rank, settings):
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
        translate_on("rank", source, out, means=Means(), **settings)

    children = [forked(lambda rank=rank: work(rank, slow)) for rank in range(2)]
    while not list(out.glob("shards/*/*.json")):
        time.sleep(0.002)
    os.kill(children[0], signal.SIGKILL)
    assert [ended(child) for child in children] == [9, 0]
    assert json.loads((out / "manifest.json").read_text())["complete"] is False
    as_rank(monkeypatch, 0, 2)
    assert translate_on("rank", source, out, means=Means(), **slow) is not None
    assert content(out) == content(tmp_path / "plain")


def test_the_job_is_refused_where_the_folder_was_begun_otherwise(tmp_path):
    source = make_source(tmp_path)
    translate_on("local", source, tmp_path / "out", means=Means(), **SETTINGS)
    with pytest.raises(BabelclipError, match="rows was 15, and is 20"):
        translate_on("local", source, tmp_path / "out", means=Means(), **{**SETTINGS, "rows": 20})


def test_one_language_comes_from_one_model(tmp_path):
    source = make_source(tmp_path)
    job = TranslateJob(asked_for(source, tmp_path / "out", **SETTINGS), str(tmp_path / "out"))
    work = job.worker("cpu")
    shards = job.shards()
    for shard in shards:
        work(shard)
    record = tmp_path / "out" / "shards" / "sv" / "00001.json"
    record.write_text(record.read_text().replace("fake-1-sv", "fake-2-sv"))
    with pytest.raises(BabelclipError, match="sv was translated by fake-1-sv in one worker and by fake-2-sv"):
        run_job(job)
