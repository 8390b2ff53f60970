"""The gallery of the demo's page: queries in many languages with the pictures that the student ranks first."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from babelclip.languages import UnknownLanguageError, script
from babelclip.models.preprocess import PictureError, open_picture, to_rgb
from babelclip.starter.page_parts import Markup, absent, el, join, language_of, section, taught_dot

# Side in pixels and WebP quality, tried in this order until a thumbnail fits its share of the budget.
_SIZES = ((160, 80), (160, 55), (120, 50), (96, 40), (64, 30), (32, 20))
_BUDGET = 1_500_000  # bytes of all thumbnails before base64, which adds a third
_TOP = 5

Draw = Callable[[str], str | None]


def thumbnail(picture: str | Path, max_bytes: int) -> str | None:
    """Returns a picture as a `data:` URI of WebP, at most 160 pixels a side, laid on white, transparency gone.

    Args:
        picture: path of a picture.
        max_bytes: size in bytes before base64; a picture that is hard to compress becomes smaller and coarser.

    Returns None where the picture does not decode: one broken file leaves a gap and not a demo without a page.
    """
    try:
        original = to_rgb(open_picture(picture))
    except (PictureError, OSError):
        return None
    for side, quality in _SIZES:
        small = original.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=quality)
        if buffer.tell() <= max_bytes:
            break
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def gallery(report: Mapping[str, Any]) -> Markup:
    """Returns the section of queries, or one line where the report has none."""
    queries: Sequence[Mapping[str, Any]] = report.get("gallery") or []
    title = "Searching with the taught model"
    if not queries:
        return section("gallery", title, absent("This report holds no example queries: there were no pictures."))
    n_hits = sum(len(query["hits"][:_TOP]) for query in queries)
    max_bytes = min(16_000, _BUDGET // max(n_hits, 1))
    draw = functools.cache(functools.partial(thumbnail, max_bytes=max_bytes))  # favourites come up again and again
    mark = el("span", "✓ right", class_="badge")
    intro = el(
        "p",
        f"{len(queries)} queries in {_count_languages(queries)}, each with the {_TOP} pictures whose vectors have the"
        " highest cosine with the query's (the number under a picture). ",
        mark,
        " marks pictures whose English caption names what was asked for, by a list of words that was written with the"
        " queries. Everything else counts as wrong, also a picture that would please. ● marks languages that were"
        " taught.",
    )
    cards = [_card(report, query, draw) for query in queries]
    return section("gallery", title, intro, el("div", cards, class_="gallery"))


def _count_languages(queries: Sequence[Mapping[str, Any]]) -> str:
    codes = {str(query["lang"]) for query in queries}
    scripts = set()
    for code in codes:
        try:
            scripts.add(script(code))
        except UnknownLanguageError:
            continue
    written = f" and {len(scripts)} scripts" if len(scripts) > 1 else ""
    return f"{len(codes)} language{'s' if len(codes) != 1 else ''}{written}"


def _card(report: Mapping[str, Any], query: Mapping[str, Any], draw: Draw) -> Markup:
    """Returns one query with its pictures; the text has its own direction whatever stands around it."""
    code = str(query["lang"])
    facts = language_of(report, code)
    hits = query["hits"][:_TOP]
    right = sum(bool(hit.get("relevant")) for hit in hits)
    native = None
    if facts.native != facts.name:
        native = join(" · ", el("bdi", facts.native, lang=code, dir=facts.direction))
    english = query.get("english")
    head = el(
        "header",
        el("h3", facts.name, native, " ", taught_dot(facts.taught)),
        el("p", str(query["query"]), class_="query", lang=code, dir=facts.direction),
        el("p", "in English: ", el("bdi", str(english)), class_="meaning") if english and code != "en" else None,
        el("p", f"{right} of the first {len(hits)} right", class_="tally"),
    )
    pictures = [_hit(rank, hit, draw) for rank, hit in enumerate(hits, start=1)]
    return el("article", head, el("ol", pictures, class_="hits"), class_="card")


def _hit(rank: int, hit: Mapping[str, Any], draw: Draw) -> Markup:
    """Returns one picture with its caption and score."""
    relevant = bool(hit.get("relevant"))
    caption = str(hit.get("caption") or "picture without caption")
    source = draw(str(hit["image"]))
    if source is None:
        shown = el("span", "picture does not decode", class_="broken")
    else:
        shown = el("img", src=source, alt=f"{caption} ({'right' if relevant else 'not right'})", decoding="async")
    badge = el("span", "✓ right", class_="badge") if relevant else None
    score = f"{float(hit['score']):.2f}"
    return el(
        "li",
        el("span", shown, badge, class_="frame"),
        el("span", el("bdi", caption), class_="caption"),
        el("span", f"{rank}. ", el("span", score, class_="number"), class_="score"),
        class_="right" if relevant else None,
    )
