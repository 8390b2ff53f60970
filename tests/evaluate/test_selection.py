"""Winoground's three scores on paper, and a benchmark of items with and without their pictures."""

from __future__ import annotations

import numpy as np
import pytest

from babelclip.errors import BabelclipError
from babelclip.evaluate.benchmarks.sets import Pictures, SelectionItem, SelectionSet
from babelclip.evaluate.result import RunFacts, check_result
from babelclip.evaluate.selection import evaluate_selection, item_scores

FACTS = RunFacts(model="letters", dataset="pairs")


@pytest.mark.parametrize(
    ("cosines", "text", "image"),
    [
        ([[0.9, 0.1], [0.2, 0.8]], 1, 1),
        ([[0.9, 0.1], [0.95, 0.96]], 1, 0),  # the first caption prefers the second picture
        ([[0.5, 0.6], [0.1, 0.9]], 0, 1),
        ([[0.5, 0.5], [0.5, 0.5]], 0.25, 0.25),  # two coins each
        ([[0.5, 0.4, 0.6], [0.1, 0.9, 0.2]], 0, 1),  # a third caption that belongs to no picture
    ],
)
def test_scores_of_an_item(cosines, text, image):
    assert item_scores(cosines) == pytest.approx({"text_acc": text, "image_acc": image, "acc": text * image})


def test_with_one_picture_there_is_no_image_score():
    assert item_scores([[0.4, 0.3]]) == {"text_acc": 1, "acc": 1}
    for wrong in ([[0.4]], [[0.1], [0.2]], []):
        with pytest.raises(BabelclipError, match="two captions at least"):
            item_scores(wrong)


class Letters:
    languages = ("sv",)

    def encode_text(self, texts):
        return np.eye(4, dtype=np.float32)[["abcd".index(text) for text in texts]]


def test_items_are_measured_by_subset_and_lost_pictures_are_counted():
    items = (
        SelectionItem((0,), ("a", "b"), "swap"),
        SelectionItem((1,), ("a", "b"), "swap"),
        SelectionItem((2,), ("c", "d"), "add"),
        SelectionItem((3,), ("d", "a"), "add"),
    )
    pairs = SelectionSet("pairs", "test", Pictures(tuple("wxyz"), tuple("wxyz")), items)
    features = np.eye(4, dtype=np.float32)[:3]
    [result] = evaluate_selection(Letters(), pairs, features, facts=FACTS, kept=[0, 1, 2])
    check_result(result)
    assert result["metrics"] == pytest.approx(
        {"text_acc": 2 / 3, "acc": 2 / 3, "acc/add": 1, "acc/swap": 0.5, "acc_mean": 0.75}
    )
    assert (result["n_items"], result["n_captions"], result["declared"]) == (3, 4, False)
    assert "1 items lost a picture and were left out" in result["notes"]
    with pytest.raises(BabelclipError, match="None of the 4 items"):
        evaluate_selection(Letters(), pairs, features[:0].reshape(0, 4), facts=FACTS, kept=[])
