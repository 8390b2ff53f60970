"""Pictures and a model for the tests of launchers: what looks like photographs to a decoder, some of it broken."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import make_clip


def make_model(folder: Path) -> Path:
    """Saves a random model of two layers, which encodes some hundred pictures a second."""
    make_clip().save(folder)
    return folder


def make_pictures(folder: Path, count: int) -> Path:
    """Writes smooth colours with noise in folders of 200, each 50th cut off and each 40th equal to another."""
    for number in range(count):
        draw = np.random.default_rng(number - 1 if number % 40 == 39 else number)
        coarse = draw.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        size = (48 + 8 * (number % 9), 40 + 8 * (number % 7))
        smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.int16)
        grain = draw.integers(-12, 13, smooth.shape, dtype=np.int16)
        path = folder / f"{number // 200:02d}" / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(path, compress_level=1)
        if number % 50 == 7:
            path.write_bytes(path.read_bytes()[:200])
    return folder


def digests(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of every file below a folder by its relative path, hidden ones left out."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
