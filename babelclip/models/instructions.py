"""What a device computes fast: asked without loading anything of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def has_bfloat16(device: torch.device) -> bool:
    """Returns whether matrix products in bfloat16 are faster than in float32 there: it has instructions for them."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    probes: Any = torch.cpu
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(bool(getattr(probes, name, bool)()) for name in names)
