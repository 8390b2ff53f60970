"""Semantic textual similarity: how the cosines of sentence pairs follow the scores that people gave, in numpy.

Two figures, each from -1 to 1 (tables show them times 100):

* **Pearson**: the correlation of the values, r = sum (x - mx)(y - my) / sqrt(sum (x - mx)^2 sum (y - my)^2). It asks
  for cosines on a line with the scores.
* **Spearman**: the Pearson correlation of the ranks. It asks for the order only, and is the field's main figure. Equal
  values share the average of the ranks that they take up together: of 3, 7, 7, 9 the ranks are 1, 2.5, 2.5, 4. The
  shortcut 1 - 6 sum d^2 / (n^3 - n) is wrong with ties, and half of the scores of STS-b are tied; it is not used.

Where all values of one side are equal there is no order to follow: both figures are then nan, not 0.
Entry points: `score_pairs` for an encoder, `correlations` for values at hand. Letters: N pairs, D embed_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from babelclip.errors import BabelclipError

FloatArray = npt.NDArray[np.float64]
# Texts to vectors (N, D): `clip.encode_text`, or any other.
Encode = Callable[[list[str]], npt.NDArray[np.floating[Any]]]


def score_pairs(encode: Encode, first: Sequence[str], second: Sequence[str], scores: npt.ArrayLike) -> dict[str, float]:
    """Returns `pearson` and `spearman` of the pairs' cosines with their scores; each distinct text is encoded once.

    >>> letters = lambda texts: np.array([[text.count(c) for c in "abc"] for text in texts], dtype=float)
    >>> score_pairs(letters, ["a", "ab", "b"], ["a", "a", "c"], [5, 3, 0])["spearman"]
    1.0

    Args:
        encode: texts to vectors (N, D), normalised or not.
        first: N texts.
        second: N texts.
        scores: what people say of each pair (N,), on any scale.

    Raises:
        BabelclipError: the lengths differ, or there are fewer than two pairs.
    """
    if len(first) != len(second):
        raise BabelclipError(f"There are {len(first)} first and {len(second)} second texts: give one of each a pair.")
    place = {text: number for number, text in enumerate(dict.fromkeys([*first, *second]))}
    vectors = encode(list(place)) if place else np.empty((0, 1))
    cosines = pair_cosines(vectors[[place[text] for text in first]], vectors[[place[text] for text in second]])
    return correlations(cosines, scores)


def pair_cosines(
    first: npt.NDArray[np.floating[Any]], second: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.float64]:
    """Returns the cosine of each row of `first` with the same row of `second` (N,); rows (N, D) of any length.

    A row of zeros has the cosine 0 with everything.
    """
    first, second = first.astype(np.float64), second.astype(np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    dots: FloatArray = (first * second).sum(axis=1)
    return np.asarray(np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0))


def correlations(predicted: npt.ArrayLike, gold: npt.ArrayLike) -> dict[str, float]:
    """Returns `pearson` and `spearman` of predicted (N,) and gold values (N,).

    Raises:
        BabelclipError: as `pearson`.
    """
    return {"pearson": pearson(predicted, gold), "spearman": spearman(predicted, gold)}


def pearson(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Returns Pearson's correlation of two rows (N,); nan where all values of one are equal.

    Raises:
        BabelclipError: the lengths differ, there are fewer than two values, or one is not finite.
    """
    a, b = _checked(x, y)
    if a.min() == a.max() or b.min() == b.max():
        return float("nan")
    # Largest value 1, so that no square overflows; a factor does not change r.
    a, b = a / np.abs(a).max(), b / np.abs(b).max()
    a, b = a - a.mean(), b - b.mean()
    r = float((a / np.linalg.norm(a)) @ (b / np.linalg.norm(b)))
    return min(1.0, max(-1.0, r))


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Returns Spearman's rank correlation of two rows (N,), ties by average ranks; nan as in `pearson`.

    Raises:
        BabelclipError: as `pearson`.
    """
    a, b = _checked(x, y)
    return pearson(average_ranks(a), average_ranks(b))


def average_ranks(values: npt.ArrayLike) -> FloatArray:
    """Returns the ranks (N,) of values, from 1; equal values share the mean of their ranks.

    >>> average_ranks([3, 9, 7, 7]).tolist()
    [1.0, 4.0, 2.5, 2.5]
    """
    row = np.asarray(values, dtype=np.float64)
    order = np.argsort(row, kind="stable")
    ordered = row[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(row) else np.empty(0, int)
    counts = np.diff(np.append(starts, len(row)))
    ranks = np.empty(len(row), dtype=np.float64)
    ranks[order] = np.repeat(starts + (counts + 1) / 2, counts)
    return ranks


def _checked(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
        raise BabelclipError(
            f"Values of shapes {a.shape} and {b.shape} have no correlation: give two rows of the same length, "
            "of two pairs at least."
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        bad = int(np.flatnonzero(~(np.isfinite(a) & np.isfinite(b)))[0])
        raise BabelclipError(f"Pair {bad} has the values {a[bad]} and {b[bad]}; all must be finite.")
    return a, b
