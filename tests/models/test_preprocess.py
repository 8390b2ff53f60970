from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints.preprocess_files import (
    openai_preprocess,
    preprocess_from_hf,
    preprocess_from_open_clip,
)
from babelclip.models.preprocess import PictureError, Preprocess, open_picture
from tests.conftest import draw_shape
from tests.golden.many_pictures import many_pictures

GOLDEN = Path(__file__).parents[1] / "golden"
PICTURES = many_pictures()


def cases(name: str) -> list:
    content = json.loads((GOLDEN / name).read_text())
    assert len(content["cases"]) > 5
    return [pytest.param(case, id=f"{case['origin']}-{n}") for n, case in enumerate(content["cases"])]


def reader(case: dict) -> Preprocess:
    read = {"open_clip": preprocess_from_open_clip, "openai": openai_preprocess, "transformers": preprocess_from_hf}
    return read[case["origin"]](case["config"])


def differing(preprocess: Preprocess, hashes: dict[str, str | None]) -> list[str]:
    """Names of the pictures whose pixels are not the origin's, bit for bit; where the origin fails we must not."""
    assert len(hashes) == len(PICTURES)
    wrong = []
    for name, picture in PICTURES:
        pixels = preprocess(picture)
        assert pixels.shape == (3, preprocess.crop, preprocess.crop)
        assert pixels.dtype == np.float32
        assert pixels.flags.c_contiguous
        expected = hashes[name]
        if expected is not None and hashlib.sha256(pixels.astype("<f4").tobytes()).hexdigest()[:20] != expected:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("case", cases("preprocess.json"))
def test_pixels_equal_the_origins_bit_for_bit(case):
    assert differing(reader(case), case["hashes"]) == []


@pytest.mark.parametrize("case", cases("preprocess_old.json"))
def test_pixels_equal_those_of_transformers_4_where_transparency_is_dropped(case):
    assert differing(replace(reader(case), alpha="drop"), case["hashes"]) == []
