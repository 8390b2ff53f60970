"""Results on the demo's page: the plot of R@10 per language and the tables in the manner of the M-CLIP card."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from babelclip.evaluate.plots import bar_chart
from babelclip.languages import UnknownLanguageError, normalize
from babelclip.starter.page_parts import (
    Child,
    Markup,
    absent,
    el,
    is_english,
    language_heads,
    language_of,
    mean,
    percent,
    points,
    section,
    wide_table,
)

DIRECTIONS = {"t2i": "text to image", "i2t": "image to text"}
METRICS = ("R@1", "R@5", "R@10")
# What most readers look for stands open; the others fold.
_FIRST = ("t2i", "R@10")
_MOST_LANGUAGES = 20  # in one plot
_PLOT_WIDTH = 420  # in the plot's own pixels: on a phone the plot shrinks to its column and must stay readable


def photographs(report: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Returns the table of the photographs, or the first one where there were none, or None."""
    tables: Sequence[Mapping[str, Any]] = report.get("tables") or []
    return next((table for table in tables if table["id"] == "photos"), tables[0] if tables else None)


def cell(row: Mapping[str, Any], direction: str, code: str, metric: str) -> float | None:
    """Returns one figure of a table, 0..1, or None where it was not measured."""
    value = ((row.get(direction) or {}).get(code) or {}).get(metric)
    return None if value is None or not math.isfinite(value) else float(value)


def tables(report: Mapping[str, Any]) -> Markup:
    """Returns the section with every table: R@10 of text to image open, all else folded."""
    title = "All figures"
    given: Sequence[Mapping[str, Any]] = report.get("tables") or []
    if not given:
        return section("tables", title, absent("This report holds no measurements."))
    legend = el(
        "p",
        "R@k, in percent: the share of queries that find a right answer among the first k. ",
        el("span", "●", class_="dot", aria_hidden="true"),
        " marks languages whose words were in the training text; the others were never taught. The means leave"
        " English out. A dash stands where nothing was measured. Wide tables scroll sideways.",
    )
    return section("tables", title, legend, [_group(report, table) for table in given])


def _group(report: Mapping[str, Any], table: Mapping[str, Any]) -> Markup:
    """Returns the six tables of one set of pictures."""
    facts = [f"{table['n_images']} pictures"] if table.get("n_images") else []
    chance = (table.get("chance") or {}).get("R@10")
    if chance is not None:
        facts.append(f"chance R@10 {percent(chance, 1)}")
    note = ". ".join(part.rstrip(".") for part in (", ".join(facts), table.get("note") or "") if part)
    others = [
        _metric_table(report, table, direction, metric)
        for direction in DIRECTIONS
        for metric in METRICS
        if (direction, metric) != _FIRST and _measured(table, direction, metric)
    ]
    more = el("details", el("summary", "R@1, R@5 and image to text"), others) if others else None
    return el(
        "div",
        el("h3", table["title"], id=f"table-{table['id']}"),
        el("p", f"{note}.", class_="note") if note else None,
        _metric_table(report, table, *_FIRST),
        more,
        class_="group",
    )


def _measured(table: Mapping[str, Any], direction: str, metric: str) -> bool:
    return any(cell(row, direction, code, metric) is not None for row in table["rows"] for code in table["languages"])


def _metric_table(report: Mapping[str, Any], table: Mapping[str, Any], direction: str, metric: str) -> Markup:
    """Returns one table: models down, languages across, the means first."""
    codes: Sequence[str] = table["languages"]
    groups = mean_groups(report, codes)
    heads = [el("th", el("span", name, class_="long"), scope="col", class_="mean") for name in groups]
    heads += language_heads(report, codes)
    rows = []
    for row in table["rows"]:
        means = [mean(cell(row, direction, code, metric) for code in group) for group in groups.values()]
        cells = [_figure_cell(value, "mean") for value in means]
        cells += [_figure_cell(cell(row, direction, code, metric)) for code in codes]
        rows.append((str(row["name"]), cells, "after" if row.get("kind") == "after" else ""))
    what = f"{DIRECTIONS[direction]}, {metric}"
    title: Child = [el("strong", what[0].upper() + what[1:]), f" · {table['title']}"]
    return wide_table(title, heads, rows, corner="Model", label=f"{table['title']}: {what}")


def mean_groups(report: Mapping[str, Any], codes: Sequence[str]) -> dict[str, list[str]]:
    """Returns the languages of the two means, never English; a mean over no language is left out.

    Where the summary lists the languages of its means (`taught_languages`, `untaught_languages`) these are taken, so
    that table and headline agree; otherwise all of `codes`.
    """
    summary: Mapping[str, Any] = report.get("summary") or {}
    foreign = [code for code in codes if not is_english(code)]
    taught = [code for code in foreign if language_of(report, code).taught]
    groups = {"taught": taught, "untaught": [code for code in foreign if code not in taught]}
    for name, group in groups.items():
        listed = summary.get(f"{name}_languages") or group
        groups[name] = [code for code in group if code in listed]
    return {f"mean of {name}": group for name, group in groups.items() if group}


def _figure_cell(value: float | None, kind: str | None = None) -> Markup:
    """Returns one cell, shaded by its value."""
    shade = None if value is None else f"--v:{min(max(value, 0.0), 1.0):.2f}"
    return el("td", points(value), style=shade, class_="none" if value is None and kind is None else kind)


def plot(report: Mapping[str, Any]) -> Markup:
    """Returns the section with R@10 of text to image per language, taught and untaught languages apart."""
    title = "Language by language"
    table = photographs(report)
    series = _series(table) if table else {}
    if not table or not series:
        return section("languages", title, absent("No language was measured in this run, so there is nothing to plot."))
    best = list(series.values())[-1]
    codes = [code for code in table["languages"] if _can_draw(code) and any(code in line for line in series.values())]
    codes.sort(key=lambda code: (not is_english(code), -(best.get(code) or 0.0)))
    taught = [code for code in codes if is_english(code) or language_of(report, code).taught]
    untaught = [code for code in codes if code not in taught]
    parts = [*_split("English and taught languages", taught), *_split("Languages never taught", untaught)]
    lines = _references(report, table)
    charts = [
        bar_chart(series, title=name, languages=part, references=lines, value_label="R@10, percent", width=_PLOT_WIDTH)
        for name, part in parts
        if any(line.get(code) is not None for line in series.values() for code in part)
    ]
    text = (
        f"{table['title']}, text to image: the share of captions for which a right picture is among the first ten. "
        "In each group the best language of the taught student comes first, after English. Dashed lines: the English "
        "teacher on English captions, and chance."
    )
    return section("languages", title, el("p", text), el("div", [_boxed(chart) for chart in charts], class_="plots"))


def _series(table: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Returns what is compared, the taught student last: name of the row -> language -> R@10."""
    rows = {str(row.get("kind")): row for row in table["rows"]}
    start = "ridge" if "ridge" in rows else "before"
    chosen = [rows[kind] for kind in ("foreign", start, "after") if kind in rows]
    series = {}
    for row in chosen:
        values = {code: cell(row, "t2i", code, "R@10") for code in table["languages"]}
        series[str(row["name"])] = {code: value for code, value in values.items() if value is not None}
    return {name: values for name, values in series.items() if values}


def _references(report: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, float]:
    """Returns the dashed lines: the teacher in English and chance, as far as they are known."""
    teacher: Mapping[str, Any] = next((row for row in table["rows"] if row.get("kind") == "teacher"), {})
    lines = {"chance": (table.get("chance") or {}).get("R@10"), "English teacher": cell(teacher, "t2i", "en", "R@10")}
    if table["id"] == "photos":
        summary = report.get("summary") or {}
        lines = {
            "chance": summary.get("chance", lines["chance"]),
            "English teacher": summary.get("E", lines["English teacher"]),
        }
    return {label: float(value) for label, value in lines.items() if value is not None}


def _split(name: str, codes: Sequence[str]) -> list[tuple[str, Sequence[str]]]:
    """Returns charts of about equal length, each short enough to be read in one look."""
    n_charts = -(-len(codes) // _MOST_LANGUAGES)
    if n_charts < 2:
        return [(name, codes)] if codes else []
    length = -(-len(codes) // n_charts)
    return [(f"{name} ({i + 1} of {n_charts})", codes[i * length : (i + 1) * length]) for i in range(n_charts)]


def _can_draw(code: str) -> bool:
    """Returns whether the plots know the language; one that they do not know stands in the tables alone."""
    try:
        normalize(code)
    except UnknownLanguageError:
        return False
    return True


def _boxed(chart: str) -> Markup:
    return el("div", Markup(chart), class_="plot")
