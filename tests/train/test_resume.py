"""A run that is killed, by the operating system and at any moment, ends bit-equal to one that was never disturbed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from babelclip.train import checkpoint
from babelclip.train.log import read_log
from tests.train.killed_run import CASES, STEPS

ROOT = Path(__file__).parents[2]
TIMING = {"seconds", "tokens_per_second"}
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills by signal need a POSIX system")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The folder of the runs of killed_run.py, and what it said."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "tests.train.killed_run", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def untimed(path: Path) -> list[dict]:
    return [{key: value for key, value in line.items() if key not in TIMING} for line in read_log(path)]


@pytest.mark.parametrize("case", CASES)
def test_resume_matches_uninterrupted_run_after_kill_9(killed: tuple[Path, dict], case: str):
    folder, kills = killed[0] / case, killed[1]["kills"][case]
    assert len(kills) >= 2, "the runs were too short to be killed"
    whole, cut = (torch.load(folder / f"{name}.pt", weights_only=True) for name in ("whole", "cut"))
    different = [name for name in whole if not torch.equal(whole[name], cut[name])]
    assert different == [], f"killed after log lines {kills}"
    logs = [untimed(folder / name / "log.jsonl") for name in ("whole", "cut")]
    assert len(logs[0]) == STEPS + STEPS // 10 + 1
    assert logs[0] == logs[1], f"killed after log lines {kills}"
    steps = checkpoint.saved_steps(folder / "whole")
    assert steps == checkpoint.saved_steps(folder / "cut")
    for step in steps:
        folders = [checkpoint.folder_of(folder / name, step) for name in ("whole", "cut")]
        assert len({(saved / "weights.safetensors").read_bytes() for saved in folders}) == 1
    assert not list((folder / "cut" / "checkpoints").glob(".*")), "nothing half-written is left"


def test_ctrl_c_finishes_the_step_saves_and_ends_well(killed: tuple[Path, dict]):
    folder = killed[0] / "dropout" / "stopped"
    assert killed[1]["ctrl_c_status"] == 0
    status, step = json.loads((folder / "ended.json").read_text())
    assert status == "interrupted"
    assert checkpoint.saved_steps(folder) == [step]
    assert len(read_log(folder / "log.jsonl")) == step
