"""Batches of teacher learning: token ids or kept states, and the teacher's vectors beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from babelclip.train.batches import length_batches
from babelclip.train.recipe import Recipe, Train
from babelclip.train.texts import Inputs


class Batch(NamedTuple):
    """Inputs of some captions and their mask (N, T); raw targets (N + M, D) float32 and their positions.

    The first N targets are those of the captions, the others are negatives.
    """

    inputs: Tensor
    mask: Tensor
    targets: Tensor
    positions: Tensor


class Rows:
    """Captions with their targets, to be loaded in batches of any rows.

    Attributes:
        inputs: what the model reads of each row.
        lengths: tokens of each row (N,), also where `inputs` are states, so that batches are the same with both.
        positions: position of each row's target (N,).
        gather: positions (B,) to raw vectors (B, D).
    """

    def __init__(
        self,
        inputs: Inputs,
        lengths: np.ndarray,
        positions: npt.NDArray[np.int64],
        gather: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]],
        recipe: Recipe,
        drawn_from: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Takes what belongs to N captions.

        Args:
            inputs: of the captions.
            lengths: (N,).
            positions: (N,).
            gather: positions (B,) to raw vectors (B, D).
            recipe: its seed, and how many negatives a batch gets.
            drawn_from: positions that negatives are drawn from; None: `positions`.
        """
        self.inputs, self.lengths, self.positions, self.gather = inputs, lengths, positions, gather
        self._seed = recipe.train.seed
        self._negatives = recipe.loss.negatives if "infonce" in recipe.loss_terms() else 0
        self._distinct = np.unique(positions if drawn_from is None else drawn_from)

    def load(self, rows: np.ndarray) -> Batch:
        """Returns the batch of some rows."""
        inputs, mask = self.inputs.load(rows)
        positions = np.concatenate([self.positions[rows], self._drawn(rows)])
        return Batch(inputs, mask, torch.from_numpy(self.gather(positions)), torch.from_numpy(positions))

    def tokens(self, rows: np.ndarray) -> int:
        """Returns the tokens of some rows, padding not counted."""
        return int(self.lengths[rows].sum())

    def _drawn(self, rows: np.ndarray) -> npt.NDArray[np.int64]:
        """Returns positions of negatives; they follow from seed and rows, so a resumed run draws the same."""
        count = min(self._negatives, len(self._distinct))
        if not count:
            return np.empty(0, dtype=np.int64)
        rng = np.random.default_rng([self._seed, *np.sort(rows)[:8].tolist()])
        return rng.choice(self._distinct, count, replace=False)


class CaptionBatches:
    """The batches of captions that lie in memory; an epoch sees each as often as its weight says."""

    def __init__(self, lengths: np.ndarray, weights: np.ndarray | None, settings: Train) -> None:
        """Takes the tokens of each caption (N,) and how often an epoch sees it (N,); None: once."""
        self._lengths, self._weights, self._settings = lengths, weights, settings
        self.rows: Rows | None = None

    def plan(self, epoch: int) -> list[np.ndarray]:
        """Returns the batches of an epoch."""
        return planned(self._lengths, epoch, self._settings, self._weights)

    def load(self, rows: np.ndarray) -> Batch:
        """Returns the batch of some rows."""
        return self._rows().load(rows)

    def tokens(self, rows: np.ndarray) -> int:
        """Returns the tokens of some rows, padding not counted."""
        return self._rows().tokens(rows)

    def _rows(self) -> Rows:
        if self.rows is None:
            raise RuntimeError("CaptionBatches.rows is not set")
        return self.rows


def planned(lengths: np.ndarray, epoch: int, settings: Train, weights: np.ndarray | None = None) -> list[np.ndarray]:
    """Returns the batches of an epoch (see `length_batches`), of the size that the recipe says."""
    return length_batches(
        lengths,
        epoch=epoch,
        seed=settings.seed,
        tokens_per_batch=settings.tokens_per_batch,
        batch_size=settings.batch_size,
        weights=weights,
    )
