"""Translations whose folder is in object storage, by processes that share nothing else: the files of one process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from babelclip import storage
from babelclip.cluster import translate_place
from babelclip.cluster.job import Means, run_job
from babelclip.cluster.translate import TranslateJob, translate_on
from babelclip.data.captions import Captions, write_captions
from babelclip.data.sources import read_all
from babelclip.errors import BabelclipError
from babelclip.translate import folder
from babelclip.translate.choices import EngineChoice
from babelclip.translate.pipeline import asked_for, translate_captions
from tests.cluster.test_translate_job import SETTINGS, as_rank
from tests.storage.conftest import babelclip, objects, s3, s3_server  # noqa: F401
from tests.translate import fake
from tests.translate.test_pipeline import content, make_source

RANKS = ((2, 0, 1), 3)


def by_ranks(monkeypatch, tmp_path, source, out, said=None, **settings):
    """What each of three machines, none of which has the cache of another, is told."""
    made = []
    for rank in RANKS[0]:
        as_rank(monkeypatch, rank, RANKS[1])
        monkeypatch.setenv("BABELCLIP_CACHE", str(tmp_path / f"machine-{rank}"))
        means = Means(say=(said if said is not None else []).append)
        made.append(translate_on("rank", source, out, means=means, **{**SETTINGS, **settings}))
    return made


def test_ranks_that_share_only_a_bucket_make_the_files_of_one_process(tmp_path, monkeypatch, s3):  # noqa: F811
    source, said = make_source(tmp_path), []
    translate_captions(source, tmp_path / "plain", **SETTINGS)
    made = by_ranks(monkeypatch, tmp_path, source, s3("runs/out"), said)
    assert [report is not None for report in made] == [False, False, True]
    assert len(said) == 2
    assert objects(s3("runs/out")) == content(tmp_path / "plain")
    assert made[2].kept == len(read_all(s3("runs/out")))
    assert storage.url_of(made[2].out) == s3("runs/out")
    # Another machine, later: nothing is left to do.
    as_rank(monkeypatch, 1, 3)
    monkeypatch.setenv("BABELCLIP_CACHE", str(tmp_path / "late"))
    monkeypatch.setattr(translate_place.Jobs, "do", None)
    assert translate_on("rank", source, s3("runs/out"), means=Means(), **SETTINGS).kept == made[2].kept


def test_a_source_in_the_bucket_is_read_once_and_told_by_its_address(tmp_path, monkeypatch, s3):  # noqa: F811
    source = make_source(tmp_path)
    translate_captions(source, tmp_path / "plain", **SETTINGS)
    storage.upload(source, s3("captions.jsonl"))
    by_ranks(monkeypatch, tmp_path, s3("captions.jsonl"), s3("out"))
    there, plain = objects(s3("out")), content(tmp_path / "plain")
    told = {"manifest.json", "report.json", "report.md"}
    assert there.keys() == plain.keys()
    assert {name: there[name] for name in there if name not in told} == {n: plain[n] for n in plain if n not in told}
    assert json.loads(there["manifest.json"])["source"]["name"] == s3("captions.jsonl")
    assert not any(str(tmp_path).encode() in there[name] for name in told)


def test_what_the_local_launcher_began_is_gone_on_with(tmp_path, monkeypatch, s3):  # noqa: F811
    source = make_source(tmp_path)
    translate_captions(source, tmp_path / "plain", **SETTINGS)
    failing = {**SETTINGS, "engine": EngineChoice("fake", opener=lambda device: fake.Failing())}
    with pytest.raises(BabelclipError, match="no more of it"), storage.output(s3("out")) as out:
        translate_captions(source, out, **failing)
    begun = {name for name in objects(s3("out")) if name.startswith("shards/")}
    assert len(begun) == 4
    log = tmp_path / "asked"
    monkeypatch.setenv("FAKE_LOG", str(log))
    by_ranks(monkeypatch, tmp_path, source, s3("out"))
    assert {line.split("\t")[0] for line in log.read_text().splitlines()} == {"de", "fr"}
    found = objects(s3("out"))
    assert {name: found[name] for name in found if name != "timings.jsonl"} == content(tmp_path / "plain")


def test_a_worker_that_died_before_the_record_and_files_that_are_gone_are_made_again(tmp_path, monkeypatch, s3):  # noqa: F811
    source = make_source(tmp_path)
    translate_captions(source, tmp_path / "plain", **SETTINGS)
    job = TranslateJob(asked_for(source, s3("out"), **SETTINGS), s3("out"))
    shards, work = job.shards(), job.worker("cpu")
    with monkeypatch.context() as patched, pytest.raises(OSError, match="power"):
        patched.setattr(folder, "write_shard", lambda out, shard: (_ for _ in ()).throw(OSError("power")))
        work(shards[0])
    assert job.lacking(shards) == shards
    for shard in shards[:3]:
        work(shard)
    assert job.lacking(shards) == list(shards[3:])
    storage.delete(s3("out/translations/sv/00001.parquet"))
    storage.write_bytes(s3("out/shards/sv/00002.json"), b'{"half":')
    assert [shard.number for shard in job.lacking(shards)][:2] == [1, 2]
    run_job(job)
    assert objects(s3("out")) == content(tmp_path / "plain")


def test_files_without_a_row_do_not_stay_from_an_earlier_try(tmp_path, s3):  # noqa: F811
    captions = Captions.from_columns(text=["none of it", "none at all"], lang="en", id=["a", "b"])
    write_captions(captions, tmp_path / "c.jsonl")
    settings = {**SETTINGS, "to": ["sv"], "keep_english": 0.0}
    translate_captions(tmp_path / "c.jsonl", tmp_path / "plain", **settings)
    storage.write_bytes(s3("out/translations/sv/00000.parquet"), b"of a try before")
    translate_on("local", tmp_path / "c.jsonl", s3("out"), means=Means(), **settings)
    assert objects(s3("out")) == content(tmp_path / "plain")
    assert not any(name.startswith("translations/") for name in objects(s3("out")))


def test_what_cannot_be_gone_on_with_is_told_by_its_address(tmp_path, s3):  # noqa: F811
    source = make_source(tmp_path)
    storage.write_bytes(s3("other/photo.png"), b"x")
    with pytest.raises(BabelclipError, match=rf"{s3('other')} holds photo\.png and no translations.*choose another"):
        translate_on("local", source, s3("other"), means=Means(), **SETTINGS)
    with pytest.raises(BabelclipError, match=r"other/photo\.png is an object, and a folder is to be written"):
        translate_on("local", source, s3("other/photo.png"), means=Means(), **SETTINGS)
    translate_on("local", source, s3("out"), means=Means(), **SETTINGS)
    with pytest.raises(BabelclipError, match=rf"{s3('out')} was begun otherwise: rows was 15, and is 20"):
        translate_on("local", source, s3("out"), means=Means(), **{**SETTINGS, "rows": 20})
    with pytest.raises(BabelclipError, match="does not translate into nb"):
        translate_on("local", source, s3("new"), means=Means(), **{**SETTINGS, "to": ["nb"]})
    assert objects(s3("new")) == {}


@pytest.fixture
def words(tmp_path, s3):  # noqa: F811
    """A command that reads captions and dictionary from a bucket, all but its output."""
    rows = [(f"t{row}", f"a dog {row}", "en", None) for row in range(9)]
    rows += [(f"t{row}-de", f"ein Hund {row}", "de", f"t{row}") for row in range(9)]
    columns = dict(zip(("id", "text", "lang", "source_id"), map(list, zip(*rows, strict=True)), strict=True))
    write_captions(Captions.from_columns(**columns), tmp_path / "d.jsonl")
    storage.upload(tmp_path / "d.jsonl", s3("d.jsonl"))
    words = ["translate", s3("d.jsonl"), "--to", "de", "--engine", "dictionary", "--dictionary", s3("d.jsonl")]
    return [*words, "--no-filter", "all", "--rows", 4, "--keep-english", 0.2]


def test_the_command_takes_a_bucket_at_both_ends_and_for_the_dictionary(tmp_path, monkeypatch, s3, words):  # noqa: F811
    done = babelclip(*words, "--out", s3("plain"))
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        as_rank(monkeypatch, rank, 2)
        monkeypatch.setenv("BABELCLIP_CACHE", str(tmp_path / f"machine-{rank}"))
        ranked = babelclip(*words, "--out", s3("ranks"), "--launcher", "rank")
        assert ranked.returncode == 0, ranked.stderr
    assert ranked.stdout == done.stdout.replace("/plain", "/ranks")
    assert f"next: babelclip embed {s3('ranks')} " in ranked.stdout
    plain = objects(s3("plain"))
    assert objects(s3("ranks")) == {name: plain[name] for name in plain if name != "timings.jsonl"}
    assert b"/machine-" not in plain["manifest.json"] + objects(s3("ranks"))["manifest.json"]


@pytest.mark.cluster
def test_workers_of_ray_write_to_a_bucket_themselves(tmp_path, s3, words):  # noqa: F811
    pytest.importorskip("ray")
    assert babelclip(*words, "--out", s3("plain")).returncode == 0
    command = [sys.executable, "-m", "babelclip", *map(str, words), "--out", s3("on-ray")]
    done = subprocess.run(
        [*command, "--launcher", "ray", "--workers", "2"], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Ray: 1 node, 2 workers of 1 processor each" in done.stderr
    assert "raylet" not in done.stdout + done.stderr
    plain = objects(s3("plain"))
    assert objects(s3("on-ray")) == {name: plain[name] for name in plain if name != "timings.jsonl"}
