"""The rows of the demo's tables: five models, one picture tower, the same captions.

Captions run once through the layers that teaching leaves as they are; the states are kept, so that the student before
and after teaching costs the upper layers only. Entry points: `StudentCaptions`, `rows_of`.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from babelclip.errors import BabelclipError
from babelclip.models.clip import Clip
from babelclip.models.text import TextEncoder
from babelclip.starter.measure import PictureSet, TextVectors, measure
from babelclip.starter.teach import Head
from babelclip.train.frozen import FrozenStates, upper_pooled
from babelclip.train.texts import TokenTable

TEACHER = "English teacher"
FOREIGN = "English teacher, foreign text as it is"
BEFORE = "student before teaching"
RIDGE = "student, closed-form head"
AFTER = "student after teaching"
KINDS = {TEACHER: "teacher", FOREIGN: "foreign", BEFORE: "before", RIDGE: "ridge", AFTER: "after"}
# Saved, loaded and encoded the plain way, the student must give what was measured through kept states.
_CHECKED_TEXTS = 64
_LEAST_COSINE = 0.9999
# Passes of this many tokens stay in the processor's cache (docs/log.md).
_TOKEN_BUDGET = 1024

Rows = dict[str, list[dict[str, Any]]]


class StudentCaptions:
    """The test captions as a student sees them, before and after its upper layers are trained."""

    def __init__(
        self, student: TextEncoder, texts: Sequence[str], first_layer: int, folder: Path, *, progress: bool
    ) -> None:
        """Runs `texts` through the layers below `first_layer`, which must not change afterwards.

        The states lie in `folder`, so that a demo that was stopped goes on; `discard` removes them.
        """
        self.texts = list(texts)
        self.first_layer = first_layer
        tokens = TokenTable.from_texts(student, self.texts)
        self.folder = folder
        self.states = FrozenStates.build(
            student, tokens, first_layer, folder=folder, token_budget=_TOKEN_BUDGET, progress=progress
        )
        self.before = self.pooled(student)

    def pooled(self, student: TextEncoder) -> np.ndarray:
        """Returns the pooled vectors (N, H) of the student as it is now."""
        return upper_pooled(student, self.states, self.first_layer, _TOKEN_BUDGET)

    def discard(self) -> None:
        """Removes the kept states: hundreds of megabytes that nobody needs once all is measured."""
        shutil.rmtree(self.folder, ignore_errors=True)


def check_loaded(clip: Clip, texts: Sequence[str], features: np.ndarray) -> None:
    """Raises BabelclipError unless a loaded model gives some texts the vectors (N, D) that were measured."""
    places = np.linspace(0, len(texts) - 1, min(_CHECKED_TEXTS, len(texts))).astype(int)
    loaded = clip.encode_text([texts[place] for place in places])
    measured = features[places] / np.linalg.norm(features[places], axis=1, keepdims=True)
    cosine = float((loaded * measured).sum(axis=1).min())
    if cosine < _LEAST_COSINE:
        raise BabelclipError(
            f"The saved model gives other vectors than those that were measured (lowest cosine {cosine:.5f}, at least "
            f"{_LEAST_COSINE} is allowed). Something is broken in saving or loading: please report it."
        )


def student_vectors(name: str, clip: Clip, texts: Sequence[str], pooled: np.ndarray, head: Head) -> TextVectors:
    """Returns the vectors of a student: pooled (N, H) through a linear head."""
    matrix, bias = head
    return TextVectors.of(name, clip.space, clip.languages, texts, pooled @ matrix.T + bias)


def head_of(clip: Clip) -> Head:
    """Returns the linear head of a taught model as arrays (D, H), (D,)."""
    weights = (
        {name: tensor.detach().float().cpu().numpy() for name, tensor in clip.text.head.named_parameters()}
        if clip.text
        else {}
    )
    return weights["0.weight"], weights["0.bias"]


def rows_of(
    picture_set: PictureSet,
    english: TextVectors,
    students: Sequence[TextVectors],
    image_features: np.ndarray,
    *,
    least: int,
    seed: int,
) -> Rows:
    """Returns the results of every row of a table, by the row's name.

    The English teacher makes two rows: its own language, and all others, whose text it is given as it is.
    """
    of_teacher = measure(english, picture_set, image_features, least=least, seed=seed)
    rows = {
        TEACHER: [{**result, "model": TEACHER} for result in of_teacher if result["language"] == "en"],
        FOREIGN: [{**result, "model": FOREIGN} for result in of_teacher if result["language"] != "en"],
    }
    for one in students:
        rows[one.name] = measure(one, picture_set, image_features, least=least, seed=seed)
    return {name: results for name, results in rows.items() if results}


@dataclasses.dataclass(frozen=True)
class Measured:
    """All figures of a demo.

    Attributes:
        rows: picture set key -> row name -> results.
        images: picture set key -> picture vectors (C, D).
    """

    rows: dict[str, Rows]
    images: dict[str, np.ndarray]

    @property
    def results(self) -> list[dict[str, Any]]:
        """All results in one list."""
        return [result for rows in self.rows.values() for results in rows.values() for result in results]
