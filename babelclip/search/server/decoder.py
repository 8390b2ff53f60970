"""Strangers' pictures, decoded apart: in a process of its own with bounds on bytes, pixels, memory and time.

A picture that crashes or stalls its decoder costs that process, which is started anew. Formats are those that people
have; only the first frame is read; a picture above the pixel limit is refused before it is decoded, and a truncated one
is refused. Entry points: `Decoder`, `encoded_jpeg`.
"""

from __future__ import annotations

import asyncio
import io
import multiprocessing
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

from babelclip.search.server.problems import Problem, busy

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from babelclip.models.preprocess import Preprocess

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO")


class Refused(Exception):
    """A picture that is not decoded, with the sentence for who sent it."""


class Decoder:
    """Decoding processes with a deadline for each picture, which begins when its turn comes."""

    def __init__(self, *, workers: int, pixels: int, seconds: float, memory: int, queue: int = 64) -> None:
        """Remembers the bounds.

        Args:
            workers: processes, started at the first picture.
            pixels: of one picture.
            seconds: that one picture may take.
            memory: bytes that a process may take beyond its start.
            queue: pictures that may wait or be decoded.
        """
        self._workers, self._pixels, self._seconds, self._memory = workers, pixels, seconds, memory
        self._pool: ProcessPoolExecutor | None = None
        self._turns = asyncio.Semaphore(workers)
        self._waiting, self._queue = 0, queue

    async def pixels_for(self, content: bytes, preprocess: Preprocess) -> tuple[np.ndarray, int, int]:
        """Returns what the picture tower wants (3, H, W) float32, and the picture's width and height.

        Raises:
            Problem: it is no picture, too large, or takes too long.
        """
        made: tuple[np.ndarray, int, int] = await self._run(_preprocessed, content, self._pixels, preprocess)
        return made

    async def jpeg(self, content: bytes, longest: int) -> bytes:
        """Returns the picture as a JPEG without metadata, upright, at most `longest` pixels long.

        Raises:
            Problem: as `pixels_for`.
        """
        made: bytes = await self._run(encoded_jpeg, content, self._pixels, longest)
        return made

    async def kept(self, content: bytes, preprocess: Preprocess) -> tuple[np.ndarray, Any]:
        """Returns pixels as `pixels_for`, and what a collection keeps of the picture (`thumbnails.Look`).

        Raises:
            Problem: as `pixels_for`.
        """
        made: tuple[np.ndarray, Any] = await self._run(_looked_at, content, self._pixels, preprocess)
        return made

    def close(self) -> None:
        """Ends the processes."""
        self._end()

    async def _run(self, work: Callable[..., Any], *given: Any) -> Any:
        if self._waiting >= self._queue:
            raise busy(f"{self._queue} pictures wait to be decoded. Ask again in a second.")
        self._waiting += 1
        # A task of its own: where the asker leaves, the process still is busy, and the next picture waits for it.
        task = asyncio.get_running_loop().create_task(self._in_turn(work, given))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def _in_turn(self, work: Callable[..., Any], given: tuple[Any, ...]) -> Any:
        try:
            async with self._turns:
                return await self._decoded(work, given)
        finally:
            self._waiting -= 1

    async def _decoded(self, work: Callable[..., Any], given: tuple[Any, ...]) -> Any:
        loop = asyncio.get_running_loop()
        pool = self._pool
        try:
            if pool is None:
                pool = self._pool = ProcessPoolExecutor(
                    self._workers, multiprocessing.get_context("spawn"), initializer=_bound, initargs=(self._memory,)
                )
                # The processes start in seconds, which must not count against the first picture.
                await loop.run_in_executor(pool, _ready)
            return await asyncio.wait_for(loop.run_in_executor(pool, _guarded, work, *given), self._seconds)
        except Refused as error:
            raise Problem(415, "unsupported_media", str(error)) from error
        except MemoryError as error:
            raise Problem(
                413, "too_large", "The picture needs more memory than is allowed. Send a smaller one."
            ) from error
        except asyncio.TimeoutError:
            self._end(pool)
            raise Problem(
                413, "too_large", f"Decoding the picture takes more than {self._seconds:g} s. Send a smaller one."
            ) from None
        except (BrokenProcessPool, RuntimeError) as error:
            self._end(pool)
            raise busy("The decoder had to be started anew. Send the picture again.") from error

    def _end(self, pool: ProcessPoolExecutor | None = None) -> None:
        """Kills the processes, so that none goes on with a picture nobody waits for."""
        if self._pool is None or (pool is not None and pool is not self._pool):
            return
        ended, self._pool = self._pool, None
        processes = list((ended._processes or {}).values())
        ended.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()


def _ready() -> None:
    """Imports what decoding needs, before the first picture's clock runs."""
    from babelclip.models import preprocess  # noqa: F401
    from babelclip.search import thumbnails  # noqa: F401


def _bound(memory: int) -> None:
    """Bounds the memory of a decoding process; where that cannot be (Windows, macOS), the pixel limit is what holds."""
    _ready()
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        return
    resource.setrlimit(resource.RLIMIT_AS, (taken + memory, taken + memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _guarded(work: Callable[..., Any], *given: Any) -> Any:
    """Runs `work`; whatever a hostile picture makes of the libraries is a refusal."""
    try:
        return work(*given)
    except (Refused, MemoryError):
        raise
    except Exception as error:
        raise Refused("The picture cannot be decoded: it is broken or cut off. Send a whole one.") from error


def _opened(content: bytes, pixels: int) -> Image.Image:
    """Returns the first frame of a picture, decoded and turned upright."""
    from PIL import Image, ImageFile, UnidentifiedImageError

    from babelclip.models.preprocess import upright_picture

    ImageFile.LOAD_TRUNCATED_IMAGES = False
    # Pillow looks at sizes that only decoding tells too, such as that of a GIF's frame; its warning is an error here.
    Image.MAX_IMAGE_PIXELS = pixels
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            picture: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
            picture.seek(0)
            picture.load()
        except UnidentifiedImageError as error:
            raise Refused(f"This is not a picture of a kind that is read: {', '.join(FORMATS)}. Send one.") from error
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise Refused(
                f"The picture has too many pixels; at most {pixels:,} are read. Send a smaller one."
            ) from error
        return upright_picture(picture)


def _preprocessed(content: bytes, pixels: int, preprocess: Preprocess) -> tuple[np.ndarray, int, int]:
    picture = _opened(content, pixels)
    return _prepared(preprocess, picture), picture.width, picture.height


def _looked_at(content: bytes, pixels: int, preprocess: Preprocess) -> tuple[np.ndarray, Any]:
    import hashlib

    from babelclip.search.thumbnails import Look, make_thumbnail

    picture = _opened(content, pixels)
    thumbnail, colour = make_thumbnail(picture)
    digest = hashlib.sha256(content).hexdigest()
    look = Look(picture.width, picture.height, len(content), digest, colour, thumbnail)
    return _prepared(preprocess, picture), look


def _prepared(preprocess: Preprocess, picture: Image.Image) -> np.ndarray:
    from babelclip.models.preprocess import PictureError

    try:
        return preprocess(picture)
    except PictureError as error:
        raise Refused(str(error)) from error


def encoded_jpeg(content: bytes, pixels: int, longest: int) -> bytes:
    """Returns a picture as JPEG without metadata, upright, at most `longest` pixels long.

    Raises:
        Refused: it cannot be decoded, or has more than `pixels` pixels.
    """
    from babelclip.search.thumbnails import make_thumbnail

    return make_thumbnail(_opened(content, pixels), longest)[0]
