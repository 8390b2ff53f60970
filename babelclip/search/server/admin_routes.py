"""Routes that change a collection: add, delete, optimize; and the jobs they make. Entry point: `router`."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pyarrow as pa
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import StreamingResponse

from babelclip.errors import BabelclipError
from babelclip.search.collection import Collection, open_collection
from babelclip.search.columns import FIXED, schema_of
from babelclip.search.filters import Filter, from_json
from babelclip.search.index_state import Waiting, lock_collection
from babelclip.search.server.jobs import Jobs
from babelclip.search.server.problems import Problem
from babelclip.search.server.schemas import AddIn, DeleteIn
from babelclip.search.server.served import Served
from babelclip.search.server.service import Service
from babelclip.search.server.terms import checked_language, picture_bytes
from babelclip.search.server.tokens import Key

# Rows that come over HTTP belong to a source of their own, so that indexing folders anew leaves them alone.
_SOURCE = "http"
_BEAT = 15.0


def router(service: Service, jobs: Jobs) -> APIRouter:
    """Returns the routes; adding wants a key with `write`, all else one with `admin`."""
    routes = APIRouter(prefix="/v1")
    _add_adding(routes, service, jobs)
    _add_removing(routes, service, jobs)
    _add_jobs(routes, service, jobs)
    return routes


def _add_adding(routes: APIRouter, service: Service, jobs: Jobs) -> None:
    writing = Depends(service.allow("write"))

    @routes.post("/collections/{name}/items", status_code=202)
    async def add(name: str, asked: AddIn, key: Key = writing) -> dict[str, Any]:
        """Adds or replaces a picture."""
        served = service.collection(name)
        encoder = service.encoder_for(served)
        if encoder is None:
            raise Problem(
                400, "no_image_encoder", "The service has no picture encoder of this space. Use babelclip index."
            )
        content = picture_bytes(service, asked.image)
        columns = await service.read(served, "rows", lambda collection: dict(collection.columns))
        unknown = [column for column in asked.columns if column not in columns or column in FIXED]
        if unknown:
            raise Problem(
                422, "bad_request", f"The collection has no own columns {', '.join(unknown)[:200]}. Leave them out."
            )

        lang = checked_language(asked.lang) or None

        async def work() -> tuple[int, str]:
            vector, look = await encoder.row(content)
            row = {
                "id": asked.id or f"{_SOURCE}:{hashlib.sha256(content).hexdigest()[:32]}",
                "vector": vector.tolist(),
                "source": _SOURCE,
                "caption": asked.caption,
                "lang": lang,
                "width": look.width,
                "height": look.height,
                "bytes": look.size,
                "sha256": look.sha256,
                "colour": look.colour,
                "thumbnail": look.thumbnail,
                **asked.columns,
            }
            rows = await _changing(service, served, lambda collection: _upsert(collection, row))
            return rows, f"item {row['id']}"

        return (await jobs.add("add", name, key.name, work)).facts()


def _add_removing(routes: APIRouter, service: Service, jobs: Jobs) -> None:
    admin = Depends(service.allow("admin"))

    @routes.delete("/collections/{name}/items", status_code=202)
    async def delete(name: str, asked: DeleteIn, key: Key = admin) -> dict[str, Any]:
        """Deletes rows for good: they are not found from then on, and leave the disk too unless `forget` is false."""
        served = service.collection(name)
        if asked.ids is None and asked.where is None:
            raise Problem(
                422, "bad_request", "Neither ids nor where is given; one is needed. Everything is not deleted so."
            )
        where: Filter | None = None
        if asked.where is not None:
            columns = await service.read(served, "rows", lambda collection: dict(collection.columns))
            where = from_json(asked.where, columns)

        def change(collection: Collection) -> int:
            rows = collection.delete(ids=asked.ids, where=where)
            if asked.forget:
                collection.optimize(keep_versions_for=0)
                _forget_waiting(collection)
            return rows

        async def work() -> tuple[int, str]:
            rows = await _changing(service, served, change)
            return rows, "deleted" + (", and removed from the disk" if asked.forget else "")

        return (await jobs.add("delete", name, key.name, work)).facts()

    @routes.post("/collections/{name}/optimize", status_code=202)
    async def optimize(name: str, key: Key = admin) -> dict[str, Any]:
        """Compacts the collection, takes new rows into its index, and removes versions older than an hour."""
        served = service.collection(name)

        def change(collection: Collection) -> int:
            collection.optimize()
            return 0

        async def work() -> tuple[int, str]:
            return await _changing(service, served, change), "optimized"

        return (await jobs.add("optimize", name, key.name, work)).facts()


def _forget_waiting(collection: Collection) -> None:
    """Takes deleted ids out of the list of those that wait for their near duplicates."""
    try:
        give_back = lock_collection(collection.url)
    except BabelclipError:
        return  # pictures are being indexed; at its end the run empties the list itself
    try:
        waiting = Waiting(collection.url)
        ids = waiting.ids()
        there = set(collection.get(ids)["id"].to_pylist())
        if len(there) < len(ids):
            waiting.clear()
            waiting.add(name for name in ids if name in there)
    finally:
        give_back()


def _add_jobs(routes: APIRouter, service: Service, jobs: Jobs) -> None:
    admin = Depends(service.allow("admin"))

    @routes.get("/jobs", dependencies=[admin])
    async def all_jobs() -> dict[str, Any]:
        """Jobs, the newest first."""
        return {"jobs": [job.facts() for job in jobs.all()]}

    @routes.get("/jobs/{job}", dependencies=[admin])
    async def one_job(job: str) -> dict[str, Any]:
        """One job."""
        return jobs.find(job).facts()

    @routes.get("/jobs/{job}/events", dependencies=[admin])
    async def events(job: str, request: Request) -> StreamingResponse:
        """The states of a job as they come (server-sent events), until it has ended."""
        jobs.find(job)
        return StreamingResponse(_events(jobs, job, request), media_type="text/event-stream")


async def _events(jobs: Jobs, name: str, request: Request) -> AsyncIterator[str]:
    said, at = "", 0.0
    while not await request.is_disconnected():
        job = jobs.find(name)
        now, moment = json.dumps(job.facts()), time.monotonic()
        if now != said or moment - at >= _BEAT:
            # A line that is a comment keeps proxies from closing a silent connection.
            yield f"data: {now}\n\n" if now != said else ": still there\n\n"
            said, at = now, moment
        if job.ended:
            return
        await jobs.changed(_BEAT)


async def _changing(service: Service, served: Served, change: Callable[[Collection], int]) -> int:
    """Runs `change` on the collection, opened for writing for as long as it takes."""

    def work() -> int:
        collection = open_collection(served.url, write=True)
        try:
            return change(collection)
        finally:
            collection.close()

    rows = await service.in_thread("write", work)
    served.expire()
    return rows


def _upsert(collection: Collection, row: dict[str, Any]) -> int:
    schema = schema_of(collection.columns, collection.fingerprint.dim)
    names = [name for name in schema.names if name in row]
    try:
        arrays = [pa.array([row[name]], schema.field(name).type) for name in names]
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise BabelclipError(
            "A value does not fit the type of its column. GET /v1/collections tells the types."
        ) from error
    collection.upsert(pa.table(arrays, schema=pa.schema([schema.field(name) for name in names])))
    return 1
