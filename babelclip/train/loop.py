"""The one training loop: optimiser, precision, schedule, checkpoints, log. Every kind of training runs through `run`.

It knows neither texts nor pictures: it is given a model, a function from a batch to a loss, and a plan of batches.
A run is a function of (weights, data, settings): killed at any step and resumed, it ends bit-equal to a run that was
never stopped. For that, the order of the data follows from (seed, epoch), and a checkpoint holds weights, optimiser,
random states, cursor and the half-filled window of the log.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from babelclip.errors import BabelclipError, did_you_mean
from babelclip.files import write_json
from babelclip.train import checkpoint
from babelclip.train.batches import Batches
from babelclip.train.device import build_accelerator, placed, precision_of, stop_requested
from babelclip.train.log import RunLog, training_bar
from babelclip.train.recipe import Train
from babelclip.train.trainable import parameter_groups, trained_state

StepLoss = Callable[[nn.Module, Any], tuple[Tensor, Mapping[str, "Tensor | float"]]]


class LossError(BabelclipError):
    """The loss or the gradient is no longer a finite number."""


@dataclasses.dataclass
class State:
    """The place that a run has reached; the part of a checkpoint that is plain numbers."""

    step: int = 0
    epoch: int = 0
    position: int = 0
    tokens: int = 0
    examples: int = 0
    seconds: float = 0.0
    best_value: float | None = None
    best_step: int | None = None
    validation: dict[str, float] = dataclasses.field(default_factory=dict)
    window: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class RunResult:
    """How a run ended. `interrupted` runs were stopped by SIGINT or SIGTERM, saved, and can be resumed."""

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


class _Job(NamedTuple):
    """The parts that a step needs, fixed for the whole run."""

    model: nn.Module
    step_loss: StepLoss
    batches: Batches
    parameters: Mapping[str, nn.Parameter]
    optimizer: Any
    accelerator: Any
    settings: Train
    out: Path
    facts: dict[str, Any]
    about: dict[str, Any]


def lr_at(step: int, *, steps: int, warmup_steps: int, schedule: str) -> float:
    """Returns the factor in 0..1 on the peak learning rate for a step, counted from 0.

    Linear warm-up that reaches 1 at the last of `warmup_steps`, then `constant`, or `linear` or half a `cosine` down
    to 0 at `steps`.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    done = (step - warmup_steps) / max(steps - warmup_steps, 1)
    return 1.0 - done if schedule == "linear" else (1.0 + math.cos(math.pi * done)) / 2


def run(
    model: nn.Module,
    step_loss: StepLoss,
    batches: Batches,
    parameters: Mapping[str, nn.Parameter],
    settings: Train,
    out: Path | str,
    *,
    validate: Callable[[], Mapping[str, float]] | None = None,
    after_step: Callable[[], None] | None = None,
    resume: bool = False,
    facts: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> RunResult:
    """Returns how the training ended; `model` then holds the weights that `settings.keep` names.

    Args:
        model: is moved to the device; its train and eval modes are left as the caller set them.
        step_loss: model and batch -> loss (a mean over the batch) and figures to log.
        batches: the data. One optimiser step takes `settings.accumulation` batches, weighted by their sizes.
        parameters: what trains, by name. Nothing else is written to checkpoints.
        settings: the recipe's [train].
        out: folder for `log.jsonl` and `checkpoints/`.
        validate: returns figures such as {"mse": …, "mse/sv": …}; called at the start and every
            `settings.validate_every` steps, and once at the end.
        after_step: called after each optimiser step, for example to clamp a parameter.
        resume: go on from the last checkpoint in `out`; without one, start.
        facts: JSON content that says what the run computes; a resumed run must have the same.
        about: JSON content to keep in the checkpoints, not compared.
        progress: show a bar on stderr when it is a terminal.

    Raises:
        BabelclipError: `out` holds a run and `resume` is false; the recipe changed; a checkpoint cannot be written.
        LossError: the loss is not finite; the last checkpoint stays usable.
        MissingExtraError: accelerate is not installed.
    """
    out = Path(out)
    checkpoint.sweep(out)
    _check_folder(out, resume)
    accelerator = build_accelerator(settings)
    model = placed(model, accelerator)
    optimizer = accelerator.prepare_optimizer(_optimizer(parameters, settings))
    facts = {"train": dataclasses.asdict(settings), "precision": precision_of(accelerator), **(facts or {})}
    job = _Job(
        model,
        step_loss,
        batches,
        parameters,
        optimizer,
        accelerator,
        settings,
        out,
        checkpoint.as_json(facts),
        dict(about or {}),
    )
    checkpoint.seed_everything(settings.seed)
    state = _restored(job) if resume else State()
    out.mkdir(parents=True, exist_ok=True)
    log = RunLog(out, resumed_step=state.step, tensorboard=settings.tensorboard)
    with contextlib.closing(log), stop_requested() as stop:
        status = _train(job, state, log, stop, validate, after_step, progress)
    if status == "finished" and settings.keep == "best" and state.best_step is not None:
        load_weights(model, parameters, out, state.best_step)
    last = checkpoint.folder_of(out, state.step)
    kept = (state.validation, state.best_value, state.best_step, last, state.tokens, state.examples, state.seconds)
    return RunResult(status, state.step, *kept, precision_of(accelerator), str(accelerator.device))


def load_weights(model: nn.Module, parameters: Mapping[str, nn.Parameter], out: Path, step: int) -> None:
    """Puts the weights of a checkpoint into the model.

    Raises:
        BabelclipError: the checkpoint is damaged or belongs to another model.
    """
    weights, _, _ = checkpoint.load(out, step)
    checkpoint.restore_weights(trained_state(model, parameters), weights, checkpoint.folder_of(out, step))


def _train(
    job: _Job,
    state: State,
    log: RunLog,
    stop: threading.Event,
    validate: Callable[[], Mapping[str, float]] | None,
    after_step: Callable[[], None] | None,
    progress: bool,
) -> Literal["finished", "interrupted"]:
    settings, saved, better = job.settings, state.step if state.step else -1, False
    if validate and settings.validate_every and state.step == 0:
        better = _validate(job, state, log, validate)
        _save(job, state, log, better)
    steps = _micro_batches(job, state)
    with training_bar(settings.steps, state.step, shown=progress) as advance:
        while state.step < settings.steps and not stop.is_set():
            started = time.monotonic()
            tokens_before = state.tokens
            figures = _step(job, state, steps)
            if after_step:
                after_step()
            state.seconds += time.monotonic() - started
            rate = (state.tokens - tokens_before) / max(time.monotonic() - started, 1e-9)
            advance(figures["loss"], rate)
            _log(job, state, log, figures)
            ends = state.step == settings.steps
            if validate and (ends or (settings.validate_every and state.step % settings.validate_every == 0)):
                better = _validate(job, state, log, validate)
            if ends or stop.is_set() or better or (settings.save_every and state.step % settings.save_every == 0):
                _save(job, state, log, better)
                saved, better = state.step, False
    if stop.is_set() and saved != state.step:
        _save(job, state, log, False)
    return "finished" if state.step == settings.steps else "interrupted"


def _micro_batches(job: _Job, state: State) -> Iterator[list[np.ndarray]]:
    """Yields the batches of one optimiser step after another, and moves the cursor past them."""
    plan = job.batches.plan(state.epoch)
    while True:
        taken: list[np.ndarray] = []
        while len(taken) < job.settings.accumulation:
            if state.position == len(plan):
                state.epoch, state.position = state.epoch + 1, 0
                plan = job.batches.plan(state.epoch)
            if not plan:
                raise BabelclipError("There is no caption to train on: give captions, or weights above 0.")
            taken.append(plan[state.position])
            state.position += 1
        yield taken


def _step(job: _Job, state: State, micro_batches: Iterator[list[np.ndarray]]) -> dict[str, float]:
    """Makes one optimiser step and returns loss, figures, gradient norm and learning rate."""
    from accelerate.utils import send_to_device

    settings = job.settings
    factor = lr_at(state.step, steps=settings.steps, warmup_steps=settings.warmup_steps, schedule=settings.schedule)
    for group in job.optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    taken = next(micro_batches)
    total = sum(len(rows) for rows in taken)
    figures: dict[str, float] = {"loss": 0.0}
    for rows in taken:
        batch = send_to_device(job.batches.load(rows), job.accelerator.device)
        with job.accelerator.autocast():
            loss, extra = job.step_loss(job.model, batch)
        # By size, so that accumulating gives the gradient of one large batch even where sizes differ.
        share = len(rows) / total
        job.accelerator.backward(loss * share)
        for name, value in {"loss": loss.detach(), **extra}.items():
            figures[name] = figures.get(name, 0.0) + float(value) * share
        state.tokens += job.batches.tokens(rows)
        state.examples += len(rows)
    norm = job.accelerator.clip_grad_norm_(list(job.parameters.values()), settings.clip_norm or math.inf)
    _check_finite(job, state.step, figures["loss"], float(norm))
    job.optimizer.step()
    job.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    return {**figures, "grad_norm": float(norm), "lr": settings.lr * factor}


def _check_finite(job: _Job, step: int, loss: float, norm: float) -> None:
    # In fp16 the gradient scaler finds its factor by overflowing, and skips those steps by itself.
    scaled = precision_of(job.accelerator) == "fp16"
    if math.isfinite(loss) and (scaled or math.isfinite(norm)):
        return
    raise LossError(
        f"The loss is {loss:g} and the gradient norm {norm:g} at step {step + 1}; both must be finite. "
        f"{checkpoint.usable(job.out)} Lower train.lr (now {job.settings.lr:g}), lengthen train.warmup_steps, or set "
        'train.precision = "fp32"; look for targets that are not finite.'
    )


def _log(job: _Job, state: State, log: RunLog, figures: Mapping[str, float]) -> None:
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


def _validate(job: _Job, state: State, log: RunLog, validate: Callable[[], Mapping[str, float]]) -> bool:
    """Runs the caller's validation without touching modes or random states; returns whether it is the best so far."""
    modes = [(module, module.training) for module in job.model.modules()]
    states = checkpoint.random_states()
    figures = {name: float(value) for name, value in validate().items()}
    checkpoint.restore_random_states(states)
    for module, training in modes:
        module.training = training
    log.write("validate", state.step, figures)
    state.validation = figures
    wanted = job.settings.best_metric or next(iter(figures), "")
    if wanted not in figures:
        raise BabelclipError(f"train.best_metric = {wanted!r} was not measured. {did_you_mean(wanted, figures)}")
    value, best = figures[wanted], state.best_value
    if job.settings.best_is == "highest":
        better = best is None or value > best
    else:
        better = best is None or value < best
    if better and math.isfinite(value):
        state.best_value, state.best_step = value, state.step
        return True
    return False


def _save(job: _Job, state: State, log: RunLog, best: bool) -> None:
    log.sync()
    inner = {"optimizer": job.optimizer.state_dict(), "random": checkpoint.random_states(), "scaler": None}
    if job.accelerator.scaler is not None:
        inner["scaler"] = job.accelerator.scaler.state_dict()
    weights = trained_state(job.accelerator.unwrap_model(job.model), job.parameters)
    content = {**dataclasses.asdict(state), "facts": job.facts, "about": job.about}
    checkpoint.save(job.out, state.step, weights=weights, optimizer=inner, state=content, best=best)


def _restored(job: _Job) -> State:
    """Returns the state of the last checkpoint, with all it holds put back; a new state if there is none."""
    steps = checkpoint.saved_steps(job.out)
    if not steps:
        return State()
    folder = checkpoint.folder_of(job.out, steps[-1])
    weights, inner, content = checkpoint.load(job.out, steps[-1])
    checkpoint.check_same_run(content.pop("facts"), job.facts, folder)
    content.pop("about")
    state = State(**content)
    model = job.accelerator.unwrap_model(job.model)
    checkpoint.restore_weights(trained_state(model, job.parameters), weights, folder)
    job.optimizer.load_state_dict(inner["optimizer"])
    if inner["scaler"] is not None:
        job.accelerator.scaler.load_state_dict(inner["scaler"])
    checkpoint.restore_random_states(inner["random"])
    if state.best_step is not None and state.best_step != checkpoint.best_step(job.out):
        # Killed between the checkpoint and its pointer.
        write_json(job.out / "checkpoints" / "best.json", {"step": state.best_step, "folder": folder.name})
    return state


def _check_folder(out: Path, resume: bool) -> None:
    steps = checkpoint.saved_steps(out)
    if steps and not resume:
        raise BabelclipError(
            f"{out} already holds a run at step {steps[-1]}. Resume it (--resume), or choose another folder."
        )


def _optimizer(parameters: Mapping[str, nn.Parameter], settings: Train) -> torch.optim.Optimizer:
    groups = parameter_groups(parameters, settings)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps)
