"""The checksum of what a benchmark holds follows its figures, and not where it lies or what is said of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from babelclip.evaluate.benchmarks import open_benchmark
from babelclip.evaluate.benchmarks.sets import ClassificationSet, Pictures, ScoredPairs, SentencePairs
from babelclip.evaluate.fingerprint import fingerprint
from tests.evaluate.benchmarks.layouts import LAYOUTS, made

NAMES = ("xm3600", "chinese-clip", "imagenet1k", "babel-imagenet", "winoground", "sts12", "flores")


def classified(**changes):
    facts = {
        "name": "colours",
        "split": "test",
        "pictures": Pictures(("a", "b"), ("a.png", "b.png")),
        "labels": np.array([0, 1]),
        "classes": ("red", "blue"),
        "classnames": {"sv": ["röd", "blå"]},
        "templates": {"sv": ["ett foto av {}"]},
    }
    return ClassificationSet(**{**facts, **changes})


@pytest.mark.parametrize("name", NAMES)
def test_a_set_that_was_moved_has_the_same_checksum(name, tmp_path):
    assert name in LAYOUTS
    one, other = open_benchmark(made(name, tmp_path / "one")), open_benchmark(made(name, tmp_path / "other"))
    assert fingerprint(one) == fingerprint(dataclasses.replace(other, notes=("moved",)))


@pytest.mark.parametrize(
    "change",
    [
        {"labels": np.array([1, 0])},
        {"labels": np.array([[True, False], [False, True]])},
        {"classnames": {"sv": ["röd", "grön"]}},
        {"classnames": {"da": ["röd", "blå"]}},
        {"templates": {"sv": {"röd": ["ett foto av {}"]}}},
        {"pictures": Pictures(("a", "c"), ("a.png", "b.png"))},
        {"class_indices": {"sv": np.array([0, 1])}},
        {"split": "val"},
    ],
)
def test_whatever_moves_a_figure_changes_the_checksum(change):
    assert fingerprint(classified(**change)) != fingerprint(classified())
    assert fingerprint(classified(), classified(**change)) != fingerprint(classified(), classified())


def test_words_are_not_joined_into_other_words():
    def pairs(first: list[str], second: list[str]) -> str:
        return fingerprint(SentencePairs("s", "test", {"s": ScoredPairs(first, second, [1.0])}, {"s": ("en", "en")}))

    assert len({pairs(["ab"], ["c"]), pairs(["a"], ["bc"]), pairs(["ab", "c"], []), pairs([], ["ab", "c"])}) == 4
