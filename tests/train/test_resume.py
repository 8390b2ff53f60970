"""A run that is killed, by the operating system and at any moment, ends bit-equal to one that was never disturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from babelclip.train import checkpoint
from babelclip.train.log import read_log

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
TIMING = {"seconds", "tokens_per_second"}


def untimed(path: Path) -> list[dict]:
    return [{key: value for key, value in line.items() if key not in TIMING} for line in read_log(path)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills by signal need a POSIX system")
@pytest.mark.parametrize(
    "overrides", [["student.dropout=0.1"], ["student.trainable=last 1 layers"]], ids=["dropout", "kept states"]
)
def test_resume_matches_uninterrupted_run_after_kill_9(tmp_path: Path, overrides: list[str]):
    command = [sys.executable, "-m", "tests.train.killed_run", str(tmp_path), *overrides]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    kills = json.loads(done.stdout)["kills"]
    assert len(kills) >= 2, "the runs were too short to be killed"
    whole, cut = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "cut"))
    different = [name for name in whole if not torch.equal(whole[name], cut[name])]
    assert different == [], f"killed after log lines {kills}"
    logs = [untimed(tmp_path / name / "log.jsonl") for name in ("whole", "cut")]
    assert len(logs[0]) == 60 + 7
    assert logs[0] == logs[1], f"killed after log lines {kills}"
    for step in {*checkpoint.saved_steps(tmp_path / "whole")} & {*checkpoint.saved_steps(tmp_path / "cut")}:
        folders = [checkpoint.folder_of(tmp_path / name, step) for name in ("whole", "cut")]
        assert len({(folder / "weights.safetensors").read_bytes() for folder in folders}) == 1
    assert not list((tmp_path / "cut" / "checkpoints").glob(".*")), "nothing half-written is left"


INTERRUPTED = """
import sys, torch
from pathlib import Path
from tests.train import killed_run
from babelclip.train.recipe import Recipe, apply_overrides
from babelclip.train.distill import distill
folder = Path(sys.argv[1])
torch.set_num_threads(1)
recipe = apply_overrides(Recipe(), [*killed_run.SETTINGS, "train.steps=100000", "train.save_every=0"])
store = killed_run.make_store(folder / "store")
student, captions = killed_run.make_text_encoder(), killed_run.make_captions()
result = distill(student, captions, store, recipe, folder / "cut", progress=False)
print(result.run.status, result.run.step)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals need a POSIX system")
def test_ctrl_c_finishes_the_step_saves_and_ends_well(tmp_path: Path):
    run = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)], cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    log = tmp_path / "cut" / "log.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=30)
    assert run.returncode == 0
    status, step = said.split()
    assert status == "interrupted"
    assert checkpoint.saved_steps(tmp_path / "cut") == [int(step)]
    assert len(read_log(log)) == int(step)
