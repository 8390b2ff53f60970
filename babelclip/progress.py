"""One progress bar for every long job: on stderr, and only where a person looks."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

# The speed shown is that of the last minute, and of the last steps where steps are long.
_WINDOW_SECONDS, _WINDOW_STEPS = 60.0, 8


class Advance(Protocol):
    """Moves a bar by `n` items. `done` of them were worked on (None: all); the others were there and cost no time."""

    def __call__(self, n: int, done: int | None = None) -> None:
        """Takes `n` items more."""


@contextlib.contextmanager
def progress_bar(
    description: str,
    total: int | None,
    *,
    shown: bool,
    unit: str = "items",
    note: Callable[[], str] | None = None,
) -> Iterator[Advance]:
    """Yields `advance(n)`, which moves a bar; it does nothing unless `shown` and stderr is a terminal.

    The bar shows items done, the speed of work, and the time left; where `total` is None, neither end nor time left.
    What `note` returns at each step stands at its end.
    """
    if not shown or total == 0:
        yield _nothing
        return
    # Imported late: `import babelclip` and `--help` must not pay for rich.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _nothing
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        *((TaskProgressColumn(), TextColumn("{task.fields[left]}")) if total is not None else ()),
        *((TextColumn("{task.fields[note]}"),) if note is not None else ()),
    )
    speed = Speed()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(description, total=total, rate="", left="", note="")

        def advance(n: int, done: int | None = None) -> None:
            work, items = speed.step(n, n if done is None else done)
            remaining = None if total is None else max(0.0, total - progress.tasks[0].completed - n)
            progress.update(
                task,
                advance=n,
                rate=f"{work:,.0f} {unit}/s" if work else "",
                left=f"{_clock(remaining / items)} left" if items and remaining is not None else "",
                note=note() if note is not None else "",
            )

        yield advance


class AdvanceOne(Protocol):
    """Moves the bar of `name` by `n` items; see `Advance`."""

    def __call__(self, name: str, n: int, done: int | None = None) -> None:
        """Takes `n` items more of `name`."""


@contextlib.contextmanager
def progress_bars(totals: Mapping[str, int], *, shown: bool, unit: str = "items") -> Iterator[AdvanceOne]:
    """Yields `advance(name, n)`: one bar for each name, there from its first work until it is full, and one for all.

    Each bar shows what `progress_bar` does. Nothing is shown unless `shown` and stderr is a terminal.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn

    console = Console(stderr=True)
    if not shown or not totals or not console.is_terminal:
        yield lambda name, n, done=None: None
        return
    texts = [TextColumn(f"{{task.{field}}}") for field in ("description", "fields[rate]", "fields[left]")]
    columns = (texts[0], BarColumn(), MofNCompleteColumn(), texts[1], TaskProgressColumn(), texts[2])
    everything = "all"
    sums = {**totals, **({everything: sum(totals.values())} if len(totals) > 1 else {})}
    with Progress(*columns, console=console, transient=True) as progress:
        tasks = {
            name: progress.add_task(name, total=total, rate="", left="", visible=name == everything)
            for name, total in sums.items()
        }
        # A clock of its own for each, begun with its first step: a language waits for those before it.
        speeds: dict[str, Speed] = {}

        def advance(name: str, n: int, done: int | None = None) -> None:
            for one in (name, everything) if everything in sums else (name,):
                work, items = speeds.setdefault(one, Speed()).step(n, n if done is None else done)
                task = progress.tasks[tasks[one]]
                remaining = max(0.0, sums[one] - task.completed - n)
                progress.update(
                    tasks[one],
                    advance=n,
                    rate=f"{work:,.0f} {unit}/s" if work else "",
                    left=f"{_clock(remaining / items)} left" if items else "",
                    visible=one == everything or (remaining > 0 and (done != 0 or task.visible)),
                )

        yield advance


class Speed:
    """Items a second over the last steps. What passes before the first work (found done already) does not count."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int, int]] = deque()  # seconds, items, how many of these were worked on
        self._last = time.monotonic()
        self._lock = threading.Lock()  # lanes of one model move the same bar

    def step(self, n: int, done: int) -> tuple[float, float]:
        """Takes one step that ends now; returns worked-on items a second and all items a second, 0.0 while unknown."""
        with self._lock:
            now = time.monotonic()
            seconds, self._last = now - self._last, now
            if done or self._steps:
                self._steps.append((seconds, n, done))
            passed = sum(step[0] for step in self._steps)
            while len(self._steps) > _WINDOW_STEPS and passed - self._steps[0][0] >= _WINDOW_SECONDS:
                passed -= self._steps.popleft()[0]
            if passed <= 0:
                return 0.0, 0.0
            return sum(step[2] for step in self._steps) / passed, sum(step[1] for step in self._steps) / passed


def _nothing(n: int, done: int | None = None) -> None:
    del n, done


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours < 48 else f"{hours // 24} days"
