"""`classify` for real, on 2 cores in minutes: CIFAR-10 accuracy before, tuned and interpolated, in three languages.

    python benchmarks/classify.py --model FOLDER --cifar FOLDER [--only NAME ...] [--out results/classify.json]

The model is the starter's student, whose picture tower sees pictures of `--side` pixels here: those of CIFAR-10 have
32, and its own 224 cost five times as much. Of each class the first pictures of the train split are trained on (a tenth
of them is held out for choices), and the first of the test split are for the report. Training is in English; German is
scored by the run as its second language, Chinese by itself, before and at the end. Each run is resumed where it was
stopped; with --out its figures join those in that file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import babelclip
from babelclip.evaluate.zeroshot import zero_shot_accuracy
from babelclip.files import read_json, write_json
from babelclip.models.clip import Clip
from babelclip.train.class_inputs import LabelledPictures, read_class_folder
from babelclip.train.classify import train_classify
from babelclip.train.device import versions
from babelclip.train.recipe import apply_overrides, load_recipe

RECIPE = Path(__file__).parent.parent / "recipes" / "classify-cifar10.toml"
# Of CIFAR-10's classes in their order; the run itself scores German.
CHINESE = ["飞机", "汽车", "鸟", "猫", "鹿", "狗", "青蛙", "马", "船", "卡车"]
CHINESE_TEMPLATES = ["{}", "一张{}的照片"]
SHORT = [
    "train.batch_size=24", "train.steps=40", "train.warmup_steps=4", "train.validate_every=0", "train.save_every=10",
    "train.keep=last", "student.freeze_embeddings=true", "classify.interpolate=0,0.5,1",
]  # fmt: skip
RUNS: dict[str, list[str]] = {
    "heads": [],
    "heads, class vectors": ["classify.loss=class_vectors"],
    "text head": ["classify.trainable=text_head"],
    "lora": [*SHORT, "classify.trainable=lora", "train.lr=5e-4"],
    "all": [*SHORT, "classify.trainable=all", "train.lr=2e-5"],
    # The rate of AltCLIP's script, for what it costs; its loss would be refused.
    "all, 1e-4": [*SHORT, "classify.trainable=all", "train.lr=1e-4"],
}


def start_of(args: argparse.Namespace) -> Clip:
    """Returns the model that every run starts from."""
    clip = babelclip.load(args.model, dtype="float32", device="cpu")
    assert clip.image is not None
    sized = dataclasses.replace(clip.image.preprocess, resize=args.side, crop=args.side)
    clip.image.preprocess = sized
    return clip


def chinese(clip: Clip, test: LabelledPictures) -> float:
    """Returns the accuracy on test with Chinese names, which no run has seen or chosen by."""
    features = clip.encode_image([str(path) for path in test.paths])
    found = zero_shot_accuracy(clip.encode_text, features, test.labels, CHINESE, CHINESE_TEMPLATES)
    return round(100 * found["acc1"], 2)


def first_of_each(given: LabelledPictures, count: int) -> LabelledPictures:
    """Returns the first pictures of each class by name."""
    rows = [np.flatnonzero(given.labels == label)[:count] for label in range(len(given.classes))]
    return given.take(np.concatenate(rows))


def percent(scores: Mapping[str, float]) -> dict[str, float]:
    """Returns shares as percentages; counts stay."""
    return {
        name: round(value if name.startswith("classes_predicted") else 100 * value, 2) for name, value in scores.items()
    }


def measured(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Trains, and returns what came of it."""
    common = ["train.precision=fp32", "train.device=cpu", f"train.seed={args.seed}"]
    recipe = apply_overrides(load_recipe(RECIPE), [*common, *RUNS[name]])
    counts = {"train": args.train_pictures, "test": args.test_pictures}
    train, test = (first_of_each(read_class_folder(args.cifar / split), n) for split, n in counts.items())
    clip, out = start_of(args), args.runs / name.replace(", ", "-").replace(" ", "-")
    known = out / "before-zh.json"
    if not known.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_json(known, chinese(clip, test))
    untrained = read_json(known)
    wall, cpu = time.monotonic(), time.process_time()
    result = train_classify(clip, train, recipe, out, test=test, resume=True)
    if result.run.status != "finished":
        raise SystemExit(f"{name} was stopped at step {result.run.step}; the same command goes on.")
    seconds = {"seconds": round(time.monotonic() - wall), "cpu_seconds": round(time.process_time() - cpu)}
    return {
        "settings": RUNS[name], "steps": result.run.step, "batch_size": recipe.train.batch_size, **seconds,
        "loop_seconds": round(result.run.seconds), "trained_weights": result.trained_weights,
        "pictures": result.pictures, "skipped": result.skipped,
        "before": {split: percent(scores) for split, scores in result.before.items()},
        "tuned": {split: percent(scores) for split, scores in result.tuned.items()},
        "points_on_validation": {point.alpha: percent(point.scores) for point in result.points},
        "alpha": result.alpha,
        "kept": {split: percent(scores) for split, scores in result.after.items()},
        "test acc1/zh": {"before": untrained, "kept": chinese(clip, test)},
        "saved_and_loaded": reloaded(clip, out, test),
    }  # fmt: skip


def reloaded(clip: Clip, out: Path, test: LabelledPictures) -> bool:
    """Returns whether the saved model, loaded again, gives the same vectors of some pictures and names."""
    again = babelclip.load(clip.save(out / "model"), dtype="float32", device="cpu")
    some = [str(path) for path in test.paths[::100]]
    same = (clip.encode_image(some) == again.encode_image(some)).all()
    return bool(same and (clip.encode_text(CHINESE) == again.encode_text(CHINESE)).all())


def main() -> None:
    """Trains and measures what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the starter's student")
    parser.add_argument("--cifar", type=Path, required=True, help="folder of train/CLASS/… and test/CLASS/…")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--runs", type=Path, default=Path("runs/classify"), help="folder of the runs")
    parser.add_argument("--side", type=int, default=96, help="pixels of a picture as the tower sees it")
    parser.add_argument("--train-pictures", type=int, default=300, help="of each class")
    parser.add_argument("--test-pictures", type=int, default=100, help="of each class")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    report: dict[str, Any] = {
        "benchmark": "classify",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "versions": versions(),
        "scale": "accuracy and mean recall of classes in percent; classes_predicted of 10",
        "recipe": RECIPE.name, "side": args.side, "seed": args.seed,
        "runs": {},
    }  # fmt: skip
    for name in args.only:
        command = {"date": time.strftime("%Y-%m-%d"), "command": "python " + shlex.join(sys.argv)}
        report["runs"][name] = row = {**command, **measured(name, args)}
        for state in ("before", "tuned", "kept"):
            scores = row[state]["test"]
            cells = "  ".join(f"{lang} {scores[f'acc1/{lang}']:6.2f}" for lang in ("en", "de"))
            sys.stdout.write(f"{name:24} {state:7} {cells}\n")
        sys.stdout.write(f"{name:24} kept the share {row['alpha']:g}, in {row['seconds']} s\n")
        sys.stdout.flush()
        if args.out:
            # Read only now: several of these may run side by side.
            known = json.loads(args.out.read_text(encoding="utf-8"))["runs"] if args.out.exists() else {}
            report["runs"] = known | report["runs"]
            report["runs"] = {run: report["runs"][run] for run in RUNS if run in report["runs"]}
            write_json(args.out, report)
    sys.stdout.write(json.dumps(report["runs"], ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
