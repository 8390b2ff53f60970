"""The routes of clip-retrieval 2.45, so that its client and its page go on working against this service.

Payloads are those of `clip_back.py` there: bodies are JSON whatever their type says, unknown keys are ignored, `text`
goes before `image`, `image_url` and `embedding_input`. Differences, each for a reason:

* rows carry thumbnails and never paths of this host, unless the operator shows paths;
* `use_safety_model` on a collection without a safety column is refused, unless the operator says otherwise;
* an aesthetic score has no effect: its vectors belong to two models only.

Entry point: `router`.
"""

from __future__ import annotations

import base64
import json
import math
from typing import Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from babelclip.search.collection import Collection
from babelclip.search.server import answers
from babelclip.search.server.encoders import QueryEncoder
from babelclip.search.server.jpeg import plain_jpeg
from babelclip.search.server.problems import Problem
from babelclip.search.server.schemas import SearchIn, TermIn
from babelclip.search.server.served import Served
from babelclip.search.server.service import Service
from babelclip.search.server.terms import checked_vector, vectors_of

# The columns that clip-retrieval returns by default, where a collection has them.
_COLUMNS = ("url", "caption", "NSFW")
_MOST_IDS = 1000
_TEXT, _FLAG = {"type": ["string", "null"]}, {"type": ["boolean", "null"]}
_KNN: dict[str, Any] = {
    **{name: _TEXT for name in ("text", "image", "image_url", "indice_name")},
    **{name: _FLAG for name in ("use_mclip", "deduplicate", "use_safety_model", "use_violence_detector")},
    "embedding_input": {"type": ["array", "null"], "items": {"type": "number"}},
    "modality": {"type": "string", "enum": ["image", "text"]},
    "num_images": {"type": "integer", "minimum": 1},
    "num_result_ids": {"type": "integer", "minimum": 1},
    "aesthetic_score": {},
    "aesthetic_weight": {},
}
_METADATA: dict[str, Any] = {
    "indice_name": _TEXT,
    "ids": {"type": "array", "items": {"type": ["integer", "string"]}, "maxItems": _MOST_IDS},
}


def router(service: Service) -> APIRouter:
    """Returns the routes; each wants a key with `read` where the service has keys."""
    routes = APIRouter(tags=["clip-retrieval"])
    reading = [Depends(service.allow("read"))]

    @routes.get("/indices-list", dependencies=reading)
    async def indices() -> list[str]:
        """Names of the collections."""
        return list(service.collections)

    @routes.post("/knn-service", dependencies=reading, openapi_extra={"requestBody": _body_of("KnnIn", _KNN)})
    async def knn(request: Request) -> Response:
        """Nearest rows of a text, picture or vector, as clip-retrieval answers."""
        asked = await _body(request)
        served = _collection(service, asked)
        return JSONResponse(await _nearest(service, served, asked))

    @routes.post("/metadata", dependencies=reading, openapi_extra={"requestBody": _body_of("MetadataIn", _METADATA)})
    async def metadata(request: Request) -> Response:
        """Metadata of rows by id."""
        asked = await _body(request)
        served = _collection(service, asked)
        ids = asked.get("ids")
        if not isinstance(ids, list) or len(ids) > _MOST_IDS or not all(isinstance(one, (str, int)) for one in ids):
            raise Problem(400, "bad_request", f"ids must be a list of at most {_MOST_IDS} ids. Send one.")
        names = [str(one) for one in ids]
        rows = await service.read(served, "rows", lambda collection: _rows(service, collection, names))
        return JSONResponse([{"id": _number(name), "metadata": row} for name, row in rows.items()])

    @routes.get("/config.json", dependencies=reading)
    async def config(request: Request) -> dict[str, str]:
        """What its page asks first: the address to ask (this service, as it was called), and what it offers."""
        first = next(iter(service.collections), "")
        return {"defaultBackend": str(request.base_url).rstrip("/"), "defaultIndex": first, "urlColumn": "url"}

    return routes


def _body_of(title: str, properties: dict[str, Any]) -> dict[str, Any]:
    """Returns what the document says of a body that is read whatever its type says."""
    needed = [name for name in ("indice_name", "modality", "num_images", "ids") if name in properties]
    schema = {"title": title, "type": "object", "properties": properties, "required": needed}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


async def _body(request: Request) -> dict[str, Any]:
    try:
        asked = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise Problem(400, "bad_request", "The body is not JSON. Send an object as ClipClient does.") from None
    if not isinstance(asked, dict):
        raise Problem(400, "bad_request", "The body is not a JSON object. Send one as ClipClient does.")
    return asked


def _collection(service: Service, asked: dict[str, Any]) -> Served:
    if "indice_name" not in asked:
        raise Problem(400, "bad_request", "indice_name is missing. GET /indices-list names them; null is the first.")
    name = asked["indice_name"]
    return service.collection(next(iter(service.collections)) if name is None else str(name))


async def _nearest(service: Service, served: Served, asked: dict[str, Any]) -> list[dict[str, Any]]:
    shown = _whole(asked, "num_images", service.settings.limits.k)
    wanted = max(shown, _whole(asked, "num_result_ids", service.settings.limits.depth, default=shown))
    if asked.get("modality") not in ("image", "text"):
        raise Problem(400, "bad_request", "modality must be image or text. Say which.")
    safety = bool(asked.get("use_safety_model") or asked.get("use_violence_detector"))
    encoder = _encoder(service, served, many=bool(asked.get("use_mclip")))
    terms, texts, _seconds = await vectors_of(service, served, encoder, [_term(served, asked)])

    def find(collection: Collection) -> list[dict[str, Any]]:
        told = service.settings.ignore_safety and answers.safety_filter(collection.columns) is None
        query = SearchIn(k=wanted, dedup=bool(asked.get("deduplicate")), safety=safety and not told)
        question = answers.question_of(collection.columns, query, terms, texts, None, 0)
        found = answers.find_rows(served, collection, question, None)
        rows = _rows(service, collection, [hit.id for hit in found.hits[:shown]], pictures=True)
        return [{"id": _number(hit.id), "similarity": float(hit.score), **rows.get(hit.id, {})} for hit in found.hits]

    return await service.read(served, "search", find)


def _encoder(service: Service, served: Served, *, many: bool) -> QueryEncoder | None:
    """Returns the model that asks: with `many` (`use_mclip`) the one of the space that declares most languages."""
    first = service.encoder_for(served)
    if not many or first is None:
        return first
    fitting = [
        one for one in service.encoders.values() if one.clip.space == first.clip.space and one.clip.text is not None
    ]
    return max(fitting, key=lambda one: len(one.clip.languages), default=first)


def _term(served: Served, asked: dict[str, Any]) -> TermIn:
    """Returns the query: the first of those that are there and not empty."""
    for key, name in (("text", "text"), ("image", "image"), ("image_url", "url")):
        if asked.get(key):
            if not isinstance(asked[key], str):
                raise Problem(400, "bad_request", f"{key} must be a text. Send one.")
            return TermIn(**{name: asked[key]})
    vector = asked.get("embedding_input")
    if not isinstance(vector, list) or not all(isinstance(x, (int, float)) for x in vector):
        raise Problem(400, "bad_request", "One of text, image, image_url and embedding_input is needed. Send one.")
    return TermIn(vector=checked_vector(vector, served.fingerprint.dim).tolist())


def _whole(asked: dict[str, Any], key: str, most: int, default: int | None = None) -> int:
    value = asked.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value:
        raise Problem(400, "bad_request", f"{key} must be a whole number of at least 1. Send one.")
    return min(value, most)


def _rows(
    service: Service, collection: Collection, ids: list[str], pictures: bool = False
) -> dict[str, dict[str, Any]]:
    """Returns id -> columns as clip-retrieval names them; missing values are null, never NaN."""
    own = [name for name in _COLUMNS if name in collection.columns]
    paths = service.settings.show_paths and "path" in collection.columns
    pictures = pictures and "thumbnail" in collection.columns
    asked = [*own, *(["path"] if paths else []), *(["thumbnail"] if pictures else [])]
    rows = {}
    for row in collection.get(ids, columns=asked).to_pylist():
        content = {name: _plain(row[name]) for name in own}
        if paths:
            content["image_path"] = row["path"]
        thumbnail = plain_jpeg(row["thumbnail"]) if pictures else None
        if thumbnail is not None:
            content["image"] = base64.b64encode(thumbnail).decode()
        rows[row["id"]] = content
    return rows


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(name: str) -> int | str:
    """Returns an id as the number it is, where it is one: that page and client know numbers."""
    return int(name) if name.isascii() and name.isdigit() and len(name) < 20 and str(int(name)) == name else name
