"""Training: recipes, losses, the one loop, teacher learning, contrastive training.

Names are imported when first used, so that `babelclip.train.recipe` costs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from babelclip.train.classify import ClassifyResult, train_classify
    from babelclip.train.contrastive import ContrastiveResult, train_contrastive
    from babelclip.train.distill import DistillResult, distill
    from babelclip.train.loop import LossError, RunResult
    from babelclip.train.patience import LostProcessError
    from babelclip.train.recipe import Recipe, load_recipe
    from babelclip.train.ridge import fit_ridge, pooled_features, set_linear_head
    from babelclip.train.stages import StagesResult, run_stages
    from babelclip.train.sts import StsResult, train_nli, train_sts
    from babelclip.train.tension import TensionResult, train_tension

_HOME = {
    "ClassifyResult": "classify",
    "train_classify": "classify",
    "ContrastiveResult": "contrastive",
    "train_contrastive": "contrastive",
    "DistillResult": "distill",
    "distill": "distill",
    "LossError": "loop",
    "RunResult": "loop",
    "LostProcessError": "patience",
    "Recipe": "recipe",
    "load_recipe": "recipe",
    "fit_ridge": "ridge",
    "pooled_features": "ridge",
    "set_linear_head": "ridge",
    "StagesResult": "stages",
    "run_stages": "stages",
    "StsResult": "sts",
    "train_nli": "sts",
    "train_sts": "sts",
    "TensionResult": "tension",
    "train_tension": "tension",
}

__all__ = [
    "ClassifyResult",
    "ContrastiveResult",
    "DistillResult",
    "LossError",
    "LostProcessError",
    "Recipe",
    "RunResult",
    "StagesResult",
    "StsResult",
    "TensionResult",
    "distill",
    "fit_ridge",
    "load_recipe",
    "pooled_features",
    "run_stages",
    "set_linear_head",
    "train_classify",
    "train_contrastive",
    "train_nli",
    "train_sts",
    "train_tension",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
