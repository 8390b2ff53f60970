"""The processes of a run: who writes, what all of them agree on, and features of all of them in one place.

Every process makes the same plan of batches and takes its share of each, so that several give the losses and the
weights that one process gives with the same batches (but for `infonce` of teacher learning, which compares with the
targets of its own share and negatives drawn for it). One process needs no process group: everything here is then the
identity. Entry points: `connect`, `Processes`, `WholeBatchLoss`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist

from babelclip.errors import BabelclipError
from babelclip.train.device import build_accelerator
from babelclip.train.patience import LostProcessError, finished, worked
from babelclip.train.recipe import Train

Value = TypeVar("Value")

# How backends say that the other side is gone or silent; their error classes differ.
_LOST = ("connection closed", "connection reset", "broken pipe", "connection refused", "timed out", "timeout", "nccl")
# Seconds, many times what a thread takes to let go of a tensor.
_LAST_WORK = 0.2


@dataclass(frozen=True)
class Leaders:
    """Which processes write into a folder that has one path everywhere: rank 0, where all machines see the same disk.

    Else also one process of each machine that does not see what rank 0 writes.

    Attributes:
        own: the process that writes what this one reads.
        ranks: all that write, in order.
    """

    own: int
    ranks: tuple[int, ...]


class Processes:
    """The processes of a run, seen from one of them; `rank` 0 alone shows progress and prints.

    Example:
        >>> processes = connect(Train(device="cpu", precision="fp32"))
        >>> processes.rank, processes.world, processes.total(torch.tensor([2.0])).tolist()
        (0, 1, [2.0])
    """

    def __init__(self, accelerator: Any, timeout: float = 600.0) -> None:
        """Takes the accelerator that has joined the process group, and the seconds of silence that it bears."""
        self.accelerator, self.timeout = accelerator, timeout
        self.rank: int = accelerator.process_index
        self.world: int = accelerator.num_processes
        self.device: torch.device = accelerator.device

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes files and shows progress."""
        return self.rank == 0

    def share(self, rows: np.ndarray) -> np.ndarray:
        """Returns this process's part of a batch of rows (B,): the parts of all ranks in their order are the batch."""
        return np.array_split(rows, self.world)[self.rank]

    def sizes(self, rows: np.ndarray) -> list[int]:
        """Returns how many rows of a batch each rank takes."""
        return [len(part) for part in np.array_split(rows, self.world)]

    def total(self, values: Tensor) -> Tensor:
        """Returns the sum of `values` over all processes."""
        if self.world == 1:
            return values
        values = values.to(self.device).clone()
        dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Returns whether the flag is set on some process."""
        return flag if self.world == 1 else bool(self.total(torch.tensor([float(flag)])).item())

    def told(self, value: Value, source: int = 0) -> Value:
        """Returns what process `source` gave; small things only."""
        if self.world == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=source, device=self.device)
        told: Value = box[0]
        return told

    def collected(self, value: Value) -> list[Value]:
        """Returns what each process gave, in the order of ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self.world > 1:
            self.accelerator.wait_for_everyone()

    def leaders(self, folder: Path) -> Leaders:
        """Returns who writes into a folder; rank 0 makes it."""
        if self.world == 1:
            return Leaders(0, (0,))
        mark = folder / f".seen-{self.told(uuid.uuid4().hex)}"
        if self.writes:
            folder.mkdir(parents=True, exist_ok=True)
            mark.touch()
        self.wait()
        own = 0 if mark.exists() else self.rank - int(os.environ.get("LOCAL_RANK", "0"))
        if own == 0 and not mark.exists():
            # Processes of one machine that see different disks, as in containers.
            own = self.rank
        ranks = tuple(sorted(set(self.collected(own))))
        if self.writes:
            mark.unlink()
        return Leaders(own, ranks)

    @contextlib.contextmanager
    def main_first(self, folder: Path) -> Iterator[None]:
        """Runs the block on those that write into a folder, then on the others: what is made there, they find.

        However long it takes: the others wait as long as those who work say that they live.

        Raises:
            LostProcessError: one of them is gone, or failed.
        """
        if self.world == 1:
            yield
            return
        leaders, key = self.leaders(folder), self.told(uuid.uuid4().hex)
        if self.rank == leaders.own:
            with worked(f"{key}/{self.rank}", self.timeout):
                yield
        self._await(key, leaders.ranks)
        if self.rank != leaders.own:
            yield

    def on(self, ranks: Sequence[int], work: Callable[[], Value]) -> Value | None:
        """Returns what `work` gives on some processes, None on the others, who wait for them however long it takes.

        Raises:
            BabelclipError: one of them raised it; now every process does.
            LostProcessError: one of them is gone.
        """
        if self.world == 1:
            return work()
        key, result, problem = self.told(uuid.uuid4().hex), None, ""
        if self.rank in ranks:
            with worked(f"{key}/{self.rank}", self.timeout):
                try:
                    result = work()
                except BabelclipError as error:
                    problem = str(error)
        self._await(key, ranks)
        problem = next((found for found in self.collected(problem) if found), "")
        if problem:
            raise BabelclipError(problem)
        return result

    def _await(self, key: str, ranks: Sequence[int]) -> None:
        failed = [rank for rank in ranks if not finished(f"{key}/{rank}", self.timeout)]
        if failed:
            raise LostProcessError(
                f"Process {failed[0]} of {self.world} has failed in work that the others need. Read why in its own "
                "output, then start all of them again with --resume."
            )

    @contextlib.contextmanager
    def watched(self, usable: Callable[[], str]) -> Iterator[None]:
        """Turns the many ways in which a backend reports a lost process into one error.

        Raises:
            LostProcessError: a process is gone; `usable` says where the run can go on.
        """
        try:
            yield
        except LostProcessError as error:
            raise LostProcessError(f"{error} {usable()}") from error
        except RuntimeError as error:
            lost = isinstance(error, dist.DistError) or any(word in str(error).lower() for word in _LOST)
            if self.world == 1 or not lost:
                raise
            # Without the place in the backend's source, and its advice.
            reason = re.sub(r"^\[[^]]*\]\s*", "", str(error).splitlines()[0]).partition(". ")[0]
            raise LostProcessError(
                f"Process {self.rank} of {self.world} lost another process of this run ({reason}). {usable()} "
                "Read why the other one ended in its own output, then start all of them again with --resume."
            ) from error


def connect(settings: Train) -> Processes:
    """Returns the processes of the run; `torchrun` and `accelerate launch` say in the environment who they are.

    May be called before the loop, which then uses the same process group.

    Raises:
        BabelclipError: the device does not have the precision.
        MissingExtraError: accelerate is not installed.
    """
    processes = Processes(build_accelerator(settings), settings.timeout)
    if processes.world > 1:
        atexit.register(_leave)
    return processes


def _leave() -> None:
    """Leaves the process group at the end of the program.

    A thread of the backend that still waits for the interpreter's lock, to drop its last tensors, aborts the program
    (exit code -6) when the interpreter ends before it got it. So it gets it, for longer than such a thread needs.
    """
    time.sleep(_LAST_WORK)
    if dist.is_initialized():
        dist.destroy_process_group()
        time.sleep(_LAST_WORK)


@dataclass(frozen=True)
class Ranks:
    """What a loss over the whole batch may know of the other processes.

    Attributes:
        rank: this process.
        world: how many there are.
        sizes: rows of the batch on each of them.
    """

    rank: int
    world: int
    sizes: Sequence[int]
    _no_sync: Callable[[], contextlib.AbstractContextManager[None]]
    _backward: Callable[[Tensor], None]

    @property
    def start(self) -> int:
        """The place of this process's first row in what `gather` returns."""
        return sum(self.sizes[: self.rank])

    def gather(self, rows: Tensor) -> Tensor:
        """Returns the rows of all processes (N, ...), given this one's (sizes[rank], ...), in the order of the plan.

        Floating-point rows carry their whole gradient: that of the losses of all processes.
        """
        if self.world == 1:
            return rows
        gathered: Tensor = _Gather.apply(rows, self.rank, tuple(self.sizes))  # type: ignore[no-untyped-call]
        return gathered

    @contextlib.contextmanager
    def part(self) -> Iterator[None]:
        """Around forward and `backward` of a part that is not the last of the batch: gradients stay on this process."""
        with self._no_sync():
            yield

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a part of the loss, scaled as the loop scales the loss that is returned to it."""
        self._backward(loss)


@dataclass(frozen=True)
class WholeBatchLoss:
    """Marks a loss that looks at rows of other processes; the loop calls `loss(model, batch, ranks)`.

    It returns the mean over the rows of this process, as any other; the loop weighs it by their number. What a gradient
    cache needs is in `Ranks.part` and `Ranks.backward`: all parts but the last are differentiated inside, and the loss
    that is returned carries the graph of the last part alone.
    """

    loss: Callable[[nn.Module, Any, Ranks], tuple[Tensor, Mapping[str, Tensor | float]]]


class _Gather(torch.autograd.Function):
    """All-gather of unequal parts; backward sums the gradients of all processes and takes the own part."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, sizes: tuple[int, ...]) -> Tensor:
        ctx.rank, ctx.sizes = rank, sizes
        largest = max(sizes)
        # Equal parts are all that every backend gathers.
        sent = rows.new_zeros((largest, *rows.shape[1:]))
        sent[: len(rows)] = rows
        received = [torch.empty_like(sent) for _ in sizes]
        dist.all_gather(received, sent)
        return torch.cat([part[:size] for part, size in zip(received, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _summed_part(gradients[0], ctx.rank, ctx.sizes), None, None


def _summed_part(gradient: Tensor, rank: int, sizes: Sequence[int]) -> Tensor:
    """Returns this process's rows of the sum over all processes."""
    # Newer versions of PyTorch have it for every backend; it sends half of what a sum of everything sends.
    scatter = getattr(dist, "reduce_scatter_single", None)
    if scatter is None:
        summed = gradient.contiguous().clone()
        dist.all_reduce(summed)
        start = sum(sizes[:rank])
        return summed[start : start + sizes[rank]]
    largest = max(sizes)
    sent = gradient.new_zeros((len(sizes), largest, *gradient.shape[1:]))
    for place, part in zip(sent, torch.split(gradient, list(sizes)), strict=True):
        place[: len(part)] = part
    own = torch.empty_like(sent[0])
    scatter(own, sent.flatten(0, 1))
    return own[: sizes[rank]]
