"""Queries that come together are encoded together: one queue, one worker, batches of what waits.

Entry point: `Batcher`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

from babelclip.search.server.problems import busy

# Called with a stage's name and its seconds (or size).
Observe = Callable[[str, float], None]


class Batcher:
    """Runs `work` on batches, in a thread, one batch at a time.

    A request that was given up leaves the queue before its turn; a queue that is full refuses (503).
    """

    def __init__(
        self,
        work: Callable[[Sequence[Any]], Sequence[Any]],
        executor: Executor,
        *,
        most: int,
        wait: float,
        queue: int,
        observe: Observe,
    ) -> None:
        """Remembers how to work.

        Args:
            work: items -> as many results, in order.
            executor: whose thread runs `work`.
            most: items of a batch.
            wait: seconds to wait for more, where others came shortly before and none came meanwhile.
            queue: items that may wait.
            observe: called with `queue_wait` and `batch_size`.
        """
        self._work, self._executor, self._observe = work, executor, observe
        self._most, self._wait = most, wait
        self._queue: asyncio.Queue[tuple[Any, asyncio.Future[Any], float]] = asyncio.Queue(queue)
        self._task: asyncio.Task[None] | None = None

    async def ask(self, item: Any) -> Any:
        """Returns the result for one item.

        Raises:
            Problem: too many wait already.
        """
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait((item, answer, time.perf_counter()))
        except asyncio.QueueFull:
            raise busy(f"{self._queue.maxsize} queries wait for the encoder. Ask again in a second.") from None
        return await answer

    async def close(self) -> None:
        """Stops the worker; what still waits is given up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        alone = True  # the last batch was a single query: then nobody is worth waiting for
        ended = 0.0
        while True:
            batch = [await self._queue.get()]
            # Who came while the last batch ran has waited, and the loop is about to answer that batch: what is there
            # begins at once, and runs beside the answers.
            behind = batch[0][2] < ended
            until = time.perf_counter() + (0.0 if behind or (alone and self._queue.empty()) else self._wait)
            while len(batch) < self._most:
                try:
                    batch.append(self._queue.get_nowait())
                    continue
                except asyncio.QueueEmpty:
                    left = until - time.perf_counter()
                if left <= 0:
                    break
                try:
                    batch.append(await asyncio.wait_for(self._queue.get(), left))
                except asyncio.TimeoutError:
                    break
            batch = [entry for entry in batch if not entry[1].done()]
            alone = len(batch) < 2
            if batch:
                await self._answer(batch)
                ended = time.perf_counter()

    async def _answer(self, batch: list[tuple[Any, asyncio.Future[Any], float]]) -> None:
        now = time.perf_counter()
        for _item, _answer, came in batch:
            self._observe("queue_wait", now - came)
        self._observe("batch_size", len(batch))
        try:
            results = await asyncio.get_running_loop().run_in_executor(
                self._executor, self._work, [item for item, _answer, _came in batch]
            )
        except Exception as error:  # each asker is told; the worker goes on
            for _item, answer, _came in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_item, answer, _came), result in zip(batch, results, strict=True):
            if not answer.done():
                answer.set_result(result)
