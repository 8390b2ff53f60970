"""Pixels of a picture tower that moves: bounded memory, and a stand-in for what cannot be read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from babelclip.errors import BabelclipError
from babelclip.models.preprocess import Preprocess
from babelclip.train import pictures
from babelclip.train.pictures import Pixels
from tests.conftest import COLOURS, draw_shape

ONE_PICTURE = 3 * 32 * 32 * 4


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    found = []
    for colour in COLOURS:
        found.append(tmp_path / f"{colour}.png")
        draw_shape(colour, "circle").save(found[-1])
    return found


def opened(paths: list[Path], pool: ThreadPoolExecutor, *, strict: bool = False) -> Pixels:
    return Pixels(Preprocess(resize=32, crop=32), paths, pool, strict=strict)


def test_decoded_pictures_are_kept_up_to_a_bound_and_change_nothing(paths: list[Path], monkeypatch: pytest.MonkeyPatch):
    rows = np.array([0, 3, 1, 2, 0])
    with ThreadPoolExecutor(2) as pool:
        unbounded = opened(paths, pool)
        everything, places = unbounded.load(rows)
        assert places.tolist() == [0, 1, 2, 3, 4]
        assert len(unbounded.kept) == 4
        monkeypatch.setattr(pictures, "_PIXELS_IN_MEMORY", 2 * ONE_PICTURE)
        bounded = opened(paths, pool)
        for _ in range(2):
            assert torch.equal(bounded.load(rows)[0]["pixels"], everything["pixels"])
            assert len(bounded.kept) == 2
    assert torch.equal(everything["pixels"][0], everything["pixels"][4])
    assert not torch.equal(everything["pixels"][0], everything["pixels"][1])


def test_another_pair_of_the_batch_stands_in_for_a_picture_that_cannot_be_read(paths: list[Path]):
    paths[1].write_bytes(b"no picture")
    with ThreadPoolExecutor(2) as pool:
        pixels = opened(paths, pool)
        batch, places = pixels.load(np.array([1, 2, 1, 0]))
        assert places.tolist() == [1, 1, 3, 3]
        assert torch.equal(batch["pixels"][0], batch["pixels"][1])
        assert list(pixels.unreadable.why) == [1]
        with pytest.raises(BabelclipError, match="None of the 2 pictures of a batch can be read"):
            pixels.load(np.array([1, 1]))
        with pytest.raises(BabelclipError, match=r"red\.png|green\.png"):
            opened(paths, pool, strict=True).load(np.array([1]))
