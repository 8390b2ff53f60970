"""Trains on one and on two processes, also killed, stopped and out of disk. Prints JSON; run by test_processes.py.

The processes are forked from this one, which has torch imported but has computed nothing, as in killed_run.py.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401
import torch
import torch.distributed.fsdp
import torch.distributed.tensor

from babelclip.errors import BabelclipError
from tests.train.killed_run import ended, forked, lines_logged
from tests.train.regression import train

# Each is trained by one process and by two. Batches of 7 are shared unevenly, and the last one has a row for one only.
CASES: dict[str, dict[str, Any]] = {
    "mse": {"batch_size": 7, "gradient_checkpointing": True, "validate": True, "validate_every": 7, "keep": "best"},
    "accumulation": {"batch_size": 7, "accumulation": 3, "ema": 0.9, "clip_norm": 0.5, "optimizer": "rmsprop"},
    "whole batch": {"loss": "whole batch", "batch_size": 11, "accumulation": 2},
    "gradient cache": {"loss": "gradient cache", "batch_size": 16},
    "fsdp": {"batch_size": 7, "accumulation": 2, "parallel": "fsdp", "ema": 0.9, "validate": True, "validate_every": 7},
}
# Two processes, cut somewhere and resumed, against the same undisturbed.
CUT: dict[str, dict[str, Any]] = {
    "dropout": {"dropout": 0.2, "save_every": 4, "ema": 0.9},
    "fsdp": {"parallel": "fsdp", "save_every": 4, "accumulation": 2},
}


def started(work: Callable[[], object], world: int = 2) -> list[int]:
    """Returns the ids of `world` new processes of one group that all do the work."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])

    def of_rank(rank: int) -> None:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        if world > 1:
            os.environ |= {name: str(value) for name, value in names.items()}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        torch.set_num_threads(1)
        work()
        if world > 1:
            torch.distributed.destroy_process_group()

    return [forked(lambda rank=rank: of_rank(rank)) for rank in range(world)]


def done(work: Callable[[], object], world: int = 2) -> None:
    codes = [ended(child) for child in started(work, world)]
    assert not any(codes), f"processes ended with {codes}"


def noted(folder: Path, work: Callable[[], Any]) -> None:
    """Does the work and writes beside the run what became of it on this rank."""
    try:
        result = work()
        words = [result.status, result.step]
    except BabelclipError as error:
        words = [type(error).__name__, str(error)]
    folder.with_name(f"{folder.name}-{os.environ['RANK']}.json").write_text(json.dumps(words))


def killed(folder: Path, options: dict[str, Any]) -> float:
    """Kills rank 1 in the middle; returns the seconds after which rank 0 had ended as well."""

    def slow() -> None:
        time.sleep(0.02)

    first, second = started(lambda: noted(folder, lambda: train(folder, after_step=slow, **options)))
    while lines_logged(folder) < 10:
        time.sleep(0.002)
    os.kill(second, signal.SIGKILL)
    killed_at = time.monotonic()
    ended(second)
    ended(first)
    return time.monotonic() - killed_at


def stopped(folder: Path) -> None:
    """Asks one of two processes to end."""
    first, second = started(lambda: noted(folder, lambda: train(folder, steps=100_000, save_every=0)))
    while lines_logged(folder) < 5:
        time.sleep(0.002)
    os.kill(second, signal.SIGTERM)
    assert (ended(first), ended(second)) == (0, 0)


def out_of_disk(folder: Path) -> None:
    """Limits the size of files to less than a checkpoint takes, once some are written."""
    calls = []

    def limit() -> None:
        calls.append(1)
        if len(calls) == 6 and os.environ["RANK"] == "0":
            resource.setrlimit(resource.RLIMIT_FSIZE, (1500, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    done(lambda: noted(folder, lambda: train(folder, save_every=5, log_every=100, after_step=limit)))


def main(folder: Path) -> None:
    for name, options in CASES.items():
        here = folder / "same" / name
        done(lambda here=here, options=options: train(here / "one", **options), 1)
        done(lambda here=here, options=options: train(here / "two", **options))
    seconds = {}
    for name, options in CUT.items():
        here = folder / "cut" / name
        done(lambda here=here, options=options: train(here / "whole", **options))
        seconds[name] = killed(here / "cut", options)
        done(lambda here=here, options=options: train(here / "cut", resume=True, **options))
    stopped(folder / "stopped")
    out_of_disk(folder / "full")
    nan = folder / "nan"
    done(lambda: noted(nan, lambda: train(nan, loss="spoiled", save_every=1)))
    sys.stdout.write(json.dumps({"seconds to end": seconds}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
