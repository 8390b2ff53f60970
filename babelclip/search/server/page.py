"""The page and its files, read once from the installed package. Entry point: `router`."""

from __future__ import annotations

import hashlib
from importlib import resources

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from babelclip.search.server.problems import Problem

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
# The page talks to its own origin, runs its own scripts, shows the service's pictures and those that a person drops.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def router(*, indexable: bool) -> APIRouter:
    """Returns the routes of the page: `/`, `/robots.txt` and a closed list of files below `/static/`.

    Args:
        indexable: let crawlers in.
    """
    files = {
        entry.name: entry.read_bytes()
        for entry in resources.files("babelclip.search").joinpath("web").iterdir()
        if entry.name.endswith(tuple(_TYPES))
    }
    marks = {name: f'"{hashlib.sha256(content).hexdigest()[:20]}"' for name, content in files.items()}
    routes = APIRouter(include_in_schema=False)

    def answer(request: Request, name: str) -> Response:
        if name not in files:
            raise Problem(404, "not_found", "There is no such file. The page is at /.")
        headers = {"ETag": marks[name], "Cache-Control": "no-cache", "Content-Security-Policy": POLICY}
        if request.headers.get("if-none-match") == marks[name]:
            return Response(status_code=304, headers=headers)
        return Response(files[name], media_type=_TYPES[name[name.rindex(".") :]], headers=headers)

    @routes.get("/")
    async def page(request: Request) -> Response:
        return answer(request, "index.html")

    @routes.get("/static/{name}")
    async def file(request: Request, name: str) -> Response:
        return answer(request, name)

    @routes.get("/robots.txt")
    async def robots() -> Response:
        return PlainTextResponse(f"User-agent: *\nDisallow: {'/v1/' if indexable else '/'}\n")

    return routes
