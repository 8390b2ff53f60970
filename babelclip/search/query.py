"""Queries: terms of any kind into one vector, and the rows of a collection that fit it, without duplicates.

A query vector is the sum of the unit vectors of its terms by their weights, made a unit vector again. Near duplicates
and groups are collapsed after the search, so more is fetched until k rows are left or the collection ends.

Entry points: `find` (terms), `find_vector` (a vector that the caller made, as the service does), `parse_query`, `Term`.
Row letters: K results, D embed_dim.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from babelclip.errors import BabelclipError, shown
from babelclip.models.clip import Clip
from babelclip.models.preprocess import Picture
from babelclip.search.candidates import Candidates, candidates_of, collapsed
from babelclip.search.collection import Collection
from babelclip.search.columns import VECTOR, vectors_of
from babelclip.search.filters import And, Filter, In, parse_where
from babelclip.search.query_background import Background, background
from babelclip.search.query_terms import Term, normal, parse_query

__all__ = ["Hit", "QueryVector", "Results", "Term", "find", "find_vector", "parse_query", "query_vector"]

Vector = npt.NDArray[np.float32]
# Rows that are looked at before a page is given up as full of duplicates.
MOST = 10_000
# What every hit has beside id and score.
_SHOWN = ("source", "path", "caption", "lang", "group", "sha256")


class Hit(NamedTuple):
    """One result.

    Attributes:
        id: of the item.
        score: cosine with the query.
        z: how far the score lies above those of unrelated queries, in standard deviations; None where that is not
            known.
        caption: None without one.
        path: relative to the folder of its source.
        source: name of the source.
        similar: how many others of its near-duplicate group, or with its value of `group_by`, it stands for.
        values: the columns that were asked for.
    """

    id: str
    score: float
    z: float | None
    caption: str | None
    path: str | None
    source: str | None
    similar: int
    values: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Results:
    """What a query found, best first.

    Attributes:
        rows: at most k.
        version: of the collection that was searched.
        exhausted: whether there is nothing behind them, as far as is looked (`MOST`).
    """

    rows: list[Hit]
    version: int
    exhausted: bool


@dataclasses.dataclass(frozen=True)
class QueryVector:
    """A query as a vector, and what it was made of.

    Attributes:
        vector: (D,) float32 of length 1.
        parts: (kind, share) of each term, kind "text" or "image": the vector is the sum of unit vectors by these.
        ids: items that are part of the query with a positive weight; results leave them out.
    """

    vector: Vector
    parts: tuple[tuple[str, float], ...] = (("image", 1.0),)
    ids: tuple[str, ...] = ()


def query_vector(
    collection: Collection,
    terms: Sequence[Term],
    encode_text: Callable[[list[str]], npt.NDArray[np.float32]],
    encode_image: Callable[[list[Picture]], npt.NDArray[np.float32]],
) -> QueryVector:
    """Returns the vector of a query.

    Args:
        collection: where items are looked up.
        terms: at least one.
        encode_text: texts in NFC to vectors (N, D); called once, with all texts.
        encode_image: pictures to vectors (N, D); called once, and only if there are any.

    Raises:
        BabelclipError: there is no term, an item is not in the collection, or the terms cancel each other out.
    """
    if not terms:
        raise BabelclipError("The query is empty. Give words, a picture, an item or a vector.")
    texts = [normal(term.text) for term in terms if term.text is not None]
    pictures = [term.image for term in terms if term.image is not None]
    items = [term.id for term in terms if term.id is not None]
    encoded: Iterator[Vector] = iter(encode_text(texts) if texts else [])
    seen: Iterator[Vector] = iter(encode_image(pictures) if pictures else [])
    stored = _items(collection, items) if items else {}
    total = np.zeros(collection.fingerprint.dim, np.float64)
    for term in terms:
        if term.text is not None or term.image is not None:
            part = next(encoded if term.text is not None else seen)
        else:
            part = stored[term.id] if term.id is not None else np.asarray(term.vector, np.float32)
        total += term.weight * _unit(part, len(total))
    length = float(np.linalg.norm(total))
    if length < 1e-6:
        raise BabelclipError("The terms of the query cancel each other out. Leave one out, or give them other weights.")
    return QueryVector(
        (total / length).astype(np.float32),
        tuple((term.kind, term.weight / length) for term in terms),
        tuple(term.id for term in terms if term.id is not None and term.weight > 0),
    )


def find(
    collection: Collection,
    clip: Clip | None,
    terms: Sequence[Term] | str,
    k: int = 10,
    *,
    where: Filter | str | None = None,
    min_score: float | None = None,
    min_z: float | None = None,
    dedup: bool = True,
    group_by: str = "",
    columns: Sequence[str] = (),
    offset: int = 0,
    exact: bool = False,
) -> Results:
    """Returns the best `k` rows for a query, best first; fewer only where the collection has no more.

    Args:
        collection: what is searched.
        clip: encodes texts and pictures; None where there are only items and vectors.
        terms: terms, or a line of text (`query_terms.py`).
        k: results.
        where: only rows that fulfil it; text is parsed by `filters.parse_where`.
        min_score: leave out what has a smaller cosine.
        min_z: leave out what lies fewer standard deviations above the scores of unrelated queries. Scores of texts and
            of pictures differ, and from model to model, so this carries over where a cosine does not.
        dedup: of near duplicates, keep the best and count the others in `similar`.
        group_by: a column; of rows with one value, keep the best.
        columns: in `Hit.values`.
        offset: results to leave out before the first, for the next page.
        exact: compare with every row, without the index.

    Raises:
        SpaceMismatchError: the model is of another space than the collection.
        BabelclipError: the query is empty, an item or column is unknown, or a number makes no sense.
    """
    terms = parse_query(terms) if isinstance(terms, str) else list(terms)
    if clip is not None:
        collection.fingerprint.check_space(clip.space, f"collection {collection.name} and model {clip.name}")
    elif any(term.id is None and term.vector is None for term in terms):
        raise BabelclipError("The query has a text or a picture, and no model to encode it was given. Give clip=.")
    query = query_vector(
        collection,
        terms,
        lambda texts: _model(clip).encode_text(texts),
        lambda pictures: _model(clip).encode_image(pictures),
    )
    spread = background(collection, clip) if clip is not None and clip.text is not None else None
    return find_vector(
        collection,
        query,
        k,
        where=where,
        min_score=min_score,
        min_z=min_z,
        dedup=dedup,
        group_by=group_by,
        columns=columns,
        offset=offset,
        exact=exact,
        spread=spread,
    )


def find_vector(
    collection: Collection,
    query: QueryVector,
    k: int = 10,
    *,
    where: Filter | str | None = None,
    min_score: float | None = None,
    min_z: float | None = None,
    dedup: bool = True,
    group_by: str = "",
    columns: Sequence[str] = (),
    offset: int = 0,
    exact: bool = False,
    spread: Background | None = None,
    most: int = MOST,
    group_sizes: Mapping[str, int] | None = None,
) -> Results:
    """Returns the best `k` rows for a vector; see `find`.

    Args:
        collection: what is searched.
        query: from `query_vector`, or a vector of one's own.
        k: results.
        where: see `find`; so are `min_score`, `min_z`, `dedup`, `group_by`, `columns`, `offset` and `exact`.
        min_score: least cosine.
        min_z: least distance to unrelated queries, which needs `spread`.
        dedup: collapse near duplicates.
        group_by: a column.
        columns: in `Hit.values`.
        offset: results to leave out.
        exact: without the index.
        spread: scores of unrelated queries (`query_background.background`); gives `Hit.z`.
        most: rows that are fetched at most.
        group_sizes: rows of each near-duplicate group, where the caller knows them: counting takes as long as a search.

    Raises:
        BabelclipError: a column is unknown, a number makes no sense, or `min_z` is given without `spread`.
    """
    if k < 1 or offset < 0:
        raise BabelclipError(f"k={k} and offset={offset}: ask for at least 1 result, from 0 on.")
    if any(value is not None and value != value for value in (min_score, min_z)):
        raise BabelclipError("min_score or min_z is NaN, which no score reaches. Give a number, or leave it out.")
    condition = parse_where(where, collection.columns) if isinstance(where, str) else where
    least, mean, std = _cut(query, min_score, min_z, spread)
    names = [*dict.fromkeys([*_SHOWN, *columns, *([group_by] if group_by else [])])]
    names = [name for name in names if name in collection.columns or name in columns or name == group_by]
    # One row more than the page tells whether there is anything behind it.
    wanted, fetch = offset + k, offset + k + 1 + len(query.ids)
    fetch += fetch // 2 if dedup or group_by else 0
    while True:
        fetch = min(fetch, max(most, wanted))
        found = candidates_of(
            collection, query.vector, fetch, where=condition, columns=names, with_vectors=dedup, exact=exact
        )
        ended = len(found.ids) < fetch or bool(found.scores and found.scores[-1] < least)
        kept = collapsed(found, query.ids, least, dedup=dedup, group_by=group_by)
        if len(kept) > wanted or ended or fetch >= most:
            break
        fetch *= 2
    page = kept[offset : offset + k]
    groups = [found.columns["group"][row] for row, _others in page] if "group" in found.columns else [None] * len(page)
    totals: Mapping[str, int] = (
        group_sizes
        if group_sizes is not None and condition is None
        else _group_sizes(collection, condition, [group for group in groups if group] if dedup else [])
    )
    similar = [
        max(others, totals[group] - 1 if group else 0) for (_row, others), group in zip(page, groups, strict=True)
    ]
    hits = _hits(found, [row for row, _others in page], similar, columns, None if std is None else (mean, std))
    # Where `most` rows were looked at, further pages look at no others until they begin behind these.
    return Results(hits, collection.version(), len(kept) <= wanted and (ended or wanted < most))


def _hits(
    found: Candidates,
    places: Sequence[int],
    similar: Sequence[int],
    columns: Sequence[str],
    spread: tuple[float, float] | None,
) -> list[Hit]:
    """Returns rows of what was found as hits; `spread` is mean and deviation of unrelated scores."""
    none = [None] * len(found.ids)
    captions, paths, sources = (found.columns.get(name, none) for name in ("caption", "path", "source"))
    asked = [(name, found.columns.get(name, none)) for name in columns]
    mean, std = spread or (0.0, 0.0)
    return [
        Hit(
            found.ids[row],
            score := found.scores[row],
            (score - mean) / std if spread else None,
            captions[row],
            paths[row],
            sources[row],
            others,
            {name: values[row] for name, values in asked},
        )
        for row, others in zip(places, similar, strict=True)
    ]


def _cut(
    query: QueryVector, min_score: float | None, min_z: float | None, spread: Background | None
) -> tuple[float, float, float | None]:
    """Returns the least score of results, and mean and deviation of unrelated scores (None where not known)."""
    least = -2.0 if min_score is None else min_score
    if spread is None:
        if min_z is not None:
            raise BabelclipError(
                "min_z was given, and it is not known how unrelated queries score here. Give a model with both towers, "
                "or min_score, a cosine."
            )
        return least, 0.0, None
    mean, std = spread.of(query.parts)
    return (least if min_z is None else max(least, mean + min_z * std)), mean, std


def _group_sizes(collection: Collection, where: Filter | None, groups: Sequence[str]) -> Counter[str]:
    sizes: Counter[str] = Counter()
    if groups:
        members: Filter = In("group", tuple(dict.fromkeys(groups)))
        for batch in collection.scan(columns=["group"], where=members if where is None else And((members, where))):
            sizes.update(batch["group"].to_pylist())
    return sizes


def _items(collection: Collection, ids: Sequence[str]) -> dict[str, Vector]:
    rows = collection.get(list(dict.fromkeys(ids)), with_vectors=True)
    found = dict(zip(rows["id"].to_pylist(), vectors_of(rows[VECTOR]), strict=True)) if len(rows) else {}
    for name in ids:
        if name not in found:
            raise BabelclipError(
                f"{shown(name)!r} is no item of {collection.name}. Give the id of a result; one that was indexed anew "
                "from another folder has another."
            )
    return found


def _unit(vector: Vector, dim: int) -> npt.NDArray[np.float64]:
    exact = np.asarray(vector, np.float64)
    length = float(np.linalg.norm(exact)) if exact.shape == (dim,) else 0.0
    if not np.isfinite(length) or length == 0:
        raise BabelclipError(
            f"A vector of the query has the shape {exact.shape} and length {length}; it needs {dim} finite numbers "
            "that are not all 0. Give one of the model that made the collection."
        )
    return exact / length


def _model(clip: Clip | None) -> Clip:
    if clip is None:
        raise BabelclipError("A text or picture needs a model to encode it. Give clip=.")
    return clip
