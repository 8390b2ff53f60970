"""Trains undisturbed, trains killed (SIGKILL) at random moments and resumed, trains until Ctrl-C. Prints JSON.

Run by test_resume.py. The runs are processes forked from this one, which has torch imported but has computed nothing,
so that a kill costs milliseconds and not an import.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

# What the runs import late is imported here once, and not in every fork.
import accelerate  # noqa: F401
import torch
import transformers.models.bert.modeling_bert  # noqa: F401
from transformers import AutoConfig, AutoModel  # noqa: F401

from babelclip.store import EmbeddingStore
from babelclip.train.distill import distill
from babelclip.train.recipe import Recipe, apply_overrides
from tests.conftest import make_text_encoder
from tests.train.parts import make_captions, make_store

STEPS = 40
SETTINGS = [
    f"train.steps={STEPS}",
    "train.schedule=cosine",
    "train.lr=3e-3",
    "train.precision=fp32",
    "train.tokens_per_batch=128",
    "train.accumulation=2",
    "train.save_every=7",
    "train.validate_every=10",
    "train.log_every=1",
]
CASES = {"dropout": ["student.dropout=0.1"], "kept states": ["student.trainable=last 1 layers"]}
ENDLESS = ["train.steps=100000", "train.save_every=0", "train.validate_every=0"]


def train(folder: Path, overrides: list[str]) -> None:
    """Trains in `folder`, going on where an earlier run was stopped, and saves the student beside it."""
    torch.set_num_threads(1)
    student = make_text_encoder()
    recipe = apply_overrides(Recipe(), [*SETTINGS, *overrides])
    store = EmbeddingStore.open(folder.parent / "store")
    held_out = make_captions(10)
    result = distill(student, make_captions(), store, recipe, folder, validation=held_out, resume=True, progress=False)
    torch.save(student.state_dict(), folder.with_suffix(".pt"))
    (folder / "ended.json").write_text(json.dumps([result.run.status, result.run.step]))


def forked(work: Callable[[], object]) -> int:
    """Returns the id of a new process that does the work and nothing else."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    return child


def ended(child: int) -> int:
    """Returns the wait status of a process once it is over."""
    return os.waitpid(child, 0)[1]


def lines_logged(folder: Path) -> int:
    log = folder / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def signal_at(child: int, folder: Path, lines: int, pause: float, number: int) -> int | None:
    """Sends a signal `pause` seconds after the log has `lines` lines; returns the wait status, None if over before."""
    while lines_logged(folder) < lines:
        if os.waitpid(child, os.WNOHANG)[0]:
            return None
        time.sleep(0.0005)
    time.sleep(pause)
    os.kill(child, number)
    return ended(child)


def killed_and_resumed(folder: Path, overrides: list[str]) -> list[int]:
    """Trains through four kills; returns the lines of the log at each."""
    kills = []
    for low, high in ((0, 0), (1, 13), (14, 26), (27, STEPS)):
        lines, pause = random.randint(low, high), random.random() * 0.02
        status = signal_at(forked(lambda: train(folder, overrides)), folder, lines, pause, signal.SIGKILL)
        if status is not None and os.WIFSIGNALED(status):
            kills.append(lines_logged(folder))
    assert ended(forked(lambda: train(folder, overrides))) == 0, "the last resumption failed"
    return kills


def main(folder: Path) -> None:
    kills = {}
    for name, overrides in CASES.items():
        here = folder / name
        # In a process of its own as well: a parent that has computed has threads, which its forks would lack.
        assert ended(forked(lambda here=here: make_store(here / "store"))) == 0
        undisturbed = forked(lambda here=here, overrides=overrides: train(here / "whole", overrides))
        assert ended(undisturbed) == 0, "the undisturbed run failed"
        kills[name] = killed_and_resumed(here / "cut", overrides)
    stopped = folder / "dropout" / "stopped"
    status = signal_at(forked(lambda: train(stopped, ENDLESS)), stopped, 5, 0.0, signal.SIGINT)
    sys.stdout.write(json.dumps({"kills": kills, "ctrl_c_status": status}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
