"""The tables that a run prints at its end: for each task and benchmark, models in rows and languages in columns.

`babelclip report` makes the full ones. Entry point: `summary`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from babelclip.errors import BabelclipError, did_you_mean
from babelclip.evaluate.report_rows import METRICS, TASK_TITLES, Conditions, Row, row_of

_ABSENT = "–"
# A table of so many columns is cut into several.
_COLUMNS = 14


def summary(results: Sequence[Mapping[str, Any]], metric: str = "") -> str:
    """Returns Markdown: one table for each task, benchmark, split, direction and protocol, in per cent.

    Args:
        results: as `babelclip.evaluate.run` gives them.
        metric: which to show where a task has it; else each task's first.

    Raises:
        BabelclipError: no result has the metric.
    """
    rows = [row_of(result) for result in results]
    known = {name for row in rows for name in row.metrics}
    if metric and rows and metric not in known:
        raise BabelclipError(f"No metric is called {metric!r}. {did_you_mean(metric, known)}")
    tables: dict[Conditions, list[Row]] = {}
    for row in rows:
        # A translation has two languages: its directions are the columns of one table.
        across = row.conditions.task == "translation_retrieval"
        tables.setdefault(row.conditions._replace(direction="") if across else row.conditions, []).append(row)
    return "\n".join(_table(conditions, of_table, metric) for conditions, of_table in tables.items())


def _table(conditions: Conditions, rows: Sequence[Row], metric: str) -> str:
    measured = dict.fromkeys(name for row in rows for name in row.metrics)
    # With other k than usual none of the task's own names is there.
    shown = next(name for name in (metric, *METRICS[conditions.task], *measured) if name in measured)
    across = conditions.task == "translation_retrieval"
    values = {
        (row.model, row.conditions.direction if across else row.language): row.metrics[shown]
        for row in rows
        if shown in row.metrics
    }
    models = list(dict.fromkeys(model for model, _ in values))
    codes = sorted({code for _, code in values}, key=lambda code: (code != "en", code))
    words = [
        f"{shown}, {conditions.direction}" if conditions.direction else shown,
        f"{TASK_TITLES[conditions.task]}, {conditions.dataset} {conditions.split}",
        conditions.protocol,
    ]
    parts = ["\n" + "; ".join(word for word in words if word) + "\n"]
    columns = [*codes, "mean"] if len(codes) > 1 else codes
    means = {model: [values[model, code] for code in codes if (model, code) in values] for model in models}
    for start in range(0, len(columns), _COLUMNS):
        some = columns[start : start + _COLUMNS]
        parts.append(_line(["model", *some]))
        parts.append("|---|" + "--:|" * len(some))
        for model in models:
            whole = sum(means[model]) / len(codes) if len(means[model]) == len(codes) else None
            parts.append(
                _line([model, *(_figure(whole if code == "mean" else values.get((model, code))) for code in some)])
            )
        parts.append("")
    return "\n".join(parts)


def _figure(value: float | None) -> str:
    return _ABSENT if value is None else f"{100 * value:.1f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
