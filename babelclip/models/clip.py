"""`Clip`: a text encoder and a picture encoder of one embedding space."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from babelclip import languages
from babelclip.errors import BabelclipError, SpaceMismatchError
from babelclip.models.decoding import EncodeReport
from babelclip.models.encoding import Device
from babelclip.models.image import ImageEncoder
from babelclip.models.preprocess import Picture
from babelclip.models.text import TextEncoder, normalize_rows

if TYPE_CHECKING:
    from babelclip.models.conditioning import TokenStates

# Scores held at once. With their negatives and their order they take 16 bytes each: 256 MB, or one query's.
_SCORES_AT_ONCE = 1 << 24


def check_replaceable(folder: Path | str) -> None:
    """Does nothing where a model can be saved: in a new or empty folder, or in place of a model of this format.

    Raises:
        BabelclipError: something else lies there, which saving would remove.
    """
    from babelclip.models.checkpoints import native

    folder = Path(folder)
    if not folder.exists():
        return
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if folder.is_dir() and (not names or native.recognises(folder)):
        return
    what = f"holds {', '.join(names[:3])}{' …' * (len(names) > 3)}" if names else "is a file"
    raise BabelclipError(
        f"{folder} {what}, and a model replaces all that lies where it is saved. Give a new or empty folder, or that "
        "of a model which babelclip saved."
    )


class UndeclaredLanguageWarning(UserWarning):
    """Texts are in a language that the model was not trained on."""


@dataclass
class Clip:
    """Two towers, the id of their space, and what belongs to the pair.

    Attributes:
        space: id of the embedding space; vectors compare only within one.
        text: the text tower, or None where it was not loaded.
        image: the picture tower, or None where it was not loaded.
        logit_scale: factor on cosines before a softmax, already exponentiated; None where the space has none.
        logit_bias: added to the scaled cosine where the space was trained with a sigmoid (SigLIP); None elsewhere.
        languages: BCP-47 codes the text tower was trained on.
        name: what results and reports call this model.
        attribution: sources and licences of the weights and the training text, carried into every copy.
        revision: commit of the hub repository that the weights come from; empty for a folder.
        fidelity: what the dtype chosen at load costs against float32, measured; empty where nothing was lowered.
    """

    space: str
    text: TextEncoder | None = None
    image: ImageEncoder | None = None
    logit_scale: float | None = None
    languages: tuple[str, ...] = ()
    name: str = ""
    attribution: tuple[str, ...] = field(default=())
    logit_bias: float | None = None
    revision: str = ""
    fidelity: dict[str, Any] = field(default_factory=dict)

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
        lang: str | Sequence[str] | None = None,
        token_budget: int | None = None,
        devices: Sequence[Device] | None = None,
        progress: bool = False,
    ) -> np.ndarray:
        """Returns text features (N, D) float32, rows L2-normalised unless `normalize=False`; input order is kept.

        Args:
            texts: one string counts as a list of one.
            normalize: False gives the raw projection, which teacher learning regresses on.
            lang: language of the texts, or one for each (BCP-47). Models whose first token names the language read it
                (NLLB-CLIP); for all others it only brings a warning where the model was not trained on that language.
            token_budget: most tokens of a padded batch; changes speed and memory, results only by rounding. None takes
                1024 on a processor (512 in int8) and 32768 on a GPU.
            devices: several devices of this machine, for example ["cuda:0", "cuda:1"]; None means where the tower is.
            progress: show a bar on stderr.

        Example:
            >>> clip = babelclip.load("demo/student")  # doctest: +SKIP
            >>> clip.encode_text(["två hundar", "两只狗"]).shape  # doctest: +SKIP
            (2, 384)

        Raises:
            BabelclipError: the text tower was not loaded, an item is not a string, or `lang` is no language.
        """
        tower = self.text_tower()
        if lang is not None:
            self._warn_of_undeclared([lang] if isinstance(lang, str) else lang)
        return tower.encode(texts, normalize, lang=lang, token_budget=token_budget, devices=devices, progress=progress)

    def encode_tokens(self, texts: str | Sequence[str], **settings: Any) -> TokenStates:
        """Returns token states (N, T, W), mask and pooled vectors of texts, as diffusion models take them.

        `settings` are those of `babelclip.models.conditioning.encode_tokens`, for example
        `preset="altdiffusion-m18"`.

        Raises:
            BabelclipError: the text tower was not loaded, or has no such layer, norm or head.
        """
        return self.text_tower().encode_tokens(texts, **settings)

    def encode_image(
        self,
        pictures: Picture | Sequence[Picture],
        normalize: bool = True,
        *,
        batch_size: int = 32,
        workers: int = 0,
        devices: Sequence[Device] | None = None,
        progress: bool = False,
        report: Callable[[EncodeReport], None] | None = None,
    ) -> np.ndarray:
        """Returns picture features (N, D) float32, rows L2-normalised unless `normalize=False`; input order is kept.

        Args:
            pictures: paths, PIL pictures or uint8 arrays; a single one counts as a list of one.
            normalize: False gives the raw projection.
            batch_size: pictures a forward pass.
            workers: processes that decode and preprocess; 0 does so in threads (see `ImageEncoder.encode`).
            devices: several devices of this machine, for example ["cuda:0", "cuda:1"]; None means where the tower is.
            progress: show a bar on stderr.
            report: is called once at the end with pictures a second and the bottleneck, for example `report=print`.

        Raises:
            BabelclipError: the picture tower was not loaded, or a picture cannot be read.
        """
        return self.image_tower().encode(
            pictures,
            normalize,
            batch_size=batch_size,
            workers=workers,
            devices=devices,
            progress=progress,
            report=report,
        )

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
        features = self._unit_rows(image_features, "image_features", "C")
        if k < 1:
            raise BabelclipError(f"k is {k}; it must be at least 1, for example 10.")
        return top_k(self.encode_text(queries), features, k)

    def logits(self, text_features: np.ndarray, image_features: np.ndarray) -> np.ndarray:
        """Returns scale x cosine (+ bias) (N, M) float32 for N texts and M pictures.

        Args:
            text_features: (N, D); rows are normalised here.
            image_features: (M, D); rows are normalised here.

        Raises:
            BabelclipError: the model has no logit scale, as a text tower alone may have none, or features have another
                shape.
        """
        if self.logit_scale is None:
            raise BabelclipError(
                f"{self.name or 'This model'} has no logit scale, so it gives cosines only. Load it with its picture "
                "tower (`babelclip.pair`), or multiply normalised features."
            )
        cosines = self._unit_rows(text_features, "text_features", "N") @ (
            self._unit_rows(image_features, "image_features", "M").T
        )
        return np.asarray(np.float32(self.logit_scale) * cosines + np.float32(self.logit_bias or 0.0))

    def probabilities(self, text_features: np.ndarray, image_features: np.ndarray) -> np.ndarray:
        """Returns how well each of N texts fits each of M pictures (N, M) float32, from 0 to 1.

        Where the space has a bias (SigLIP) each pair stands alone: a sigmoid of its logit. Elsewhere the texts of one
        picture share 1: a softmax over axis 0, as in CLIP's zero-shot classification.
        """
        logits = self.logits(text_features, image_features)
        if self.logit_bias is not None:
            return np.asarray(np.exp(-np.logaddexp(np.float32(0), -logits)))
        exponentials = np.exp(logits - logits.max(axis=0, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=0, keepdims=True))

    def text_tower(self) -> TextEncoder:
        """Returns the text tower.

        Raises:
            BabelclipError: the model was loaded without it.
        """
        if self.text is None:
            raise BabelclipError(
                'This model was loaded without its text tower (towers="image"), so it cannot encode texts. '
                'Load it again with towers="both" or "text".'
            )
        return self.text

    def image_tower(self) -> ImageEncoder:
        """Returns the picture tower.

        Raises:
            BabelclipError: the model was loaded without it.
        """
        if self.image is None:
            raise BabelclipError(
                'This model was loaded without its picture tower (towers="text"), so it cannot encode pictures. '
                'Load it again with towers="both" or "image".'
            )
        return self.image

    def check_space(self, space: str, what: str) -> None:
        """Raises SpaceMismatchError, naming both spaces, unless `space` is this model's; `what` names the two."""
        if space != self.space:
            raise SpaceMismatchError(given=space, expected=self.space, what=what)

    def save(self, folder: Path | str) -> Path:
        """Writes the model in babelclip's own format and returns the folder (see docs/formats.md).

        The folder is self-contained and is replaced whole; loading it gives bit-equal vectors. It may be `s3://…`.

        Raises:
            BabelclipError: the folder holds other things than a model of this format.
        """
        from babelclip.models.checkpoints import native
        from babelclip.storage import output

        with output(folder) as place:
            check_replaceable(place)
            native.save(self, place)
        return Path(folder)

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

    def _unit_rows(self, features: np.ndarray, name: str, rows: str) -> np.ndarray:
        """Returns features (N, D) of this space as float32, rows of unit length; errors say `name` and `rows`."""
        features = np.asarray(features)
        if features.ndim != 2 or features.shape[1] != self.embed_dim:
            raise BabelclipError(
                f"{name} has shape {features.shape}; this space wants ({rows}, {self.embed_dim}). "
                "Encode with a model of this space, and give one vector as a row: vector[None]."
            )
        return normalize_rows(features)

    def _warn_of_undeclared(self, codes: Sequence[str]) -> None:
        undeclared = [code for code in dict.fromkeys(codes) if not languages.covers(self.languages, code)]
        if self.languages and undeclared:
            warnings.warn(
                f"{self.name or 'This model'} was not trained on {', '.join(undeclared)}; it may be poor there. "
                f"It was trained on: {', '.join(self.languages)}.",
                UndeclaredLanguageWarning,
                stacklevel=3,
            )


def pair(text: Clip, image: Clip) -> Clip:
    """Returns one model of the text tower of the first and the picture tower of the second, which share a space.

    The logit scale belongs to the space and comes with the picture tower, languages with the text tower.

    Example:
        >>> text = babelclip.load("copies/XLM-Roberta-Large-Vit-L-14", towers="text")  # doctest: +SKIP
        >>> clip = babelclip.pair(text, babelclip.load("copies/clip-vit-large-patch14", "image"))  # doctest: +SKIP

    Raises:
        BabelclipError: a tower is absent.
        SpaceMismatchError: the spaces differ; it names both, and the picture tower that fits.
    """
    text_tower, image_tower = text.text_tower(), image.image_tower()
    if text.space != image.space:
        from babelclip import registry

        twins = ", ".join(card.name for card in registry.twins(text.space))
        raise SpaceMismatchError(
            given=image.space,
            expected=text.space,
            what=f"the text tower of {text.name or 'one model'} and the picture tower of {image.name or 'another'}",
            hint=f"Published picture towers of {text.space}: {twins}." if twins else "",
        )
    return Clip(
        space=text.space,
        text=text_tower,
        image=image_tower,
        logit_scale=image.logit_scale if image.logit_scale is not None else text.logit_scale,
        logit_bias=image.logit_bias if image.logit_scale is not None else text.logit_bias,
        languages=text.languages,
        name=text.name,
        attribution=tuple(dict.fromkeys((*text.attribution, *image.attribution))),
        revision=text.revision,
        fidelity={
            tower: clip.fidelity[tower] for tower, clip in (("text", text), ("image", image)) if tower in clip.fidelity
        },
    )


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
    at_once = max(1, _SCORES_AT_ONCE // max(1, len(corpus)))
    for start in range(0, len(queries), at_once):
        block = queries[start : start + at_once] @ corpus.T
        order = np.argsort(-block, axis=1, kind="stable")[:, :k]
        indices[start : start + len(block)] = order
        scores[start : start + len(block)] = np.take_along_axis(block, order, axis=1)
    return scores, indices
