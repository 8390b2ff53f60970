"""What a run tells: lines of JSON on disk, TensorBoard if asked, a progress bar where a person looks."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from babelclip.errors import require
from babelclip.files import atomic_path


def read_log(path: Path | str) -> list[dict[str, Any]]:
    """Returns the lines of a `log.jsonl`; a last line torn by a kill is left out."""
    lines = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


class RunLog:
    """`log.jsonl` of a run, and TensorBoard files beside it if asked."""

    def __init__(self, out: Path, *, resumed_step: int, tensorboard: bool) -> None:
        """Opens the log; lines after `resumed_step`, which the run will write again, are dropped first.

        Raises:
            MissingExtraError: TensorBoard is asked for and not installed.
        """
        self._writer: Any = None
        if tensorboard:
            require("tensorboard", "train")
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(out / "tensorboard", purge_step=resumed_step + 1)  # type: ignore[no-untyped-call]
        self.path = out / "log.jsonl"
        if self.path.exists():
            kept = [line for line in read_log(self.path) if resumed_step and line["step"] <= resumed_step]
            with atomic_path(self.path) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, event: str, step: int, values: Mapping[str, float]) -> None:
        """Appends a line `{"event": …, "step": …, **values}`; numbers that are not finite become null."""
        plain = {key: value if math.isfinite(value) else None for key, value in values.items()}
        self._file.write(json.dumps({"event": event, "step": step, **plain}) + "\n")
        self._file.flush()
        if self._writer is not None:
            for key, value in values.items():
                self._writer.add_scalar(f"{event}/{key}", value, step)

    def sync(self) -> None:
        """Makes the lines durable, so that a checkpoint never knows more steps than its log."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()


@contextlib.contextmanager
def training_bar(total: int, done: int, *, shown: bool) -> Iterator[Callable[[float, float], None]]:
    """Yields `advance(loss, tokens_per_second)` for a bar of steps on stderr; a no-op where no person looks."""
    if not shown:
        yield lambda _loss, _rate: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _loss, _rate: None
        return
    columns = (TextColumn("Training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("", total=total, completed=done, state="")

        def advance(loss: float, tokens_per_second: float) -> None:
            progress.update(task, advance=1, state=f"loss {loss:.4g}  {tokens_per_second:,.0f} tokens/s")

        yield advance
