"""Trains a tiny CLIP contrastively on one process and on two: the cases that tower_processes.py runs."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import torch

from babelclip.data.captions import Captions
from babelclip.train.contrastive import train_contrastive
from babelclip.train.processes import connect
from babelclip.train.recall import Benchmark
from babelclip.train.recipe import Recipe, apply_overrides
from babelclip.train.tar_shards import TarShards
from tests.conftest import COLOURS, draw_shape, make_clip

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
    "stream": ["towers.image=head", "data.stream=true", "data.lanes=3", "data.window=12"],
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


def tars_in(folder: Path) -> Path:
    """The twelve pictures in three tars of 2, 9 and 1."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [(colour, shape) for colour in COLOURS for shape in ("circle", "square", "triangle")]
    for number, part in enumerate((pairs[:2], pairs[2:11], pairs[11:])):
        path = folder / f"{number:05}.tar"
        if path.exists():
            continue
        with tarfile.open(path, "w") as archive:
            for colour, shape in part:
                buffer = io.BytesIO()
                draw_shape(colour, shape).save(buffer, "png")
                for ending, content in (("png", buffer.getvalue()), ("txt", f"{colour} {shape}".encode())):
                    member = tarfile.TarInfo(f"{colour}-{shape}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return folder


def train(folder: Path, name: str, captions: Captions) -> None:
    recipe = apply_overrides(Recipe(), [*SHORT, *CASES[name]])
    clip = make_clip()
    benchmark = Benchmark(captions) if name in ("benchmark", "fsdp") else None
    data: Captions | TarShards = captions
    if recipe.data.stream:
        tars = [str(folder.parents[1] / "tars")]
        data = TarShards.open(tars, folder / "shards", connect(recipe.train), lang="en", progress=False)
    train_contrastive(clip, data, recipe, folder, benchmark=benchmark, progress=False)
    if os.environ.get("RANK", "0") == "0":
        state: dict[str, Any] = {"text": clip.text.state_dict(), "image": clip.image.state_dict()}
        state["scalars"] = torch.tensor([clip.logit_scale, clip.logit_bias or 0.0])
        torch.save(state, folder.with_suffix(".pt"))


def train_all(folder: Path, name: str) -> None:
    """Trains each case in `folder`/case/`name`."""
    captions = captions_in(folder / "pictures")
    for case in CASES:
        train(folder / case / name, case, captions)
