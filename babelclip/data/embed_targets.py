"""Which vector of a model is the target: `projected` into the space, or `pooled`, the one that enters the projection.

| model | `projected` | `pooled` |
|---|---|---|
| CLIP, MetaCLIP 2 | after `text_projection` | end-of-text state after the final layer norm, before `text_projection` |
| AltCLIP | after `text_projection` | token 0 after `pre_LN` and `transformation`, before `text_projection` |
| M-CLIP | after its linear layer | mean of the token states |
| SigLIP, SigLIP 2 | the pooled vector | the same vector: there is no separate projection |
| picture towers | after `visual_projection` | the pooled vector before it |

Where it begins for any other head: `babelclip.models.head.projection_start`. M-CLIP and sentence-transformers learn
from `projected`, AltCLIP from `pooled`: its student takes the place of the teacher's text body and the teacher's own
projection stays. The third kind of the field, `penultimate`, is not stored here: see `check_target`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from babelclip.errors import BabelclipError, did_you_mean
from babelclip.models.encoding import Device, inference
from babelclip.models.head import backbone_width, projection_start
from babelclip.models.image import ImageEncoder
from babelclip.models.text import TextEncoder, normalize_rows

TARGETS = ("projected", "pooled")
# A row that float16 moves by more than this share of its length is not merely rounded, which costs 0.0005 at most.
_ROUNDING = 1e-3


def check_target(target: str) -> str:
    """Returns `target` where it is one that a store takes.

    Raises:
        BabelclipError: it is not; `penultimate` is refused with the reason.
    """
    if target == "penultimate":
        raise BabelclipError(
            "target 'penultimate' means the states of every token after the last two layers, 2 x T x H numbers a text "
            "(77 x 1024: 315 kB in float16, 200 times a vector), and a store holds one vector a row. Take 'pooled', "
            "which AltCLIP's stage 1 learns from, or compute token states where they are used: clip.encode_tokens(...)."
        )
    if target not in TARGETS:
        raise BabelclipError(f"target {target!r} is not known. {did_you_mean(target, TARGETS)}")
    return target


def target_dim(tower: TextEncoder | ImageEncoder, target: str) -> int:
    """Returns the dimensions of the target vectors of a tower."""
    if check_target(target) == "projected":
        return tower.embed_dim
    start = projection_start(tower.head_layers)
    if start:
        # Linear by the definition of `projection_start`.
        return int(tower.head_layers[start - 1]["out"])
    return tower.width if isinstance(tower, TextEncoder) else backbone_width(tower.backbone)


def describe_target(tower: TextEncoder | ImageEncoder, target: str) -> str:
    """Returns what the target is for this tower, in a few words for the user."""
    if check_target(target) == "projected":
        return "after the projection into the space"
    if not tower.head_layers:
        return "this tower has no separate projection, so pooled and projected are the same vectors"
    pooling = tower.pooling if isinstance(tower, TextEncoder) else "pooler"
    of = {
        "eos": "end-of-text state",
        "cls": "state of token 0",
        "mean": "mean of the token states",
        "max": "largest of the token states",
        "pooler": "the backbone's pooled vector",
    }[pooling]
    own = ", through the body's own last layers" if projection_start(tower.head_layers) else ""
    return f"{of}{own}, before the projection into the space"


def text_vectors(
    tower: TextEncoder,
    texts: Sequence[str],
    *,
    target: str = "projected",
    normalize: bool = False,
    lang: Sequence[str] | None = None,
    token_budget: int | None = None,
    devices: Sequence[Device] | None = None,
) -> np.ndarray:
    """Returns the targets (N, D) float32 of N texts in their order, unit rows where `normalize`; D = `target_dim`."""
    pooled = target == "pooled"
    features = tower.encode(texts, False, lang=lang, token_budget=token_budget, before_head=pooled, devices=devices)
    features = body_layers(tower, features) if pooled else features
    return normalize_rows(features) if normalize else features


def body_layers(tower: TextEncoder | ImageEncoder, features: np.ndarray) -> np.ndarray:
    """Returns (N, P) float32: what enters the projection, for the vectors (N, H) float32 that enter the head."""
    start = projection_start(tower.head_layers)
    if not start:
        return features
    weight = next(tower.head.parameters())
    with inference(tower):
        # In the precision of the tower, as the layers run in a whole pass.
        entering = torch.from_numpy(features).to(weight.device, weight.dtype)
        return np.asarray(tower.head[:start](entering).float().cpu().numpy())


def check_float16(features: np.ndarray, ids: Sequence[str]) -> int:
    """Returns how many of the vectors (N, D) lose more than rounding in float16, because their values are tiny.

    Raises:
        BabelclipError: values are beyond float16's range; names how many and the first id.
    """
    info: Any = np.finfo(np.float16)
    with np.errstate(over="ignore", invalid="ignore"):
        stored = features.astype(np.float16)
        beyond = np.isinf(stored) & np.isfinite(features)
        if beyond.any():
            rows = np.flatnonzero(beyond.any(axis=1))
            raise BabelclipError(
                f"{int(beyond.sum())} values in {len(rows)} of {len(ids)} vectors are beyond float16, first id "
                f"{ids[int(rows[0])]!r} (largest {float(np.abs(features[beyond]).max()):.6g}, allowed "
                f"{float(info.max):.6g}). Store them as float32, in a new folder: --dtype float32."
            )
        moved = np.linalg.norm(features - stored.astype(np.float32), axis=1)
        return int((moved > _ROUNDING * np.linalg.norm(features, axis=1)).sum())
