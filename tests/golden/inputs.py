"""The texts and pictures that every golden checkpoint was run on, by the original implementation and by babelclip.

numpy and Pillow only: the generators import this file in environments that do not have babelclip.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

TEXTS = [
    "a photo of a dog",
    "Two Dogs, playing in the snow!",
    "två hundar i snön",
    "две собаки",
    "二匹の犬",
    "开心的狗",
    "두 마리 개",
    "كلب أحمر",
    "இரண்டு நாய்கள்",
    "สุนัขสองตัว",
    "",
    "   white \t space\n  ",
    "ＡＢＣ ｱｲｳ ﬁne “quoted” &amp;amp; café",
    "dog " * 90,
]


def pictures() -> list[Image.Image]:
    """Pictures of odd sizes and several modes, the same on every machine: no drawing, no fonts, no JPEG."""
    rng = np.random.default_rng(7)
    sizes = [(64, 64), (61, 47), (35, 90), (101, 33), (32, 32), (20, 27)]
    made = [_waves(width, height, rng) for width, height in sizes]
    made.append(_waves(50, 37, rng).convert("L"))
    alpha = Image.fromarray(np.linspace(0, 255, 44 * 39).reshape(39, 44).astype(np.uint8))
    with_alpha = _waves(44, 39, rng).convert("RGBA")
    with_alpha.putalpha(alpha)
    made.append(with_alpha)
    made.append(_waves(57, 41, rng).convert("P", palette=Image.Palette.WEB))
    return made


def _waves(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Smooth colours with some grain: neither flat, where every resize agrees, nor pure noise."""
    y, x = np.mgrid[0:height, 0:width]
    channels = []
    for _ in range(3):
        fx, fy, phase = rng.uniform(0.05, 0.6, size=3)
        channels.append(127 + 90 * np.sin(fx * x + fy * y + 6 * phase) + rng.uniform(-30, 30, size=(height, width)))
    return Image.fromarray(np.clip(np.stack(channels, axis=-1), 0, 255).astype(np.uint8))
