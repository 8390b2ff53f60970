"""The adapter for clip_benchmark gives the model's own vectors, whatever pads its texts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from babelclip.errors import BabelclipError
from babelclip.evaluate.clip_benchmark import as_clip_benchmark
from tests.conftest import draw_shape

TEXTS = ["a red circle", "två", "a green square and a blue star 0123"]


def normalized(features: torch.Tensor) -> np.ndarray:
    return (features / features.norm(dim=-1, keepdim=True)).numpy()


@torch.no_grad()
def test_texts_and_pictures_get_the_vectors_of_the_model(tiny_clip):
    model, transform, tokenizer = as_clip_benchmark(tiny_clip)
    pictures = [draw_shape("red", "circle"), draw_shape("blue", "square", 60)]
    np.testing.assert_allclose(normalized(model.encode_text(tokenizer(TEXTS))), tiny_clip.encode_text(TEXTS), atol=2e-6)
    pixels = torch.stack([transform(picture) for picture in pictures])
    np.testing.assert_allclose(normalized(model.encode_image(pixels)), tiny_clip.encode_image(pictures), atol=2e-6)


@torch.no_grad()
def test_a_model_whose_padding_is_its_end_of_text_keeps_its_end(tiny_clip):
    tokenizer_of_clip = tiny_clip.text.tokenizer
    tokenizer_of_clip.pad_id = 2  # </s>, as CLIP's own tokenizer pads
    model, _transform, tokenizer = as_clip_benchmark(tiny_clip)
    tokens = tokenizer(TEXTS)
    assert ((tokens == 2).sum(dim=1) == 1).all()
    np.testing.assert_allclose(normalized(model.encode_text(tokens)), tiny_clip.encode_text(TEXTS), atol=2e-6)


def test_a_model_of_one_tower_is_refused(tiny_clip):
    with pytest.raises(BabelclipError, match="one tower"):
        as_clip_benchmark(dataclasses.replace(tiny_clip, image=None))
