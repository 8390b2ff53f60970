"""Plots as inline SVG: no dependency, no script, readable on light and dark pages.

Text and axes take the colour of the page's text (`currentColor`), series have middle tones that stand out on both.
Every plot names itself to screen readers, and every bar and line tells its value on hover.
Entry points: `bar_chart` for figures by language, `line_chart` for training curves.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from html import escape

from babelclip import languages as language_codes
from babelclip.errors import BabelclipError
from babelclip.evaluate import svg

# Grey for what serves as baseline, then hues that colour-blind readers tell apart.
PALETTE = ("#8b95a1", "#e0922f", "#3f8fd2", "#2f9e77", "#c8587f", "#8a6fc9")
_WIDE_CHARACTER = 7.2  # pixels of an average character at 13 px, to lay out legends without a browser
_ROWS_A_PANEL = 24


def bar_chart(
    series: Mapping[str, Mapping[str, float | None]],
    *,
    title: str,
    description: str = "",
    languages: Sequence[str] | None = None,
    untaught: Collection[str] = (),
    references: Mapping[str, float] | None = None,
    value_label: str = "R@10 in per cent",
    percent: bool = True,
    colours: Sequence[str] = PALETTE,
    width: int = 1080,
) -> str:
    """Returns an SVG with one row a language and one bar a series; more than 24 languages go into two columns.

    The bars of the last series carry their figure, so put what matters last.

    Args:
        series: label (a model) -> language -> value; a missing or None value leaves a gap.
        title: over the plot, and its accessible name.
        description: accessible description; by default one is made from the arguments.
        languages: which, in this order from the top; by default as they first come.
        untaught: languages that get a mark.
        references: label -> value of dashed vertical lines, for example chance.
        value_label: what the axis measures.
        percent: values are fractions and shown in per cent.
        colours: one a series, repeated when there are more series.
        width: of the plot's own coordinates; it scales with the page.

    Raises:
        BabelclipError: there is nothing to draw.
    """
    codes = list(dict.fromkeys(code for values in series.values() for code in values))
    codes = codes if languages is None else list(languages)
    lines = dict(references or {})
    drawn = [value for values in series.values() for code in codes if (value := values.get(code)) is not None]
    if not drawn or not all(value >= 0 and math.isfinite(value) for value in drawn):
        raise BabelclipError(
            f"The chart got {'no value' if not drawn else 'a negative value, NaN or infinity'}; bars need finite "
            "values from 0 up. Leave out what was not measured, by None."
        )
    factor = 100 if percent else 1
    end = factor * max([*drawn, *lines.values()]) or 1.0
    ticks = svg.ticks(0.0, end, 6, outside=False)
    n_panels = 1 if len(codes) <= _ROWS_A_PANEL else 2
    per_panel = math.ceil(len(codes) / n_panels)
    labels = {code: language_codes.name(code) + ("*" if code in untaught else "") for code in codes}
    bar = 7.0 if len(series) > 2 else 10.0
    row = bar * len(series) + 9
    shares = {"bar": bar, "row": row, "label": 20 + 6.6 * max(map(len, labels.values()))}
    legend, top = _legend([(label, colours[i % len(colours)], "") for i, label in enumerate(series)], width, 46)
    top += 26 if lines else 8
    panel_width = (width - 28 * (n_panels - 1)) / n_panels
    body = [svg.text_at(0, 18, title, size=16, weight=600), legend]
    for panel in range(n_panels):
        part = codes[panel * per_panel : (panel + 1) * per_panel]
        body.append(
            _bar_panel(
                part,
                {label: {code: _scaled(values.get(code), factor) for code in part} for label, values in series.items()},
                labels,
                {label: factor * value for label, value in lines.items()},
                ticks,
                end,
                colours,
                left=panel * (panel_width + 28),
                top=top,
                width=panel_width,
                shares=shares,
            )
        )
    height = top + per_panel * row + 46
    body.append(svg.text_at(width, height - 6, value_label, size=12, anchor="end", opacity=0.75))
    if untaught:
        note = "* a language without training text: what it reaches is transfer"
        body.append(svg.text_at(0, height - 6, note, size=12, opacity=0.75))
    text = description or f"{value_label} of {', '.join(series)} in {len(codes)} languages."
    return svg.document(body, width, height, title, text)


def _bar_panel(
    codes: Sequence[str],
    series: Mapping[str, Mapping[str, float | None]],
    labels: Mapping[str, str],
    lines: Mapping[str, float],
    ticks: Sequence[float],
    end: float,
    colours: Sequence[str],
    *,
    left: float,
    top: float,
    width: float,
    shares: Mapping[str, float],
) -> str:
    """Returns one column of rows with grid, bars and reference lines; values are those of the axis, up to `end`."""
    bar, row = shares["bar"], shares["row"]
    origin = left + shares["label"]
    scale = (left + width - origin - 34) / end  # room for the figure behind the longest bar
    bottom = top + row * len(codes)
    parts = []
    for tick in ticks:
        x = origin + scale * tick
        parts.append(svg.line(x, top - 4, x, bottom + 2, opacity=0.3 if tick == 0 else 0.12))
        parts.append(svg.text_at(x, bottom + 16, svg.number(tick), size=11, anchor="middle", opacity=0.75))
    for i, code in enumerate(codes):
        y = top + row * i + 2
        middle = y + bar * len(series) / 2 + 4
        parts.append(svg.text_at(origin - 8, middle, labels[code], size=12.5, anchor="end"))
        for j, (label, values) in enumerate(series.items()):
            value = values[code]
            if value is None:
                continue
            length = max(scale * value, 0.8)
            tip = escape(f"{labels[code]} ({code}), {label}: {value:.1f}")
            parts.append(
                f'<rect x="{origin:.1f}" y="{y + bar * j:.1f}" width="{length:.1f}" height="{bar - 1:.1f}" rx="1.5" '
                f'fill="{escape(colours[j % len(colours)])}"><title>{tip}</title></rect>'
            )
            if j == len(series) - 1:  # figures behind every bar would be a table, and that stands beside the plot
                figure = f"{value:.1f}" if end < 10 else f"{value:.0f}"
                parts.append(svg.text_at(origin + length + 4, y + bar * (j + 1) - 0.5, figure, size=10, opacity=0.75))
    for label, value in lines.items():
        x = origin + scale * value
        parts.append(svg.line(x, top - 4, x, bottom + 2, opacity=0.8, dash="4 3", tip=f"{label}: {svg.number(value)}"))
    parts += _line_labels({label: origin + scale * value for label, value in lines.items()}, top - 8, left + width)
    return "\n".join(parts)


def _line_labels(places: Mapping[str, float], y: float, right: float) -> list[str]:
    """Returns the labels of vertical lines, each centred on its line unless that leaves the plot or hides another."""
    texts, taken = [], -math.inf
    for label, x in sorted(places.items(), key=lambda item: item[1]):
        half = _WIDE_CHARACTER * 0.85 * len(label) / 2
        centre = max(min(x, right - half), taken + half + 8)
        taken = centre + half
        texts.append(svg.text_at(centre, y, label, size=11.5, anchor="middle", opacity=0.85))
    return texts


def line_chart(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    x_label: str = "step",
    y_label: str = "loss",
    description: str = "",
    references: Mapping[str, float] | None = None,
    log_y: bool = False,
    colours: Sequence[str] = PALETTE[1:],
    width: int = 640,
    height: int = 340,
) -> str:
    """Returns an SVG with one curve a series; a value that is not finite (or not positive, on a log axis) is a gap.

    Args:
        series: label -> (xs, ys), xs ascending.
        title: over the plot, and its accessible name.
        x_label: what the horizontal axis measures.
        y_label: what the vertical axis measures.
        description: accessible description; by default one is made from the first and last values.
        references: label -> value of dashed horizontal lines, for example the loss of the trivial predictor.
        log_y: logarithmic vertical axis.
        colours: one a series, repeated when there are more series.
        width: of the plot's own coordinates; it scales with the page.
        height: likewise.

    Raises:
        BabelclipError: there is nothing to draw, or a series has xs and ys of different lengths.
    """
    lines = {label: value for label, value in (references or {}).items() if _drawable(value, log_y)}
    runs = {label: _runs(label, xs, ys, log_y) for label, (xs, ys) in series.items()}
    points = [point for parts in runs.values() for part in parts for point in part]
    if not points:
        raise BabelclipError("The chart has no value to draw. Give at least one series with one finite value.")
    xs = [x for x, _ in points]
    x_ticks = svg.ticks(min(xs), max(xs), 7, outside=False)
    y_ticks = _y_ticks([*(y for _, y in points), *lines.values()], log_y)
    entries = [(label, colours[i % len(colours)], "") for i, label in enumerate(series)]
    legend, top = _legend([*entries, *((label, "currentColor", "4 3") for label in lines)], width, 44)
    left = 16 + 6.6 * max(len(svg.number(tick)) for tick in y_ticks) + 10
    top, bottom, right = top + 32, height - 44, width - 12

    def place(x: float, y: float) -> tuple[float, float]:
        span = max(xs) - min(xs) or 1.0
        low, high, value = (math.log10(v) if log_y else v for v in (y_ticks[0], y_ticks[-1], y))
        return left + (right - left) * (x - min(xs)) / span, bottom - (bottom - top) * (value - low) / (high - low)

    body = [svg.text_at(0, 18, title, size=16, weight=600), legend]
    for tick in y_ticks:
        _, y = place(min(xs), tick)
        body.append(svg.line(left, y, right, y, opacity=0.3 if tick == y_ticks[0] else 0.12))
        body.append(svg.text_at(left - 6, y + 4, svg.number(tick), size=11, anchor="end", opacity=0.75))
    for tick in x_ticks:
        x, _ = place(tick, y_ticks[0])
        body.append(svg.text_at(x, bottom + 16, svg.number(tick), size=11, anchor="middle", opacity=0.75))
    for label, value in lines.items():
        _, y = place(min(xs), value)
        body.append(svg.line(left, y, right, y, opacity=0.8, dash="4 3", tip=f"{label}: {svg.number(value)}"))
    for i, (label, parts) in enumerate(runs.items()):
        body.append(_curve(label, [[place(x, y) for x, y in part] for part in parts], colours[i % len(colours)], parts))
    body.append(svg.text_at((left + right) / 2, height - 8, x_label, size=12, anchor="middle", opacity=0.75))
    body.append(svg.text_at(left, top - 8, y_label + (" (log scale)" if log_y else ""), size=12, opacity=0.75))
    return svg.document(body, width, height, title, description or _describe(runs, lines, y_label))


def _curve(
    label: str,
    placed: Sequence[Sequence[tuple[float, float]]],
    colour: str,
    values: Sequence[Sequence[tuple[float, float]]],
) -> str:
    """Returns the curve of one series as one group; a run of a single point is a dot, which a line would not show."""
    if not values:
        return ""
    tip = escape(f"{label}: {svg.number(values[0][0][1])} to {svg.number(values[-1][-1][1])}")
    shapes = []
    for part in placed:
        if len(part) == 1:
            shapes.append(f'<circle cx="{part[0][0]:.1f}" cy="{part[0][1]:.1f}" r="2.5" fill="{escape(colour)}"/>')
        else:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in part)
            shapes.append(f'<polyline points="{path}"/>')
    return (
        f'<g fill="none" stroke="{escape(colour)}" stroke-width="2" stroke-linejoin="round"><title>{tip}</title>'
        + "".join(shapes)
        + "</g>"
    )


def _runs(label: str, xs: Sequence[float], ys: Sequence[float], log_y: bool) -> list[list[tuple[float, float]]]:
    """Returns the drawable stretches of a series."""
    if len(xs) != len(ys):
        raise BabelclipError(f"Series {label!r} has {len(xs)} xs and {len(ys)} ys; give one y an x.")
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(xs, ys, strict=True):
        if _drawable(y, log_y) and math.isfinite(x):
            runs[-1].append((float(x), float(y)))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _drawable(value: float, log_y: bool) -> bool:
    return math.isfinite(value) and (value > 0 or not log_y)


def _describe(
    runs: Mapping[str, Sequence[Sequence[tuple[float, float]]]], lines: Mapping[str, float], y_label: str
) -> str:
    parts = [
        f"{label} goes from {svg.number(run[0][0][1])} to {svg.number(run[-1][-1][1])}"
        for label, run in runs.items()
        if run
    ]
    parts += [f"{label} is at {svg.number(value)}" for label, value in lines.items()]
    return f"{y_label}: {'; '.join(parts)}."


def _y_ticks(values: Sequence[float], log_y: bool) -> list[float]:
    if not log_y:
        return svg.ticks(min(values), max(values), 5)
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    steps = (1.0,) if high - low > 3 else (1.0, 2.0, 5.0)
    marks = sorted({factor * 10.0**power for power in range(low, high + 1) for factor in steps})
    first = max((mark for mark in marks if mark <= min(values) * 1.001), default=marks[0])
    last = min((mark for mark in marks if mark >= max(values) * 0.999 and mark > first), default=10 * marks[-1])
    return [mark for mark in marks if first <= mark < last] + [last]


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value


def _legend(entries: Sequence[tuple[str, str, str]], width: float, y: float) -> tuple[str, float]:
    """Returns the legend, wrapped to the width, and the y below it; an entry is label, colour and dash of its line."""
    parts, x = [], 0.0
    for label, colour, dash in entries:
        length = 24 + _WIDE_CHARACTER * len(label) + 16
        if x and x + length > width:
            x, y = 0.0, y + 20
        if dash:
            parts.append(svg.line(x, y - 4, x + 14, y - 4, opacity=0.8, dash=dash))
        else:
            parts.append(f'<rect x="{x:.1f}" y="{y - 10:.1f}" width="12" height="12" rx="2" fill="{escape(colour)}"/>')
        parts.append(svg.text_at(x + 19, y, label, size=13))
        x += length
    return "\n".join(parts), y
