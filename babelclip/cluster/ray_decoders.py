"""Pictures decoded by all processors of a Ray cluster, for a worker that has a GPU.

A GPU encodes more pictures than the cores beside it decode (specs/search-and-serving.md 1.7: with small towers decoding
is the limit). `RayDecoders` looks like any pool of decoders, so the model asks for its batches as it always does: a few
ahead, in order, in bounded memory. Each picture is one task, which Ray puts where a processor is free and repeats where
its machine was lost; its pixels come back through Ray's object store.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

T = TypeVar("T")


class RayDecoders(Executor):
    """An executor whose calls run as Ray tasks of one processor each; made in a process that is part of a cluster."""

    def __init__(self) -> None:
        import ray

        task = ray.remote(_call)
        self._task = task.options(num_cpus=1, max_retries=-1, scheduling_strategy="SPREAD")

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Returns the future result of `fn(*args, **kwargs)`; an error is raised as it was there, not as Ray's."""
        asked: Future[Any] = self._task.remote(fn, args, kwargs).future()
        answer: Future[T] = Future()

        def told(done: Future[Any]) -> None:
            try:
                result, error = done.result()
            except BaseException as lost:
                result, error = None, lost
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)

        asked.add_done_callback(told)
        return answer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Does nothing: tasks end by themselves."""


def _call(fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[T | None, Exception | None]:
    """Returns a result, or the error in its place: raised, Ray would wrap it, with its trace as its text."""
    try:
        return fn(*args, **kwargs), None
    except Exception as error:
        return None, error
