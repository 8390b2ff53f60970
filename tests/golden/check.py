"""Runs every generator again in the original implementations' environments and compares: `make test-oracles`.

Three comparisons for each golden case, all as the largest absolute difference, and bit for bit where hashes or ids are
kept: what the original gives now with what is committed; babelclip with what is committed; and babelclip with the
original on fresh inputs (random texts, pictures of other sizes), for which the generators run a second time.

Usage: python tests/golden/check.py [--python ENVIRONMENT=PATH ...] [--seed N] [--out FILE] [--only NAME]

A generator says where it runs by `ENVIRONMENT = "current"`, another name of ENVIRONMENTS, or several. The exit status
is 1 if anything differs by more than TOLERANCE, is missing, or fails.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
TOLERANCE = 1e-5
# Made by the Makefile from requirements/oracles*.txt, each in .oracles/NAME.
ENVIRONMENTS = ("current", "old", "tensorflow")


def environments(generator: Path) -> tuple[str, ...]:
    """Where a generator runs, from its source: it cannot be imported here. () for a module that only helps others."""
    source = generator.read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["ENVIRONMENT"]:
            value = ast.literal_eval(node.value)
            return (value,) if isinstance(value, str) else tuple(value)
    if 'if __name__ == "__main__"' in source:
        raise SystemExit(f"{generator} does not say where it runs: add ENVIRONMENT = one of {ENVIRONMENTS}.")
    return ()


def generate(pythons: dict[str, str], only: str, out: Path, seed: int) -> list[dict]:
    """Runs the generators into `out` and returns one record for each that failed."""
    failures = []
    for generator in sorted((GOLDEN / "make").glob("*.py")):
        for environment in environments(generator) if only in generator.stem else ():
            command = [pythons[environment], str(generator), "--out", str(out)]
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=variables(seed), check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                failures.append({"case": f"{generator.stem} ({environment})", "error": last})
    return failures


def variables(seed: int) -> dict[str, str]:
    """The environment of a run: no network, one thread, and the seed of the inputs."""
    ours = {"GOLDEN_SEED": str(seed), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return {**os.environ, **ours, "PYTHONPATH": str(ROOT)}


def regenerated(fresh: Path) -> list[dict]:
    """Compares what the generators wrote into `fresh` with the committed files of the same names."""
    rows = []
    for path in sorted(fresh.rglob("expected.npz")):
        with np.load(path) as new, np.load(GOLDEN / path.relative_to(fresh)) as old:
            if set(new) != set(old):
                rows.append({"case": path.parent.name, "error": f"arrays {sorted(new)}, committed {sorted(old)}"})
            for name in sorted(set(new) & set(old)):
                same = new[name].shape == old[name].shape
                exact = not np.issubdtype(new[name].dtype, np.floating)
                if not same or (exact and not np.array_equal(new[name], old[name])):
                    rows.append({"case": path.parent.name, "error": f"{name} is not the committed one"})
                elif not exact:
                    difference = np.abs(new[name].astype(np.float64) - old[name]).max()
                    rows.append({"case": path.parent.name, "array": name, "max_abs": float(difference)})
    for path in [*sorted(fresh.glob("*/expected.json")), *sorted(fresh.glob("*.json"))]:
        new, old = (json.loads(p.read_text(encoding="utf-8")) for p in (path, GOLDEN / path.relative_to(fresh)))
        if isinstance(new, dict):
            new.pop("versions", None), old.pop("versions", None)
        case = path.stem if path.parent == fresh else path.parent.name
        rows.append({"case": case, "array": path.name, "max_abs": 0.0} if new == old else
                    {"case": case, "error": f"{path.name} is not the committed one"})  # fmt: skip
    return rows


def ours(folder: Path, seed: int) -> list[dict]:
    """Compares babelclip with the expected outputs in `folder`, in a process of its own because the inputs differ."""
    command = [sys.executable, str(GOLDEN / "ours.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=variables(seed), check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode:
        rows.append({"case": "babelclip", "error": (done.stderr.strip().splitlines() or ["no message"])[-1]})
    for row in rows:
        if "differing" in row:
            row["max_abs"] = 0.0
            if row["differing"]:
                row["error"] = f"{row['array']}: other for {', '.join(row['differing'][:4])}"
    return rows


def packages(python: str) -> dict[str, str]:
    """The versions in an environment that decide its results."""
    names = ("torch", "torchvision", "transformers", "tokenizers", "open_clip_torch", "timm", "sentence-transformers",
             "multilingual-clip", "clip-anytorch", "diffusers", "clip-benchmark",
             "pytrec_eval-terrier", "tensorflow-cpu", "numpy", "pillow")  # fmt: skip
    code = (
        "import json\nfrom importlib.metadata import PackageNotFoundError, version\nfound = {}\n"
        f"for name in {names!r}:\n"
        "    try: found[name] = version(name)\n"
        "    except PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    return json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)


def faults(rows: list[dict]) -> list[str]:
    """What is wrong in `rows`, as sentences."""
    found = [f"{row['case']}: {row['error']}" for row in rows if "error" in row]
    return found + [
        f"{row['case']}: {row['array']} differs by {row['max_abs']:.2g}"
        for row in rows
        if "error" not in row and not row["max_abs"] <= TOLERANCE
    ]


def show(comparisons: dict[str, list[dict]], console: Console) -> None:
    """Prints one line for each case: its worst difference in each comparison."""
    table = Table("case", *comparisons, title=f"largest absolute difference (allowed: {TOLERANCE:g})")
    for case in sorted({row["case"] for rows in comparisons.values() for row in rows}):
        cells = []
        for rows in comparisons.values():
            mine = [row for row in rows if row["case"] == case]
            worst = max((row.get("max_abs", 0.0) for row in mine), default=None)
            cells.append("-" if worst is None else "FAILS" if faults(mine) else f"{worst:.1e}" if worst else "equal")
        table.add_row(case, *cells)
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", action="append", default=[], metavar="ENVIRONMENT=PATH", help="instead of .oracles")
    parser.add_argument("--seed", type=int, default=datetime.date.today().toordinal(), help="of the fresh inputs")
    parser.add_argument("--out", type=Path, help="where the JSON goes, with every comparison")
    parser.add_argument("--only", default="", help="only generators with this in their name; nothing is required then")
    chosen = parser.parse_args()
    start = time.time()
    pythons = {name: str(ROOT / ".oracles" / name / "bin" / "python") for name in ENVIRONMENTS}
    pythons |= dict(pair.split("=", 1) for pair in chosen.python)
    with tempfile.TemporaryDirectory() as again, tempfile.TemporaryDirectory() as fresh:
        failures = generate(pythons, chosen.only, Path(again), 0) + generate(
            pythons, chosen.only, Path(fresh), chosen.seed
        )
        comparisons = {
            "original again": regenerated(Path(again)),
            "babelclip": ours(GOLDEN, 0),
            f"babelclip, fresh inputs (seed {chosen.seed})": ours(Path(fresh), chosen.seed),
        }
        made = {path.parent.name for path in Path(again).rglob("expected.*")}
    committed = {path.parent.name for path in GOLDEN.rglob("expected.*")}
    if not chosen.only:
        failures += [{"case": name, "error": "no generator makes it"} for name in sorted(committed - made)]
        for kind, rows in list(comparisons.items())[1:]:
            seen = {row["case"] for row in rows}
            failures += [{"case": name, "error": f"{kind}: not compared"} for name in sorted(committed - seen)]
    console = Console(stderr=True, width=120)
    show(comparisons, console)
    wrong = faults(failures) + [f"{kind}: {fault}" for kind, rows in comparisons.items() for fault in faults(rows)]
    for fault in wrong:
        console.print(f"[red]{fault}")
    record = {
        "job": "test-oracles",
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
        "tolerance": TOLERANCE,
        "seed": chosen.seed,
        "versions": {"babelclip": packages(sys.executable), **{name: packages(p) for name, p in pythons.items()}},
        "worst": {kind: max((r.get("max_abs", 0.0) for r in rows), default=0.0) for kind, rows in comparisons.items()},
        "comparisons": comparisons,
        "faults": wrong,
        "seconds": round(time.time() - start, 1),
    }
    if chosen.out:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    summary = {name: value for name, value in record.items() if name != "comparisons"}
    sys.stdout.write(json.dumps(summary, ensure_ascii=False) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
