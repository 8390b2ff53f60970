"""Query vectors of a model: texts in batches and with a memory, pictures one at a time.

Entry point: `QueryEncoder`. Vectors are (D,) float32, L2-normalised.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from babelclip.models.clip import Clip
from babelclip.search.query_terms import normal
from babelclip.search.server.batcher import Batcher, Observe
from babelclip.search.server.decoder import Decoder
from babelclip.search.server.problems import Problem
from babelclip.search.server.settings import Settings

# Added to the niceness of the encoder's threads.
_GIVEN_WAY = 10


def _give_way() -> None:
    """Has this thread, and those that it starts, leave the processor to others of the process that want it.

    What is encoded already is answered first: otherwise each answer waits for the next batch, which takes all cores.
    """
    if sys.platform == "linux":  # elsewhere niceness is that of the whole process
        with contextlib.suppress(OSError):
            number = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, number, os.getpriority(os.PRIO_PROCESS, number) + _GIVEN_WAY)


class BusyClock:
    """How long a model has run in all: a request's part of it is what lies between two readings."""

    def __init__(self) -> None:
        # Seconds of runs that have ended, and when the run under way began (0: none); replaced together.
        self._state = (0.0, 0.0)

    def read(self) -> float:
        """Returns the seconds that it has run until now, the run under way among them."""
        spent, since = self._state
        return spent + (time.perf_counter() - since if since else 0.0)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Counts the time of a block; one at a time."""
        spent, since = self._state[0], time.perf_counter()
        self._state = (spent, since)
        try:
            yield
        finally:
            self._state = (spent + time.perf_counter() - since, 0.0)


class QueryEncoder:
    """One model behind the service. The model runs in one thread; requests wait in its queue.

    Attributes:
        clip: the model.
        name: what people call it.
        executor: its one thread, in which everything that runs the model runs.
    """

    def __init__(self, clip: Clip, name: str, settings: Settings, decoder: Decoder, observe: Observe) -> None:
        self.clip, self.name = clip, name
        self._observe, self._decoder = observe, decoder
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="encoder", initializer=_give_way)
        limits = settings.limits
        self._texts = Batcher(
            self._encode_texts, self.executor, most=settings.batch, wait=settings.wait, queue=limits.queue,
            observe=observe,
        )  # fmt: skip
        self._clock = BusyClock()
        self._memory: collections.OrderedDict[tuple[str, str], np.ndarray] = collections.OrderedDict()
        self._remembered = settings.cache
        # Only models whose first token names the language care for it; for others it would split the memory.
        tokenizer = clip.text.tokenizer if clip.text is not None else None
        self._names_language = getattr(tokenizer, "language", None) is not None

    async def text(self, text: str, lang: str = "") -> np.ndarray:
        """Returns the vector of a text in NFC, from memory where it was asked before.

        Raises:
            Problem: the model has no text tower, or too many wait.
        """
        vector, _seconds = await self.timed_text(text, lang)
        return vector

    async def timed_text(self, text: str, lang: str = "") -> tuple[np.ndarray, float]:
        """Returns what `text` does, and for how many seconds the model ran between the question and the vector.

        That is what waiting for the model costs: batches before, and the text's own. Waiting for anything else (the
        queue while the model stands still, the thread, the event loop) is not in it.

        Raises:
            Problem: as `text`.
        """
        if self.clip.text is None:
            raise Problem(400, "no_text_encoder", "This collection has no text encoder here. Ask with a picture.")
        # What is encoded is what is remembered: a fresh answer and a remembered one cannot differ.
        key = (normal(text), lang if self._names_language else "")
        kept = self._memory.get(key)
        if kept is not None:
            self._memory.move_to_end(key)
            self._observe("remembered", 1)
            return kept, 0.0
        before = self._clock.read()
        vector, after = await self._texts.ask(key)
        self._memory[key] = vector
        while len(self._memory) > self._remembered:
            self._memory.popitem(last=False)
        return vector, after - before

    async def picture(self, content: bytes) -> tuple[np.ndarray, int, int]:
        """Returns the vector of a picture file, its width and its height.

        Raises:
            Problem: the model has no picture tower, or the picture is refused.
        """
        self._image_tower()
        start = time.perf_counter()
        pixels, width, height = await self._decoder.pixels_for(content, self._image_tower().preprocess)
        self._observe("decode", time.perf_counter() - start)
        vectors = await asyncio.get_running_loop().run_in_executor(self.executor, self._encode_pixels, [pixels])
        return vectors[0], width, height

    async def row(self, content: bytes) -> tuple[np.ndarray, Any]:
        """Returns the vector of a picture and what a collection keeps of it (`thumbnails.Look`).

        Raises:
            Problem: as `picture`.
        """
        pixels, look = await self._decoder.kept(content, self._image_tower().preprocess)
        vectors = await asyncio.get_running_loop().run_in_executor(self.executor, self._encode_pixels, [pixels])
        return vectors[0], look

    async def close(self) -> None:
        """Stops the queue and the thread."""
        await self._texts.close()
        self.executor.shutdown(wait=True, cancel_futures=True)

    def _image_tower(self) -> Any:
        if self.clip.image is None:
            raise Problem(400, "no_image_encoder", "This collection has no picture encoder here. Ask with words.")
        return self.clip.image

    def _encode_texts(self, keys: Sequence[tuple[str, str]]) -> list[tuple[np.ndarray, float]]:
        """Returns the vectors of texts, each with what the clock says at their end."""
        start = time.perf_counter()
        texts = [text for text, _lang in keys]
        with self._clock.running():
            if self._names_language:
                vectors = np.empty((len(keys), self.clip.embed_dim), np.float32)
                for lang in dict.fromkeys(lang for _text, lang in keys):
                    places = [place for place, key in enumerate(keys) if key[1] == lang]
                    vectors[places] = self.clip.encode_text([texts[place] for place in places], lang=lang or None)
            else:
                vectors = self.clip.encode_text(texts)
        end = self._clock.read()
        self._observe("encode_text", time.perf_counter() - start)
        # Copies: a row that is remembered would keep its whole batch.
        return [(row.copy(), end) for row in vectors]

    def _encode_pixels(self, pixels: Sequence[np.ndarray]) -> list[np.ndarray]:
        start = time.perf_counter()
        # The pixels are the tower's own already: nothing is decoded here.
        with self._clock.running():
            features, _skipped = self._image_tower().encode_readable(
                list(pixels), reader=lambda _preprocess, array: (array, None), strict=True
            )
        self._observe("encode_image", time.perf_counter() - start)
        return list(features)
