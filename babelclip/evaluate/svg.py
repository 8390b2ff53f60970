"""Pieces of inline SVG that take the colour of the page's text, and axes with round numbers.

Entry points: `document`, `text_at`, `line`, `ticks`, `number`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from html import escape

_FONT = "font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif"


def ticks(low: float, high: float, wanted: int, *, outside: bool = True) -> list[float]:
    """Returns round numbers that cover low..high, or with `outside=False` lie within it."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / wanted
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw * 0.999)
    tolerance = 1e-9
    first = math.floor(low / step + tolerance) if outside else math.ceil(low / step - tolerance)
    last = math.ceil(high / step - tolerance) if outside else math.floor(high / step + tolerance)
    return [step * i for i in range(first, last + 1)]


def number(value: float) -> str:
    """Returns a number as axes and tips show it."""
    if value == 0:
        return "0"
    if abs(value) >= 10000:
        return f"{value:,.0f}"
    return f"{value:.1e}" if abs(value) < 0.0001 else f"{value:.4g}"


def text_at(
    x: float, y: float, text: str, *, size: float, anchor: str = "start", weight: int = 400, opacity: float = 1
) -> str:
    """Returns one line of text; `y` is its baseline."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="currentColor" fill-opacity="{opacity}">{escape(text)}</text>'
    )


def line(x1: float, y1: float, x2: float, y2: float, *, opacity: float = 1, dash: str = "", tip: str = "") -> str:
    """Returns a straight line; with `dash` it is a reference, with `tip` it tells its value on hover."""
    dashed = f' stroke-width="1.5" stroke-dasharray="{dash}"' if dash else ""
    inside = f"<title>{escape(tip)}</title>" if tip else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="currentColor" '
        f'stroke-opacity="{opacity}"{dashed}>{inside}</line>'
    )


def document(body: Sequence[str], width: float, height: float, title: str, description: str) -> str:
    """Returns the whole SVG: it scales with the page and names itself to screen readers."""
    # Ids are those of the content, so two plots on one page do not share them and a rerun gives the same bytes.
    key = hashlib.sha256("".join([title, description, *body]).encode()).hexdigest()[:12]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'role="img" aria-labelledby="t{key} d{key}" style="max-width:100%;height:auto;{_FONT}">\n'
        f'<title id="t{key}">{escape(title)}</title>\n<desc id="d{key}">{escape(description)}</desc>\n'
        + "\n".join(part for part in body if part)
        + "\n</svg>\n"
    )
