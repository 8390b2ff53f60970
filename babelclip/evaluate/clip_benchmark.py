"""A model as clip_benchmark's `load_clip` gives one: (model, transform, tokenizer), for those who measure with it.

    from babelclip.evaluate.clip_benchmark import as_clip_benchmark
    model, transform, tokenizer = as_clip_benchmark(babelclip.load("demo/student"))

Entry point: `as_clip_benchmark`. Row letters: N texts or pictures, T tokens, D embed_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from PIL import Image

from babelclip.errors import BabelclipError
from babelclip.models.clip import Clip
from babelclip.models.image import ImageEncoder
from babelclip.models.text import TextEncoder

# Stands for padding in the token tensor. The id of the padding token cannot: some models end a text with it.
_PADDING = -1


class Towers:
    """What clip_benchmark calls a model."""

    def __init__(self, text: TextEncoder, image: ImageEncoder) -> None:
        self._text, self._image, self._pad_id = text, image, text.tokenizer.pad_id

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """Returns text features (N, D), not normalised, of int64 tokens (N, T) that `tokenizer` made."""
        there = tokens != _PADDING
        features: torch.Tensor = self._text(torch.where(there, tokens, self._pad_id), there.long())
        return features

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Returns picture features (N, D), not normalised, of pixels (N, 3, H, W) that `transform` made."""
        features: torch.Tensor = self._image(pixels)
        return features

    def eval(self) -> Towers:
        """Returns itself: towers that were loaded are in evaluation mode."""
        return self

    def to(self, device: str | torch.device) -> Towers:
        """Moves both towers to a device and returns itself."""
        self._text.to(device)
        self._image.to(device)
        return self


def as_clip_benchmark(
    clip: Clip,
) -> tuple[Towers, Callable[[Image.Image], torch.Tensor], Callable[[Sequence[str]], torch.Tensor]]:
    """Returns a model, its transform of a picture to pixels (3, H, W), and its tokenizer of texts to (N, T) int64.

    Cleaning, prefix, length and padding are the model's own, as everywhere; equal to `encode_text` and `encode_image`.

    Raises:
        BabelclipError: the model lacks a tower.
    """
    text, image = clip.text, clip.image
    if text is None or image is None:
        raise BabelclipError(
            'clip_benchmark encodes texts and pictures, and this model has one tower. Load it with towers="both".'
        )

    def transform(picture: Image.Image) -> torch.Tensor:
        return torch.from_numpy(image.preprocess(picture))

    def tokenizer(texts: Sequence[str]) -> torch.Tensor:
        ids, mask = text.tokenizer.pad(text.tokenizer([texts] if isinstance(texts, str) else list(texts)))
        return torch.where(mask.bool(), ids, _PADDING)

    return Towers(text, image), transform, tokenizer
