"""A translation killed (SIGKILL) at random moments and resumed, against one in peace: are their bytes equal?

    python benchmarks/translate_resume.py --captions train.en.gz [--out results/translate-resume.json]

The first 2,000 captions go into Spanish with Apertium through `babelclip translate --plan all`, which also keeps 222 of
them in English, with blocks of 50 so that there is much to interrupt. The first kills fall anywhere in the start of the
program, the others after a random number of finished shards and a random pause. Compared is every file but
`timings.jsonl` (seconds) and `.lock` (a process's number). A finished shard must never be written again: its file keeps
its time and its inode to the end.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

NOT_COMPARED = (".lock", "timings.jsonl")
# Kills that need not wait for a shard, seconds after the start at most.
EARLY, WITHIN = 4, 3.0


def command(source: Path, out: Path, rows: int) -> list[str]:
    """The command that is killed and run again."""
    asked = ["--to", "es", "--engine", "apertium", "--plan", "all", "--rows", str(rows), "--out", str(out)]
    return [sys.executable, "-m", "babelclip.cli.main", "translate", str(source), *asked]


def started(source: Path, out: Path, rows: int) -> subprocess.Popen[bytes]:
    """A run, in a group of its own so that what it started ends with it."""
    return subprocess.Popen(
        command(source, out, rows), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def finished(out: Path) -> dict[str, tuple[int, int]]:
    """Finished shards, with time and inode of each one's translations."""
    found = {}
    for record in out.glob("shards/*/[0-9]*.json"):
        file = out / "translations" / record.parent.name / f"{record.stem}.parquet"
        found[f"{record.parent.name}/{record.stem}"] = (file.stat().st_mtime_ns, file.stat().st_ino)
    return found


def content(out: Path) -> dict[str, bytes]:
    """Every compared file."""
    files = (file for file in sorted(out.rglob("*")) if file.is_file() and file.name not in NOT_COMPARED)
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


def translated(shards: Iterable[str]) -> int:
    """Number of those that took work: English copies are written at once, at the end."""
    return sum(name.startswith("es/") for name in shards)


def kill_once(source: Path, out: Path, rows: int, number: int, kills: int, shards: int) -> dict[str, object]:
    """Starts a run, kills it, and tells when; `shards` are the Spanish ones of a whole run."""
    before = finished(out)
    start = time.perf_counter()
    child = started(source, out, rows)
    if number < EARLY:
        time.sleep(random.random() * WITHIN)
    else:
        wanted = max(translated(before), round(shards * (number - EARLY + random.random()) / (kills - EARLY)) - 1)
        while child.poll() is None and translated(finished(out)) < wanted:
            time.sleep(0.002)
        time.sleep(random.random() * 0.6)
    over = child.poll() is not None
    os.killpg(child.pid, signal.SIGKILL) if not over else None
    child.wait()
    after = finished(out)
    rewritten = [name for name, facts in before.items() if after.get(name) != facts]
    seconds = round(time.perf_counter() - start, 2)
    left = len(list(out.rglob(".*.part")))
    return {"seconds": seconds, "shards": len(after), "half_written": left, "rewritten": len(rewritten), "over": over}


def measure(source: Path, folder: Path, count: int, rows: int, kills: int) -> dict[str, object]:
    """Translates in peace, then with kills, and compares."""
    opened = gzip.open if source.name.endswith(".gz") else open
    with opened(source, "rt", encoding="utf-8") as file:
        lines = [next(file) for _ in range(count)]
    captions = folder / "captions.en"
    captions.write_text("".join(lines), encoding="utf-8")
    start = time.perf_counter()
    if started(captions, folder / "whole", rows).wait():
        raise SystemExit("the run in peace failed: is Apertium's pair eng-spa installed?")
    seconds = time.perf_counter() - start
    whole_shards = finished(folder / "whole")
    shards = len(whole_shards)
    points = []
    for number in range(kills):
        points.append(kill_once(captions, folder / "cut", rows, number, kills, translated(whole_shards)))
        sys.stdout.write(f"| {number + 1} | {points[-1]['seconds']} | {points[-1]['shards']} of {shards} | ")
        sys.stdout.write(f"{points[-1]['half_written']} | {points[-1]['rewritten']} |\n")
        sys.stdout.flush()
    before = finished(folder / "cut")
    if started(captions, folder / "cut", rows).wait():
        raise SystemExit("the last run failed")
    after = finished(folder / "cut")
    whole, cut = content(folder / "whole"), content(folder / "cut")
    differing = sorted(name for name in whole.keys() | cut.keys() if whole.get(name) != cut.get(name))
    rewritten = sum(int(str(point["rewritten"])) for point in points)
    rewritten += sum(after[name] != facts for name, facts in before.items())
    return {
        "captions": count,
        "shards": shards,
        "files_compared": len(whole),
        "bytes_compared": sum(map(len, whole.values())),
        "kills": sum(not point["over"] for point in points),
        "points": points,
        "rewritten_shards": rewritten,
        "differing_files": differing,
        "seconds_in_peace": round(seconds, 1),
        "holds": not differing and not rewritten,
    }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=Path, required=True, help="plain lines in English, perhaps .gz")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=50)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    random.seed(given.seed)
    sys.stdout.write("| kill | after, s | finished shards | half-written files | shards written again |\n")
    sys.stdout.write("|---:|---:|---:|---:|---:|\n")
    with tempfile.TemporaryDirectory() as name:
        found = measure(given.captions, Path(name), given.count, given.rows, given.kills)
    result = {
        "benchmark": "translate_resume",
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("babelclip", "pyarrow", "numpy")},
        **found,
    }
    sys.stdout.write(json.dumps(result) + "\n")
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
