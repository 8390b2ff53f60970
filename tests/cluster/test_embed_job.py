"""A store that many processes fill is the store that one fills, to the byte, whoever dies on the way."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import babelclip
from babelclip.cluster import embed_commit
from babelclip.cluster.embed import embed_on
from babelclip.cluster.embed_captions import CaptionsKind
from babelclip.cluster.embed_job import EmbedJob
from babelclip.cluster.job import Means, run_job
from babelclip.data.captions import Captions, write_captions
from babelclip.data.embed import embed_file
from babelclip.data.embed_images import embed_pictures
from babelclip.errors import BabelclipError
from babelclip.store import EmbeddingStore
from tests.cluster.killed_embed_job import CAPTIONS, DISTINCT, SHARD
from tests.conftest import draw_shape, make_clip
from tests.data.killed_embed import content


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_clip().save(folder)
    return str(folder)


def write(path, count=90, first=0, distinct=40):
    """Captions of which many have equal texts, near and far from each other, in two languages."""
    rows = range(first, first + count)
    texts = [f"a dog {row * 7 % distinct} " + "two " * (row * 7 % distinct % 6) for row in rows]
    langs = ["en" if row % 3 else "sv" for row in rows]
    write_captions(Captions.from_columns(text=texts, lang=langs, id=[f"c{row}" for row in rows]), path)
    return path


@pytest.mark.parametrize(
    "settings", [{}, {"dtype": "float32", "normalize": True, "shard_rows": 64}, {"target": "pooled", "lang": "en"}]
)
def test_captions_become_the_same_files_by_a_job_as_without(tmp_path, model, settings):
    source = write(tmp_path / "c.jsonl")
    settings = {"shard_rows": 16, **settings}
    reports = []
    embed_file(babelclip.load(model), source, tmp_path / "plain", report=reports.append, **settings)
    done = embed_on("local", source, tmp_path / "job", model=model, means=Means(), **settings)
    assert content(tmp_path / "job") == content(tmp_path / "plain")
    assert len(content(tmp_path / "job")) == 1 + 2 * -(-90 // settings["shard_rows"])
    one, other = (json.loads(json.dumps(vars(report) | {"seconds": 0})) for report in (done.report, reports[0]))
    assert one == other
    assert not (tmp_path / "job.job").exists()
    assert EmbeddingStore.open(tmp_path / "job").verify() == []


def test_a_job_goes_on_behind_what_the_store_has_with_the_same_bytes_as_one_process(tmp_path, model):
    first, second = write(tmp_path / "a.jsonl", 50), write(tmp_path / "b.jsonl", 130)
    clip = babelclip.load(model)
    for name in ("plain", "job"):
        embed_file(clip, first, tmp_path / name, shard_rows=16)
    embed_file(clip, second, tmp_path / "plain", shard_rows=16)
    done = embed_on("local", second, tmp_path / "job", model=model, means=Means(), shard_rows=16)
    assert content(tmp_path / "job") == content(tmp_path / "plain")
    assert (done.report.there, done.report.added, done.report.encoded) == (50, 80, 0)
    again = embed_on("local", second, tmp_path / "job", model=model, means=Means(), shard_rows=16)
    assert (again.report.there, again.report.added) == (130, 0)
    assert content(tmp_path / "job") == content(tmp_path / "plain")


def test_pictures_become_the_same_files_also_where_some_or_a_whole_block_cannot_be_read(tmp_path, model):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(33):
        path = folder / f"{number:02d}.png"
        draw_shape(("red", "green", "blue")[number % 3], "circle", size=20 + number).save(path)
        if number % 7 == 3 or 10 <= number < 15:
            path.write_bytes(path.read_bytes()[:40])
    reports = []
    embed_pictures(babelclip.load(model), folder, tmp_path / "plain", shard_rows=5, report=reports.append)
    job = {"model": model, "means": Means(), "pictures": True, "shard_rows": 5}
    done = embed_on("local", folder, tmp_path / "job", **job)
    assert content(tmp_path / "job") == content(tmp_path / "plain")
    names = ("there", "added", "skipped", "without_picture", "lossy")
    assert [getattr(done.report, name) for name in names] == [getattr(reports[0], name) for name in names]
    assert len(done.skipped) == reports[0].skipped == 9
    draw_shape("red", "square").save(folder / "12.png")
    for name in ("plain", "job"):
        if name == "plain":
            embed_pictures(babelclip.load(model), folder, tmp_path / name, shard_rows=5)
        else:
            embed_on("local", folder, tmp_path / name, **job)
    assert EmbeddingStore.open(tmp_path / "job").ids[-1] == "12.png"
    assert content(tmp_path / "job") == content(tmp_path / "plain")


def test_pictures_that_captions_name_again_and_again_are_in_one_block(tmp_path, model):
    names = [f"p{number % 9}.png" for number in range(40)] + [None, "q.png"]
    for name in {name for name in names if name}:
        draw_shape("green", "square", size=30 + ord(name[1]) % 10).save(tmp_path / name)
    write_captions(Captions.from_columns(text=["a dog"] * 42, lang="en", image=names), tmp_path / "c.jsonl")
    embed_pictures(babelclip.load(model), tmp_path / "c.jsonl", tmp_path / "plain", shard_rows=4)
    done = embed_on(
        "local", tmp_path / "c.jsonl", tmp_path / "job", model=model, means=Means(), pictures=True, shard_rows=4
    )
    assert content(tmp_path / "job") == content(tmp_path / "plain")
    assert (done.report.added, done.report.without_picture) == (10, 1)


def test_nothing_readable_is_the_same_error(tmp_path, model):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"no picture")
    with pytest.raises(BabelclipError, match=r"None of the 1 pictures of .*a\.png"):
        embed_on("local", tmp_path / "photos", tmp_path / "job", model=model, means=Means(), pictures=True)


def job_of(tmp_path, model, **settings):
    kind = CaptionsKind(str(write(tmp_path / "c.jsonl")), model, shard_rows=16, **settings)
    return EmbedJob(str(tmp_path / "job"), kind)


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_a_shard_is_the_same_bytes_with_any_number_of_threads(tmp_path, model, lanes):
    job, before = job_of(tmp_path, model, dtype="float32"), torch.get_num_threads()
    shard = job.shards()[2]
    try:
        torch.set_num_threads(1)
        first = job.worker("cpu", 1)(shard)
        job._ledger.forget(shard)
        torch.set_num_threads(lanes)
        assert job.worker("cpu", lanes)(shard) == first
        assert torch.get_num_threads() == lanes
    finally:
        torch.set_num_threads(before)


def test_a_damaged_fragment_is_made_again(tmp_path, model):
    job, said = job_of(tmp_path, model), []
    work = job.worker("cpu") if job.shards() else None
    for shard in job.shards():
        work(shard)
    file = tmp_path / "job.job" / "fragments" / "00001" / "vectors.npy"
    content_before = bytearray(file.read_bytes())
    content_before[-1] ^= 1
    file.write_bytes(content_before)
    run_job(job, means=Means(say=said.append))
    assert len(said) == 1
    assert "shard 1" in said[0]
    embed_file(babelclip.load(model), tmp_path / "c.jsonl", tmp_path / "plain", shard_rows=16)
    assert content(tmp_path / "job") == content(tmp_path / "plain")


def test_a_job_that_was_begun_otherwise_is_refused_with_what_differs(tmp_path, model):
    job_of(tmp_path, model).shards()
    with pytest.raises(BabelclipError, match=r"shard_rows was 16, and is 20.*remove .*job\.job"):
        embed_on("local", tmp_path / "c.jsonl", tmp_path / "job", model=model, means=Means(), shard_rows=20)
    write(tmp_path / "c.jsonl", 95)
    with pytest.raises(BabelclipError, match=r"source\.sha256 was"):
        embed_on("local", tmp_path / "c.jsonl", tmp_path / "job", model=model, means=Means(), shard_rows=16)


def test_a_store_that_another_command_wrote_to_meanwhile_is_found_out(tmp_path, model):
    job = job_of(tmp_path, model)
    job.shards()
    embed_file(babelclip.load(model), write(tmp_path / "other.jsonl", 5, 1000), tmp_path / "job")
    with pytest.raises(BabelclipError, match="another command has written to it"):
        run_job(job)


def test_ids_that_come_twice_are_refused_while_the_plan_is_made(tmp_path, model):
    captions = Captions.from_columns(text=["a", "b"], lang="en", id=["x", "y"])
    (tmp_path / "parts").mkdir()
    for number in range(2):
        write_captions(captions, tmp_path / "parts" / f"part-{number}.parquet")
    with pytest.raises(BabelclipError, match=r"2 ids occur more than once"):
        embed_on("local", tmp_path / "parts", tmp_path / "job", model=model, means=Means(), shard_rows=2)


def test_vectors_of_earlier_shards_are_taken_as_they_lie_there(tmp_path, model, monkeypatch):
    job = job_of(tmp_path, model)
    monkeypatch.setattr(embed_commit, "_with_earlier", called := Called(embed_commit._with_earlier))
    run_job(job)
    assert called.count > 0
    store = EmbeddingStore.open(tmp_path / "job")
    rows = store.rows.to_pylist()
    first = {row["text_hash"]: place for place, row in reversed(list(enumerate(rows)))}
    repeats = [place for place, row in enumerate(rows) if row["repeat"]]
    assert len(repeats) == 50
    places = [first[rows[place]["text_hash"]] for place in repeats]
    assert np.array_equal(store.gather(repeats), store.gather(places))


class Called:
    """Counts calls of a function."""

    def __init__(self, function):
        self.function, self.count = function, 0

    def __call__(self, *given):
        self.count += 1
        return self.function(*given)


@pytest.mark.slow
def test_ranks_kills_of_ranks_and_kills_in_the_commit_end_with_the_same_bytes(tmp_path):
    command = [sys.executable, "-m", "tests.cluster.killed_embed_job", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["files"] == 1 + 2 * CAPTIONS // SHARD
    ranks = found["ranks"]
    assert (ranks["ends"], ranks["equal"], ranks["commits"]) == ([0] * 5, True, 1)
    assert ranks["encoded"] == DISTINCT
    assert ranks["left"] == ["job.json"]
    dead = found["dead_rank"]
    assert (dead["ends"], dead["equal"], dead["rows_before"]) == ([0, 0, 9, 0, 0], True, 0)
    assert DISTINCT <= dead["encoded"] <= DISTINCT + SHARD
    for case in found["dead_committer"]:
        assert (case["ends"], case["equal"]) == ([9, 0], True)
        assert 0 < case["rows"] < CAPTIONS
        assert case["encoded"] == DISTINCT, "what lay there before the kill was made again"
    assert (found["random"]["last"], found["random"]["equal"], found["random"]["left"]) == (0, True, False)
