"""Training on the demo's page: the error per step against the trivial predictor, and per language."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from babelclip.evaluate.plots import line_chart
from babelclip.starter.page_parts import Markup, absent, el, language_heads, language_of, percent, section, wide_table

_MOST_POINTS = 250
_WIDTH, _HEIGHT = 420, 300  # small enough to be read on a phone, where the plot shrinks to its column

Curve = tuple[list[float], list[float]]


def training(report: Mapping[str, Any]) -> Markup:
    """Returns the section of training curves, or one line where nothing was recorded."""
    title = "Training"
    content: Mapping[str, Any] = report.get("training") or {}
    curve: Sequence[Mapping[str, Any]] = content.get("curve") or []
    validation: Sequence[Mapping[str, Any]] = content.get("validation") or []
    if not curve and not validation:
        return section("training", title, absent("No training curve was recorded in this run."))
    trivial = content.get("trivial_mse")
    plots = [
        _plot({"student": _of(curve, "mse")}, "Error on the training texts", "mean squared error", trivial),
        _loss(curve),
        _plot(_extremes(report, validation), "Error on texts kept aside", "mean squared error", trivial),
    ]
    return section(
        "training",
        title,
        _explanation(curve, trivial),
        el("div", [plot for plot in plots if plot], class_="plots"),
        _validation_table(report, validation, trivial),
    )


def _explanation(curve: Sequence[Mapping[str, Any]], trivial: float | None) -> Markup:
    """Returns what the curves mean, with the share of variance that the student explains at the end."""
    text = "The student learns to give a text the vector that the teacher gives to its English original. "
    if trivial:
        text += (
            "The trivial predictor always answers with the mean vector; its error is the variance of the targets, "
            f"{trivial:.3g} per component. A student at that line has learned nothing, whatever its loss looks like. "
        )
        _, errors = _of(curve, "mse")
        last = next((error for error in reversed(errors) if math.isfinite(error)), None)
        if last is not None:
            text += f"At the end the student's error on the training texts is {percent(last / trivial)} of it."
    return el("p", text.strip())


def _of(points: Sequence[Mapping[str, Any]], key: str) -> Curve:
    """Returns steps and values of one figure; long curves as means of neighbouring points, a missing value is NaN."""
    every = math.ceil(len(points) / _MOST_POINTS) or 1
    steps: list[float] = []
    values: list[float] = []
    for start in range(0, len(points), every):
        part = points[start : start + every]
        numbers = [float(point[key]) for point in part if point.get(key) is not None]
        steps.append(float(part[-1]["step"]))
        values.append(sum(numbers) / len(numbers) if numbers else math.nan)
    return steps, values


def _loss(curve: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Returns the plot of the loss where the loss is something else than the mean squared error."""
    loss, mse = _of(curve, "loss"), _of(curve, "mse")
    if loss[1] == mse[1]:
        return None
    return _plot({"student": loss}, "Training loss, as it is minimised", "loss", None)


def _plot(curves: Mapping[str, Curve], title: str, y_label: str, trivial: float | None) -> Markup | None:
    """Returns one plot with the trivial predictor as a dashed line, or None without a finite value."""
    if not any(math.isfinite(value) for _, values in curves.values() for value in values):
        return None
    references = {"trivial predictor": trivial} if trivial else None
    return el(
        "div",
        Markup(line_chart(curves, title=title, y_label=y_label, references=references, width=_WIDTH, height=_HEIGHT)),
        class_="plot",
    )


def _extremes(report: Mapping[str, Any], validation: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    """Returns the curves of the mean and of the languages that end best and worst: fourteen lines are unreadable."""
    measured = [point for point in validation if point.get("mse")]
    codes = (
        [code for code in measured[-1]["mse"] if all(code in point["mse"] for point in measured)] if measured else []
    )
    if not codes:
        return {}
    steps = [float(point["step"]) for point in measured]
    means = [sum(point["mse"][code] for code in codes) / len(codes) for point in measured]
    curves = {"mean of languages": (steps, means)}
    last = measured[-1]["mse"]
    for what, code in (("lowest", min(codes, key=last.__getitem__)), ("highest", max(codes, key=last.__getitem__))):
        if len(codes) > 1:
            name = language_of(report, code).name
            curves[f"{what} at the end: {name}"] = (steps, [float(point["mse"][code]) for point in measured])
    return curves


def _validation_table(
    report: Mapping[str, Any], validation: Sequence[Mapping[str, Any]], trivial: float | None
) -> Markup | None:
    """Returns the error of every language at every validation, relative to the trivial predictor where it is known."""
    measured = [point for point in validation if point.get("mse")]
    if not measured:
        return None
    codes = list(dict.fromkeys(code for point in measured for code in point["mse"]))
    rows = []
    for point in measured:
        values = [point["mse"].get(code) for code in codes]
        cells = [el("td", "–" if value is None else _relative(value, trivial)) for value in values]
        rows.append((f"{point['step']:,}", cells, ""))
    unit = "in percent of the trivial predictor's" if trivial else "per component"
    title = f"Mean squared error on texts kept aside, {unit}, by language"
    table = wide_table(title, language_heads(report, codes), rows, corner="Step", label=title)
    return el("details", el("summary", "Every language at every validation"), table)


def _relative(value: float, trivial: float | None) -> str:
    return f"{100 * value / trivial:.1f}" if trivial else f"{value:.3g}"
