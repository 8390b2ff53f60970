"""A program of its own (`python -m babelclip.doctor.probe STEP...`): tries what may break, a line for each step.

A step that fails says so; one that ends the process, as a library for other processors does, leaves the lines before.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from babelclip.errors import shown

# Instruction sets by the names that torch has for the questions.
_CPU = {
    "AVX2": "_is_avx2_supported",
    "AVX-512": "_is_avx512_supported",
    "AVX-512 VNNI": "_is_avx512_vnni_supported",
    "AVX-512 BF16": "_is_avx512_bf16_supported",
    "AMX": "_is_amx_tile_supported",
}


def main() -> None:
    """Writes what each of the steps found, `{"step": ..., ...}` a line."""
    steps: dict[str, Callable[[], dict[str, Any]]] = {"torch": _torch, "hub": _hub, "torchvision": _torchvision}
    for name in sys.argv[1:]:
        step = steps[name]
        sys.stdout.write(json.dumps({"step": name, "begins": True}) + "\n")
        sys.stdout.flush()
        try:
            found = step()
        except Exception as error:  # whatever a broken library raises is what is to be told
            found = {"error": shown(f"{type(error).__name__}: {error}")}
        sys.stdout.write(json.dumps({"step": name, **found}) + "\n")
        sys.stdout.flush()
    # All is said. To take torch down in order would cost some 0.3 s more.
    os._exit(0)


def _torch() -> dict[str, Any]:
    import torch

    from babelclip.models.instructions import has_bfloat16

    probes: Any = torch.cpu
    devices = [{"name": "cpu", "bfloat16": has_bfloat16(torch.device("cpu"))}]
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        bfloat16 = has_bfloat16(torch.device("cuda", number))
        memory = properties.total_memory
        devices.append({"name": f"cuda:{number}", "model": properties.name, "memory": memory, "bfloat16": bfloat16})
    if torch.backends.mps.is_available():
        devices.append({"name": "mps", "bfloat16": False})
    return {
        "version": torch.__version__,
        "built_for_cuda": torch.version.cuda,
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "instructions": [name for name, probe in _CPU.items() if bool(getattr(probes, probe, bool)())],
        "threads": torch.get_num_threads(),
        "devices": devices,
    }


def _hub() -> dict[str, Any]:
    from babelclip.models.checkpoints.hub.answers import knock, offline
    from babelclip.models.checkpoints.hub.cache import hub_cache

    found: dict[str, Any] = {"hub_cache": str(hub_cache()), "offline": offline()}
    return found if offline() else found | {"silence": knock()}


def _torchvision() -> dict[str, Any]:
    if importlib.util.find_spec("torchvision") is None:
        return {"installed": False}
    import torchvision  # type: ignore[import-not-found, import-untyped, unused-ignore]

    return {"installed": True, "version": torchvision.__version__}


if __name__ == "__main__":
    main()
