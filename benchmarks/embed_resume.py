"""Real captions through `babelclip embed`, killed (SIGKILL) at random moments and resumed: are the bytes the same?

    python benchmarks/embed_resume.py --model demo/teacher --captions .../multi30k/train.en.gz [--kills 20] [--out F]

The first captions of the file are embedded by the command line in one go, and into another folder by processes that are
killed at random moments, spread over the growth of the store; some die while torch is imported, some while a shard is
written. The last one runs to its end. Every file of the two stores must be equal, the lock aside, and each distinct
text must have been encoded at most once more than the shards that the kills cost.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from babelclip.data.captions import Captions, read_lines, write_captions
from babelclip.store import EmbeddingStore


def digests(store: Path) -> dict[str, str]:
    """SHA-256 of every file but the lock, which holds the number of a process."""
    files = [file for file in sorted(store.rglob("*")) if file.is_file() and file.name != ".lock"]
    return {str(file.relative_to(store)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def half_written(store: Path, process: int) -> list[str]:
    """Returns the temporary files of `process` in a store; those of processes killed earlier do not count."""
    folders = [store, store / "vectors", store / "rows"]
    names = [f"{folder.name}/{name}" for folder in folders if folder.is_dir() for name in os.listdir(folder)]
    return [name for name in names if name.endswith(f".{process}.part")]


def rows_there(store: Path) -> int:
    """Rows that the manifest of a store names."""
    manifest = store / "manifest.json"
    return json.loads(manifest.read_text())["count"] if manifest.exists() else 0


def killed_at(
    command: list[str], store: Path, rows: int, rng: random.Random, writing: bool
) -> dict[str, object] | None:
    """Starts `command`, kills it some time after `store` has `rows`; None where it ended before.

    With `writing` that is when a half-written file is seen next, which chance alone would hardly meet.
    """
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while rows_there(store) < rows and child.poll() is None:
        time.sleep(0.002)
    if writing:
        while child.poll() is None and not half_written(store, child.pid):
            pass
    else:
        # Before there is a store a run reads programs and weights, for seconds.
        time.sleep(rng.random() * (0.3 if rows else 5.0))
    child.kill()
    if child.wait() == 0:
        return None
    temporary = half_written(store, child.pid)
    seconds = round(time.perf_counter() - began, 2)
    return {"after_seconds": seconds, "rows": rows_there(store), "half_written": temporary}


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--captions", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--shard-rows", type=int, default=64)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        captions = Captions(read_lines(given.captions, "en").table.slice(0, given.count))
        write_captions(captions, folder / "captions.jsonl")
        rows = str(given.shard_rows)

        def command(store: str) -> list[str]:
            embed = [sys.executable, "-m", "babelclip.cli.main", "embed", str(folder / "captions.jsonl")]
            return [*embed, "--model", str(given.model), "--out", str(folder / store), "--shard-rows", rows]

        began = time.perf_counter()
        whole = subprocess.run(command("whole"), check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - began
        kills: list[dict[str, object]] = []
        for number in range(given.kills):
            # The first two die early on, perhaps before there is a store.
            wanted = given.count * max(0.0, number - 2 + rng.random()) / given.kills
            kill = killed_at(command("cut"), folder / "cut", int(wanted), rng, writing=number % 3 == 2)
            if kill is None:
                raise SystemExit(f"the run ended before kill {number}: give more captions or fewer kills")
            kills.append(kill)
        last = subprocess.run(command("cut"), check=True, capture_output=True, text=True)
        found, expected = digests(folder / "cut"), digests(folder / "whole")
        store = EmbeddingStore.open(folder / "cut")
        result = {
            "benchmark": "embed_resume",
            "date": time.strftime("%Y-%m-%d"),
            "command": " ".join(["python", *sys.argv]),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy", "pyarrow")},
            "captions": len(store),
            "distinct_texts": store.rows["repeat"].to_pylist().count(False),
            "shards": len(list((folder / "cut" / "vectors").glob("*.npy"))),
            "seconds_undisturbed": round(seconds, 1),
            "kills": len(kills),
            "kills_with_half_written_files": sum(bool(kill["half_written"]) for kill in kills),
            "problems_found_by_verify": len(store.verify()),
            "equal": found == expected,
            "manifest_sha256": expected["manifest.json"],
            "said": {"undisturbed": whole.stderr.splitlines(), "last": last.stderr.splitlines()},
            "at": kills,
        }
    sys.stdout.write("| kill | after, s | rows | half-written files |\n|---|---:|---:|---|\n")
    for number, kill in enumerate(kills, 1):
        half = ", ".join(map(str, kill["half_written"])) or "-"  # type: ignore[call-overload]
        sys.stdout.write(f"| {number} | {kill['after_seconds']} | {kill['rows']} | {half} |\n")
    sys.stdout.write(json.dumps(result) + "\n")
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
