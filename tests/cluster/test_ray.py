"""The launcher `ray`: what a cluster has room for, what becomes of deaths and errors, decoding on other machines."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from babelclip.cluster.job import Fragment, Ledger, Means, Shard, run_job
from babelclip.cluster.ray import Room, room_of
from babelclip.errors import BabelclipError
from tests.conftest import make_image_encoder

ray = pytest.importorskip("ray")


def test_workers_are_one_a_gpu_or_one_a_processor():
    nodes = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 16.0}, {"memory": 1.0}]
    assert room_of(nodes, Means(workers=0, devices=("cpu",))) == Room(24, False, 1)
    assert room_of(nodes, Means(workers=0, devices=("cuda:0",))) == Room(2, True, 1)
    assert room_of(nodes, Means(workers=0, devices=())) == Room(2, True, 1)
    assert room_of(nodes[1:], Means(workers=0, devices=())) == Room(16, False, 1)


def test_fewer_workers_than_processors_get_several_each_that_fit_the_smallest_node():
    nodes = [{"CPU": 8.0}, {"CPU": 16.0}]
    assert room_of(nodes, Means(workers=4)) == Room(4, False, 4)
    assert room_of(nodes, Means(workers=1)) == Room(1, False, 8)
    assert room_of(nodes, Means(workers=100)) == Room(100, False, 1)


def test_gpu_that_no_node_has_is_an_error():
    with pytest.raises(BabelclipError, match="2 nodes has no GPU"):
        room_of([{"CPU": 8.0}, {"CPU": 8.0}], Means(devices=("cuda:0",)))


def test_without_devices_the_cluster_says_what_workers_have_and_not_the_drivers_machine(monkeypatch):
    from babelclip.cluster import ray as launcher
    from babelclip.cluster.embed import means_of
    from babelclip.cluster.job import equipped

    class Cluster:
        resources: ClassVar[dict[str, float]] = {"CPU": 4.0, "GPU": 1.0}

        def nodes(self) -> list[dict[str, Any]]:
            return [{"Alive": True, "Resources": self.resources}, {"Alive": False, "Resources": {"GPU": 9.0}}]

    monkeypatch.setattr(launcher, "_cluster", lambda means: contextlib.nullcontext(Cluster()))
    asked = means_of("ray", (), 0, "10.0.0.11:6379")
    assert asked.devices == ()
    with equipped("ray", asked) as means:
        assert means == dataclasses.replace(asked, devices=("cuda",))
    monkeypatch.setattr(Cluster, "resources", {"CPU": 4.0})
    with equipped("ray", asked) as means:
        assert means.devices == ("cpu",)
    with equipped("ray", means_of("ray", ("cuda:0",), 0, "")) as means:
        assert means.devices == ("cuda:0",)
    assert means_of("local", (), 0, "").devices != ()


@dataclasses.dataclass
class Numbers:
    """A job whose shards are numbers; at one of them a worker dies, once or always, or raises."""

    folder: str
    dies: int = -1
    always: bool = False
    raises: int = -1
    what: str = "Numbers"
    unit: str = "numbers"
    group: int = 2
    done: list[int] = dataclasses.field(default_factory=list)

    def shards(self) -> list[Shard]:
        return [Shard(number, f"id{number}", 1, str(number)) for number in range(5)]

    def lacking(self, shards: list[Shard]) -> list[Shard]:
        return Ledger(self.folder).lacking(shards[len(self.done) :])

    def committed(self) -> int:
        return len(self.done)

    def worker(self, device: str, lanes: int = 1, decoders: Any = None) -> Any:
        ledger, tries = Ledger(self.folder), Path(self.folder)

        def work(shard: Shard) -> Fragment:
            with (tries / f"tries-{shard.number}").open("a") as file:
                file.write(f"{os.getpid()}\n")
            again = len((tries / f"tries-{shard.number}").read_text().split()) > 1
            if shard.number == self.dies and (self.always or not again):
                os.kill(os.getpid(), signal.SIGKILL)
            if shard.number == self.raises:
                raise BabelclipError("picture x.png is bad. Mend it")
            return ledger.record(shard, None, {"device": device, "lanes": lanes})

        return work

    def commit(self, shards: list[Shard]) -> None:
        self.done += [shard.number for shard in shards]

    def finish(self) -> list[int]:
        return self.done

    def lock(self) -> Any:
        return lambda: None


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster of this process, which the launcher finds and leaves running."""
    from babelclip.cluster.ray_cluster import joined

    with joined("", 2, 0):
        yield
    assert not ray.is_initialized()


def tries(job: Numbers, number: int) -> list[str]:
    return (Path(job.folder) / f"tries-{number}").read_text().split()


@pytest.mark.cluster
def test_address_at_which_no_cluster_answers_is_an_error():
    from babelclip.cluster.ray_cluster import joined

    assert not ray.is_initialized(), "it comes before those that share a cluster"
    with pytest.raises(BabelclipError, match="ray start --head"), joined("127.0.0.1:1", 1, 0):
        pass


@pytest.mark.cluster
def test_shard_whose_worker_died_is_done_again_by_a_new_one_and_ray_keeps_that_to_itself(cluster, tmp_path, capfd):
    job = Numbers(str(tmp_path), dies=3)
    assert run_job(job, launcher="ray", means=Means(workers=2)) == [0, 1, 2, 3, 4]
    time.sleep(1.0)  # what its processes report comes by a thread
    assert "".join(capfd.readouterr()) == ""
    assert len(set(tries(job, 3))) == 2
    assert [len(tries(job, number)) for number in (0, 1, 2, 4)] == [1, 1, 1, 1]
    assert ray.is_initialized()


@pytest.mark.cluster
def test_shard_at_which_every_worker_dies_ends_the_job_with_its_number(cluster, tmp_path):
    job = Numbers(str(tmp_path), dies=3, always=True)
    with pytest.raises(BabelclipError, match=r"Shard 3 \(1 rows\) .* its worker died 4 times"):
        run_job(job, launcher="ray", means=Means(workers=2))
    assert len(tries(job, 3)) == 4


@pytest.mark.cluster
def test_error_of_a_worker_names_shard_and_cause_and_keeps_what_is_finished(cluster, tmp_path):
    job = Numbers(str(tmp_path), raises=4)
    with pytest.raises(BabelclipError, match=r"Shard 4 .*: picture x\.png is bad\. Mend it"):
        run_job(job, launcher="ray", means=Means(workers=1))
    assert job.done == [0, 1, 2, 3]
    assert run_job(dataclasses.replace(job, raises=-1, done=[]), launcher="ray", means=Means(workers=1)) is not None
    assert len(tries(job, 0)) == 1


@pytest.mark.cluster
def test_decoders_of_the_cluster_give_the_vectors_of_threads_and_the_same_reasons(cluster, picture_folder):
    from babelclip.cluster.ray_decoders import RayDecoders

    tower, paths = make_image_encoder(), sorted(picture_folder.rglob("*.*g"))
    here, skipped = tower.encode_readable(paths, batch_size=4)
    there, skipped_there = tower.encode_readable(paths, batch_size=4, pool=RayDecoders())
    assert np.array_equal(here, there)
    assert skipped == skipped_there
    assert [Path(item.name).name for item in skipped] == ["broken.jpg"]


@pytest.mark.cluster
def test_index_that_all_workers_build_is_measured_and_searched_as_one(cluster, tmp_path):
    from babelclip.cluster import index
    from babelclip.search.collection import open_collection
    from tests.cluster.pictures import make_model, make_pictures
    from tests.cluster.rows import all_rows

    pytest.importorskip("lance_ray")
    model, pictures = make_model(tmp_path / "model"), make_pictures(tmp_path / "pictures", 400)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "INDEXED_BY_ALL_FROM", 300)
        report = index.index_on(
            str(model), [pictures], tmp_path / "p.lance", launcher="ray", means=Means(workers=2), shard_rows=64
        )
    assert report is not None
    assert report.index is not None
    assert (report.index.kind, report.index.bits, report.index.rows) == ("ivf_rq", 1, 392)
    collection = open_collection(tmp_path / "p.lance")
    assert collection.stats().index == "ivf_rq"
    assert collection.stats().unindexed == 0
    rows = all_rows(tmp_path / "p.lance")
    vectors = np.stack(rows["vector"].to_pylist()[:5]).astype(np.float32)
    found = collection.search(vectors, 1)
    assert np.allclose(found["score"].to_pylist(), 1.0, atol=1e-5)
