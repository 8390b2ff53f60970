"""What a run tells: lines of JSON on disk, TensorBoard and Weights & Biases if asked, a progress bar for a person."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from babelclip.errors import BabelclipError, require
from babelclip.files import atomic_path
from babelclip.progress import Speed
from babelclip.train.recipe import Train

_LOG = logging.getLogger(__name__)


def read_log(path: Path | str) -> list[dict[str, Any]]:
    """Returns the lines of a `log.jsonl`; a last line torn by a kill is left out."""
    lines = []
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            lines.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    return lines


def first_figures(out: Path | str) -> dict[str, float]:
    """Returns what a run in a folder measured before its first step; {} where it did not."""
    path = Path(out) / "log.jsonl"
    lines = read_log(path) if path.is_file() else []
    first = next((line for line in lines if line["event"] == "validate" and line["step"] == 0), {})
    return {key: value for key, value in first.items() if isinstance(value, float)}


class RunLog:
    """`log.jsonl` of a run, and TensorBoard files and a run of Weights & Biases beside it if asked."""

    def __init__(self, out: Path, settings: Train, *, resumed_step: int, usable: Callable[[], str]) -> None:
        """Opens the log; lines after `resumed_step`, which the run will write again, are dropped first.

        `usable` says, for errors, where a run that cannot write can go on.

        Raises:
            MissingExtraError: TensorBoard is asked for and not installed.
            BabelclipError: the log cannot be written.
        """
        self._usable = usable
        self._writer: Any = None
        if settings.tensorboard:
            require("tensorboard", "train")
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(out / "tensorboard", purge_step=resumed_step + 1)  # type: ignore[no-untyped-call]
        self._wandb = _wandb_run(out, settings) if settings.wandb else None
        self.path = out / "log.jsonl"
        with self._written():
            if self.path.exists():
                kept = [line for line in read_log(self.path) if resumed_step and line["step"] <= resumed_step]
                with atomic_path(self.path) as temporary:
                    temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            self._file = self.path.open("a", encoding="utf-8")

    def write(self, event: str, step: int, values: Mapping[str, float]) -> None:
        """Appends a line `{"event": …, "step": …, **values}`; numbers that are not finite become null.

        Raises:
            BabelclipError: the disk is full, or the file is gone.
        """
        plain = {key: value if math.isfinite(value) else None for key, value in values.items()}
        with self._written():
            self._file.write(json.dumps({"event": event, "step": step, **plain}) + "\n")
            self._file.flush()
            if self._writer is not None:
                for key, value in values.items():
                    self._writer.add_scalar(f"{event}/{key}", value, step)
        if self._wandb is not None:
            self._wandb.log({f"{event}/{key}": value for key, value in values.items()}, step=step)

    def sync(self) -> None:
        """Makes the lines durable, so that a checkpoint never knows more steps than its log."""
        with self._written():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the files; what could not be written has been said before."""
        with contextlib.suppress(OSError):
            self._file.close()
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
        if self._wandb is not None:
            self._wandb.finish()

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BabelclipError(
                f"The log {self.path} could not be written ({error}). {self._usable()} Free some space, then resume."
            ) from error


class NoLog:
    """The log of a process that does not write."""

    def write(self, event: str, step: int, values: Mapping[str, float]) -> None:
        """Does nothing."""

    def sync(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def _wandb_run(out: Path, settings: Train) -> Any:
    """Returns a run of Weights & Biases, the same one after a resume; None, said once, where it is not installed."""
    try:
        import wandb  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        _LOG.warning("train.wandb is set, but wandb is not installed (pip install wandb): log.jsonl has the figures.")
        return None
    identity = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]
    return wandb.init(
        project="babelclip",
        name=out.name,
        id=identity,
        resume="allow",
        dir=str(out),
        config=dataclasses.asdict(settings),
    )


class Bar(Protocol):
    """A line that a person reads while a run goes on."""

    def step(self, loss: float, lr: float, tokens: int) -> None:
        """Takes one step more: its loss, learning rate and tokens."""

    def validated(self, text: str) -> None:
        """Takes what the last validation found, in words."""


class _NoBar:
    def step(self, loss: float, lr: float, tokens: int) -> None:
        del loss, lr, tokens

    def validated(self, text: str) -> None:
        del text


@contextlib.contextmanager
def training_bar(total: int, done: int, *, shown: bool) -> Iterator[Bar]:
    """Yields a bar of steps on stderr; one that does nothing where no person looks."""
    if not shown:
        yield _NoBar()
        return
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _NoBar()
        return
    with _bar_on(console, total, done) as bar:
        yield bar


@contextlib.contextmanager
def _bar_on(console: Any, total: int, done: int) -> Iterator[Bar]:
    from rich.console import Group
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.text import Text

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=16), TextColumn("{task.fields[state]}"))
    progress = Progress(*columns, console=console)
    task = progress.add_task(_place(done, total), total=total, completed=done, state="")
    found = Text()
    speed = Speed()

    class Shown:
        def step(self, loss: float, lr: float, tokens: int) -> None:
            place = progress.tasks[0].completed + 1
            tokens_a_second, steps_a_second = speed.step(1, tokens)
            left = f"{timedelta(seconds=round((total - place) / steps_a_second))} left" if steps_a_second else ""
            state = f"loss {loss:.4g}  lr {lr:.2g}  {tokens_a_second:,.0f} tokens/s  {left}"
            progress.update(task, advance=1, description=_place(place, total), state=state)

        def validated(self, text: str) -> None:
            found.plain = text

    with Live(Group(progress, found), console=console, refresh_per_second=4):
        yield Shown()


def _place(step: float, total: int) -> str:
    return f"step {step:,.0f}/{total:,}"
