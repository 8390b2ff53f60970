"""Trains tiny CLIPs on one process and on two. Prints nothing; run once for the test files that look at the results.

The processes are forked from this one, which has computed nothing, as in many_processes.py; each trains all cases, so
that they are started, and joined, once.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.train import class_processes, pair_processes
from tests.train.killed_run import ended
from tests.train.many_processes import started

FOLDERS = {"pairs": pair_processes, "classes": class_processes}


def train_all(folder: Path, name: str) -> None:
    for kind, cases in FOLDERS.items():
        cases.train_all(folder / kind, name)


def main(folder: Path) -> None:
    # Before the forks, which would write them at the same time.
    pair_processes.captions_in(folder / "pairs" / "pictures")
    pair_processes.tars_in(folder / "pairs" / "tars")
    class_processes.pictures_in(folder / "classes" / "pictures")
    children = started(lambda: train_all(folder, "one"), 1) + started(lambda: train_all(folder, "two"))
    codes = [ended(child) for child in children]
    assert not any(codes), f"processes ended with {codes}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
