"""Correlations against plain Python loops, values by hand, and an encoder that counts letters."""

from __future__ import annotations

import math

import numpy as np
import pytest

from babelclip.errors import BabelclipError
from babelclip.evaluate.sts import average_ranks, correlations, pair_cosines, pearson, score_pairs, spearman


def slow_pearson(x: list[float], y: list[float]) -> float:
    mx, my = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return above / math.sqrt(sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y))


def slow_ranks(values: list[float]) -> list[float]:
    """1 + how many are smaller + half of the others that are equal."""
    return [1 + sum(b < a for b in values) + (sum(b == a for b in values) - 1) / 2 for a in values]


@pytest.mark.parametrize("seed", range(5))
def test_both_figures_equal_the_plain_loops_with_many_ties(seed: int):
    draw = np.random.default_rng(seed)
    x, y = draw.normal(size=60), draw.integers(0, 6, size=60).astype(float)
    x[::4] = np.round(x[::4])
    x, y = x.tolist(), y.tolist()
    assert average_ranks(x).tolist() == slow_ranks(x)
    assert pearson(x, y) == pytest.approx(slow_pearson(x, y))
    assert spearman(x, y) == pytest.approx(slow_pearson(slow_ranks(x), slow_ranks(y)))
    assert correlations(x, y) == {"pearson": pearson(x, y), "spearman": spearman(x, y)}


def test_values_computed_by_hand():
    assert average_ranks([3, 7, 7, 9]).tolist() == [1, 2.5, 2.5, 4]
    # Deviations -1 0 1 and -1 1 0: sum of products 1, squares 2 and 2.
    assert pearson([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)
    # Ranks 1 2 3 4 and 1 2.5 2.5 4: 4.5 / sqrt(5 * 4.5), where 1 - 6 sum d^2 / (n^3 - n) says 0.95.
    assert spearman([10, 20, 30, 40], [1, 2, 2, 3]) == pytest.approx(math.sqrt(0.9))


def test_scale_and_shift_change_nothing_and_a_growing_curve_changes_pearson_only():
    x = np.random.default_rng(0).normal(size=50)
    y = x + np.random.default_rng(1).normal(size=50)
    assert correlations(3 * x - 7, y) == pytest.approx(correlations(x, y))
    assert spearman(np.exp(x), y) == pytest.approx(spearman(x, y))
    assert abs(pearson(np.exp(x), y) - pearson(x, y)) > 0.01
    assert correlations(-x, y)["spearman"] == pytest.approx(-spearman(x, y))
    assert pearson(1e200 * x, y) == pytest.approx(pearson(x, y)), "no overflow"


def test_an_encoder_that_gives_one_vector_to_all_has_no_correlation():
    figures = score_pairs(lambda texts: np.ones((len(texts), 3)), ["a", "b", "c"], ["d", "e", "f"], [1, 2, 3])
    assert math.isnan(figures["pearson"])
    assert math.isnan(figures["spearman"])


def test_each_distinct_text_is_encoded_once_and_lengths_of_vectors_do_not_matter():
    seen: list[str] = []

    def letters(texts: list[str]) -> np.ndarray:
        seen.extend(texts)
        return np.array([[(i + 1) * text.count(letter) for letter in "abc"] for i, text in enumerate(texts)], float)

    figures = score_pairs(letters, ["a", "ab", "b"], ["a", "a", "c"], [5, 3, 0])
    assert figures["spearman"] == pytest.approx(1)
    # Cosines 1, sqrt(1/2), 0 against 5, 3, 0.
    assert figures["pearson"] == pytest.approx(slow_pearson([1, math.sqrt(0.5), 0], [5, 3, 0]))
    assert sorted(seen) == ["a", "ab", "b", "c"]


def test_a_vector_of_zeros_has_the_cosine_0():
    assert pair_cosines(np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([[1.0, 0.0], [4.0, 3.0]])).tolist() == [0, 0.96]


def test_what_has_no_correlation_is_named():
    with pytest.raises(BabelclipError, match="two rows of the same length"):
        pearson([1, 2], [1, 2, 3])
    with pytest.raises(BabelclipError, match="two pairs at least"):
        spearman([1], [1])
    with pytest.raises(BabelclipError, match="Pair 1 has the values nan and 2"):
        pearson([1, float("nan"), 3], [1, 2, 3])
    with pytest.raises(BabelclipError, match="one of each a pair"):
        score_pairs(lambda texts: np.ones((len(texts), 2)), ["a"], ["b", "c"], [1])
