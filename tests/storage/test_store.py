"""`EmbeddingStore` on a real S3 server (moto): the same bytes as on disk, fetched by shard, kills and two writers."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from babelclip import storage
from babelclip.errors import BabelclipError
from babelclip.storage.shadows import is_waiting
from babelclip.store import EmbeddingStore
from babelclip.store.merge import merge_stores
from babelclip.store.verify import verify_store
from tests.storage.conftest import files, objects

FACTS = {"space": "s", "model": "m", "dim": 8, "normalized": False}


def vectors(start: int, count: int) -> np.ndarray:
    return np.random.default_rng(start).standard_normal((count, 8)).astype(np.float32)


def write(path, shards=3):
    with EmbeddingStore.open_or_create(path, **FACTS) as store:
        for number in range(len(store) // 10, shards):
            ids = [f"{number}-{row}" for row in range(10)]
            store.append(ids, vectors(number, 10), {"lang": ["sv"] * 10})
    return store


def test_a_store_is_the_same_to_the_byte_as_on_disk_and_shards_are_there_once_they_are_full(s3, tmp_path):
    write(tmp_path / "local")
    with EmbeddingStore.open_or_create(s3("targets"), **FACTS) as store:
        store.append([f"0-{row}" for row in range(10)], vectors(0, 10), {"lang": ["sv"] * 10})
        reader = EmbeddingStore.open(s3("targets"))
        assert len(reader) == 10
    write(s3("targets"))
    assert objects(s3("targets")) == files(tmp_path / "local")
    np.testing.assert_array_equal(
        EmbeddingStore.open(s3("targets")).read(), EmbeddingStore.open(tmp_path / "local").read()
    )


def test_only_the_shards_that_are_asked_for_are_fetched(s3):
    write(s3("targets"))
    store = EmbeddingStore.open(s3("targets"))
    assert repr(store).startswith(f"EmbeddingStore('{s3('targets')}', 30 x 8")
    place = store.path / "vectors"
    assert [is_waiting(place / f"{n:05d}.npy") for n in range(3)] == [True, True, True]
    np.testing.assert_array_equal(store.gather([12]), vectors(1, 10)[2:3].astype(np.float16))
    assert [is_waiting(place / f"{n:05d}.npy") for n in range(3)] == [True, False, True]
    assert store.positions(["2-3"]).tolist() == [23]
    copied = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(copied.gather([29]), store.gather([29]))
    assert verify_store(s3("targets")) == []


def test_a_shard_that_was_changed_is_refused(s3):
    write(s3("targets"))
    content = bytearray(storage.read_bytes(s3("targets/vectors/00001.npy")))
    content[-1] ^= 1
    storage.write_bytes(s3("targets/vectors/00001.npy"), bytes(content))
    store = EmbeddingStore.open(s3("targets"))
    store.gather([0])
    with pytest.raises(BabelclipError, match=r"targets/vectors/00001.npy has not the SHA-256 that manifest.json says"):
        store.gather([15])
    assert [problem for problem in verify_store(s3("targets")) if "00001.npy" in problem]
    storage.delete(s3("targets/rows/00002.parquet"))
    with pytest.raises(BabelclipError, match=r"00002\.parquet is missing"):
        EmbeddingStore.open(s3("targets"))


def test_a_second_writer_is_refused_until_the_first_closes(s3):
    with EmbeddingStore.create(s3("targets"), **FACTS):
        with pytest.raises(BabelclipError, match=rf"written by process {os.getpid()} of .*one writer at a time"):
            EmbeddingStore.open_or_create(s3("targets"), **FACTS)
    write(s3("targets"))


def test_creating_refuses_what_is_there_and_overwriting_leaves_nothing_of_it(s3):
    write(s3("targets"))
    with pytest.raises(BabelclipError, match="already holds an embedding store"):
        EmbeddingStore.create(s3("targets"), **FACTS)
    with EmbeddingStore.create(s3("targets"), **FACTS, overwrite=True):
        assert list(objects(s3("targets"))) == ["manifest.json"]
    storage.write_bytes(s3("other/x.json"), b"{}")
    with pytest.raises(BabelclipError, match="holds other things"):
        EmbeddingStore.create(s3("other"), **FACTS)
    write(s3("targets"))


def test_a_writer_that_is_killed_at_any_time_loses_no_shard_that_it_told_of(s3, tmp_path):
    write(tmp_path / "local", shards=4)
    code = f"""
import sys
sys.path.insert(0, {str(os.getcwd())!r})
from tests.storage.test_store import EmbeddingStore, FACTS, vectors
with EmbeddingStore.open_or_create({s3("targets")!r}, **FACTS) as store:
    for number in range(len(store) // 10, 4):
        store.append([f"{{number}}-{{row}}" for row in range(10)], vectors(number, 10), {{"lang": ["sv"] * 10}})
        print(number, flush=True)
"""
    told, kills = -1, 0
    while told < 3:
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for line in writer.stdout:
                assert int(line) > told
                told = int(line)
                if kills < 1 and told == 1:
                    time.sleep(0.01)
                    writer.send_signal(signal.SIGKILL)
                    kills += 1
                    break
        if told >= 0:
            assert len(EmbeddingStore.open(s3("targets"))) >= 10 * (told + 1)
    assert kills == 1
    assert objects(s3("targets")) == files(tmp_path / "local")


def test_a_run_on_another_machine_goes_on_without_fetching_the_vectors(s3, tmp_path, monkeypatch):
    write(s3("targets"), shards=2)
    monkeypatch.setenv("BABELCLIP_CACHE", str(tmp_path / "another machine"))
    store = write(s3("targets"), shards=3)
    assert is_waiting(store.path / "vectors" / "00000.npy")
    write(tmp_path / "local")
    assert objects(s3("targets")) == files(tmp_path / "local")


def test_a_file_of_the_cache_that_another_machine_named_is_fetched_by_its_name_alone(s3, tmp_path):
    write(s3("targets"))
    name = storage.shadow(s3("targets")) / "vectors" / "00001.npy"
    shutil.rmtree(tmp_path / "cache")
    assert storage.present(name).read_bytes() == storage.read_bytes(s3("targets/vectors/00001.npy"))


def test_stores_on_s3_are_merged(s3, tmp_path):
    write(s3("targets"))
    merged = merge_stores([s3("targets")], tmp_path / "merged")
    assert len(merged) == 30
    with storage.output(s3("merged")) as out:
        merge_stores([s3("targets")], out)
    assert len(EmbeddingStore.open(s3("merged"))) == 30
