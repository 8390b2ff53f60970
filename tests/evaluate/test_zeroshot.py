"""Class names to class vectors, and zero-shot classification in every language of a set."""

from __future__ import annotations

import numpy as np
import pytest

from babelclip.errors import BabelclipError
from babelclip.evaluate.benchmarks.sets import ClassificationSet, Pictures
from babelclip.evaluate.hits import unpack_hits
from babelclip.evaluate.prompts import class_vectors, prompts_of, template_count
from babelclip.evaluate.result import RunFacts, check_result
from babelclip.evaluate.zeroshot import evaluate_zeroshot, zero_shot_accuracy

WORDS = {"dog": 0, "cat": 1, "cow": 2, "hund": 0, "katt": 1, "ko": 2}


class Dictionary:
    """A model that knows six words: each has the axis of its animal; the rest of a text does not matter."""

    languages = ("en",)

    def __init__(self):
        self.texts = []

    def encode_text(self, texts):
        self.texts += texts
        rows = np.zeros((len(texts), 4), dtype=np.float32)
        for row, text in enumerate(texts):
            rows[row, next((axis for word, axis in WORDS.items() if word in text.split()), 3)] = 5.0
        return rows


def animals(**changes):
    facts = {
        "name": "animals",
        "split": "test",
        "pictures": Pictures(tuple("abcd"), tuple("abcd")),
        "labels": np.array([0, 1, 2, 2]),
        "classes": ("n1", "n2", "n3"),
        "classnames": {"en": ["dog", "cat", "cow"], "sv": ["hund", "katt", "okänd"]},
        "templates": {"en": ["a photo of a {c} .", "a {} ."]},
        "sources": {"classnames": {"en": "en_classnames.json"}, "templates": {"en": "en_templates.json"}},
    }
    return ClassificationSet(**{**facts, **changes})


FEATURES = np.eye(4, dtype=np.float32)[[0, 1, 2, 2]]
FACTS = RunFacts(model="dictionary", dataset="animals")


def test_a_class_vector_is_the_unit_mean_of_unit_prompts():
    vectors = {"a": [2.0, 0.0], "b": [0.0, 9.0], "c": [-1.0, 0.0]}

    def encode(texts):
        return np.array([vectors[text] for text in texts])

    made = class_vectors(encode, ["x", "y"], {"x": ["a", "b"], "y": ["c"]})
    assert made == pytest.approx(np.array([[0.5**0.5, 0.5**0.5], [-1, 0]]))
    assert made.dtype == np.float32


def test_each_distinct_prompt_is_encoded_once():
    model = Dictionary()
    class_vectors(model.encode_text, ["dog", "cat", "dog"], ["a {c}", "the {}"])
    assert model.texts == ["a dog", "the dog", "a cat", "the cat"]


@pytest.mark.parametrize(
    ("classnames", "templates", "message"),
    [
        ([], ["{c}"], "0 class names"),
        (["dog"], [], "one template at least"),
        (["dog"], "a {c}", "list of one template"),
        (["dog"], ["a photo"], "no place for the class name"),
        (["dog"], {"dogs": ["a hound"]}, "none for 'dog'.*Did you mean 'dogs'"),
    ],
)
def test_prompts_that_cannot_be_made_are_named(classnames, templates, message):
    with pytest.raises(BabelclipError, match=message):
        prompts_of(classnames, templates)


def test_every_language_is_measured_on_the_same_vectors_and_says_how_it_was_asked():
    english, swedish = evaluate_zeroshot(Dictionary(), animals(), FEATURES, facts=FACTS)
    check_result(english)
    assert english["metrics"]["acc1"] == 1
    assert (english["prompt_set"], english["n_templates"]) == ("2 templates", 2)
    assert english["class_source"] == "en_classnames.json"
    # Two pictures of an unknown word: three classes are equally far from them.
    assert swedish["metrics"]["acc1"] == pytest.approx((2 + 2 / 3) / 4)
    assert (swedish["prompt_set"], swedish["declared"]) == ("none", False)
    assert "does not declare sv" in swedish["notes"][-1]
    assert unpack_hits(swedish).values["acc1"].mean() == pytest.approx(swedish["metrics"]["acc1"], abs=1e-4)


def test_classes_without_a_name_take_their_pictures_with_them():
    part = animals(classnames={"sv": ["ko", "hund"]}, class_indices={"sv": np.array([2, 0])}, templates={})
    [result] = evaluate_zeroshot(Dictionary(), part, FEATURES, facts=FACTS)
    assert (result["n_images"], result["n_classes"], result["metrics"]["acc1"]) == (3, 2, 1)
    assert "2 of 3 classes have a name in sv" in result["notes"][0]


def test_pictures_that_could_not_be_read_are_left_out_by_position():
    [result] = evaluate_zeroshot(Dictionary(), animals(), FEATURES[[0, 3]], facts=FACTS, kept=[0, 3], languages=["eng"])
    assert (result["n_images"], result["metrics"]["acc1"]) == (2, 1)
    with pytest.raises(BabelclipError, match="2 vectors for 4 pictures"):
        evaluate_zeroshot(Dictionary(), animals(), FEATURES[:2], facts=FACTS)
    with pytest.raises(BabelclipError, match="no class names in de; it has them in en, sv"):
        evaluate_zeroshot(Dictionary(), animals(), FEATURES, facts=FACTS, languages=["de"])


def test_pictures_of_several_classes_have_an_average_precision_and_no_accuracy():
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 1]], dtype=bool)
    several = animals(labels=labels)
    result = evaluate_zeroshot(Dictionary(), several, FEATURES, facts=FACTS)[0]
    assert result["multilabel"] is True
    assert "acc1" not in result["metrics"]
    # dog: pictures 0 and, among those of score 0, 1: (1 + 2/4) / 2; cat and cow are perfect.
    assert result["metrics"]["mean_average_precision"] == pytest.approx((0.75 + 1 + 1) / 3)


def test_a_quick_accuracy_needs_neither_set_nor_model(tiny_clip):
    metrics = zero_shot_accuracy(Dictionary().encode_text, FEATURES, [0, 1, 2, 2], ["hund", "katt", "ko"])
    assert metrics["acc1"] == 1
    vectors = class_vectors(tiny_clip.encode_text, ["dog", "cat"], ["a {c}"])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(2))
    assert template_count({"dog": ["a", "b"], "cat": ["c"]}) == 2
