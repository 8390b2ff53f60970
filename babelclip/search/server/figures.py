"""The routes that tell how the service fares, beside the others or on an address of their own (S13).

On an address of their own that only this machine reaches they want no key, so that a collector needs none; elsewhere
they want one with `metrics`. Entry points: `router`, `elsewhere`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from babelclip.errors import BabelclipError
from babelclip.search.server import problems
from babelclip.search.server.limits import Gate
from babelclip.search.server.listening import bound
from babelclip.search.server.metrics import Metrics
from babelclip.search.server.problems import Problem
from babelclip.search.server.settings import Settings, address_of, is_loopback
from babelclip.search.server.tokens import KeyFile


def router(metrics: Metrics, allow: Callable[[Request], Awaitable[Any]]) -> APIRouter:
    """Returns `/metrics` (for Prometheus) and `/metrics-summary` (a table, as clip-retrieval has it).

    Args:
        metrics: whose figures.
        allow: dependency that refuses whoever may not see them.
    """
    routes = APIRouter(dependencies=[Depends(allow)])

    @routes.get("/metrics", include_in_schema=False)
    async def figures() -> Response:
        content, kind = metrics.text()
        return Response(content, media_type=kind)

    @routes.get("/metrics-summary", tags=["clip-retrieval"])
    async def summary() -> Response:
        """Seconds by stage, as a table."""
        return PlainTextResponse(metrics.summary())

    return routes


@contextlib.contextmanager
def elsewhere(settings: Settings, metrics: Metrics) -> Iterator[None]:
    """Tells the figures at `settings.metrics_at`, from a thread, while the block runs; does nothing where that is "".

    Raises:
        BabelclipError: the address is taken.
    """
    import uvicorn

    if not settings.metrics_at:
        yield
        return
    host, port = address_of(settings.metrics_at, "--metrics-at")
    held = bound(host, port, "--metrics-at")
    server = uvicorn.Server(
        uvicorn.Config(
            _app(settings, metrics, host),
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
        )
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [held]}, name="figures", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(5)
        held.close()


def _app(settings: Settings, metrics: Metrics, host: str) -> FastAPI:
    keys = KeyFile(settings.token_file) if settings.token_file and not is_loopback(host) else None

    async def allow(request: Request) -> None:
        if keys is not None:
            _check(keys, request.headers.get("authorization", ""))

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    problems.install(app, str)
    app.include_router(router(metrics, allow))
    app.add_middleware(Gate, settings=dataclasses.replace(settings, host=host), observe=lambda *_facts: None)
    return app


def _check(keys: KeyFile, said: str) -> None:
    """Raises Problem unless `said` shows a key with `metrics`."""
    kind, _, token = said.partition(" ")
    try:
        key = keys.find(token.strip()) if kind.lower() == "bearer" and len(token) < 500 else None
    except (BabelclipError, OSError) as error:
        raise problems.busy("The keys of the service cannot be read. The operator's log says why.", 10) from error
    if key is None:
        wanted = "A key is needed: Authorization: Bearer KEY."
        raise Problem(401, "unauthorised", wanted, {"WWW-Authenticate": "Bearer"})
    if not key.scopes & {"metrics", "admin"}:
        raise Problem(403, "forbidden", "This key may not do that: it lacks metrics. Ask the operator for another.")
