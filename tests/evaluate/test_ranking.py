"""nDCG@10, MRR@10 and MAP@100 against figures on paper, and against the mean over all orders of equal items."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babelclip.evaluate.metrics import recall_at_k


def slow(order, relevant):
    """The definitions, for one order of the items."""
    ranks = [rank for rank, item in enumerate(order, 1) if item in relevant]
    best = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(relevant), 10) + 1))
    return {
        "nDCG@10": sum(1 / math.log2(rank + 1) for rank in ranks if rank <= 10) / best,
        "MRR@10": 1 / ranks[0] if ranks[0] <= 10 else 0.0,
        "MAP@100": sum((i + 1) / rank for i, rank in enumerate(ranks) if rank <= 100) / len(relevant),
    }


def test_three_relevant_items_on_paper():
    scores = [[0.9, 0.8, 0.7, 0.6, 0.5]]
    figures = recall_at_k(scores, np.eye(5), [[0, 2, 4]], ks=[1])
    assert figures["MRR@10"] == 1
    assert figures["MAP@100"] == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    ideal = 1 + 1 / math.log2(3) + 0.5
    assert figures["nDCG@10"] == pytest.approx((1 + 0.5 + 1 / math.log2(6)) / ideal)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 130), st.integers(1, 12))
def test_equals_a_slow_loop_where_nothing_is_tied(seed, n, n_relevant):
    random = np.random.default_rng(seed)
    relevant = sorted(random.choice(n, size=min(n_relevant, n), replace=False).tolist())
    scores = random.permutation(n).astype(np.float32) / n
    figures = recall_at_k([scores], np.eye(n), [relevant], ks=[1])
    for name, value in slow(np.argsort(-scores).tolist(), relevant).items():
        assert figures[name] == pytest.approx(value), name


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_the_mean_over_all_orders_of_tied_items(data):
    n = data.draw(st.integers(1, 6))
    row = data.draw(st.lists(st.sampled_from([0.0, 0.25, 0.5]), min_size=n, max_size=n))
    relevant = data.draw(st.sets(st.integers(0, n - 1), min_size=1))
    orders = [
        order
        for order in itertools.permutations(range(n))
        if all(row[a] >= row[b] for a, b in itertools.pairwise(order))
    ]
    figures = recall_at_k([row], np.eye(n), [sorted(relevant)], ks=[1])
    for name in ("nDCG@10", "MRR@10", "MAP@100"):
        assert figures[name] == pytest.approx(np.mean([slow(order, relevant)[name] for order in orders])), name


def test_beyond_the_first_ten_and_hundred_nothing_counts():
    n = 120
    scores = -np.arange(n, dtype=np.float32) / n
    at = {place: recall_at_k([scores], np.eye(n), [[place]], ks=[1]) for place in (9, 10, 99, 100)}
    assert at[9]["MRR@10"] == pytest.approx(0.1)
    assert (at[10]["MRR@10"], at[10]["nDCG@10"]) == (0, 0)
    assert at[99]["MAP@100"] == pytest.approx(0.01)
    assert at[100]["MAP@100"] == 0


def test_a_constant_model_does_not_depend_on_the_order_of_the_corpus():
    one, other = (recall_at_k(np.ones((1, 2)), np.ones((50, 2)), [[place]], ks=[1]) for place in (0, 49))
    assert one == other
    assert one["MRR@10"] == pytest.approx(sum(1 / rank for rank in range(1, 11)) / 50)
