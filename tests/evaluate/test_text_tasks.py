"""Sentence similarity over subsets and languages, translation retrieval, and fidelity to a teacher."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babelclip.errors import BabelclipError, SpaceMismatchError
from babelclip.evaluate.benchmarks.sets import ParallelTexts, ScoredPairs, SentencePairs
from babelclip.evaluate.fidelity import evaluate_fidelity
from babelclip.evaluate.intervals import resampled
from babelclip.evaluate.result import RunFacts, check_result
from babelclip.evaluate.sts import correlations
from babelclip.evaluate.sts_sets import averages, evaluate_sts
from babelclip.evaluate.translation import evaluate_translation
from tests.conftest import make_clip

FACTS = RunFacts(model="letters", dataset="texts")


class Letters:
    """Counts letters; upper case is not what it reads."""

    languages = ("en",)

    def __init__(self):
        self.texts = []

    def encode_text(self, texts):
        self.texts += texts
        return np.array([[text.count(c) for c in "abcdé"] for text in texts], dtype=np.float32) + 1e-3


def sentences(**changes):
    subsets = {
        "one": ScoredPairs(["aa", "ab", "b"], ["aa", "a", "c"], [5.0, 3.0, 0.0]),
        "two": ScoredPairs(["AB", "ab", "c"], ["ab", "ab", "cc"], [2.0, 5.0, 4.0]),
        "ar-en": ScoredPairs(["a", "b"], ["a", "c"], [5.0, 1.0]),
    }
    spoken = {"one": ("en", "en"), "two": ("en", "en"), "ar-en": ("ar", "en")}
    return SentencePairs(**{"name": "sts", "split": "test", "subsets": subsets, "pair_languages": spoken, **changes})


def test_subsets_of_one_language_share_a_result_with_three_averages():
    model = Letters()
    english, across = evaluate_sts(model, sentences(), facts=FACTS)
    check_result(english)
    metrics, subsets = english["metrics"], english["subsets"]
    parts = [subsets[name]["spearman"] for name in ("one", "two")]
    assert metrics["spearman_mean"] == pytest.approx(np.mean(parts))
    assert metrics["spearman_wmean"] == pytest.approx(np.mean(parts))  # as many pairs in both
    assert metrics["spearman_all"] == metrics["spearman"]
    assert (english["n_pairs"], english["average"], english["language"]) == (6, "all", "en")
    assert (across["language"], across["average"], across["declared"]) == ("ar+en", "none", False)
    assert "does not declare ar" in across["notes"][-1]
    assert model.texts.count("ab") == 2  # once a subset, though it occurs thrice in the second


def test_weights_are_numbers_of_pairs():
    predicted = {"few": [1, 2], "many": [1, 2, 3, 4]}
    found = averages(predicted, {"few": [1, 2], "many": [4, 3, 2, 1]})
    assert found["pearson_mean"] == pytest.approx(0)
    assert found["pearson_wmean"] == pytest.approx((2 * 1 + 4 * -1) / 6)


def test_the_lower_casing_protocol_is_done_and_stated():
    plain = evaluate_sts(Letters(), sentences(), facts=FACTS, languages=["en"])
    lowered = evaluate_sts(Letters(), sentences(protocol="lowercased"), facts=FACTS, languages=["en"])
    assert [len(plain), len(lowered)] == [1, 1]
    assert lowered[0]["protocol"] == "lowercased"
    assert lowered[0]["subsets"]["two"]["pearson"] != plain[0]["subsets"]["two"]["pearson"]
    with pytest.raises(BabelclipError, match="no pairs within de; its languages are ar, en"):
        evaluate_sts(Letters(), sentences(), facts=FACTS, languages=["de"])


def test_what_has_no_correlation_is_said():
    class Constant(Letters):
        def encode_text(self, texts):
            return np.ones((len(texts), 2), dtype=np.float32)

    with pytest.raises(BabelclipError, match="All 6 pairs of sts in en and en have one cosine"):
        evaluate_sts(Constant(), sentences(), facts=FACTS, languages=["en"])
    flat = {
        "one": ScoredPairs(["a", "b"], ["a", "c"], [5.0, 1.0]),
        "flat": ScoredPairs(["a", "b"], ["a", "c"], [3.0, 3.0]),
    }
    english = {"one": ("en", "en"), "flat": ("en", "en")}
    [result] = evaluate_sts(Letters(), sentences(subsets=flat, pair_languages=english), facts=FACTS)
    assert "spearman" in result["metrics"]
    assert "spearman_mean" not in result["metrics"]
    assert any("cannot be told" in note for note in result["notes"])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_an_interval_holds_the_figure_and_repeats_with_its_seed(seed):
    random = np.random.default_rng(seed)
    gold = random.normal(size=80)
    predicted = gold + random.normal(size=80)
    found = resampled(lambda drawn: correlations(predicted[drawn], gold[drawn]), 80, samples=200, seed=seed)
    for name, value in correlations(predicted, gold).items():
        assert found[name][0] < value < found[name][1]
    again = resampled(lambda drawn: correlations(predicted[drawn], gold[drawn]), 80, samples=200, seed=seed)
    assert again == found


def parallel(**texts):
    return ParallelTexts("mini", "test", texts or {"en": ["a", "b", "c"], "sv": ["a", "b", "d"], "de": ["é"] * 3})


def test_translations_are_found_in_both_directions_against_english():
    results = evaluate_translation(Letters(), parallel(), facts=FACTS, ks=(1, 2))
    by_direction = {result["direction"]: result for result in results}
    assert list(by_direction) == ["en->sv", "sv->en", "en->de", "de->en"]
    for result in results:
        check_result(result)
    # "c" is like none of the Swedish ones: all three are equally far.
    assert by_direction["en->sv"]["metrics"]["R@1"] == pytest.approx((1 + 1 + 1 / 3) / 3, abs=1e-3)
    assert by_direction["en->sv"]["metrics"]["accuracy"] == by_direction["sv->en"]["metrics"]["accuracy"]
    # German says the same thrice: whatever is chosen is right; and back it is chance.
    assert by_direction["en->de"]["metrics"]["R@1"] == 1
    assert by_direction["de->en"]["metrics"]["R@1"] == pytest.approx(1 / 3)
    every = evaluate_translation(Letters(), parallel(), facts=FACTS, every_pair=True)
    assert len(every) == 6
    with pytest.raises(BabelclipError, match="two languages of en, sv, de"):
        evaluate_translation(Letters(), parallel(), facts=FACTS, languages=["en"])


def test_the_teacher_itself_is_faithful_and_a_stranger_is_not():
    texts = parallel(en=["a red dog", "two cats", "blue"], sv=["en röd hund", "två katter", "blå"])
    teacher, student = make_clip(), make_clip(seed=9)
    english, swedish = evaluate_fidelity(teacher, make_clip(), texts, facts=FACTS)
    check_result(english)
    assert english["metrics"]["cosine"] == pytest.approx(1, abs=1e-6)
    assert english["metrics"]["mse"] == pytest.approx(0, abs=1e-9)
    assert english["metrics"]["explained"] == pytest.approx(1)
    assert swedish["metrics"]["cosine"] < 1
    assert swedish["reference_language"] == "en"
    [stranger] = evaluate_fidelity(student, teacher, texts, facts=FACTS, languages=["sv"])
    assert stranger["metrics"]["mse"] > stranger["metrics"]["trivial_mse"]
    assert stranger["metrics"]["explained"] < 0
    student.space = "another/space"
    with pytest.raises(SpaceMismatchError, match="another/space"):
        evaluate_fidelity(student, teacher, texts, facts=FACTS)
    with pytest.raises(BabelclipError, match="no texts in de"):
        evaluate_fidelity(teacher, teacher, texts, facts=FACTS, languages=["de"])
