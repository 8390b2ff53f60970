"""Runs the probes beside this process, and reads what they wrote before they ended, however they ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import babelclip

# What the probes found by step, with `hub_cache` lifted out of its step; and how that of torch ended: "" or a clause.
Answers = tuple[dict[str, Any], str]
# Each is a process: the hub is asked while torch is read from disk. torchvision needs the torch beside it.
_PROCESSES = (("torch", "torchvision"), ("hub",))


def start_probe() -> Callable[[float], Answers]:
    """Starts the probes, and returns what waits for them, so many seconds at most."""
    processes = [_started(steps) for steps in _PROCESSES]

    def answers(seconds: float) -> Answers:
        deadline = time.monotonic() + seconds
        facts: dict[str, Any] = {}
        ends = []
        for process in processes:
            text, end = _ended(process, max(0.0, deadline - time.monotonic()), seconds)
            facts |= read_answers(text, end)
            ends.append(end)
        return facts, ends[0]

    return answers


def _started(steps: Sequence[str]) -> subprocess.Popen[str]:
    # The folder that babelclip is imported from: a file torch.py in the user's own folder would be imported otherwise.
    root = Path(babelclip.__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, "-m", "babelclip.doctor.probe", *steps],
        cwd=root,
        env={**os.environ, "PYTHONUTF8": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
    )


def _ended(process: subprocess.Popen[str], remaining: float, seconds: float) -> tuple[str, str]:
    """Returns what a process wrote, and how it ended; it is killed where it takes longer."""
    try:
        text, _ = process.communicate(timeout=remaining)
        return text, _end(process.returncode)
    except subprocess.TimeoutExpired:
        process.kill()
        text, _ = process.communicate()
        return text, f"it did not end within {seconds:g} s"


def read_answers(text: str, end: str) -> dict[str, Any]:
    """Returns the probe's lines by step; a step that began and has no answer gets `end` as its error."""
    steps: dict[str, Any] = {}
    for line in text.splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            continue  # the last line of a process that was killed
        if isinstance(said, dict) and "step" in said:
            step = said.pop("step")
            steps[step] = {"error": end or "it said nothing"} if said.pop("begins", False) else said
    if "hub_cache" in steps.get("hub", {}):
        steps["hub_cache"] = steps["hub"]["hub_cache"]
    return steps


def _end(code: int) -> str:
    if code == 0:
        return ""
    if code < 0:
        return f"it was ended by signal {-code}" + (", an instruction that this processor lacks" if code == -4 else "")
    return f"it ended with {code}"
