"""`Clip`: a text encoder and a picture encoder of one embedding space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from babelclip.errors import BabelclipError, SpaceMismatchError
from babelclip.models.image import ImageEncoder
from babelclip.models.preprocess import Picture
from babelclip.models.text import DEFAULT_TOKEN_BUDGET, TextEncoder, normalize_rows

# Queries scored at once: 1024 x 1 million pictures of scores take 4 GB, which is the most anyone should pay.
_QUERIES_AT_ONCE = 1024


@dataclass
class Clip:
    """Two towers, the id of their space, and what belongs to the pair.

    Attributes:
        space: id of the embedding space; vectors compare only within one.
        text: the text tower, or None where it was not loaded.
        image: the picture tower, or None where it was not loaded.
        logit_scale: factor on cosines before a softmax, already exponentiated; None where the space has none.
        languages: BCP-47 codes the text tower was trained on.
        name: what results and reports call this model.
        attribution: sources and licences of the weights and the training text, carried into every copy.
    """

    space: str
    text: TextEncoder | None = None
    image: ImageEncoder | None = None
    logit_scale: float | None = None
    languages: tuple[str, ...] = ()
    name: str = ""
    attribution: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        towers = [tower for tower in (self.text, self.image) if tower is not None]
        if not towers:
            raise BabelclipError("A Clip was given neither tower; it needs at least one. Pass text=, image= or both.")
        if self.text is not None and self.image is not None and self.text.embed_dim != self.image.embed_dim:
            raise BabelclipError(
                f"The text tower gives {self.text.embed_dim} dimensions, the picture tower {self.image.embed_dim}; "
                "they must agree. Give both heads the same embed_dim."
            )

    @property
    def embed_dim(self) -> int:
        """Dimensions D of the embedding space."""
        tower = self.text if self.text is not None else self.image
        assert tower is not None  # __post_init__ refuses a Clip without towers
        return tower.embed_dim

    def encode_text(
        self,
        texts: str | Sequence[str],
        normalize: bool = True,
        *,
        token_budget: int = DEFAULT_TOKEN_BUDGET,
        progress: bool = False,
    ) -> np.ndarray:
        """Returns text features (N, D) float32, rows L2-normalised unless `normalize=False`; input order is kept.

        Example:
            >>> clip = babelclip.load("demo/student")  # doctest: +SKIP
            >>> clip.encode_text(["två hundar", "两只狗"]).shape  # doctest: +SKIP
            (2, 384)

        Raises:
            BabelclipError: the text tower was not loaded, or an item is not a string.
        """
        return self._text_tower().encode(texts, normalize, token_budget=token_budget, progress=progress)

    def encode_image(
        self,
        pictures: Picture | Sequence[Picture],
        normalize: bool = True,
        *,
        batch_size: int = 32,
        progress: bool = False,
    ) -> np.ndarray:
        """Returns picture features (N, D) float32, rows L2-normalised unless `normalize=False`; input order is kept.

        Args:
            pictures: paths, PIL pictures or uint8 arrays; a single one counts as a list of one.
            normalize: False gives the raw projection.
            batch_size: pictures a forward pass.
            progress: show a bar on stderr.

        Raises:
            BabelclipError: the picture tower was not loaded, or a picture cannot be read.
        """
        return self._image_tower().encode(pictures, normalize, batch_size=batch_size, progress=progress)

    def rank(
        self, queries: str | Sequence[str], image_features: np.ndarray, k: int = 10
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns cosines (Q, K) float32 and positions (Q, K) int64 of the best pictures of each query, best first.

        Args:
            queries: Q texts in any language.
            image_features: (C, D) as `encode_image` gives them; rows are normalised here.
            k: at most C are returned.

        Raises:
            BabelclipError: `k` is not positive, or the features have other dimensions than the space.
        """
        features = np.asarray(image_features, dtype=np.float32)
        if features.ndim != 2 or features.shape[1] != self.embed_dim:
            raise BabelclipError(
                f"image_features has shape {features.shape}; this space wants (C, {self.embed_dim}). "
                "Encode the pictures with this model."
            )
        if k < 1:
            raise BabelclipError(f"k is {k}; it must be at least 1, for example 10.")
        return top_k(self.encode_text(queries), normalize_rows(features), k)

    def check_space(self, space: str, what: str) -> None:
        """Raises SpaceMismatchError, naming both spaces, unless `space` is this model's; `what` names the two."""
        if space != self.space:
            raise SpaceMismatchError(given=space, expected=self.space, what=what)

    def save(self, folder: Path | str) -> Path:
        """Writes the model in babelclip's own format and returns the folder (see docs/formats.md).

        The folder is self-contained and is replaced whole; loading it gives bit-equal vectors.
        """
        from babelclip.models.checkpoints import native

        return native.save(self, Path(folder))

    def facts(self) -> dict[str, Any]:
        """Returns name, space, embed_dim, languages and parameter counts, for reports."""
        return {
            "name": self.name,
            "space": self.space,
            "embed_dim": self.embed_dim,
            "languages": list(self.languages),
            "parameters": {
                tower_name: sum(parameter.numel() for parameter in tower.parameters())
                for tower_name, tower in (("text", self.text), ("image", self.image))
                if tower is not None
            },
        }

    def _text_tower(self) -> TextEncoder:
        if self.text is None:
            raise BabelclipError(
                'This model was loaded without its text tower (towers="image"), so it cannot encode texts. '
                'Load it again with towers="both" or "text".'
            )
        return self.text

    def _image_tower(self) -> ImageEncoder:
        if self.image is None:
            raise BabelclipError(
                'This model was loaded without its picture tower (towers="text"), so it cannot encode pictures. '
                'Load it again with towers="both" or "image".'
            )
        return self.image


def top_k(queries: np.ndarray, corpus: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the k largest dot products (Q, K) float32 and their corpus rows (Q, K) int64, best first.

    Args:
        queries: (Q, D) float32.
        corpus: (C, D) float32.
        k: clamped to C. Equal scores keep corpus order.
    """
    k = min(k, len(corpus))
    scores = np.empty((len(queries), k), dtype=np.float32)
    indices = np.empty((len(queries), k), dtype=np.int64)
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        block = queries[start : start + _QUERIES_AT_ONCE] @ corpus.T
        order = np.argsort(-block, axis=1, kind="stable")[:, :k]
        indices[start : start + len(block)] = order
        scores[start : start + len(block)] = np.take_along_axis(block, order, axis=1)
    return scores, indices
