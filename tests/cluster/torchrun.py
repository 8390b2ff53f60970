"""`torchrun` on two hosts: the command, folders that each host has for itself, and what a run leaves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from babelclip.data.captions import write_captions
from babelclip.models.clip import Clip
from babelclip.train.log import read_log
from tests.cluster.hosts import Host
from tests.conftest import make_clip, make_text_encoder
from tests.train.pair_processes import tars_in
from tests.train.parts import make_captions, make_store

ROOT = Path(__file__).parents[2]
MODULE = "babelclip"
PORT = 29400
RECIPE = """
[train]
kind = "distill"
steps = {steps}
lr = 3e-3
warmup_steps = 3
precision = "fp32"
device = "cpu"
batch_size = 16
save_every = 5
log_every = 1
eps = 1e-4
timeout = 15.0

[student]
model = "{folder}/student"

[teacher]
targets = "{folder}/store"

[data]
captions = ["{folder}/captions.parquet"]
"""
PAIRS = """
[train]
kind = "contrastive"
steps = 12
lr = 3e-3
warmup_steps = 3
precision = "fp32"
device = "cpu"
batch_size = 6
save_every = 5
log_every = 1
eps = 1e-4
timeout = 30.0

[student]
model = "{folder}/model"

[data]
captions = ["{folder}/tars"]
stream = true
lang = "en"
lanes = 4
window = 12

[towers]
image = "free"
"""
# A tight heart-beat, so that a lost host is taken out of the next round soon.
CONF = "join_timeout=60,last_call_timeout=2,close_timeout=5"


def material(folder: Path, steps: int = 60) -> Path:
    """Writes a student, its targets, captions and a recipe into a folder; returns the recipe."""
    make_store(folder / "store")
    write_captions(make_captions(), folder / "captions.parquet")
    text = make_text_encoder()
    Clip(space="test/tiny", text=text, languages=("en",), name="student").save(folder / "student")
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(folder=folder, steps=steps))
    return recipe


def pairs(folder: Path) -> Path:
    """Writes a clip, tars and a contrastive recipe into a folder; returns the recipe."""
    tars_in(folder / "tars")
    make_clip().save(folder / "model")
    recipe = folder / "pairs.toml"
    recipe.write_text(PAIRS.format(folder=folder))
    return recipe


def command(first: Host, recipe: Path, out: Path, settings: Sequence[str], *launch: str) -> list[str]:
    """Returns the command line of one host."""
    nodes = [] if any(word.startswith("--nnodes") for word in launch) else ["--nnodes=2"]
    run = [sys.executable, "-m", "torch.distributed.run", *nodes, "--nproc-per-node=1", "--rdzv-backend=c10d"]
    run += [f"--rdzv-endpoint={first.address}:{PORT}", "--rdzv-id=job", f"--rdzv-conf={CONF}", *launch]
    changes = [word for setting in settings for word in ("--set", setting)]
    return [*run, "-m", MODULE, "train", str(recipe), "--out", str(out), "--resume", *changes]


def private(words: Sequence[str], disk: Path, folder: Path) -> list[str]:
    """Returns the command with `disk` mounted on `folder`, for this command alone: a host's own disk."""
    disk.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    return ["sh", "-c", 'mount --bind "$0" "$1" && shift && exec "$@"', str(disk), str(folder), *words]


def start(host: Host, words: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    more = {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TORCHELASTIC_ENABLE_FILE_TIMER": "0",
    }
    return host.start(words, log=log, environment=more, cwd=ROOT)


def ended(process: subprocess.Popen[bytes], log: Path, seconds: float = 240.0) -> int:
    """Returns the exit code of a command; one that hangs is an error that shows what it said."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"still running after {seconds} s: {log.read_text()[-3000:]}") from error


def alone(recipe: Path, out: Path, settings: Sequence[str] = ()) -> None:
    """Trains with one process, on this machine."""
    changes = [word for setting in settings for word in ("--set", setting)]
    words = [sys.executable, "-m", MODULE, "train", str(recipe), "--out", str(out), *changes]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def reached(out: Path, steps: int, processes: Sequence[subprocess.Popen[bytes]], seconds: float = 240.0) -> None:
    """Waits until the log of a run has so many lines."""
    end = time.monotonic() + seconds
    while not (out / "log.jsonl").exists() or (out / "log.jsonl").read_bytes().count(b"\n") < steps:
        assert time.monotonic() < end, "the run does not come so far"
        assert all(process.poll() is None for process in processes), "the run ended before"
        time.sleep(0.005)


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Returns the weights of the last checkpoint."""
    last = sorted((out / "checkpoints").glob("step-*"))[-1]
    return load_file(last / "weights.safetensors")


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_log(out / "log.jsonl") if line["event"] == "train"]


def difference(one: Path, two: Path) -> float:
    """Returns how far the weights of two runs are apart at most."""
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)
