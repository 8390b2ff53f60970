"""Retrieval from captions and pictures to complete results, in every language with the pictures encoded once."""

from __future__ import annotations

import json

import numpy as np
import pytest

from babelclip.data.captions import Captions
from babelclip.errors import BabelclipError, SpaceMismatchError
from babelclip.evaluate.metrics import chance_recall
from babelclip.evaluate.result import FIELDS, RunFacts, check_result
from babelclip.evaluate.retrieval import evaluate_features, evaluate_retrieval

ANIMALS = ["dog", "cat", "horse", "cow"]
SWEDISH = ["hund", "katt", "häst", "ko"]


class Dictionary:
    """A model that knows English and some Swedish: each known word has an axis of its own."""

    name = "dictionary"
    space = "tests/axes"
    languages = ("en",)

    def __init__(self, known=(*ANIMALS, *SWEDISH[:2])):
        self.words = {word: (ANIMALS + SWEDISH).index(word) % 4 for word in known}
        self.pictures_encoded = 0
        self.texts = []

    def encode_text(self, texts):
        self.texts += texts
        rows = np.zeros((len(texts), 5), dtype=np.float32)
        for row, text in enumerate(texts):
            rows[row, self.words.get(text.removeprefix("a photo of "), 4)] = 3.0
        return rows

    def encode_image(self, pictures):
        self.pictures_encoded += len(pictures)
        return np.eye(4, 5, dtype=np.float32)[[ANIMALS.index(str(picture)) for picture in pictures]]


def both_languages():
    return Captions.from_columns(text=ANIMALS + SWEDISH, lang=["en"] * 4 + ["sv"] * 4, image=ANIMALS * 2)


def by_key(results):
    return {(result["language"], result["direction"]): result for result in results}


def test_two_languages_and_directions_give_four_complete_results():
    model = Dictionary()
    results = by_key(evaluate_retrieval(model, both_languages(), pictures=ANIMALS, dataset="animals", ks=(1, 2)))
    assert list(results) == [("en", "t2i"), ("en", "i2t"), ("sv", "t2i"), ("sv", "i2t")]
    assert model.pictures_encoded == 4
    assert results["en", "t2i"]["metrics"]["R@1"] == 1
    # Two known words hit; the two unknown ones are equally far from every picture and count with chance, 1/4.
    assert results["sv", "t2i"]["metrics"]["R@1"] == pytest.approx((2 + 2 * 0.25) / 4)
    # Seen from the pictures of horse and cow, all four captions are equally far.
    assert results["sv", "i2t"]["metrics"]["R@2"] == pytest.approx((2 + 2 * 0.5) / 4)
    for result in results.values():
        check_result(result)
        assert list(result)[: len(FIELDS)] == list(FIELDS)
        assert result["n_images"] == 4
        assert result["dataset"] == "animals"
        assert result["model"] == "dictionary"
        assert result["space"] == "tests/axes"
        assert {"babelclip", "python", "numpy"} <= set(result["versions"])
        low, high = result["intervals"]["R@1"]
        assert low <= result["metrics"]["R@1"] <= high
        assert json.loads(json.dumps(result)) == result


def test_metric_names_of_clip_benchmark_stand_beside_ours():
    results = by_key(evaluate_retrieval(Dictionary(), both_languages(), pictures=ANIMALS, dataset="animals", ks=(1, 2)))
    t2i, i2t = results["sv", "t2i"]["metrics"], results["sv", "i2t"]["metrics"]
    assert t2i["image_retrieval_recall@1"] == t2i["R@1"]
    assert i2t["text_retrieval_recall@2"] == i2t["R@2"]
    assert t2i["MR"] == i2t["MR"] == pytest.approx(np.mean([d[f"R@{k}"] for d in (t2i, i2t) for k in (1, 2)]))
    assert {"dataset", "model", "pretrained", "task", "metrics", "language"} <= set(results["sv", "t2i"])


def test_a_language_the_model_does_not_declare_is_marked():
    results = by_key(evaluate_retrieval(Dictionary(), both_languages(), pictures=ANIMALS, dataset="animals"))
    assert results["en", "t2i"]["declared"] is True
    assert results["en", "t2i"]["notes"] == ["k 5, 10 exceeds the corpus and counts as 4"]
    assert results["sv", "t2i"]["declared"] is False
    assert "does not declare sv (Swedish)" in results["sv", "t2i"]["notes"][-1]
    silent = Dictionary()
    silent.languages = ()
    assert evaluate_retrieval(silent, both_languages(), pictures=ANIMALS, dataset="animals")[0]["declared"] is None


def test_pictures_without_a_caption_stay_distractors_but_ask_nothing():
    captions = Captions.from_columns(text=["hund"], lang=["sv"], image=["dog"])
    results = by_key(evaluate_retrieval(Dictionary(), captions, pictures=ANIMALS, dataset="animals", ks=(1,)))
    assert results["sv", "t2i"]["metrics"]["chance_R@1"] == 0.25
    assert results["sv", "i2t"]["n_queries"] == 1
    assert results["sv", "i2t"]["n_excluded"] == 3


def test_pictures_of_one_group_are_equally_relevant():
    captions = Captions.from_columns(text=["dog", "cat"], lang=["en", "en"], image=["cat", "dog"])
    arguments = {"pictures": ANIMALS, "dataset": "animals", "ks": (1,), "directions": ["t2i"]}
    [apart] = evaluate_retrieval(Dictionary(), captions, **arguments)
    [joined] = evaluate_retrieval(Dictionary(), captions, groups=["pet", "pet", "horse", "cow"], **arguments)
    assert (apart["metrics"]["R@1"], apart["relevance"]) == (0, "own picture")
    assert (joined["metrics"]["R@1"], joined["relevance"]) == (1, "group")


def test_first_caption_only_keeps_one_caption_a_picture():
    captions = Captions.from_columns(text=["dog", "cat", "cat"], lang=["en"] * 3, image=["dog", "dog", "cat"])
    arguments = {"pictures": ANIMALS, "dataset": "animals", "ks": (1,)}
    every = evaluate_retrieval(Dictionary(), captions, **arguments)
    first = evaluate_retrieval(Dictionary(), captions, captions_per_image="first", **arguments)
    assert [result["n_captions"] for result in (every[0], first[0])] == [3, 2]
    assert every[0]["metrics"]["R@1"] == pytest.approx(2 / 3)
    assert first[0]["metrics"]["R@1"] == 1
    assert first[1]["captions_per_image"] == "first"


def test_a_template_wraps_every_caption_and_is_stated():
    model = Dictionary()
    results = evaluate_retrieval(
        model, both_languages(), pictures=ANIMALS, dataset="animals", languages=["en"], template="a photo of {}"
    )
    assert model.texts == [f"a photo of {word}" for word in ANIMALS]
    assert results[0]["prompt_set"] == "a photo of {}"


def test_vectors_can_be_given_instead_of_pictures_and_must_be_of_the_space():
    model = Dictionary()
    vectors = 7 * np.eye(4, 5)
    arguments = {"image_ids": ANIMALS, "dataset": "animals", "languages": ["eng_Latn"]}
    results = evaluate_retrieval(model, both_languages(), image_features=vectors, image_space="tests/axes", **arguments)
    assert model.pictures_encoded == 0
    assert results[0]["metrics"]["R@1"] == 1
    with pytest.raises(SpaceMismatchError, match=r"openai/ViT-L-14.*tests/axes"):
        evaluate_retrieval(model, both_languages(), image_features=vectors, image_space="openai/ViT-L-14", **arguments)


def test_captions_without_their_picture_are_counted_or_stop():
    arguments = {"pictures": ANIMALS[:3], "dataset": "animals", "ks": (1,)}
    results = evaluate_retrieval(Dictionary(), both_languages(), **arguments)
    assert all("1 captions without a picture were skipped" in result["notes"] for result in results)
    assert results[0]["n_captions"] == 3
    with pytest.raises(BabelclipError, match=r"2 captions name a picture .*'cow'"):
        evaluate_retrieval(Dictionary(), both_languages(), strict=True, **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pictures": None}, "both missing"),
        ({"image_features": np.eye(4)}, "both given"),
        ({"pictures": [], "image_ids": []}, "0 pictures"),
        ({"pictures": [object()] * 4}, "image_ids is missing"),
        ({"image_ids": ANIMALS[:3]}, "4 pictures for 3 image_ids"),
        ({"image_ids": ["dog"] * 4}, "'dog' twice"),
        ({"groups": [1]}, "1 groups for 4 pictures"),
        ({"directions": ["text2image"]}, "not a direction.*t2i"),
        ({"directions": []}, "'t2i', 'i2t' or both"),
        ({"captions_per_image": "5"}, "'all' or 'first'"),
        ({"template": "a photo"}, "no place for the caption"),
        ({"languages": ["de"]}, "No caption with a picture is in de; present are en, sv"),
        ({"languages": ["swedish"]}, r"Did you mean sv \(Swedish\)"),
    ],
)
def test_wrong_input_names_the_fault_and_the_cure(change, message):
    with pytest.raises(BabelclipError, match=message):
        evaluate_retrieval(Dictionary(), both_languages(), **{"pictures": ANIMALS, "dataset": "animals", **change})


def test_precomputed_vectors_need_no_model_and_a_constant_one_is_at_chance():
    features = np.ones((30, 8))
    groups = np.arange(30)
    facts = RunFacts(model="constant", dataset="random")
    for result in evaluate_features(features, features, groups, groups, facts=facts, language="jp", ks=(1, 10)):
        assert result["language"] == "ja"
        assert result["metrics"]["R@10"] == pytest.approx(chance_recall(30, 1, [10])[0])
    with pytest.raises(BabelclipError, match="30 captions"):
        evaluate_features(features, features, groups[:2], groups, facts=facts, language="ja")


@pytest.mark.parametrize("field", FIELDS)
def test_no_result_passes_without_one_of_its_fields(field):
    [result, _] = evaluate_retrieval(
        Dictionary(), both_languages(), pictures=ANIMALS, dataset="animals", languages=["sv"]
    )
    del result[field]
    with pytest.raises(BabelclipError, match=f"{field} is missing.*FIELDS"):
        check_result(result)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("metrics", {"R@1": float("nan")}, "R@1 is nan"),
        ("metrics", {"R@1": "0.3"}, "R@1 is '0.3'"),
        ("n_images", True, "not of type int"),
        ("n_images", 4.0, "not of type int"),
        ("dataset", "", "dataset is empty"),
        ("notes", [np.float32(1)], "does not go to JSON"),
        ("declared", "yes", "bool or null"),
    ],
)
def test_no_result_passes_with_a_field_of_another_kind(field, value, message):
    [result, _] = evaluate_retrieval(
        Dictionary(), both_languages(), pictures=ANIMALS, dataset="animals", languages=["sv"]
    )
    with pytest.raises(BabelclipError, match=message):
        check_result({**result, field: value})
