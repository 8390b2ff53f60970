"""Our figures against those of clip_benchmark and pytrec_eval, as the oracle job has written them down."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.golden.ours import evaluation_metrics

FILE = Path(__file__).parents[1] / "golden" / "metrics" / "evaluation_metrics" / "expected.npz"


def golden() -> dict[str, np.ndarray]:
    with np.load(FILE) as archive:
        return dict(archive)


FIGURES = [name for name, array in golden().items() if array.ndim == 0]


def test_every_figure_of_the_originals_has_one_of_ours():
    assert set(evaluation_metrics(golden())) == set(FIGURES)
    kinds = ("t2i_R@", "i2t_R@", "i2t_recall@", "t2i_trec_", "acc", "mean_average_precision", "selection_")
    assert all(any(name.startswith(kind) for name in FIGURES) for kind in kinds)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_that_of_the_original(name):
    given = golden()
    assert evaluation_metrics(given)[name] == pytest.approx(float(given[name]), abs=1e-6)


def test_the_figures_are_neither_all_right_nor_all_wrong():
    given = golden()
    assert all(0.05 < float(given[name]) < 0.99 for name in FIGURES if name not in ("t2i_R@10", "i2t_R@10"))
