"""Fine-tunes a tiny CLIP on classes on one process and on two: the cases that tower_processes.py runs."""

from __future__ import annotations

import os
from pathlib import Path

import peft  # noqa: F401  before the fork, so that the processes do not load it each
import torch

from babelclip.files import write_json
from babelclip.train.class_inputs import read_class_folder
from babelclip.train.classify import train_classify
from babelclip.train.recipe import Recipe, apply_overrides
from tests.conftest import COLOURS, draw_shape, make_clip

SHORT = ["train.kind=classify", "train.precision=fp32", "train.device=cpu", "train.lr=3e-3", "train.log_every=1"]
SHORT += ["train.warmup_steps=3", "train.batch_size=7", "train.steps=3", "classify.templates={},a {}"]
# Gradients that are 0 but for rounding, such as those of key biases, must not be blown up to a whole step.
SHORT += ["train.eps=1e-4", "classify.validation_share=0.25", "classify.interpolate=0,0.5,1"]
CASES = {
    "multi_positive": ["classify.trainable=all", "train.validate_every=2"],
    "lora": ["classify.trainable=lora", "classify.loss=sigmoid"],
    "fsdp": ["classify.trainable=all", "classify.loss=class_vectors", "train.parallel=fsdp"],
}


def pictures_in(folder: Path) -> Path:
    """Four pictures of each of four colours."""
    for colour in COLOURS:
        (folder / colour).mkdir(parents=True, exist_ok=True)
        for number in range(4):
            path = folder / colour / f"{number}.png"
            if not path.exists():
                draw_shape(colour, ("circle", "square")[number % 2], 30 + number).save(path)
    return folder


def train(folder: Path, name: str, pictures: Path) -> None:
    recipe = apply_overrides(Recipe(), [*SHORT, *CASES[name]])
    clip = make_clip()
    result = train_classify(clip, read_class_folder(pictures), recipe, folder, progress=False)
    if os.environ.get("RANK", "0") == "0":
        torch.save({"text": clip.text.state_dict(), "image": clip.image.state_dict()}, folder.with_suffix(".pt"))
        write_json(folder.with_suffix(".json"), {"alpha": result.alpha, "tuned": result.tuned, "before": result.before})


def train_all(folder: Path, name: str) -> None:
    """Trains each case in `folder`/case/`name`."""
    pictures = pictures_in(folder / "pictures")
    for case in CASES:
        train(folder / case / name, case, pictures)
