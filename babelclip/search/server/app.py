"""The application: routes, gate, start and end.

Entry points: `create_app`, `from_environment` (for uvicorn's workers).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import Depends, FastAPI
from starlette.responses import JSONResponse, Response

from babelclip import __version__
from babelclip.errors import BabelclipError
from babelclip.files import atomic_path
from babelclip.search.server import (
    admin_routes,
    encode_routes,
    figures,
    item_routes,
    legacy,
    page,
    problems,
    search_routes,
)
from babelclip.search.server.jobs import Jobs
from babelclip.search.server.json_depth import DepthGate
from babelclip.search.server.limits import Gate
from babelclip.search.server.service import Service, open_service
from babelclip.search.server.settings import Settings

SETTINGS_VARIABLE = "BABELCLIP_SERVE_SETTINGS"
FAILED = "failed"


def create_app(service: Service) -> FastAPI:
    """Returns the application around an open service."""
    jobs = Jobs(service.settings.state, service.hide)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        warming = asyncio.create_task(service.warm())
        yield
        warming.cancel()
        await jobs.close()
        await service.close()

    app = FastAPI(
        title="babelclip",
        version=__version__,
        description="Pictures found by text in any language.",
        docs_url=None,  # its page would load scripts from another host
        redoc_url=None,
        openapi_url=None,
        lifespan=lifespan,
    )
    problems.install(app, service.hide)
    app.include_router(page.router(indexable=service.settings.indexable))
    app.include_router(search_routes.router(service))
    app.include_router(item_routes.router(service))
    app.include_router(encode_routes.router(service))
    app.include_router(admin_routes.router(service, jobs))
    app.include_router(legacy.router(service))
    if not service.settings.metrics_at:
        app.include_router(figures.router(service.metrics, service.allow("metrics")))
    _add_state_routes(app, service)
    app.add_middleware(DepthGate, depth=service.settings.limits.json_depth)
    app.add_middleware(Gate, settings=service.settings, observe=service.metrics.request)
    return app


def _add_state_routes(app: FastAPI, service: Service) -> None:
    """Adds health and the OpenAPI document."""

    @app.get("/healthz", include_in_schema=False)
    async def alive() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", include_in_schema=False)
    async def ready() -> Response:
        return JSONResponse({"status": "ready" if service.ready else "ending"}, 200 if service.ready else 503)

    @app.get("/openapi.json", include_in_schema=False, dependencies=[Depends(service.allow("read"))])
    async def document() -> JSONResponse:
        return JSONResponse(app.openapi())


def from_environment() -> FastAPI:
    """Returns the application for the settings file that the environment names; for several processes.

    Raises:
        SystemExit: it cannot start; the sentence that says why lies in the file `FAILED` beside the settings.
    """
    path = Path(os.environ[SETTINGS_VARIABLE])
    secret, _, settings = path.read_text(encoding="utf-8").partition("\n")
    try:
        return create_app(open_service(Settings.from_json(settings), bytes.fromhex(secret)))
    except Exception as error:
        if not isinstance(error, BabelclipError):
            problems.log.exception("a process of the service cannot start")
        with atomic_path(path.parent / FAILED) as made:
            made.write_text(str(error), encoding="utf-8")
        raise SystemExit(1) from error
