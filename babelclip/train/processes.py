"""The processes of a run: who writes, what all of them agree on, and features of all of them in one place.

Every process makes the same plan of batches and takes its share of each, so that several give the losses and the
weights that one process gives with the same batches. One process needs no process group: everything here is then the
identity. Entry points: `connect`, `Processes`, `WholeBatchLoss`.
"""

from __future__ import annotations

import atexit
import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist

from babelclip.errors import BabelclipError
from babelclip.train.device import build_accelerator
from babelclip.train.recipe import Train

Value = TypeVar("Value")

# How backends say that the other side is gone or silent; their error classes differ.
_LOST = ("connection closed", "connection reset", "broken pipe", "connection refused", "timed out", "timeout", "nccl")


# Seconds, many times what a thread takes to let go of a tensor.
_LAST_WORK = 0.2


class LostProcessError(BabelclipError):
    """Another process of the run ended or fell silent."""


class Processes:
    """The processes of a run, seen from one of them; `rank` 0 alone writes.

    Example:
        >>> processes = connect(Train(device="cpu", precision="fp32"))
        >>> processes.rank, processes.world, processes.total(torch.tensor([2.0])).tolist()
        (0, 1, [2.0])
    """

    def __init__(self, accelerator: Any) -> None:
        """Takes the accelerator that has joined the process group."""
        self.accelerator = accelerator
        self.rank: int = accelerator.process_index
        self.world: int = accelerator.num_processes
        self.device: torch.device = accelerator.device

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes files and shows progress."""
        return self.rank == 0

    def share(self, rows: np.ndarray) -> np.ndarray:
        """Returns this process's part of a batch: the parts of all ranks, one after the other, are the batch."""
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

    def told(self, value: Value) -> Value:
        """Returns what rank 0 gave; small things only."""
        if self.world == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
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

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """Runs the block on rank 0, then on the others: what rank 0 makes in a folder, the others find there."""
        if not self.writes:
            self.wait()
        yield
        if self.writes:
            self.wait()

    @contextlib.contextmanager
    def watched(self, usable: Callable[[], str]) -> Iterator[None]:
        """Turns the many ways in which a backend reports a lost process into one error.

        Raises:
            LostProcessError: a process is gone; `usable` says where the run can go on.
        """
        try:
            yield
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
    processes = Processes(build_accelerator(settings))
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
        summed = gradients[0].contiguous().clone()
        dist.all_reduce(summed)
        start = sum(ctx.sizes[: ctx.rank])
        return summed[start : start + ctx.sizes[ctx.rank]], None, None
