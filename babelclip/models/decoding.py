"""Pictures decoded and preprocessed ahead of the model, in threads or worker processes, in bounded memory."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import numpy as np

from babelclip.errors import BabelclipError
from babelclip.models.children import end_with_parent
from babelclip.models.preprocess import Picture, PictureError, Preprocess, open_picture

# Batches that wait decoded, beside the one in each model's hands: one would leave the decoders idle at every hand-over.
_BATCHES_AHEAD = 2
# What decodes for a caller who wants more of a picture than its pixels: returns the pixels, and the rest.
Reader = Callable[[Preprocess, Picture], tuple[np.ndarray, Any]]
# Up to so many cores threads decode as fast as processes (docs/log.md).
_THREADS_SUFFICE = 4


@dataclass(frozen=True)
class EncodeReport:
    """What one call did, and which side waited for the other.

    Attributes:
        pictures: encoded pictures.
        skipped: pictures that could not be read.
        seconds: wall time of the call.
        decode_wait: seconds that the models waited for pixels, summed over lanes.
        model_seconds: seconds that the models computed, summed over lanes.
    """

    pictures: int
    skipped: int
    seconds: float
    decode_wait: float
    model_seconds: float

    @property
    def pictures_per_second(self) -> float:
        """Encoded pictures a second of wall time."""
        return self.pictures / self.seconds if self.seconds > 0 else 0.0

    @property
    def bottleneck(self) -> str:
        """Either "decode", where the models waited more than they computed, or "model"."""
        return "decode" if self.decode_wait > self.model_seconds else "model"

    def __add__(self, other: EncodeReport) -> EncodeReport:
        """Returns the report of two calls, one after the other."""
        return EncodeReport(
            self.pictures + other.pictures,
            self.skipped + other.skipped,
            self.seconds + other.seconds,
            self.decode_wait + other.decode_wait,
            self.model_seconds + other.model_seconds,
        )

    def advice(self, workers: int = 0) -> str:
        """Returns one sentence: pictures a second, whether pixels or the model were the limit, and what would help.

        Args:
            workers: the processes that decoded; 0 for threads.
        """
        speed = f"{self.pictures:,} pictures in {self.seconds:.1f} s ({self.pictures_per_second:.1f}/s)"
        busy = max(self.decode_wait + self.model_seconds, 1e-9)
        if self.bottleneck == "model":
            share = self.model_seconds / busy
            return f"{speed}: the model was the limit, busy {share:.0%} of its time; a GPU would help, or one more."
        share, cores = self.decode_wait / busy, _cores()
        if 0 < workers < cores:
            cure = f"take more workers, {cores} for the cores of this machine"
        elif not workers and cores > _THREADS_SUFFICE:
            cure = (
                f"try workers ({cores}, as this machine has cores): {cores} threads decoded, which share Python's lock"
            )
        else:
            cure = f"all {cores} cores decoded: take a machine with more, or smaller copies of the pictures"
        return f"{speed}: decoding was the limit (the model waited {share:.0%} of its time); {cure}."

    def __str__(self) -> str:
        return (
            f"{self.pictures} pictures in {self.seconds:.1f} s ({self.pictures_per_second:.1f}/s), "
            f"{self.skipped} skipped; bottleneck: {self.bottleneck} "
            f"(waited {self.decode_wait:.1f} s for pixels, computed {self.model_seconds:.1f} s)"
        )


class DecodedBatches:
    """Hands out batches of preprocessed pictures in input order; any number of threads may take them.

    Submitted and not yet taken are at most `_BATCHES_AHEAD` batches, however many pictures there are.
    """

    def __init__(
        self,
        pool: Executor,
        preprocess: Preprocess,
        pictures: Sequence[Picture],
        batch_size: int,
        reader: Reader | None = None,
    ) -> None:
        """Takes N pictures; what `reader` returns, a function at the top of a module, stands where pixels would."""
        self._pool, self._preprocess, self._pictures, self._reader = pool, preprocess, pictures, reader
        self._starts = iter(range(0, len(pictures), batch_size))
        self._batch_size = batch_size
        self._waiting: deque[tuple[int, list[Future[Any]]]] = deque()
        self._lock = threading.Lock()

    def take(self) -> tuple[list[int], list[Any], list[tuple[int, PictureError]]]:
        """Returns the next batch: positions and pixels of what could be read, positions and errors of what could not.

        Raises:
            BabelclipError: a worker process died, for example because memory ran out.
        """
        with self._lock:
            self._top_up()
            start, futures = self._waiting.popleft()
            self._top_up()
        positions, pixels, unreadable = [], [], []
        for position, future in enumerate(futures, start):
            try:
                pixels.append(future.result())
                positions.append(position)
            except PictureError as error:
                unreadable.append((position, error))
            except BrokenProcessPool as error:
                raise BabelclipError(
                    f"A worker process died while it decoded pictures ({error}). Scripts that ask for workers need "
                    'their own work under `if __name__ == "__main__":`; memory may also have run out. Give fewer '
                    "workers, or workers=0, which decodes in threads."
                ) from error
        return positions, pixels, unreadable

    def _top_up(self) -> None:
        while len(self._waiting) < _BATCHES_AHEAD:
            start = next(self._starts, None)
            if start is None:
                return
            batch = self._pictures[start : start + self._batch_size]
            futures = [self._pool.submit(self._reader or _decode, self._preprocess, picture) for picture in batch]
            self._waiting.append((start, futures))


@contextlib.contextmanager
def decoder_pool(workers: int, pictures: int) -> Iterator[Executor]:
    """Yields threads (`workers=0`), or `workers` processes, that are gone when the block ends, however it ends.

    Pillow decodes and resizes without Python's lock, so threads fill the cores and start at once. Processes take over
    a second to start and pay where Python itself is busy with other things (figures: docs/log.md).

    Raises:
        BabelclipError: `workers` is negative.
    """
    if workers < 0:
        raise BabelclipError(f"workers={workers} is negative. Give 0 for threads, or a number of processes, such as 4.")
    pool: Executor
    if workers:
        # Never a plain fork: the parent's threads may hold locks that nobody in the child would release.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(workers, max(pictures, 1)), mp_context=context, initializer=_start_worker)
    else:
        pool = ThreadPoolExecutor(max(2, _cores()), thread_name_prefix="decode")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _decode(preprocess: Preprocess, picture: Picture) -> np.ndarray:
    return preprocess(open_picture(picture))


def _start_worker() -> None:
    # Ctrl-C reaches every process of a terminal; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()  # one that was killed cannot tell its workers to end


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
