"""Every long command disturbed: killed, out of disk, out of memory, read-only, in a jumping clock, twice at once.

    python benchmarks/reliability.py [--faults kills,disk] [--jobs embed,index] [--kills 50] [--out results/….json]

Each command (`reliability_jobs.py`) runs twice in peace; what is equal in both is what is compared. Then:

* **kills**: SIGKILL of the whole process group at random moments, half of them after the output exists; after every
  one to four kills the command runs to its end and must leave what the run in peace left.
* **disk**: the output lies on a tmpfs of a fraction of what it needs; the command must fail with a message and without
  a traceback; with room it must then end as in peace. Fault injection, not a simulation: the kernel says ENOSPC.
* **readonly**: the file system of the output is mounted read-only before the command begins.
* **memory**: the address space is limited to a fraction of what the run in peace used.
* **clock**: killed half-way in a year ago, finished with the clock three days ahead (libfaketime).
* **twice**: three runs at once on one output: who cannot write says so, and what lies there at the end is whole.

Mounts need root. Finished parts are kept in `--work`, so that a campaign can be stopped and goes on.
"""

from __future__ import annotations

import argparse
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
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.reliability_jobs import Job, jobs, make_inputs

LIMIT = 300.0  # seconds that a run may take before it counts as hanging
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


@dataclass
class Peace:
    """What a run without faults needs and leaves: seconds, bytes of its output, address space, digests."""

    seconds: float
    bytes: int
    address_space: int
    digest: dict[str, str]
    passing: int = 0


@dataclass
class Tally:
    """What a fault did to a command: how often it struck, and what went wrong, by kind, with the first example."""

    struck: int = 0
    finished: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Returns it for the record."""
        return {
            "struck": self.struck,
            "finished_equal": self.finished,
            "outcomes": dict(self.outcomes),
            "wrong": self.wrong[:10],
        }


def started(
    command: list[str],
    environment: dict[str, str] | None = None,
    errors: int = subprocess.DEVNULL,
    first: Callable[[], None] | None = None,
) -> subprocess.Popen[str]:
    """Starts a command in a group of its own, so that what it starts dies with it; `first` runs in the new process."""
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        text=True,
        errors="replace",
        env=environment_with(environment),
        start_new_session=True,
        preexec_fn=first,
    )


def run(command: list[str], environment: dict[str, str] | None = None, memory: int = 0) -> tuple[int, str]:
    """Returns exit code and what was said; 124 for a run that hung."""

    def limited() -> None:
        if memory:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    child = started(command, environment, subprocess.PIPE, limited)
    try:
        said = child.communicate(timeout=LIMIT)[1]
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        return 124, "hung"
    return child.returncode, said


def environment_with(more: dict[str, str] | None) -> dict[str, str]:
    """Returns this process's environment without a hub, and with one thread a process: equal runs give equal bits."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd(), **(more or {})}


def in_peace(job: Job, folder: Path) -> Peace:
    """Runs a command twice without faults and returns what both left."""
    found = []
    seconds = 0.0
    for name in ("once", "again"):
        began = time.perf_counter()
        code, said = run(job.command(folder / f"{name}{job.suffix}"))
        seconds = time.perf_counter() - began
        if code:
            raise SystemExit(f"{job.name} fails in peace ({code}):\n{said[-3000:]}")
        found.append(job.digest(folder / f"{name}{job.suffix}"))
    same = {part: value for part, value in found[0].items() if found[1].get(part) == value}
    if not same:
        raise SystemExit(f"{job.name}: nothing is equal in two runs in peace")
    size = sum(file.stat().st_size for file in (folder / f"once{job.suffix}").rglob("*") if file.is_file())
    shutil.rmtree(folder / f"again{job.suffix}")
    usage = _address_space(job.command(folder / f"third{job.suffix}"))
    return Peace(seconds, size, usage, same, len(found[0]) - len(same))


def _address_space(command: list[str]) -> int:
    """Returns the most address space that a run took, bytes, by looking at it 20 times a second."""
    child = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment_with(None),
        start_new_session=True,
    )
    most = 0
    while child.poll() is None:
        try:
            status = Path(f"/proc/{child.pid}/status").read_text()
            most = max(most, int(status.partition("VmPeak:")[2].split()[0]) * 1024)
        except (OSError, IndexError):
            pass
        time.sleep(0.05)
    return most


def ends_equal(job: Job, out: Path, peace: Peace, tally: Tally, after: str) -> None:
    """Runs the command to its end and compares."""
    code, said = run(job.command(out))
    if code:
        tally.wrong.append(f"after {after}: exit {code}: {said[-300:]}")
        return
    found = job.digest(out)
    differing = [part for part, value in peace.digest.items() if found.get(part) != value]
    more = len(found) - len(peace.digest) - peace.passing
    if differing or more > 0:
        tally.wrong.append(f"after {after}: {len(differing)} parts differ, first {differing[:1]}, {more} too many")
    else:
        tally.finished += 1


def kills(job: Job, peace: Peace, folder: Path, count: int, rng: random.Random) -> Tally:
    """SIGKILL at random moments."""
    tally = Tally()
    while tally.struck < count:
        out = folder / f"out{job.suffix}"
        shutil.rmtree(out, ignore_errors=True)
        before = tally.struck
        for _ in range(rng.randint(1, 4)):
            child = started(job.command(out))
            if rng.random() < 0.5:  # while it writes, not while it imports
                while child.poll() is None and not out.exists():
                    time.sleep(0.002)
                time.sleep(rng.random() * peace.seconds * 0.4)
                moment = "with an output"
            else:
                time.sleep(rng.random() * peace.seconds)
                moment = "anywhere"
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                tally.struck += 1
                tally.outcomes[moment] += 1
            child.wait()
        ends_equal(job, out, peace, tally, f"{tally.struck - before} kills")
    return tally


def told(code: int, said: str) -> str:
    """Returns how a command that failed said so."""
    if code == 124:
        return "hung"
    if code < 0:
        return f"died of signal {-code}"
    if code == 0:
        return "ended well"
    return "traceback" if "Traceback" in said else "message"


@contextmanager
def tmpfs(folder: Path, size: int) -> Iterator[Path]:
    """Yields a folder that is a file system of `size` bytes of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Changes the size or the mode of a mounted file system."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def disk(job: Job, peace: Peace, folder: Path, count: int, rng: random.Random) -> Tally:
    """No space left on the device."""
    tally = Tally()
    for _ in range(count):
        share = rng.uniform(0.02, 0.95)
        with tmpfs(folder / "disk", max(8192, int(peace.bytes * share))) as mounted:
            out = mounted / f"out{job.suffix}"
            code, said = run(job.command(out))
            outcome = told(code, said)
            tally.outcomes[outcome] += 1
            tally.struck += code != 0
            if outcome in ("traceback", "hung") or outcome.startswith("died"):
                tally.wrong.append(f"a disk of {share:.0%}: {outcome}: {said[-400:]}")
            remount(mounted, f"size={peace.bytes * 8 + (64 << 20)}")
            ends_equal(job, out, peace, tally, f"a disk of {share:.0%}")
    return tally


def readonly(job: Job, peace: Peace, folder: Path, count: int, rng: random.Random) -> Tally:
    """A file system that cannot be written to; half of the time the output is begun already."""
    tally = Tally()
    for number in range(count):
        with tmpfs(folder / "disk", peace.bytes * 8 + (64 << 20)) as mounted:
            out = mounted / f"out{job.suffix}"
            if number % 2:
                child = started(job.command(out))
                while child.poll() is None and not out.exists():
                    time.sleep(0.002)
                time.sleep(rng.random() * 0.5)
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            remount(mounted, "ro")
            code, said = run(job.command(out))
            outcome = told(code, said)
            tally.outcomes[outcome] += 1
            tally.struck += 1
            if outcome in ("traceback", "hung") or outcome.startswith("died"):
                tally.wrong.append(f"read-only: {outcome}: {said[-400:]}")
            remount(mounted, "rw")
            ends_equal(job, out, peace, tally, "a read-only file system")
    return tally


def memory(job: Job, peace: Peace, folder: Path, count: int, rng: random.Random) -> Tally:
    """Too little address space: the command may die, but not hang, and nothing may be left that breaks the next run."""
    tally = Tally()
    for _ in range(count):
        out = folder / f"out{job.suffix}"
        shutil.rmtree(out, ignore_errors=True)
        share = rng.uniform(0.3, 0.99)
        code, said = run(job.command(out), memory=int(peace.address_space * share))
        outcome = told(code, said)
        tally.outcomes[outcome] += 1
        tally.struck += code != 0
        if outcome == "hung":
            tally.wrong.append(f"{share:.0%} of the address space: {outcome}")
        ends_equal(job, out, peace, tally, f"{share:.0%} of the address space")
    return tally


def clock(job: Job, peace: Peace, folder: Path, count: int, rng: random.Random) -> Tally:
    """A clock that jumps a year between a kill and the next run."""
    tally = Tally()
    for _ in range(count):
        out = folder / f"out{job.suffix}"
        shutil.rmtree(out, ignore_errors=True)
        faked = {"LD_PRELOAD": FAKETIME, "FAKETIME": "-365d", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        child = started(job.command(out), faked)
        while child.poll() is None and not out.exists():
            time.sleep(0.002)
        time.sleep(rng.random() * peace.seconds * 0.3)
        os.killpg(child.pid, signal.SIGKILL) if child.poll() is None else None
        child.wait()
        code, said = run(job.command(out), {**faked, "FAKETIME": "+3d"})
        tally.struck += 1
        tally.outcomes[told(code, said)] += 1
        if code:
            tally.wrong.append(f"a clock that jumps: exit {code}: {said[-400:]}")
        ends_equal(job, out, peace, tally, "a clock that jumps")
    return tally


def twice(job: Job, peace: Peace, folder: Path, count: int, rng: random.Random) -> Tally:
    """Three runs at once on one output."""
    tally = Tally()
    for _ in range(count):
        out = folder / f"out{job.suffix}"
        shutil.rmtree(out, ignore_errors=True)
        running = []
        for _ in range(3):
            running.append(started(job.command(out), errors=subprocess.PIPE))
            time.sleep(rng.random() * 0.3)
        tally.struck += 1
        for child in running:
            said = child.communicate()[1]
            outcome = told(child.returncode, said)
            tally.outcomes[outcome] += 1
            if outcome == "traceback":
                tally.wrong.append(f"three at once: {said[-400:]}")
        ends_equal(job, out, peace, tally, "three at once")
    return tally


FAULTS: dict[str, Callable[[Job, Peace, Path, int, random.Random], Tally]] = {
    "kills": kills,
    "disk": disk,
    "readonly": readonly,
    "memory": memory,
    "clock": clock,
    "twice": twice,
}


def main() -> None:
    """Disturbs, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--jobs", default="", help="only commands whose names begin so, with commas")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--times", type=int, default=5, help="of every other fault")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="reliability-"))
    if not (work / "inputs" / "recipe.toml").exists():
        make_inputs(work / "inputs")
    names = tuple(given.jobs.split(","))
    chosen = [job for job in jobs(work / "inputs") if job.name.startswith(names)]
    record: dict[str, Any] = {}
    for job in chosen:
        record[job.name] = disturbed(job, work / job.name.replace(" ", "-"), given)
        for fault, tally in record[job.name].items():
            row = f"| {job.name} | {fault} | {tally['struck']} | {tally['finished_equal']} | {tally['outcomes']} |"
            sys.stdout.write(f"{row} {len(tally['wrong'])} |\n")
        sys.stdout.flush()
    result = {
        "benchmark": "reliability",
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("torch", "numpy", "pyarrow", "lancedb")},
        "seed": given.seed,
        "jobs": record,
    }
    sys.stdout.write(json.dumps(result) + "\n")
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def disturbed(job: Job, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Returns what each fault did to a command; what an earlier campaign found is taken over."""
    folder.mkdir(exist_ok=True)
    done: dict[str, Any] = {}
    peace: Peace | None = None
    for fault in given.faults.split(","):
        kept = folder / f"{fault}.json"
        if not kept.exists():
            if peace is None:
                shutil.rmtree(folder / "peace", ignore_errors=True)
                peace = in_peace(job, folder / "peace")
            count = given.kills if fault == "kills" else given.times
            rng = random.Random(f"{given.seed} {job.name} {fault}")
            tally = FAULTS[fault](job, peace, folder, count, rng)
            kept.write_text(json.dumps({**tally.as_json(), "seconds_in_peace": round(peace.seconds, 1)}))
        done[fault] = json.loads(kept.read_text())
    return done


if __name__ == "__main__":
    main()
