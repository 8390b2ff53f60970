"""In which numbers a loaded model computes: those asked for, or the fastest that change nothing that matters."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from babelclip.errors import BabelclipError
from babelclip.models.clip import Clip
from babelclip.models.instructions import has_bfloat16
from babelclip.models.packing import can_pack, pack_attention, unpack_attention
from babelclip.models.quantize import fidelity, is_quantized, probe_texts, quantize_clip, refuse_other_devices

if TYPE_CHECKING:
    from babelclip.models.text import TextEncoder

_LOG = logging.getLogger(__name__)

DTYPES = ("auto", "float32", "bfloat16", "float16", "int8")
# Below this the lower precision would show in rankings.
LEAST_COSINE = 0.9999
# Enough to see a tower that bfloat16 harms, and seconds less than all 64 at a load.
_TEXTS, _PICTURES = 16, 4
# Half precision rounds differently in another kernel; a wrong one would be far below.
_SAME = 0.9995


def set_precision(clip: Clip, dtype: str, device: torch.device) -> Clip:
    """Puts the towers of `clip` on a device in a dtype, in place, and returns it; `clip.fidelity` says what that cost.

    "auto" is bfloat16 where the device has the instructions and every probe text and picture keeps a cosine of 0.9999
    to float32, each tower by itself; float32 otherwise. "int8" rounds the text tower (CPU only) and keeps the picture
    tower in float32. A model that was saved in int8 stays so.

    Raises:
        BabelclipError: int8 without text tower or on another device than the CPU, or a float dtype for an int8 model.
    """
    saved_int8 = clip.text is not None and is_quantized(clip.text)
    if saved_int8 and dtype not in ("auto", "int8"):
        raise BabelclipError(
            f"{clip.name or 'This model'} was saved in int8 and cannot be loaded as {dtype}: what was rounded away is "
            'gone. Load it with dtype="auto", or the model that it was made from.'
        )
    if saved_int8 or dtype == "int8":
        refuse_other_devices(device)
    towers = {name: tower for name, tower in (("text", clip.text), ("image", clip.image)) if tower is not None}
    plain = {"auto": torch.float32, "int8": torch.float32}.get(dtype) or getattr(torch, dtype)
    for name, tower in towers.items():
        if name == "text" and saved_int8:
            tower.to(device=device)
        else:
            tower.to(device=device, dtype=plain)
        tower.eval()
    if dtype == "int8" and not saved_int8:
        clip.fidelity["text"] = quantize_clip(clip)
    if dtype == "auto":
        _take_bfloat16(clip, {name: t for name, t in towers.items() if not (saved_int8 and name == "text")}, device)
    if clip.text is not None and can_pack(clip.text.backbone):
        leave_padding_out(clip.text)
    return clip


def leave_padding_out(tower: TextEncoder) -> bool:
    """Lets a text tower compute batches without their padding, where that gives the same vectors; returns whether.

    Whether the kernel runs depends on the GPU and on how torch was built, so it is tried on the probe.
    """
    # Of every length, in one batch, so that there is padding to leave out.
    texts = [text[: 2 + 6 * number] for number, text in enumerate(probe_texts()[:_TEXTS])]
    padded = tower.encode(texts, token_budget=1 << 14)
    pack_attention(tower.backbone)
    try:
        least = fidelity(padded, tower.encode(texts, token_budget=1 << 14))["min_cosine"]
        problem = "" if least >= _SAME else f"vectors differ, cosine {least:.5f}"
    except (ImportError, RuntimeError, NotImplementedError) as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        unpack_attention(tower.backbone)
        _LOG.info("texts are padded, because attention of variable length does not work here: %s", problem)
    return not problem


def _take_bfloat16(clip: Clip, towers: dict[str, Any], device: torch.device) -> None:
    if not has_bfloat16(device):
        _LOG.info("%s: float32, because %s has no bfloat16 instructions", clip.name, device)
        return
    for name, tower in towers.items():
        lower = copy.deepcopy(tower).to(dtype=torch.bfloat16)
        measured = fidelity(_probed(tower), _probed(lower))
        taken = measured["min_cosine"] >= LEAST_COSINE
        if taken:
            setattr(clip, name, lower)
        clip.fidelity[name] = {"dtype": "bfloat16" if taken else "float32", **measured}
        _LOG.info(
            "%s: %s tower in %s (cosine of bfloat16 to float32 at least %.5f, on average %.5f)",
            clip.name, name, clip.fidelity[name]["dtype"], measured["min_cosine"], measured["mean_cosine"],
        )  # fmt: skip


def _probed(tower: nn.Module) -> np.ndarray:
    from babelclip.models.image import ImageEncoder
    from babelclip.models.text import TextEncoder

    if isinstance(tower, TextEncoder):
        return tower.encode(probe_texts()[:: 64 // _TEXTS])
    if isinstance(tower, ImageEncoder):
        return tower.encode(_probe_pictures())
    raise TypeError(type(tower).__name__)


def _probe_pictures() -> list[Image.Image]:
    """Pictures with edges, slopes and grain, the same on every machine."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:256, 0:256]
    made = []
    for number in range(_PICTURES):
        waves = [np.sin(x * fx + y * fy) for fx, fy in rng.uniform(0.01, 0.2, size=(3, 2))]
        values = 127 + 80 * np.stack(waves, axis=-1) + rng.normal(scale=12, size=(256, 256, 3))
        values[64 * number : 64 * number + 40, 40:200] = rng.uniform(0, 255, size=3)
        made.append(Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)))
    return made
