"""Every long command disturbed: killed, out of disk, out of memory, read-only, in a jumping clock, twice at once.

    python benchmarks/reliability.py [--faults kills,disk] [--jobs embed,index] [--kills 50] [--out results/….json]

Each command (`reliability_jobs.py`) runs twice in peace; what is equal in both is what is compared. Then:

* **kills**: SIGKILL of the whole process group at random moments of its work, half of them after the run has begun to
  write; after every one to six kills the command runs to its end and must leave what the run in peace left, and
  nothing beside it.
* **disk**: the output lies on a tmpfs of a fraction of what it needs; the command must fail with a message and without
  a traceback; with room it must then end as in peace. Fault injection, not a simulation: the kernel says ENOSPC.
* **readonly**: the file system of the output is mounted read-only before the command begins.
* **memory**: the address space is limited to a fraction of what the run in peace used.
* **clock**: killed half-way in a year ago, finished with the clock three days ahead (libfaketime).
* **twice**: three runs at once on one output: who cannot write says so, and what lies there at the end is whole.

Mounts need root. Runs are forked from a process that has imported everything (`reliability_runs.py`); those in another
time are started anew. Finished parts are kept in `--work`, so that a campaign can be stopped and goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.reliability_runs import SETTINGS, apart

_HEAD = "| command |"


def main() -> None:
    """Disturbs, prints and writes."""
    if any(os.environ.get(name) != value for name, value in SETTINGS.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **SETTINGS})
    from benchmarks.reliability_faults import FAULTS
    from benchmarks.reliability_jobs import jobs, make_inputs

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--jobs", default="", help="only commands whose names begin so, with commas")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--times", type=int, default=5, help="of every other fault")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--page", type=Path, help="a page whose table of the campaign is replaced")
    given = parser.parse_args()
    work = (given.work or Path(tempfile.mkdtemp(prefix="reliability-"))).resolve()
    if not (work / "inputs" / "recipe.toml").exists():
        work.mkdir(parents=True, exist_ok=True)
        apart(lambda: make_inputs(work / "inputs") or "", work)
    names = tuple(given.jobs.split(","))
    chosen = [job for job in jobs(work / "inputs") if job.name.startswith(names)]
    record: dict[str, Any] = {}
    for job in chosen:
        record[job.name] = disturbed(job, work / job.name.replace(" ", "-"), given)
    result = {
        "benchmark": "reliability",
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("babelclip", "torch", "numpy", "pyarrow", "lancedb")},
        "seed": given.seed,
        "wrong": sum(tally["wrong_count"] for faults in record.values() for tally in faults.values()),
        "jobs": record,
    }
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if given.page:
        before, _, old = given.page.read_text(encoding="utf-8").partition(_HEAD)
        after = old.partition("\n\n")[2]
        given.page.write_text(f"{before}{table(record)}\n{after}", encoding="utf-8")
    sys.stdout.write(table(record) + json.dumps(result) + "\n")


def table(record: dict[str, Any]) -> str:
    """Returns the campaign as docs/reliability.md shows it: how often each fault struck, and what was wrong."""
    faults = list(dict.fromkeys(fault for tallies in record.values() for fault in tallies))
    lines = [f"{_HEAD} {' | '.join(faults)} | runs to the end, equal | wrong |", "|---" * (len(faults) + 3) + "|"]
    for name, tallies in record.items():
        struck = [str(tallies[fault]["struck"]) if fault in tallies else "-" for fault in faults]
        ends = sum(tally["finished_equal"] for tally in tallies.values())
        wrong = sum(tally["wrong_count"] for tally in tallies.values())
        lines.append(f"| `{name}` | {' | '.join(struck)} | {ends} | {wrong} |")
    return "\n".join(lines) + "\n"


def disturbed(job: Any, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Returns what each fault did to a command; what an earlier campaign found is taken over, round by round."""
    from benchmarks.reliability_faults import FAULTS, Place, Tally, in_peace

    folder.mkdir(parents=True, exist_ok=True)
    place = Place(job, folder)
    done: dict[str, Any] = {}
    peace = None
    for fault in given.faults.split(","):
        kept = folder / f"{fault}.json"
        tally = Tally.of(json.loads(kept.read_text())) if kept.exists() else Tally()
        wanted, began = given.kills if fault == "kills" else given.times, time.perf_counter()
        while (tally.struck if fault == "kills" else tally.rounds) < wanted:
            peace = peace or in_peace(place)
            FAULTS[fault](place, peace, tally, random.Random(f"{given.seed} {job.name} {fault} {tally.rounds}"))
            tally.rounds += 1
            kept.write_text(json.dumps(tally.as_json()))
            shutil.rmtree(folder / "said", ignore_errors=True)
        done[fault] = found = tally.as_json()
        row = f"| {job.name} | {fault} | {tally.struck} | {tally.finished} | {dict(tally.outcomes)} "
        sys.stdout.write(f"{row}| {len(tally.wrong)} | {time.perf_counter() - began:.0f} s\n")
        for line in found["wrong"][:2]:
            sys.stdout.write(f"    {line!r}\n")
        sys.stdout.flush()
    return done


if __name__ == "__main__":
    main()
