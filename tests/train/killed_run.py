"""Trains twice: once undisturbed, once killed (SIGKILL) at random moments and resumed. Prints what was done as JSON.

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
from pathlib import Path

import torch

from babelclip.store import EmbeddingStore
from babelclip.train.distill import distill
from babelclip.train.recipe import Recipe, apply_overrides
from tests.conftest import make_text_encoder
from tests.train.parts import make_captions, make_store

STEPS = 60
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


def train(folder: Path, name: str, overrides: list[str]) -> None:
    torch.set_num_threads(1)
    student = make_text_encoder()
    recipe = apply_overrides(Recipe(), [*SETTINGS, *overrides])
    store = EmbeddingStore.open(folder / "store")
    captions, held_out = make_captions(), make_captions(10)
    result = distill(student, captions, store, recipe, folder / name, validation=held_out, resume=True, progress=False)
    torch.save(student.state_dict(), folder / f"{name}.pt")
    assert result.run.status == "finished"


def forked(folder: Path, name: str, overrides: list[str]) -> int:
    child = os.fork()
    if child == 0:
        try:
            train(folder, name, overrides)
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    return child


def steps_logged(folder: Path) -> int:
    log = folder / "cut" / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def kill_at(child: int, folder: Path, lines: int, pause: float) -> bool:
    """Kills the child `pause` seconds after its log has `lines` lines; False if it was done before."""
    while steps_logged(folder) < lines:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.0005)
    time.sleep(pause)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def main(folder: Path, overrides: list[str]) -> None:
    # In a child as well: the parent must not compute before it forks, or its threads would be missing in the children.
    maker = os.fork()
    if maker == 0:
        make_store(folder / "store")
        os._exit(0)
    os.waitpid(maker, 0)
    _, status = os.waitpid(forked(folder, "whole", overrides), 0)
    assert status == 0, "the undisturbed run failed"
    kills = []
    for low, high in ((0, 0), (1, 20), (21, 40), (41, 60)):
        lines, pause = random.randint(low, high), random.random() * 0.02
        if kill_at(forked(folder, "cut", overrides), folder, lines, pause):
            kills.append(steps_logged(folder))
    _, status = os.waitpid(forked(folder, "cut", overrides), 0)
    assert status == 0, "the last resumption failed"
    sys.stdout.write(json.dumps({"kills": kills}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
