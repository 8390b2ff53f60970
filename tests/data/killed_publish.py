"""Publishes a store, killed (SIGKILL) again and again, a few steps later each time. Prints JSON for test_publish.py.

    python -m tests.data.killed_publish STORE OUT STEPS...

A step is a file that is made durable, or gets its name. The runs are forked from this process, which has published
nothing itself.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import babelclip.files
from babelclip.data import publish
from tests.data.test_publish import make_captions, make_translations
from tests.train.killed_run import ended, forked


def run(store: Path, out: Path, steps: int) -> None:
    left = steps

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **more)

        return call

    os.replace, babelclip.files.sync = counted(os.replace), counted(babelclip.files.sync)
    publish.publish_store(store, [make_captions(), make_translations()], out, licence="mit", name="x", rows=4)


def main(store: Path, out: Path, steps: list[int]) -> None:
    ends = []
    for many in steps:
        status = ended(forked(lambda many=many: run(store, out, many)))
        ends.append({"status": status, "whole": not out.exists() or (out / "babelclip.json").exists()})
        if not os.WIFSIGNALED(status):
            break
    sys.stdout.write(json.dumps(ends) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [int(word) for word in sys.argv[3:]])
