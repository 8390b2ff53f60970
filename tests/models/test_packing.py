"""Batches without their padding give the same vectors. The kernel needs CUDA; here runs what it has to equal."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from babelclip.models import packing, precision
from babelclip.models.text import TextEncoder, build_text_backbone
from tests.conftest import make_clip, make_text_encoder, make_tokenizer

TEXTS = ["a red circle", "två hundar", "狗", "a green square a blue star the dog", "cat"]


def xlm_roberta(pooling: str) -> TextEncoder:
    tokenizer = make_tokenizer()
    torch.manual_seed(3)
    config = {
        "model_type": "xlm-roberta", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64, "vocab_size": tokenizer.vocabulary_size, "max_position_embeddings": 32,
        "pad_token_id": 1,
    }  # fmt: skip
    head = [{"kind": "linear", "out": 8}]
    return TextEncoder(build_text_backbone(config), pooling=pooling, head=head, tokenizer=tokenizer).eval()


@pytest.mark.parametrize("make", [xlm_roberta, lambda pooling: make_text_encoder(pooling=pooling)])
@pytest.mark.parametrize("pooling", ["mean", "cls", "eos", "max"])
def test_a_packed_batch_gives_the_vectors_of_a_padded_one(make, pooling):
    tower = make(pooling)
    padded = tower.encode(TEXTS, normalize=False, token_budget=4096)
    packing.pack_attention(tower.backbone)
    seen = []
    tower.backbone.register_forward_pre_hook(
        lambda _module, _args, given: seen.append(given["input_ids"].shape), with_kwargs=True
    )
    packed = tower.encode(TEXTS, normalize=False, token_budget=4096)
    assert any(rows == 1 and tokens > 16 for rows, tokens in seen)
    assert sum(rows * tokens for rows, tokens in seen) == sum(map(len, tower.tokenize(TEXTS)))
    np.testing.assert_allclose(packed, padded, atol=2e-6)


def test_texts_do_not_see_each_other_when_packed():
    tower = xlm_roberta("mean")
    packing.pack_attention(tower.backbone)
    ids, mask = tower.pad(tower.tokenize(["cat", "a red circle"]))
    other, other_mask = tower.pad(tower.tokenize(["cat", "två hundar katt"]))
    with torch.inference_mode():
        assert torch.allclose(tower(ids, mask)[0], tower(other, other_mask)[0], atol=1e-6)
        assert not torch.allclose(tower(ids, mask)[1], tower(other, other_mask)[1], atol=1e-3)


def test_training_pads_as_before_and_has_gradients():
    tower = xlm_roberta("mean")
    packing.pack_attention(tower.backbone)
    ids, mask = tower.pad(tower.tokenize(TEXTS))
    assert not packing.is_packed(tower.backbone)
    tower(ids, mask).sum().backward()
    assert tower.backbone.embeddings.word_embeddings.weight.grad.abs().sum() > 0


def test_a_packed_tower_is_saved_and_copied_as_before(tmp_path):
    clip = make_clip()
    plain = clip.save(tmp_path / "plain")
    packing.pack_attention(clip.text.backbone)
    packed = clip.save(tmp_path / "packed")
    assert (plain / "config.json").read_bytes() == (packed / "config.json").read_bytes()
    assert packing.ATTENTION == copy.deepcopy(clip.text.backbone).config._attn_implementation
    packing.unpack_attention(clip.text.backbone)
    assert clip.text.backbone.config._attn_implementation == "sdpa"


def test_only_half_precision_on_cuda_is_packed():
    assert not packing.can_pack(make_text_encoder().to(torch.bfloat16).backbone)


def broken(*_args):
    raise RuntimeError("no kernel image is available")


@pytest.mark.parametrize(
    ("kernel", "said"),
    [(broken, "no kernel image"), (lambda query, *_rest: 100 * query, "vectors differ")],
)
def test_where_the_kernel_does_not_work_texts_are_padded_and_it_is_said(monkeypatch, caplog, kernel, said):
    tower = make_text_encoder()
    before = tower.encode(TEXTS)
    monkeypatch.setattr(packing, "_variable_length", kernel)
    with caplog.at_level("INFO", "babelclip"):
        assert not precision.leave_padding_out(tower)
    assert said in caplog.text
    np.testing.assert_array_equal(tower.encode(TEXTS), before)


def test_where_the_kernel_works_padding_is_left_out():
    tower = make_text_encoder()
    assert precision.leave_padding_out(tower)
    assert tower.backbone.config._attn_implementation == packing.ATTENTION
