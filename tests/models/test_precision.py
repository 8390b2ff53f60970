"""dtype: what was asked for, and for "auto" what keeps the vectors."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

import babelclip
from babelclip.errors import BabelclipError
from babelclip.models import precision
from babelclip.models.quantize import is_quantized
from tests.conftest import draw_shape, make_clip

TEXTS = ["a red circle", "två hundar", "狗"]


@pytest.fixture
def folder(tmp_path):
    return make_clip().save(tmp_path / "tiny")


def dtypes(clip):
    return {clip.text.head[0].weight.dtype, clip.image.head[0].weight.dtype}


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_named_dtype_is_the_dtype_and_vectors_stay_float32(folder, name):
    clip = babelclip.load(folder, dtype=name)
    assert dtypes(clip) == {getattr(torch, name)}
    assert clip.encode_text(TEXTS).dtype == np.float32
    assert clip.encode_image(draw_shape("red", "circle")).dtype == np.float32
    cosines = (clip.encode_text(TEXTS) * babelclip.load(folder, dtype="float32").encode_text(TEXTS)).sum(axis=1)
    assert cosines.min() > 0.999


def test_auto_without_bfloat16_instructions_is_float32_and_says_so_once(folder, monkeypatch, caplog):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: False)
    with caplog.at_level(logging.INFO, "babelclip"):
        clip = babelclip.load(folder)
    assert dtypes(clip) == {torch.float32}
    assert clip.fidelity == {}
    assert [record.message for record in caplog.records] == ["tiny: float32, because cpu has no bfloat16 instructions"]


@pytest.mark.parametrize(("least", "taken"), [(0.99, torch.bfloat16), (1.1, torch.float32)])
def test_auto_takes_bfloat16_exactly_where_vectors_keep_their_direction(folder, monkeypatch, least, taken):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(precision, "LEAST_COSINE", least)
    clip = babelclip.load(folder)
    assert dtypes(clip) == {taken}
    for tower in ("text", "image"):
        assert clip.fidelity[tower]["dtype"] == str(taken).removeprefix("torch.")
        assert 0.99 < clip.fidelity[tower]["min_cosine"] <= clip.fidelity[tower]["mean_cosine"] <= 1.0001
    exact = babelclip.load(folder, dtype="float32").encode_text(TEXTS)
    assert np.array_equal(clip.encode_text(TEXTS), exact) == (taken == torch.float32)


def test_a_tower_that_bfloat16_harms_stays_float32_beside_one_that_takes_it(folder, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)
    figures = iter([0.99995, 0.9])
    measured = lambda exact, lower: dict.fromkeys(("mean_cosine", "min_cosine"), next(figures))  # noqa: E731
    monkeypatch.setattr(precision, "fidelity", measured)
    clip = babelclip.load(folder)
    assert clip.text.head[0].weight.dtype == torch.bfloat16
    assert clip.image.head[0].weight.dtype == torch.float32


def test_int8_rounds_the_text_tower_and_reports_its_fidelity(folder):
    clip = babelclip.load(folder, dtype="int8")
    assert is_quantized(clip.text)
    assert clip.image.head[0].weight.dtype == torch.float32
    assert clip.fidelity["text"]["mean_cosine"] > 0.99
    with pytest.raises(BabelclipError, match="loaded without"):
        babelclip.load(folder, "image", dtype="int8")


def test_backbones_are_compiled_on_request_in_place_and_for_any_shape(folder, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **settings: calls.append((type(self), settings)))
    names = list(babelclip.load(folder).text.state_dict())
    assert calls == []
    clip = babelclip.load(folder, compile=True)
    assert calls == [(type(tower.backbone), {"dynamic": True}) for tower in (clip.text, clip.image)]
    assert list(clip.text.state_dict()) == names


def test_a_dtype_that_does_not_exist_is_refused_with_its_like(folder):
    with pytest.raises(BabelclipError, match=r"dtype='bf16' is not known"):
        babelclip.load(folder, dtype="bf16")


def test_probe_pictures_are_the_same_each_time_and_differ_from_one_another():
    first, second = precision._probe_pictures(), precision._probe_pictures()
    assert [p.tobytes() for p in first] == [p.tobytes() for p in second]
    assert len({p.tobytes() for p in first}) == 4
