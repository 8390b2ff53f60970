"""Every reader on damaged input: the only error may be `BabelclipError`, and nothing may hang, die or eat the memory.

    python benchmarks/fuzz.py [--cases 100000] [--readers captions,model] [--seed 0] [--work DIR] [--out results/….json]

A whole sample of each format (`fuzz_readers.py`) is damaged in one file at a time: bytes flipped, cut, doubled,
overwritten by lengths and words that formats give a meaning, pieces of other samples spliced in. Each reader runs in a
process of its own with 6 GB of address space and 20 seconds a case; one that dies is started again behind the case at
fault, which is kept under `--work`. Cases follow from the seed, so each can be repeated: `--readers NAME --only CASE`.
With atheris installed, `--engine atheris` lets coverage choose the damage instead (one file of a sample).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.fuzz_reader import Reader
from benchmarks.fuzz_readers import READERS

SECONDS, BY_THE_CLOCK, ADDRESS_SPACE = 20, 300, 6 << 30
# The first case imports what a reader needs.
FIRST_SECONDS = 120
# Lengths, and signs that formats give a meaning.
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
WORDS = [
    *(
        b"",
        b"\x00",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\r\n",
        b"\n\n",
        b"\t",
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b"null",
        b"NaN",
    ),
    *(b"-1", b"1e999", b"true", b"../../", b"/etc/passwd", b"\\ud800", b"\xed\xa0\x80", b"9" * 400, b"[" * 2000, b"%s"),
    b"\xf0\x9f\x92\xa9",
]


class Overdue(BaseException):
    """A case took too long; not an `Exception`, so that no reader swallows it."""


def damaged(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Returns `content` with one to four kinds of damage."""
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place, kind = rng.randint(0, len(found)), rng.randrange(8)
        if kind == 0 and found:
            found[min(place, len(found) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del found[place:]
        elif kind == 2:
            del found[place : place + rng.choice((1, 2, 4, 16, 200))]
        elif kind == 3:
            found[place:place] = rng.choice(WORDS)
        elif kind == 4:
            number = rng.choice(NUMBERS).to_bytes(8, rng.choice(("little", "big")))
            width = rng.choice((1, 2, 4, 8))
            found[place : place + width] = number[:width]
        elif kind == 5:
            part = found[place : place + rng.choice((1, 8, 64, 1000))]
            found[place:place] = part * rng.choice((1, 2, 30))
        elif kind == 6:
            other = rng.choice(others)
            start = rng.randint(0, len(other))
            found[place : place + rng.choice((0, 8, 64))] = other[start : start + rng.choice((4, 64, 1000))]
        else:
            found[place : place + rng.choice((1, 4, 32))] = rng.randbytes(rng.choice((1, 4, 32)))
    return bytes(found)


def outcome_of(reader: Reader, folder: Path, seconds: float = SECONDS) -> str:
    """Returns `read`, `refused` (BabelclipError), or what went wrong, with the last places of the traceback."""
    from babelclip.errors import BabelclipError

    def late(_number: int, _frame: object) -> None:
        raise Overdue

    timers = {signal.ITIMER_PROF: (signal.SIGPROF, seconds), signal.ITIMER_REAL: (signal.SIGALRM, BY_THE_CLOCK)}
    for timer, (number, limit) in timers.items():
        signal.signal(number, late)
        signal.setitimer(timer, limit)
    try:
        reader.read(folder)
    except BabelclipError as error:
        return "refused" if len(str(error).split()) > 3 else f"refused in no words: {error}"
    except Overdue:
        return "overdue"
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)[-3:]
        where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
        return f"{type(error).__name__}: {str(error)[:120]} at {where}"
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)
    return "read"


def work(name: str, first: int, last: int, seed: int, folder: Path) -> None:
    """Runs cases of one reader in this process, and prints the outcome of each that is not `read` or `refused`."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    warnings.simplefilter("ignore")
    reader = READERS[name]
    whole = folder / "whole"
    if not whole.exists():
        reader.make(whole)
    if (outcome := outcome_of(reader, whole, FIRST_SECONDS)) != "read":
        raise SystemExit(f"the sample itself is {outcome}")
    files = [path for path in sorted(whole.rglob("*")) if path.is_file() and reader.damages(path)]
    contents = [path.read_bytes() for path in files]
    here = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    counts: Counter[str] = Counter()
    slowest, at_first = 0.0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        shutil.copytree(whole, here / "x")
        for case in range(first, last):
            rng = random.Random(f"{seed} {name} {case}")
            number = rng.randrange(len(files))
            path = here / "x" / files[number].relative_to(whole)
            content = damaged(contents[number], rng, contents)
            path.write_bytes(content)
            # What a process that dies leaves behind: the case at fault, and what the others came to.
            (folder / "case").write_text(f"{case} {counts['read']} {counts['refused']}")
            began = time.process_time()
            outcome = outcome_of(reader, here / "x")
            slowest = max(slowest, time.process_time() - began)
            if outcome in ("read", "refused"):
                counts[outcome] += 1
            else:
                kept = folder / f"case-{case}-{path.name}"
                kept.write_bytes(content)
                sys.stdout.write(json.dumps({"case": case, "file": kept.name, "outcome": outcome}) + "\n")
                sys.stdout.flush()
            if reader.leaves:
                shutil.rmtree(here / "x")
                shutil.copytree(whole, here / "x")
            else:
                path.write_bytes(contents[number])
    finally:
        shutil.rmtree(here, ignore_errors=True)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - at_first) >> 10
    sys.stdout.write(json.dumps({"counts": counts, "slowest_s": round(slowest, 2), "grown_mb": grown}) + "\n")


def in_a_child(job: Callable[[], None], folder: Path) -> tuple[int, str, str]:
    """Runs `job` in a fork of this process: its exit code, and what it wrote to stdout and stderr."""
    sys.stdout.flush()
    with (
        (folder / "stdout").open("w+", errors="replace") as out,
        (folder / "stderr").open("w+", errors="replace") as err,
    ):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                job()
                code = 0
            except BaseException:  # whatever it is, it ends this process and not the parent's loop
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status), (folder / "stdout").read_text(), (folder / "stderr").read_text()


def load_libraries() -> None:
    """Imports what takes seconds once, for all children; what has threads of its own is left to them."""
    names = ["pyarrow.parquet", "PIL.Image", "torch", "transformers", "babelclip.models.checkpoints.transformer"]
    names += ["babelclip.data.sources", "babelclip.store", "babelclip.models.precision", "babelclip.train.recipe"]
    families = ("altclip", "bert", "clip", "distilbert", "metaclip_2", "roberta", "siglip", "siglip2", "xlm_roberta")
    for name in (*names, *(f"transformers.models.{family}.modeling_{family}" for family in families)):
        importlib.import_module(name)


def measured(name: str, cases: int, seed: int, folder: Path) -> dict[str, Any]:
    """Returns what came of the cases of one reader, run in processes of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"{cases}-{seed}.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    first, slowest, grown, faults = 0, 0.0, 0, []
    counts: Counter[str] = Counter()
    began = time.perf_counter()
    while first < cases:
        (folder / "case").unlink(missing_ok=True)
        code, said, error = in_a_child(lambda first=first: work(name, first, cases, seed, folder), folder)
        for line in said.splitlines():
            told = json.loads(line)
            if "counts" in told:
                counts.update(told["counts"])
                slowest, grown = max(slowest, told["slowest_s"]), max(grown, told["grown_mb"])
            else:
                faults.append(told)
        if code == 0:
            break
        reason = error.strip().splitlines()[-1:] or [""]
        if not (folder / "case").exists():
            faults.append({"case": first, "outcome": f"no sample: {error[-2000:]}"})
            break
        at, read, refused = map(int, (folder / "case").read_text().split())
        counts.update(read=read, refused=refused)
        faults.append({"case": at, "outcome": f"the process died ({code}) {reason[0][:200]}"})
        first = at + 1
    kinds = Counter(fault["outcome"].split(" at ")[-1] for fault in faults)
    made = {
        "cases": cases,
        **counts,
        "faults": len(faults),
        "kinds": len(kinds),
        "slowest_s": slowest,
        "grown_mb": grown,
        "first": faults[:8],
        "seconds": round(time.perf_counter() - began, 1),
    }
    kept.write_text(json.dumps(made))
    return made


def guided(name: str, cases: int, seconds: int, folder: Path) -> None:
    """Lets atheris choose the damage to the first file of a sample; ends with the process."""
    import atheris

    reader, whole = READERS[name], folder / "whole"
    # Made in another process: modules are instrumented when they are imported, and making imports some.
    command = [sys.executable, __file__, "--worker", name, "--range", "0:0", "--work", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with atheris.instrument_imports(include=["babelclip"]):
        outcome_of(reader, whole, FIRST_SECONDS)
    path = next(path for path in sorted(whole.rglob("*")) if path.is_file() and reader.damages(path))
    original = path.read_bytes()
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    (corpus / "whole").write_bytes(original)

    def once(content: bytes) -> None:
        path.write_bytes(content)
        outcome = outcome_of(reader, whole)
        if outcome not in ("read", "refused"):
            raise RuntimeError(outcome)

    settings = [f"-runs={cases}", f"-max_total_time={seconds}", f"-artifact_prefix={folder}/", "-rss_limit_mb=4000"]
    atheris.Setup([sys.argv[0], *settings, str(corpus)], once)
    atheris.Fuzz()


def main() -> None:
    """Damages, reads, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000, help="of all readers together")
    parser.add_argument("--readers", default="", help="only those whose names begin so, with commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=("random", "atheris"), default="random")
    parser.add_argument("--seconds", type=int, default=60, help="of atheris")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", type=int, help="repeat one case of one reader")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    parser.add_argument("--range", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    folder = given.work or Path(tempfile.mkdtemp(prefix="fuzz-"))
    if given.worker:
        first, last = map(int, given.range.split(":"))
        work(given.worker, first, last, given.seed, folder)
        return
    chosen = [name for name in READERS if name.startswith(tuple(given.readers.split(",")))]
    if given.only is not None:
        work(chosen[0], given.only, given.only + 1, given.seed, folder / chosen[0].replace(" ", "-"))
        return
    if given.engine == "atheris":
        place = folder / chosen[0].replace(" ", "-")
        place.mkdir(parents=True, exist_ok=True)
        guided(chosen[0], given.cases, given.seconds, place)
        return
    weights = {name: READERS[name].weight for name in chosen}
    total = sum(weights.values())
    record = {}
    load_libraries()
    for name in chosen:
        cases = max(1, round(given.cases * weights[name] / total))
        record[name] = measured(name, cases, given.seed, folder / name.replace(" ", "-"))
        row = record[name]
        sys.stdout.write(f"| {name} | {row['cases']:,} | {row.get('read', 0):,} | {row.get('refused', 0):,} | ")
        sys.stdout.write(f"{row['faults']} ({row['kinds']}) | {row['seconds']} |\n")
        sys.stdout.flush()
    result = {
        "benchmark": "fuzz",
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {
            name: _version(name) for name in ("torch", "numpy", "pyarrow", "pillow", "safetensors", "tokenizers")
        },
        "seed": given.seed,
        "cases": sum(row["cases"] for row in record.values()),
        "faults": sum(row["faults"] for row in record.values()),
        "readers": record,
    }
    sys.stdout.write(json.dumps(result) + "\n")
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
