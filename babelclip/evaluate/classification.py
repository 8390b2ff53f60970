"""Classification metrics in numpy: accuracy, mean recall of classes, average precision for several labels a picture.

Scores are cosines of pictures with class vectors; only their order matters. Classes whose scores are equal are thought
of in random order, as in `babelclip.evaluate.metrics`, so a model that gives every class the same score reaches 1 / C
and not the share of the first class.

Entry points: `single_label`, `multi_label`, and their parts. Legend: N pictures, C classes, D embed_dim.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from babelclip.errors import BabelclipError
from babelclip.evaluate.intervals import draws, ends
from babelclip.evaluate.metrics import bootstrap_interval, score_queries
from babelclip.evaluate.relevance import Relevance

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]

# Below so many classes a top five tells nothing (clip_benchmark writes NaN there; here the key is absent).
_LEAST_FOR_TOP_5 = 5
# Average precision is dear to resample.
_SAMPLES_OF_PRECISION = 200


@dataclass(frozen=True)
class Figures:
    """What classes reached.

    Attributes:
        metrics: by name.
        intervals: [low, high] by the same names.
        notes: what a reader has to know.
        hits: `acc1` and `acc5` of each picture (N,), see `class_hits`; empty where pictures have several classes.
    """

    metrics: dict[str, float]
    intervals: dict[str, list[float]]
    notes: tuple[str, ...] = ()
    hits: Mapping[str, FloatArray] = dataclasses.field(default_factory=dict)


def single_label(
    image_features: npt.ArrayLike, class_vectors: npt.ArrayLike, labels: npt.ArrayLike, *, seed: int = 0
) -> Figures:
    """Returns `acc1`, `acc5` (from five classes on), `mean_per_class_recall` and `chance_acc1`.

    `mean_per_class_recall` is the mean over the classes that occur among `labels` of the share of their pictures that
    are right (scikit-learn's balanced accuracy).

    Args:
        image_features: (N, D), rows of one length.
        class_vectors: (C, D), rows of one length.
        labels: (N,) whole numbers below C.
        seed: of the intervals.

    Raises:
        BabelclipError: shapes do not fit, or a label is no class.
    """
    hits, n_classes = class_hits(image_features, class_vectors, labels)
    truth = np.asarray(labels, dtype=np.int64)
    metrics = {name: float(column.mean()) for name, column in hits.items()}
    intervals = {name: [float(end) for end in bootstrap_interval(column, seed=seed)] for name, column in hits.items()}
    metrics["mean_per_class_recall"] = mean_per_class(hits["acc1"], truth)
    metrics["chance_acc1"] = 1.0 / n_classes
    intervals["mean_per_class_recall"] = _mean_per_class_interval(hits["acc1"], truth, seed)
    present = len(np.unique(truth))
    notes = [f"{n_classes - present} of {n_classes} classes have no picture"] if present < n_classes else []
    return Figures(metrics, intervals, tuple(notes), hits)


def class_hits(
    image_features: npt.ArrayLike, class_vectors: npt.ArrayLike, labels: npt.ArrayLike
) -> tuple[dict[str, FloatArray], int]:
    """Returns, for `acc1` and `acc5`, the probability that each picture's class is on top (N,), and the classes C.

    Raises:
        BabelclipError: see `single_label`.
    """
    classes = np.asarray(class_vectors, dtype=np.float32)
    truth = np.asarray(labels)
    if truth.ndim != 1 or len(truth) != len(np.asarray(image_features)) or truth.dtype.kind not in "iu":
        raise BabelclipError(
            f"labels are {truth.shape} of {truth.dtype} for {len(np.asarray(image_features))} pictures: give one whole "
            "number a picture, the place of its class."
        )
    n_classes = len(classes)
    if len(truth) and (truth.min() < 0 or truth.max() >= n_classes):
        raise BabelclipError(
            f"Labels run from {truth.min()} to {truth.max()}, but there are {n_classes} classes, counted from 0. "
            "Check that class names and labels belong together."
        )
    ks = (1, 5) if n_classes >= _LEAST_FOR_TOP_5 else (1,)
    truth = truth.astype(np.int64)
    own = Relevance(truth, np.ones_like(truth), np.arange(n_classes), n_classes)
    scores = score_queries(image_features, classes, own, ks)
    return {f"acc{k}": scores.hits[:, place] for place, k in enumerate(ks)}, n_classes


def mean_per_class(hits: FloatArray, labels: IntArray) -> float:
    """Returns the mean over the classes that occur of the mean of `hits` (N,) of their pictures."""
    counts = np.bincount(labels)
    sums = np.bincount(labels, weights=hits)
    return float((sums[counts > 0] / counts[counts > 0]).mean())


def _mean_per_class_interval(hits: FloatArray, labels: IntArray, seed: int) -> list[float]:
    return ends([mean_per_class(hits[drawn], labels[drawn]) for drawn in draws(len(hits), samples=500, seed=seed)])


def multi_label(
    image_features: npt.ArrayLike, class_vectors: npt.ArrayLike, targets: npt.ArrayLike, *, seed: int = 0
) -> Figures:
    """Returns `mean_average_precision` and `mean_average_precision_voc07` for pictures of several classes each.

    The mean goes over **all** classes, and a class without a picture counts as 0 (clip_benchmark's rule);
    `mean_average_precision_present` is the mean over the classes that occur. No accuracy is given.

    Args:
        image_features: (N, D).
        class_vectors: (C, D).
        targets: (N, C) bool, which classes each picture has.
        seed: of the intervals.

    Raises:
        BabelclipError: shapes do not fit.
    """
    images, classes = (np.asarray(rows, dtype=np.float32) for rows in (image_features, class_vectors))
    truth = np.asarray(targets).astype(bool)
    if truth.shape != (len(images), len(classes)):
        raise BabelclipError(
            f"targets are {truth.shape} for {len(images)} pictures and {len(classes)} classes: give (N, C), one row a "
            "picture, one column a class."
        )
    columns = [Ranked.of(images @ vector, truth[:, place]) for place, vector in enumerate(classes)]
    plain = np.array([column.average_precision() for column in columns])
    voc = np.array([column.voc07() for column in columns])
    present = truth.any(axis=0)
    metrics = {
        "mean_average_precision": float(plain.mean()),
        "mean_average_precision_voc07": float(voc.mean()),
        "mean_average_precision_present": float(plain[present].mean()) if present.any() else 0.0,
    }
    values = []
    for drawn in draws(len(images), samples=_SAMPLES_OF_PRECISION, seed=seed):
        times = np.bincount(drawn, minlength=len(images)).astype(np.float64)
        values.append(float(np.mean([column.average_precision(times) for column in columns])))
    absent = int((~present).sum())
    notes = (f"{absent} of {len(classes)} classes have no picture and count as 0",) if absent else ()
    return Figures(metrics, {"mean_average_precision": ends(values)}, notes)


def average_precision(scores: npt.ArrayLike, relevant: npt.ArrayLike) -> float:
    """Returns the mean, over the relevant items, of the precision among all items that score at least as high.

    Nothing is interpolated. Items of equal score are one step, so their order does not matter (scikit-learn's
    `average_precision_score`); without a relevant item it is 0.

    >>> round(average_precision([0.9, 0.8, 0.7, 0.6], [True, False, True, False]), 4)
    0.8333

    Args:
        scores: (N,).
        relevant: (N,) bool.
    """
    return Ranked.of(np.asarray(scores), np.asarray(relevant).astype(bool)).average_precision()


@dataclass(frozen=True)
class Ranked:
    """The items of one class by falling score: sorted once, measured with any weights.

    Attributes:
        order: (N,) positions of the items, best first.
        relevant: (N,) bool in that order.
        last: (N,) place of the last item with the same score, in that order.
    """

    order: IntArray
    relevant: npt.NDArray[np.bool_]
    last: IntArray

    @classmethod
    def of(cls, scores: npt.NDArray[Any], relevant: npt.NDArray[np.bool_]) -> Ranked:
        """Returns items with these scores (N,) and relevance (N,)."""
        order = np.argsort(-scores, kind="stable")
        falling = scores[order]
        # Where each run of equal scores ends.
        last = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
        return cls(order, relevant[order], np.repeat(last, np.diff(last, prepend=-1)))

    def average_precision(self, times: FloatArray | None = None) -> float:
        """Returns the average precision where item i occurs `times[i]` times; by default once."""
        weights = np.ones(len(self.order)) if times is None else times[self.order]
        positive = weights * self.relevant
        total = positive.sum()
        if total == 0:
            return 0.0
        found, seen = np.cumsum(positive)[self.last], np.cumsum(weights)[self.last]
        return float((positive * found / np.maximum(seen, 1e-12)).sum() / total)

    def voc07(self) -> float:
        """Returns the 11-point average precision of PASCAL VOC 2007.

        It is the mean over the recalls 0, 0.1, ..., 1 of the highest precision at that recall or a higher one.
        """
        total = int(self.relevant.sum())
        if not total:
            return 0.0
        steps = np.unique(self.last)
        found = np.cumsum(self.relevant)[steps]
        precision = found / (steps + 1)
        # In whole numbers, so that a recall of exactly 0.3 is not lost to rounding.
        return float(np.mean([precision[10 * found >= tenth * total].max(initial=0.0) for tenth in range(11)]))


def partial_classes(
    labels: Sequence[int] | IntArray, class_indices: Sequence[int] | IntArray
) -> tuple[IntArray, IntArray]:
    """Returns which pictures belong to some of the classes (M,), and their labels among these classes (M,).

    Babel-ImageNet has names for some of the 1,000 classes in each language, so only their pictures count there.

    Args:
        labels: (N,) classes of all pictures.
        class_indices: the classes that are there, in the order of their names.

    Raises:
        BabelclipError: a class is there twice, or no picture belongs to any.
    """
    truth, chosen = np.asarray(labels, dtype=np.int64), np.asarray(class_indices, dtype=np.int64)
    if len(np.unique(chosen)) < len(chosen) or not len(chosen):
        raise BabelclipError(f"The class indices {chosen[:5].tolist()} ... must be distinct, and one at least.")
    place = np.full(max(int(truth.max(initial=0)), int(chosen.max())) + 1, -1, dtype=np.int64)
    place[chosen] = np.arange(len(chosen))
    kept = np.flatnonzero(place[truth] >= 0)
    if not len(kept):
        raise BabelclipError(
            f"None of the {len(truth)} pictures is of one of the {len(chosen)} classes that have a name. Check that "
            "class names and pictures belong to one data set."
        )
    return kept, place[truth[kept]]
