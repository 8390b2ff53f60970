"""From the terms of a request to the rows of its answer. Everything here runs in a thread.

Entry points: `find_rows`, `hits_of`, `hits_by_id`.
"""

from __future__ import annotations

import math
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from babelclip.search.collection import Collection
from babelclip.search.columns import check_columns
from babelclip.search.filters import And, Eq, Filter, In, Range
from babelclip.search.memory import MemoryCollection
from babelclip.search.query import Hit, Term, find_vector, query_vector
from babelclip.search.query_background import Background
from babelclip.search.server.problems import Problem
from babelclip.search.server.schemas import SearchIn
from babelclip.search.server.served import Served
from babelclip.search.server.service import Service

# What every hit shows.
SHOWN = ("caption", "lang", "width", "height", "colour", "group")
# Names under which a collection may say whether a picture is fit for everybody, and text values that say it is.
_SAFETY = ("nsfw", "NSFW", "unsafe")
_SAFE_WORDS = ("UNLIKELY", "unlikely", "safe", "SAFE")
_UNSAFE_FROM = 0.5
_NORMAL = NormalDist()
# Scores of unrelated queries are near a normal curve; beyond this many deviations shares are not told apart.
_FARTHEST = 6.0
_HALF = math.sqrt(0.5)


@dataclass(frozen=True)
class Question:
    """A search as it is run.

    Attributes:
        terms: at least one; none looks through the collection.
        texts: (N, D) vectors of the text terms, in their order.
        k: rows of a page.
        offset: rows before it.
        where: filter.
        min_score: least cosine.
        cut: share of unrelated queries' scores that a hit must pass.
        dedup: fold near duplicates.
        group_by: a column, "" for none.
        columns: asked for beside `SHOWN`.
    """

    terms: Sequence[Term]
    texts: np.ndarray
    k: int
    offset: int = 0
    where: Filter | None = None
    min_score: float | None = None
    cut: float | None = None
    dedup: bool = True
    group_by: str = ""
    columns: Sequence[str] = ()


@dataclass(frozen=True)
class Found:
    """A page of hits.

    Attributes:
        hits: best first.
        more: whether there may be rows behind them.
    """

    hits: Sequence[Hit]
    more: bool


def question_of(
    columns: Mapping[str, str],
    asked: SearchIn,
    terms: Sequence[Term],
    texts: np.ndarray,
    where: Filter | None,
    offset: int,
) -> Question:
    """Returns the question of a request.

    Args:
        columns: that requests may name, name -> type.
        asked: the request.
        terms: of the query.
        texts: (N, D) vectors of those that are texts.
        where: its filter.
        offset: rows before the page.

    Raises:
        Problem: safety is asked for, and the collection knows nothing of it.
        BabelclipError: a column is unknown.
    """
    names = check_columns(asked.columns, columns)
    if asked.group_by:
        check_columns([asked.group_by], columns)
    if asked.safety:
        safe = safety_filter(columns)
        if safe is None:
            # A filter that does not work must not look as if it did.
            raise Problem(400, "no_safety", "The collection has no safety column (nsfw), so safety cannot be had here.")
        where = safe if where is None else And((where, safe))
    return Question(
        terms, texts, asked.k, offset, where, asked.min_score, asked.cut, asked.dedup, asked.group_by or "", names
    )


def find_rows(served: Served, collection: Collection, question: Question, spread: Background | None) -> Found:
    """Returns the page of rows that a question finds.

    Raises:
        Problem: a relative cut is asked for where nothing is known of unrelated queries.
        BabelclipError: an item is unknown, or the terms cancel each other out.
    """
    if not question.terms:
        return _browsed(served, collection, question)
    if question.cut and spread is None:
        raise Problem(400, "bad_request", "A cut needs a text and a picture encoder here. Use min_score, a cosine.")
    query = query_vector(collection, question.terms, lambda _texts: question.texts, lambda _none: question.texts[:0])
    found = find_vector(
        collection,
        query,
        question.k,
        where=question.where,
        min_score=question.min_score,
        min_z=_NORMAL.inv_cdf(question.cut) if question.cut else None,
        dedup=question.dedup,
        group_by=question.group_by,
        columns=_columns(collection, question),
        offset=question.offset,
        spread=spread,
        group_sizes=served.group_sizes(collection) if question.dedup and question.where is None else None,
    )
    return Found(found.rows, not found.exhausted)


def _browsed(served: Served, collection: Collection, question: Question) -> Found:
    """Returns rows without a query: the newest first, as far as their time is known."""
    ids = served.in_order(collection, question.where)
    page = ids[question.offset : question.offset + question.k]
    names = _columns(collection, question)
    rows = collection.get(page, columns=list(dict.fromkeys(["caption", *names]))).to_pylist()
    hits = [
        Hit(row["id"], float("nan"), None, row.get("caption"), None, None, 0, {name: row.get(name) for name in names})
        for row in rows
    ]
    return Found(hits, question.offset + question.k < len(ids))


def _columns(collection: Collection, question: Question) -> list[str]:
    """Returns the columns to read with the rows; what a copy in memory shows, `hits_of` reads of the few new ones."""
    shown = () if isinstance(collection, MemoryCollection) else SHOWN
    return [name for name in dict.fromkeys((*shown, *question.columns)) if name in collection.columns]


def safety_filter(columns: Mapping[str, str]) -> Filter | None:
    """Returns the condition that a row is said to be safe; None where the collection does not say.

    A row without a value is not said to be safe, so it is left out.
    """
    for name in _SAFETY:
        kind = columns.get(name)
        if kind == "bool":
            return Eq(name, False)
        if kind in ("float", "int"):
            return Range(name, high=_UNSAFE_FROM if kind == "float" else 0, with_high=kind == "int")
        if kind == "text":
            return In(name, _SAFE_WORDS)
    return None


def hits_of(
    service: Service, served: Served, collection: Collection, found: Found, asked: Sequence[str]
) -> list[dict[str, Any]]:
    """Returns hits as JSON content; `asked` are the columns beside those that every hit has."""
    # What a row shows whatever the question: most of a hit, and most of the work.
    kept = served.shown(collection)
    new = [hit for hit in found.hits if hit.id not in kept]
    frame = _frame(service, served, collection, [hit.id for hit in new])
    _keep_shown(kept, frame, collection, new)
    made = []
    for hit in found.hits:
        content = _addressed(frame, kept[hit.id])
        if hit.score == hit.score:
            content["score"] = round(hit.score, 6)
        if hit.z is not None:
            content["relative"] = relative(hit.z)
        content["similar"] = hit.similar
        if asked:
            content["columns"] = {name: _plain(hit.values.get(name)) for name in asked}
        made.append(content)
    return made


def _keep_shown(kept: dict[str, dict[str, Any]], frame: _Frame, collection: Collection, hits: Sequence[Hit]) -> None:
    """Notes what the rows of hits show whatever the question."""
    if isinstance(collection, MemoryCollection) and hits:
        names = [name for name in SHOWN if name in collection.columns]
        for row in collection.get([hit.id for hit in hits], columns=names).to_pylist():
            kept[row["id"]] = _shown(frame, row)
        return
    for hit in hits:
        kept[hit.id] = _shown(frame, {**hit.values, "id": hit.id, "caption": hit.caption})


def hits_by_id(
    service: Service, served: Served, collection: Collection, ids: Sequence[str], *, everything: bool = False
) -> list[dict[str, Any]]:
    """Returns items as JSON content, in the order of `ids`; absent ones are left out.

    Args:
        service: what the routes share.
        served: name of the collection in addresses.
        collection: the version to read.
        ids: of items.
        everything: all columns that can be shown, not only those of a hit.
    """
    hidden = {"id", "sha256", "source_row", *SHOWN}
    own = [name for name in service.visible(collection) if name not in hidden] if everything else []
    names = [name for name in dict.fromkeys((*SHOWN, *own)) if name in collection.columns]
    rows = collection.get(ids, columns=names).to_pylist()
    frame = _frame(service, served, collection, ids)
    return [
        {**_addressed(frame, _shown(frame, row)), "columns": {name: _plain(row.get(name)) for name in own}}
        for row in rows
    ]


@dataclass(frozen=True)
class _Frame:
    """What all hits of an answer share: how their addresses begin, which of them there are, and what signs them."""

    place: str
    thumbnails: bool
    pictures: bool
    sign: Callable[[str], str] | None


def _frame(service: Service, served: Served, collection: Collection, ids: Sequence[str]) -> _Frame:
    """Returns the frame of hits; `ids` are the rows that it is new to."""
    pictures = service.settings.full_pictures and bool(collection.roots)
    return _Frame(
        f"/v1/collections/{urllib.parse.quote(served.name, safe='')}/items/",
        # Where a row has none, its picture gives one (`item_routes`).
        pictures or (bool(ids) and served.has_thumbnails(collection, ids)),
        pictures,
        service.picture_address if service.settings.protected else None,
    )


def _shown(frame: _Frame, row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a row as the JSON content of a hit that nothing was asked for."""
    name = row["id"]
    # "." and ".." would be taken out of an address on the way, and a slash belongs to an id like any other sign.
    place = frame.place + urllib.parse.quote(name, safe="").replace(".", "%2E")
    colour = row.get("colour")
    return {
        "id": name,
        "score": None,
        "relative": None,
        "caption": row.get("caption"),
        "lang": row.get("lang"),
        "width": row.get("width"),
        "height": row.get("height"),
        "colour": None if colour is None else f"#{colour & 0xFFFFFF:06x}",
        "thumbnail": f"{place}/thumbnail" if frame.thumbnails else None,
        "picture": f"{place}/picture" if frame.pictures else None,
        "similar": 0,
        "group": row.get("group"),
        "columns": {},
    }


def _addressed(frame: _Frame, shown: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy whose addresses can be opened: signed, for some time, where keys are needed."""
    content = {**shown}
    if frame.sign is not None:
        for name in ("thumbnail", "picture"):
            content[name] = shown[name] and frame.sign(shown[name])
    return content


def relative(z: float) -> float:
    """Returns the share of unrelated queries' scores that one `z` deviations above their mean passes, 0 to 1."""
    if z > _FARTHEST:
        z = _FARTHEST
    elif z < -_FARTHEST:
        z = -_FARTHEST
    return round(0.5 * math.erfc(-z * _HALF), 6)  # as NormalDist().cdf, at a third of its time


def _plain(value: Any) -> Any:
    """Returns a value as JSON has it: times as ISO text, numbers that are none as null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.isoformat() if hasattr(value, "isoformat") else value
