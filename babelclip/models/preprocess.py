"""Pictures to pixels: PIL and numpy only, exactly as the checkpoint's origin does it."""

from __future__ import annotations

import os
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from babelclip.errors import BabelclipError, did_you_mean

Picture = str | Path | Image.Image | np.ndarray

# A picture of 100 megapixels takes 300 MB decoded; above that a small file may be a bomb.
MAX_PIXELS = 100_000_000
_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}


class PictureError(BabelclipError):
    """A picture cannot be read."""


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes the input of its tower.

    With `fit="crop"` the shorter side is resized to `resize` and the middle `crop` x `crop` is cut out (as CLIP does).
    With `fit="pad"` the picture is first made square with borders of `background`, so nothing of it is lost. Values
    in 0..1 are then shifted by `mean` and divided by `std` (RGB). Transparent pictures are laid on `background`.
    """

    resize: int = 224
    crop: int = 224
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    background: tuple[int, int, int] = (255, 255, 255)
    fit: str = "crop"

    def __post_init__(self) -> None:
        if self.fit not in ("crop", "pad"):
            raise BabelclipError(f"Fit {self.fit!r} is not known. {did_you_mean(self.fit, ('crop', 'pad'))}")
        if self.interpolation not in _RESAMPLING:
            raise BabelclipError(
                f"Interpolation {self.interpolation!r} is not known. {did_you_mean(self.interpolation, _RESAMPLING)}"
            )

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """Returns the pixels (3, crop, crop) float32 of a picture in any mode."""
        picture = to_rgb(picture, self.background)
        if self.fit == "pad":
            picture = _padded_to_square(picture, self.background)
        picture = _cut_middle(self._resized(picture), self.crop)
        pixels = np.asarray(picture, dtype=np.float32) / np.float32(255)
        pixels = (pixels - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def _resized(self, picture: Image.Image) -> Image.Image:
        width, height = picture.size
        scale = self.resize / min(width, height)
        size = (max(round(width * scale), self.crop), max(round(height * scale), self.crop))
        return picture if size == picture.size else picture.resize(size, _RESAMPLING[self.interpolation])

    def to_dict(self) -> dict[str, Any]:
        """Returns the content for `config.json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Preprocess:
        """Returns the preprocessing described in `config.json`."""
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        return cls(**settings)


def _padded_to_square(picture: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    side = max(picture.size)
    canvas = Image.new("RGB", (side, side), background)
    canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return canvas


def _cut_middle(picture: Image.Image, size: int) -> Image.Image:
    left = round((picture.width - size) / 2)
    top = round((picture.height - size) / 2)
    return picture.crop((left, top, left + size, top + size))


def to_rgb(picture: Image.Image, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """Returns the picture as RGB; what is transparent shows `background`."""
    if picture.mode == "RGB":
        return picture
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (*background, 255))
        return Image.alpha_composite(canvas, layer).convert("RGB")
    return picture.convert("RGB")


def open_picture(picture: Picture, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Returns a decoded PIL picture, turned upright as its EXIF orientation says.

    Args:
        picture: a path, a PIL picture, or an array (H, W), (H, W, 3) or (H, W, 4) of uint8.
        max_pixels: a larger picture is refused before it is decoded.

    Raises:
        PictureError: it does not exist, does not decode, is too large, or is of another type.
    """
    if isinstance(picture, Image.Image):
        return ImageOps.exif_transpose(picture)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or not (picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] in (3, 4))):
            raise PictureError(
                f"An array of shape {picture.shape} and dtype {picture.dtype} is no picture. "
                "Give uint8 of shape (H, W), (H, W, 3) or (H, W, 4)."
            )
        return Image.fromarray(picture)
    if not isinstance(picture, (str, os.PathLike)):
        raise PictureError(
            f"A picture of type {type(picture).__name__} cannot be read. Give a path, a PIL picture or a uint8 array."
        )
    return _decoded(Path(picture), max_pixels)


def _decoded(path: Path, max_pixels: int) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # PIL warns from 89 megapixels; the limit below speaks for itself.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                if opened.width * opened.height > max_pixels:
                    raise PictureError(
                        f"{path} has {opened.width} x {opened.height} pixels; at most {max_pixels:,} are decoded. "
                        "Scale it down, or raise max_pixels if you trust it."
                    )
                return ImageOps.exif_transpose(opened)
    except FileNotFoundError as error:
        raise PictureError(f"{path} does not exist. Check the path.") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        if isinstance(error, PictureError):
            raise
        raise PictureError(f"{path} does not decode as a picture ({error}). Replace or remove it.") from error
