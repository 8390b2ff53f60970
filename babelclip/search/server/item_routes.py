"""Routes of `/v1` about one item: its facts, thumbnail, picture, near duplicates. Entry point: `router`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from babelclip.search.collection import Collection
from babelclip.search.filters import Eq
from babelclip.search.server import answers
from babelclip.search.server.item_files import read_picture_file
from babelclip.search.server.jpeg import plain_jpeg
from babelclip.search.server.problems import Problem
from babelclip.search.server.service import Service
from babelclip.search.thumbnails import LONGEST_SIDE

# Longest side of a picture that is given out. It is always encoded anew: no byte of the file passes.
_PICTURE_SIDE = 2048
_GROUP_ROWS = 100
# A picture can be kept by the browser, and is nothing but a picture whatever the browser is told to see in it.
_PICTURE_HEADERS = {
    "Cache-Control": "private, max-age=3600",
    "Content-Disposition": 'inline; filename="picture.jpg"',
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
}


def router(service: Service) -> APIRouter:
    """Returns the routes."""
    routes = APIRouter(prefix="/v1/collections/{name}/items/{item:path}")
    _add_pictures(routes, service)
    # The item itself comes last: its address is the beginning of all others.
    _add_facts(routes, service)
    return routes


def _add_pictures(routes: APIRouter, service: Service) -> None:
    def file_of(collection: Collection, row: dict[str, Any]) -> bytes:
        most = 8 * service.settings.limits.picture
        return read_picture_file(collection.roots, row["source"], row["path"], most)

    async def may_see(request: Request) -> None:
        """Lets a key pass, or the signature of the very address: what an <img> can send."""
        signature = request.query_params.get("sig", "")
        path = request.scope["raw_path"].decode("latin-1")
        if not (service.settings.protected and service.signer.opens(path, signature)):
            service.check(request, "read")

    @routes.get("/thumbnail", dependencies=[Depends(may_see)], response_class=Response)
    async def thumbnail(name: str, item: str) -> Response:
        """A small JPEG, made when the picture was indexed; now, of the picture, where a row came without one."""

        def read(collection: Collection) -> tuple[bytes | None, bytes]:
            row = _row(collection, item, ["thumbnail", "source", "path"])
            small = plain_jpeg(row["thumbnail"])
            if small is None and not (service.settings.full_pictures and row["source"] in collection.roots):
                raise Problem(404, "not_found", "This item has no thumbnail.")
            return small, b"" if small is not None else file_of(collection, row)

        small, content = await service.read(service.collection(name), "thumbnail", read)
        if small is None:
            small = await service.decoder.jpeg(content, LONGEST_SIDE)
        return Response(small, media_type="image/jpeg", headers=_PICTURE_HEADERS)

    @routes.get("/picture", dependencies=[Depends(may_see)], response_class=Response)
    async def picture(name: str, item: str) -> Response:
        """The picture as JPEG, at most 2048 pixels long, without its metadata."""
        if not service.settings.full_pictures:
            raise Problem(404, "not_found", "This service gives thumbnails only.")
        content = await service.read(
            service.collection(name), "thumbnail", lambda rows: file_of(rows, _row(rows, item, ["source", "path"]))
        )
        jpeg = await service.decoder.jpeg(content, _PICTURE_SIDE)
        return Response(jpeg, media_type="image/jpeg", headers=_PICTURE_HEADERS)


def _add_facts(routes: APIRouter, service: Service) -> None:
    @routes.get("/group", dependencies=[Depends(service.allow("read"))])
    async def group(name: str, item: str, k: int = 40) -> dict[str, Any]:
        """The near duplicates of an item, itself among them."""
        served = service.collection(name)

        def find(collection: Collection) -> list[dict[str, Any]]:
            own = _row(collection, item, ["group"])["group"]
            ids: list[str] = [] if own is not None else [item]
            for batch in collection.scan(where=Eq("group", own), batch_rows=_GROUP_ROWS) if own is not None else ():
                ids += batch.column("id").to_pylist()
                if len(ids) >= min(max(k, 1), _GROUP_ROWS):
                    break
            return answers.hits_by_id(service, served, collection, ids[: min(max(k, 1), _GROUP_ROWS)])

        return {"hits": await service.read(served, "rows", find)}

    @routes.get("", dependencies=[Depends(service.allow("read"))])
    async def item(name: str, item: str) -> dict[str, Any]:
        """One item with all its columns."""
        served = service.collection(name)
        hits = await service.read(
            served, "rows", lambda rows: answers.hits_by_id(service, served, rows, [item], everything=True)
        )
        if not hits:
            raise Problem(404, "not_found", "There is no such item. It may have been removed.")
        return hits[0]


def _row(collection: Collection, item: str, columns: list[str]) -> dict[str, Any]:
    there = [name for name in columns if name in collection.columns]
    rows: list[dict[str, Any]] = collection.get([item], columns=there).to_pylist()
    if not rows:
        raise Problem(404, "not_found", "There is no such item. It may have been removed.")
    return {**dict.fromkeys(columns), **rows[0]}
