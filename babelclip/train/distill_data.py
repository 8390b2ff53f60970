"""What a run of teacher learning reads: captions in memory, or a mix; their targets, weights and counts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from babelclip.data.captions import Captions
from babelclip.data.mixer import Mixer
from babelclip.errors import BabelclipError
from babelclip.models.text import TextEncoder
from babelclip.store import EmbeddingStore
from babelclip.train import losses
from babelclip.train.live import KeptTargets, Targets
from babelclip.train.mix_batches import Counts, MixBatches
from babelclip.train.recipe import Recipe, Train
from babelclip.train.text_batches import CaptionBatches, Rows
from babelclip.train.texts import Inputs, TokenTable, beyond_room

_LOG = logging.getLogger(__name__)
# Targets that estimate the trivial predictor: more change its third digit at most.
_TRIVIAL_SAMPLE = 20_000


class CaptionData:
    """Captions in memory: their tokens, targets and weights.

    Attributes:
        keeps_states: whether states below the trained layers can be kept for these rows.
        size, languages: how many captions there are, and in each language.
        batches: what the loop reads, once `prepare` was called.
    """

    keeps_states = True

    def __init__(
        self,
        student: TextEncoder,
        captions: Captions,
        targets: Targets,
        recipe: Recipe,
        weights: np.ndarray | None,
    ) -> None:
        self._recipe, self._targets = recipe, targets
        self.size, self.languages = len(captions), captions.language_counts()
        weights = _weights(captions, recipe, weights)
        rows = target_rows(captions, targets, recipe.teacher.missing)
        self._tokens = TokenTable.from_texts(student, captions.texts, captions.langs)
        long = beyond_room(student.tokenizer, captions.texts, self._tokens.lengths)
        skipped = long if recipe.student.long == "skip" else np.zeros(self.size, dtype=bool)
        keep = (rows >= 0) & ~skipped
        self._counts = Counts(self.size, int(long.sum()), int(skipped.sum()), int((rows < 0).sum()))
        if not keep.any():
            raise BabelclipError(
                f"No caption is left to train on: {self._counts}. Raise student.max_length, set "
                'long = "truncate" in [student], or give the targets.'
            )
        if not keep.all():
            self._tokens, rows = self._tokens.select(keep), rows[keep]
            weights = None if weights is None else weights[keep]
        self._rows, self._weights = rows, weights
        self.batches = CaptionBatches(self._tokens.lengths, weights, recipe.train)

    def settings(self) -> Train:
        """Returns [train], with its length in steps where the batches alone do not say it."""
        return self._recipe.train

    def prepare(self, inputs_of: Callable[[TokenTable], Inputs]) -> None:
        """Makes the inputs of the model, which may take long, and the batches."""
        held = self._targets
        gather = held.gather if isinstance(held, EmbeddingStore) else KeptTargets(held, self._rows).gather
        seen = self._rows if self._weights is None else self._rows[self._weights > 0]
        inputs = inputs_of(self._tokens)
        self.batches.rows = Rows(inputs, self._tokens.lengths, self._rows, gather, self._recipe, seen)
        self._gather = gather

    def trivial(self) -> float:
        """Returns the MSE of answering the mean of the targets to everything."""
        return _trivial(self._gather, self._rows, self._recipe.train.seed)

    def facts(self) -> dict[str, Any]:
        """Returns what a resumed run must have the same."""
        rows, weights = self._rows, self._weights
        return {
            "captions": {"count": len(rows), "tokens": self._tokens.fingerprint, "targets": int(rows.sum())},
            "weights": None if weights is None else float(np.dot(weights, np.arange(1, len(weights) + 1))),
        }

    def counts(self) -> Counts:
        """Returns how many captions were read, too long, or without a target."""
        return self._counts

    def close(self) -> None:
        """Holds nothing open."""


class MixData:
    """A mix, read window by window; attributes as of `CaptionData`, `size` counts its distinct rows."""

    # States of a window would have to be computed anew each time it comes.
    keeps_states = False

    def __init__(
        self, student: TextEncoder, mixer: Mixer, targets: Targets, recipe: Recipe, weights: np.ndarray | None
    ) -> None:
        if weights is not None or recipe.data.weights:
            raise BabelclipError(
                "Sampling weights were given with a mix, which has shares of its own. Write languages = { sv = 2 } or "
                "the weight of a source under [mix], and drop data.weights."
            )
        self._recipe = recipe
        self.batches = MixBatches(student, mixer, targets, recipe)
        self._mixer, self.size = mixer, len(mixer)
        self.languages: dict[str, int] = {}
        for group in mixer.groups:
            self.languages[group.lang] = self.languages.get(group.lang, 0) + group.rows
        self._targets = targets

    def settings(self) -> Train:
        """Returns [train], with its length in steps where the batches alone do not say it."""
        return self.batches.in_steps(self._recipe.train)

    def prepare(self, inputs_of: Callable[[TokenTable], Inputs]) -> None:
        """Does nothing: windows are read when the loop asks."""

    def trivial(self) -> float:
        """Returns the MSE of answering the mean of the targets to everything."""
        rows = self.batches.rows_of(0)
        return _trivial(rows.gather, rows.positions, self._recipe.train.seed)

    def facts(self) -> dict[str, Any]:
        """Returns what a resumed run must have the same."""
        kept = self._recipe.teacher.missing
        return {"mix": {"fingerprint": self._mixer.fingerprint, "window": self.batches.window, "missing": kept}}

    def counts(self) -> Counts:
        """Returns how many captions were read, too long, or without a target."""
        return self.batches.counts

    def close(self) -> None:
        """Ends the reading ahead."""
        self.batches.close()


def target_rows(captions: Captions, targets: Targets, missing: str = "error") -> np.ndarray:
    """Returns the position of each caption's target (N,) int64; -1 where it lacks and `missing` is "drop".

    Raises:
        BabelclipError: there is no caption, or one has no target and `missing` is "error".
    """
    if not len(captions):
        raise BabelclipError("There are no captions: give a file with at least one readable row.")
    sources = captions.table.column("source_id").to_pylist()
    wanted = [own if source is None else source for own, source in zip(captions.ids, sources, strict=True)]
    rows = targets.find(wanted) if missing == "drop" else targets.positions(wanted)
    return np.asarray(rows, dtype=np.int64)


def _weights(captions: Captions, recipe: Recipe, weights: np.ndarray | None) -> np.ndarray | None:
    langs = list(captions.langs)
    if weights is None and recipe.data.weights:
        unknown = sorted(set(recipe.data.weights) - set(langs))
        if unknown:
            raise BabelclipError(
                f"data.weights names {', '.join(unknown)}, but the captions are in {', '.join(sorted(set(langs)))}."
                " Drop it, or add captions."
            )
        weights = np.asarray([recipe.data.weights.get(lang, 1.0) for lang in langs])
    if weights is not None and len(weights) != len(captions):
        raise BabelclipError(f"There are {len(weights)} sampling weights for {len(captions)} captions: give one each.")
    seen = set(langs) if weights is None else {lang for lang, w in zip(langs, weights, strict=True) if w > 0}
    if not any(lang.split("-")[0] == "en" for lang in seen):
        # AltCLIP, table 5: without English-English pairs retrieval in English falls from 90 to 62.
        _LOG.warning("No caption in English is trained on: a student loses the languages that it no longer sees.")
    return weights


def _trivial(gather: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, seed: int) -> float:
    sample = rows
    if len(rows) > _TRIVIAL_SAMPLE:
        sample = np.random.default_rng(seed).choice(rows, _TRIVIAL_SAMPLE, replace=False)
    return float(losses.trivial_mse(torch.from_numpy(gather(sample)).double()))
