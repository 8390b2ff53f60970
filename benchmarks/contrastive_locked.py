"""A locked-image stage after teacher learning: R@10 of the demo's student before and after, language by language.

    babelclip demo --out demo
    python benchmarks/contrastive_locked.py --student demo/student --work runs/locked [--out results/locked.json]
    ... --name gentle --pictures stamps --set train.lr=3e-5 ...         # joins the other runs of that file

The student has seen texts only. Here its upper layers are trained on pictures with captions: Tux Paint stamps and
emoji, the picture tower locked, its vectors computed once. Held out are half of the Tux Paint photographs, by their
English caption, so that no held-out picture, and no other picture or emoji of a held-out English caption, is trained
on; captions in any language that equal a held-out one are left out as well. A further fifth of the photographs chooses
the checkpoint, step 0 among them, and between runs. A table goes to standard error, one JSON line to standard output. A
run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

SEED = 0
# A language needs so many held-out captions; one caption is then 1 point of R@10 at most.
LEAST = 100
RECIPE = [
    "train.kind=contrastive",
    "train.steps=150",
    "train.batch_size=128",
    "train.lr=1e-4",
    "train.weight_decay=0.05",
    "train.warmup_steps=20",
    "train.schedule=cosine",
    "train.clip_norm=5.0",
    "train.precision=fp32",
    "train.device=cpu",
    "train.validate_every=50",
    "train.save_every=50",
    "train.best_metric=R@5",
    "train.best_is=highest",
    "train.keep=best",
    "student.freeze_embeddings=true",
    "towers.image=locked",
    "towers.text=last 4 layers",
]


def chosen(captions: Any, keep: list[bool]) -> Any:
    """Returns the captions that a mask keeps."""
    return dataclasses.replace(captions, table=captions.table.filter(pa.array(keep)))


def read_splits(which: str) -> tuple[Any, Any, Any, dict[str, int]]:
    """Returns captions to train on, to choose by, and held out, and their sizes; `which`: all, stamps or photos."""
    from babelclip.data.captions import Captions, text_key
    from babelclip.starter import debian, emoji, tuxpaint

    stamps = tuxpaint.read_stamps(debian.find_folder(tuxpaint.STAMPS).folder or "")
    stamps = stamps.select([lang for lang in stamps.language_counts() if lang not in ("en-AU", "en-GB")])
    photos = tuxpaint.photographs(stamps)
    labels = sorted(set(photos.table["label"].to_pylist()))
    order = np.random.default_rng(SEED).permutation(len(labels))
    test = {labels[place] for place in order[: len(labels) // 2]}
    choose = {labels[place] for place in order[len(labels) // 2 : len(labels) // 2 + len(labels) // 5]}
    of_photo = photos.table["label"].to_pylist()
    held_out = chosen(photos, [label in test for label in of_photo])
    validation = chosen(photos, [label in choose for label in of_photo])
    names = emoji.emoji_captions()
    of_emoji = {name for name, text, lang in zip(names.ids, names.texts, names.langs, strict=True)
                if lang == "en" and text_key(text) in test | choose}  # fmt: skip
    concepts = {name.partition(":")[0] for name in of_emoji}
    names = chosen(names, [name.partition(":")[0] not in concepts for name in names.ids])
    source = photos if which == "photos" else stamps
    left = chosen(source, [label not in test | choose for label in source.table["label"].to_pylist()])
    training = Captions.concat([left, names]) if which == "all" else left
    training, dropped = training.without_texts([*held_out.texts, *validation.texts])
    sizes = {
        "training captions": len(training),
        "training pictures": len(set(training.table["image"].to_pylist())),
        "training captions dropped for a held-out text": dropped,
        "validation pictures": len(set(validation.table["image"].to_pylist())),
        "held-out pictures": len(set(held_out.table["image"].to_pylist())),
        "held-out captions": len(held_out),
    }
    assert not set(training.table["image"].to_pylist()) & set(held_out.table["image"].to_pylist())
    return training, validation, held_out, sizes


def by_language(clip: Any, captions: Any) -> dict[str, float]:
    """Returns R@10 of the languages with enough captions, and R@1 … R@10 as means over them."""
    from babelclip.train.pictures import paths_of
    from babelclip.train.recall import groups_of, recalls

    counts = Counter(captions.langs)
    captions = captions.select([lang for lang, count in counts.items() if count >= min(LEAST, counts["en"])])
    pictures = list(paths_of(captions, None))
    groups = groups_of(captions, pictures)
    return recalls(clip.encode_text(captions.texts), clip.encode_image(pictures), captions.langs, *groups)


def main() -> None:
    """Trains, measures and prints."""
    import torch

    import babelclip
    from babelclip.evaluate.metrics import chance_recall
    from babelclip.files import write_json
    from babelclip.train.contrastive import train_contrastive
    from babelclip.train.recall import Benchmark
    from babelclip.train.recipe import Recipe, apply_overrides, recipe_to_dict

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--student", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--name", default="plain", help="of this run")
    parser.add_argument(
        "--pictures", choices=("all", "stamps", "photos"), default="all", help="all = stamps and emoji to train on"
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    given = parser.parse_args()
    training, validation, held_out, sizes = read_splits(given.pictures)
    clip = babelclip.load(given.student)
    taught = clip.languages
    recipe = apply_overrides(Recipe(), [*RECIPE, *given.set])
    before, choosing = by_language(clip, held_out), by_language(clip, validation)["R@10"]
    start = time.perf_counter()
    result = train_contrastive(
        clip, training, recipe, given.work / given.name, resume=True, benchmark=Benchmark(validation)
    )
    seconds = time.perf_counter() - start
    after, chosen_by = by_language(clip, held_out), by_language(clip, validation)["R@10"]
    codes = sorted(name.partition("/")[2] for name in before if name.startswith("R@10/"))
    rows = {code: [round(100 * figures[f"R@10/{code}"], 1) for figures in (before, after)] for code in codes}
    known = [code for code in codes if code in taught]

    def mean(of: list[str]) -> list[float]:
        return [round(float(np.mean([rows[code][side] for code in of])), 1) for side in (0, 1)]

    labels = held_out.table["label"].to_pylist()
    of_picture = dict(zip(held_out.table["image"].to_pylist(), labels, strict=True))
    relevant = Counter(of_picture.values())
    chance = chance_recall(len(of_picture), [relevant[label] for label in of_picture.values()], (10,)).mean()
    record = {
        "date": date.today().isoformat(),
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}; other jobs ran beside it",
        "versions": {**babelclip.train.device.versions(), "threads": torch.get_num_threads()},
        "student": str(given.student),
        "pictures": given.pictures,
        "sizes": sizes,
        "recipe": recipe_to_dict(recipe),
        "seconds": round(seconds, 1),
        "run": {
            "status": result.run.status,
            "steps": result.run.step,
            "best step": result.run.best_step,
            "trained weights": result.trained_weights,
            "logit scale": round(result.logit_scale, 2),
            "training seconds": round(result.run.seconds, 1),
        },
        "R@10, text to picture, in per cent": {
            "chance": round(100 * float(chance), 1),
            "photographs that choose [before, after]": [round(100 * value, 1) for value in (choosing, chosen_by)],
            "all languages": mean(codes),
            "languages that teacher learning had": mean(known),
            "other languages": mean([code for code in codes if code not in known]),
            "by language [before, after]": rows,
        },
        "means over languages": {
            name: [round(100 * figures[name], 1) for figures in (before, after)]
            for name in ("R@1", "R@5", "R@10", "i2t R@1", "i2t R@10")
        },
    }
    if given.out:
        kept = json.loads(given.out.read_text(encoding="utf-8"))["runs"] if given.out.exists() else {}
        write_json(given.out, {"job": "contrastive-locked", "runs": {**kept, given.name: record}})
    for code, (first, last) in rows.items():
        sys.stderr.write(f"{code:8} {first:5.1f} -> {last:5.1f}{' *' if code in known else ''}\n")
    sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
