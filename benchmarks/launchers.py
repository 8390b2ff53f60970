"""Throughput of the launchers: the same pictures to the same store by `local`, `ray` and `rank` on one machine.

    python benchmarks/launchers.py --pictures DIR --model DIR --work DIR [--rounds 3] [--once NAME] [--out FILE]

Shards of 1,000 pictures, one worker with one thread for each core, whoever starts them: two processes (`local`), two
actors of a Ray cluster that is started for the run (`ray`), two processes that know of each other only what the
environment says, each on its own core (`rank`). Launchers take turns, so that what the machine does meanwhile meets
all of them.

Of each run: start-up, from the call to the first shard's begin (processes, imports, plan, model, Ray's cluster);
steady seconds, from there to the end of the last shard; the rest, committing and shutting down. Throughput is pictures
over steady seconds; overhead is that of `local` over that of another, minus one, by medians. The bar: 10 % for `ray`.
Where other work disturbs, two numbers say what a launcher itself costs: processor seconds of the workers within shards,
and the seconds that workers wait between two shards.

Runs are kept in DIR/runs.jsonl: `--once NAME` adds one and ends, which leaves the machine to others in between; without
it all rounds are run. Either way the table shows all runs that are kept.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

LAUNCHERS = ("local", "ray", "rank")
BAR = 0.10
SHARD, SHARDS = 1000, 4


class Timed:
    """A job whose workers note when a shard was begun and finished."""

    def __init__(self, job: Any, log: Path) -> None:
        self.job, self.log = job, log

    def __getattr__(self, name: str) -> Any:
        """Returns what the job has; without it while it is unpickled, nothing."""
        if name.startswith("__") or name == "job":
            raise AttributeError(name)
        return getattr(self.job, name)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def worker(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the job's worker, timed."""
        return TimedWorker(self.job.worker(*args, **kwargs), self.log)


class TimedWorker:
    """Does a shard and notes begin and end, seconds since 1970."""

    def __init__(self, work: Any, log: Path) -> None:
        self.work, self.log = work, log

    def __call__(self, shard: Any) -> Any:
        """Returns the fragment of a shard."""
        begun, computed = time.time(), time.process_time()
        fragment = self.work(shard)
        computed = time.process_time() - computed
        with self.log.open("a") as file:
            file.write(json.dumps([shard.number, begun, time.time(), os.getpid(), computed]) + "\n")
        return fragment


def run(launcher: str, args: argparse.Namespace) -> dict[str, Any]:
    """Embeds once into an empty folder, and returns what it took."""
    out, log = args.work / "store", args.work / "shards.jsonl"
    for path in (out, args.work / "store.job"):
        shutil.rmtree(path, ignore_errors=True)
    log.unlink(missing_ok=True)
    began, cores = time.time(), sorted(os.sched_getaffinity(0))
    command = [sys.executable, __file__, *sys.argv[1:], "--inside", launcher]
    if launcher == "rank":
        started = [
            subprocess.Popen(
                ["taskset", "-c", str(core), *command],
                env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(len(cores)), "OMP_NUM_THREADS": "1"},
            )
            for rank, core in enumerate(cores)
        ]
    else:
        started = [subprocess.Popen(command)]
    codes = [process.wait() for process in started]
    ended = time.time()
    if any(codes):
        raise SystemExit(f"{launcher} failed with {codes}")
    noted = [json.loads(line) for line in log.read_text().splitlines()]
    first, last = min(item[1] for item in noted), max(item[2] for item in noted)
    digest = hashlib.sha256()
    for path in sorted(out.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            digest.update(path.relative_to(out).as_posix().encode() + path.read_bytes())
    pictures = SHARD * SHARDS
    return {
        "launcher": launcher,
        "start_up_s": round(first - began, 2),
        "steady_s": round(last - first, 2),
        "rest_s": round(ended - last, 2),
        "pictures_per_s": round(pictures / (last - first), 2),
        "workers_cpu_s": round(sum(item[4] for item in noted), 1),
        "between_shards_s": round(_between(noted), 2),
        "workers": len({item[3] for item in noted}),
        "shards": len(noted),
        "load_average": round(os.getloadavg()[0], 2),
        "sha256": digest.hexdigest(),
    }


def _between(noted: list[list[Any]]) -> float:
    """Returns the seconds that workers had no shard between their first and their last, summed over workers."""
    idle = 0.0
    for worker in {item[3] for item in noted}:
        mine = sorted((item[1], item[2]) for item in noted if item[3] == worker)
        idle += sum(after[0] - before[1] for before, after in itertools.pairwise(mine))
    return idle


def inside(launcher: str, args: argparse.Namespace) -> None:
    """What a process of a run does."""
    from babelclip.cluster import embed
    from babelclip.cluster.job import Means, run_job

    workers = 1 if launcher == "rank" else len(os.sched_getaffinity(0))
    log = args.work / "shards.jsonl"
    embed.run_job = lambda job, **settings: run_job(Timed(job, log), **settings)
    embed.embed_on(
        launcher, args.work / "pictures", args.work / "store", model=str(args.model), means=Means(workers=workers),
        pictures=True, shard_rows=SHARD,
    )  # fmt: skip


def linked(pictures: Path, folder: Path) -> None:
    """Links the first pictures below a folder into another, so that a run has whole shards."""
    found = sorted(path for path in pictures.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    wanted = found[:: max(1, len(found) // (SHARD * SHARDS))][: SHARD * SHARDS]
    if len(wanted) < SHARD * SHARDS:
        raise SystemExit(f"{pictures} has {len(found)} pictures; {SHARD * SHARDS} are needed.")
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(wanted):
        target = folder / f"{number:05d}{path.suffix.lower()}"
        if not target.exists():
            target.symlink_to(path.resolve())


def summary(runs: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    """Returns medians by launcher, and what others take over `local`."""
    median: dict[str, dict[str, float]] = {}
    for name in LAUNCHERS:
        mine = [item for item in runs if item["launcher"] == name]
        if mine:
            keys = ("start_up_s", "steady_s", "rest_s", "pictures_per_s", "workers_cpu_s", "between_shards_s")
            median[name] = {
                key: round(statistics.median(item[key] for item in mine if key in item), 2)
                for key in keys
                if any(key in item for item in mine)
            }
            median[name]["runs"] = len(mine)
    overhead = {
        name: round(median["local"]["pictures_per_s"] / median[name]["pictures_per_s"] - 1, 4)
        for name in median
        if name != "local" and "local" in median
    }
    names = ("torch", "numpy", "ray", "pyarrow", "transformers")
    return {
        "benchmark": "launchers",
        "command": "python " + shlex.join(["benchmarks/launchers.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Linux {platform.release()}",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in names}},
        "model": args.model.name,
        "pictures": SHARD * SHARDS,
        "shard": SHARD,
        "median": median,
        "overhead": overhead,
        "bar": BAR,
        "met": overhead.get("ray", 1.0) <= BAR,
        "same_bytes": len({item["sha256"] for item in runs}) == 1,
        "runs": runs,
    }


def main() -> None:
    """Runs what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of real pictures")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for stores and what was measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--once", choices=LAUNCHERS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--inside", choices=LAUNCHERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.work = args.work.absolute()
    args.model = args.model.absolute()
    if args.inside:
        inside(args.inside, args)
        return
    linked(args.pictures, args.work / "pictures")
    kept = args.work / "runs.jsonl"
    turns = [args.once] if args.once else [name for _ in range(args.rounds) for name in LAUNCHERS]
    for name in turns:
        with kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps(run(name, args)) + "\n")
    runs = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]
    found = summary(runs, args)
    row_keys = ("runs", "start_up_s", "steady_s", "rest_s", "pictures_per_s")
    print(f"{'launcher':10} {'runs':>5} {'start-up s':>11} {'steady s':>9} {'rest s':>7} {'pictures/s':>11}")
    for name, row in found["median"].items():
        words = [f"{row[key]:>{width}}" for key, width in zip(row_keys, (5, 11, 9, 7, 11), strict=True)]
        print(f"{name:10} {' '.join(words)}")
    for name, share in found["overhead"].items():
        print(f"{name}: {share:+.1%} against local")
    if args.out:
        from babelclip.files import write_json

        write_json(args.out, found)
    print(json.dumps({key: value for key, value in found.items() if key != "runs"}))


if __name__ == "__main__":
    main()
