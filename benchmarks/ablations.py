"""Negative results of teacher learning at small scale: loss, pooling, head, and English pairs left out.

    babelclip starter --text hundred --out hundred        # the texts
    babelclip embed hundred/sources.parquet --model demo/teacher --out hundred/targets --dtype float32
    python benchmarks/ablations.py --texts hundred/captions.parquet --targets hundred/targets --teacher demo/teacher \
        --work runs/ablations --out results/ablations.json [--only NAME ...]

The student is multilingual-e5-small as it installs; its head starts from the closed form on the texts of the run, and
its upper 4 layers and the head train (from a random head 100 steps teach nothing: this backbone's vectors lie in a
narrow cone). The tanh head starts as nearly the same map. Texts are short ones in eight languages, the same for all.
One setting differs from "base" in each run; a second seed of "base" shows what chance alone does. R@10 text to image on
the photographs of the starter at several steps, English beside the mean of the other languages. A run that was stopped
goes on; with --out its figures join those of that file.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

LANGUAGES = ("en", "de", "es", "fr", "it", "ru", "sv", "zh")
# Texts of each language; shorter ones are names, which is what the captions of the photographs are.
TEXTS, LONGEST = 1000, 60
# Texts that the closed form is fitted on; scale at which a tanh is nearly linear.
FITTED, NARROW = 4000, 3.0
BASE = [
    "train.steps=200",
    "train.batch_size=64",
    "train.tokens_per_batch=1024",
    "train.lr=5e-4",
    "train.head_lr=1e-4",
    "train.betas=[0.9, 0.98]",
    "train.warmup_steps=20",
    "train.schedule=cosine",
    "train.weight_decay=0.01",
    "train.precision=fp32",
    "train.device=cpu",
    "train.validate_every=100",
    "train.save_every=50",
    "train.best_metric=R@10",
    "train.best_is=highest",
    "student.trainable=last 4 layers",
    "student.freeze_embeddings=true",
    "student.head=linear",
    "loss.name=mse",
    "loss.relative=true",
]
RUNS: dict[str, list[str]] = {
    "base": [],
    "base, other seed": ["train.seed=1"],
    "cosine": ["loss.name=cosine"],
    "first token": ["student.pooling=cls"],
    "tanh head": ["student.head=tanh+linear"],
    "without English": [],
}


def chosen_texts(path: Path) -> Any:
    """Returns the same short texts for every run, with English ones for as many as there are."""
    from babelclip.data.captions import read_captions

    captions = read_captions(path)
    langs, short = np.asarray(captions.langs), np.asarray([len(text) <= LONGEST for text in captions.texts])
    rng, rows = np.random.default_rng(0), []
    for lang in LANGUAGES:
        found = np.flatnonzero((langs == lang) & short)
        rows.append(rng.choice(found, min(TEXTS, len(found)), replace=False))
    return dataclasses.replace(captions, table=captions.table.take(np.sort(np.concatenate(rows))))


def photographs(teacher: Path) -> tuple[Any, np.ndarray, Any]:
    """Returns captions of the photographs in these languages, the pictures' vectors, and what belongs together."""
    import babelclip
    from babelclip.starter import debian, demo, tuxpaint
    from babelclip.train.pictures import paths_of
    from babelclip.train.recall import groups_of

    found = debian.find_folder(tuxpaint.STAMPS)
    if found.folder is None:
        raise SystemExit(found.note)
    captions = next(one for one in demo._stamp_sets(found.folder) if one.key == "photos").captions.select(LANGUAGES)
    pictures = list(paths_of(captions, None))
    return captions, babelclip.load(teacher).encode_image(pictures), groups_of(captions, pictures)


def start_head(student: Any, texts: Any, vectors: np.ndarray) -> None:
    """Sets the head to the closed form on these texts, or a tanh head to nearly the same map."""
    import torch

    from babelclip.train.ridge import fit_ridge, set_linear_head

    some = np.random.default_rng(0).permutation(len(texts))[:FITTED]
    matrix, bias = fit_ridge(student.encode([texts.texts[row] for row in some], before_head=True), vectors[some])
    if len(student.head) == 1:
        set_linear_head(student, matrix, bias)
        return
    with torch.no_grad():
        student.head[0].weight.copy_(torch.from_numpy(NARROW * matrix))
        student.head[0].bias.copy_(torch.from_numpy(NARROW * bias))
        student.head[2].weight.copy_(torch.eye(len(matrix)) / NARROW)
        student.head[2].bias.zero_()


def measured(name: str, given: argparse.Namespace, texts: Any, test: tuple[Any, np.ndarray, Any]) -> dict[str, Any]:
    """Trains one run and returns its figures."""
    from babelclip.starter.student import assemble_student
    from babelclip.store import EmbeddingStore
    from babelclip.train.distill import distill
    from babelclip.train.log import read_log
    from babelclip.train.recall import recalls
    from babelclip.train.recipe import Recipe, apply_overrides
    from babelclip.train.students import fit_student

    recipe = apply_overrides(Recipe(), [*BASE, *RUNS[name], *given.set])
    targets = EmbeddingStore.open(given.targets)
    student = fit_student(assemble_student(), recipe.student, embed_dim=targets.dim, seed=recipe.train.seed)
    if name == "without English":
        texts = texts.select([lang for lang in LANGUAGES if lang != "en"])
    sources = [source or own for source, own in zip(texts.table["source_id"].to_pylist(), texts.ids, strict=True)]
    start_head(student, texts, targets.gather(targets.positions(sources)))
    captions, pictures, groups = test

    def validate() -> dict[str, float]:
        return recalls(student.encode(captions.texts), pictures, captions.langs, *groups)

    out, start = given.work / name.replace(", ", "-").replace(" ", "-"), time.monotonic()
    result = distill(student, texts, targets, recipe, out, resume=True, validate=validate)
    if result.run.status != "finished":
        raise SystemExit(f"{name} was stopped at step {result.run.step}; the same command goes on.")
    lines = [line for line in read_log(out / "log.jsonl") if line["event"] == "validate"]
    curve = {}
    for line in lines:
        others = [line[f"R@10/{lang}"] for lang in LANGUAGES if lang != "en"]
        curve[line["step"]] = {
            "english": round(100 * line["R@10/en"], 1),
            "others": round(100 * float(np.mean(others)), 1),
        }
    return {
        "changed": RUNS[name] or (["texts: no English ones"] if name == "without English" else []),
        "captions": len(texts),
        "languages": texts.language_counts(),
        "last": curve[max(curve)],
        "by_language": {lang: round(100 * lines[-1][f"R@10/{lang}"], 1) for lang in LANGUAGES},
        "by_step": curve,
        "seconds": round(time.monotonic() - start),
    }


def main() -> None:
    """Trains and measures what the command line names."""
    import json

    from babelclip.files import write_json
    from babelclip.train.device import versions

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help="captions.parquet, with source_id")
    parser.add_argument("--targets", type=Path, required=True, help="store of the teacher's vectors")
    parser.add_argument("--teacher", type=Path, required=True, help="model with the picture tower")
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="for every run")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    texts, test = chosen_texts(given.texts), photographs(given.teacher)
    facts = {
        "benchmark": "ablations",
        "date": date.today().isoformat(),
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores; other jobs ran beside it",
        "versions": versions(),
        "scale": "R@10 text to image on the photographs, in per cent; others = mean over the languages but English",
        "base": [*BASE, *given.set],
    }
    runs: dict[str, Any] = {}
    for name in given.only:
        runs[name] = row = measured(name, given, texts, test)
        steps = "  ".join(f"{step}: {one['english']} / {one['others']}" for step, one in row["by_step"].items())
        sys.stderr.write(f"{name:18} {steps}\n")
        if given.out:
            kept = json.loads(given.out.read_text(encoding="utf-8"))["runs"] if given.out.exists() else {}
            joined = {**kept, **runs}
            write_json(given.out, {**facts, "runs": {one: joined[one] for one in RUNS if one in joined}})
    sys.stdout.write(json.dumps({**facts, "runs": runs}) + "\n")


if __name__ == "__main__":
    main()
