"""Where and how a run computes: device and precision by accelerate, and the signals that ask it to stop."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import threading
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import torch

from babelclip.errors import BabelclipError, require
from babelclip.train.recipe import Train


def build_accelerator(settings: Train) -> Any:
    """Returns the `accelerate.Accelerator` of a run; `auto` takes bf16 where the device multiplies it in hardware.

    Raises:
        BabelclipError: fp16 is asked for on a CPU.
        MissingExtraError: accelerate is not installed.
    """
    accelerate = require("accelerate", "train")
    on_cpu = settings.device == "cpu" or not torch.accelerator.is_available()
    wanted = {"fp32": "no"}.get(settings.precision, settings.precision)
    if wanted == "auto":
        wanted = "bf16" if _multiplies_bf16(on_cpu) else "no"
    if wanted == "fp16" and on_cpu:
        raise BabelclipError('train.precision = "fp16" needs a GPU; on a CPU use "fp32", "bf16" or "auto".')
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    # accelerate shares one state a process, and refuses a second run of another precision or device. The process group
    # of several stays.
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=alone)
    # A process that says nothing for so long counts as lost; one that ends is noticed at once.
    silence = accelerate.InitProcessGroupKwargs(timeout=timedelta(seconds=settings.timeout))
    return accelerate.Accelerator(mixed_precision=wanted, cpu=on_cpu, kwargs_handlers=[] if alone else [silence])


def parallel_of(settings: Train) -> str:
    """Returns `ddp` or `fsdp`: what the recipe says, or `accelerate launch --use_fsdp`."""
    launched = os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")
    return "fsdp" if launched else settings.parallel


def training_device(settings: Train) -> torch.device:
    """Returns the device that `build_accelerator` will choose, for work that comes before the loop."""
    found = None if settings.device == "cpu" else torch.accelerator.current_accelerator(check_available=True)
    if found is not None and "LOCAL_RANK" in os.environ:
        # Each of several processes has a device of its own.
        return torch.device(found.type, int(os.environ["LOCAL_RANK"]))
    return found or torch.device("cpu")


def _multiplies_bf16(on_cpu: bool) -> bool:
    if not on_cpu:
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    capabilities: Mapping[str, Any] = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def precision_of(accelerator: Any) -> str:
    """Returns `fp32`, `bf16` or `fp16`."""
    mixed = str(accelerator.mixed_precision)
    return "fp32" if mixed == "no" else mixed


@contextlib.contextmanager
def stop_requested() -> Iterator[threading.Event]:
    """Yields an event that SIGINT or SIGTERM sets; a second signal takes its usual course."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        # Python delivers signals to the main thread only; elsewhere the caller stops the run.
        yield event
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, _frame: object) -> None:
        event.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, request)
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def versions() -> dict[str, str]:
    """Returns the versions that a result depends on, for checkpoints and model cards."""
    import transformers

    import babelclip

    return {
        "babelclip": babelclip.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
