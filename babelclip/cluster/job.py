"""What a job is, and how one runs: shards are done anywhere and at least once, and committed once, in order.

1. `Job.shards` says what is to be done: the same list in every process, made once and kept in the job's folder.
2. `Job.lacking` says what of it is neither committed nor done.
3. A launcher gives these shards to workers. Each loads the model once and is a pure function: what a shard becomes
   depends on the shard alone, not on the process, its threads or what it did before. Workers write fragments and
   enter them in the ledger (`ledger.py`).
4. `Job.commit` puts finished fragments into the output, in groups and in the order of shards, by one process. What is
   not committed does not exist for a reader. `Job.finish` closes the job and says what was done.

Killed at any place, the same call goes on. Entry point: `run_job`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from importlib import import_module
from typing import Any, Protocol, TypeVar

from babelclip.cluster.ledger import DamagedFragmentError as DamagedFragmentError
from babelclip.cluster.ledger import Fragment as Fragment
from babelclip.cluster.ledger import Ledger as Ledger
from babelclip.cluster.ledger import Shard as Shard
from babelclip.errors import BabelclipError, did_you_mean
from babelclip.files import LockedError
from babelclip.progress import progress_bar

R = TypeVar("R", covariant=True)
T = TypeVar("T")
# Does a shard, writes its fragment and the ledger's entry; at once where that is there already.
Worker = Callable[[Shard], Fragment]
Say = Callable[[str], object]

# Where the function `launch` of each launcher is; `ray` needs an extra, so it is imported when it is asked for.
_MODULES = {"local": "babelclip.cluster.local", "ray": "babelclip.cluster.ray", "rank": "babelclip.cluster.rank"}
LAUNCHERS = tuple(_MODULES)
# How often a damaged fragment is made again before the disk is to blame.
_TRIES = 3


class Job(Protocol[R]):
    """One output that is made of shards. It is pickled into every worker, so it holds no model and no open file."""

    @property
    def folder(self) -> str:
        """Where plan, fragments and ledger lie, seen by all workers."""
        ...

    @property
    def what(self) -> str:
        """Title of the progress bar."""
        ...

    @property
    def unit(self) -> str:
        """What is counted, for example "texts"."""
        ...

    @property
    def group(self) -> int:
        """Shards of one commit."""
        ...

    def shards(self) -> Sequence[Shard]:
        """Returns all shards; makes the plan where there is none, and waits where another process makes it."""
        ...

    def lacking(self, shards: Sequence[Shard]) -> list[Shard]:
        """Returns those of `shards` that are neither committed nor done, in their order."""
        ...

    def committed(self) -> int:
        """Returns how many shards, from the first on, are in the output."""
        ...

    def worker(self, device: str, lanes: int = 1, decoders: Executor | None = None) -> Worker:
        """Loads what a process needs, and returns what does shards.

        Args:
            device: "cpu", "cuda:0", ...
            lanes: threads on a processor; they change the time and not one bit of the result.
            decoders: what decodes pictures; None for threads of the process.
        """
        ...

    def commit(self, shards: Sequence[Shard]) -> None:
        """Puts the next shards, all of which are done, into the output; called by the holder of `lock`.

        Raises:
            DamagedFragmentError: a fragment is not as it was written; those before it are committed.
        """
        ...

    def finish(self) -> R:
        """Closes the job after the last commit, clears its folder, and returns what was done; may be called again."""
        ...

    def lock(self) -> Callable[[], None]:
        """Takes the right to plan and to commit; returns what gives it back.

        Raises:
            LockedError: another process has it.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Means:
    """What a launcher may use.

    Attributes:
        workers: processes on each device; of Ray, on the whole cluster, 0 for what it has room for.
        devices: of this machine, one worker each; of Ray, whose kind of device a worker asks for, () for GPUs where the
            cluster has any.
        ray_address: of the cluster to join; "" for one of this machine.
        progress: show a bar on stderr.
        say: is told in a line what a person may want to know.
    """

    workers: int = 1
    devices: tuple[str, ...] = ("cpu",)
    ray_address: str = ""
    progress: bool = False
    say: Say = lambda line: None


# `launch(job, shards, means)` yields the fragments of `shards` in the order in which they are finished.
Launch = Callable[[Job[Any], Sequence[Shard], Means], Iterator[Fragment]]


def run_job(job: Job[T], *, launcher: str = "local", means: Means | None = None) -> T | None:
    """Runs a job to its end, or goes on with one; returns its report, or None where another rank commits.

    Raises:
        BabelclipError: the launcher is not known, another process runs the job, or what the job raises. Finished
            shards are kept.
        MissingExtraError: the launcher needs an extra that is not installed.
    """
    if launcher not in _MODULES:
        raise BabelclipError(f"--launcher {launcher} is not known. {did_you_mean(launcher, LAUNCHERS)}")
    module: Any = import_module(_MODULES[launcher])
    means = means or Means()
    if launcher == "rank":
        report: T | None = module.run(job, means)
        return report
    try:
        return drive(job, module.launch, means)
    except LockedError as error:
        raise BabelclipError(
            f"{job.folder} is in the hands of process {error.holder}. A job is driven by one process at a time: wait "
            "for it or stop it, or let several machines share the work: --launcher rank."
        ) from error


@contextlib.contextmanager
def equipped(launcher: str, means: Means) -> Iterator[Means]:
    """Yields `means` with devices; of Ray they are asked for at the cluster, which is joined for the whole block."""
    if launcher != "ray":
        yield means
        return
    module: Any = import_module(_MODULES[launcher])
    with module.equipped(means) as known:
        yield known


def drive(job: Job[T], launch: Launch, means: Means) -> T:
    """Runs a job from the one process that commits; see `run_job`.

    Raises:
        LockedError: another process has the lock of the job.
    """
    shards = job.shards()
    release = job.lock()
    try:
        for _ in range(_TRIES):
            try:
                _run(job, shards, launch, means)
                return job.finish()
            except DamagedFragmentError as error:
                means.say(str(error))
                damaged = error
        raise damaged
    finally:
        release()


def commit_done(job: Job[Any], shards: Sequence[Shard], done: set[int], start: int | None = None) -> int:
    """Commits what is next in order and done, in whole groups; the last group need not be full.

    Args:
        job: whose lock is held.
        shards: all of them.
        done: numbers of the finished shards.
        start: how many are committed already, where the caller knows.

    Returns:
        How many are committed now.
    """
    start = job.committed() if start is None else start
    ready = start
    while ready < len(shards) and shards[ready].number in done:
        ready += 1
    whole = ready if ready == len(shards) else start + (ready - start) // job.group * job.group
    for first in range(start, whole, job.group):
        job.commit(shards[first : min(first + job.group, whole)])
    return max(start, whole)


def _run(job: Job[Any], shards: Sequence[Shard], launch: Launch, means: Means) -> None:
    lacking = job.lacking(shards)
    done = {shard.number for shard in shards} - {shard.number for shard in lacking}
    rows = {shard.number: shard.rows for shard in lacking}
    total = sum(shard.rows for shard in shards)
    with progress_bar(job.what, total, shown=means.progress, unit=job.unit) as advance:
        advance(total - sum(rows.values()), 0)
        there = commit_done(job, shards, done)
        for fragment in launch(job, lacking, means) if lacking else ():
            done.add(fragment.number)
            advance(rows.get(fragment.number, 0))
            there = commit_done(job, shards, done, there)
