"""Jobs whose store and folder are in object storage: the objects are the files of one process on a disk."""

import pytest

import babelclip
from babelclip import storage
from babelclip.cluster.embed import embed_on
from babelclip.cluster.job import Ledger, Means, Shard
from babelclip.cluster.place import place_at
from babelclip.data.embed import embed_file
from babelclip.data.embed_images import embed_pictures
from babelclip.errors import BabelclipError
from babelclip.files import LockedError
from babelclip.store import EmbeddingStore, layout
from tests.cluster.test_embed_job import write
from tests.conftest import draw_shape, make_clip
from tests.data.killed_embed import content
from tests.storage.conftest import objects, put_folder, s3, s3_server  # noqa: F401


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_clip().save(folder)
    return str(folder)


def test_ranks_that_share_only_a_bucket_fill_a_store_there(tmp_path, model, s3, monkeypatch):  # noqa: F811
    source, out, said, made = s3("captions/c.jsonl"), s3("runs/targets"), [], []
    storage.upload(write(tmp_path / "c.jsonl"), source)
    embed_file(babelclip.load(model), tmp_path / "c.jsonl", tmp_path / "plain", shard_rows=16)
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in (2, 0, 1):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("BABELCLIP_CACHE", str(tmp_path / f"machine-{rank}"))
        made.append(embed_on("rank", source, out, model=model, means=Means(say=said.append), shard_rows=16))
    assert [done is None for done in made] == [True, True, False]
    assert objects(out) == content(tmp_path / "plain")
    assert set(objects(f"{out}.job")) == {"job.json"}
    assert EmbeddingStore.open(out).ids == EmbeddingStore.open(tmp_path / "plain").ids
    again = embed_on("rank", source, out, model=model, means=Means(say=said.append), shard_rows=16)
    assert (again.report.there, again.report.added) == (90, 0)


def test_a_job_goes_on_where_its_committer_died_between_fragments_and_commit(tmp_path, model, s3, monkeypatch):  # noqa: F811
    source, out = write(tmp_path / "c.jsonl"), s3("targets")
    embed_file(babelclip.load(model), source, tmp_path / "plain", shard_rows=16)
    write_manifest = layout.write_manifest

    def failing(path, facts, shards):
        if shards:
            raise OSError("power")
        write_manifest(path, facts, shards)

    with monkeypatch.context() as patched, pytest.raises(OSError, match="power"):
        patched.setattr(layout, "write_manifest", failing)
        embed_on("local", source, out, model=model, means=Means(), shard_rows=16)
    assert len(EmbeddingStore.open(out)) == 0
    monkeypatch.setenv("BABELCLIP_CACHE", str(tmp_path / "another-machine"))
    embed_on("local", source, out, model=model, means=Means(), shard_rows=16)
    assert objects(out) == content(tmp_path / "plain")
    assert objects(f"{out}.job") == {}


def test_pictures_of_a_bucket_go_to_a_bucket(tmp_path, model, s3):  # noqa: F811
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        draw_shape("red", "circle", size=20 + number).save(folder / f"{number:02d}.png")
    (folder / "05.png").write_bytes(b"no picture")
    embed_pictures(babelclip.load(model), folder, tmp_path / "plain", shard_rows=5)
    put_folder(folder, s3("photos"))
    done = embed_on("local", s3("photos"), s3("p"), model=model, means=Means(), pictures=True, shard_rows=5)
    assert done.report.skipped == 1
    assert objects(s3("p")) == content(tmp_path / "plain")


def test_the_ledger_finds_damage_and_what_is_gone_in_a_bucket(tmp_path, s3):  # noqa: F811
    ledger, shards = Ledger(s3("job")), [Shard(number, f"id-{number}", 1) for number in range(4)]
    assert ledger.lacking(shards) == shards
    for shard in shards:
        with ledger.room() as room:
            (room / "line.txt").write_text(f"line {shard.number}")
            ledger.record(shard, room)
    assert ledger.lacking(shards) == []
    storage.write_bytes(s3("job/fragments/00001/line.txt"), b"line X")
    storage.delete(s3("job/fragments/00002/line.txt"))
    assert [shard.number for shard in ledger.lacking(shards)] == [2]
    with pytest.raises(BabelclipError, match=r"shard 1 .* was forgotten"), ledger.open(shards[1]):
        pass
    assert [shard.number for shard in ledger.lacking(shards)] == [1, 2]
    with ledger.open(shards[0]) as (fragment, folder):
        assert (folder / "line.txt").read_text() == "line 0"
        assert fragment.files["line.txt"]["bytes"] == 6


def test_one_process_of_any_machine_has_the_lock_of_a_job_in_a_bucket(s3):  # noqa: F811
    release = place_at(s3("job")).lock()
    with pytest.raises(LockedError, match="held by process"):
        place_at(s3("job")).lock()
    release()
    place_at(s3("job")).lock()()
