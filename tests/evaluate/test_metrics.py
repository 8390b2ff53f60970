"""Metrics against hand-written matrices, a slow version, closed forms, and what ties must not do."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babelclip.errors import BabelclipError
from babelclip.evaluate.metrics import (
    bootstrap_interval,
    chance_recall,
    mean_recall,
    recall_at_k,
    score_both,
    score_queries,
)
from babelclip.evaluate.relevance import listed, same_group

# Four queries, eight items; with an identity as corpus the scores are this matrix.
SCORES = np.array(
    [
        [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2],  # relevant: 0 -> rank 1
        [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2],  # relevant: 2 -> rank 3
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8],  # relevant: 0 and 6 -> ranks 8 and 2
        [0.5, 0.4, 0.5, 0.4, 0.5, 0.4, 0.5, 0.4],  # relevant: 1 -> ties for ranks 5 to 8
    ]
)
RELEVANT = [[0], [2], [0, 6], [1]]
IDENTITY = np.eye(8)


def test_hand_written_matrix_gives_the_figures_on_paper():
    scores = score_queries(SCORES, IDENTITY, RELEVANT, ks=[1, 2, 3, 6, 8])
    assert scores.hits.tolist() == [
        [1, 1, 1, 1, 1],
        [0, 0, 1, 1, 1],
        [0, 1, 1, 1, 1],
        [0, 0, 0, 0.5, 1],  # two of the four tied places lie within the top 6
    ]
    assert scores.fractions[2].tolist() == [0, 0.5, 0.5, 0.5, 1]
    assert scores.ranks.tolist() == [1, 3, 2, 6.5]
    summary = recall_at_k(SCORES, IDENTITY, RELEVANT, ks=[1, 3])
    assert summary["R@1"] == 0.25
    assert summary["R@3"] == 0.75
    assert summary["recall@3"] == (1 + 1 + 0.5 + 0) / 4
    assert summary["median_rank"] == 2.5
    assert summary["mean_rank"] == 12.5 / 4


def test_fraction_of_five_captions_cannot_exceed_a_fifth_at_one():
    pictures = np.eye(3)
    captions = np.repeat(pictures, 5, axis=0)
    figures = recall_at_k(pictures, captions, same_group([0, 1, 2], np.repeat([0, 1, 2], 5)), ks=[1, 5])
    assert figures["R@1"] == 1
    assert figures["recall@1"] == pytest.approx(0.2)
    assert figures["recall@5"] == 1


def slow_expectation(row, relevant, k):
    """Mean over every order that the scores allow: the definition of the tie rule, written out."""
    hits, fractions, count = 0, 0.0, 0
    for order in itertools.permutations(range(len(row))):
        if any(row[a] < row[b] for a, b in itertools.pairwise(order)):
            continue
        top = set(order[:k]) & set(relevant)
        hits += bool(top)
        fractions += len(top) / len(relevant)
        count += 1
    return hits / count, fractions / count


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_equals_the_mean_over_all_orders_of_tied_items(data):
    n = data.draw(st.integers(1, 5))
    row = data.draw(st.lists(st.sampled_from([0.0, 0.25, 0.5]), min_size=n, max_size=n))
    relevant = data.draw(st.sets(st.integers(0, n - 1), min_size=1))
    k = data.draw(st.integers(1, n))
    scores = score_queries([row], np.eye(n), [sorted(relevant)], ks=[k])
    hit, fraction = slow_expectation(row, relevant, k)
    assert scores.hits[0, 0] == pytest.approx(hit)
    assert scores.fractions[0, 0] == pytest.approx(fraction)


def slow_recall(queries, corpus, query_group, corpus_group, k):
    hits, fractions = [], []
    for query, group in zip(queries, query_group, strict=True):
        best = sorted(range(len(corpus)), key=lambda c: -float(query @ corpus[c]))[:k]
        found = sum(corpus_group[c] == group for c in best)
        hits.append(found > 0)
        fractions.append(found / sum(g == group for g in corpus_group))
    return np.mean(hits), np.mean(fractions)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 30), st.integers(1, 6))
def test_equals_a_slow_loop_and_does_not_depend_on_chunks_or_order(seed, n_queries, n_corpus, n_groups):
    random = np.random.default_rng(seed)
    corpus_group = random.integers(n_groups, size=n_corpus)
    query_group = random.choice(corpus_group, size=n_queries)
    queries = random.normal(size=(n_queries, 7)).astype(np.float32)
    corpus = random.normal(size=(n_corpus, 7)).astype(np.float32)
    figures = recall_at_k(queries, corpus, same_group(query_group, corpus_group), ks=[1, 4])
    for k in (1, 4):
        assert (figures[f"R@{k}"], figures[f"recall@{k}"]) == pytest.approx(
            slow_recall(queries, corpus, query_group, corpus_group, k)
        )
    small = score_queries(queries, corpus, same_group(query_group, corpus_group), ks=[1, 4], scores_at_once=1)
    assert small.summary() == pytest.approx(figures)
    shuffle, other = random.permutation(n_corpus), random.permutation(n_queries)
    shuffled = same_group(query_group[other], corpus_group[shuffle])
    assert recall_at_k(queries[other], corpus[shuffle], shuffled, ks=[1, 4]) == pytest.approx(figures)


@pytest.mark.parametrize(("n_texts", "n_images", "dim"), [(9, 4, 7), (40, 300, 7), (700, 300, 16), (60, 2, 3)])
@pytest.mark.parametrize("at_once", [1, 5000, 1 << 25])
def test_both_directions_at_once_equal_each_by_itself(n_texts, n_images, dim, at_once):
    random = np.random.default_rng(n_texts)
    # Few values, so that many scores are equal; the last picture has no text.
    texts, images = (random.integers(-2, 3, size=(n, dim)).astype(np.float32) / 4 for n in (n_texts, n_images))
    own = random.integers(n_images - 1, size=n_texts)
    forth, back = same_group(own, np.arange(n_images)), same_group(np.arange(n_images), own)
    expected = [
        score_queries(texts, images, forth, [1, 5, 10]),
        score_queries(images, texts, back, [1, 5, 10], exclude_unanswerable=True),
    ]
    found = score_both(texts, images, forth, back, [1, 5, 10], exclude_unanswerable=True, scores_at_once=at_once)
    for ours, wanted in zip(found, expected, strict=True):
        assert ours.summary() == pytest.approx(wanted.summary(), abs=1e-12)
        np.testing.assert_allclose(ours.hits, wanted.hits)
        np.testing.assert_allclose(ours.ranks, wanted.ranks)
        assert (ours.n_excluded, ours.notes) == (wanted.n_excluded, wanted.notes)
    with pytest.raises(BabelclipError, match="have no relevant item"):
        score_both(texts, images, forth, back)


def test_long_rows_that_round_differently_still_find_themselves():
    random = np.random.default_rng(0)
    texts, images = (1000 * random.normal(size=(300, 512)).astype(np.float32) for _ in range(2))
    group = np.arange(300)
    for scores in score_both(texts, images, same_group(group, group), same_group(group, group)):
        assert np.isfinite(scores.ranks).all()
        assert scores.ranks.min() >= 1


def test_a_constant_model_reaches_chance_exactly_whatever_the_order():
    group = np.arange(40) // 2
    constant = np.tile(np.random.default_rng(0).normal(size=(1, 384)), (40, 1)).astype(np.float32)
    figures = recall_at_k(constant, constant, same_group(group, group), ks=[1, 5, 10])
    for k, chance in zip((1, 5, 10), chance_recall(40, 2, [1, 5, 10]), strict=True):
        assert figures[f"R@{k}"] == pytest.approx(chance)
        assert figures[f"chance_R@{k}"] == pytest.approx(chance)
        assert figures[f"recall@{k}"] == pytest.approx(k / 40)


def test_rounding_in_the_last_bits_is_a_tie():
    figures = recall_at_k([[1.0]], [[0.5], [np.nextafter(np.float32(0.5), 1)]], [[0]], ks=[1])
    assert figures["R@1"] == 0.5
    assert recall_at_k([[1.0]], [[0.5], [0.50001]], [[0]], ks=[1])["R@1"] == 0


@pytest.mark.parametrize(("n", "r", "k"), [(235, 1, 10), (8, 3, 2), (8, 8, 1), (5, 2, 4), (5, 1, 9)])
def test_chance_is_the_hypergeometric_closed_form(n, r, k):
    expected = 1 - math.comb(n - r, min(k, n)) / math.comb(n, min(k, n))
    assert chance_recall(n, r, [k])[0] == pytest.approx(expected)


def test_chance_of_many_queries_has_a_row_each_and_no_overflow():
    rows = chance_recall(1_000_000, [1, 100], [1, 10])
    assert rows.shape == (2, 2)
    assert rows[0].tolist() == pytest.approx([1e-6, 1e-5])
    assert rows[1, 0] == pytest.approx(1e-4)


def test_k_beyond_the_corpus_is_clamped_with_a_note():
    scores = score_queries(SCORES, IDENTITY, RELEVANT, ks=[1, 100])
    assert scores.hits[:, 1].tolist() == [1, 1, 1, 1]
    assert scores.notes == ("k 100 exceeds the corpus and counts as 8",)


def test_a_query_without_answer_is_an_error_or_a_counted_exclusion():
    with pytest.raises(BabelclipError, match=r"1 of 2 queries have no relevant item.*exclude_unanswerable"):
        recall_at_k(np.eye(2), np.eye(2), [[0], []])
    scores = score_queries(np.eye(2), np.eye(2), [[0], []], ks=[1], exclude_unanswerable=True)
    assert scores.hits.tolist() == [[1]]
    assert scores.queries.tolist() == [0]
    assert scores.n_excluded == 1
    assert "1 queries without" in scores.notes[0]
    with pytest.raises(BabelclipError, match="no relevant item"):
        recall_at_k(np.eye(2), np.eye(2), [[], []], exclude_unanswerable=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_features": np.ones((2, 3))}, "same number of dimensions"),
        ({"query_features": np.ones(2)}, "must be"),
        ({"query_features": np.full((2, 2), np.nan)}, "2 of 2 query features hold NaN"),
        ({"corpus_features": np.ones((3, 2))}, "2 queries and 2 items"),
        ({"relevant": [[0], [2]]}, "but the corpus has 2 items"),
        ({"ks": [0]}, "at least 1"),
        ({"ks": []}, "at least 1"),
        ({"ks": [5, 5]}, "distinct"),
    ],
)
def test_wrong_input_names_the_fault_and_the_cure(change, message):
    arguments = {"query_features": np.eye(2), "corpus_features": np.eye(2), "relevant": same_group([0, 1], [0, 1])}
    with pytest.raises(BabelclipError, match=message):
        recall_at_k(**{**arguments, **change})


def test_groups_of_strings_and_numbers_never_mix_silently():
    with pytest.raises(BabelclipError, match="none would ever be"):
        same_group(["1", "2"], [1, 2])
    assert same_group(["b", "a"], ["a", "a", "b"]).of(1).tolist() == [0, 1]
    assert listed([[3, 3, 1]], 4).of(0).tolist() == [1, 3]


def test_mean_recall_is_the_mean_of_six_numbers():
    t2i, i2t = {"R@1": 0.1, "R@5": 0.2, "R@10": 0.3}, {"R@1": 0.4, "R@5": 0.5, "R@10": 0.6}
    assert mean_recall(t2i, i2t) == pytest.approx(0.35)


def test_bootstrap_is_seeded_covers_the_mean_and_widens_with_clusters():
    random = np.random.default_rng(3)
    pictures = random.random(50) < 0.4
    hits = np.repeat(pictures, 5).astype(float)
    low, high = bootstrap_interval(hits, seed=1)
    assert low < hits.mean() < high
    assert bootstrap_interval(hits, seed=1).tolist() == [low, high]
    wide = bootstrap_interval(hits, clusters=np.repeat(np.arange(50), 5), seed=1)
    assert wide[1] - wide[0] > 1.5 * (high - low)
    # Normal theory for 250 independent draws: 2 x 1.96 x sqrt(p(1-p)/n).
    assert high - low == pytest.approx(3.92 * math.sqrt(hits.mean() * (1 - hits.mean()) / 250), rel=0.15)
    assert bootstrap_interval(np.stack([hits, 1 - hits], axis=1)).shape == (2, 2)


def test_bootstrap_refuses_nonsense():
    with pytest.raises(BabelclipError, match="Q at least 1"):
        bootstrap_interval([])
    with pytest.raises(BabelclipError, match="cluster ids"):
        bootstrap_interval([1.0, 0.0], clusters=[1])
    with pytest.raises(BabelclipError, match="confidence"):
        bootstrap_interval([1.0], confidence=95)
