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
# Share of the last batch's time for which a batch may wait while items keep coming.
_SHARE = 0.2


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
            wait: seconds to wait for the next item, where others came shortly before.
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
        spent = 0.0
        while True:
            batch = [await self._queue.get()]
            # A batch of eight takes little longer than one of four. Those who are being answered ask again one after
            # the other; begun without them, two halves would wait for each other's batches for ever.
            most = 0.0 if alone and self._queue.empty() else max(self._wait, _SHARE * spent)
            until = time.perf_counter() + most
            while len(batch) < self._most:
                try:
                    batch.append(self._queue.get_nowait())
                    continue
                except asyncio.QueueEmpty:
                    left = min(self._wait, until - time.perf_counter())
                if left <= 0:
                    break
                try:
                    batch.append(await asyncio.wait_for(self._queue.get(), left))
                except asyncio.TimeoutError:
                    break
            batch = [entry for entry in batch if not entry[1].done()]
            alone = len(batch) < 2
            if batch:
                begun = time.perf_counter()
                await self._answer(batch)
                spent = time.perf_counter() - begun

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
