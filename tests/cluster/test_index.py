"""Index jobs: the rows of the plain `index`, in its order and to the bit, whoever made them and whatever was killed."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from babelclip.cluster import index as jobs
from babelclip.cluster.index import index_on
from babelclip.cluster.job import Means
from babelclip.errors import BabelclipError
from babelclip.search.collection import open_collection
from babelclip.search.index import index_pictures
from tests.cluster.pictures import make_model, make_pictures
from tests.cluster.rows import all_rows
from tests.conftest import draw_shape

pytest.importorskip("lance")
pytest.importorskip("lancedb")
COUNT = 72


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(make_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def clip(model):
    import babelclip

    return babelclip.load(model)


@pytest.fixture(scope="module")
def plain(clip, tmp_path_factory) -> tuple[Path, pa.Table]:
    """Pictures, and the rows that the plain index makes of them."""
    folder = tmp_path_factory.mktemp("plain")
    index_pictures(clip, [make_pictures(folder / "pictures", COUNT)], folder / "plain.lance", batch_size=8)
    return folder / "pictures", all_rows(folder / "plain.lance")


@pytest.fixture
def pictures(plain, tmp_path) -> Path:
    """The same pictures, to be changed."""
    return Path(shutil.copytree(plain[0], tmp_path / "pictures"))


def run(model: str, sources: list[Path], url: Path, launcher: str = "local", **settings: Any) -> Any:
    settings = {"shard_rows": 20, "batch_size": 8, **settings}
    return index_on(model, sources, url, launcher=launcher, means=Means(), **settings)


def table_of_pictures(path: Path) -> Path:
    """Two row groups of pictures in Parquet, one of which is broken, with captions."""
    content = []
    for number in range(30):
        file = io.BytesIO()
        draw_shape("red", "circle", 24 + number).save(file, "PNG")
        content.append(file.getvalue() if number != 11 else b"broken")
    names = [f"row {number}" for number in range(30)]
    table = pa.table({"id": names, "image": content, "text": names, "year": list(range(30))})
    pq.write_table(table, path, row_group_size=16)
    return path


def test_rows_are_those_of_the_plain_index_in_its_order(clip, model, pictures, tmp_path):
    (pictures / "00" / "00003.txt").write_text("a caption\n")
    sources = [pictures, table_of_pictures(tmp_path / "t.parquet")]
    plain = index_pictures(clip, sources, tmp_path / "plain.lance", batch_size=8, columns=["year:int"])
    reasons: list[str] = []
    report = run(model, sources, tmp_path / "on.lance", columns=["year:int"], on_skip=reasons.append)
    rows = all_rows(tmp_path / "on.lance")
    assert rows.equals(all_rows(tmp_path / "plain.lance"))
    assert len(rows) == report.rows == plain.rows == COUNT + 30 - 3
    assert (report.added, report.skipped, report.groups) == (plain.added, plain.skipped, plain.groups)
    assert len(reasons) == 3
    assert rows.filter(pa.compute.equal(rows["source"], "t.parquet"))["year"].to_pylist()[10:12] == [10, 12]


def test_second_run_takes_what_is_new_changed_and_gone_as_the_plain_index_does(clip, model, pictures, tmp_path):
    index_pictures(clip, [pictures], tmp_path / "plain.lance", batch_size=8)
    shutil.copytree(tmp_path / "plain.lance", tmp_path / "on.lance")
    folder = pictures / "00"
    draw_shape("blue", "square").save(folder / "zz-new.png")
    changed = folder / "00004.png"
    time = changed.stat().st_mtime_ns + 10**9
    draw_shape("green", "square").save(changed)
    os.utime(changed, ns=(time, time))
    (folder / "00001.txt").write_text("told anew\n")
    (folder / "00002.png").unlink()
    plain = index_pictures(clip, [pictures], tmp_path / "plain.lance", batch_size=8, prune=True)
    report = run(model, [pictures], tmp_path / "on.lance", prune=True)
    for name in ("there", "added", "updated", "told", "unchanged", "gone", "pruned", "rows", "groups"):
        assert getattr(report, name) == getattr(plain, name), name
    assert (report.added, report.updated, report.told, report.pruned) == (1, 1, 1, 1)
    one, other = (all_rows(tmp_path / url).sort_by("id") for url in ("plain.lance", "on.lance"))
    assert one.equals(other)


def test_ranks_do_their_shares_and_the_last_one_commits(plain, model, pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert run(model, [pictures], tmp_path / "on.lance", "rank") is None
    assert open_collection(tmp_path / "on.lance").count() == 0
    monkeypatch.setenv("RANK", "0")
    report = run(model, [pictures], tmp_path / "on.lance", "rank")
    assert report.added == COUNT - 2
    assert all_rows(tmp_path / "on.lance").equals(plain[1])
    monkeypatch.setenv("RANK", "1")  # it comes late, and finds nothing to do
    assert run(model, [pictures], tmp_path / "on.lance", "rank").added == 0


class StoppedError(Exception):
    pass


def stop_after(monkeypatch: pytest.MonkeyPatch, commits: int, *, noted: bool) -> None:
    """Stops a run at a commit, before it or before the note of it, as a kill would."""
    commit, done = jobs.commit_group, []

    def stopping(*args: Any, **kwargs: Any) -> int:
        if len(done) == commits and not noted:
            commit(*args, **kwargs)
        if len(done) == commits:
            raise StoppedError
        done.append(1)
        return commit(*args, **kwargs)

    monkeypatch.setattr(jobs, "commit_group", stopping)


@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.parametrize("commits", [0, 1])
def test_run_that_was_stopped_at_a_commit_ends_with_the_same_rows(
    plain, model, pictures, tmp_path, monkeypatch, commits, noted
):
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        stop_after(patch, commits, noted=noted)
        run(model, [pictures], tmp_path / "on.lance", shard_rows=8)  # 9 shards: groups of 8 and 1
    finished = list((tmp_path / "on.lance" / ".babelclip" / "job" / "done").iterdir())
    draw_shape("blue", "square").save(pictures / "zz.png")  # later than the plan
    report = run(model, [pictures], tmp_path / "on.lance", shard_rows=8)
    assert len(finished) >= 8
    assert report.added == COUNT - 2 + 1
    rows = all_rows(tmp_path / "on.lance")
    assert rows.slice(0, COUNT - 2).equals(plain[1])


def test_fragment_that_was_damaged_since_is_made_again(plain, model, pictures, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        stop_after(patch, 0, noted=True)
        run(model, [pictures], tmp_path / "on.lance")
    file = next((tmp_path / "on.lance" / "pictures.lance" / "data").iterdir())
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    run(model, [pictures], tmp_path / "on.lance")
    assert all_rows(tmp_path / "on.lance").equals(plain[1])


def test_pictures_that_another_command_indexed_meanwhile_come_in_once(clip, model, pictures, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        stop_after(patch, 0, noted=True)
        run(model, [pictures], tmp_path / "on.lance")
    kept = tmp_path / "kept"
    shutil.move(pictures, kept)
    make_pictures(pictures, 30)
    for path in pictures.rglob("*.png"):
        shutil.copystat(kept / path.relative_to(pictures), path)
    index_pictures(clip, [pictures], tmp_path / "on.lance", batch_size=8)
    shutil.rmtree(pictures)
    shutil.move(kept, pictures)
    run(model, [pictures], tmp_path / "on.lance")
    ids = all_rows(tmp_path / "on.lance")["id"].to_pylist()
    assert len(ids) == len(set(ids)) == COUNT - 2


def test_strict_run_names_the_shard_and_goes_on_once_the_picture_is_mended(model, pictures, tmp_path):
    with pytest.raises(BabelclipError, match=r"00007\.png"):
        run(model, [pictures], tmp_path / "on.lance", strict=True)
    for path in ("00/00007.png", "00/00057.png"):
        draw_shape("red", "circle").save(pictures / path)
    assert run(model, [pictures], tmp_path / "on.lance", strict=True).rows == COUNT


def test_collection_that_workers_cannot_write_is_refused(model, pictures):
    with pytest.raises(BabelclipError, match=r"NAME\.lance or s3://bucket/NAME\.lance"):
        run(model, [pictures], "milvus://host:19530/x")
