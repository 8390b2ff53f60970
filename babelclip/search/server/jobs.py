"""Work that changes a collection: one job at a time, whose progress can be watched. Entry point: `Jobs`."""

from __future__ import annotations

import asyncio
import collections
import datetime
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

from babelclip.errors import BabelclipError
from babelclip.search.server.problems import Problem, busy, log

_WAITING = 64
_KEPT = 200


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

    def __init__(self) -> None:
        self._queue: asyncio.Queue[tuple[Job, Callable[[], Awaitable[tuple[int, str]]]]] = asyncio.Queue(_WAITING)
        self._jobs: collections.OrderedDict[str, Job] = collections.OrderedDict()
        self._numbers = itertools.count(1)
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()

    async def add(self, kind: str, collection: str, by: str, work: Callable[[], Awaitable[tuple[int, str]]]) -> Job:
        """Queues `work`, which returns rows changed and a sentence.

        Raises:
            Problem: too many wait.
        """
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        job = Job(str(next(self._numbers)), kind, collection, by, made=_now())
        try:
            self._queue.put_nowait((job, work))
        except asyncio.QueueFull:
            raise busy(f"{_WAITING} jobs wait. Come again when some are done.", 10) from None
        self._jobs[job.id] = job
        while len(self._jobs) > _KEPT:
            self._jobs.popitem(last=False)
        # Who changed what, and when, is kept in the log whatever happens to it.
        log.info("job %s: %s in %s, asked by %s", job.id, kind, collection, by)
        return job

    def all(self) -> list[Job]:
        """Returns the jobs, the newest first."""
        return list(reversed(self._jobs.values()))

    def find(self, name: str) -> Job:
        """Returns a job.

        Raises:
            Problem: 404.
        """
        job = self._jobs.get(name)
        if job is None:
            raise Problem(404, "not_found", "There is no such job, or it was long ago.")
        return job

    async def changed(self, seconds: float) -> None:
        """Waits until a job changes, at most so many seconds."""
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
            await self._set(job, state="running")
            try:
                rows, detail = await work()
                await self._set(job, state="done", rows=rows, detail=detail, ended=_now())
            except (Problem, BabelclipError) as error:
                await self._set(job, state="failed", detail=str(error), ended=_now())
            except Exception:  # the worker goes on; the operator finds the trace
                log.exception("job %s failed", job.id)
                await self._set(job, state="failed", detail="it is in the operator's log", ended=_now())
            log.info("job %s: %s, %d rows", job.id, job.state, job.rows)

    async def _set(self, job: Job, **facts: Any) -> None:
        for name, value in facts.items():
            setattr(job, name, value)
        async with self._changed:
            self._changed.notify_all()


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
