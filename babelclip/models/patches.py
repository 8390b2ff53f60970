"""Pictures as patches in their own proportions (NaViT; SigLIP 2 NaFlex): numpy only, equal to the origin bit for bit.

A picture becomes one array of fixed shape, so that batches stack as pixels do: a row a patch, left to right and top to
bottom, then rows of zeros. Two columns follow the pixels of a row: 1 where the patch lies in the first row of the
grid, and 1 where it lies in the first column. Their sums are the width and height of the grid, exact in every dtype.
"""

from __future__ import annotations

import math

import numpy as np

# The search for the largest scale that fits stops at this step, and starts between these scales.
_STEP = 1e-5
_SCALES = (_STEP / 10, 100.0)
GRID_COLUMNS = 2


def fitting_size(width: int, height: int, *, patch: int, most: int) -> tuple[int, int]:
    """Returns the width and height in pixels of the largest copy of a picture that takes at most `most` patches.

    Both are multiples of `patch`, at least one patch; the proportions give way by less than a patch. Bisection with
    the bounds and step of transformers' `Siglip2ImageProcessor`: a closer search would give other sizes.
    """

    def scaled(scale: float, side: int) -> int:
        return max(math.ceil(side * scale / patch), 1) * patch

    fits, exceeds = _SCALES
    while exceeds - fits >= _STEP:
        middle = (fits + exceeds) / 2
        if (scaled(middle, height) / patch) * (scaled(middle, width) / patch) <= most:
            fits = middle
        else:
            exceeds = middle
    return scaled(fits, width), scaled(fits, height)


def as_patches(pixels: np.ndarray, *, patch: int, most: int) -> np.ndarray:
    """Returns rows (`most`, patch * patch * C + 2) float32 of a picture (C, height, width) whose sides fit patches."""
    channels, height, width = pixels.shape
    rows, columns = height // patch, width // patch
    grid = pixels.reshape(channels, rows, patch, columns, patch).transpose(1, 3, 2, 4, 0)
    count = rows * columns
    packed = np.zeros((most, patch * patch * channels + GRID_COLUMNS), dtype=np.float32)
    packed[:count, :-GRID_COLUMNS] = grid.reshape(count, -1)
    packed[:columns, -2] = 1
    packed[:count:columns, -1] = 1
    return packed
