"""One optimiser step: the next batches, this process's share of each, gradients, and what all processes then know."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from babelclip.errors import BabelclipError
from babelclip.train import checkpoint
from babelclip.train.batches import Batches
from babelclip.train.device import precision_of
from babelclip.train.optimizer import lr_at
from babelclip.train.processes import Ranks, WholeBatchLoss
from babelclip.train.recipe import Train
from babelclip.train.sharded import full, is_part
from babelclip.train.state import Job, State


class LossError(BabelclipError):
    """The loss or the gradient is no longer a finite number."""


class Taken(NamedTuple):
    """The batches of one optimiser step: their rows, this process's share as tensors, and the cursor behind them."""

    rows: list[np.ndarray]
    tensors: list[Any]
    epoch: int
    position: int


def counted_in_steps(settings: Train, batches: Batches) -> Train:
    """Returns the settings with `steps` for the whole run; where `epochs` counts, an epoch is as long as the first."""
    if not settings.epochs:
        return settings
    steps = math.ceil(settings.epochs * len(batches.plan(0)) / settings.accumulation)
    return dataclasses.replace(settings, steps=max(steps, 1))


def upcoming(job: Job, state: State) -> Generator[Taken, None, None]:
    """Yields the batches of one step after another, from the cursor on; the reader moves the cursor."""
    ahead = steps_ahead(job.processes.device)
    plans = _planned(job, state.epoch, state.position)
    if not ahead:
        for rows, epoch, position in plans:
            yield Taken(rows, [_read(job, batch) for batch in rows], epoch, position)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="read") as reader:
        waiting: deque[Any] = deque()
        for rows, epoch, position in plans:
            waiting.append((rows, [reader.submit(_read, job, batch) for batch in rows], epoch, position))
            if len(waiting) > ahead:
                rows, futures, epoch, position = waiting.popleft()
                yield Taken(rows, [future.result() for future in futures], epoch, position)


def steps_ahead(device: torch.device) -> int:
    """Returns for how many steps batches are read while the device computes; on a CPU reading only takes its turn."""
    return 0 if device.type == "cpu" else 2


def _planned(job: Job, epoch: int, position: int) -> Iterator[tuple[list[np.ndarray], int, int]]:
    plan = job.batches.plan(epoch)
    while True:
        taken: list[np.ndarray] = []
        while len(taken) < job.settings.accumulation:
            if position == len(plan):
                epoch, position = epoch + 1, 0
                plan = job.batches.plan(epoch)
            if not plan:
                raise BabelclipError("There is no caption to train on: give captions, or weights above 0.")
            taken.append(plan[position])
            position += 1
        yield taken, epoch, position


def _read(job: Job, rows: np.ndarray) -> Any:
    own = job.processes.share(rows)
    # A process without a row makes the step with one that weighs nothing: the others wait for its gradients.
    return job.batches.load(own if len(own) else rows[:1])


def optimizer_step(job: Job, state: State, taken: Taken, *, stop: bool) -> tuple[dict[str, float], bool]:
    """Makes one step; returns its figures over all processes, and whether one of them is asked to stop.

    Raises:
        LossError: loss or gradient are not finite; the weights are as before the step.
    """
    settings = job.settings
    factor = lr_at(
        state.step,
        steps=settings.steps,
        warmup_steps=settings.warmup_steps,
        schedule=settings.schedule,
        lr=settings.lr,
        lr_steps=settings.lr_steps,
    )
    for group in job.optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    total = sum(len(rows) for rows in taken.rows)
    sums: dict[str, Any] = {}
    for place, (rows, tensors) in enumerate(zip(taken.rows, taken.tensors, strict=True)):
        last = place == len(taken.rows) - 1
        # By size, so that accumulating, and sharing out, gives the gradient of one large batch even where sizes differ.
        share = len(job.processes.share(rows)) / total
        with contextlib.nullcontext() if last else job.spread.no_sync():
            for name, value in _gradients(job, rows, tensors, share, last).items():
                sums[name] = sums.get(name, 0.0) + value * share
        state.tokens += job.batches.tokens(rows)
        state.examples += len(rows)
    job.processes.accelerator.unscale_gradients()
    norm = _clip(job)
    figures, stop = _over_all(job, sums, norm, stop)
    _check_finite(job, state.step, figures["loss"], figures["grad_norm"])
    job.optimizer.step()
    job.optimizer.zero_grad(set_to_none=True)
    state.step, state.epoch, state.position = state.step + 1, taken.epoch, taken.position
    return {**figures, "lr": settings.lr * factor}, stop


def _gradients(job: Job, rows: np.ndarray, tensors: Any, share: float, last: bool) -> dict[str, Tensor | float]:
    """Adds the gradients of this process's share of a batch; returns loss and figures, means over that share."""
    from accelerate.utils import send_to_device

    accelerator, processes = job.processes.accelerator, job.processes

    def backward(loss: Tensor) -> None:
        # Processes average their gradients, but the loss is a mean over rows.
        accelerator.backward(loss * (share * processes.world))

    batch = send_to_device(tensors, processes.device, non_blocking=True)
    with accelerator.autocast():
        if isinstance(job.step_loss, WholeBatchLoss):
            no_sync = job.spread.no_sync if last else contextlib.nullcontext
            sizes = processes.sizes(rows)
            if not min(sizes):
                raise BabelclipError(
                    f"A batch of {len(rows)} rows cannot be shared by {processes.world} processes, and this loss needs "
                    "all of it: raise train.batch_size, or start fewer processes."
                )
            ranks = Ranks(processes.rank, processes.world, sizes, no_sync, backward)
            loss, figures = job.step_loss.loss(job.spread.model, batch, ranks)
        else:
            loss, figures = job.step_loss(job.spread.model, batch)
    backward(loss)
    detached = {name: value.detach() if isinstance(value, Tensor) else value for name, value in figures.items()}
    return {"loss": loss.detach(), **detached}


def _clip(job: Job) -> Tensor:
    """Clips the gradients and returns their norm before; parts and whole ones are measured each in their way."""
    parameters = [parameter for parameter in job.spread.parameters.values() if parameter.grad is not None]
    kinds = [[p for p in parameters if is_part(p) is wanted] for wanted in (True, False)]
    norms = [full(get_total_norm([p.grad for p in kind if p.grad is not None])) for kind in kinds if kind]
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    if job.settings.clip_norm:
        for kind in kinds:
            clip_grads_with_norm_(kind, job.settings.clip_norm, norm)
    return norm


def _over_all(job: Job, sums: Mapping[str, Any], norm: Tensor, stop: bool) -> tuple[dict[str, float], bool]:
    """Returns the figures summed over processes, and whether any is to stop: one transfer, one wait for the device."""
    names = sorted(sums)
    dtype = torch.float32 if job.processes.device.type == "mps" else torch.float64
    row = [
        torch.as_tensor(value, dtype=dtype, device=norm.device).reshape(())
        for value in (*(sums[n] for n in names), stop)
    ]
    *values, stops, measured = torch.cat([job.processes.total(torch.stack(row)), norm.to(dtype)[None]]).tolist()
    return {**dict(zip(names, values, strict=True)), "grad_norm": measured}, stops > 0


def _check_finite(job: Job, step: int, loss: float, norm: float) -> None:
    # In fp16 the gradient scaler finds its factor by overflowing, and skips those steps by itself.
    scaled = precision_of(job.processes.accelerator) == "fp16"
    if math.isfinite(loss) and (scaled or math.isfinite(norm)):
        return
    raise LossError(
        f"The loss is {loss:g} and the gradient norm {norm:g} at step {step + 1}; both must be finite. "
        f"{checkpoint.usable(job.out)} Lower train.lr (now {job.settings.lr:g}), lengthen train.warmup_steps, or set "
        'train.precision = "fp32"; look for targets that are not finite.'
    )
