"""Batches of labelled pictures with prompts of their classes, and a look at whether they can teach anything.

A row is a picture and a template, as the number picture * K + template. Every text of a batch passes the text tower
once, however many pictures share it. Letters: N pictures, C classes, K templates, B rows, U distinct texts of a batch.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from babelclip.errors import BabelclipError
from babelclip.evaluate.prompts import class_vectors
from babelclip.models.text import TextEncoder
from babelclip.train.batches import even_batches
from babelclip.train.class_inputs import LabelledPictures, Prompts
from babelclip.train.pictures import PictureInputs
from babelclip.train.recipe import Recipe
from babelclip.train.texts import TokenTable

DEFAULT_BATCH = 64
# Classes of a batch that must differ on average, of those that could: fewer leave little to tell apart.
_FEW_CLASSES = 0.5
# Draws of templates are apart from the order of pictures, which follows from (seed, epoch) too.
_TEMPLATES = 7

IntArray = npt.NDArray[np.int64]


class PromptTexts:
    """The prompts of one language as the pair reads them: tokens, pooled states before the head, or vectors."""

    def __init__(self, prompts: Prompts, tower: TextEncoder, moves: str) -> None:
        """Computes once what does not move.

        Args:
            prompts: C classes in K templates.
            tower: the text tower, as it is at the start.
            moves: `tower`, `head`, or nothing.
        """
        self.prompts, texts, langs = prompts, prompts.texts, [prompts.lang] * len(prompts.texts)
        self.table = TokenTable.from_texts(tower, texts, langs)
        self.fixed: dict[str, Tensor] = {}
        if moves == "head":
            self.fixed = {"pooled_texts": torch.from_numpy(tower.encode(texts, lang=langs, before_head=True))}
        elif not moves:
            self.fixed = {"texts": torch.from_numpy(tower.encode(texts, normalize=False, lang=langs))}

    def load(self, numbers: IntArray) -> dict[str, Tensor]:
        """Returns what the pair reads of some prompts (U,)."""
        if self.fixed:
            return {name: tensor[torch.from_numpy(numbers)] for name, tensor in self.fixed.items()}
        input_ids, mask = self.table.load(numbers)
        return {"input_ids": input_ids, "attention_mask": mask}

    def of_classes(self, features: np.ndarray) -> np.ndarray:
        """Returns the vector of each class (C, D), of unit length, for those of all prompts (C * K, D)."""
        place = {text: number for number, text in enumerate(self.prompts.texts)}
        return class_vectors(
            lambda texts: features[[place[text] for text in texts]], self.prompts.names, self.prompts.templates
        )

    def class_vectors(self) -> Tensor | None:
        """Returns the vector of each class (C, D), where no text moves; else None."""
        vectors = self.fixed.get("texts")
        return None if vectors is None else torch.from_numpy(self.of_classes(vectors.numpy()))


class ClassBatches:
    """The batches of a run (`batches.Batches`)."""

    def __init__(
        self, pictures: LabelledPictures, places: IntArray, images: PictureInputs, texts: PromptTexts, recipe: Recipe
    ) -> None:
        """Takes the pictures of training.

        Args:
            pictures: N pictures and their labels.
            places: what each of them is called in `images` (N,).
            images: how the pair reads pictures.
            texts: how it reads the prompts of `classify.lang`.
            recipe: sections train and classify count.

        Raises:
            BabelclipError: batches hold too few classes for the loss.
        """
        self.labels, self.places, self.images, self.texts = pictures.labels, places, images, texts
        self.size, self.seed = recipe.train.batch_size or DEFAULT_BATCH, recipe.train.seed
        self.loss = recipe.classify.loss
        self.templates = len(texts.prompts.templates)
        self.vectors = texts.class_vectors() if self.loss == "class_vectors" else None
        names = [f"{Path(path).parent.name}/{Path(path).name}" for path in pictures.paths]
        self.fingerprint: dict[str, Any] = {
            "pictures": _digest([f"{name} {label}" for name, label in zip(names, self.labels.tolist(), strict=True)]),
            "prompts": _digest(texts.prompts.texts),
        }
        check_classes([self.labels[rows // self.templates] for rows in self.plan(0)], self.loss, len(pictures.classes))

    def plan(self, epoch: int) -> list[IntArray]:
        """Returns the batches of an epoch: each picture once, with a template drawn for it.

        Where the loss compares with all classes, the whole batch has one template.
        """
        batches = even_batches(len(self.labels), self.size, epoch=epoch, seed=self.seed)
        draw = np.random.default_rng([self.seed, epoch, _TEMPLATES])
        shared = self.loss == "class_vectors"
        return [
            rows * self.templates + draw.integers(self.templates, size=1 if shared else len(rows)) for rows in batches
        ]

    def load(self, rows: IntArray) -> dict[str, Tensor]:
        """Returns what the pair reads: B pictures, U texts, `text_of` (B,) among them, and `labels` (B,)."""
        numbers, templates = np.divmod(rows, self.templates)
        images, stands = self.images.load(self.places[numbers])
        # A pair stands in for one whose picture cannot be read.
        labels = self.labels[numbers[stands]]
        batch = {**images, "labels": torch.from_numpy(labels)}
        if self.vectors is not None:
            return {**batch, "texts": self.vectors}
        if self.loss == "class_vectors":
            classes = len(self.texts.prompts.names)
            return {**batch, **self.texts.load(np.arange(classes) * self.templates + templates[0])}
        distinct, text_of = np.unique(labels * self.templates + templates[stands], return_inverse=True)
        return {**batch, **self.texts.load(distinct), "text_of": torch.from_numpy(text_of.reshape(-1))}

    def tokens(self, rows: IntArray) -> int:
        """Returns the tokens of the prompts of a batch."""
        numbers, templates = np.divmod(rows, self.templates)
        return int(self.texts.table.lengths[self.labels[numbers] * self.templates + templates].sum())


def check_classes(batches: list[IntArray], loss: str, classes: int) -> None:
    """Checks that the batches of an epoch hold enough different classes for the loss.

    Equal classes are pairs that nothing is learned from; for `diagonal`, which takes them for negatives of each other,
    they are contradictions wherever their prompts differ.

    Args:
        batches: labels of each batch.
        loss: `classify.loss`.
        classes: number of all classes.

    Raises:
        BabelclipError: they do not; the message says what to set.
    """
    if loss == "class_vectors":
        return
    distinct = [len(np.unique(labels)) for labels in batches]
    rows = [len(labels) for labels in batches]
    if loss == "diagonal":
        clashing = sum(few < many for few, many in zip(distinct, rows, strict=True))
        if clashing:
            raise BabelclipError(
                f'classify.loss = "diagonal" takes every other picture of a batch for a negative, but {clashing} of '
                f"{len(rows)} batches hold two pictures of one class ({classes} classes, {max(rows)} rows a batch): "
                'set loss = "multi_positive" or "class_vectors".'
            )
    if min(distinct, default=0) < 2:
        worst = int(np.argmin(distinct))
        raise BabelclipError(
            f"A batch of {rows[worst]} pictures holds {distinct[worst]} class, so there is nothing to tell apart; "
            'at least 2 are needed. Raise train.batch_size, or set classify.loss = "class_vectors", which compares '
            "with every class."
        )
    share = sum(distinct) / sum(min(many, classes) for many in rows)
    if share < _FEW_CLASSES:
        raise BabelclipError(
            f"A batch of {max(rows)} pictures holds {np.mean(distinct):.1f} of {classes} classes on average, so most "
            "of its texts are equal and little is left to tell apart. Give as many pictures of every class, or set "
            'classify.loss = "class_vectors", which compares with every class.'
        )


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
