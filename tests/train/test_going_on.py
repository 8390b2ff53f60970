"""Runs that go on: after a kill before the first step, with another measure, for longer than was planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from babelclip.errors import BabelclipError
from babelclip.train import checkpoint
from tests.train.test_loop import same_weights, start


def test_a_run_killed_before_its_first_step_counts_its_start_once(tmp_path: Path):
    options = {"validate_every": 2, "early_stop": 2, "save_every": 100}

    def worse() -> dict[str, float]:
        return {"mse": 1.0}

    whole, ended = start(tmp_path / "whole", validate=worse, **options)

    def killed() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "cut", validate=worse, after_step=killed, **options)
    assert checkpoint.saved_steps(tmp_path / "cut") == [0]
    resumed, result = start(tmp_path / "cut", validate=worse, resume=True, **options)
    assert (result.step, result.best_step) == (ended.step, ended.best_step) == (4, 0)
    assert same_weights(whole, resumed)


def test_a_metric_that_is_not_measured_costs_no_step_and_can_be_corrected(tmp_path: Path):
    options = {"save_every": 0, "validate": lambda: {"mse": 0.5}}
    with pytest.raises(BabelclipError, match=r"'mes' was not measured. .*'mse'.* go on with --resume"):
        start(tmp_path, best_metric="mes", **options)
    _, result = start(tmp_path, best_metric="mse", resume=True, **options)
    assert (result.status, result.step, result.validation) == ("finished", 20, {"mse": 0.5})


def test_the_best_by_another_measure_is_forgotten(tmp_path: Path):
    figures = iter([{"a": 1.0, "b": 9.0}, {"a": 2.0, "b": 8.0}, {"a": 3.0, "b": 8.5}, {"a": 4.0, "b": 7.0}])
    options = {"validate_every": 4, "validate": lambda: next(figures)}
    _, first = start(tmp_path, best_metric="a", steps=8, **options)
    assert (first.best_step, first.best_value) == (0, 1.0)
    _, second = start(tmp_path, best_metric="b", steps=12, resume=True, **options)
    assert (second.best_step, second.best_value) == (12, 7.0)


@pytest.mark.parametrize("rates", [{}, {"schedule": "steps", "lr_steps": {"3": 1e-3}}])
def test_a_run_counted_in_epochs_may_be_extended_unless_its_rate_falls(tmp_path: Path, rates: dict):
    whole, _ = start(tmp_path / "whole", epochs=3, **rates)
    start(tmp_path / "cut", epochs=2, **rates)
    extended, result = start(tmp_path / "cut", epochs=3, resume=True, **rates)
    assert result.step == 24
    assert same_weights(whole, extended)
    start(tmp_path / "falls", epochs=2, schedule="linear")
    with pytest.raises(BabelclipError, match=r"train\.epochs was 2 and is 3"):
        start(tmp_path / "falls", epochs=3, schedule="linear", resume=True)
