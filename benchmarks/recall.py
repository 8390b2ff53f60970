"""Recall at COCO size: 25,000 captions x 5,000 pictures, both directions, k = 1, 5, 10.

    python benchmarks/recall.py [--peer .oracles/current/bin/python] [--rounds 5] [--out results/recall.json]

Vectors are random, but not without shape: pictures lie around 250 topics, captions around their pictures, 512 numbers
each, so that a caption has to find its picture among near ones. Ours is `score_both`, from vectors to every figure of
both directions, nDCG, MRR and MAP included. The peer is clip_benchmark's own code on the same vectors, in the
environment of the oracles: one matrix of scores, one of pairs, and its `recall_at_k` through its `batchify` in batches
of 64 (its default), direction by direction and k by k, because it answers one k at a time. Rounds of ours stand before,
between and after those of the peer, every one in a process of its own. Both must give the same six figures. Processor
seconds are told beside those on the clock: other work on the machine disturbs them less.

The bars: ours takes at most 2.5 s on 2 cores and 1 GB of memory at its peak, and the peer at least 20 times as long.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

N_PICTURES, CAPTIONS, DIM, TOPICS = 5000, 5, 512, 250
KS = (1, 5, 10)
BAR_SECONDS, BAR_BYTES, BAR_RATIO = 2.5, 1e9, 20.0
PEER_BATCH = 64


def make_vectors() -> tuple[np.ndarray, np.ndarray]:
    """Returns captions (25000, 512) and pictures (5000, 512) as float32 rows of length 1, five captions a picture."""
    random = np.random.default_rng(0)
    topics = random.standard_normal((TOPICS, DIM), dtype=np.float32)
    pictures = topics[random.integers(TOPICS, size=N_PICTURES)]
    pictures = pictures + 0.7 * random.standard_normal(pictures.shape, dtype=np.float32)
    captions = np.repeat(pictures, CAPTIONS, axis=0)
    captions = captions + 6 * random.standard_normal(captions.shape, dtype=np.float32)
    return tuple(rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (captions, pictures))


def ours(captions: np.ndarray, pictures: np.ndarray) -> dict[str, Any]:
    """Returns seconds and the six figures of babelclip."""
    from babelclip.evaluate.metrics import score_both
    from babelclip.evaluate.relevance import same_group

    own, picture = np.arange(len(captions)) // CAPTIONS, np.arange(len(pictures))
    start = time.perf_counter()
    both = score_both(captions, pictures, same_group(own, picture), same_group(picture, own), KS)
    t2i, i2t = (scores.summary() for scores in both)
    seconds = {"both": time.perf_counter() - start}
    figures = {f"{name}_R@{k}": means[f"R@{k}"] for name, means in (("t2i", t2i), ("i2t", i2t)) for k in KS}
    return {"seconds": seconds, "figures": figures}


def clip_benchmark(captions: np.ndarray, pictures: np.ndarray, k: int) -> dict[str, Any]:
    """Returns seconds and the two figures of clip_benchmark for one k."""
    import torch
    from clip_benchmark.metrics.zeroshot_retrieval import batchify, recall_at_k

    start = time.perf_counter()
    scores = torch.from_numpy(captions) @ torch.from_numpy(pictures).t()
    positive = torch.zeros_like(scores, dtype=bool)
    positive[torch.arange(len(scores)), torch.arange(len(scores)) // CAPTIONS] = True
    seconds, figures = {"scores": time.perf_counter() - start}, {}
    for name, matrix, pairs in (("t2i", scores, positive), ("i2t", scores.T, positive.T)):
        start = time.perf_counter()
        recall = batchify(recall_at_k, matrix, pairs, PEER_BATCH, "cpu", k=k)
        figures[f"{name}_R@{k}"] = (recall > 0).float().mean().item()
        seconds[f"{name}_{k}"] = time.perf_counter() - start
    return {"seconds": seconds, "figures": figures}


def work(who: str, file: str) -> None:
    """Runs one round in this process and prints what it took."""
    with np.load(file) as archive:
        vectors = archive["captions"], archive["pictures"]
    before = time.process_time()
    told = ours(*vectors) if who == "ours" else clip_benchmark(*vectors, int(who))
    told["cpu_seconds"] = time.process_time() - before
    told["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    names = ("numpy",) if who == "ours" else ("clip-benchmark", "torch", "numpy")
    told["versions"] = {name: version(name) for name in names}
    print(json.dumps(told))


def run(python: str, who: str, file: Path) -> dict[str, Any]:
    """Returns what a round in a process of its own told."""
    command = [python, __file__, "--work", who, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def measure(peer: str, rounds: int, file: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the rounds of ours and those of the peer, one a k, taken in turns."""
    mine = [run(sys.executable, "ours", file)]
    theirs = []
    for k in KS if peer else ():
        theirs.append(run(peer, str(k), file))
        mine.append(run(sys.executable, "ours", file))
    while len(mine) < rounds:
        mine.append(run(sys.executable, "ours", file))
    return mine, theirs


def report(mine: list[dict[str, Any]], theirs: list[dict[str, Any]], load: float) -> dict[str, Any]:
    """Returns the record of a run."""
    totals = [sum(told["seconds"].values()) for told in mine]
    record: dict[str, Any] = {
        "benchmark": "recall",
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} before",
        "versions": {"babelclip": _version("babelclip"), "python": platform.python_version(), **mine[0]["versions"]},
        "size": {"captions": N_PICTURES * CAPTIONS, "pictures": N_PICTURES, "dim": DIM, "k": list(KS)},
        "figures": mine[0]["figures"],
        "seconds": [round(total, 3) for total in totals],
        "median_seconds": round(statistics.median(totals), 3),
        "median_cpu_seconds": round(statistics.median(told["cpu_seconds"] for told in mine), 3),
        "peak_bytes": max(told["peak_bytes"] for told in mine),
        "bars": {"seconds": BAR_SECONDS, "bytes": BAR_BYTES, "ratio": BAR_RATIO},
    }
    holds = record["median_seconds"] <= BAR_SECONDS and record["peak_bytes"] < BAR_BYTES
    if theirs:
        parts = {name: took for told in theirs for name, took in told["seconds"].items() if name != "scores"}
        scores = statistics.median(told["seconds"]["scores"] for told in theirs)
        figures = {name: value for told in theirs for name, value in told["figures"].items()}
        apart = max(abs(figures[name] - value) for name, value in record["figures"].items())
        if apart > 1e-6:
            raise SystemExit(f"the figures differ by {apart:.2g}: {record['figures']} against {figures}")
        total = scores + sum(parts.values())
        record["peer"] = {
            "versions": theirs[0]["versions"],
            "seconds": {"scores": round(scores, 3), **{name: round(took, 3) for name, took in parts.items()}},
            "total_seconds": round(total, 3),
            "cpu_seconds": round(sum(told["cpu_seconds"] for told in theirs), 3),
            "peak_bytes": max(told["peak_bytes"] for told in theirs),
            "largest_difference": apart,
        }
        record["ratio"] = round(total / record["median_seconds"], 1)
        holds = holds and record["ratio"] >= BAR_RATIO
    return {**record, "holds": holds}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "from the folder"


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", default="", help="a Python with clip_benchmark; without it ours alone")
    parser.add_argument("--rounds", type=int, default=5, help="of ours, at least one more than there are ks")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(*given.work)
        return
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vectors.npz"
        captions, pictures = make_vectors()
        np.savez(file, captions=captions, pictures=pictures)
        record = report(*measure(given.peer, given.rounds, file), load)
    print("| | seconds | peak, MB |\n|---|---:|---:|", file=sys.stderr)
    print(f"| babelclip, median | {record['median_seconds']:.2f} | {record['peak_bytes'] / 1e6:.0f} |", file=sys.stderr)
    if "peer" in record:
        peer = record["peer"]
        print(f"| clip_benchmark | {peer['total_seconds']:.1f} | {peer['peak_bytes'] / 1e6:.0f} |", file=sys.stderr)
        print(f"ratio {record['ratio']}", file=sys.stderr)
    if given.out:
        given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
