"""Rows put into sheets: one sheet holds what compares, models down and languages across, in a fixed order.

Entry points: `make_sheets`, `Sheet`, `order_of_languages`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from babelclip.errors import BabelclipError, did_you_mean
from babelclip.evaluate.dataset_names import dataset_title
from babelclip.evaluate.published import inequalities, published_beside
from babelclip.evaluate.report_rows import DIRECTION_TITLES, METRICS, TASK_TITLES, Conditions, Row
from babelclip.evaluate.resource import by_resource
from babelclip.evaluate.result import NOT_AS_PUBLISHED


@dataclass(frozen=True)
class Mean:
    """A mean over n languages; `value` is None where the model lacks one: means over other sets do not compare."""

    name: str
    value: float | None
    n: int


@dataclass(frozen=True)
class Sheet:
    """What was measured under one set of conditions.

    Attributes:
        conditions: shared by all rows.
        models: in the order in which they were read.
        languages: English first, then by code.
        cells: (model, language) -> its row.
        metrics: those of the task that any row has, the one of the open table first.
        published: figures of the same data set, task and direction with one of these metrics.
    """

    conditions: Conditions
    models: tuple[str, ...]
    languages: tuple[str, ...]
    cells: Mapping[tuple[str, str], Row]
    metrics: tuple[str, ...]
    published: tuple[Row, ...] = ()

    @property
    def title(self) -> str:
        """Data set, task and direction, in words."""
        parts = [dataset_title(self.conditions.dataset), TASK_TITLES.get(self.conditions.task, self.conditions.task)]
        if self.conditions.direction:
            parts.append(DIRECTION_TITLES.get(self.conditions.direction, self.conditions.direction))
        return ", ".join(parts)

    @property
    def subtitle(self) -> str:
        """Split and protocol, in words."""
        split = f"{self.conditions.split} split" if self.conditions.split else ""
        return ", ".join(part for part in (split, self.conditions.protocol) if part)

    def value(self, model: str, language: str, metric: str) -> float | None:
        """Returns one figure, or None where it was not measured."""
        row = self.cells.get((model, language))
        return None if row is None else row.metrics.get(metric)

    def means(self, model: str, metric: str) -> list[Mean]:
        """Returns the macro means of a model: all languages, those it declares, and each resource group.

        Only the mean of declared languages may be over other languages than that of the next model.
        """
        if len(self.languages) < 2:
            return []
        declared = [code for code in self.languages if (row := self.cells.get((model, code))) and row.declared]
        groups = {"all": list(self.languages), "declared": declared, **by_resource(_real(self.languages))}
        if not any(row.declared is not None for row in self.cells.values()):
            del groups["declared"]
        return [
            Mean(name, mean([self.value(model, code, metric) for code in codes]), len(codes))
            for name, codes in groups.items()
        ]

    def best(self, language: str, metric: str) -> float | None:
        """Returns the highest figure of a language as it is shown, or None where fewer than two were measured."""
        shown = [round(value, 3) for model in self.models if (value := self.value(model, language, metric)) is not None]
        return max(shown) if len(shown) > 1 else None

    def published_for(self, metric: str) -> dict[tuple[str, str], dict[str, Row]]:
        """Returns the published figures of a metric: (model, protocol as its source words it) -> language -> row.

        Models that were measured here come first.
        """
        found: dict[tuple[str, str], dict[str, Row]] = {}
        for row in sorted(self.published, key=lambda row: _short(row.model) not in map(_short, self.models)):
            if metric in row.metrics:
                found.setdefault((row.model, row.notes[0]), {})[row.language] = row
        return found

    def unequal(self, row: Row) -> tuple[str, ...]:
        """Returns why a published row does not compare with the measured ones."""
        measured = (note for one in self.cells.values() for note in one.notes)
        other = any(f": {NOT_AS_PUBLISHED}" in note for note in measured)
        return (*inequalities(row, self.conditions), *(("measured on a set of another size",) if other else ()))


def make_sheets(rows: Sequence[Row], metric: str = "") -> tuple[list[Sheet], list[str]]:
    """Returns the sheets in the order in which their conditions first come, and a sentence for each doubled cell.

    Args:
        rows: measured ones.
        metric: to be put first where a sheet has it.

    Raises:
        BabelclipError: no row has it.
    """
    measured = {name for row in rows for name in row.metrics}
    if metric and rows and metric not in measured:
        raise BabelclipError(f"no result has the metric {metric!r}. {did_you_mean(metric, sorted(measured))}")
    cells: dict[Conditions, dict[tuple[str, str], Row]] = {}
    doubled = []
    for row in map(_across, rows):
        of_sheet = cells.setdefault(row.conditions, {})
        if (row.model, row.language) in of_sheet:
            where = f"{row.model}, {dataset_title(row.conditions.dataset)}, {row.language} {row.conditions.direction}"
            doubled.append(f"two results are of {where.strip()}: the one read last is shown")
        of_sheet[row.model, row.language] = row
    sheets = []
    for conditions, of_sheet in cells.items():
        models = tuple(dict.fromkeys(model for model, _ in of_sheet))
        codes = order_of_languages([code for _, code in of_sheet])
        metrics = _metrics(conditions.task, of_sheet, metric)
        beside = tuple(row for row in published_beside(conditions) if set(row.metrics) & set(metrics))
        sheets.append(Sheet(conditions, models, codes, of_sheet, metrics, beside))
    return sheets, doubled


def _across(row: Row) -> Row:
    """Returns a translation with both of its languages as its column, `en->cs`, so that one sheet holds them all."""
    if row.conditions.task != "translation_retrieval":
        return row
    return replace(row, conditions=row.conditions._replace(direction=""), language=row.conditions.direction)


def order_of_languages(codes: Sequence[str]) -> tuple[str, ...]:
    """Returns the distinct codes, English first, the others by code: the same order in every table."""
    return tuple(sorted(set(codes), key=lambda code: (code != "en", code.split("-")[0] != "en", code)))


def mean(values: Sequence[float | None]) -> float | None:
    """Returns the mean, or None where there is no value or one is missing."""
    measured = [value for value in values if value is not None]
    return sum(measured) / len(measured) if measured and len(measured) == len(values) else None


def _metrics(task: str, cells: Mapping[tuple[str, str], Row], first: str) -> tuple[str, ...]:
    """Returns what the tables of a sheet show: the task's metrics as far as they were measured, else all that were."""
    measured = dict.fromkeys(name for row in cells.values() for name in row.metrics)
    chosen = [name for name in METRICS.get(task, ()) if name in measured] or list(measured)
    if first in measured:
        chosen = [first, *(name for name in chosen if name != first)]
    return tuple(chosen)


def _real(codes: Sequence[str]) -> list[str]:
    """Returns the codes that name one language: `mixed` and the like belong to no group."""
    from babelclip import languages

    return [code for code in codes if code in languages.known()]


def _short(model: str) -> str:
    return model.rstrip("/").rsplit("/", 1)[-1].lower()


def base_first(rows: Sequence[Row], base: str) -> list[Row]:
    """Returns the rows with those of one model first, so that differences are taken from it.

    Args:
        rows: measured ones.
        base: name of a model, or the last part of its path.

    Raises:
        BabelclipError: no row is of that model; the message names the near ones.
    """
    names = {row.model for row in rows}
    if not any(base == name or _short(base) == _short(name) for name in names):
        raise BabelclipError(f"No result is of the model {base!r}. {did_you_mean(base, names)}")
    return sorted(rows, key=lambda row: _short(row.model) != _short(base))
