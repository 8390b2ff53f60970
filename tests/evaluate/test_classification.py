"""Classification metrics against figures on paper, slow loops, and what ties must not do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babelclip.errors import BabelclipError
from babelclip.evaluate.classification import (
    Ranked,
    average_precision,
    class_hits,
    multi_label,
    partial_classes,
    single_label,
)

# Six pictures, five classes; with an identity as classes the scores are this matrix.
SCORES = np.array(
    [
        [0.9, 0.1, 0.2, 0.3, 0.4],  # class 0: right
        [0.1, 0.9, 0.2, 0.3, 0.4],  # class 0: the last of five
        [0.1, 0.9, 0.2, 0.3, 0.4],  # class 1: right
        [0.5, 0.5, 0.2, 0.3, 0.4],  # class 1: one of two equal ones
        [0.2, 0.2, 0.2, 0.2, 0.2],  # class 1: anywhere
        [0.3, 0.1, 0.2, 0.0, 0.9],  # class 3: the last
    ]
)
LABELS = [0, 0, 1, 1, 1, 3]


def test_figures_on_paper():
    figures = single_label(SCORES, np.eye(5), LABELS)
    assert figures.metrics["acc1"] == pytest.approx((1 + 0 + 1 + 0.5 + 0.2 + 0) / 6)
    assert figures.metrics["acc5"] == 1
    assert figures.metrics["mean_per_class_recall"] == pytest.approx((0.5 + 1.7 / 3 + 0) / 3)
    assert figures.metrics["chance_acc1"] == 0.2
    assert figures.notes == ("2 of 5 classes have no picture",)
    for name in ("acc1", "mean_per_class_recall"):
        low, high = figures.intervals[name]
        assert low < figures.metrics[name] < high


def test_below_five_classes_there_is_no_top_five():
    assert "acc5" not in single_label(SCORES[:, :4], np.eye(4), LABELS).metrics


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(2, 12))
def test_single_label_equals_a_slow_loop(seed, n, n_classes):
    random = np.random.default_rng(seed)
    images, classes = random.normal(size=(n, 6)).astype(np.float32), random.normal(size=(n_classes, 6))
    labels = random.integers(n_classes, size=n)
    right = [
        int(np.argmax(image @ classes.astype(np.float32).T) == label)
        for image, label in zip(images, labels, strict=True)
    ]
    by_class = {
        label: np.mean([r for r, own in zip(right, labels, strict=True) if own == label])
        for label in set(labels.tolist())
    }
    metrics = single_label(images, classes, labels).metrics
    assert metrics["acc1"] == pytest.approx(np.mean(right))
    assert metrics["mean_per_class_recall"] == pytest.approx(np.mean(list(by_class.values())))
    if n_classes >= 5:
        best = [np.argsort(-(image @ classes.astype(np.float32).T))[:5] for image in images]
        assert metrics["acc5"] == pytest.approx(
            np.mean([label in five for label, five in zip(labels, best, strict=True)])
        )


def test_a_constant_model_reaches_chance():
    hits, _ = class_hits(np.ones((7, 3)), np.ones((10, 3)), np.zeros(7, dtype=int))
    assert hits["acc1"] == pytest.approx(np.full(7, 0.1))
    assert hits["acc5"] == pytest.approx(np.full(7, 0.5))


def test_average_precision_on_paper():
    # Relevant at ranks 1, 3, 4: (1/1 + 2/3 + 3/4) / 3.
    assert average_precision([4, 3, 2, 1], [True, False, True, True]) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert average_precision([1, 2], [False, False]) == 0
    # A constant score is one step: precision is the share of relevant items, whatever their order.
    assert average_precision([1, 1, 1, 1], [True, False, False, False]) == 0.25
    # Recall 1/2 is reached with precision 1, recall 1 with 2/3: six of eleven points see 1.
    two_of_three = Ranked.of(np.array([3, 2, 1]), np.array([True, False, True]))
    assert two_of_three.voc07() == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert Ranked.of(np.array([3, 2]), np.array([False, False])).voc07() == 0


def slow_precision(scores, relevant):
    wanted = [score for score, is_relevant in zip(scores, relevant, strict=True) if is_relevant]
    found = [
        sum(r and s >= score for s, r in zip(scores, relevant, strict=True)) / sum(s >= score for s in scores)
        for score in wanted
    ]
    return np.mean(found) if found else 0.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=15))
def test_average_precision_equals_a_slow_loop_in_any_order(items):
    scores, relevant = [score for score, _ in items], [is_relevant for _, is_relevant in items]
    assert average_precision(scores, relevant) == pytest.approx(slow_precision(scores, relevant))
    assert average_precision(scores[::-1], relevant[::-1]) == pytest.approx(average_precision(scores, relevant))


def test_several_labels_count_every_class_and_an_empty_one_as_nothing():
    scores = np.array([[0.9, 0.1, 0.5], [0.8, 0.7, 0.5], [0.1, 0.6, 0.5]])
    targets = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0]], dtype=bool)
    figures = multi_label(scores, np.eye(3), targets)
    first, second = (1 + 2 / 3) / 2, 1.0
    assert figures.metrics["mean_average_precision"] == pytest.approx((first + second + 0) / 3)
    assert figures.metrics["mean_average_precision_present"] == pytest.approx((first + second) / 2)
    assert figures.notes == ("1 of 3 classes have no picture and count as 0",)
    low, high = figures.intervals["mean_average_precision"]
    assert 0 <= low <= high <= 1


def test_only_pictures_of_classes_with_a_name_count():
    kept, labels = partial_classes([5, 2, 9, 2, 7], [7, 2])
    assert kept.tolist() == [1, 3, 4]
    assert labels.tolist() == [1, 1, 0]
    with pytest.raises(BabelclipError, match="None of the 2 pictures"):
        partial_classes([1, 1], [0])
    with pytest.raises(BabelclipError, match="distinct"):
        partial_classes([1, 1], [1, 1])


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0, 1, 2, 3, 4, 5], "there are 5 classes"), ([0, 1], "one whole number a picture"), ([0.5] * 6, "whole number")],
)
def test_labels_that_are_no_classes_are_named(labels, message):
    with pytest.raises(BabelclipError, match=message):
        single_label(SCORES, np.eye(5), labels)
    with pytest.raises(BabelclipError, match="one row a picture"):
        multi_label(SCORES, np.eye(5), np.zeros((6, 4)))
