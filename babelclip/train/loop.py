"""The one training loop: optimiser, precision, processes, checkpoints, log. Every kind of training runs through `run`.

It knows neither texts nor pictures: it is given a model, a function from a batch to a loss, and a plan of batches.
A run is a function of (weights, data, settings): killed at any step and resumed, it ends bit-equal to a run that was
never stopped. For that, the order of the data follows from (seed, epoch), and a checkpoint holds weights, optimiser,
random states, cursor and the half-filled window of the log. Several processes share out each batch of the same plan.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import nn

from babelclip.errors import BabelclipError, did_you_mean
from babelclip.files import LockedError, lock_file
from babelclip.train import checkpoint
from babelclip.train.average import Average
from babelclip.train.batches import Batches
from babelclip.train.device import parallel_of, precision_of, stop_requested
from babelclip.train.layers import recomputed
from babelclip.train.log import Bar, NoLog, RunLog, training_bar
from babelclip.train.optimizer import build_optimizer, lr_at
from babelclip.train.patience import LostProcessError
from babelclip.train.processes import Leaders, Processes, Ranks, WholeBatchLoss, connect
from babelclip.train.recipe import Train
from babelclip.train.sharded import spread
from babelclip.train.state import Job, State, StepLoss, read, restore, save
from babelclip.train.step import LossError, counted_in_steps, optimizer_step, upcoming
from babelclip.train.trainable import trained_state

__all__ = [
    "LossError",
    "LostProcessError",
    "Processes",
    "Ranks",
    "RunResult",
    "StepLoss",
    "WholeBatchLoss",
    "connect",
    "counted_in_steps",
    "load_weights",
    "lr_at",
    "run",
]

Validate = Callable[[], Mapping[str, float]]
# Seconds for which a file server may hold the lock of a machine that is gone, while the others start again.
_LEASE = 120.0


@dataclasses.dataclass(frozen=True)
class RunResult:
    """How a run ended. `interrupted` runs were stopped by SIGINT or SIGTERM, saved, and can be resumed.

    A `finished` run whose `step` is below `steps` was stopped by `train.early_stop`. `asked`: this process got the
    signal itself; else another one of the run did.
    """

    status: Literal["finished", "interrupted"]
    step: int
    validation: dict[str, float]
    best_value: float | None
    best_step: int | None
    last: Path
    tokens: int
    examples: int
    seconds: float
    precision: str
    device: str
    steps: int = 0
    processes: int = 1
    asked: bool = False


def run(
    model: nn.Module,
    step_loss: StepLoss,
    batches: Batches,
    parameters: Mapping[str, nn.Parameter],
    settings: Train,
    out: Path | str,
    *,
    validate: Validate | None = None,
    after_step: Callable[[], None] | None = None,
    resume: bool = False,
    facts: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> RunResult:
    """Returns how the training ended; `model` then holds the weights that `settings.keep` names.

    Under `torchrun` or `accelerate launch` every process calls this with the same arguments, and has the same result.

    Args:
        model: is moved to the device; its train and eval modes are left as the caller set them. A step must call the
            module that it is given, not its parts: gradients of several processes meet there.
        step_loss: model and batch -> loss (a mean over the batch) and figures to log, under the same names each time;
            a `WholeBatchLoss` where rows of other processes count.
        batches: the data. One optimiser step takes `settings.accumulation` batches, weighted by their sizes. Several
            processes take a part of each, so batch sizes are those of all of them together.
        parameters: what trains, by name. Nothing else is written to checkpoints.
        settings: the recipe's [train].
        out: folder for `log.jsonl` and `checkpoints/`; the same path for all processes. Machines that do not see one
            disk there keep a copy each, and a resumed run takes the newest of any.
        validate: returns figures such as {"mse": …, "mse/sv": …}; called at the start and every
            `settings.validate_every` steps, and once at the end. The model then holds the moving average of its
            weights, if one is kept. Every process calls it, and rank 0's figures count; under FSDP it must call the
            model itself.
        after_step: called after each optimiser step, for example to clamp a parameter.
        resume: go on from the last checkpoint in `out`; without one, start.
        facts: JSON content that says what the run computes; a resumed run must have the same.
        about: JSON content to keep in the checkpoints, not compared.
        progress: show a bar on stderr when it is a terminal.

    Raises:
        BabelclipError: `out` holds a run and `resume` is false; the recipe changed; a checkpoint cannot be written.
        LossError: the loss is not finite; the last checkpoint stays usable.
        LostProcessError: another process of the run is gone.
        MissingExtraError: accelerate is not installed.
    """
    out = Path(out)
    processes = connect(settings)
    with processes.watched(lambda: checkpoint.usable(out)), contextlib.ExitStack() as folder:
        leaders = _open_folder(out, resume, processes, folder)
        content = {"train": dataclasses.asdict(settings), "precision": precision_of(processes.accelerator)}
        content = checkpoint.as_json({**content, **(facts or {})})
        settings = counted_in_steps(settings, batches)
        model.to(processes.device)
        with contextlib.ExitStack() as stack:
            if settings.gradient_checkpointing:
                stack.enter_context(recomputed(model))
            held = stack.enter_context(spread(model, parameters, processes, parallel_of(settings)))
            optimizer = processes.accelerator.prepare_optimizer(build_optimizer(held.parameters, settings))
            average = Average(held.parameters, settings.ema) if settings.ema else None
            job = Job(
                model,
                held,
                step_loss,
                batches,
                optimizer,
                average,
                processes,
                settings,
                out,
                leaders,
                content,
                dict(about or {}),
            )
            status, state, asked = _run(job, resume, validate, after_step, progress)
        if status == "finished" and settings.keep == "best" and state.best_step is not None:
            load_weights(model, parameters, out, state.best_step, processes)
    last = checkpoint.folder_of(out, state.step)
    kept = (state.validation, state.best_value, state.best_step, last, state.tokens, state.examples, state.seconds)
    where = (precision_of(processes.accelerator), str(processes.device), settings.steps, processes.world, asked)
    return RunResult(status, state.step, *kept, *where)


def load_weights(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], out: Path, step: int, processes: Processes
) -> None:
    """Puts the weights of a checkpoint into the model, their moving average where the run kept one.

    They come from the first process that has them.

    Raises:
        BabelclipError: the checkpoint is nowhere, is damaged, or belongs to another model.
    """
    folder = checkpoint.folder_of(out, step)
    there = processes.collected(folder.exists())
    if not any(there):
        raise BabelclipError(
            f"The weights of step {step:,} are in {folder}, which none of the machines has: a lost one may have had "
            "it. Take those of the last step with --set train.keep=last, or give all machines one folder."
        )
    weights, average, _, _ = read(processes, out, step, there.index(True))
    checkpoint.restore_weights(trained_state(model, parameters), weights | (average or {}), folder)


def _open_folder(out: Path, resume: bool, processes: Processes, held: contextlib.ExitStack) -> Leaders:
    """Returns who writes on each disk; they hold the lock of `out` there until `held` is closed."""
    leaders = processes.leaders(out)

    def check() -> None:
        out.mkdir(parents=True, exist_ok=True)
        held.callback(_lock(out, _LEASE if processes.world > 1 else 0.0))
        checkpoint.sweep(out)
        steps = checkpoint.saved_steps(out)
        if steps and not resume:
            raise BabelclipError(
                f"{out} already holds a run at step {steps[-1]}. Resume it (--resume), or choose another folder."
            )

    processes.on(leaders.ranks, check)
    return leaders


def _lock(out: Path, patience: float) -> Callable[[], None]:
    """Takes the lock of a run's folder, waiting for so many seconds, and returns what gives it back."""
    until = time.monotonic() + patience
    while True:
        try:
            return lock_file(out / ".lock")
        except LockedError as error:
            if time.monotonic() >= until:
                raise BabelclipError(
                    f"{out} is being trained into by process {error.holder}. One run at a time writes a folder: wait "
                    "for it, or stop it, which saves what it has, or choose another folder."
                ) from error
        time.sleep(1)


def _run(
    job: Job, resume: bool, validate: Validate | None, after_step: Callable[[], None] | None, progress: bool
) -> tuple[Literal["finished", "interrupted"], State, bool]:
    checkpoint.seed_everything(job.settings.seed, job.processes.rank)
    state = restore(job) if resume else State()
    writes = job.processes.writes
    log: RunLog | NoLog = NoLog()
    if job.processes.rank == job.leaders.own:
        usable = functools.partial(checkpoint.usable, job.out)
        settings = job.settings if writes else dataclasses.replace(job.settings, tensorboard=False, wandb=False)
        log = RunLog(job.out, settings, resumed_step=state.step, usable=usable)
    with (
        contextlib.closing(log),
        stop_requested() as stop,
        training_bar(job.settings.steps, state.step, shown=progress and writes) as bar,
    ):
        status = _train(job, state, log, bar, stop, validate, after_step)
    if job.average is not None:
        job.average.apply()
    return status, state, stop.is_set()


def _train(
    job: Job,
    state: State,
    log: RunLog | NoLog,
    bar: Bar,
    stop: threading.Event,
    validate: Validate | None,
    after_step: Callable[[], None] | None,
) -> Literal["finished", "interrupted"]:
    settings, saved, better = job.settings, state.step if state.step else -1, False
    if validate and settings.validate_every and state.step == 0:
        # A run that was killed before its first step measures its start again, as if it had not before.
        state.best_value, state.best_step, state.stale = None, None, 0
        save(job, state, log, best=_validate(job, state, log, bar, validate))
    stopping = job.processes.any(stop.is_set())
    with contextlib.closing(upcoming(job, state)) as batches:
        while not stopping and not _over(state, settings):
            started, tokens = time.monotonic(), state.tokens
            figures, stopping = optimizer_step(job, state, next(batches), stop=stop.is_set())
            if after_step:
                after_step()
            if job.average is not None:
                job.average.update(state.step)
            if job.processes.world == 1:
                # Nobody else has to know first.
                stopping = stop.is_set()
            state.seconds += time.monotonic() - started
            bar.step(figures["loss"], figures["lr"], state.tokens - tokens)
            _log(job, state, log, figures)
            due = settings.validate_every and state.step % settings.validate_every == 0
            if validate and (due or state.step == settings.steps):
                better = _validate(job, state, log, bar, validate)
                # It may have taken long.
                stopping = job.processes.any(stop.is_set())
            due = settings.save_every and state.step % settings.save_every == 0
            if due or better or stopping or _over(state, settings):
                save(job, state, log, best=better)
                saved, better = state.step, False
    if stopping and saved != state.step:
        save(job, state, log, best=False)
    return "finished" if _over(state, settings) else "interrupted"


def _over(state: State, settings: Train) -> bool:
    return state.step >= settings.steps or bool(settings.early_stop and state.stale >= settings.early_stop)


def _log(job: Job, state: State, log: RunLog | NoLog, figures: Mapping[str, float]) -> None:
    """Adds a step to the window; every `log_every` steps writes the means of the window and empties it."""
    for name, value in figures.items():
        state.window[name] = state.window.get(name, 0.0) + value
    state.window["steps"] = state.window.get("steps", 0) + 1
    if state.step % job.settings.log_every and state.step != job.settings.steps:
        return
    count = state.window.pop("steps")
    means = {name: value / count for name, value in state.window.items()} | {"lr": figures["lr"]}
    rate = state.tokens / max(state.seconds, 1e-9)
    counters = {"epoch": state.epoch, "tokens": state.tokens, "seconds": state.seconds, "tokens_per_second": rate}
    log.write("train", state.step, means | counters)
    state.window = {}


def _validate(job: Job, state: State, log: RunLog | NoLog, bar: Bar, validate: Validate) -> bool:
    """Runs the caller's validation without touching modes or random states; returns whether it is the best so far."""
    modes = [(module, module.training) for module in job.model.modules()]
    states = checkpoint.random_states()
    job.spread.fresh()
    with job.average.applied() if job.average is not None else contextlib.nullcontext():
        figures = {name: float(value) for name, value in validate().items()}
    job.spread.fresh()
    figures = job.processes.told(figures)
    checkpoint.restore_random_states(states)
    for module, training in modes:
        module.training = training
    log.write("validate", state.step, figures)
    state.validation = figures
    wanted = job.settings.best_metric or next(iter(figures), "")
    if wanted not in figures:
        if state.step:
            # Where nothing is measured on the way it is found at the end, which must not cost the run.
            save(job, state, log, best=False)
        raise BabelclipError(
            f"train.best_metric = {wanted!r} was not measured. {did_you_mean(wanted, figures)} Correct it, then go on "
            "with --resume."
        )
    value, best = figures[wanted], state.best_value
    better = best is None or (value > best if job.settings.best_is == "highest" else value < best)
    better = better and math.isfinite(value)
    state.stale = 0 if better else state.stale + 1
    if better:
        state.best_value, state.best_step = value, state.step
    known = f", best {state.best_value:.4g} at step {state.best_step:,}" if state.best_value is not None else ""
    bar.validated(f"validation at step {state.step:,}: {wanted} {value:.4g}{known}")
    return better
