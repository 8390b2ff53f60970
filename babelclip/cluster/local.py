"""The launcher `local`: shards in this process, or in one process for each device, or in several on the processor.

Workers are fresh processes (spawned): CUDA does not survive a fork. Each loads its model once and is given one shard at
a time, in order, so that commits can follow closely. A worker that loses its parent ends itself.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn

from babelclip.cluster.job import Fragment, Job, Means, Shard
from babelclip.errors import BabelclipError, MissingExtraError
from babelclip.models.children import end_with_parent, interrupt_ignored


def launch(job: Job[Any], shards: Sequence[Shard], means: Means) -> Iterator[Fragment]:
    """Yields the fragments of `shards` as they are finished; see `cluster.job.Launch`.

    Raises:
        BabelclipError: a shard cannot be done, or a worker died. Finished shards are kept.
    """
    devices = [device for device in means.devices or ("cpu",) for _ in range(max(1, means.workers))][: len(shards)]
    if not devices:
        return
    if len(devices) == 1:
        work = job.worker(devices[0], _cores())
        for shard in shards:
            yield work(shard)
        return
    crew = _Crew(job, devices)
    try:
        yield from crew.run(iter(shards))
    finally:
        crew.end()


class _Crew:
    """Worker processes, and which shard each one does."""

    def __init__(self, job: Job[Any], devices: Sequence[str]) -> None:
        self._devices = list(devices)
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        lanes = max(1, _cores() // len(devices))
        context = multiprocessing.get_context("spawn")
        with interrupt_ignored():
            for device in devices:
                mine, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(job, device, lanes, theirs), daemon=True)
                process.start()
                theirs.close()
                self._pipes.append(mine)
                self._processes.append(process)

    def run(self, waiting: Iterator[Shard]) -> Iterator[Fragment]:
        """Yields fragments as they are finished, until no shard waits."""
        doing: dict[int, Shard] = {}

        def give(worker: int) -> None:
            shard = next(waiting, None)
            if shard is None:
                return
            doing[worker] = shard
            try:
                self._pipes[worker].send(shard)
            except (BrokenPipeError, ConnectionResetError):
                self._fail(worker, shard)

        for worker in range(len(self._pipes)):
            give(worker)
        while doing:
            for ready in wait([self._pipes[worker] for worker in doing]):
                worker = next(number for number, pipe in enumerate(self._pipes) if pipe is ready)
                fragment = self._answer(worker, doing.pop(worker))
                give(worker)
                yield fragment

    def end(self) -> None:
        """Ends all workers, whatever they do."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()

    def _answer(self, worker: int, shard: Shard) -> Fragment:
        try:
            kind, content = self._pipes[worker].recv()
        except (EOFError, ConnectionResetError):
            self._fail(worker, shard)
        if kind == "done":
            fragment: Fragment = content
            return fragment
        if kind == "refused":
            raise BabelclipError(content)
        if kind == "lacks":
            raise MissingExtraError(content)
        raise RuntimeError(f"worker {worker} ({self._devices[worker]}) failed at shard {shard.number}:\n{content}")

    def _fail(self, worker: int, shard: Shard) -> NoReturn:
        process = self._processes[worker]
        process.join(5)
        raise BabelclipError(
            f"Worker {worker} ({self._devices[worker]}) ended with code {process.exitcode} at shard {shard.number}. A "
            "code of -9 mostly means too little memory. Finished shards are kept: run the same again, with fewer "
            "--workers or a smaller --batch where memory is short."
        )


def _serve(job: Job[Any], device: str, lanes: int, pipe: Connection) -> None:
    """What a worker process runs: shards, until it is ended or has lost its parent."""
    end_with_parent()
    work = None
    while True:
        try:
            shard: Shard = pipe.recv()
        except (EOFError, ConnectionResetError):
            return  # the parent is gone
        try:
            if work is None:
                work = job.worker(device, lanes)
            message: tuple[str, Any] = ("done", work(shard))
        except BabelclipError as error:
            message = ("refused", str(error))
        except MissingExtraError as error:
            message = ("lacks", str(error))
        except Exception:  # whatever it is, the parent tells it, and it is not lost
            message = ("failed", traceback.format_exc())
        try:
            pipe.send(message)
        except (BrokenPipeError, ConnectionResetError):
            return  # the parent is gone


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
