"""Results on disk and as tables: models in rows, languages in columns, as in the M-CLIP card.

Entry points: `write_results`, `read_results`, `markdown_table`, `table_values`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from babelclip import languages as language_codes
from babelclip.errors import BabelclipError, did_you_mean
from babelclip.evaluate.result import check_result
from babelclip.files import read_json, write_json

Result = Mapping[str, Any]
UNTAUGHT_MARK = "*"
_ABSENT = "–"


@dataclass(frozen=True)
class Table:
    """Figures by row and column, in the order in which they are shown; None where nothing was measured.

    Attributes:
        rows: labels of the models.
        columns: language codes, then the names of the means.
        values: one list a row; the metric as measured, a fraction and not a percentage.
        untaught: the language columns that carry the mark.
        metric: name of the metric, for captions.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    untaught: frozenset[str]
    metric: str

    def header(self, column: str) -> str:
        """Returns the column's name with its mark."""
        return column + UNTAUGHT_MARK if column in self.untaught else column

    def best(self, column: int) -> float | None:
        """Returns the highest figure of a column as it is shown, or None where it has fewer than two."""
        shown = [round(value, 3) for value in (row[column] for row in self.values) if value is not None]
        return max(shown) if len(shown) > 1 else None


def write_results(results: Sequence[Result], path: Path | str, *, overwrite: bool = False) -> Path:
    """Writes results as a JSON list, atomically, and returns the path.

    Raises:
        BabelclipError: a result lacks a field, or the file exists and `overwrite` is False.
    """
    path = Path(path)
    for result in results:
        check_result(result)
    if path.exists() and not overwrite:
        raise BabelclipError(
            f"{path} exists already; results are never overwritten in silence. Choose another name, or pass "
            "overwrite=True to replace them."
        )
    write_json(path, [dict(result) for result in results])
    return path


def read_results(path: Path | str) -> list[dict[str, Any]]:
    """Returns the results of a file that `write_results` wrote.

    Raises:
        BabelclipError: the file is missing, is no JSON list, or a result lacks a field.
    """
    results = read_json(path)
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise BabelclipError(
            f"{path} holds {type(results).__name__}, not a list of results. Give a file made by write_results."
        )
    for result in results:
        check_result(result)
    return results


def table_values(
    results: Sequence[Result],
    *,
    rows: Sequence[str] | Mapping[str, str] | None = None,
    columns: Sequence[str] | None = None,
    metric: str = "R@10",
    direction: str = "t2i",
    dataset: str | None = None,
    split: str | None = None,
    taught: Collection[str] | None = None,
    means: Mapping[str, Sequence[str]] | None = None,
) -> Table:
    """Returns the figures of a table: one row a model, one column a language, then one a mean.

    Args:
        results: as from `evaluate_retrieval`; those of other directions, data sets and splits are passed over.
        rows: model names in order, or model name -> label; by default all models, as they come.
        columns: languages in order; by default English, then the taught ones, then the others, each by code.
        metric: name within `metrics`.
        direction: `t2i` or `i2t`.
        dataset: needed where the results hold several.
        split: likewise.
        taught: languages the student was taught; columns beyond them are marked. None marks nothing.
        means: name -> languages to average over. A row that lacks one of them has no such mean, so that rows compare.

    Raises:
        BabelclipError: nothing fits, a row or metric is not among the results, or two results claim one cell.
    """
    fitting = [
        result
        for result in results
        if result["direction"] == direction
        and dataset in (None, result["dataset"])
        and split in (None, result["split"])
    ]
    if not fitting:
        found = sorted({f"{result['dataset']}/{result['split']} {result['direction']}" for result in results})
        raise BabelclipError(
            f"No result is of dataset {dataset or 'any'}, split {split or 'any'}, direction {direction}; there are: "
            f"{', '.join(found) or 'none'}. Ask for one of these."
        )
    cells = _cells(fitting, metric)
    models = list(dict.fromkeys(str(result["model"]) for result in fitting))
    labels = dict(rows) if isinstance(rows, Mapping) else {name: name for name in (models if rows is None else rows)}
    for name in labels:
        if name not in models:
            raise BabelclipError(f"No result is of the model {name!r}. {did_you_mean(name, models)}")
    present = {language for _, language in cells}
    if columns is None:
        codes = sorted(present, key=lambda code: _column_order(code, taught))
    else:
        codes = [language_codes.normalize(code) for code in columns]
    groups = {name: [language_codes.normalize(code) for code in codes_] for name, codes_ in (means or {}).items()}
    values = tuple(
        (
            *(cells.get((model, code)) for code in codes),
            *(_mean([cells.get((model, code)) for code in group]) for group in groups.values()),
        )
        for model in labels
    )
    untaught = frozenset() if taught is None else frozenset(c for c in codes if not language_codes.covers(taught, c))
    return Table(tuple(labels.values()), (*codes, *groups), values, untaught, metric)


def markdown_table(
    results: Sequence[Result],
    *,
    bold_best: bool = True,
    percent: bool = True,
    row_header: str = "model",
    **choices: Any,
) -> str:
    """Returns a Markdown table of `table_values(results, **choices)`, ending in a line that explains its mark.

    Args:
        results: as from `evaluate_retrieval`.
        bold_best: the highest figure of each column, as rounded, in bold; equal ones all are.
        percent: figures in per cent with one decimal, else fractions with three.
        row_header: name over the first column.
        **choices: see `table_values`.
    """
    table = table_values(results, **choices)
    head = [row_header, *(table.header(column) for column in table.columns)]
    lines = [_markdown_row(head), "|" + "|".join(["---", *["--:"] * len(table.columns)]) + "|"]
    best = [table.best(column) if bold_best else None for column in range(len(table.columns))]
    for label, values in zip(table.rows, table.values, strict=True):
        cells = []
        for value, highest in zip(values, best, strict=True):
            text = _figure(value, percent)
            top = value is not None and highest is not None and round(value, 3) >= highest
            cells.append(f"**{text}**" if top else text)
        lines.append(_markdown_row([label, *cells]))
    if table.untaught:
        lines += ["", f"\\{UNTAUGHT_MARK} a language without training text: what it reaches is transfer."]
    return "\n".join(lines) + "\n"


def _cells(results: Sequence[Result], metric: str) -> dict[tuple[str, str], float]:
    cells: dict[tuple[str, str], float] = {}
    for result in results:
        key = (str(result["model"]), str(result["language"]))
        if key in cells:
            raise BabelclipError(
                f"Two results are of model {key[0]!r} and language {key[1]!r} (dataset {result['dataset']!r}, split "
                f"{result['split']!r}); a cell holds one. Narrow by dataset= or split=, or name the models apart."
            )
        if metric not in result["metrics"]:
            raise BabelclipError(f"No metric is called {metric!r}. {did_you_mean(metric, result['metrics'])}")
        cells[key] = float(result["metrics"][metric])
    return cells


def _column_order(code: str, taught: Collection[str] | None) -> tuple[bool, bool, str]:
    return (code != "en", taught is not None and not language_codes.covers(taught, code), code)


def _mean(values: Sequence[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    return sum(measured) / len(measured) if values and len(measured) == len(values) else None


def _figure(value: float | None, percent: bool) -> str:
    if value is None:
        return _ABSENT
    return f"{100 * value:.1f}" if percent else f"{value:.3f}"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
