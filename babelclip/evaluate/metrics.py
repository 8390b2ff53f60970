"""Retrieval metrics in numpy: R@k, fractional recall, ranks, intervals, and what chance would reach.

Metrics see features and relevance, never a model. Scores are made a chunk of queries at a time, so nothing of the
size (Q, C) is held; one sort of a chunk answers every k.

Two recalls, never mixed: `R@k` is the share of queries with *any* relevant item among the top k (the field's R@k),
`recall@k` the mean *fraction* of a query's relevant items among the top k.

**Ties.** Items whose scores differ by no more than a tolerance are equal, and equal items are thought of in random
order: a query counts with the *probability* that a relevant item is among the top k. So the order of the corpus
never matters, rounding in the last bits never decides, and a model that gives every item the same score reaches
chance exactly (`chance_recall`), not 0 or 1 as with argsort.

Entry points: `recall_at_k`, `score_queries`, `same_group`, `chance_recall`, `bootstrap_interval`, `mean_recall`.
Legend: Q queries, C corpus items, D embed_dim, K number of k's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from babelclip.errors import BabelclipError
from babelclip.evaluate.ranking import average_precision, ndcg, reciprocal_rank

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]

# Far above the rounding of float32 dot products of unit vectors (about 1e-7), far below any real difference.
TIE_TOLERANCE = 1e-6
_SCORES_AT_ONCE = 1 << 24  # 64 MiB of float32
# From so many items on, a row of scores is compared by itself.
_WIDE = 256
# Draws of the bootstrap in memory.
_DRAWS_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class Relevance:
    """Which corpus items answer which query: those of query q are `items[starts[q] : starts[q] + counts[q]]`."""

    starts: IntArray
    counts: IntArray
    items: IntArray
    n_corpus: int

    def of(self, query: int) -> IntArray:
        """Returns the positions of the items relevant to one query."""
        return self.items[self.starts[query] : self.starts[query] + self.counts[query]]

    def pairs(self, queries: IntArray) -> tuple[IntArray, IntArray]:
        """Returns the pairs of query and relevant item of some queries: places within `queries` (P,), items (P,)."""
        counts = self.counts[queries]
        rows = np.repeat(np.arange(len(queries)), counts)
        before = np.repeat(np.cumsum(counts) - counts, counts)
        return rows, self.items[np.repeat(self.starts[queries], counts) + np.arange(len(rows)) - before]


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


def same_group(query_group: npt.ArrayLike, corpus_group: npt.ArrayLike) -> Relevance:
    """Returns the relevance where an item answers every query of its own group.

    Args:
        query_group: (Q,) group ids of the queries, numbers or strings.
        corpus_group: (C,) group ids of the corpus items.
    """
    queries, corpus = np.asarray(query_group), np.asarray(corpus_group)
    if queries.ndim != 1 or corpus.ndim != 1:
        raise BabelclipError(
            f"Group ids have shapes {queries.shape} and {corpus.shape}; they must be (Q,) and (C,), one id an item."
        )
    if not len(queries) or not len(corpus):
        raise BabelclipError(
            f"There are {len(queries)} queries and {len(corpus)} corpus items; retrieval needs at least one of each."
        )
    if (queries.dtype.kind in "US") != (corpus.dtype.kind in "US"):
        raise BabelclipError(
            f"Query groups are of type {queries.dtype}, corpus groups of {corpus.dtype}, so none would ever be "
            "equal. Give both as strings or both as numbers."
        )
    _, numbers = np.unique(np.concatenate([queries, corpus]), return_inverse=True)
    query_numbers, corpus_numbers = numbers[: len(queries)], numbers[len(queries) :]
    items = np.argsort(corpus_numbers, kind="stable").astype(np.int64)
    sizes = np.bincount(corpus_numbers, minlength=numbers.max() + 1)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return Relevance(starts[query_numbers].astype(np.int64), sizes[query_numbers].astype(np.int64), items, len(corpus))


def listed(relevant: Sequence[Sequence[int]], n_corpus: int) -> Relevance:
    """Returns the relevance given as a list of corpus positions a query; a position counts once.

    Raises:
        BabelclipError: a position lies outside the corpus.
    """
    distinct = [np.unique(np.asarray(positions, dtype=np.int64)) for positions in relevant]
    if not distinct:
        raise BabelclipError("There are 0 queries; retrieval needs at least one. Give a list of positions a query.")
    counts = np.array([len(positions) for positions in distinct], dtype=np.int64)
    items = np.concatenate(distinct)
    if len(items) and (items.min() < 0 or items.max() >= n_corpus):
        raise BabelclipError(
            f"Relevant positions run from {items.min()} to {items.max()}, but the corpus has {n_corpus} items "
            f"(0 to {n_corpus - 1}). Check that relevance and corpus belong together."
        )
    return Relevance(np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64), counts, items, n_corpus)


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
    if queries.shape[1] != corpus.shape[1]:
        raise BabelclipError(
            f"Query features are {queries.shape}, corpus features {corpus.shape}; both need the same number of "
            "dimensions. Encode both with one model."
        )
    if not isinstance(relevant, Relevance):
        relevant = listed(relevant, len(corpus))
    if len(relevant.starts) != len(queries) or relevant.n_corpus != len(corpus):
        raise BabelclipError(
            f"Relevance is given for {len(relevant.starts)} queries and {relevant.n_corpus} items, features for "
            f"{len(queries)} and {len(corpus)}. Give one entry a query, in the order of the features."
        )
    asked, notes = _checked_ks(ks, len(corpus))
    scored = np.flatnonzero(relevant.counts)
    n_excluded = len(queries) - len(scored)
    if (n_excluded and not exclude_unanswerable) or not len(scored):
        first = np.flatnonzero(relevant.counts == 0)[:5].tolist()
        raise BabelclipError(
            f"{n_excluded} of {len(queries)} queries have no relevant item in the corpus (positions {first} ...). "
            "Every query needs one: remove them, or leave them out by exclude_unanswerable=True."
        )
    if n_excluded:
        notes += (f"{n_excluded} queries without a relevant item in the corpus were left out",)
    tops = np.minimum(np.array(asked), len(corpus))
    fractions, ranked = np.empty((len(scored), len(tops))), np.empty((2, len(scored)))
    first_ties = np.empty((3, len(scored)), dtype=np.int64)
    step = max(1, scores_at_once // len(corpus))
    for start in range(0, len(scored), step):
        chunk = scored[start : start + step]
        scores = queries[chunk] @ corpus.T
        part = slice(start, start + step)
        fractions[part], ranked[:, part], first_ties[:, part] = _places(
            scores, *relevant.pairs(chunk), tops, tolerance, step
        )
    n_better, n_equal, n_relevant = first_ties[:, :, None]
    hits = _probability_of_any(n_equal, n_relevant, np.clip(tops - n_better, 0, n_equal))
    ranks = (n_better + (n_equal + 1) / (n_relevant + 1))[:, 0]
    ranking = {"nDCG@10": ranked[0], "MRR@10": reciprocal_rank(*first_ties), "MAP@100": ranked[1]}
    chance = chance_recall(len(corpus), relevant.counts[scored], asked)
    return QueryScores(asked, hits, fractions, ranks, ranking, chance, scored, n_excluded, notes)


def _places(
    scores: npt.NDArray[np.float32], rows: IntArray, items: IntArray, tops: IntArray, tolerance: float, at_once: int
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Returns where the relevant items of each query stand among its scores (Q, C).

    First the expected fraction of them within each of the `tops` (Q, K); then nDCG@10 and AP@100 (2, Q); then, for the
    best of them, how many items are better, how many are equal to it (itself included), and how many of the equal ones
    are relevant (3, Q). `rows` and `items` (P,) are the pairs of query and relevant item, ordered by query.
    """
    own = scores[rows, items]
    width = np.float32(tolerance) * np.maximum(np.float32(1), np.abs(own))
    better, at_least = _counts(scores, rows, own - width, own + width, at_once)
    equal = at_least - better
    within = np.clip((tops - better[:, None]) / equal[:, None], 0.0, 1.0)
    first = np.flatnonzero(np.diff(rows, prepend=-1))
    counts = np.diff(first, append=len(rows))
    fractions = np.add.reduceat(within, first, axis=0) / counts[:, None]
    best = np.lexsort((-own, rows))[first]
    relevant_equal = np.add.reduceat((own >= (own - width)[best][rows]).astype(np.int64), first)
    ranked = np.stack([ndcg(first, better, equal), average_precision(first, better, equal)])
    return fractions, ranked, np.stack([better[best], equal[best], relevant_equal])


def _counts(
    scores: npt.NDArray[np.float32],
    rows: IntArray,
    low: npt.NDArray[np.float32],
    high: npt.NDArray[np.float32],
    at_once: int,
) -> tuple[IntArray, IntArray]:
    """Returns, for each pair (P,), how many scores of its row exceed `high`, and how many are at least `low`."""
    better, at_least = np.empty(len(rows), dtype=np.int64), np.empty(len(rows), dtype=np.int64)
    if scores.shape[1] < _WIDE:
        for start in range(0, len(rows), at_once):
            part = slice(start, start + at_once)
            of_query = scores[rows[part]]
            better[part] = (of_query > high[part, None]).sum(axis=1)
            at_least[part] = (of_query >= low[part, None]).sum(axis=1)
        return better, at_least
    # A wide row at a time: no copy of it, and its mask is counted within the cache.
    mask = np.empty(scores.shape[1], dtype=np.bool_)
    for pair, row in enumerate(rows.tolist()):
        of_row = scores[row]
        at_least[pair] = np.count_nonzero(np.greater_equal(of_row, low[pair], out=mask))
        # The item itself is always at least so high; where nothing else is, nothing is better.
        better[pair] = np.count_nonzero(np.greater(of_row, high[pair], out=mask)) if at_least[pair] > 1 else 0
    return better, at_least


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
