from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from babelclip.evaluate import places
from babelclip.evaluate.places import Bounds, window


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(2) as threads:
        yield threads


def scores_of(rng: np.random.Generator, shape: tuple[int, int], found: bool, tied: bool):
    """Scores, and pairs in ascending order of their row: some rows have none, others several."""
    scores = rng.standard_normal(shape).astype(np.float32)
    if tied:
        scores = scores.round(1)
    rows = np.sort(rng.integers(0, shape[0], size=shape[0]))
    items = rng.integers(0, shape[1], size=shape[0])
    if found:
        scores[rows, items] += 4  # few others reach what is looked for
    return scores, rows, items


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("found", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (251, 40), (300, 1301), (90, 2600)])
def test_counts_are_those_of_every_single_comparison(pool, shape, found, tied):
    scores, rows, items = scores_of(np.random.default_rng(sum(shape)), shape, found, tied)
    low, high = window(scores[rows, items], 1e-6)
    better, at_least = (scores[rows] > high[:, None]).sum(axis=1), (scores[rows] >= low[:, None]).sum(axis=1)
    bounds = Bounds.of_pairs(rows, low, high, len(scores))
    assert np.array_equal(bounds.count(scores, 1, pool), [better, at_least])
    assert np.array_equal(bounds.count(np.ascontiguousarray(scores.T), 0, pool), [better, at_least])


@pytest.mark.parametrize("share", [-1.0, 1.0])
def test_picking_scores_out_and_counting_whole_tiles_agree(pool, monkeypatch, share):
    """Below 0 every tile is counted whole, at 1 none is."""
    scores, rows, items = scores_of(np.random.default_rng(3), (400, 500), found=True, tied=True)
    bounds = Bounds.of_pairs(rows, *window(scores[rows, items], 1e-6), len(scores))
    as_it_is = bounds.count(scores, 1, pool)
    monkeypatch.setattr(places, "_MANY", share)
    assert np.array_equal(bounds.count(scores, 1, pool), as_it_is)
    assert np.array_equal(bounds.count(np.ascontiguousarray(scores.T), 0, pool), as_it_is)
