"""Batches of captions with their pictures, and which captions fit which pictures.

The order follows from (seed, epoch); batches are of nearly equal size, because a small one is a much easier task, and
not sorted by length, because alike lengths would make the negatives alike.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from babelclip import languages
from babelclip.data.captions import Captions, text_key
from babelclip.errors import BabelclipError
from babelclip.models.clip import Clip
from babelclip.train.batches import even_batches, repeated_rows
from babelclip.train.pictures import PictureInputs, Vectors
from babelclip.train.recipe import Recipe
from babelclip.train.texts import TokenTable
from babelclip.train.towers import is_locked

_LOG = logging.getLogger(__name__)
_DEFAULT_BATCH = 64
# Of a batch whose texts are not at least so many of its rows, little is left to tell apart.
_FEW_TEXTS = 0.5


class LiveTexts:
    """Captions as tokens, for a text tower that runs in the steps."""

    def __init__(self, table: TokenTable) -> None:
        """Takes the tokens of all captions."""
        self.table = table

    def load(self, captions: np.ndarray) -> tuple[dict[str, Tensor], np.ndarray]:
        """Returns token ids and mask (B, T) of some captions, and their places."""
        input_ids, attention_mask = self.table.load(captions)
        return {"input_ids": input_ids, "attention_mask": attention_mask}, np.arange(len(captions))


class PairBatches:
    """The batches of a run (`batches.Batches`)."""

    def __init__(
        self,
        texts: LiveTexts | Vectors,
        images: PictureInputs,
        groups: np.ndarray,
        captions: Captions,
        recipe: Recipe,
    ) -> None:
        """Takes what the towers read, and the groups (N, 3) of `group_numbers`.

        Raises:
            BabelclipError: weights name other languages, or a batch has fewer than two distinct texts.
        """
        self.texts, self.images, self.groups = texts, images, groups
        self.size, self.seed = batch_rows(recipe), recipe.train.seed
        self.weights = _weights(captions, recipe)
        table = texts.table if isinstance(texts, LiveTexts) else None
        self.lengths = np.ones(len(groups), dtype=np.int64) if table is None else table.lengths
        places = np.arange(1, len(groups) + 1)
        self.fingerprint: dict[str, Any] = {
            "tokens": "" if table is None else table.fingerprint,
            "pictures": int(groups[:, 1] @ places),
            "texts": int(groups[:, 0] @ places),
            "weights": None if self.weights is None else float(self.weights @ places),
        }
        _check_texts([groups[rows, 0] for rows in self.plan(0)])

    def plan(self, epoch: int) -> list[np.ndarray]:
        """Returns the batches of an epoch."""
        if self.weights is None:
            return even_batches(len(self.groups), self.size, epoch=epoch, seed=self.seed)
        rows = repeated_rows(self.weights, epoch, self.seed)
        return [rows[places] for places in even_batches(len(rows), self.size, epoch=epoch, seed=self.seed)]

    def load(self, rows: np.ndarray) -> dict[str, Tensor]:
        """Returns what the pair reads, and the groups (B, 3) of each row."""
        images, places = self.images.load(self.groups[rows, 1])
        # A pair stands in for one whose picture cannot be read.
        texts, _ = self.texts.load(rows[places])
        return {**texts, **images, "groups": torch.from_numpy(self.groups[rows[places]])}

    def tokens(self, rows: np.ndarray) -> int:
        """Returns the tokens of a batch."""
        return int(self.lengths[rows].sum())


def batch_rows(recipe: Recipe) -> int:
    """Returns the rows of a batch of pairs over all processes."""
    return recipe.train.batch_size or _DEFAULT_BATCH


def group_numbers(captions: Captions) -> np.ndarray:
    """Returns for each caption the numbers of its text, its picture and its label (N, 3) int64.

    Two captions that share one of them are positives of each other: the same text (but for case and spacing), the same
    picture, the same label. A caption without a label has one of its own, below 0.
    """
    labels = captions.table["label"].to_pylist()
    texts = _numbers([text_key(text) for text in captions.texts])
    images = _numbers(captions.table["image"].to_pylist())
    own = -1 - np.arange(len(captions))
    of_label = np.where([label is None for label in labels], own, _numbers(labels))
    return np.stack([texts, images, of_label], axis=1)


def _numbers(values: Sequence[Any]) -> np.ndarray:
    """Returns the number of each value (N,) int64, counted in order of first appearance."""
    numbers: dict[Any, int] = {}
    return np.fromiter((numbers.setdefault(v, len(numbers)) for v in values), dtype=np.int64, count=len(values))


def warn_of_one_language(clip: Clip, trained: Sequence[str], recipe: Recipe) -> None:
    """Warns where a text tower of several languages moves by captions in one: the others move with it, unseen."""
    if len(trained) > 1 or is_locked(recipe.towers.text):
        return
    others = [code for code in clip.languages if not languages.covers(trained, code)]
    if others:
        _LOG.warning(
            "All captions are in %s, but the text tower knows %d further languages, which move with it and may be "
            'lost. Give captions in them, name them in data.benchmark to see it, or set towers.text = "locked".',
            trained[0],
            len(others),
        )


def _check_texts(batches: list[np.ndarray]) -> None:
    distinct = [len(np.unique(texts)) for texts in batches]
    rows = [len(texts) for texts in batches]
    if min(distinct, default=2) < 2:
        worst = int(np.argmin(distinct))
        raise BabelclipError(
            f"A batch of {rows[worst]} captions holds {distinct[worst]} distinct text, so there is nothing to tell "
            "apart; at least 2 are needed. Raise train.batch_size, or give captions that differ."
        )
    share = sum(distinct) / max(sum(rows), 1)
    if share < _FEW_TEXTS:
        _LOG.warning(
            "A batch of %d captions holds %.0f distinct texts on average. Equal texts count as positives of each "
            "other, so little is left to tell apart: give captions that differ, or train a classifier "
            '(train.kind = "classify").',
            max(rows),
            np.mean(distinct),
        )


def _weights(captions: Captions, recipe: Recipe) -> np.ndarray | None:
    given = recipe.data.weights
    if not given:
        return None
    unknown = sorted(set(given) - set(captions.langs))
    if unknown:
        raise BabelclipError(
            f"data.weights names {', '.join(unknown)}, but the captions are in "
            f"{', '.join(sorted(set(captions.langs)))}. Drop it, or add captions."
        )
    return np.asarray([given.get(lang, 1.0) for lang in captions.langs])
