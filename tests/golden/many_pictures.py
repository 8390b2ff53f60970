"""Pictures of every mode and of awkward sizes, on which each origin's preprocessing is compared bit for bit.

numpy and Pillow only, as `inputs.py`. Nothing is quantised, drawn or compressed, so that they are the same everywhere.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from tests.golden.inputs import SEED, pictures

MODES = "RGB L LA RGBA P P+alpha P+index L+value RGB+colour CMYK 1 I;16 I YCbCr".split()
AWKWARD = [(1, 1), (1, 40), (40, 1), (3, 57), (57, 3), (4, 300), (300, 4), (32, 33), (33, 32), (32, 31), (65, 64)]
AWKWARD += [(129, 96)]


def many_pictures() -> list[tuple[str, Image.Image]]:
    """Returns the golden pictures, awkward sizes in RGB, and each mode in four random sizes, each with a name."""
    rng = np.random.default_rng(11 + SEED)
    made = [(f"inputs-{number}-{picture.mode}", picture) for number, picture in enumerate(pictures())]
    made += [(f"RGB-{width}x{height}", _picture("RGB", width, height, rng)) for width, height in AWKWARD]
    for mode in MODES:
        for width, height in rng.integers(5, 150, size=(10 if SEED else 4, 2)).tolist():
            made.append((f"{mode}-{width}x{height}", _picture(mode, width, height, rng)))
    return made


def _picture(mode: str, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    kind, _, transparency = mode.partition("+")
    if kind == "1":
        return Image.fromarray(_bands(1, width, height, rng)[..., 0] > 127)
    if kind == "I;16":
        return Image.fromarray(_bands(1, width, height, rng)[..., 0].astype(np.uint16) * 3)
    if kind == "I":
        return Image.fromarray(_bands(1, width, height, rng)[..., 0].astype(np.int32) * 2 - 60)
    bands = [Image.fromarray(band) for band in np.moveaxis(_bands(4, width, height, rng), -1, 0)]
    if kind in ("L", "P"):
        picture = bands[0]
        if kind == "P":
            picture.putpalette(rng.integers(0, 256, size=768, dtype=np.uint8).tobytes())
    else:
        picture = Image.merge(kind, bands[: len(Image.new(kind, (1, 1)).getbands())])
    marks = {
        "alpha": bytes(range(256)),
        "index": 7,
        "value": picture.getpixel((0, 0)),
        "colour": picture.getpixel((0, 0)),
    }
    if transparency:
        picture.info["transparency"] = marks[transparency]
    return picture


def _bands(count: int, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Returns (height, width, count) uint8: slopes with grain, so that neither edges nor flat areas are missing."""
    slopes = np.linspace(0, 255, height)[:, None, None] * rng.uniform(0.2, 1, size=(1, width, count))
    return np.clip(slopes + rng.integers(-60, 60, size=(height, width, count)), 0, 255).astype(np.uint8)
