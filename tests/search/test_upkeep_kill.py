"""`babelclip collection index, optimize, delete`, and writing, killed: no row is lost, and no deleted one is back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
