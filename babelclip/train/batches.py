"""The order of the data: every batch of every epoch follows from (seed, epoch) alone.

Nothing is kept between epochs, so the cursor of a run is (epoch, position), and a resumed run meets the same batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from babelclip.errors import BabelclipError
from babelclip.models.batching import token_batches

# Batches sorted together by length. More pad less and shuffle less: with 64, padding costs a few percent.
_BATCHES_OF_A_POOL = 64
_ORDER, _REPEATS, _BATCHES = range(3)


class Batches(Protocol):
    """What the loop needs to know of the data. A batch is named by the rows it holds (B,) int64.

    Several processes make the same plan, and each loads a part of each batch. On an accelerator `load` is called from
    another thread, some steps ahead: what it returns must follow from the rows alone.
    """

    def plan(self, epoch: int) -> Sequence[np.ndarray]:
        """Returns the batches of an epoch, the same for the same epoch whenever it is asked."""

    def load(self, rows: np.ndarray) -> Any:
        """Returns a batch: tensors on the CPU in a named tuple or dictionary."""

    def tokens(self, rows: np.ndarray) -> int:
        """Returns the tokens of a batch without padding, for the rate that the progress bar shows."""


def _generator(seed: int, epoch: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, epoch, purpose])


def order(epoch: int, seed: int, n: int) -> np.ndarray:
    """Returns the permutation (n,) int64 in which an epoch visits n rows."""
    return _generator(seed, epoch, _ORDER).permutation(n)


def repeated_rows(weights: np.ndarray, epoch: int, seed: int) -> np.ndarray:
    """Returns row numbers (M,) int64, row n on average `weights[n]` times an epoch; M is about the sum of the weights.

    A weight of 2.5 gives two or three copies, drawn anew each epoch; 0 leaves the row out.

    Args:
        weights: (N,), not negative, finite.
        epoch: number of the epoch, from 0.
        seed: seed of the run.

    Raises:
        BabelclipError: a weight is negative or not finite, or all are 0.
    """
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise BabelclipError(
            "Sampling weights must be finite, at least 0, and not all 0. Give each caption, or language, the number "
            "of times that it is to be seen in an epoch, for example 1."
        )
    whole = np.floor(weights)
    extra = _generator(seed, epoch, _REPEATS).random(len(weights)) < weights - whole
    return np.repeat(np.arange(len(weights)), whole.astype(np.int64) + extra)


def length_batches(
    lengths: np.ndarray,
    *,
    epoch: int,
    seed: int,
    tokens_per_batch: int,
    batch_size: int = 0,
    weights: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Returns the shuffled batches of an epoch, each of rows of similar length, so that little is padded.

    Rows are shuffled, cut into pools of many batches, sorted by length within a pool, and the batches shuffled again.

    Args:
        lengths: tokens of each row (N,).
        epoch: number of the epoch, from 0.
        seed: seed of the run.
        tokens_per_batch: most padded tokens of a batch; used where `batch_size` is 0.
        batch_size: rows of a batch; the last of an epoch may hold fewer.
        weights: expected copies of each row an epoch (N,); None: 1.
    """
    rows = np.arange(len(lengths)) if weights is None else repeated_rows(weights, epoch, seed)
    rows = rows[order(epoch, seed, len(rows))]
    if batch_size:
        pool_size = batch_size * _BATCHES_OF_A_POOL
    else:
        mean_length = max(float(lengths[rows].mean()), 1.0) if len(rows) else 1.0
        pool_size = max(int(tokens_per_batch / mean_length), 1) * _BATCHES_OF_A_POOL
    batches: list[np.ndarray] = []
    for start in range(0, len(rows), pool_size):
        pool = rows[start : start + pool_size]
        if batch_size:
            pool = pool[np.argsort(-lengths[pool], kind="stable")]
            batches += [pool[at : at + batch_size] for at in range(0, len(pool), batch_size)]
        else:
            batches += [pool[picked] for picked in token_batches(lengths[pool].tolist(), tokens_per_batch)]
    shuffled = _generator(seed, epoch, _BATCHES).permutation(len(batches))
    return [batches[place] for place in shuffled]


def even_batches(n: int, batch_size: int, *, epoch: int, seed: int) -> list[np.ndarray]:
    """Returns the shuffled rows of an epoch in batches (B,) int64 of nearly equal size, at most `batch_size`.

    For losses over pairs of the batch, where a small last batch would be a much easier task, and where sorting by
    length would make the negatives alike.
    """
    return np.array_split(order(epoch, seed, n), max(-(-n // batch_size), 1))
