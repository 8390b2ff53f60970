"""Linear probe: how well one linear layer on a picture tower's vectors tells classes apart, with all pictures or few.

Multinomial logistic regression, full batch, by L-BFGS in float32 on vectors of length 1 times sqrt(D) (which changes
only how fast it is found). The weight decay is chosen on a validation split among 97 values from 1e-6 to 1e2, evenly
spread in their logarithm as clip_benchmark's: seven of them first, then the neighbours of the best at ever smaller
steps (Radford et al. 2021, appendix A.3). The layer that is measured is then fitted anew on training and validation
pictures together. Features are those that `babelclip.evaluate.features` keeps, so a probe costs seconds on a CPU.

Entry points: `evaluate_probe`, `fit_probe`, `choose_weight_decay`. Legend: N pictures, C classes, D embed_dim.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from babelclip.errors import BabelclipError
from babelclip.evaluate.classification import class_hits, mean_per_class
from babelclip.evaluate.hits import pack_hits
from babelclip.evaluate.metrics import bootstrap_interval
from babelclip.evaluate.result import RunFacts, build_result

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

# A probe reads no text: ISO 639 and BCP-47 have a code for that.
NO_LANGUAGE = "zxx"
WEIGHT_DECAYS = np.logspace(-6, 2, 97)
_FIRST_STEP = 16
_ITERATIONS = 500
# Of the training pictures, where there is no validation split.
_SHARE_OF_VALIDATION = 0.2


@dataclass(frozen=True)
class Labelled:
    """Vectors (N, D), rows L2-normalised, with the class of each (N,) below C; `ids` name the pictures."""

    features: FloatArray
    labels: IntArray
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probe:
    """A linear layer: `weights` (C, D) and `bias` (C,), for vectors of length 1."""

    weights: FloatArray
    bias: FloatArray

    def scores(self, features: npt.NDArray[Any]) -> FloatArray:
        """Returns the scores (N, C) of vectors (N, D)."""
        scores: FloatArray = features.astype(np.float32) @ self.weights.T + self.bias
        return scores


def evaluate_probe(
    train: Labelled,
    test: Labelled,
    n_classes: int,
    *,
    facts: RunFacts,
    validation: Labelled | None = None,
    shots: Sequence[int | None] = (None,),
    seeds: Sequence[int] = (0,),
    image_seconds: float = 0.0,
    notes: Sequence[str] = (),
    advance: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Returns one result of the task `linear_probe` for each number of shots.

    Metrics are means over the seeds: `lp_acc1`, `lp_acc5` (from five classes on), `lp_mean_per_class_recall`, and
    `lp_acc1_std` where there are several.

    Args:
        train: pictures to learn from.
        test: pictures to measure on.
        n_classes: C.
        facts: what the results state of model and run.
        validation: pictures to choose the weight decay on; None: a fifth of those to learn from, as with few shots.
        shots: training pictures a class; None is all of them.
        seeds: each draws its own few pictures, and its own validation split.
        image_seconds: what encoding the pictures took.
        notes: added to every result.
        advance: is called with 1 after each fit.

    Raises:
        BabelclipError: a class has too few pictures, or labels do not fit.
    """
    _check(train, n_classes, "training")
    results = []
    for shot in shots:
        start = time.perf_counter()
        runs, decays, sizes = [], [], []
        # With all pictures nothing is drawn when a validation split is given, so one seed says all.
        for seed in seeds if shot is not None or validation is None else seeds[:1]:
            learn, held = _splits(train, validation, shot, seed, n_classes)
            decay = choose_weight_decay(learn, held, n_classes)
            final = learn if held is learn else _joined(learn, held)
            probe = fit_probe(final, n_classes, decay)
            runs.append(_hits(probe, test))
            decays.append(decay)
            sizes.append(len(final.labels))
            if advance is not None:
                advance(1)
        mean = {name: np.mean([run[name] for run in runs], axis=0) for name in runs[0]}
        metrics = {f"lp_{name}": float(hits.mean()) for name, hits in mean.items()}
        metrics["lp_mean_per_class_recall"] = mean_per_class(mean["acc1"], test.labels)
        if len(runs) > 1:
            metrics["lp_acc1_std"] = float(np.std([run["acc1"].mean() for run in runs], ddof=1))
        results.append(
            build_result(
                "linear_probe",
                facts,
                language=NO_LANGUAGE,
                metrics=metrics,
                intervals={
                    f"lp_{name}": bootstrap_interval(hits, seed=facts.seed).tolist() for name, hits in mean.items()
                },
                seconds=time.perf_counter() - start,
                seconds_images=round(image_seconds, 3),
                notes=list(notes),
                n_images=len(test.labels),
                n_train_images=sizes[0],
                n_classes=n_classes,
                shots=shot,
                fewshot_k=-1 if shot is None else shot,
                solver=f"L-BFGS, at most {_ITERATIONS} iterations",
                weight_decay=decays,
                seeds=list(seeds[: len(runs)]),
                normalized=True,
                validation=_held_out(validation, shot),
                per_query=pack_hits({f"lp_{name}": hits for name, hits in mean.items()}, queries=test.ids),
            )
        )
    return results


def choose_weight_decay(train: Labelled, validation: Labelled, n_classes: int) -> float:
    """Returns the weight decay with the highest accuracy on validation; among equal ones the strongest.

    Args:
        train: pictures to learn from.
        validation: pictures to choose on.
        n_classes: C.
    """
    known: dict[int, tuple[float, int]] = {}
    start: Probe | None = None

    def reached(place: int) -> tuple[float, int]:
        nonlocal start
        if place not in known:
            start = fit_probe(train, n_classes, float(WEIGHT_DECAYS[place]), start=start)
            known[place] = (float(_hits(start, validation)["acc1"].mean()), place)
        return known[place]

    step = _FIRST_STEP
    best = max(range(0, len(WEIGHT_DECAYS), step), key=reached)
    while step > 1:
        step //= 2
        near = [place for place in (best - step, best, best + step) if 0 <= place < len(WEIGHT_DECAYS)]
        best = max(near, key=reached)
    return float(WEIGHT_DECAYS[best])


def fit_probe(train: Labelled, n_classes: int, weight_decay: float, *, start: Probe | None = None) -> Probe:
    """Returns the layer that minimises mean cross-entropy + weight_decay / 2 * |W|^2 (the bias is not shrunk).

    |W| is that of the layer for vectors of length sqrt(D). The optimum is one point; `start` only saves steps.

    Args:
        train: N pictures.
        n_classes: C; a class without pictures is allowed.
        weight_decay: above 0.
        start: a layer for a near weight decay.
    """
    import torch
    from torch.nn.functional import cross_entropy

    scale = np.float32(np.sqrt(train.features.shape[1]))
    x = torch.from_numpy(np.ascontiguousarray(train.features, dtype=np.float32) * scale)
    y = torch.from_numpy(train.labels.astype(np.int64))
    weights, bias = torch.zeros(n_classes, x.shape[1]), torch.zeros(n_classes)
    if start is not None:
        weights, bias = torch.from_numpy(start.weights / scale), torch.from_numpy(start.bias.copy())
    weights.requires_grad_()
    bias.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weights, bias], max_iter=_ITERATIONS, tolerance_grad=1e-6, history_size=20, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = cross_entropy(x @ weights.T + bias, y) + weight_decay / 2 * weights.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return Probe((weights.detach() * scale).numpy(), bias.detach().numpy())


def few_shots(labels: IntArray, shots: int, seed: int, n_classes: int) -> IntArray:
    """Returns the positions of `shots` pictures of each class, drawn by the seed, ascending.

    Raises:
        BabelclipError: a class has fewer pictures.
    """
    counts = np.bincount(labels, minlength=n_classes)
    if shots < 1 or counts.min() < shots:
        raise BabelclipError(
            f"{shots} shots were asked for, and class {int(counts.argmin())} has {int(counts.min())} pictures. "
            "Ask for at least 1 and at most so many, or leave shots out for all pictures."
        )
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    starts = np.cumsum(counts) - counts
    return np.sort(np.concatenate([by_class[start : start + shots] for start in starts]))


def _splits(
    train: Labelled, validation: Labelled | None, shot: int | None, seed: int, n_classes: int
) -> tuple[Labelled, Labelled]:
    """Returns what is learned from and what the weight decay is chosen on; of few shots, shares of these shots."""
    if shot is not None:
        train = _part(train, few_shots(train.labels, shot, seed, n_classes))
    if validation is not None and shot is None:
        return train, validation
    order = np.random.default_rng(seed).permutation(len(train.labels))
    # Of each class in turn, so that the share is that of every class.
    ranks = np.empty(len(order), dtype=np.int64)
    for label in np.unique(train.labels):
        own = order[train.labels[order] == label]
        ranks[own] = np.arange(len(own))
    counts = np.bincount(train.labels, minlength=n_classes)[train.labels]
    held = ranks < np.maximum(1, np.round(_SHARE_OF_VALIDATION * counts))
    held &= counts > 1  # the only picture of a class is learned from
    if not held.any():
        return train, train  # one shot: nothing is left to choose on but what was learned
    return _part(train, np.flatnonzero(~held)), _part(train, np.flatnonzero(held))


def _held_out(validation: Labelled | None, shot: int | None) -> str:
    """Returns what `_splits` chooses the weight decay on, in words."""
    if validation is not None and shot is None:
        return "own split"
    return "the shot itself" if shot == 1 else f"{_SHARE_OF_VALIDATION:.0%} of training"


def _part(whole: Labelled, positions: IntArray) -> Labelled:
    return Labelled(whole.features[positions], whole.labels[positions])


def _joined(one: Labelled, other: Labelled) -> Labelled:
    return Labelled(np.concatenate([one.features, other.features]), np.concatenate([one.labels, other.labels]))


def _hits(probe: Probe, test: Labelled) -> dict[str, npt.NDArray[np.floating[Any]]]:
    # The bias as one dimension more, so that ties and chunks are those of every other accuracy.
    classes = np.concatenate([probe.weights, probe.bias[:, None]], axis=1)
    rows = np.concatenate([test.features, np.ones((len(test.features), 1), dtype=np.float32)], axis=1)
    return class_hits(rows, classes, test.labels)[0]


def _check(train: Labelled, n_classes: int, what: str) -> None:
    if len(train.features) != len(train.labels) or train.labels.ndim != 1:
        raise BabelclipError(
            f"The {what} pictures have vectors {train.features.shape} and labels {train.labels.shape}; a probe needs "
            "one class a picture, (N, D) and (N,). Sets of several classes a picture have no linear probe here."
        )
    present = np.bincount(train.labels, minlength=n_classes) > 0
    if not present.all():
        raise BabelclipError(
            f"{int((~present).sum())} of {n_classes} classes have no {what} picture, first class "
            f"{int(np.argmin(present))}. A probe cannot learn them: check that both splits have the same classes."
        )
