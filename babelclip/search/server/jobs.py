"""Work that changes a collection: one job at a time, whose progress can be watched.

Several processes of one service share a folder: each runs the jobs that it was given, a lock lets one job run at a
time, and the state of each lies in a file, so that any process can tell it. Entry point: `Jobs`.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import datetime
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from babelclip.errors import BabelclipError
from babelclip.files import LockedError, lock_file, read_json, write_json
from babelclip.search.server.audit import audit
from babelclip.search.server.problems import Problem, busy, log

_WAITING = 64
_KEPT = 200
# Seconds between two looks at what another process does.
_LOOK = 0.25


@dataclass
class Job:
    """One piece of work.

    Attributes:
        id: in addresses.
        kind: add, delete or optimize.
        collection: its name.
        state: waiting, running, done or failed.
        detail: what it did, or why it failed.
        rows: that it changed.
        made, ended: UTC, ISO 8601.
        by: name of the key.
    """

    id: str
    kind: str
    collection: str
    by: str
    state: str = "waiting"
    detail: str = ""
    rows: int = 0
    made: str = ""
    ended: str = ""

    def facts(self) -> dict[str, Any]:
        """Returns the job as JSON content."""
        return asdict(self)


class Jobs:
    """A queue with one worker."""

    def __init__(self, shared: str = "", hide: Callable[[str], str] = str) -> None:
        """Remembers where states are shared.

        Args:
            shared: folder of the service's processes, "" for a single one.
            hide: takes what is the operator's own out of the sentence of an error.
        """
        self._folder = Path(shared) / "jobs" if shared else None
        self._hide = hide
        self._queue: asyncio.Queue[tuple[Job, Callable[[], Awaitable[tuple[int, str]]]]] = asyncio.Queue(_WAITING)
        self._jobs: collections.OrderedDict[str, Job] = collections.OrderedDict()
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()

    async def add(self, kind: str, collection: str, by: str, work: Callable[[], Awaitable[tuple[int, str]]]) -> Job:
        """Queues `work`, which returns rows changed and a sentence.

        Raises:
            Problem: too many wait.
        """
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        job = Job(secrets.token_hex(8), kind, collection, by, made=_now())
        try:
            self._queue.put_nowait((job, work))
        except asyncio.QueueFull:
            raise busy(f"{_WAITING} jobs wait. Come again when some are done.", 10) from None
        self._jobs[job.id] = job
        self._share(job)
        while len(self._jobs) > _KEPT:
            name, _job = self._jobs.popitem(last=False)
            if self._folder is not None:
                (self._folder / f"{name}.json").unlink(missing_ok=True)
        audit(kind, "asked", by=by, collection=collection, job=job.id)
        return job

    def all(self) -> list[Job]:
        """Returns the jobs of all processes, the newest first."""
        jobs = dict(self._jobs)
        for file in self._folder.glob("*.json") if self._folder is not None else ():
            if file.stem not in jobs:
                with contextlib.suppress(BabelclipError, OSError):  # taken away meanwhile
                    jobs[file.stem] = Job(**read_json(file))
        return sorted(reversed(jobs.values()), key=lambda job: job.made, reverse=True)

    def find(self, name: str) -> Job:
        """Returns a job as it is now.

        Raises:
            Problem: 404.
        """
        job = self._jobs.get(name)
        if job is None and self._folder is not None and name.isalnum():
            with contextlib.suppress(BabelclipError, OSError):
                job = Job(**read_json(self._folder / f"{name}.json"))
        if job is None:
            raise Problem(404, "not_found", "There is no such job, or it was long ago.")
        return job

    async def changed(self, seconds: float) -> None:
        """Waits until a job of this process changes, at most so many seconds; less where others have jobs too."""
        if self._folder is not None:
            await asyncio.sleep(_LOOK)
            return
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait(), seconds)
            except asyncio.TimeoutError:
                return

    async def close(self) -> None:
        """Ends the worker; the job under way is given up, which leaves its collection as it was or as it will be."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            job, work = await self._queue.get()
            give_back = await self._turn()
            try:
                await self._set(job, state="running")
                rows, detail = await work()
                await self._set(job, state="done", rows=rows, detail=detail, ended=_now())
            except (Problem, BabelclipError) as error:
                await self._set(job, state="failed", detail=self._hide(str(error)), ended=_now())
            except Exception:  # the worker goes on; the operator finds the trace
                log.exception("job %s failed", job.id)
                await self._set(job, state="failed", detail="it is in the operator's log", ended=_now())
            finally:
                give_back()
            audit(job.kind, job.state, by=job.by, collection=job.collection, job=job.id, rows=job.rows)

    async def _turn(self) -> Callable[[], None]:
        """Waits until no other process runs a job; returns what ends the turn. It ends with the process too."""
        if self._folder is None:
            return lambda: None
        while True:
            try:
                return lock_file(self._folder / "turn")
            except LockedError:
                await asyncio.sleep(_LOOK)

    async def _set(self, job: Job, **facts: Any) -> None:
        for name, value in facts.items():
            setattr(job, name, value)
        self._share(job)
        async with self._changed:
            self._changed.notify_all()

    def _share(self, job: Job) -> None:
        if self._folder is not None:
            self._folder.mkdir(exist_ok=True)
            write_json(self._folder / f"{job.id}.json", job.facts())


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
