"""Pictures as patches: sizes that fit, the order of patches, and the grid written beside them."""

from __future__ import annotations

import numpy as np
import pytest

from babelclip.models.patches import as_patches, fitting_size


@pytest.mark.parametrize("size", [(640, 480), (1, 1), (3000, 17), (17, 3000), (224, 224), (1, 60000)])
@pytest.mark.parametrize("most", [1, 16, 256])
def test_the_size_is_whole_patches_and_never_too_many(size: tuple[int, int], most: int):
    width, height = fitting_size(*size, patch=16, most=most)
    assert (width % 16, height % 16) == (0, 0)
    assert 1 <= (width // 16) * (height // 16) <= most


def test_a_square_fills_the_square_of_patches_and_proportions_are_kept():
    assert fitting_size(1000, 1000, patch=16, most=256) == (256, 256)
    wide, high = fitting_size(800, 400, patch=16, most=256)
    assert 1.8 < wide / high < 2.2


def test_patches_go_left_to_right_then_down_and_carry_their_grid():
    columns, rows, patch = 3, 2, 2
    number = np.arange(rows * columns).reshape(rows, columns).repeat(patch, axis=0).repeat(patch, axis=1)
    packed = as_patches(np.stack([number, number, number]).astype(np.float32), patch=patch, most=8)
    assert packed.shape == (8, patch * patch * 3 + 2)
    assert packed[:6, :-2].mean(axis=1).tolist() == [0, 1, 2, 3, 4, 5]
    assert not packed[6:].any()
    assert (packed[:, -1].sum(), packed[:, -2].sum()) == (rows, columns)
