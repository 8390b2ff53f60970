"""What a collection keeps of a picture beside its vector, taken from the one decoding that the model needs too.

Entry points: `read_picture`, a reader for `ImageEncoder.encode_readable`; `look`, the same without a model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from os import PathLike, fspath
from typing import NamedTuple

import numpy as np
from PIL import Image

from babelclip import storage
from babelclip.models.preprocess import EncodedPicture, Picture, PictureError, Preprocess, open_picture, to_rgb
from babelclip.models.tar_pictures import in_tar, read_member

# As the specification has it: large enough for a grid on a screen of today, some 15 kB.
LONGEST_SIDE = 320
_QUALITY = 82
# A file is read whole, by as many decoders as there are; what is larger is no photograph.
LARGEST_FILE = 1 << 28


class Look(NamedTuple):
    """What is kept of a picture.

    Attributes:
        width: pixels, of the picture turned upright.
        height: pixels.
        size: bytes of its file.
        sha256: of the file, hexadecimal.
        colour: mean colour, 0xRRGGBB; transparent parts count as white.
        thumbnail: JPEG, upright, on white, at most `LONGEST_SIDE` long, with no metadata.
    """

    width: int
    height: int
    size: int
    sha256: str
    colour: int
    thumbnail: bytes


@dataclasses.dataclass(frozen=True)
class HeldPicture:
    """A picture file in memory, such as a value of a Parquet column; `name` is for messages."""

    name: str
    content: bytes

    def read_bytes(self) -> bytes:
        """Returns the content of the file."""
        return self.content

    def __str__(self) -> str:
        return self.name


def read_picture(preprocess: Preprocess, picture: Picture) -> tuple[np.ndarray, Look]:
    """Returns the pixels that the model wants, and what the collection keeps, of one decoded picture.

    Raises:
        PictureError: the picture cannot be read.
    """
    decoded, held = _opened(picture)
    return preprocess(decoded), _look(decoded, held.content)


def content_of(picture: str | EncodedPicture) -> bytes:
    """Returns the bytes of a picture's file: a path, a member of a tar, or what holds it.

    Raises:
        OSError: it cannot be read, or is larger than `LARGEST_FILE`.
    """
    if not isinstance(picture, str):
        return picture.read_bytes()
    inside = in_tar(picture)
    if inside is not None:
        return read_member(*inside)
    stored = storage.content(picture)
    if stored is not None:
        return stored
    with open(picture, "rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise OSError(f"more than {LARGEST_FILE >> 20} MB")
    return content


def make_thumbnail(picture: Image.Image, longest: int = LONGEST_SIDE) -> tuple[bytes, int]:
    """Returns a JPEG of a decoded picture without metadata, and its mean colour 0xRRGGBB; it is never enlarged."""
    scale = longest / max(picture.size)
    small = picture
    if scale < 1:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        # A palette or 16 bits cannot be averaged. Whole pictures of other modes become RGB when they are small.
        if picture.mode not in ("RGB", "RGBA", "L", "LA", "CMYK"):
            small = to_rgb(small)
        small = small.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    small = to_rgb(small)
    file = io.BytesIO()
    # A new picture has no `info`, so neither EXIF, comment nor colour profile can pass.
    clean = Image.new("RGB", small.size)
    clean.paste(small)
    clean.save(file, "JPEG", quality=_QUALITY)
    red, green, blue = (round(value) for value in np.asarray(clean, np.float32).reshape(-1, 3).mean(axis=0).tolist())
    return file.getvalue(), red << 16 | green << 8 | blue


def _opened(picture: Picture) -> tuple[Image.Image, HeldPicture]:
    if isinstance(picture, (Image.Image, np.ndarray)):
        raise PictureError(
            f"A picture of type {type(picture).__name__} has no file to keep facts of. Give a path, or an object with "
            "read_bytes()."
        )
    name = str(picture)
    try:
        held = HeldPicture(name, content_of(fspath(picture) if isinstance(picture, (str, PathLike)) else picture))
    except FileNotFoundError as error:
        raise PictureError(f"{name} does not exist. Check the path.") from error
    except OSError as error:
        raise PictureError(f"{name} cannot be read ({error}). Replace or remove it.") from error
    return open_picture(held), held


def _look(decoded: Image.Image, content: bytes) -> Look:
    thumbnail, colour = make_thumbnail(decoded)
    digest = hashlib.sha256(content).hexdigest()
    return Look(decoded.width, decoded.height, len(content), digest, colour, thumbnail)
