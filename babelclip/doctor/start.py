"""Runs the probe beside this process, and reads what it wrote before it ended, however it ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import babelclip

# What the probe found by step, with `hub_cache` lifted out of its step; and how it ended: "" or a clause.
Answers = tuple[dict[str, Any], str]


def start_probe() -> Callable[[float], Answers]:
    """Starts the probe, and returns what waits for it, so many seconds at most."""
    # The folder that babelclip is imported from: a file torch.py in the user's own folder would be imported otherwise.
    root = Path(babelclip.__file__).parents[1]
    command = [sys.executable, "-m", "babelclip.doctor.probe"]
    environment = {**os.environ, "PYTHONUTF8": "1"}
    process = subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
    )

    def answers(seconds: float) -> Answers:
        try:
            text, _ = process.communicate(timeout=seconds)
            end = _end(process.returncode)
        except subprocess.TimeoutExpired:
            process.kill()
            text, _ = process.communicate()
            end = f"it did not end within {seconds:g} s"
        return read_answers(text, end), end

    return answers


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
