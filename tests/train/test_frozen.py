from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from babelclip.errors import BabelclipError
from babelclip.models.text import build_text_backbone
from babelclip.train import frozen
from babelclip.train.frozen import FrozenStates, UpperLayers, can_cut, upper_pooled
from babelclip.train.texts import TokenTable
from tests.conftest import WORDS, make_text_encoder

TEXTS = ["a", "the red dog", "två hundar och en katt", "два", "blue circle blue circle blue", *WORDS]
ROWS = np.arange(len(TEXTS))


@pytest.mark.parametrize("pooling", ["mean", "cls", "eos"])
@pytest.mark.parametrize("first_layer", [0, 1, 2, 3])
def test_upper_layers_on_states_give_the_vectors_of_the_student(pooling: str, first_layer: int):
    student = make_text_encoder(pooling=pooling)
    tokens = TokenTable.from_texts(student, TEXTS)
    states = FrozenStates.build(student, tokens, first_layer, dtype="float32", token_budget=40)
    with torch.no_grad():
        ours = UpperLayers(student, first_layer)(*states.load(ROWS))
    np.testing.assert_allclose(ours.numpy(), student.encode(TEXTS, normalize=False), atol=2e-6)


def test_positions_that_follow_from_padding_are_right_too():
    """XLM-R counts positions from the padding id, and only its own embeddings know how."""
    student = make_text_encoder()
    config = student.backbone.config.to_dict() | {"model_type": "xlm-roberta"}
    student.backbone = build_text_backbone(config).eval()
    tokens = TokenTable.from_texts(student, TEXTS)
    states = FrozenStates.build(student, tokens, 2, dtype="float32")
    with torch.no_grad():
        ours = UpperLayers(student, 2)(*states.load(ROWS))
    np.testing.assert_allclose(ours.numpy(), student.encode(TEXTS, normalize=False), atol=2e-6)


def test_one_vector_a_text_is_kept_where_only_the_head_trains():
    student = make_text_encoder()
    tokens = TokenTable.from_texts(student, TEXTS)
    assert FrozenStates.build(student, tokens, 3).flat.shape == (len(TEXTS), 32)
    assert FrozenStates.build(student, tokens, 2).flat.shape == (tokens.lengths.sum(), 32)


def test_states_on_disk_go_on_after_a_stop_and_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    student = make_text_encoder()
    tokens = TokenTable.from_texts(student, TEXTS)
    whole = FrozenStates.build(student, tokens, 2, token_budget=16)
    monkeypatch.setattr(frozen, "_BATCHES_A_MARK", 2)
    real, calls = FrozenStates._fill, []

    def counted(self, *arguments):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        real(self, *arguments)

    monkeypatch.setattr(FrozenStates, "_fill", counted)
    with pytest.raises(KeyboardInterrupt):
        FrozenStates.build(student, tokens, 2, folder=tmp_path, token_budget=16)
    resumed = FrozenStates.build(student, tokens, 2, folder=tmp_path, token_budget=16)
    np.testing.assert_array_equal(resumed.flat, whole.flat)
    first = len(calls)
    found = FrozenStates.build(student, tokens, 2, folder=tmp_path, token_budget=16)
    assert len(calls) == first, "nothing is computed twice"
    np.testing.assert_array_equal(found.flat, whole.flat)
    assert found.flat.dtype == np.float16


@pytest.mark.parametrize("change", ["weights", "texts", "layer"])
def test_states_of_something_else_are_not_taken_for_these(tmp_path: Path, change: str):
    student = make_text_encoder()
    before = FrozenStates.build(student, TokenTable.from_texts(student, TEXTS), 2, folder=tmp_path)
    if change == "weights":
        with torch.no_grad():
            student.backbone.encoder.layer[0].output.dense.bias[0] += 1
    tokens = TokenTable.from_texts(student, TEXTS[::-1] if change == "texts" else TEXTS)
    after = FrozenStates.build(student, tokens, 1 if change == "layer" else 2, folder=tmp_path)
    assert before.fingerprint != after.fingerprint
    fresh = FrozenStates.build(student, tokens, 1 if change == "layer" else 2)
    np.testing.assert_array_equal(after.flat, fresh.flat)


def test_weights_above_the_cut_may_change(tmp_path: Path):
    student = make_text_encoder()
    tokens = TokenTable.from_texts(student, TEXTS)
    before = FrozenStates.build(student, tokens, 2, folder=tmp_path)
    with torch.no_grad():
        student.backbone.encoder.layer[2].output.dense.bias[0] += 1
    assert FrozenStates.build(student, tokens, 2, folder=tmp_path).fingerprint == before.fingerprint


def test_a_state_that_overflows_float16_names_the_setting():
    student = make_text_encoder()
    with torch.no_grad():
        student.backbone.encoder.layer[0].output.LayerNorm.bias += 1e5
    tokens = TokenTable.from_texts(student, TEXTS)
    with pytest.raises(BabelclipError, match='cache = "float32"'):
        FrozenStates.build(student, tokens, 1)
    assert np.isfinite(FrozenStates.build(student, tokens, 1, dtype="float32").flat).all()


def test_a_full_disk_is_noticed_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(frozen.os, "posix_fallocate", full)
    student = make_text_encoder()
    with pytest.raises(BabelclipError, match='cache = "off"'):
        FrozenStates.build(student, TokenTable.from_texts(student, TEXTS), 1, folder=tmp_path)
    assert not (tmp_path / "states.npy").exists()


def test_a_backbone_of_another_build_is_not_cut():
    student = make_text_encoder()
    assert can_cut(student)
    student.backbone.final_norm = nn.LayerNorm(32)
    assert not can_cut(student)


def test_pooled_vectors_from_kept_states_are_those_of_the_whole_backbone():
    student = make_text_encoder()
    texts = ["a red circle", "två hundar", "狗", "the blue star the blue star"]
    states = FrozenStates.build(student, TokenTable.from_texts(student, texts), 2, dtype="float32")
    expected = student.encode(texts, before_head=True)
    np.testing.assert_allclose(upper_pooled(student, states, 2, 8), expected, atol=1e-5)
    some = np.array([3, 0])
    np.testing.assert_allclose(upper_pooled(student, states, 2, chosen=some), expected[some], atol=1e-5)
