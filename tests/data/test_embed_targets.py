"""Targets: `pooled` is what enters the projection, computed here by hand for the kinds of towers that there are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, SiglipTextConfig, SiglipTextModel

from babelclip.data.captions import Captions
from babelclip.data.embed import embed_captions
from babelclip.data.embed_targets import check_float16, check_target, describe_target, target_dim, text_vectors
from babelclip.errors import BabelclipError, SpaceMismatchError
from babelclip.models.clip import Clip
from babelclip.models.head import projection_start
from babelclip.models.text import TextEncoder, build_text_backbone
from babelclip.store import EmbeddingStore
from tests.conftest import make_clip, make_image_encoder, make_text_encoder, make_tokenizer

TEXTS = ["a red circle", "två hundar", "a", "the green square and a blue star"]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 20,
}


def tokens(tower, text):
    """One text alone, without padding."""
    input_ids, _mask = tower.pad(tower.tokenize([text]))
    return input_ids


def random_weights(module):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.2)
    return module.eval()


def clip_tower():
    """A CLIP text tower, and transformers' own class with the same weights."""
    config = {"vocab_size": make_tokenizer().vocabulary_size, "eos_token_id": 2, "pad_token_id": 1, **SIZES}
    original = random_weights(CLIPTextModelWithProjection(CLIPTextConfig(projection_dim=12, **config)))
    tokenizer = make_tokenizer()
    tokenizer.eos_id = 2
    head = [{"kind": "linear", "out": 12, "bias": False}]
    backbone = build_text_backbone({"model_type": "clip_text_model", **config})
    tower = TextEncoder(backbone, pooling="eos", head=head, tokenizer=tokenizer).eval()
    body = {name.removeprefix("text_model."): value for name, value in original.text_model.state_dict().items()}
    tower.backbone.load_state_dict(body)
    tower.head[0].load_state_dict(original.text_projection.state_dict())
    return tower, original


def test_of_clip_pooled_is_the_end_of_text_state_after_the_final_norm_and_before_the_projection():
    tower, original = clip_tower()
    assert (target_dim(tower, "pooled"), target_dim(tower, "projected")) == (32, 12)
    pooled, projected = (text_vectors(tower, TEXTS, target=target) for target in ("pooled", "projected"))
    with torch.no_grad():
        for row, text in enumerate(TEXTS):
            states = original.text_model(input_ids=tokens(tower, text)).last_hidden_state
            np.testing.assert_allclose(pooled[row], states[0, -1].numpy(), atol=1e-5)
            expected = states[0, -1] @ original.text_projection.weight.T
            np.testing.assert_allclose(projected[row], expected.numpy(), atol=1e-5)
    assert not np.allclose(np.linalg.norm(pooled, axis=1), 1, atol=0.1)
    assert "end-of-text state, before the projection" in describe_target(tower, "pooled")


def test_of_siglip_pooled_and_projected_are_the_same_vector():
    config = {"vocab_size": make_tokenizer().vocabulary_size, "eos_token_id": 2, "pad_token_id": 1, **SIZES}
    tokenizer = make_tokenizer()
    tokenizer.pad_to = 16
    backbone = random_weights(build_text_backbone({"model_type": "siglip_text_model", **config}))
    tower = TextEncoder(backbone, pooling="pooler", head=[], tokenizer=tokenizer).eval()
    original = SiglipTextModel(SiglipTextConfig(**config)).eval()
    wrapped = getattr(original, "text_model", original)
    wrapped.load_state_dict(backbone.state_dict())
    pooled, projected = (text_vectors(tower, TEXTS, target=target) for target in ("pooled", "projected"))
    np.testing.assert_array_equal(pooled, projected)
    assert target_dim(tower, "pooled") == target_dim(tower, "projected") == 32
    with torch.no_grad():
        for row, text in enumerate(TEXTS):
            expected = original(input_ids=tokens(tower, text)).pooler_output[0].numpy()
            np.testing.assert_allclose(pooled[row], expected, atol=1e-5)
    assert "same vectors" in describe_target(tower, "pooled")


def test_of_mclip_pooled_is_the_mean_of_the_states_and_projected_goes_through_its_linear_layer():
    tower = make_text_encoder()
    pooled, projected = (text_vectors(tower, TEXTS, target=target) for target in ("pooled", "projected"))
    with torch.no_grad():
        for row, text in enumerate(TEXTS):
            mean = tower.backbone(input_ids=tokens(tower, text)).last_hidden_state[0].mean(dim=0)
            np.testing.assert_allclose(pooled[row], mean.numpy(), atol=1e-5)
            np.testing.assert_allclose(projected[row], tower.head[0](mean).numpy(), atol=1e-5)


def test_of_altclip_the_layers_of_the_body_that_stand_in_the_head_are_passed():
    head = [{"kind": "layer_norm"}, {"kind": "linear", "out": 24}, {"kind": "linear", "out": 12, "bias": False}]
    backbone = make_text_encoder().backbone
    tower = TextEncoder(backbone, pooling="cls", head=head, tokenizer=make_tokenizer())
    random_weights(tower.head)
    tower.eval()
    pooled = text_vectors(tower, TEXTS, target="pooled")
    assert target_dim(tower, "pooled") == pooled.shape[1] == 24
    with torch.no_grad():
        for row, text in enumerate(TEXTS):
            first = tower.backbone(input_ids=tokens(tower, text)).last_hidden_state[:, 0]
            expected = torch.nn.functional.layer_norm(first, (32,), tower.head[0].weight, tower.head[0].bias, 1e-5)
            expected = expected @ tower.head[1].weight.T + tower.head[1].bias
            np.testing.assert_allclose(pooled[row], expected[0].numpy(), atol=1e-4)
    unit = text_vectors(tower, TEXTS, target="pooled", normalize=True)
    np.testing.assert_allclose(unit, pooled / np.linalg.norm(pooled, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(
    ("kinds", "start"),
    [
        ([], 0),
        (["linear"], 0),
        (["normalize", "shift"], 0),
        (["linear", "gelu", "linear"], 0),
        (["linear", "tanh", "linear"], 0),
        (["layer_norm", "linear", "linear"], 2),
        (["linear", "linear", "normalize"], 1),
    ],
)
def test_where_the_projection_begins(kinds, start):
    assert projection_start([{"kind": kind, "out": 4} for kind in kinds]) == start


def test_a_store_says_which_target_it_holds_and_takes_no_other(tmp_path):
    clip, rows = make_clip(), Captions.from_columns(text=TEXTS, lang="en")
    store = embed_captions(clip, rows, tmp_path / "s", target="pooled", dtype="float32")
    assert (store.target, store.dim, store.normalized) == ("pooled", 32, False)
    np.testing.assert_allclose(store.read(), clip.text.encode(TEXTS, before_head=True), atol=1e-6)
    with pytest.raises(BabelclipError, match="target is 'pooled', asked for 'projected'"):
        embed_captions(clip, rows, tmp_path / "s", dtype="float32")
    other = Clip(space="test/other", text=clip.text)
    with pytest.raises(SpaceMismatchError):
        embed_captions(other, rows, tmp_path / "s", target="pooled", dtype="float32")
    assert target_dim(make_image_encoder(), "pooled") == 32


def test_penultimate_states_are_refused_with_the_reason_and_a_misspelling_with_the_name():
    with pytest.raises(BabelclipError, match=r"every token.*one vector a row.*'pooled'"):
        check_target("penultimate")
    with pytest.raises(BabelclipError, match=r"'poled' is not known. Did you mean 'pooled'"):
        check_target("poled")


def test_values_beyond_float16_are_an_error_that_counts_them_and_tiny_ones_are_counted(tmp_path, monkeypatch):
    vectors = np.ones((3, 4), np.float32)
    vectors[1, :2] = 70000
    with pytest.raises(BabelclipError, match=r"2 values in 1 of 3 vectors .* 'b' \(largest 70000.*--dtype float32"):
        check_float16(vectors, ["a", "b", "c"])
    vectors[1] = 1e-7
    assert check_float16(vectors, ["a", "b", "c"]) == 1
    assert check_float16(np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32), ["x"] * 50) == 0
    clip, reports = make_clip(), []
    monkeypatch.setattr(clip.text, "encode", lambda texts, *_, **__: np.full((len(texts), 16), 1e5, np.float32))
    rows = Captions.from_columns(text=TEXTS, lang="en")
    with pytest.raises(BabelclipError, match="beyond float16"):
        embed_captions(clip, rows, tmp_path / "s")
    assert len(EmbeddingStore.open(tmp_path / "s")) == 0
    embed_captions(clip, rows, tmp_path / "t", dtype="float32", report=reports.append)
    assert reports[0].lossy == 0
