"""Checkpoints: all that a killed run needs to go on as if nothing had happened, written whole or not at all.

Layout of `OUT/checkpoints`: one folder `step-00000100` per kept checkpoint with `weights.safetensors` (what trains;
locked weights are not written), `average.safetensors` (its moving average, if kept), `optimizer.pt` (optimiser, and
the random states of each process) and `state.json` (step, cursor, facts of
the run); `last.json` and `best.json` name one of them each. A folder gets its name only when all is on disk.
"""

from __future__ import annotations

import dataclasses
import random
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from babelclip.errors import BabelclipError
from babelclip.files import atomic_folder, read_json, read_object, write_json
from babelclip.train.recipe import Train
from babelclip.train.sharded import like

_NAME = re.compile(r"step-(\d{8,})")
# Two, so that a last one damaged by a failing disk is not the only one.
_KEPT = 2
# A prime, so that neighbouring seeds do not meet.
_SEED_OF_A_RANK = 1_000_003
# Settings that do not change what is computed, so a resumed run may have others.
_FREE = {
    "best_metric",
    "best_is",
    "validate_every",
    "save_every",
    "log_every",
    "keep",
    "early_stop",
    "tensorboard",
    "wandb",
    "device",
    "parallel",
    "timeout",
}


def folder_of(out: Path, step: int) -> Path:
    """Returns the folder of the checkpoint of a step."""
    return out / "checkpoints" / f"step-{step:08d}"


def saved_steps(out: Path) -> list[int]:
    """Returns the steps of the complete checkpoints of a run, in order."""
    found = [_NAME.fullmatch(path.name) for path in (out / "checkpoints").glob("step-*")]
    return sorted(int(match[1]) for match in found if match)


def best_step(out: Path) -> int | None:
    """Returns the step of the best checkpoint by validation, or None before the first validation.

    Raises:
        BabelclipError: the file that names it is damaged.
    """
    pointer = out / "checkpoints" / "best.json"
    step = read_object(pointer).get("step") if pointer.exists() else None
    if pointer.exists() and (isinstance(step, bool) or not isinstance(step, int)):
        raise BabelclipError(
            f"{pointer} names the step {step!r}; it is a whole number, that of a folder beside it. Write the number of "
            "the step to keep as best there, or remove the file: the next validation makes it again."
        )
    return step


def save(
    out: Path,
    step: int,
    *,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Any],
    state: Any,
    best: bool,
    average: Mapping[str, Tensor] | None = None,
) -> Path:
    """Writes the checkpoint of a step, points `last` (and `best`) at it, and removes older ones; returns its folder.

    `average` is the moving average of the weights, where the run keeps one.

    Raises:
        BabelclipError: it could not be written, for example on a full disk; the message names the last usable one.
    """
    folder = folder_of(out, step)
    try:
        with atomic_folder(folder) as temporary:
            save_file(_plain(weights), temporary / "weights.safetensors")
            if average is not None:
                save_file(_plain(average), temporary / "average.safetensors")
            torch.save(dict(optimizer), temporary / "optimizer.pt")
            write_json(temporary / "state.json", state)
        pointer = {"step": step, "folder": folder.name}
        if best:
            write_json(out / "checkpoints" / "best.json", pointer)
        write_json(out / "checkpoints" / "last.json", pointer)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise BabelclipError(
            f"Checkpoint {folder} could not be written ({error}; {shutil.disk_usage(out).free / 1e6:,.0f} MB are free "
            f"there). {usable(out)} Free some space, then resume."
        ) from error
    _prune(out)
    return folder


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}


def usable(out: Path) -> str:
    """Returns a sentence naming the last complete checkpoint."""
    steps = saved_steps(out)
    return f"The last usable checkpoint is {folder_of(out, steps[-1])}." if steps else "There is no checkpoint yet."


def _prune(out: Path) -> None:
    steps = saved_steps(out)
    for step in set(steps[:-_KEPT]) - {best_step(out)}:
        shutil.rmtree(folder_of(out, step), ignore_errors=True)


def sweep(out: Path) -> None:
    """Removes what a killed run left half-written among its checkpoints."""
    for path in (out / "checkpoints").glob(".*.part"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def load(out: Path, step: int) -> tuple[dict[str, Tensor], dict[str, Any], Any]:
    """Returns weights, optimiser content and state of a checkpoint, tensors on the CPU.

    Raises:
        BabelclipError: a file is missing or damaged.
    """
    folder = folder_of(out, step)
    try:
        weights = load_file(folder / "weights.safetensors")
        # weights_only: a checkpoint is data, and cannot run code.
        optimizer = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
        return weights, optimizer, read_json(folder / "state.json")
    except BabelclipError:
        raise
    except Exception as error:
        raise BabelclipError(
            f"Checkpoint {folder} is damaged ({error}). Remove that folder; the run resumes from the one before."
        ) from error


def load_average(out: Path, step: int) -> dict[str, Tensor] | None:
    """Returns the moving average in a checkpoint, on the CPU; None where the run kept none.

    Raises:
        BabelclipError: the file is damaged.
    """
    path = folder_of(out, step) / "average.safetensors"
    try:
        return load_file(path) if path.exists() else None
    except SafetensorError as error:
        raise BabelclipError(
            f"Checkpoint {path.parent} is damaged ({error}). Remove that folder; the run resumes from the one before."
        ) from error


def restore_weights(targets: Mapping[str, Tensor], weights: Mapping[str, Tensor], folder: Path) -> None:
    """Copies checkpoint weights into the tensors of the same names.

    Raises:
        BabelclipError: names or shapes differ; the message lists some.
    """
    different = sorted(set(targets) ^ set(weights))
    different += sorted(n for n in set(targets) & set(weights) if targets[n].shape != weights[n].shape)
    if different:
        raise BabelclipError(
            f"Checkpoint {folder} and the model differ in {len(different)} tensors, for example "
            f"{', '.join(different[:3])}. Resume with the student and the recipe of the run."
        )
    with torch.no_grad():
        for name, tensor in targets.items():
            tensor.copy_(like(weights[name], tensor))


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seeds the generators of Python, numpy and torch (all devices); other ranks draw other numbers."""
    seed += rank * _SEED_OF_A_RANK
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  libraries that draw from the global generator must repeat too
    torch.manual_seed(seed)


def random_states() -> dict[str, Any]:
    """Returns the states of all random generators as tensors and plain numbers."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Puts every random generator back to where `random_states` found it."""
    random.setstate(states["python"])
    kind, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


def check_same_run(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Checks that a run to be resumed computes what the interrupted one did.

    Raises:
        BabelclipError: facts differ other than in settings without effect; the message names them with both values.
    """
    # A setting that a run of an older version does not name had the value that is now its default.
    old, new = _flat({"train": as_json(dataclasses.asdict(Train()))}) | _flat(before), _flat(now)
    free = {f"train.{key}" for key in _FREE}
    # Runs of older versions say nothing of these.
    free |= {"pooling", "taught.space", "taught.target"} - old.keys()
    if old.get("train.schedule") == new.get("train.schedule") and new.get("train.schedule") in ("constant", "steps"):
        # Only a decaying schedule depends on the length of the run; another one may be extended.
        free |= {"train.steps"} | ({"train.epochs"} if old["train.epochs"] and new.get("train.epochs") else set())
    changed = [key for key in sorted(set(old) | set(new)) if old.get(key) != new.get(key) and key not in free]
    if changed:
        shown = "; ".join(f"{key} was {old.get(key)!r} and is {new.get(key)!r}" for key in changed[:3])
        raise BabelclipError(
            f"The run in {folder} cannot be resumed with another recipe or other data: {shown}. "
            "Put that back, or start a new run in another folder."
        )


def as_json(content: Any) -> Any:
    """Returns mappings and sequences as a JSON file gives them back, so that facts compare equal."""
    if isinstance(content, Mapping):
        return {str(key): as_json(value) for key, value in content.items()}
    if isinstance(content, Sequence) and not isinstance(content, str):
        return [as_json(value) for value in content]
    return content


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
