"""What a model costs beside what it reaches: parameters and texts a second against the mean over languages.

Entry point: `cost_plots`.
"""

from __future__ import annotations

from babelclip.evaluate.report_plots import cost_plot
from babelclip.evaluate.report_sheets import Sheet, mean

_SHORTEST = 0.05  # seconds; below it a clock tells nothing of speed


def cost_plots(sheet: Sheet, metric: str) -> list[str]:
    """Returns SVG plots of quality against size and against speed, each where at least two models have a figure."""
    shared = [code for code in sheet.languages if all(sheet.value(m, code, metric) is not None for m in sheet.models)]
    if not shared or len(sheet.models) < 2:
        return []
    quality = {
        model: 100 * value
        for model in sheet.models
        if (value := mean([sheet.value(model, code, metric) for code in shared])) is not None
    }
    label = f"{metric}, mean of {len(shared)} language{'s' if len(shared) > 1 else ''}"
    plots = []
    for x_label, of, less in (("parameters", size, True), ("texts a second", text_speed, False)):
        found = {model: (cost, quality[model]) for model in quality if (cost := of(sheet, model)) is not None}
        if len(found) > 1:
            title = f"{sheet.title}: quality against {x_label}"
            plots.append(cost_plot(found, title=title, x_label=x_label, y_label=label, less=less))
    return plots


def size(sheet: Sheet, model: str) -> float | None:
    """Returns the parameters of a model as its results state them, or None."""
    for (name, _), row in sheet.cells.items():
        count = row.result.get("parameters")
        if name == model and isinstance(count, int) and count > 0:
            return float(count)
    return None


def text_speed(sheet: Sheet, model: str) -> float | None:
    """Returns texts a second over all languages of a sheet, scoring included, or None where that is not stated.

    Figures of two machines do not compare: it is None where the models of a sheet ran on several devices.
    """
    devices = {str(row.result.get("device", "")) for row in sheet.cells.values()}
    texts, seconds = 0, 0.0
    for (name, _), row in sheet.cells.items():
        if name == model:
            texts += int(row.result.get("n_captions") or 0)
            seconds += float(row.result.get("seconds") or 0.0)
    return texts / seconds if texts and seconds >= _SHORTEST and len(devices) == 1 else None
