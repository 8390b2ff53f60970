"""Trains a tiny CLIP on one process and on two. Prints nothing; run by test_contrastive_processes.py.

The processes are forked from this one, which has computed nothing, as in many_processes.py.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from babelclip.data.captions import Captions
from babelclip.train.contrastive import train_contrastive
from babelclip.train.recall import Benchmark
from babelclip.train.recipe import Recipe, apply_overrides
from tests.conftest import COLOURS, draw_shape, make_clip
from tests.train.many_processes import done

SHORT = ["train.kind=contrastive", "train.precision=fp32", "train.device=cpu", "train.lr=3e-3", "train.log_every=1"]
SHORT += ["train.warmup_steps=3", "train.batch_size=7", "train.steps=6"]
# Gradients that are 0 but for rounding, such as those of key biases, must not be blown up to a whole step.
SHORT += ["train.eps=1e-4"]
CASES = {
    "clip": ["towers.image=free"],
    "sigmoid": ["loss.name=sigmoid", "towers.image=locked"],
    "gradient cache": ["towers.image=free", "train.micro_batch=2", "loss.name=clip+sigmoid"],
    "fsdp": [
        *("towers.image=free", "train.parallel=fsdp", "train.micro_batch=2"),
        *("train.validate_every=3", "train.best_is=highest"),
    ],
    "benchmark": ["towers.image=head", "train.validate_every=3", "train.best_is=highest"],
}


def captions_in(folder: Path) -> Captions:
    """Twelve drawn pictures; three colours have a caption that all their pictures share."""
    folder.mkdir(parents=True, exist_ok=True)
    texts, paths = [], []
    for colour in COLOURS:
        for shape in ("circle", "square", "triangle"):
            path = folder / f"{colour}-{shape}.png"
            if not path.exists():
                draw_shape(colour, shape).save(path)
            texts.append(colour if shape == "square" else f"{colour} {shape}")
            paths.append(str(path))
    # A second caption of two pictures: positives that lie on two processes.
    texts += ["a red one", "röd"]
    paths += [paths[0], paths[1]]
    return Captions.from_columns(text=texts, lang=["en"] * 13 + ["sv"], image=paths)


def train(folder: Path, name: str, captions: Captions) -> None:
    recipe = apply_overrides(Recipe(), [*SHORT, *CASES[name]])
    clip = make_clip()
    benchmark = Benchmark(captions) if name in ("benchmark", "fsdp") else None
    train_contrastive(clip, captions, recipe, folder, benchmark=benchmark, progress=False)
    if os.environ.get("RANK", "0") == "0":
        state: dict[str, Any] = {"text": clip.text.state_dict(), "image": clip.image.state_dict()}
        state["scalars"] = torch.tensor([clip.logit_scale, clip.logit_bias or 0.0])
        torch.save(state, folder.with_suffix(".pt"))


def main(folder: Path) -> None:
    captions = captions_in(folder / "pictures")
    for name in CASES:
        done(lambda name=name: train(folder / name / "one", name, captions), 1)
        done(lambda name=name: train(folder / name / "two", name, captions))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
