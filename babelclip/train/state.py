"""What a run is made of, the place it has reached, and how both are saved and put back."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn

from babelclip.errors import BabelclipError
from babelclip.files import write_json
from babelclip.train import checkpoint
from babelclip.train.average import Average
from babelclip.train.batches import Batches
from babelclip.train.log import NoLog, RunLog
from babelclip.train.processes import Processes, WholeBatchLoss
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
    counts the whole run, also where the recipe counts epochs.
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
    facts: dict[str, Any]
    about: dict[str, Any]


def save(job: Job, state: State, log: RunLog | NoLog, *, best: bool) -> None:
    """Writes a checkpoint; rank 0 does, with the random states of all.

    Raises:
        BabelclipError: it could not be written; every process says so.
    """
    log.sync()
    scaler = job.processes.accelerator.scaler
    weights = {name: full(tensor) for name, tensor in trained_state(job.model, job.spread.parameters).items()}
    average = None if job.average is None else {name: full(tensor) for name, tensor in job.average.weights.items()}
    inner = {
        "optimizer": _whole(job.optimizer.state_dict()),
        "random": job.processes.collected(checkpoint.random_states()),
        "scaler": None if scaler is None else scaler.state_dict(),
    }
    problem = ""
    if job.processes.writes:
        content = {**dataclasses.asdict(state), "facts": job.facts, "about": job.about}
        try:
            checkpoint.save(
                job.out, state.step, weights=weights, average=average, optimizer=inner, state=content, best=best
            )
        except BabelclipError as error:
            problem = str(error)
    problem = job.processes.told(problem)
    if problem:
        raise BabelclipError(problem)


def restore(job: Job) -> State:
    """Returns the state of the last checkpoint, with all it holds put back; a new state if there is none.

    Raises:
        BabelclipError: the checkpoint is damaged, or belongs to another run.
    """
    steps = job.processes.told(checkpoint.saved_steps(job.out))
    if not steps:
        return State()
    folder = checkpoint.folder_of(job.out, steps[-1])
    if not folder.exists():
        raise BabelclipError(
            f"Process {job.processes.rank} does not see {folder}, which rank 0 does. Give all machines one folder."
        )
    weights, inner, content = checkpoint.load(job.out, steps[-1])
    checkpoint.check_same_run(content.pop("facts"), job.facts, folder)
    content.pop("about")
    state = State(**content)
    checkpoint.restore_weights(trained_state(job.model, job.spread.parameters), weights, folder)
    if job.average is not None:
        checkpoint.restore_weights(job.average.weights, checkpoint.load_average(job.out, steps[-1]) or {}, folder)
    job.optimizer.load_state_dict(_spread_out(inner["optimizer"], job.optimizer))
    if inner["scaler"] is not None:
        job.processes.accelerator.scaler.load_state_dict(inner["scaler"])
    _restore_random(job, state, inner["random"])
    if job.processes.writes and state.best_step is not None and state.best_step != checkpoint.best_step(job.out):
        # Killed between the checkpoint and its pointer.
        write_json(job.out / "checkpoints" / "best.json", {"step": state.best_step, "folder": folder.name})
    return state


def _restore_random(job: Job, state: State, states: Any) -> None:
    if isinstance(states, Mapping):
        # Checkpoints of one process, before there could be several.
        states = [states]
    if len(states) == job.processes.world:
        checkpoint.restore_random_states(states[job.processes.rank])
        return
    _LOG.warning(
        "The run had %d processes and goes on with %d: the data and its order are the same, dropout draws anew.",
        len(states),
        job.processes.world,
    )
    checkpoint.seed_everything(job.settings.seed + state.step, job.processes.rank)


def _whole(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    state = {
        number: {key: full(value) if isinstance(value, Tensor) else value for key, value in moments.items()}
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
