from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Models of this size only wait for a second thread, and for much longer where other jobs hold the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def towers_trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs of tower_processes.py: both towers, on one process and on two."""
    folder = tmp_path_factory.mktemp("towers")
    command = [sys.executable, "-m", "tests.train.tower_processes", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return folder
