"""What the routes share: settings, models, collections, keys, figures. Made once a process, closed with it.

Entry points: `Service`, `open_service`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from starlette.requests import Request

from babelclip.errors import BabelclipError
from babelclip.search.collection import open_collection
from babelclip.search.server.decoder import Decoder
from babelclip.search.server.encoders import QueryEncoder
from babelclip.search.server.metrics import Metrics
from babelclip.search.server.problems import Problem, log
from babelclip.search.server.served import Served
from babelclip.search.server.settings import Settings
from babelclip.search.server.tokens import Key, KeyFile, Signer

T = TypeVar("T")
# Threads that read collections. Searches spend their time outside Python.
_THREADS = 8


@dataclass
class Service:
    """One process of the service.

    Attributes:
        settings: the operator's.
        encoders: name -> model, the default first.
        collections: name -> collection.
        metrics: figures.
        signer: of cursors, uploads and addresses.
        decoder: of strangers' pictures.
        keys: None where everybody may read and nobody may write.
        ready: whether models and collections are open.
    """

    settings: Settings
    encoders: dict[str, QueryEncoder]
    collections: dict[str, Served]
    metrics: Metrics
    signer: Signer
    decoder: Decoder
    keys: KeyFile | None
    ready: bool = True
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_THREADS, "rows"))

    def collection(self, name: str) -> Served:
        """Returns a collection by name.

        Raises:
            Problem: 404.
        """
        served = self.collections.get(name)
        if served is None:
            raise Problem(404, "not_found", f"There is no such collection. There are: {', '.join(self.collections)}.")
        return served

    def encoder_for(self, served: Served, wanted: str | None = None) -> QueryEncoder | None:
        """Returns the model that asks a collection: `wanted`, else the first of its space; None where there is none.

        Raises:
            Problem: `wanted` is not here, or of another space.
        """
        space = served.fingerprint.space
        if wanted:
            encoder = self.encoders.get(wanted)
            if encoder is None:
                raise Problem(400, "bad_request", f"There is no such encoder. There are: {', '.join(self.encoders)}.")
            if encoder.clip.space != space:
                raise Problem(
                    400,
                    "other_space",
                    f"The encoder's space is {encoder.clip.space}, the collection's {space}. Take one of its space.",
                )
            return encoder
        fitting = [encoder for encoder in self.encoders.values() if encoder.clip.space == space]
        return next((encoder for encoder in fitting if encoder.clip.text is not None), next(iter(fitting), None))

    async def in_thread(self, stage: str, work: Callable[[], T]) -> T:
        """Returns what `work` gives in a thread, its seconds counted as `stage`."""
        start = time.perf_counter()
        try:
            return await asyncio.get_running_loop().run_in_executor(self.threads, work)
        finally:
            self.metrics.observe(stage, time.perf_counter() - start)

    def allow(self, scope: str) -> Callable[[Request], Awaitable[Key | None]]:
        """Returns a dependency of routes that lets only keys with `scope` pass."""

        async def check(request: Request) -> Key | None:
            return self.check(request, scope)

        return check

    def check(self, request: Request, scope: str) -> Key | None:
        """Returns the key of a request; None where reading needs none.

        Raises:
            Problem: 401 without a known key, 403 where it may not do this.
        """
        if self.keys is None:
            if scope == "read":
                return None
            raise Problem(
                403,
                "forbidden",
                "Writing needs a key, and the service was started without any. Start it with --token-file.",
            )
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        key = self.keys.find(token.strip()) if kind.lower() == "bearer" and len(token) < 500 else None
        if key is None:
            raise Problem(
                401, "unauthorised", "A key is needed: Authorization: Bearer KEY. Ask the operator for one.",
                {"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        if scope not in key.scopes and "admin" not in key.scopes:
            raise Problem(
                403, "forbidden", f"This key may not do that: it lacks {scope}. Ask the operator for another."
            )
        return key

    def picture_address(self, path: str) -> str:
        """Returns an address for an <img>: signed where keys are needed, which an <img> cannot send."""
        return self.signer.address(path) if self.keys is not None else path

    def log_query(self, text: str) -> None:
        """Writes a query into the log, as far as the operator wants it there."""
        if self.settings.log_queries == "plain":
            log.info("query %r", text)
        elif self.settings.log_queries == "hashed":
            log.info("query %s", hashlib.sha256(text.encode()).hexdigest()[:16])

    async def close(self) -> None:
        """Ends threads and processes, and closes the collections."""
        self.ready = False
        for encoder in self.encoders.values():
            await encoder.close()
        self.decoder.close()
        self.threads.shutdown(wait=True, cancel_futures=True)
        for served in self.collections.values():
            served.close()


def open_service(settings: Settings, secret: bytes | None = None) -> Service:
    """Returns the service with its models and collections open.

    Args:
        settings: the operator's, checked (`check_settings`).
        secret: signs cursors and addresses; processes of one service share it.

    Raises:
        BabelclipError: a model or a collection does not open, or a collection has no encoder of its space.
    """
    import babelclip

    if settings.threads:
        import torch

        torch.set_num_threads(settings.threads)
    metrics = Metrics()
    limits = settings.limits
    decoder = Decoder(workers=1, pixels=limits.pixels, seconds=limits.decode_seconds, memory=limits.decode_memory)
    encoders: dict[str, QueryEncoder] = {}
    for model in settings.models:
        clip = babelclip.load(model)
        name = clip.name or model
        encoders[name] = QueryEncoder(clip, name, settings, decoder, metrics.observe)
    collections: dict[str, Served] = {}
    spaces = {encoder.clip.space for encoder in encoders.values()}
    for name, url in settings.collections.items():
        collection = open_collection(url)
        if collection.fingerprint.space not in spaces and spaces:
            raise BabelclipError(
                f"The collection {name} lies in the space {collection.fingerprint.space}, and the models given are of "
                f"{', '.join(sorted(spaces))}. Give --model with one of its space."
            )
        collections[name] = Served(name, collection, settings.refresh)
    log.log(logging.INFO, "serving %s with %s", ", ".join(collections), ", ".join(encoders) or "no model")
    keys = KeyFile(settings.token_file) if settings.token_file else None
    return Service(settings, encoders, collections, metrics, Signer(secret), decoder, keys)
