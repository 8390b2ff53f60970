"""The report's plots as inline SVG: heat map, quality against cost, differences with their intervals.

Entry points: `heat_map`, `cost_plot`, `difference_plot`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from babelclip import languages as language_codes
from babelclip.evaluate import svg
from babelclip.evaluate.plots import PALETTE
from babelclip.evaluate.report_compare import Difference
from babelclip.evaluate.report_sheets import Sheet

_CHARACTER = 6.6  # pixels of an average character at 12 px
_HEAT = "#3f8fd2"
_ABOVE, _BELOW, _UNSURE = "#2f9e77", "#c8587f", "#8b95a1"


def language_name(code: str) -> str:
    """Returns a language's English name, or the code itself where it names none."""
    try:
        return language_codes.name(code)
    except language_codes.UnknownLanguageError:
        return code


def heat_map(sheet: Sheet, metric: str) -> str:
    """Returns languages down and models across, each cell as strong as its figure, in per cent."""
    names = {code: language_name(code) for code in sheet.languages}
    left = 14 + _CHARACTER * max(map(len, names.values()))
    labels = [short_name(model) for model in sheet.models]
    longest = max(map(len, labels))
    cell, row = max(48.0, min(92.0, 560 / len(labels))), 21.0
    slanted = longest * _CHARACTER > cell - 6
    top = 34 + (min(longest, 34) * 4.6 if slanted else 14)
    found = [value for m in sheet.models for c in sheet.languages if (value := sheet.value(m, c, metric)) is not None]
    low, high = min(found), max(found)
    span = (high - low) or 1.0
    body = [svg.text_at(0, 16, f"{metric}, per cent", size=13, weight=600)]
    for column, label in enumerate(labels):
        x = left + cell * column + cell / 2
        shown = label if len(label) <= 34 else f"{label[:33]}…"
        if slanted:
            turned = svg.text_at(0, 0, shown, size=12)
            body.append(f'<g transform="translate({x - 6:.1f} {top - 6:.1f}) rotate(-38)">{turned}</g>')
        else:
            body.append(svg.text_at(x, top - 7, shown, size=12, anchor="middle"))
    for at, code in enumerate(sheet.languages):
        y = top + row * at
        body.append(svg.text_at(left - 8, y + 14.5, names[code], size=12, anchor="end"))
        for column, model in enumerate(sheet.models):
            value = sheet.value(model, code, metric)
            x = left + cell * column
            if value is None:
                body.append(svg.text_at(x + cell / 2, y + 14.5, "–", size=11, anchor="middle", opacity=0.5))
                continue
            strength = 0.06 + 0.74 * (value - low) / span
            tip = escape(f"{labels[column]}, {names[code]} ({code}): {100 * value:.1f}")
            body.append(
                f'<rect x="{x + 1:.1f}" y="{y + 1:.1f}" width="{cell - 2:.1f}" height="{row - 2:.1f}" rx="3" '
                f'fill="{_HEAT}" fill-opacity="{strength:.2f}"><title>{tip}</title></rect>'
            )
            body.append(svg.text_at(x + cell / 2, y + 14.5, f"{100 * value:.1f}", size=11, anchor="middle"))
    # A slanted label of the last column leans out to the right.
    width = left + cell * len(labels) + (min(longest, 34) * 5.2 - cell / 2 if slanted else 0)
    text = f"{metric} of {', '.join(labels)} in {len(names)} languages, from {100 * low:.1f} to {100 * high:.1f}."
    return svg.document(body, max(width, 260), top + row * len(names) + 4, f"{sheet.title}: heat map", text)


def short_name(model: str) -> str:
    """Returns the last part of a path or repository name."""
    return model.rstrip("/").rsplit("/", 1)[-1]


def row_names(models: Sequence[str]) -> dict[str, str]:
    """Returns what stands in a row's head: the last part of each name, or the whole where two would be equal."""
    short = [short_name(model) for model in models]
    return {model: name if short.count(name) == 1 else model for model, name in zip(models, short, strict=True)}


def cost_plot(points: Mapping[str, tuple[float, float]], *, title: str, x_label: str, y_label: str, less: bool) -> str:
    """Returns quality against cost on a log axis, with the line of those that no other beats in both.

    Args:
        points: model -> (cost or speed, quality in per cent).
        title: accessible name.
        x_label: what the horizontal axis measures.
        y_label: what the vertical axis measures.
        less: a small x is good (size); otherwise a large one is (speed).
    """
    width, height, left, top, bottom = 470.0, 330.0, 48.0, 40.0, 282.0
    right = width - 20
    xs, ys = [x for x, _ in points.values()], [y for _, y in points.values()]
    x_low, x_high = math.log10(min(xs)) - 0.15, math.log10(max(xs)) + 0.15
    marks = svg.ticks(min(ys), max(ys), 5)
    y_low, y_high = marks[0], marks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (right - left) * (math.log10(x) - x_low) / (x_high - x_low),
            bottom - (bottom - top) * (y - y_low) / (y_high - y_low),
        )

    body = [svg.text_at(left, 18, y_label, size=12, opacity=0.75)]
    for mark in marks:
        _, y = place(min(xs), mark)
        body += [svg.line(left, y, right, y, opacity=0.12)]
        body += [svg.text_at(left - 6, y + 4, svg.number(mark), size=11, anchor="end", opacity=0.75)]
    for mark in _log_marks(x_low, x_high):
        x, _ = place(mark, y_low)
        body += [svg.line(x, bottom, x, bottom + 4, opacity=0.4)]
        body += [svg.text_at(x, bottom + 17, human(mark), size=11, anchor="middle", opacity=0.75)]
    best = frontier(points, less=less)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*points[name]) for name in best))
    body.append(
        f'<polyline points="{path}" fill="none" stroke="{PALETTE[3]}" stroke-width="1.5" stroke-dasharray="4 3"/>'
    )
    taken: list[tuple[float, float]] = []
    for name, (x, y) in sorted(points.items(), key=lambda item: -item[1][1]):
        at_x, at_y = place(x, y)
        colour = PALETTE[3] if name in best else PALETTE[0]
        tip = escape(f"{name}: {human(x)}, {y:.1f}")
        body.append(f'<circle cx="{at_x:.1f}" cy="{at_y:.1f}" r="5" fill="{colour}"><title>{tip}</title></circle>')
        label, wide = short_name(name), _CHARACTER * len(short_name(name))
        to_left = at_x + 10 + wide > right
        label_y = at_y + 4
        while any(abs(label_y - other) < 13 and abs(at_x - other_x) < wide + 20 for other_x, other in taken):
            label_y += 13
        taken.append((at_x, label_y))
        body.append(
            svg.text_at(at_x + (-9 if to_left else 9), label_y, label, size=12, anchor="end" if to_left else "start")
        )
    body.append(svg.text_at((left + right) / 2, height - 8, x_label, size=12, anchor="middle", opacity=0.75))
    told = "; ".join(f"{short_name(name)} {y:.1f} at {human(x)}" for name, (x, y) in points.items())
    return svg.document(body, width, height, title, f"{y_label} against {x_label}: {told}.")


def frontier(points: Mapping[str, tuple[float, float]], *, less: bool) -> list[str]:
    """Returns the models that no other beats in both, by x: each further one pays more and gives more."""
    order = sorted(points, key=lambda name: (points[name][0] if less else -points[name][0], -points[name][1]))
    best: list[str] = []
    for name in order:
        if not best or points[name][1] > points[best[-1]][1]:
            best.append(name)
    return best


def human(value: float) -> str:
    """Returns a count as people say it: 1.2 k, 560 M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}\N{NO-BREAK SPACE}{letter}"
    return f"{value:.3g}"


def _log_marks(low: float, high: float) -> list[float]:
    marks = [f * 10.0**p for p in range(math.floor(low), math.ceil(high) + 1) for f in (1, 2, 5)]
    inside = [mark for mark in marks if low <= math.log10(mark) <= high]
    return inside if len(inside) <= 8 else [mark for mark in inside if f"{mark:.0e}".startswith("1")]


def difference_plot(found: Sequence[Difference], *, title: str) -> str:
    """Returns a dot with its interval for each language, in points; what is surely above or below zero is coloured."""
    names = [language_name(one.language) for one in found]
    left = 14 + _CHARACTER * max(map(len, names))
    width, row, top = 480.0, 19.0, 16.0
    ends: list[float] = [100 * end for one in found for end in (*(one.interval or ()), one.value, 0.0)]
    # Zero always stands on the plot, with some room on its other side.
    room = 0.08 * (max(ends) - min(ends)) or 1.0
    first, last = float(min(ends) - room), float(max(ends) + room)
    marks = svg.ticks(first, last, 6, outside=False)
    bottom = top + row * len(found)

    def place(points: float) -> float:
        return float(left + (width - left - 50) * (points - first) / (last - first) + 4)

    body = [svg.line(place(m), top, place(m), bottom, opacity=0.6 if abs(m) < 1e-9 else 0.12) for m in marks]
    body += [
        svg.text_at(place(m), bottom + 15, f"{m:+g}" if m else "0", size=11, anchor="middle", opacity=0.75)
        for m in marks
    ]
    for at, (one, name) in enumerate(zip(found, names, strict=True)):
        y = top + row * at + row / 2
        colour = _UNSURE if not one.real else _ABOVE if one.value > 0 else _BELOW
        tip = f"{name}: {100 * one.value:+.1f} points"
        body.append(svg.text_at(left - 8, y + 4, name, size=12, anchor="end"))
        if one.interval is not None:
            low, high = (place(100 * end) for end in one.interval)
            tip += f" ({100 * one.interval[0]:+.1f} to {100 * one.interval[1]:+.1f}, {one.kind})"
            body.append(
                f'<line x1="{low:.1f}" y1="{y:.1f}" x2="{high:.1f}" y2="{y:.1f}" stroke="{colour}" stroke-width="2"/>'
            )
        body.append(
            f'<circle cx="{place(100 * one.value):.1f}" cy="{y:.1f}" r="4" fill="{colour}">'
            f"<title>{escape(tip)}</title></circle>"
        )
        body.append(svg.text_at(width, y + 4, f"{100 * one.value:+.1f}", size=11, anchor="end", opacity=0.8))
    text = "; ".join(f"{name} {100 * one.value:+.1f}" for one, name in zip(found, names, strict=True))
    return svg.document(body, width, bottom + 24, title, f"{title}, in points: {text}.")
