"""What the routes share: settings, models, collections, keys, figures. Made once a process, closed with it.

Entry points: `Service`, `open_service`.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from starlette.requests import Request

from babelclip.errors import BabelclipError, require
from babelclip.search.collection import Collection, backend_of, open_collection
from babelclip.search.query_background import Background
from babelclip.search.server.audit import audit
from babelclip.search.server.decoder import Decoder
from babelclip.search.server.encoders import QueryEncoder
from babelclip.search.server.metrics import Metrics
from babelclip.search.server.problems import Problem, busy, log
from babelclip.search.server.rates import Rates
from babelclip.search.server.served import Served, gone
from babelclip.search.server.settings import Settings
from babelclip.search.server.tokens import Key, KeyFile, Signer

T = TypeVar("T")
# Threads that read collections; searches spend their time outside Python. Fetching has its own, since strangers decide
# how long it takes.
_THREADS, _FETCHING = 8, 4


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
        keys: None where there are none. Then everybody may read, or the people that a proxy names; nobody may write.
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
    fetching: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_FETCHING, "fetch"))
    rates: Rates = field(init=False)

    def __post_init__(self) -> None:
        """Makes what follows from the settings."""
        self.rates = Rates(self.settings.limits.per_minute)

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

    async def in_thread(self, stage: str, work: Callable[[], T], executor: Executor | None = None) -> T:
        """Returns what `work` gives in a thread, its seconds counted as `stage`."""
        start = time.perf_counter()
        try:
            return await asyncio.get_running_loop().run_in_executor(executor or self.threads, work)
        finally:
            self.metrics.observe(stage, time.perf_counter() - start)

    async def read(
        self, served: Served, stage: str, work: Callable[[Collection], T], version: int = 0, *, light: bool = False
    ) -> T:
        """Returns what `work` reads of a collection, in a thread.

        A version that a deletion cleans up while it is read is read anew where the asker did not name it.

        Args:
            served: the collection.
            stage: in the figures.
            work: is given the version to read.
            version: to read; 0 for the newest.
            light: the work is a page of rows of columns in memory: done at once where the collection lies there, since
                handing it to a thread and back takes longer than the work.

        Raises:
            Problem: 410, the version is not kept any more.
        """
        here = served.at_once(version) if light else None
        if here is not None:
            start = time.perf_counter()
            try:
                return work(here)
            finally:
                self.metrics.observe(stage, time.perf_counter() - start)

        def once() -> T:
            collection = served.at(version) if version else served.current()
            try:
                return work(collection)
            except BabelclipError as error:
                if "cleaned up by optimize" not in str(error):
                    raise
            if version:
                raise gone()
            served.expire()
            return work(served.current())

        return await self.in_thread(stage, once)

    async def spread(self, served: Served, encoder: QueryEncoder | None) -> Background | None:
        """Returns how unrelated queries score; measured in the encoder's own thread, since it encodes texts."""
        if encoder is None:
            return None
        known = served.known_spread(encoder.clip)
        if known is not None:
            return known[0]
        return await self.in_thread("spread", lambda: served.spread(encoder.clip), encoder.executor)

    async def warm(self) -> None:
        """Does once, in the encoders' threads, what the first question would wait for.

        That is a model's first run, and the measure of unrelated queries where none is kept. Questions are answered
        meanwhile. What fails here will fail again at a question, and is told there.
        """
        for encoder in self.encoders.values():
            if encoder.clip.text is not None:
                await self.in_thread("spread", functools.partial(encoder.clip.encode_text, ["a"]), encoder.executor)
        for served in self.collections.values():
            try:
                await self.spread(served, self.encoder_for(served))
            except BabelclipError as error:
                log.warning("%s: %s", served.name, error)

    def visible(self, collection: Collection) -> dict[str, str]:
        """Returns the columns that requests may name: no bytes, and no paths unless the operator shows them."""
        return {
            name: kind
            for name, kind in collection.columns.items()
            if kind != "bytes" and (name != "path" or self.settings.show_paths)
        }

    def allow(self, scope: str) -> Callable[[Request], Awaitable[Key | None]]:
        """Returns a dependency of routes that lets only keys with `scope` pass."""

        async def check(request: Request) -> Key | None:
            return self.check(request, scope)

        return check

    def check(self, request: Request, scope: str) -> Key | None:
        """Returns the key of a request; None where reading needs none.

        Raises:
            Problem: 401 without a known key, 403 where it may not do this, 429 where it asks too often.
        """
        try:
            key = self._checked(request, scope)
        except Problem as problem:
            if scope in ("write", "admin"):
                client = getattr(request.state, "client", "unknown")
                audit(f"{request.method} {scope}", "refused", status=problem.status, client=client)
            raise
        wait = self.rates.take(key.name) if key is not None else 0.0
        if wait > 0:
            seconds = str(int(wait) + 1)
            detail = f"One key may ask {self.settings.limits.per_minute} times a minute. Ask again in {seconds} s."
            raise Problem(429, "too_many_requests", detail, {"Retry-After": seconds})
        return key

    def _checked(self, request: Request, scope: str) -> Key | None:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if not token:
            person = self._person(request)
            if person is not None and scope == "read":
                return person
            if not self.settings.protected and scope in ("read", "metrics"):
                return None
        if self.keys is None and scope != "read":
            raise Problem(
                403,
                "forbidden",
                "Writing needs a key, and the service was started without any. Start it with --token-file.",
            )
        if self.keys is None and not self.settings.protected:
            return None
        key = self._key(token.strip()) if kind.lower() == "bearer" and len(token) < 500 else None
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

    def _key(self, token: str) -> Key | None:
        if self.keys is None or not token:
            return None
        try:
            return self.keys.find(token)
        except (BabelclipError, OSError) as error:
            # Nobody is let in by keys that cannot be read, not even by those of before.
            log.error("the keys cannot be read: %s", error)
            raise busy("The keys of the service cannot be read. The operator's log says why.", 10) from error

    def _person(self, request: Request) -> Key | None:
        """Returns the person that a trusted proxy names, as a key that may read."""
        settings = self.settings
        peer = request.client.host if request.client is not None else ""
        if not settings.user_header or peer not in settings.trusted_proxies:
            return None
        # Two such headers are one too many: one of them may be the client's.
        names = request.headers.getlist(settings.user_header)
        if len(names) != 1 or not names[0].strip():
            return None
        return Key(f"person:{names[0][:200]}", frozenset({"read"}), "")

    def picture_address(self, path: str) -> str:
        """Returns an address for an <img>: signed where keys are needed, which an <img> cannot send."""
        return self.signer.address(path) if self.settings.protected else path

    def hide(self, text: str) -> str:
        """Returns a sentence of an error without the addresses of collections and the folders of pictures."""
        for served in self.collections.values():
            text = text.replace(served.url, served.name)
        return text

    def log_query(self, text: str) -> None:
        """Writes a query into the log, as far as the operator wants it there."""
        if self.settings.log_queries == "plain":
            log.info("query %r", text)
        elif self.settings.log_queries == "hashed":
            # With the secret of the service: a plain hash of a word is the word, for whoever has a dictionary.
            log.info("query %s", self.signer.mark("query", text))

    async def close(self) -> None:
        """Ends threads and processes, and closes the collections."""
        self.ready = False
        for encoder in self.encoders.values():
            await encoder.close()
        self.decoder.close()
        self.threads.shutdown(wait=True, cancel_futures=True)
        self.fetching.shutdown(wait=False, cancel_futures=True)
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
    if settings.fast:
        require("faiss", "faiss")
    metrics = Metrics()
    limits = settings.limits
    decoder = Decoder(
        workers=1,
        pixels=limits.pixels,
        seconds=limits.decode_seconds,
        memory=limits.decode_memory,
        queue=limits.decode_queue,
    )
    encoders: dict[str, QueryEncoder] = {}
    for model in settings.models:
        clip = babelclip.load(model)
        name = clip.name or model
        encoders[name] = QueryEncoder(clip, name, settings, decoder, metrics.observe)
    collections: dict[str, Served] = {}
    spaces = {encoder.clip.space for encoder in encoders.values()}
    for name, url in settings.collections.items():
        collection = open_collection(url, space=settings.space if backend_of(url) == "faiss" else "")
        if collection.fingerprint.space not in spaces and spaces:
            raise BabelclipError(
                f"The collection {name} lies in the space {collection.fingerprint.space}, and the models given are of "
                f"{', '.join(sorted(spaces))}. Give --model with one of its space."
            )
        collections[name] = Served(name, collection, settings.refresh, fast=settings.fast)
    log.log(logging.INFO, "serving %s with %s", ", ".join(collections), ", ".join(encoders) or "no model")
    keys = KeyFile(settings.token_file) if settings.token_file else None
    return Service(settings, encoders, collections, metrics, Signer(secret), decoder, keys)
