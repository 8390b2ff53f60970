"""The report as Markdown, for a README or a model card, and as CSV, for everything else.

Entry points: `report_markdown`, `sheet_markdown`, `report_csv`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from babelclip import languages as language_codes
from babelclip.evaluate.report_compare import differences, tally
from babelclip.evaluate.report_rows import Row
from babelclip.evaluate.report_sheets import Sheet
from babelclip.evaluate.resource import SOURCE, by_resource, resource_group

NO_VALUE = "–"
UNDECLARED = "*"
CSV_COLUMNS = (
    *("task", "dataset", "split", "direction", "protocol", "model", "language", "resource", "metric", "value"),
    *("low", "high", "declared", "published", "origin", "leaks", "notes"),
)


def points(value: float | None) -> str:
    """Returns a share as per cent with one decimal, or a dash."""
    return NO_VALUE if value is None else f"{100 * value:.1f}"


def report_markdown(sheets: Sequence[Sheet], *, warnings: Sequence[str] = (), published: bool = True) -> str:
    """Returns the whole report: for each sheet its table, means, published figures, differences and notes."""
    parts = ["# Evaluation report\n"]
    if warnings:
        parts.append("\n".join(f"* {_escape(warning)}" for warning in warnings) + "\n")
    for sheet in sheets:
        parts.append(f"## {_escape(sheet.title)}\n\n{_escape(sheet.subtitle)}\n")
        for metric in sheet.metrics:
            parts.append(f"**{metric}**, per cent\n\n{sheet_markdown(sheet, metric)}")
            parts.append(_means(sheet, metric))
            if published:
                parts.append(_published(sheet, metric))
        parts += [_differences(sheet), _notes(sheet)]
    return "\n".join(part for part in parts if part)


def sheet_markdown(sheet: Sheet, metric: str) -> str:
    """Returns one table: models down, languages across; the best of a column in bold, undeclared languages marked."""
    rows = [["model", *sheet.languages]]
    marked = False
    for model in sheet.models:
        cells = [model]
        for code in sheet.languages:
            value, best = sheet.value(model, code, metric), sheet.best(code, metric)
            text = points(value)
            if value is not None and best is not None and round(value, 3) >= best:
                text = f"**{text}**"
            row = sheet.cells.get((model, code))
            if row is not None and row.declared is False:
                marked, text = True, text + f"\\{UNDECLARED}"
            cells.append(text)
        rows.append(cells)
    note = f"\n\\{UNDECLARED} the model does not declare the language: what it reaches is transfer.\n" if marked else ""
    return _table(rows) + note


def _means(sheet: Sheet, metric: str) -> str:
    by_model = {model: sheet.means(model, metric) for model in sheet.models}
    names = list(dict.fromkeys(mean.name for means in by_model.values() for mean in means))
    if not names:
        return ""
    rows = [["mean over", *names]]
    for model, means in by_model.items():
        found = {mean.name: mean for mean in means}
        rows.append([model, *(f"{points(found[name].value)} ({found[name].n})" for name in names)])
    groups = by_resource([code for code in sheet.languages if code in language_codes.known()])
    told = "; ".join(f"{name}: {' '.join(codes)}" for name, codes in groups.items())
    return _table(rows) + f"\nIn brackets: languages. Resource groups: {SOURCE}. {told}.\n"


def _published(sheet: Sheet, metric: str) -> str:
    found = sheet.published_for(metric)
    if not found:
        return ""
    codes = [code for code in (*sheet.languages, "mean") if any(code in rows for rows in found.values())]
    rows = [["published, not measured here", *codes, "protocol", "compares"]]
    for (model, protocol), figures in found.items():
        reasons = list(dict.fromkeys(reason for row in figures.values() for reason in sheet.unequal(row)))
        cells = [points(figures[code].metrics[metric] if code in figures else None) for code in codes]
        rows.append([model, *cells, protocol, "yes" if not reasons else "no: " + "; ".join(reasons)])
    return _table(rows)


def _differences(sheet: Sheet) -> str:
    if len(sheet.models) < 2:
        return ""
    base, metric = sheet.models[0], sheet.metrics[0]
    rows = [["difference", "mean, points", "surely above", "surely below", "languages", "intervals"]]
    for model in sheet.models[1:]:
        found = differences(sheet, base, model, metric)
        if found:
            told = tally(found)
            kinds = ", ".join(dict.fromkeys(one.kind for one in found))
            rows.append(
                [f"{model} minus {base}", f"{100 * told['mean']:+.1f}"]
                + [f"{told[name]:.0f}" for name in ("above", "below", "languages")]
                + [kinds]
            )
    return f"{metric}, 95 % intervals\n\n{_table(rows)}" if len(rows) > 1 else ""


def _notes(sheet: Sheet) -> str:
    notes = notes_of(sheet)
    return "\n".join(f"* {_escape(note)}" for note in notes) + ("\n" if notes else "")


def notes_of(sheet: Sheet) -> list[str]:
    """Returns each leak and note of a sheet once, with the models and languages that it concerns."""
    found: dict[str, dict[str, list[str]]] = {}
    for (model, code), row in sheet.cells.items():
        for note in (*(f"leak: {leak}" for leak in row.leaks), *row.notes):
            found.setdefault(note, {}).setdefault(model, []).append(code)
    told = []
    for note, models in found.items():
        everywhere = len(models) == len(sheet.models) and all(len(c) == len(sheet.languages) for c in models.values())
        where = "" if everywhere else f" ({'; '.join(f'{m}: {_few(c)}' for m, c in models.items())})"
        told.append(note + where)
    return told


def _few(codes: Sequence[str], most: int = 8) -> str:
    return ", ".join(codes[:most]) + (f" and {len(codes) - most} more" if len(codes) > most else "")


def report_csv(sheets: Sequence[Sheet], *, published: bool = True) -> str:
    """Returns one line a figure, measured and published ones told apart by the column `published`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for sheet in sheets:
        for model in sheet.models:
            for code in sheet.languages:
                if (model, code) in sheet.cells:
                    writer.writerows(_lines(sheet.cells[model, code], ()))
        for row in sheet.published if published else ():
            writer.writerows(_lines(row, sheet.unequal(row)))
    return text.getvalue()


def _lines(row: Row, reasons: Sequence[str]) -> list[list[str]]:
    conditions = list(row.conditions)
    group = resource_group(row.language) if row.language in language_codes.known() else None
    declared = "" if row.declared is None else str(row.declared).lower()
    lines = []
    for metric, value in row.metrics.items():
        ends = [f"{end:.6g}" for end in row.intervals[metric]] if metric in row.intervals else ["", ""]
        facts = [declared, str(row.published).lower(), row.origin]
        notes = ["; ".join(row.leaks), "; ".join((*row.notes, *reasons))]
        cells = [*conditions, row.model, row.language, group or "", metric, f"{value:.6g}", *ends, *facts, *notes]
        lines.append([_safe(cell) for cell in cells])
    return lines


def _safe(cell: str) -> str:
    """Returns a cell that no spreadsheet takes for a formula: names come from files that nobody here wrote."""
    return f"'{cell}" if cell[:1] in "=+@\t" else cell


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(_escape(cell, keep="*\\") for cell in row) + " |" for row in rows]
    lines.insert(1, "|---|" + "--:|" * (len(rows[0]) - 1))
    return "\n".join(lines) + "\n"


def _escape(text: str, keep: str = "") -> str:
    for mark in "\\|<":
        if mark not in keep:
            text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
