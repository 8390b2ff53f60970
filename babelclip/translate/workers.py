"""Jobs in this process, or in several at once: one for each device, or so many on the processor.

Workers are fresh processes (spawned): CUDA does not survive a fork. Each opens its engines itself and is given one job
at a time. It stays with its language while there is work in it, because a change of language loads a model; languages
are begun in the order of the plan, and when none is left to begin, workers help where most is left.

A worker that loses its parent, by kill -9 for example, ends itself; what it was writing is a temporary file.

Entry points: `run_jobs`, `next_job`.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from babelclip.errors import BabelclipError
from babelclip.models.children import end_with_parent, interrupt_ignored, raise_failure, serve
from babelclip.translate.folder import Shard
from babelclip.translate.jobs import Job, Jobs, Work

# language, captions more
Advance = Callable[[str, int], object]
# a finished shard, the seconds it took, the device it ran on
Finished = Callable[[Shard, float, str], object]


def run_jobs(work: Work, jobs: Sequence[Job], devices: Sequence[str], *, advance: Advance, finished: Finished) -> None:
    """Does all jobs; returns when the last shard is on disk.

    Args:
        work: what they share.
        jobs: in the order in which languages are to be begun.
        devices: one worker for each; a single one works in this process.
        advance: told how far a language has come.
        finished: told of each shard.

    Raises:
        BabelclipError: an engine cannot translate, or a worker died. Finished shards stay.
    """
    if min(len(devices), len(jobs)) == 1:
        _run_here(work, jobs, devices[0], advance, finished)
    elif jobs:
        _Crew(work, jobs, devices[: len(jobs)], advance, finished).run()


def next_job(pending: Mapping[str, list[Job]], current: str, busy: Mapping[str, int]) -> Job | None:
    """Takes the job that a worker should do next out of `pending` and returns it; None where nothing is left.

    Args:
        pending: what is left, by language in the order of the plan.
        current: the language that the worker did last.
        busy: number of other workers at each language.
    """
    left = [lang for lang, jobs in pending.items() if jobs]
    if not left:
        return None
    if current not in left:
        fresh = [lang for lang in left if not busy.get(lang)]
        current = fresh[0] if fresh else max(left, key=lambda lang: len(pending[lang]) / busy[lang])
    return pending[current].pop(0)


def _run_here(work: Work, jobs: Sequence[Job], device: str, advance: Advance, finished: Finished) -> None:
    doer = Jobs(work, device)
    models: dict[str, str] = {}
    try:
        for job in jobs:
            start = time.perf_counter()
            shard = doer.do(job._replace(model=job.model or models.get(job.lang, "")), _teller(advance, job.lang))
            models[job.lang] = shard.model
            finished(shard, time.perf_counter() - start, device)
    finally:
        doer.close()


def _teller(advance: Advance, lang: str) -> Callable[[int], object]:
    return lambda n: advance(lang, n)


class _Crew:
    """Worker processes and who does what."""

    def __init__(
        self, work: Work, jobs: Sequence[Job], devices: Sequence[str], advance: Advance, finished: Finished
    ) -> None:
        self._advance, self._finished = advance, finished
        self._pending: dict[str, list[Job]] = {}
        for job in jobs:
            self._pending.setdefault(job.lang, []).append(job)
        self._models = {job.lang: job.model for job in jobs if job.model}
        self._doing: dict[int, Job | None] = {}
        self._last: dict[int, str] = {}
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        threads = max(1, (os.cpu_count() or 1) // len(devices))
        context = multiprocessing.get_context("spawn")
        with interrupt_ignored():
            for device in devices:
                mine, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(work, device, threads, theirs), daemon=True)
                process.start()
                theirs.close()
                self._pipes.append(mine)
                self._processes.append(process)
        self._devices = list(devices)

    def run(self) -> None:
        try:
            for worker in range(len(self._pipes)):
                self._send(worker)
            while any(self._doing.values()):
                for ready in wait([pipe for worker, pipe in enumerate(self._pipes) if self._doing[worker]]):
                    self._receive(next(worker for worker, pipe in enumerate(self._pipes) if pipe is ready))
        finally:
            for process in self._processes:
                process.terminate()
            for process in self._processes:
                process.join()

    def _send(self, worker: int) -> None:
        """Gives a worker its next job, if there is one."""
        busy = Counter(job.lang for other, job in self._doing.items() if job is not None and other != worker)
        job = next_job(self._pending, self._last.get(worker, ""), busy)
        self._doing[worker] = job
        if job is not None:
            self._last[worker] = job.lang
            try:
                self._pipes[worker].send(job._replace(model=self._models.get(job.lang, "")))
            except (BrokenPipeError, ConnectionResetError):
                self._fail(worker)

    def _receive(self, worker: int) -> None:
        """Takes a message of a worker: how far it is, a finished shard, or what went wrong."""
        try:
            kind, content = self._pipes[worker].recv()
        except (EOFError, ConnectionResetError):
            self._fail(worker)
        if kind == "advance":
            self._advance(*content)
        elif kind == "done":
            shard, seconds = content
            known = self._models.setdefault(shard.lang, shard.model)
            self._finished(shard, seconds, self._devices[worker])
            if known != shard.model:
                raise BabelclipError(
                    f"{shard.lang} was translated by {known} in one worker and by {shard.model} in another. A language "
                    "comes from one model: name it with its revision, and begin in another folder."
                )
            self._send(worker)
        else:
            raise_failure(kind, content, f"worker {worker} ({self._devices[worker]})")

    def _fail(self, worker: int) -> None:
        job, process = self._doing[worker], self._processes[worker]
        process.join(5)
        raise BabelclipError(
            f"Worker {worker} ({self._devices[worker]}) ended with code {process.exitcode} at "
            f"{f'block {job.block} of {job.lang}' if job else 'its start'}. A code of -9 mostly means too little "
            "memory. Finished shards are kept: run the same again, with fewer workers or a smaller batch where memory "
            "is short."
        )


def _serve(work: Work, device: str, threads: int, pipe: Connection) -> None:
    """What a worker process runs."""
    end_with_parent()
    doer = Jobs(work, device, threads)

    def do(job: Job) -> tuple[Shard, float]:
        start = time.perf_counter()
        return doer.do(job, _sender(pipe, job.lang)), time.perf_counter() - start

    serve(pipe, do)


def _sender(pipe: Connection, lang: str) -> Callable[[int], object]:
    return lambda n: pipe.send(("advance", (lang, n)))
