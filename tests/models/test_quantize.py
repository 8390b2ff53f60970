"""int8: exact integer products, small error in the vectors, the same after saving, and refused where it cannot run."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import babelclip
from babelclip.errors import BabelclipError
from babelclip.models.quantize import (
    Int8Embedding,
    Int8Linear,
    fidelity,
    is_quantized,
    probe_texts,
    quantize,
    quantize_clip,
    quantize_rows,
    refuse_other_devices,
)
from babelclip.models.text import TextEncoder, build_text_backbone
from tests.conftest import make_clip, make_text_encoder, make_tokenizer

TEXTS = ["a red circle", "två hundar", "狗", "a blue star and a green square", "كلب أحمر"]


def made(out, inside, *, bias=True, seed=0):
    torch.manual_seed(seed)
    linear = torch.nn.Linear(inside, out, bias=bias)
    int8 = Int8Linear(inside, out, bias)
    int8.set_from(linear)
    return linear, int8


def test_rounding_a_row_errs_by_half_a_step_at_most_and_reaches_both_ends():
    x = torch.randn(5, 64) * torch.tensor([1e-3, 1.0, 1e3, 1e-20, 7.0])[:, None]
    values, scales = quantize_rows(x)
    assert values.dtype == torch.int8
    assert scales.shape == (5, 1)
    assert values.abs().amax(dim=1).tolist() == [127] * 5
    assert ((values * scales - x).abs() <= scales * 0.5001).all()


def test_a_row_of_zeros_stays_zero():
    values, scales = quantize_rows(torch.zeros(2, 8))
    assert not values.any()
    assert torch.isfinite(scales).all()


@pytest.mark.parametrize("tokens", [1, 3, 17, 64, 1000])
@pytest.mark.parametrize(("inside", "out"), [(32, 64), (33, 17), (384, 1536), (3072, 8)])
def test_the_integer_product_is_exact(tokens, inside, out):
    generator = torch.Generator().manual_seed(tokens * inside)
    x = torch.randint(-127, 128, (tokens, inside), dtype=torch.int8, generator=generator)
    weight = torch.randint(-127, 128, (out, inside), dtype=torch.int8, generator=generator)
    x[0], weight[0] = 127, 127  # the largest sums: where pairs of products are added in 16 bits they would saturate
    assert torch.equal(torch._int_mm(x, weight.t()).long(), x.long() @ weight.t().long())


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_computes_what_its_rounded_weights_and_inputs_say(bias):
    _, int8 = made(24, 40, bias=bias)
    x = torch.randn(2, 7, 40)
    values, scales = quantize_rows(x)
    expected = torch.nn.functional.linear(
        (values * scales).double(),
        int8.weight.double() * int8.scale[:, None],
        None if int8.bias is None else int8.bias.double(),
    )
    assert torch.allclose(int8(x).double(), expected, atol=1e-6)


def test_a_layer_stays_near_the_float_layer_even_with_an_outlier_token():
    linear, int8 = made(64, 128)
    x = torch.randn(10, 128)
    x[3] *= 1000
    error = (int8(x) - linear(x)).norm(dim=1) / linear(x).norm(dim=1)
    assert error.max() < 0.02


def test_an_input_is_rounded_once_for_the_layers_that_share_it_and_anew_for_another():
    _, first = made(8, 16, seed=1)
    _, second = made(8, 16, seed=2)
    second._rounded = first._rounded
    x, other = torch.randn(4, 16), torch.randn(4, 16)
    first(x)
    kept = first._rounded.last[1]
    alone = made(8, 16, seed=2)[1]
    assert torch.equal(second(x), alone(x))
    assert first._rounded.last[1] is kept
    assert torch.equal(second(other), alone(other))
    assert first._rounded.last[1] is not kept


def test_the_tower_keeps_the_direction_of_every_vector():
    text = make_text_encoder()
    exact = text.encode(TEXTS)
    assert quantize(text) is text
    assert is_quantized(text)
    measured = fidelity(exact, text.encode(TEXTS))
    assert 0.99 < measured["min_cosine"] <= measured["mean_cosine"] <= 1.0
    assert type(text.head[0]) is torch.nn.Linear


def test_all_of_the_backbone_that_is_large_becomes_int8():
    backbone = quantize(make_text_encoder()).backbone
    assert not [
        name for name, layer in backbone.named_modules() if type(layer) in (torch.nn.Linear, torch.nn.Embedding)
    ]
    large = [p for p in backbone.parameters() if p.ndim == 2]
    assert large
    assert all(p.dtype == torch.int8 for p in large)


def test_quantizing_twice_changes_nothing():
    text = quantize(make_text_encoder())
    once = text.encode(TEXTS)
    assert np.array_equal(quantize(text).encode(TEXTS), once)


def test_an_embedding_row_is_its_rounded_row_times_the_factor_of_the_table():
    table = torch.nn.Embedding(20000, 12)
    int8 = Int8Embedding(20000, 12, embed_scale=3.0)
    int8.set_from(table)
    ids = torch.tensor([[0, 19999], [16384, 7]])
    values, scales = quantize_rows(table.weight.detach())
    assert torch.allclose(int8(ids), (values * scales)[ids] * 3.0, atol=1e-6)
    assert (int8(ids) - table(ids) * 3.0).abs().max() < 3 * table.weight.abs().max() / 127


@pytest.mark.parametrize("model_type", ["xlm-roberta", "distilbert", "clip_text_model", "m2m_100"])
def test_every_kind_of_text_backbone_runs_in_int8(model_type):
    tokenizer = make_tokenizer()
    names = {
        "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
        "m2m_100": {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64},
    }
    usual = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(0)
    backbone = build_text_backbone(
        {
            "model_type": model_type,
            "vocab_size": tokenizer.vocabulary_size,
            "max_position_embeddings": 40,
            "pad_token_id": 1,
            **names.get(model_type, usual),
        }
    )
    text = TextEncoder(backbone, pooling="mean", head=[{"kind": "linear", "out": 8}], tokenizer=tokenizer).eval()
    exact = text.encode(TEXTS)
    assert fidelity(exact, quantize(text).encode(TEXTS))["min_cosine"] > 0.98


def test_threads_that_share_a_tower_do_not_disturb_each_other():
    text = quantize(make_text_encoder())
    text.eval()
    alone = [text.encode([t]) for t in TEXTS]
    wrong = []

    def work(number):
        for _ in range(20):
            if not np.array_equal(text.encode([TEXTS[number]]), alone[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(TEXTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_quantized_tower_can_be_copied_and_pickled_after_use():
    text = quantize(make_text_encoder())
    vectors = text.encode(TEXTS)
    assert np.array_equal(copy.deepcopy(text).encode(TEXTS), vectors)
    layer = next(layer for layer in text.modules() if isinstance(layer, Int8Linear))
    x = torch.randn(3, layer.in_features)
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), layer(x))


def test_a_saved_int8_model_is_small_loads_as_it_was_and_knows_its_fidelity(tmp_path):
    make_clip().save(tmp_path / "float")
    clip = babelclip.load(tmp_path / "float", dtype="int8", device="cpu")
    clip.save(tmp_path / "int8")
    sizes = [(tmp_path / name / "text_encoder.safetensors").stat().st_size for name in ("float", "int8")]
    assert sizes[1] < 0.55 * sizes[0]  # names and norms weigh much in a tiny model
    again = babelclip.load(tmp_path / "int8", device="cpu")
    assert is_quantized(again.text)
    assert np.array_equal(again.encode_text(TEXTS), clip.encode_text(TEXTS))
    assert again.fidelity["text"] == clip.fidelity["text"]
    saved = load_file(tmp_path / "int8" / "text_encoder.safetensors")
    assert saved["backbone.embeddings.word_embeddings.weight"].dtype == torch.int8


def test_an_int8_folder_is_refused_in_a_float_dtype_and_in_another_quantization(tmp_path):
    clip = make_clip()
    quantize(clip.text)
    folder = clip.save(tmp_path / "int8")
    with pytest.raises(BabelclipError, match="saved in int8 and cannot be loaded as float32"):
        babelclip.load(folder, dtype="float32")
    config = json.loads((folder / "config.json").read_text())
    config["text"]["quantization"]["dtype"] = "int4"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BabelclipError, match="'int4'; this babelclip reads int8"):
        babelclip.load(folder)


def test_a_folder_whose_weights_are_not_those_of_its_quantization_is_refused(tmp_path):
    folder = make_clip().save(tmp_path / "float")
    config = json.loads((folder / "config.json").read_text())
    config["text"]["quantization"] = {"dtype": "int8"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BabelclipError, match="does not fit its config"):
        babelclip.load(folder)


def test_other_devices_are_refused_with_what_to_do():
    with pytest.raises(BabelclipError, match=r'CPU only.*device="cpu"'):
        refuse_other_devices(torch.device("cuda"))


def test_a_model_without_text_tower_is_refused():
    clip = make_clip()
    clip.text = None
    with pytest.raises(BabelclipError, match="loaded without it"):
        quantize_clip(clip)


def test_what_int8_costs_is_returned_and_logged_once(caplog):
    with caplog.at_level(logging.INFO, "babelclip"):
        measured = quantize_clip(make_clip())
    assert measured["dtype"] == "int8"
    assert measured["texts"] == 64
    assert [record.message[:5] for record in caplog.records] == ["int8:"]


def test_fidelity_is_the_cosine_whatever_the_lengths():
    exact = np.array([[1.0, 0.0], [0.0, 2.0]], dtype=np.float32)
    rounded = np.array([[3.0, 0.0], [1.0, 1.0]], dtype=np.float32)
    measured = fidelity(exact, rounded)
    assert measured["min_cosine"] == pytest.approx(0.5**0.5)
    assert measured["mean_cosine"] == pytest.approx((1 + 0.5**0.5) / 2)


def test_the_probe_is_short_captions_in_many_languages():
    texts = probe_texts()
    assert len(texts) == len(set(texts)) == 64
    assert all(10 < len(text) < 80 or not text.isascii() for text in texts)
    assert len({ord(text[0]) >> 8 for text in texts}) > 12
