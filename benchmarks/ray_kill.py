"""Does a job on Ray keep every byte when a node or the driver is killed? 2,000 real pictures, embedded and indexed.

    python benchmarks/ray_kill.py --pictures DIR --model DIR --work DIR [--count 2000] [--out FILE]

A Ray cluster of two nodes with one processor each; one is killed (its raylet and workers, no farewell) in the middle of
a shard. Then a driver that is killed (SIGKILL) once eight shards are finished and none is committed, and the same job
again, undisturbed. What comes out is compared with what one process makes without Ray: a store file by file, a
collection row by row in the order of the table, vectors and thumbnails to the byte. Times are those of a machine that
does other things too; nothing is concluded from them. Runs that are done are kept in WORK/runs.jsonl, so the same
command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.cluster.on_ray import RAY_ENVIRONMENT, SHARD, events  # noqa: E402
from tests.cluster.pictures import digests  # noqa: E402
from tests.cluster.rows import all_rows  # noqa: E402


def prepare(args: argparse.Namespace) -> None:
    """Links pictures and model into the folder, and makes what one process makes of them."""
    import babelclip
    from babelclip.data.embed_images import embed_pictures
    from babelclip.search.index import index_pictures

    found = sorted(path for path in args.pictures.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    folder = args.work / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(found[:: max(1, len(found) // args.count)][: args.count]):
        target = folder / f"{number:05d}{path.suffix.lower()}"
        if not target.exists():
            shutil.copy2(path, target)
    if not (args.work / "model").exists():
        (args.work / "model").symlink_to(args.model.resolve())
    clip = babelclip.load(args.model)
    embed_pictures(clip, folder, args.work / "store", shard_rows=SHARD)
    index_pictures(clip, [folder], args.work / "plain.lance")


def run(what: str, how: str, args: argparse.Namespace) -> dict[str, Any]:
    """Kills once, goes on where the driver was killed, and compares."""
    out = args.work / f"{what}-{how}.lance"
    log = out.with_name(f"{out.name}.log")
    for path in (out, out.with_name(f"{out.name}.job")):
        shutil.rmtree(path, ignore_errors=True)
    log.unlink(missing_ok=True)
    found: dict[str, Any] = {"what": what, "killed": how}
    start = time.perf_counter()
    for turn in [how, "whole"] if how == "driver" else [how]:
        command = [sys.executable, "-m", "tests.cluster.on_ray", str(args.work), what, str(out), turn]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, **RAY_ENVIRONMENT}, capture_output=True, text=True)
        expected = -signal.SIGKILL if turn == "driver" else 0
        if done.returncode != expected:
            raise SystemExit(f"{what}, {turn}: ended with {done.returncode}\n{done.stderr[-2000:]}")
        if turn == "driver":
            found["finished_before_the_kill"] = sum(item[0] == "finished" for item in events(log))
    noted = events(log)
    found |= {
        "seconds": round(time.perf_counter() - start, 1),
        "shards": len({item[1] for item in noted}),
        "begun": sum(item[0] == "begun" for item in noted),
        "finished": sum(item[0] == "finished" for item in noted),
        "nodes": len({item[2] for item in noted}),
    }
    if what == "embed":
        found["equal"] = digests(out) == digests(args.work / "store")
        found["files"] = len(digests(out))
    else:
        rows = all_rows(out)
        found["equal"] = rows.equals(all_rows(args.work / "plain.lance"))
        found["rows"] = len(rows)
    return found


def main() -> None:
    """Runs what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of real pictures")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.work = args.work.absolute()
    prepare(args)
    kept = args.work / "runs.jsonl"
    runs = [json.loads(line) for line in kept.read_text("utf-8").splitlines()] if kept.exists() else []
    done = {(item["what"], item["killed"]) for item in runs}
    for what, how in itertools.product(("embed", "index"), ("node", "driver")):
        if (what, how) not in done:
            runs.append(run(what, how, args))
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps(runs[-1]) + "\n")
            print(json.dumps(runs[-1]), flush=True)
    names = ("torch", "numpy", "ray", "pylance", "lancedb", "pyarrow")
    found = {
        "benchmark": "ray_kill",
        "command": "python " + shlex.join(["benchmarks/ray_kill.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Linux {platform.release()}",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in names}},
        "pictures": args.count,
        "shard": SHARD,
        "all_equal": all(item["equal"] for item in runs),
        "runs": runs,
    }
    if args.out:
        from babelclip.files import write_json

        write_json(args.out, found)
    print(json.dumps({key: value for key, value in found.items() if key != "runs"}))


if __name__ == "__main__":
    main()
