"""Retrieval over a benchmark: languages, corpora of their own, lost pictures, and equal captions merged."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babelclip.data.captions import Captions
from babelclip.errors import BabelclipError
from babelclip.evaluate.benchmarks.sets import Pictures, RetrievalSet
from babelclip.evaluate.hits import unpack_hits
from babelclip.evaluate.metrics import recall_at_k
from babelclip.evaluate.result import RunFacts, check_result
from babelclip.evaluate.retrieval_sets import evaluate_retrieval_set, merged_duplicates

AXES = {"dog": 0, "cat": 1, "cow": 2, "hund": 0, "katt": 1, "ko": 2}
FACTS = RunFacts(model="dictionary", dataset="animals")
FEATURES = np.eye(4, dtype=np.float32)[:3]


class Dictionary:
    languages = ("en",)

    def encode_text(self, texts):
        return np.stack([np.eye(4, dtype=np.float32)[AXES.get(text.strip().lower(), 3)] for text in texts])


def animals(texts=("dog", "cat", "cow", "hund", "katt"), langs="en en en sv sv", images="a b c a b", **changes):
    captions = Captions.from_columns(text=list(texts), lang=langs.split(), image=images.split())
    facts = {"name": "animals", "split": "test", "captions": captions, "pictures": Pictures(tuple("abc"), tuple("abc"))}
    return RetrievalSet(**{**facts, **changes})


def by_key(results):
    return {(result["language"], result["direction"]): result for result in results}


def test_every_language_and_direction_is_measured_on_the_same_vectors():
    results = by_key(evaluate_retrieval_set(Dictionary(), animals(), FEATURES, facts=FACTS, ks=(1, 2)))
    assert list(results) == [("en", "t2i"), ("en", "i2t"), ("sv", "t2i"), ("sv", "i2t")]
    for result in results.values():
        check_result(result)
        assert result["metrics"]["R@1"] == result["metrics"]["nDCG@10"] == 1
        assert unpack_hits(result).values["R@1"].tolist() == [1] * result["n_queries"]
    assert (results["sv", "i2t"]["n_queries"], results["sv", "i2t"]["n_excluded"]) == (2, 1)
    assert "does not declare sv" in results["sv", "t2i"]["notes"][-1]


def test_a_language_may_have_pictures_of_its_own():
    own = animals(corpora={"sv": np.array([0, 1])})
    results = by_key(evaluate_retrieval_set(Dictionary(), own, FEATURES, facts=FACTS, ks=(1,)))
    assert results["en", "t2i"]["n_images"] == 3
    assert results["sv", "t2i"]["n_images"] == 2
    assert results["sv", "t2i"]["metrics"]["chance_R@1"] == 0.5


def test_pictures_that_could_not_be_read_take_their_captions_with_them():
    results = by_key(evaluate_retrieval_set(Dictionary(), animals(), FEATURES[[0, 2]], facts=FACTS, kept=[0, 2]))
    english = results["en", "t2i"]
    assert (english["n_images"], english["n_captions"], english["metrics"]["R@1"]) == (2, 2, 1)
    assert "1 captions lost their picture and were left out" in english["notes"]
    with pytest.raises(BabelclipError, match="None of the 2 captions in sv"):
        evaluate_retrieval_set(Dictionary(), animals(), FEATURES[[2]], facts=FACTS, kept=[2], languages=["sv"])


def test_a_text_of_several_pictures_is_one_query_that_each_of_them_answers():
    several = animals(("dog", "dog", "cat"), "zh zh zh", "a b c", text_numbers=np.array([0, 0, 1]))
    results = by_key(evaluate_retrieval_set(Dictionary(), several, FEATURES, facts=FACTS, ks=(1,)))
    t2i, i2t = results["zh", "t2i"], results["zh", "i2t"]
    assert (t2i["n_queries"], t2i["n_captions"], t2i["relevance"]) == (2, 2, "any picture of the text")
    # The dog finds its picture a, one of its two; the cat finds b, and only c is right.
    assert (t2i["metrics"]["R@1"], t2i["metrics"]["recall@1"]) == (0.5, 0.25)
    # a finds the dog, b the cat instead, and c is as far from both.
    assert i2t["metrics"]["R@1"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert "merged_R@1" not in t2i["metrics"]
    lost = evaluate_retrieval_set(Dictionary(), several, FEATURES[:2], facts=FACTS, kept=[0, 1], ks=(1,))
    assert (lost[0]["n_queries"], lost[0]["metrics"]["recall@1"]) == (1, 0.5)
    assert "1 captions lost their picture and were left out" in lost[0]["notes"]


def test_pictures_of_one_group_answer_alike():
    grouped = animals(groups=("animal", "animal", "other"))
    # The captions of a find b and the other way round.
    turned = FEATURES[[1, 0, 2]]
    results = by_key(evaluate_retrieval_set(Dictionary(), grouped, turned, facts=FACTS, ks=(1,)))
    assert results["en", "t2i"]["metrics"]["R@1"] == results["en", "i2t"]["metrics"]["R@1"] == 1
    assert results["en", "t2i"]["metrics"]["recall@1"] == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert results["en", "t2i"]["relevance"] == "group"
    alone = by_key(evaluate_retrieval_set(Dictionary(), animals(), turned, facts=FACTS, ks=(1,)))
    assert alone["en", "t2i"]["metrics"]["R@1"] == pytest.approx(1 / 3)


def test_equal_captions_count_for_both_pictures_under_a_name_of_their_own():
    twice = animals(("Dog", " dog", "cat"), "en en en", "a b c")
    results = by_key(evaluate_retrieval_set(Dictionary(), twice, FEATURES[[0, 1, 1]], facts=FACTS, ks=(1,)))
    t2i, i2t = results["en", "t2i"]["metrics"], results["en", "i2t"]["metrics"]
    # "Dog" and " dog" both find picture a; the cat finds b and c alike.
    assert t2i["R@1"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert t2i["merged_R@1"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert i2t["R@1"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert i2t["merged_R@1"] == pytest.approx((1 + 0 + 1) / 3)
    plain = evaluate_retrieval_set(Dictionary(), animals(), FEATURES, facts=FACTS)
    assert "merged_R@1" not in plain[0]["metrics"]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(1, 5), st.integers(1, 4))
def test_merging_equals_a_slow_loop(seed, n, n_texts, n_groups):
    random = np.random.default_rng(seed)
    groups = np.unique(random.integers(n_groups, size=4), return_inverse=True)[1]
    texts = [f"text {number}" for number in random.integers(n_texts, size=n)]
    places = random.integers(len(groups), size=n)
    merged = merged_duplicates(texts, places, groups)
    equal = [[{groups[places[b]] for b in range(n) if texts[b] == texts[a]}] for a in range(n)]
    wanted = [[p for p in range(len(groups)) if groups[p] in own[0]] for own in equal]
    if merged is None:
        assert all(len(own[0]) == 1 for own in equal)
        return
    captions, pictures = random.normal(size=(n, 5)), random.normal(size=(len(groups), 5))
    found = recall_at_k(captions, pictures, merged["t2i"], [1])
    assert found["R@1"] == pytest.approx(recall_at_k(captions, pictures, wanted, [1])["R@1"])
    back = [
        sorted(
            {b for a, b in itertools.product(range(n), repeat=2) if groups[places[a]] == own and texts[a] == texts[b]}
        )
        for own in groups
    ]
    asked = recall_at_k(pictures, captions, back, [1], exclude_unanswerable=True)["R@1"]
    assert recall_at_k(pictures, captions, merged["i2t"], [1], exclude_unanswerable=True)["R@1"] == pytest.approx(asked)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"languages": ["de"]}, "No caption with a picture is in de; animals has en, sv"),
        ({"kept": [0]}, "3 vectors for 1"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(BabelclipError, match=message):
        evaluate_retrieval_set(Dictionary(), animals(), FEATURES, facts=FACTS, **change)
