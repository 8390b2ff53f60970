"""Pictures to pixels: PIL and numpy only, exactly as the checkpoint's origin does it."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import ExifTags, Image, ImageOps

from babelclip.errors import BabelclipError, did_you_mean
from babelclip.models.patches import as_patches, fitting_size
from babelclip.models.tar_pictures import in_tar, read_member
from babelclip.storage import address
from babelclip.storage import content as stored_content


class EncodedPicture(Protocol):
    """A picture file that lies inside another file, such as a row of base64; it goes to worker processes by pickle."""

    def read_bytes(self) -> bytes:
        """Returns the content of the picture file; OSError where it cannot be read."""


Picture = str | Path | Image.Image | np.ndarray | EncodedPicture

# A picture of 100 megapixels takes 300 MB decoded; above that a small file may be a bomb.
MAX_PIXELS = 100_000_000
_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}
# How a picture with an orientation of EXIF (2.32, tag 0x0112) is turned upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_CHOICES: dict[str, Collection[str]] = {
    "fit": ("crop", "pad", "squash", "longest", "patches"),
    "interpolation": _RESAMPLING,
    "convert": ("before", "after"),
    "alpha": ("background", "drop"),
    "long_side": ("round", "floor"),
    "crop_offset": ("round", "floor"),
}


class PictureError(BabelclipError):
    """A picture cannot be read."""


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes the input of its tower: RGB, resized, the middle cut out, shifted and scaled.

    The defaults are babelclip's own rule. The origins of published checkpoints differ in small things that change the
    pixels; each is a field, so that the result equals the origin's bit for bit under the same Pillow (who does what:
    `checkpoints/preprocess_files.py`). All of them take the same last step: `(value / 255 - mean) / std` in float32.

    Attributes:
        resize: the side in pixels that `fit` aims at.
        crop: the side in pixels of the square that is cut out of the middle; the tower's input.
        interpolation: "bicubic", "bilinear" or "lanczos", as Pillow does it (with anti-aliasing).
        mean: subtracted from the values in 0..1, per channel (RGB).
        std: what the shifted values are divided by.
        background: the colour under transparency, and of the borders of `fit="pad"`.
        fit: "crop" resizes the shorter side to `resize` (CLIP); "pad" does so with the picture made square by borders,
            so nothing of it is lost; "squash" makes both sides `resize` and gives up the proportions (SigLIP);
            "longest" resizes the longer side and fills the square with `fill_color` (open_clip); "patches" keeps the
            proportions and gives up the square (SigLIP 2 NaFlex, see `patches.py`).
        convert: "before" resizing the picture becomes RGB, or "after" the cut: a palette is then resized by nearest
            neighbour, and transparency is weighed in.
        alpha: transparent pictures are laid on the "background", or their transparency is dropped ("drop").
        long_side: with `fit="crop"`, the longer side is cut off ("floor") or rounded ("round").
        crop_offset: a half pixel at the cut goes to the even side ("round") or is cut off ("floor").
        fill_color: value of every band in the borders of `fit="longest"`.
        most_patches: with `fit="patches"`, a picture is resized to at most so many squares of `crop` pixels.
    """

    resize: int = 224
    crop: int = 224
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    background: tuple[int, int, int] = (255, 255, 255)
    fit: str = "crop"
    convert: str = "before"
    alpha: str = "background"
    long_side: str = "round"
    crop_offset: str = "round"
    fill_color: int = 0
    most_patches: int = 256

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                kind = name.replace("_", " ").capitalize()
                raise BabelclipError(f"{kind} {value!r} is not known. {did_you_mean(str(value), allowed)}")
        if 0 in self.std or len(self.mean) != 3 or len(self.std) != 3:
            raise BabelclipError(
                f"Mean {self.mean} and std {self.std} cannot be applied. Give three numbers each, and no std of 0."
            )
        if self.resize < 1 or self.crop < 1 or self.most_patches < 1:
            raise BabelclipError(
                f"A picture of {self.resize} pixels cut to {self.crop}, or of {self.most_patches} patches, is empty. "
                "Give resize, crop and most_patches of at least 1."
            )

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """Returns the pixels (3, crop, crop) float32 of a picture in any mode; `fit="patches"` gives packed patches.

        Raises:
            PictureError: it is so narrow that its long side, resized, would not fit the memory.
        """
        if self.convert == "before":
            picture = self._rgb(picture)
        picture = self._resized(picture) if self.fit == "patches" else self._cut_middle(self._resized(picture))
        if self.convert == "after":
            picture = self._rgb(picture)
        # One plane a channel before the arithmetic, and in place: six times as fast as the other way round.
        pixels: np.ndarray = np.asarray(picture).transpose(2, 0, 1).astype(np.float32, order="C")
        pixels /= np.float32(255)
        pixels -= np.asarray(self.mean, np.float32)[:, None, None]
        pixels /= np.asarray(self.std, np.float32)[:, None, None]
        return as_patches(pixels, patch=self.crop, most=self.most_patches) if self.fit == "patches" else pixels

    def _rgb(self, picture: Image.Image) -> Image.Image:
        if self.alpha == "background":
            return to_rgb(picture, self.background)
        return picture if picture.mode == "RGB" else picture.convert("RGB")

    def _resized(self, picture: Image.Image) -> Image.Image:
        if self.fit == "pad":
            _refuse_narrow(picture, max(picture.size), max(picture.size), limit=10 * MAX_PIXELS)
            picture = _padded_to_square(picture, self.background)
        size = self._size(*picture.size)
        _refuse_narrow(picture, *size, limit=MAX_PIXELS)
        if size != picture.size:
            picture = picture.resize(size, _RESAMPLING[self.interpolation])
        if self.fit == "longest":
            picture = _bordered(picture, self.crop, self.fill_color)
        return picture

    def _size(self, width: int, height: int) -> tuple[int, int]:
        """Returns the width and height after resizing. The order of the operations is the origin's: it rounds."""
        if self.fit == "squash":
            return self.resize, self.resize
        if self.fit == "patches":
            return fitting_size(width, height, patch=self.crop, most=self.most_patches)
        if self.fit == "longest":
            ratio = max(width / self.resize, height / self.resize)
            return max(round(width / ratio), 1), max(round(height / ratio), 1)
        if self.long_side == "floor":
            long = int(self.resize * max(width, height) / min(width, height))
            return (self.resize, long) if width <= height else (long, self.resize)
        scale = self.resize / min(width, height)
        return max(round(width * scale), self.crop), max(round(height * scale), self.crop)

    def _cut_middle(self, picture: Image.Image) -> Image.Image:
        # Where the picture is smaller than the square, the offset is negative and Pillow adds black.
        spare_width, spare_height = picture.width - self.crop, picture.height - self.crop
        if self.crop_offset == "floor":
            left, top = spare_width // 2, spare_height // 2
        else:
            left, top = round(spare_width / 2), round(spare_height / 2)
        if spare_width == spare_height == 0:
            return picture
        return picture.crop((left, top, left + self.crop, top + self.crop))

    def to_dict(self) -> dict[str, Any]:
        """Returns the content for `config.json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Preprocess:
        """Returns the preprocessing described in `config.json`; a field that it lacks has its default."""
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        return cls(**settings)


def _refuse_narrow(picture: Image.Image, width: int, height: int, *, limit: int) -> None:
    """A picture of 1 x 60000 pixels is a small file, and 224 x 13 million pixels when its short side is made 224."""
    if width * height > limit:
        raise PictureError(
            f"A picture of {picture.width} x {picture.height} pixels is too narrow: on the way to the model it would "
            f"have {width} x {height}. Cut it into parts, or remove it."
        )


def _padded_to_square(picture: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    side = max(picture.size)
    canvas = Image.new("RGB", (side, side), background)
    canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return canvas


def _bordered(picture: Image.Image, side: int, value: int) -> Image.Image:
    """Returns the picture in its own mode, at least `side` wide and high; the odd pixel goes right and below."""
    width, height = max(side - picture.width, 0), max(side - picture.height, 0)
    if width == height == 0:
        return picture
    bands = len(picture.getbands())
    border = (width // 2, height // 2, (width + 1) // 2, (height + 1) // 2)
    return ImageOps.expand(picture, border, fill=value if bands == 1 else (value,) * bands)


def to_rgb(picture: Image.Image, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """Returns the picture as RGB; what is transparent shows `background`."""
    if picture.mode in ("RGBA", "LA", "PA") or picture.info.get("transparency") is not None:
        layer = picture.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (*background, 255))
        return Image.alpha_composite(canvas, layer).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def open_picture(picture: Picture, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Returns a decoded PIL picture.

    A file is turned upright as its EXIF orientation says, and one of 16 grey bits keeps the upper eight. A PIL picture
    stays as it is: the libraries that published the models leave it so too, and whoever opened it may have turned it
    already.

    Args:
        picture: a path, also of a member of a tar (`shard.tar::0001.jpg`); a PIL picture; an array (H, W), (H, W, 3) or
            (H, W, 4) of uint8; or what gives the bytes of a picture file by `read_bytes()`.
        max_pixels: a larger picture is refused before it is decoded.

    Raises:
        PictureError: it does not exist, does not decode, is too large, or is of another type.
    """
    if isinstance(picture, Image.Image):
        return _loaded(picture)
    if isinstance(picture, np.ndarray):
        shaped = picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] in (3, 4))
        if picture.dtype != np.uint8 or not shaped or picture.size == 0:
            raise PictureError(
                f"An array of shape {picture.shape} and dtype {picture.dtype} is no picture. "
                "Give uint8 of shape (H, W), (H, W, 3) or (H, W, 4)."
            )
        return Image.fromarray(picture)
    if isinstance(picture, (str, os.PathLike)):
        path = Path(picture)
        inside = in_tar(picture)
        if inside is None and (content := _stored(picture)) is not None:
            return _decoded(address(picture), lambda: io.BytesIO(content), max_pixels)
        return _decoded(str(path), lambda: path if inside is None else io.BytesIO(read_member(*inside)), max_pixels)
    if not callable(getattr(picture, "read_bytes", None)):
        raise PictureError(
            f"A picture of type {type(picture).__name__} cannot be read. Give a path, a PIL picture or a uint8 array."
        )
    return _decoded(str(picture), lambda: io.BytesIO(picture.read_bytes()), max_pixels)


def _stored(path: str | os.PathLike[str]) -> bytes | None:
    """Returns the bytes of a picture in object storage, None of any other."""
    try:
        return stored_content(Path(path))
    except FileNotFoundError as error:
        raise PictureError(str(error)) from error


def _loaded(picture: Image.Image) -> Image.Image:
    if 0 in picture.size:
        raise PictureError(f"The PIL picture is empty: {picture.width} x {picture.height} pixels. Remove it.")
    try:
        picture.load()
    except MemoryError:
        raise
    except Exception as error:  # see `_decoded`
        raise PictureError(f"The PIL picture does not decode ({error}). Replace or remove it.") from error
    return picture


def _decoded(path: str, content: Callable[[], Path | io.BytesIO], max_pixels: int) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # PIL warns from 89 megapixels; the limit below speaks for itself.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(content()) as opened:
                if opened.width * opened.height > max_pixels:
                    raise PictureError(
                        f"{path} has {opened.width} x {opened.height} pixels; at most {max_pixels:,} are decoded. "
                        "Scale it down, or raise max_pixels if you trust it."
                    )
                opened.load()
                return upright_picture(opened)
    except (PictureError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise PictureError(f"{path} does not exist. Check the path.") from error
    # Pillow's readers raise what a damaged file makes of them: RuntimeError (AVIF), NotImplementedError (DDS, BLP)...
    except Exception as error:
        raise PictureError(f"{path} does not decode as a picture ({error}). Replace or remove it.") from error


def upright_picture(picture: Image.Image) -> Image.Image:
    """Returns a decoded file's picture without its EXIF data, turned as these say, with eight bits a band.

    Pillow's own `exif_transpose` writes the EXIF data anew and fails where they are damaged and the picture is whole.
    """
    try:
        orientation: Any = picture.getexif().get(ExifTags.Base.Orientation)
        turn = _TURNS.get(orientation)
    except Exception:  # damaged beyond telling: as it lies
        turn = None
    if picture.mode.startswith("I;16"):
        # Pillow takes the upper byte of 16 bits of colour, but would cut 16 grey ones at 255: all but black is white.
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    upright = picture.copy() if turn is None else picture.transpose(turn)
    for key in ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"):  # where an orientation can stand
        upright.info.pop(key, None)
    return upright
