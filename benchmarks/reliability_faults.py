"""The faults of `reliability.py`: what is done to a command, and what counts as wrong afterwards."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.reliability_jobs import Job
from benchmarks.reliability_runs import HUNG, Run, apart, prepare, start

FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
# What may lie beside an output when nothing runs.
_LOCKS = ".lock"


@dataclass
class Peace:
    """What a run without faults needs and leaves.

    Attributes:
        seconds: of a run.
        first: seconds until it begins to write.
        bytes: of its output.
        base, most: address space of a forked process before the work, and at most, in bytes.
        digest: what is equal in two runs, by part.
        passing: how many parts are not.
    """

    seconds: float
    first: float
    bytes: int
    base: int
    most: int
    digest: dict[str, str]
    passing: int = 0


@dataclass
class Tally:
    """What a fault did to a command: how often it struck, and what went wrong, with the first examples."""

    rounds: int = 0
    struck: int = 0
    finished: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    messages: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        """Returns it for the record."""
        return {
            "rounds": self.rounds,
            "struck": self.struck,
            "finished_equal": self.finished,
            "outcomes": dict(self.outcomes),
            "messages": dict(self.messages.most_common(4)),
            "wrong_count": len(self.wrong),
            "wrong": self.wrong[:10],
        }

    @classmethod
    def of(cls, kept: dict[str, Any]) -> Tally:
        """Returns the one that `as_json` gave."""
        wrong = kept["wrong"] + ["left out here"] * (kept["wrong_count"] - len(kept["wrong"]))
        counts = Counter(kept["outcomes"]), wrong, Counter(kept["messages"])
        return cls(kept.get("rounds", 0), kept["struck"], kept["finished_equal"], *counts)


class Place:
    """A folder in which one command is disturbed; its runs write to `out`."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.job, self.folder = job, folder
        self.out = folder / "outputs" / f"out{job.suffix}"

    def begin(self, out: Path | None = None, **how: Any) -> Run:
        """Starts the command."""
        return start(self.job.arguments(out or self.out), self.folder / "said", **how)

    def run(self, out: Path | None = None, **how: Any) -> tuple[int, str]:
        """Runs the command; returns exit code and stderr."""
        return self.begin(out, **how).end()

    def empty(self) -> None:
        """Removes what earlier runs left."""
        shutil.rmtree(self.out.parent, ignore_errors=True)
        self.out.parent.mkdir(parents=True)

    def has_begun(self, out: Path | None = None) -> bool:
        """Returns whether a run has begun to write: to its output, or to what will take its place."""
        out = out or self.out
        return out.exists() or any(self.beside(out))

    def beside(self, out: Path | None = None) -> list[Path]:
        """Returns what lies beside the output and is no lock."""
        out = out or self.out
        if not out.parent.is_dir():
            return []
        return [path for path in out.parent.iterdir() if path != out and path.suffix != _LOCKS]

    def wait_until_begun(self, child: Run, out: Path | None = None) -> None:
        """Returns when the run has begun to write, or has ended."""
        while child.poll() is None and not self.has_begun(out):
            time.sleep(0.002)

    def digest(self, out: Path | None = None) -> dict[str, str]:
        """Returns what the output holds, by part."""
        found: dict[str, str] = json.loads(apart(lambda: json.dumps(self.job.digest(out or self.out)), self.folder))
        return found


def in_peace(place: Place) -> Peace:
    """Runs a command without faults, twice after a first time, and returns what both left."""
    place.empty()
    prepare(place.job.arguments(place.out), place.folder)
    found: list[dict[str, str]] = []
    for _ in range(2):
        place.empty()
        base, most, first = _address_space(os.getpid(), "VmSize"), 0, 0.0
        began = time.perf_counter()
        child = place.begin()
        while child.poll() is None:
            most = max(most, _address_space(child.pid, "VmPeak"))
            first = first or (time.perf_counter() - began if place.has_begun() else 0.0)
            time.sleep(0.005)
        seconds = time.perf_counter() - began
        code, said = child.end()
        if code:
            raise SystemExit(f"{place.job.name} fails in peace ({code}):\n{said[-3000:]}")
        found.append(place.digest())
    same = {part: value for part, value in found[0].items() if found[1].get(part) == value}
    if not same:
        raise SystemExit(f"{place.job.name}: nothing is equal in two runs in peace")
    size = sum(file.stat().st_size for file in place.out.rglob("*") if file.is_file())
    return Peace(seconds, first or seconds, size, base, most, same, len(found[0]) - len(same))


def _address_space(pid: int, which: str) -> int:
    """Returns the address space of a process in bytes, 0 where it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.partition(f"{which}:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        return 0


def ends_equal(place: Place, peace: Peace, tally: Tally, after: str) -> None:
    """Runs the command to its end, compares with the run in peace, and looks for litter beside the output."""
    began = time.perf_counter()
    code, said = place.run()
    # The machine does other things too, more or less of them: kills are to fall within a run of now.
    peace.seconds = (peace.seconds + time.perf_counter() - began) / 2
    if code:
        tally.wrong.append(f"after {after}: exit {code}: {said[-400:]}")
        return
    try:
        found = place.digest()
    except RuntimeError as error:
        tally.wrong.append(f"after {after}: {error}")
        return
    differing = [part for part, value in peace.digest.items() if found.get(part) != value]
    more = len(found) - len(peace.digest) - peace.passing
    litter = place.beside()
    if differing or more > 0:
        tally.wrong.append(f"after {after}: {len(differing)} parts differ, first {differing[:1]}, {more} too many")
    elif litter:
        tally.wrong.append(f"after {after}: {len(litter)} left beside the output, first {litter[0].name}")
    else:
        tally.finished += 1


def kills(place: Place, peace: Peace, tally: Tally, rng: random.Random) -> None:
    """SIGKILL at random moments, half of them after the run has begun to write."""
    place.empty()
    before = tally.struck
    for _ in range(rng.randint(1, 6)):
        child = place.begin()
        if rng.random() < 0.5:
            place.wait_until_begun(child)
            time.sleep(rng.random() * max(peace.seconds - peace.first, 0.02))
        else:
            time.sleep(rng.random() * peace.seconds)
        if child.poll() is not None:  # it was faster: nothing is left to kill, and the next kills come earlier
            peace.seconds *= 0.8
            break
        child.kill()
        tally.struck += 1
        tally.outcomes["begun to write" if place.has_begun() else "before it wrote"] += 1
    ends_equal(place, peace, tally, f"{tally.struck - before} kills")


def told(code: int, said: str) -> str:
    """Returns how a command that failed said so."""
    if code == HUNG:
        return "hung"
    if code < 0:
        return f"died of signal {-code}"
    if code == 0:
        return "ended well"
    return "traceback" if "Traceback" in said else "message"


def note(tally: Tally, code: int, said: str, fault: str, allowed: tuple[str, ...] = ("ended well", "message")) -> None:
    """Counts how a run under a fault ended; another way than those `allowed` is wrong."""
    outcome = told(code, said)
    tally.outcomes[outcome] += 1
    tally.struck += code != 0
    if outcome == "message":
        tally.messages[_general(said)] += 1
    if outcome not in allowed:
        tally.wrong.append(f"{fault}: {outcome}: {said[-500:]}")


def _general(said: str) -> str:
    """Returns the last line of an error, as it is said of any folder."""
    lines = [line for line in said.splitlines() if line.startswith("error")] or said.splitlines()[-1:] or [""]
    return lines[0][:300]


@contextmanager
def tmpfs(folder: Path, size: int) -> Iterator[None]:
    """Makes `folder` a file system of `size` bytes of its own."""
    subprocess.run(
        ["umount", "-l", str(folder)], check=False, stderr=subprocess.DEVNULL
    )  # of a campaign that was killed
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Changes the size or the mode of a mounted file system."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def disk(place: Place, peace: Peace, tally: Tally, rng: random.Random) -> None:
    """No space left on the device."""
    share = rng.uniform(0.02, 0.95)
    with tmpfs(place.out.parent, max(4096, int(peace.bytes * share))):
        filler = place.out.parent / "filler"
        if peace.bytes < 16384:  # less than a page of it is no page
            filler.write_bytes(b"x" * 4096)
        note(tally, *place.run(), f"a disk of {share:.0%}")
        filler.unlink(missing_ok=True)
        remount(place.out.parent, f"size={peace.bytes * 8 + (64 << 20)}")
        ends_equal(place, peace, tally, f"a disk of {share:.0%}")


def readonly(place: Place, peace: Peace, tally: Tally, rng: random.Random) -> None:
    """A file system that cannot be written to; half of the time the output is begun already."""
    with tmpfs(place.out.parent, peace.bytes * 8 + (64 << 20)):
        if tally.rounds % 2:
            child = place.begin()
            place.wait_until_begun(child)
            time.sleep(rng.random() * max(peace.seconds - peace.first, 0.02))
            child.kill()
        remount(place.out.parent, "ro")
        note(tally, *place.run(), "read-only")
        remount(place.out.parent, "rw")
        ends_equal(place, peace, tally, "a read-only file system")


def memory(place: Place, peace: Peace, tally: Tally, rng: random.Random) -> None:
    """Too little address space: a command may die of it, but not hang, and leaves nothing that breaks the next run."""
    place.empty()
    share = rng.uniform(0.0, 0.5)
    code, said = place.run(memory=peace.base + int((peace.most - peace.base) * share))
    allowed = ("ended well", "message", "traceback", told(code, said) if code < 0 else "")
    note(tally, code, said, f"{share:.0%} of the memory", allowed)
    ends_equal(place, peace, tally, f"{share:.0%} of the memory")


def clock(place: Place, peace: Peace, tally: Tally, rng: random.Random) -> None:
    """A clock that jumps a year between a kill and the next run."""
    place.empty()
    faked = {"LD_PRELOAD": FAKETIME, "FAKETIME": "-365d", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    child = place.begin(real=True, more=faked)
    place.wait_until_begun(child)
    time.sleep(rng.random() * max(peace.seconds - peace.first, 0.02))
    child.kill()
    code, said = place.run(real=True, more={**faked, "FAKETIME": "+3d"})
    tally.struck += 1
    tally.outcomes[told(code, said)] += 1
    if code:
        tally.wrong.append(f"a clock that jumps: exit {code}: {said[-400:]}")
    ends_equal(place, peace, tally, "a clock that jumps")


def twice(place: Place, peace: Peace, tally: Tally, rng: random.Random) -> None:
    """Three runs at once on one output."""
    place.empty()
    running = []
    for _ in range(3):
        running.append(place.begin())
        time.sleep(rng.random() * 0.3)
    for child in running:
        code, said = child.end()
        note(tally, code, said, "three at once")
        tally.struck += code == 0
    ends_equal(place, peace, tally, "three at once")


FAULTS: dict[str, Callable[[Place, Peace, Tally, random.Random], None]] = {
    "kills": kills,
    "disk": disk,
    "readonly": readonly,
    "memory": memory,
    "clock": clock,
    "twice": twice,
}
