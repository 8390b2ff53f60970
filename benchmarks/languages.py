"""What 36 languages cost beside one: pictures are encoded once, whatever the number of languages.

    python benchmarks/languages.py --model demo/student [--pictures 300] [--rounds 3] [--out results/languages.json]

`babelclip.evaluate.run.run`, which is what `babelclip evaluate` does, measures one model on made photographs (JPEG,
640 x 480) with one caption a picture in each of Crossmodal-3600's 36 languages, first in English alone, then in all;
from files to written results, both directions, intervals included, no cache. The two take turns, every round in a
process of its own. Captions are strings of ten words or so in the languages' own scripts: what they say does not matter
for the time. Processor seconds stand beside those on the clock, because other work on the machine disturbs them less;
loading model and libraries is measured by a round on four pictures in one language and taken off both, and the ratio is
also told with it. The bar: 36 languages cost at most 1.3 times one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

LANGUAGES = (
    *"en ar bn cs da de el es fa fi fil fr he hi hr hu id it".split(),
    *"ja ko mi nl no pl pt quz ro ru sv sw te th tr uk vi zh".split(),
)
BAR = 1.3


def make_set(folder: Path, pictures: int) -> None:
    """Writes the pictures and `captions.jsonl`."""
    from PIL import Image

    from babelclip import languages

    random = np.random.default_rng(0)
    (folder / "pictures").mkdir(parents=True)
    with open(folder / "captions.jsonl", "w", encoding="utf-8") as file:
        for i in range(pictures):
            coarse = random.integers(0, 255, (30, 40, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)
            picture.save(folder / "pictures" / f"{i:05}.jpg", quality=90)
            for code in LANGUAGES:
                word = languages.native_name(code)
                text = " ".join([word, *(f"{word[: 2 + int(n) % 5]}" for n in random.integers(10, size=9)), str(i)])
                row = {"text": text, "lang": code, "image": f"pictures/{i:05}.jpg"}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def work(model: str, folder: str, codes: str) -> None:
    """Measures once in this process and prints what it took."""
    from babelclip.evaluate.run import Plan, run

    with tempfile.TemporaryDirectory() as out:
        start, cpu = time.perf_counter(), time.process_time()
        plan = Plan(
            models=[model],
            datasets=[f"captions={folder}/captions.jsonl"],
            languages=codes.split(","),
            out=Path(out),
            cache=None,
        )
        outcome = run(plan)
        told = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    if outcome.failures or len(outcome.results) != 2 * len(codes.split(",")):
        raise SystemExit(f"{len(outcome.results)} results; {outcome.failures}")
    print(json.dumps(told))


def round_of(model: str, folder: Path, codes: Sequence[str]) -> dict[str, float]:
    """Returns the seconds of a round in a process of its own."""
    command = [sys.executable, __file__, "--model", model, "--work", str(folder), ",".join(codes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def measure(model: str, pictures: int, rounds: int) -> dict[str, Any]:
    """Returns seconds by kind of round: start, one language, all languages."""
    found: dict[str, list[dict[str, float]]] = {"start": [], "one": [], "all": []}
    with tempfile.TemporaryDirectory() as name:
        small, large = Path(name) / "small", Path(name) / "large"
        make_set(small, 4)
        make_set(large, pictures)
        for _ in range(rounds):
            found["start"].append(round_of(model, small, LANGUAGES[:1]))
            found["one"].append(round_of(model, large, LANGUAGES[:1]))
            found["all"].append(round_of(model, large, LANGUAGES))
    return {
        kind: {unit: [round(told[unit], 2) for told in rows] for unit in ("seconds", "cpu_seconds")}
        for kind, rows in found.items()
    }


def ratios(found: dict[str, Any]) -> dict[str, float]:
    """Returns how many times one language all of them cost, on the clock and the processor, with and without start."""
    told = {}
    for unit in ("seconds", "cpu_seconds"):
        start, one, all_ = (statistics.median(found[kind][unit]) for kind in ("start", "one", "all"))
        told[f"{unit}_with_start"] = round(all_ / one, 3)
        told[unit] = round((all_ - start) / (one - start), 3)
    return told


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo/student", help="folder of a model with both towers")
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.model, *given.work)
        return
    load = os.getloadavg()[0]
    found = measure(given.model, given.pictures, given.rounds)
    told = ratios(found)
    import babelclip

    record = {
        "benchmark": "languages",
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} before",
        "versions": {name: version(name) for name in ("torch", "transformers", "numpy", "pillow")},
        "model": babelclip.load(given.model).facts(),
        "pictures": given.pictures,
        "languages": len(LANGUAGES),
        "captions": given.pictures * len(LANGUAGES),
        "rounds": found,
        "ratio": told,
        "bar": BAR,
        "holds": told["cpu_seconds"] <= BAR,
    }
    print("| | clock, s | processor, s |\n|---|---:|---:|", file=sys.stderr)
    for kind, rows in found.items():
        medians = [statistics.median(rows[unit]) for unit in ("seconds", "cpu_seconds")]
        print(f"| {kind} | {medians[0]:.1f} | {medians[1]:.1f} |", file=sys.stderr)
    if given.out:
        given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
