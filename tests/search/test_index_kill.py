"""A killed run loses no picture that was acknowledged, and repeats none. Full size: benchmarks/index_kill.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_killed_at_random_moments_it_ends_with_the_same_collection(tmp_path):
    pytest.importorskip("lancedb")
    # A few kills here; 20 where time is no matter: BABELCLIP_KILLS=20.
    kills, pictures = int(os.environ.get("BABELCLIP_KILLS", "2")), 120
    done = subprocess.run(
        [sys.executable, "-m", "tests.search.killed_index", str(tmp_path), str(kills), str(pictures)],
        cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] >= 2
    assert found["rows"] == 117
    assert found["equal"]
    assert found["largest_difference_of_vectors"] < 1e-5
    assert (found["acknowledged_and_lost"], found["acknowledged_and_encoded_again"]) == (0, 0)
    assert found["encoded_in_all"] > found["encoded_undisturbed"]
