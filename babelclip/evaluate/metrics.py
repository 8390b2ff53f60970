"""Retrieval metrics in numpy: R@k, fractional recall, ranks, intervals, and what chance would reach.

Metrics see features and relevance, never a model. Scores are made a chunk of queries at a time, so nothing of the
size (Q, C) is held; what `places.py` counts in a chunk answers every k.

Two recalls, never mixed: `R@k` is the share of queries with *any* relevant item among the top k (the field's R@k),
`recall@k` the mean *fraction* of a query's relevant items among the top k.

**Ties.** Items whose scores differ by no more than a tolerance are equal, and equal items are thought of in random
order: a query counts with the *probability* that a relevant item is among the top k. So the order of the corpus
never matters, rounding in the last bits never decides, and a model that gives every item the same score reaches
chance exactly (`chance_recall`), not 0 or 1 as with argsort.

Entry points: `recall_at_k`, `score_queries`, `score_both`, `chance_recall`, `bootstrap_interval`, `mean_recall`.
Legend: Q queries, C corpus items, D embed_dim, K number of k's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from babelclip.errors import BabelclipError
from babelclip.evaluate.places import Bounds, pair_scores, window
from babelclip.evaluate.ranking import average_precision, ndcg, reciprocal_rank
from babelclip.evaluate.relevance import Relevance, listed

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]

# Far above the rounding of float32 dot products of unit vectors (about 1e-7), far below any real difference.
TIE_TOLERANCE = 1e-6
_SCORES_AT_ONCE = 1 << 24  # 64 MiB of float32
# Draws of the bootstrap in memory.
_DRAWS_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class QueryScores:
    """What every scored query reached; queries without a relevant item are left out and counted.

    Attributes:
        ks: (K,) the k's as asked for.
        hits: (Q, K) float64 in 0..1, probability of any relevant item in the top k; 0 or 1 without ties.
        fractions: (Q, K) float64 in 0..1, expected fraction of the relevant items in the top k.
        ranks: (Q,) float64, expected rank of the first relevant item, from 1.
        ranking: name -> (Q,) float64: `nDCG@10`, `MRR@10`, `MAP@100`, see `babelclip.evaluate.ranking`.
        chance: (Q, K) float64, `hits` of a random ranking.
        queries: (Q,) positions of the scored queries among those given.
        n_excluded: queries left out.
        notes: what a reader of the figures has to know.
    """

    ks: tuple[int, ...]
    hits: FloatArray
    fractions: FloatArray
    ranks: FloatArray
    ranking: dict[str, FloatArray]
    chance: FloatArray
    queries: IntArray
    n_excluded: int
    notes: tuple[str, ...]

    def summary(self) -> dict[str, float]:
        """Returns means by name: `R@k`, `recall@k`, `chance_R@k` for every k, ranks, `nDCG@10`, `MRR@10`, `MAP@100`.

        `median_rank` and `mean_rank` are of the first relevant item; where queries and items are one-to-one, these are
        open_clip's. A rank grows with the corpus, so ranks of two data sets do not compare.
        """
        means: dict[str, float] = {}
        for name, values in (("R", self.hits), ("recall", self.fractions), ("chance_R", self.chance)):
            means.update({f"{name}@{k}": float(mean) for k, mean in zip(self.ks, values.mean(axis=0), strict=True)})
        means["median_rank"] = float(np.median(self.ranks))
        means["mean_rank"] = float(self.ranks.mean())
        means.update({name: float(values.mean()) for name, values in self.ranking.items()})
        return means


def recall_at_k(
    query_features: npt.ArrayLike,
    corpus_features: npt.ArrayLike,
    relevant: Relevance | Sequence[Sequence[int]],
    ks: Sequence[int] = (1, 5, 10),
    *,
    exclude_unanswerable: bool = False,
    tolerance: float = TIE_TOLERANCE,
) -> dict[str, float]:
    """Returns R@k, recall@k, chance and ranks of a retrieval by dot product, averaged over the queries.

    >>> recall_at_k([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.6, 0.8]], [[0], [0]], ks=[1])["R@1"]
    0.5

    See `score_queries` for the arguments and for what it raises.
    """
    return score_queries(
        query_features,
        corpus_features,
        relevant,
        ks,
        exclude_unanswerable=exclude_unanswerable,
        tolerance=tolerance,
    ).summary()


def score_queries(
    query_features: npt.ArrayLike,
    corpus_features: npt.ArrayLike,
    relevant: Relevance | Sequence[Sequence[int]],
    ks: Sequence[int] = (1, 5, 10),
    *,
    exclude_unanswerable: bool = False,
    tolerance: float = TIE_TOLERANCE,
    scores_at_once: int = _SCORES_AT_ONCE,
) -> QueryScores:
    """Returns what every query reached; scores are float32 dot products.

    Args:
        query_features: (Q, D), rows L2-normalised by the caller where cosines are meant.
        corpus_features: (C, D), likewise.
        relevant: from `same_group`, or corpus positions for each query.
        ks: numbers of items looked at; a k above C counts as C, with a note.
        exclude_unanswerable: leave out and count queries without a relevant item, instead of an error.
        tolerance: scores this close are equal; see the module text.
        scores_at_once: upper bound of scores in memory.

    Raises:
        BabelclipError: shapes disagree, a feature is not finite, a k is below 1, or a query has no relevant item.
    """
    queries, corpus = _checked(query_features, "query"), _checked(corpus_features, "corpus")
    _check_dimensions(queries, corpus)
    asked = _asked(relevant, len(queries), len(corpus), ks, exclude_unanswerable)
    own, better, at_least = _empty_places(len(asked.rows))
    step = max(1, scores_at_once // len(corpus))
    # Fresh memory for every block would cost a fifth of the whole time.
    room = np.empty((min(step, len(asked.scored)), len(corpus)), dtype=np.float32)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(asked.scored), step):
            chunk = asked.scored[start : start + step]
            scores = np.matmul(queries[chunk], corpus.T, out=room[: len(chunk)])
            part = slice(*np.searchsorted(asked.rows, [start, start + step]))
            rows = asked.rows[part] - start
            own[part] = scores[rows, asked.items[part]]
            bounds = Bounds.of_pairs(rows, *window(own[part], tolerance), len(scores))
            better[part], at_least[part] = bounds.count(scores, 1, pool)
    return _reached(asked, own, better, at_least, len(corpus), tolerance)


def score_both(
    text_features: npt.ArrayLike,
    image_features: npt.ArrayLike,
    t2i: Relevance,
    i2t: Relevance,
    ks: Sequence[int] = (1, 5, 10),
    *,
    exclude_unanswerable: bool = False,
    scores_at_once: int = _SCORES_AT_ONCE,
) -> tuple[QueryScores, QueryScores]:
    """Returns what texts reached among pictures, and pictures among texts: every score is computed once for both.

    The same figures as by `score_queries` in each direction, in half the matrix products.

    Args:
        text_features: (N, D), rows L2-normalised by the caller where cosines are meant.
        image_features: (C, D), likewise.
        t2i: which pictures answer which text.
        i2t: which texts answer which picture.
        ks: see `score_queries`.
        exclude_unanswerable: leave out and count pictures without a text; every text needs its picture.
        scores_at_once: upper bound of scores in memory.

    Raises:
        BabelclipError: as `score_queries`.
    """
    texts, images = _checked(text_features, "text"), _checked(image_features, "picture")
    _check_dimensions(texts, images)
    asked = _asked(t2i, len(texts), len(images), ks, False)
    back = _asked(i2t, len(images), len(texts), ks, exclude_unanswerable)
    own, better, at_least = _empty_places(len(asked.rows))
    own_back, better_back, at_least_back = _empty_places(len(back.rows))
    step = max(1, scores_at_once // len(images))
    # A picture meets its own texts only in some of the blocks, so these scores are needed before.
    pictures = back.scored[back.rows]
    own_back[:] = pair_scores(images, texts, pictures, back.items)
    columns = Bounds.of_pairs(pictures, *window(own_back, TIE_TOLERANCE), len(images))
    room = np.empty((min(step, len(texts)), len(images)), dtype=np.float32)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(texts), step):
            block = texts[start : start + step]
            scores = np.matmul(block, images.T, out=room[: len(block)])
            part = slice(*np.searchsorted(asked.rows, [start, start + step]))
            rows = asked.rows[part] - start
            own[part] = scores[rows, asked.items[part]]
            bounds = Bounds.of_pairs(rows, *window(own[part], TIE_TOLERANCE), len(scores))
            better[part], at_least[part] = bounds.count(scores, 1, pool)
            above, not_below = columns.count(scores, 0, pool)
            better_back += above
            at_least_back += not_below
    # An item is equal to itself, also where two ways to round its score differ by more than the tolerance.
    at_least_back = np.maximum(at_least_back, better_back + 1)
    forth = _reached(asked, own, better, at_least, len(images), TIE_TOLERANCE)
    return forth, _reached(back, own_back, better_back, at_least_back, len(texts), TIE_TOLERANCE)


@dataclass(frozen=True)
class _Asked:
    """A checked question.

    Attributes:
        ks: (K,) the k's as asked for.
        notes: see `QueryScores`; `n_excluded` too.
        scored: (Q,) queries that have a relevant item.
        counts: (Q,) how many each of them has.
        rows: (P,) place within `scored` of each pair of query and relevant item, ascending.
        items: (P,) the item of each pair.
        n_excluded: queries left out.
    """

    ks: tuple[int, ...]
    notes: tuple[str, ...]
    scored: IntArray
    counts: IntArray
    rows: IntArray
    items: IntArray
    n_excluded: int


def _asked(
    relevant: Relevance | Sequence[Sequence[int]], n_queries: int, n_corpus: int, ks: Sequence[int], exclude: bool
) -> _Asked:
    if not isinstance(relevant, Relevance):
        relevant = listed(relevant, n_corpus)
    if len(relevant.starts) != n_queries or relevant.n_corpus != n_corpus:
        raise BabelclipError(
            f"Relevance is given for {len(relevant.starts)} queries and {relevant.n_corpus} items, features for "
            f"{n_queries} and {n_corpus}. Give one entry a query, in the order of the features."
        )
    asked, notes = _checked_ks(ks, n_corpus)
    scored = np.flatnonzero(relevant.counts)
    n_excluded = n_queries - len(scored)
    if (n_excluded and not exclude) or not len(scored):
        first = np.flatnonzero(relevant.counts == 0)[:5].tolist()
        raise BabelclipError(
            f"{n_excluded} of {n_queries} queries have no relevant item in the corpus (positions {first} ...). "
            "Every query needs one: remove them, or leave them out by exclude_unanswerable=True."
        )
    if n_excluded:
        notes += (f"{n_excluded} queries without a relevant item in the corpus were left out",)
    return _Asked(asked, notes, scored, relevant.counts[scored], *relevant.pairs(scored), n_excluded)


def _empty_places(n_pairs: int) -> tuple[npt.NDArray[np.float32], IntArray, IntArray]:
    """Returns room for the score of each pair, the number of better scores, and that of better and equal ones."""
    return np.empty(n_pairs, dtype=np.float32), np.zeros(n_pairs, dtype=np.int64), np.zeros(n_pairs, dtype=np.int64)


def _reached(
    asked: _Asked,
    own: npt.NDArray[np.float32],
    better: IntArray,
    at_least: IntArray,
    n_corpus: int,
    tolerance: float,
) -> QueryScores:
    """Returns what each query reached, given its pairs' scores, and how many scores are better and as good (P,)."""
    rows, counts = asked.rows, asked.counts
    tops = np.minimum(np.array(asked.ks), n_corpus)
    equal = at_least - better
    first = np.cumsum(counts) - counts
    within = np.clip((tops - better[:, None]) / equal[:, None], 0.0, 1.0)
    fractions = np.add.reduceat(within, first, axis=0) / counts[:, None]
    best = np.lexsort((-own, rows))[first]  # the best relevant item of each query
    relevant_equal = np.add.reduceat((own >= window(own, tolerance)[0][best][rows]).astype(np.int64), first)
    n_better, n_equal, n_relevant = (values[:, None] for values in (better[best], equal[best], relevant_equal))
    hits = _probability_of_any(n_equal, n_relevant, np.clip(tops - n_better, 0, n_equal))
    ranking = {
        "nDCG@10": ndcg(first, better, equal),
        "MRR@10": reciprocal_rank(better[best], equal[best], relevant_equal),
        "MAP@100": average_precision(first, better, equal),
    }
    ranks = (n_better + (n_equal + 1) / (n_relevant + 1))[:, 0]
    chance = chance_recall(n_corpus, counts, asked.ks)
    return QueryScores(asked.ks, hits, fractions, ranks, ranking, chance, asked.scored, asked.n_excluded, asked.notes)


def chance_recall(n_corpus: int, n_relevant: npt.ArrayLike, ks: Sequence[int] = (1, 5, 10)) -> FloatArray:
    """Returns the exact expectation of R@k for a random order of the corpus, (..., K) float64.

    It is 1 - C(n_corpus - n_relevant, k) / C(n_corpus, k): the hypergeometric chance to meet any relevant item.

    Args:
        n_corpus: number of corpus items C.
        n_relevant: relevant items of a query; an array gives one row a query.
        ks: numbers of items looked at, clamped to C.
    """
    relevant = np.asarray(n_relevant, dtype=np.int64)[..., None]
    return _probability_of_any(np.array(n_corpus), relevant, np.minimum(np.asarray(ks, dtype=np.int64), n_corpus))


def _probability_of_any(total: IntArray, relevant: IntArray, drawn: IntArray) -> FloatArray:
    """Returns the chance that `drawn` of `total` items, drawn without putting back, hold any of the `relevant` ones."""
    total, relevant, drawn = np.broadcast_arrays(total, relevant, drawn)
    missed = np.ones(relevant.shape)
    # C(total - r, m) / C(total, m) as a product of r factors, none of which can overflow.
    for i in range(int(relevant.max(initial=0))):
        factor = np.maximum(total - drawn - i, 0) / np.maximum(total - i, 1)
        missed = np.where(i < relevant, missed * factor, missed)
    return 1.0 - missed


def mean_recall(*directions: dict[str, float], ks: Sequence[int] = (1, 5, 10)) -> float:
    """Returns MR: the mean of R@k over all ks and all directions, six numbers by the field's custom."""
    return float(np.mean([direction[f"R@{k}"] for direction in directions for k in ks]))


def bootstrap_interval(
    values: npt.ArrayLike,
    *,
    clusters: npt.ArrayLike | None = None,
    confidence: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> FloatArray:
    """Returns the percentile bootstrap interval of a mean: (2,), or (2, K) for K columns; row 0 is the lower end.

    Args:
        values: (Q,) or (Q, K), for example the hits of `score_queries`.
        clusters: (Q,) ids of what was drawn independently. Captions of one picture are not independent: resampling
            them one by one makes the interval too narrow, so whole pictures are drawn.
        confidence: probability mass between the two ends.
        samples: resampled means.
        seed: the same seed gives the same interval.

    Raises:
        BabelclipError: there are no values, a shape does not fit, or `confidence` or `samples` is out of range.
    """
    columns = np.asarray(values, dtype=np.float64)
    if columns.ndim not in (1, 2) or not len(columns):
        raise BabelclipError(f"Values have shape {columns.shape}; an interval needs (Q,) or (Q, K) with Q at least 1.")
    if not 0 < confidence < 1 or samples < 1:
        raise BabelclipError(
            f"confidence is {confidence} and samples {samples}; they must lie between 0 and 1, and be at least 1."
        )
    table = columns.reshape(len(columns), -1)
    ids = np.arange(len(table)) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    if len(ids) != len(table):
        raise BabelclipError(f"There are {len(ids)} cluster ids for {len(table)} values; give one a value.")
    sizes = np.bincount(ids).astype(np.float64)
    sums = np.stack([np.bincount(ids, weights=column) for column in table.T], axis=1)
    random = np.random.default_rng(seed)
    means = np.empty((samples, table.shape[1]))
    at_once = max(1, _DRAWS_AT_ONCE // len(sizes))
    for start in range(0, samples, at_once):
        drawn = random.integers(len(sizes), size=(min(at_once, samples - start), len(sizes)))
        # How often each cluster was drawn in each sample, so that a sample's sums are one matrix product.
        drawn += len(sizes) * np.arange(len(drawn))[:, None]
        times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)
        means[start : start + len(times)] = (times @ sums) / (times @ sizes)[:, None]
    tail = 100 * (1 - confidence) / 2
    ends = np.asarray(np.percentile(means, [tail, 100 - tail], axis=0))
    return ends[:, 0] if columns.ndim == 1 else ends


def _check_dimensions(queries: FloatArray, corpus: FloatArray) -> None:
    if queries.shape[1] != corpus.shape[1]:
        raise BabelclipError(
            f"Query features are {queries.shape}, corpus features {corpus.shape}; both need the same number of "
            "dimensions. Encode both with one model."
        )


def _checked(features: npt.ArrayLike, what: str) -> npt.NDArray[np.float32]:
    array = np.asarray(features, dtype=np.float32)
    if array.ndim != 2 or not array.size:
        raise BabelclipError(f"The {what} features have shape {array.shape}; they must be (N, D), neither being 0.")
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise BabelclipError(
            f"{int((~finite).sum())} of {len(array)} {what} features hold NaN or infinity (first: row "
            f"{int(np.argmin(finite))}); all must be finite. Look for a model in float16 that overflows, or encode "
            "again in float32."
        )
    return array


def _checked_ks(ks: Sequence[int], n_corpus: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    asked = tuple(int(k) for k in ks)
    if not asked or min(asked) < 1 or len(set(asked)) < len(asked):
        raise BabelclipError(f"ks is {list(ks)}; it must hold distinct numbers of at least 1, for example [1, 5, 10].")
    beyond = [k for k in asked if k > n_corpus]
    note = f"k {', '.join(map(str, beyond))} exceeds the corpus and counts as {n_corpus}"
    return asked, ((note,) if beyond else ())
