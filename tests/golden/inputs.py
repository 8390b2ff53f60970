"""The texts and pictures that every golden checkpoint was run on, by the original implementation and by babelclip.

numpy and Pillow only: the generators import this file in environments without babelclip. `make test-oracles` runs
everything a second time on fresh inputs: with GOLDEN_SEED=N the texts are followed by random ones, and pictures
have other sizes and contents.
"""

from __future__ import annotations

import os

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
# What tokenizers are made from: fresh texts hold characters that they do not know.
GIVEN = tuple(TEXTS)
SEED = int(os.environ.get("GOLDEN_SEED", "0"))
# First and last characters of ranges in many scripts, with combining marks, full-width forms, quotes and emoji.
RANGES = "  az09AZ!/ßžάώАяאתءيँहஅஹกฮᄀᄒ가깋ぁゖｦﾝ一丿！Ｚ“”\u0300\u0308\u00a0\u00a0\u200b\u200d😀😏"


def fresh_texts(seed: int, count: int = 40) -> list[str]:
    """Returns random texts: words of several scripts with odd spaces, and HTML entities, of at most 60 characters."""
    rng = np.random.default_rng(seed)
    alphabets = [
        [chr(code) for code in range(ord(first), ord(last) + 1)]
        for first, last in zip(RANGES[::2], RANGES[1::2], strict=True)
    ]
    texts = []
    for _ in range(count):
        chosen = [alphabets[number] for number in rng.integers(len(alphabets), size=rng.integers(1, 4))]
        words = ["".join(rng.choice(chosen[rng.integers(len(chosen))], size=rng.integers(1, 9))) for _ in range(6)]
        texts.append(str(rng.choice([" ", "  ", ", ", "\t", " &amp; "])).join(words)[:60])
    return texts


if SEED:
    TEXTS += fresh_texts(SEED)


def pictures() -> list[Image.Image]:
    """Pictures of odd sizes and several modes, the same on every machine: no drawing, no fonts, no JPEG."""
    rng = np.random.default_rng(7 + SEED)
    sizes = [(64, 64), (61, 47), (35, 90), (101, 33), (32, 32), (20, 27)]
    if SEED:
        sizes = [(width, height) for width, height in rng.integers(8, 160, size=(6, 2)).tolist()]
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
