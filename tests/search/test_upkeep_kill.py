"""`babelclip collection index, optimize, delete`, and writing, killed: no row is lost, and no deleted one is back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from babelclip.search.index_state import lock_collection
from tests.search.collections import ROWS, make_collection, make_rows

ROOT = Path(__file__).parents[2]


def test_killed_during_upkeep_no_row_is_lost_and_no_deleted_row_comes_back(tmp_path):
    pytest.importorskip("lancedb")
    # One kill of each kind here; 20 where time is no matter: BABELCLIP_KILLS=20.
    kills = os.environ.get("BABELCLIP_KILLS", "1")
    done = subprocess.run(
        [sys.executable, "-m", "tests.search.killed_upkeep", str(tmp_path), kills, "600"],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] == 4 * int(kills)
    assert sum(found["kills_within"].values()) == found["kills"]
    assert found["rows_at_the_end"] >= 500
    assert found["wrong"] == []


def test_what_a_write_replaces_is_noted_before_it_is_written(tmp_path, monkeypatch):
    lance = pytest.importorskip("babelclip.search.lance")
    collection = make_collection("lance", tmp_path)
    before, noted = collection.version(), []
    note = lance.LanceCollection._note_purge

    def killed_after(self, fragments):
        note(self, fragments)
        noted.append((collection.version(), list(fragments)))

    monkeypatch.setattr(lance.LanceCollection, "_note_purge", killed_after)
    collection.upsert(make_rows(0, 3))
    assert noted == [(before, [0])]
    assert collection.version() > before


def test_what_a_killed_writer_left_is_removed_where_nobody_else_writes(tmp_path):
    writers = pytest.importorskip("babelclip.search.lance_writers")
    collection = make_collection("lance", tmp_path)
    (file,) = (Path(collection.url) / "pictures.lance" / "data").glob("*")
    # Named as the engine names its files, and of no version.
    left = file.with_name(("1" if file.name.startswith("0") else "0") + file.name[1:])
    left.write_bytes(file.read_bytes())
    with writers.writing(collection.url):
        collection.delete(ids=["r1"])
        collection.optimize(keep_versions_for=0)
        assert left.exists(), "it could be what the other writer is about to need"
    give_back = lock_collection(collection.url)
    collection.optimize(keep_versions_for=0)
    assert left.exists(), "a run that indexes may have written it"
    give_back()
    collection.optimize()
    assert left.exists(), "only whoever removes for good removes it"
    collection.optimize(keep_versions_for=0)
    assert not left.exists()
    assert collection.count() == ROWS - 1
