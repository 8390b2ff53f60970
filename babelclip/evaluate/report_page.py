"""The report as one HTML file: no network, no script, light and dark, readable on a phone.

`render_report` returns the page. Every section is one sheet (what compares), in this order: table of models and
languages, means, heat map, quality against cost, differences, published figures, notes. The page allows itself nothing
by its Content-Security-Policy but inline style.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from babelclip import languages as language_codes
from babelclip.evaluate.markup import Child, Markup, el, join
from babelclip.evaluate.report_compare import BARE, UNPAIRED, differences, tally
from babelclip.evaluate.report_costs import cost_plots
from babelclip.evaluate.report_plots import difference_plot, heat_map, language_name, row_names, short_name
from babelclip.evaluate.report_rows import Row
from babelclip.evaluate.report_sheets import Mean, Sheet
from babelclip.evaluate.report_text import notes_of, points
from babelclip.evaluate.resource import SOURCE, by_resource

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_PUBLISHED_OPEN = 6  # so many published models stand open; more fold
_FEW, _MOST_LANGUAGES = 12, 60  # in one heat map


def render_report(
    sheets: Sequence[Sheet],
    *,
    title: str = "Evaluation report",
    warnings: Sequence[str] = (),
    published: bool = True,
    command: str = "",
) -> str:
    """Returns the whole page as HTML text (UTF-8 when written).

    Args:
        sheets: from `make_sheets`.
        title: heading of the page.
        warnings: what stands above everything else.
        published: show published figures beside the measured ones.
        command: the command that made the page.
    """
    style = resources.files("babelclip.evaluate").joinpath("report.css").read_text("utf-8")
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        el("style", Markup(style)),
    )
    body = el(
        "main",
        _opening(sheets, title, warnings),
        [_section(sheet, number, published) for number, sheet in enumerate(sheets)],
        _how(sheets, command),
    )
    return join(Markup("<!doctype html>\n"), el("html", head, "\n", el("body", body), lang="en", dir="ltr"), "\n")


def _opening(sheets: Sequence[Sheet], title: str, warnings: Sequence[str]) -> Markup:
    models = list(dict.fromkeys(model for sheet in sheets for model in sheet.models))
    codes = {code for sheet in sheets for code in sheet.languages}
    sets = list(dict.fromkeys(sheet.title.split(",")[0] for sheet in sheets))
    counted = [_count(len(models), "model"), _count(len(sets), "data set"), _count(len(codes), "language")]
    text = (
        f"{', '.join(counted[:2])} and {counted[2]}: {', '.join(map(short_name, models[:6]))}"
        + (f" and {len(models) - 6} more" if len(models) > 6 else "")
        + f" on {', '.join(sets)}. Figures are per cent; one table holds only what compares."
    )
    titles = [sheet.title for sheet in sheets]
    names = [f"{one.title} ({one.subtitle})" if titles.count(one.title) > 1 else one.title for one in sheets]
    links = [el("li", el("a", name, href=f"#s{number}")) for number, name in enumerate(names)]
    box = el("div", el("ul", [el("li", warning) for warning in warnings]), class_="warn") if warnings else None
    return el("header", el("h1", title), el("p", text, class_="lead"), box, el("nav", el("ul", links)))


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' if n != 1 else ''}"


def _section(sheet: Sheet, number: int, published: bool) -> Markup:
    """Returns everything about one sheet."""
    first, *others = sheet.metrics
    more = [_table(sheet, metric) for metric in others]
    notes = notes_of(sheet)
    warned = [note for note in notes if note.startswith("leak: ")]
    plain = [note for note in notes if note not in warned]
    return el(
        "section",
        el("h2", sheet.title, id=f"s{number}"),
        el("p", sheet.subtitle, class_="quiet"),
        el("div", el("ul", [el("li", note) for note in warned]), class_="warn") if warned else None,
        _table(sheet, first),
        el("details", el("summary", ", ".join(others)), more) if more else None,
        _means(sheet, first),
        _heat(sheet, first),
        _costs(sheet, first),
        _differences(sheet, first),
        _published(sheet, first) if published else None,
        el("details", el("summary", f"Notes ({len(plain)})"), el("ul", [el("li", n) for n in plain], class_="notes"))
        if plain
        else None,
        aria_labelledby=f"s{number}",
    )


def _table(sheet: Sheet, metric: str) -> Markup:
    """Returns the table of one metric: models down, languages across."""
    heads = [el("th", code, _full_name(code), scope="col") for code in sheet.languages]
    top = max((v for m in sheet.models for c in sheet.languages if (v := sheet.value(m, c, metric))), default=1.0)
    labels = row_names(sheet.models)
    rows, marked = [], False
    for model in sheet.models:
        cells = []
        for code in sheet.languages:
            row = sheet.cells.get((model, code))
            undeclared = row is not None and row.declared is False
            marked = marked or undeclared
            cells.append(_cell(row, metric, sheet.best(code, metric), top, undeclared))
        rows.append(el("tr", el("th", labels[model], scope="row", title=model), cells))
    caption = [el("strong", metric), ", per cent; the best of each language in bold, intervals of 95 % on hover"]
    if marked:
        caption.append("; * the model does not declare the language: what it reaches is transfer")
    return _figure(caption, heads, rows, "model", f"{sheet.title}, {metric}")


def _full_name(code: str) -> Markup | None:
    name = language_name(code)
    return None if name == code else el("span", name, class_="long")


def _cell(row: Row | None, metric: str, best: float | None, top: float, undeclared: bool) -> Markup:
    value = None if row is None else row.metrics.get(metric)
    if row is None or value is None:
        return el("td", "–", class_="none")
    ends = row.intervals.get(metric)
    tip = f"{row.language}: {points(value)}" + (f" ({points(ends[0])} to {points(ends[1])})" if ends else "")
    shade = f"--v:{max(value, 0.0) / top * 0.8:.2f}" if top > 0 else None
    kind = "best" if best is not None and round(value, 3) >= best else None
    return el("td", points(value), "*" if undeclared else None, style=shade, class_=kind, title=tip)


def _figure(caption: Child, heads: Sequence[Child], rows: Sequence[Child], corner: str, label: str) -> Markup:
    """Returns a table that scrolls inside its own box; the box is reached by keyboard because it scrolls."""
    table = el("table", el("thead", el("tr", el("th", corner, scope="col"), heads)), el("tbody", rows))
    box = el("div", table, class_="scroll", role="region", tabindex="0", aria_label=label)
    return el("figure", el("figcaption", caption), box)


def _means(sheet: Sheet, metric: str) -> Markup | None:
    """Returns the means over all, declared, high-, mid- and low-resource languages."""
    means: dict[str, dict[str, Mean]] = {
        model: {mean.name: mean for mean in sheet.means(model, metric)} for model in sheet.models
    }
    names = list(dict.fromkeys(name for found in means.values() for name in found))
    if not names:
        return None
    titles = {"all": "all languages", "declared": "declared", "high": "high resource", "mid": "mid", "low": "low"}
    heads = [el("th", titles.get(name, name), scope="col") for name in names]
    labels = row_names(sheet.models)
    rows = [
        el("tr", el("th", labels[model], scope="row", title=model), [_mean_cell(found[name]) for name in names])
        for model, found in means.items()
    ]
    known = [code for code in sheet.languages if code in language_codes.known()]
    groups = "; ".join(f"{name}: {' '.join(codes)}" for name, codes in by_resource(known).items())
    caption = (
        f"Means of {metric} over languages, their number behind. A mean is left out where the model lacks one of its "
        "languages. Only that of declared languages may be over others in the next row."
        + (f" {SOURCE}. {groups}." if groups else "")
    )
    return join(el("h3", "Means over languages"), _figure(caption, heads, rows, "model", f"{sheet.title}, means"))


def _mean_cell(mean: Mean) -> Markup:
    if mean.value is None:
        return el("td", "–", class_="none")
    return el("td", points(mean.value), " ", el("span", f"({mean.n})", class_="ends"))


def _heat(sheet: Sheet, metric: str) -> Markup | None:
    # One model in few languages is its table over again.
    if not 2 <= len(sheet.languages) <= _MOST_LANGUAGES or (len(sheet.models) < 2 and len(sheet.languages) <= _FEW):
        return None
    if not any(sheet.value(model, code, metric) is not None for model in sheet.models for code in sheet.languages):
        return None
    plot = el("div", Markup(heat_map(sheet, metric)), class_="plot")
    return join(el("h3", "Heat map"), el("figure", plot))


def _costs(sheet: Sheet, metric: str) -> Markup | None:
    plots = cost_plots(sheet, metric)
    if not plots:
        return None
    text = "Mean over the languages that all of these models have. Dashed: those that no other beats in both."
    boxes = [el("div", Markup(plot), class_="plot") for plot in plots]
    return join(el("h3", "Quality against cost"), el("p", text, class_="quiet small"), el("div", boxes, class_="plots"))


def _differences(sheet: Sheet, metric: str) -> Markup | None:
    """Returns the differences of all models from the first, language by language."""
    boxes = []
    for model in sheet.models[1:]:
        found = differences(sheet, sheet.models[0], model, metric)
        if not found:
            continue
        told, kinds = tally(found), {one.kind for one in found}
        title = f"{short_name(model)} minus {short_name(sheet.models[0])}"
        text = (
            f"{title}: {100 * told['mean']:+.1f} points on average; surely above in {told['above']:.0f}, surely below "
            f"in {told['below']:.0f} of {_count(int(told['languages']), 'language')}."
        )
        if UNPAIRED in kinds:
            text += " Some intervals are unpaired, because what each query reached is not kept on both sides: too wide."
        if BARE in kinds:
            text += " Some have no interval: the files state none."
        plot = el("div", Markup(difference_plot(found, title=f"{title}, {metric}")), class_="plot")
        boxes.append(el("figure", el("figcaption", text), plot))
    if not boxes:
        return None
    return join(el("h3", f"Differences in {metric}, 95 % intervals"), el("div", boxes, class_="plots"))


def _published(sheet: Sheet, metric: str) -> Markup | None:
    """Returns the published figures of the same set and direction beside the measured ones: do they compare?"""
    found = sheet.published_for(metric)
    codes = [code for code in ("mean", *sheet.languages) if any(code in rows for rows in found.values())]
    found = {key: figures for key, figures in found.items() if any(code in figures for code in codes)}
    if not found:
        return None
    heads = [el("th", "compares?", scope="col"), *(el("th", code, scope="col") for code in codes)]
    rows = [_measured_row(sheet, model, metric, codes) for model in sheet.models]
    unequal = 0
    for (model, protocol), figures in found.items():
        reasons = list(dict.fromkeys(reason for row in figures.values() for reason in sheet.unequal(row)))
        unequal += bool(reasons)
        tag = el("span", "no", class_="tag no") if reasons else el("span", "yes, as far as known", class_="tag")
        verdict = el("td", tag, " ", "; ".join([protocol, *reasons]), class_="text")
        cells = [
            el("td", points(figures[code].metrics[metric]), title=f"{code}, published: {figures[code].origin}")
            if code in figures
            else el("td", "–", class_="none")
            for code in codes
        ]
        rows.append(el("tr", el("th", model, scope="row"), verdict, cells, class_="published"))
    caption = (
        f"{metric}, per cent. Published figures are in italics: quoted from the model cards, not measured here; those "
        "of measured models come first. A dash: not published."
    )
    figure = _figure(caption, heads, rows, "model", f"{sheet.title}, published {metric}")
    summary = (
        f"Published figures beside the measured ones: {_count(len(found), 'row')}, {unequal} under other conditions"
    )
    return el("details", el("summary", summary), figure, open=len(found) <= _PUBLISHED_OPEN)


def _measured_row(sheet: Sheet, model: str, metric: str, codes: Sequence[str]) -> Markup:
    """Returns one measured row of the table of published figures."""
    mean = next((one.value for one in sheet.means(model, metric) if one.name == "all"), None)
    values = [mean if code == "mean" else sheet.value(model, code, metric) for code in codes]
    cells = [el("td", points(value), class_="none" if value is None else None) for value in values]
    verdict = el("td", el("span", "measured", class_="tag"), " ", sheet.conditions.protocol, class_="text")
    return el("tr", el("th", model, scope="row"), verdict, cells)


def _how(sheets: Sequence[Sheet], command: str) -> Markup:
    """Returns how the figures came about: versions, devices, precision, seeds, as far as the results state them."""
    facts: dict[str, dict[str, None]] = {}
    for sheet in sheets:
        for row in sheet.cells.values():
            for name, value in _facts_of(row).items():
                facts.setdefault(name, {})[value] = None
    listed = [join(el("dt", name), el("dd", ", ".join(values))) for name, values in facts.items()]
    made = el("p", "Made by ", el("code", command), class_="small quiet") if command else None
    return el("section", el("h2", "How it was measured", id="how"), el("dl", listed, class_="facts"), made)


def _facts_of(row: Row) -> dict[str, str]:
    result: Mapping[str, Any] = row.result
    versions = result.get("versions")
    found = {"read from": row.origin}
    if isinstance(versions, dict):
        found["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    names = {
        "dtype": "precision",
        "device": "device",
        "preprocess": "pictures prepared by",
        "text_cleaning": "texts cleaned by",
    }
    for field, title in names.items():
        if result.get(field):
            found[title] = str(result[field])
    if result.get("revision"):
        found["revisions"] = f"{short_name(row.model)} {str(result['revision'])[:12]}"
    return found
