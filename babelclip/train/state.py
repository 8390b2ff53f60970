"""What a run is made of, the place it has reached, and how both are saved and put back."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn

from babelclip.files import write_json
from babelclip.train import checkpoint
from babelclip.train.average import Average
from babelclip.train.batches import Batches
from babelclip.train.handover import handed_over
from babelclip.train.log import NoLog, RunLog
from babelclip.train.processes import Leaders, Processes, WholeBatchLoss
from babelclip.train.recipe import Train
from babelclip.train.sharded import Spread, full, is_part, like
from babelclip.train.trainable import trained_state

_LOG = logging.getLogger(__name__)

StepLoss: TypeAlias = "Callable[[nn.Module, Any], tuple[Tensor, Mapping[str, Tensor | float]]] | WholeBatchLoss"


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
    # Validations since the best one.
    stale: int = 0
    validation: dict[str, float] = dataclasses.field(default_factory=dict)
    window: dict[str, float] = dataclasses.field(default_factory=dict)


class Job(NamedTuple):
    """The parts of a run that stay the same.

    `model` is the caller's; a step calls `spread.model`, and what trains is `spread.parameters`. `settings.steps`
    counts the whole run, also where the recipe counts epochs. `leaders` write checkpoints and log.
    """

    model: nn.Module
    spread: Spread
    step_loss: StepLoss
    batches: Batches
    optimizer: Any
    average: Average | None
    processes: Processes
    settings: Train
    out: Path
    leaders: Leaders
    facts: dict[str, Any]
    about: dict[str, Any]


def save(job: Job, state: State, log: RunLog | NoLog, *, best: bool) -> None:
    """Writes a checkpoint, with the random states of all processes; rank 0 does, or one process of each machine.

    Raises:
        BabelclipError: it could not be written; every process says so.
    """
    log.sync()
    scaler = job.processes.accelerator.scaler
    keeps = job.processes.rank == job.leaders.own
    trained = trained_state(job.model, job.spread.parameters)
    weights = {name: _gathered(tensor, keeps) for name, tensor in trained.items()}
    average = None
    if job.average is not None:
        average = {name: _gathered(tensor, keeps) for name, tensor in job.average.weights.items()}
    inner = {
        "optimizer": _whole(job.optimizer.state_dict(), keeps),
        "random": job.processes.collected(checkpoint.random_states()),
        "scaler": None if scaler is None else scaler.state_dict(),
    }
    content = {**dataclasses.asdict(state), "facts": job.facts, "about": job.about}
    write = functools.partial(
        checkpoint.save, job.out, state.step, weights=weights, average=average, optimizer=inner, state=content
    )
    job.processes.on(job.leaders.ranks, lambda: write(best=best))


def restore(job: Job) -> State:
    """Returns the state of the last checkpoint, with all it holds put back; a new state if there is none.

    Raises:
        BabelclipError: the checkpoint is damaged, or belongs to another run.
    """
    found = newest(job.processes, job.out)
    if found is None:
        return State()
    step, source = found
    folder = checkpoint.folder_of(job.out, step)
    weights, average, inner, content = read(job.processes, job.out, step, source)
    before = content.pop("facts")
    checkpoint.check_same_run(before, job.facts, folder)
    content.pop("about")
    state = State(**content)
    if any(before["train"].get(key) != job.facts["train"][key] for key in ("best_metric", "best_is")):
        # The best by another measure; which step is best by this one has not been asked yet.
        state.best_value, state.best_step, state.stale = None, None, 0
    checkpoint.restore_weights(trained_state(job.model, job.spread.parameters), weights, folder)
    if job.average is not None:
        checkpoint.restore_weights(job.average.weights, average or {}, folder)
    job.optimizer.load_state_dict(_spread_out(inner["optimizer"], job.optimizer))
    if inner["scaler"] is not None:
        job.processes.accelerator.scaler.load_state_dict(inner["scaler"])
    _restore_random(job, state, inner["random"])
    best, leads = state.best_step, job.processes.rank == job.leaders.own
    if leads and best is not None and best != checkpoint.best_step(job.out):
        # Killed between the checkpoint and its pointer.
        name = checkpoint.folder_of(job.out, best).name
        write_json(job.out / "checkpoints" / "best.json", {"step": best, "folder": name})
    return state


def newest(processes: Processes, out: Path) -> tuple[int, int] | None:
    """Returns the last step that any process sees a checkpoint of, and the first process that does; None without one.

    Processes may be told another rank when they are started again, and machines that share no disk may have lost some.
    """
    last = [steps[-1] if steps else -1 for steps in processes.collected(checkpoint.saved_steps(out))]
    step = max(last)
    return None if step < 0 else (step, last.index(step))


def read(
    processes: Processes, out: Path, step: int, source: int
) -> tuple[dict[str, Tensor], dict[str, Tensor] | None, dict[str, Any], Any]:
    """Returns weights, their average, optimiser content and state of a checkpoint; one process reads, all have them.

    Raises:
        BabelclipError: a file is missing or damaged.
    """

    def load() -> tuple[Any, ...]:
        weights, optimizer, state = checkpoint.load(out, step)
        return weights, checkpoint.load_average(out, step), optimizer, state

    content = handed_over(processes, processes.on([source], load), source)
    weights, average, optimizer, state = content
    return weights, average, optimizer, state


def _restore_random(job: Job, state: State, states: Any) -> None:
    if len(states) == job.processes.world:
        checkpoint.restore_random_states(states[job.processes.rank])
        return
    _LOG.warning(
        "The run had %d processes and goes on with %d: the data and its order are the same, dropout draws anew.",
        len(states),
        job.processes.world,
    )
    checkpoint.seed_everything(job.settings.seed + state.step, job.processes.rank)


def _gathered(tensor: Tensor, keeps: bool) -> Tensor:
    """Returns a tensor to be written; of parts, one after the other comes whole into a processor's memory."""
    if not is_part(tensor):
        return tensor
    whole = full(tensor)
    return whole.cpu() if keeps else whole.new_empty(0)


def _whole(optimizer: Mapping[str, Any], keeps: bool) -> dict[str, Any]:
    state = {
        number: {key: _gathered(value, keeps) if isinstance(value, Tensor) else value for key, value in moments.items()}
        for number, moments in optimizer["state"].items()
    }
    return {**optimizer, "state": state}


def _spread_out(content: Mapping[str, Any], optimizer: Any) -> Mapping[str, Any]:
    """Returns the content of an optimiser as the processes hold it: moments of a weight in parts are parts too."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not any(is_part(parameter) for parameter in parameters):
        return content
    state = {
        number: {
            key: like(value, parameters[number]) if isinstance(value, Tensor) else value
            for key, value in moments.items()
        }
        for number, moments in content["state"].items()
    }
    return {**content, "state": state}
