"""Routes of `/v1` that find: collections, search, similar items, uploads. Entry point: `router`."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from importlib import resources
from typing import Any

from fastapi import APIRouter, Depends
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from babelclip.search.collection import Collection
from babelclip.search.filters import Filter, from_json
from babelclip.search.server import answers
from babelclip.search.server.encoders import QueryEncoder
from babelclip.search.server.problems import Problem
from babelclip.search.server.query_language import detect
from babelclip.search.server.schemas import SearchIn, TermIn
from babelclip.search.server.served import Served
from babelclip.search.server.service import Service
from babelclip.search.server.terms import all_terms, checked_language, seal_upload, vectors_of

_EXAMPLES = 6
_PICTURE_BODY = {"required": True, "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}


def router(service: Service) -> APIRouter:
    """Returns the routes; each wants a key with `read` where the service has keys."""
    routes = APIRouter(prefix="/v1", dependencies=[Depends(service.allow("read"))])

    @routes.get("/collections")
    async def collections() -> dict[str, Any]:
        """All collections with what can be asked of them."""
        return {"collections": [await _info(service, served) for served in service.collections.values()]}

    @routes.get("/collections/{name}")
    async def collection(name: str) -> dict[str, Any]:
        """One collection."""
        return await _info(service, service.collection(name))

    @routes.post("/collections/{name}/search")
    async def search(name: str, asked: SearchIn, request: Request) -> Response:
        """Pictures for weighted terms in any language; NDJSON where `Accept` asks for it."""
        answer = await _search(service, service.collection(name), asked)
        if "application/x-ndjson" in request.headers.get("accept", ""):
            return StreamingResponse(_lines(answer), media_type="application/x-ndjson")
        return json_response(answer)

    @routes.get("/collections/{name}/items/{item:path}/similar")
    async def similar(name: str, item: str, k: int = 40, cursor: str | None = None) -> Response:
        """Pictures like one of the collection."""
        asked = SearchIn(terms=[TermIn(id=item)], k=max(1, k), cursor=cursor)
        return json_response(await _search(service, service.collection(name), asked))

    @routes.post("/uploads", openapi_extra={"requestBody": _PICTURE_BODY})
    async def uploads(request: Request) -> dict[str, Any]:
        """Takes a picture's bytes and gives a text that stands for it in searches; nothing is kept."""
        # One of each space: the picture may be asked for in any collection.
        encoders = {one.clip.space: one for one in reversed(service.encoders.values()) if one.clip.image is not None}
        if not encoders:
            raise Problem(400, "no_image_encoder", "The service has no picture encoder. Ask with words.")
        content, most = await request.body(), service.settings.limits.picture
        if not content or len(content) > most:
            raise Problem(
                413 if content else 400,
                "too_large" if content else "bad_request",
                f"The body has {len(content):,} bytes; a picture file of 1 to {most:,} bytes is needed. Send one.",
            )
        seen = {space: await encoder.picture(content) for space, encoder in encoders.items()}
        _vector, width, height = next(iter(seen.values()))
        upload = seal_upload(service, {space: vector for space, (vector, _width, _height) in seen.items()})
        return {"upload": upload, "width": width, "height": height}

    return routes


async def _search(service: Service, served: Served, asked: SearchIn) -> dict[str, Any]:
    start = time.perf_counter()
    limits = service.settings.limits
    if asked.k > limits.k:
        raise Problem(422, "bad_request", f"k is {asked.k}; at most {limits.k} rows are given at once. Use the cursor.")
    encoder = service.encoder_for(served, asked.encoder)
    version, offset = _from_cursor(service, served, asked)
    given = all_terms(service, asked)
    terms, texts, encoding = await vectors_of(service, served, encoder, given)
    encoded = time.perf_counter()
    spread = await service.spread(served, encoder)

    def find(collection: Collection) -> tuple[int, bool, list[dict[str, Any]]]:
        where = _filter(service, service.visible(collection), asked.where)
        question = answers.question_of(service.visible(collection), asked, terms, texts, where, offset)
        found = answers.find_rows(served, collection, question, spread)
        return collection.version(), found.more, answers.hits_of(service, served, collection, found, question.columns)

    light = offset + asked.k <= limits.k
    version, more, hits = await service.read(served, "search", find, version, light=light)
    more = more and offset + asked.k < limits.depth
    done = time.perf_counter()
    language = _language(encoder, given)
    service.metrics.observe("language", time.perf_counter() - done)
    return {
        "collection": served.name,
        "version": version,
        "hits": hits,
        "cursor": _to_cursor(service, served, asked, version, offset + asked.k) if more else None,
        "language": language,
        "seconds": {
            "encode": round(encoding, 6),
            "search": round(done - encoded, 6),
            "total": round(done - start, 6),
        },
        "notes": [],
    }


def json_response(content: dict[str, Any]) -> Response:
    """Returns content as JSON, written by pydantic's encoder, which takes a fifth of the standard one's time."""
    return Response(to_json(content, inf_nan_mode="null"), media_type="application/json")


async def _lines(answer: dict[str, Any]) -> AsyncIterator[bytes]:
    for hit in answer["hits"]:
        yield json.dumps(hit, ensure_ascii=False).encode() + b"\n"
    end = {name: value for name, value in answer.items() if name != "hits"}
    yield json.dumps({"end": end}, ensure_ascii=False).encode() + b"\n"


async def _info(service: Service, served: Served) -> dict[str, Any]:
    encoder = service.encoder_for(served)
    clip = encoder.clip if encoder is not None else None
    spoken = list(clip.languages) if clip is not None else []

    spread = await service.spread(served, encoder) if encoder is not None else None

    def facts(collection: Collection) -> dict[str, Any]:
        stats = collection.stats()
        return {
            "name": served.name,
            "rows": stats.rows,
            "version": collection.version(),
            "space": served.fingerprint.space,
            "embed_dim": served.fingerprint.dim,
            "text_encoder": encoder.name if encoder is not None and encoder.clip.text is not None else None,
            "image_encoder": clip is not None and clip.image is not None,
            "languages": spoken,
            "columns": service.visible(collection),
            "filterable": served.filterable(),
            "calibrated": spread is not None,
            "index": stats.index,
            "example_queries": _examples(tuple(spoken)),
        }

    return await service.read(served, "rows", facts)


def _examples(spoken: tuple[str, ...]) -> list[dict[str, str]]:
    """Returns queries to try, of languages that the model speaks; all of them may do where it does not say."""
    lines = resources.files("babelclip.search.server").joinpath("examples.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    fitting = [{"lang": lang, "text": text} for lang, text in rows if not spoken or lang in spoken]
    return fitting[:_EXAMPLES]


def _language(encoder: QueryEncoder | None, terms: list[TermIn]) -> Mapping[str, Any] | None:
    first = next((term for term in terms if term.text is not None), None)
    if first is None or encoder is None:
        return None
    if first.lang:
        from babelclip import languages

        code = checked_language(first.lang)
        return {"code": code, "name": languages.name(code), "sure": True}
    return detect(first.text or "", tuple(encoder.clip.languages))


def _filter(service: Service, columns: Mapping[str, str], content: dict[str, Any] | None) -> Filter | None:
    if content is None:
        return None
    most = service.settings.limits.filter_parts
    if _conditions(content) > most:
        raise Problem(422, "bad_request", f"The filter has more than {most} conditions. Ask for fewer.")
    return from_json(content, columns)


def _conditions(content: Any) -> int:
    """Returns how many objects and list entries a filter has; depth is bounded by the gate and by `from_json`."""
    if isinstance(content, dict):
        return 1 + sum(_conditions(value) for value in content.values() if isinstance(value, (dict, list)))
    return sum(_conditions(value) if isinstance(value, (dict, list)) else 1 for value in content)


# A cursor says which rows come next, of which version, for which question. It is signed, so it can be trusted.
def _digest(asked: SearchIn) -> str:
    content = asked.model_dump_json(exclude={"cursor", "columns"}, exclude_defaults=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _to_cursor(service: Service, served: Served, asked: SearchIn, version: int, offset: int) -> str:
    return service.signer.seal("cursor", {"c": served.name, "q": _digest(asked), "v": version, "o": offset})


def _from_cursor(service: Service, served: Served, asked: SearchIn) -> tuple[int, int]:
    """Returns version and offset; (0, 0) at the start."""
    if asked.cursor is None:
        return 0, 0
    content = service.signer.unseal("cursor", asked.cursor)
    if content is None or content["c"] != served.name or content["q"] != _digest(asked):
        raise Problem(400, "bad_request", "The cursor belongs to another question, or is not ours. Search again.")
    return int(content["v"]), int(content["o"])
