"""Token states for diffusion models against diffusers 0.42 and transformers 5.23 (tests/golden/make/altclip.py)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints import altclip
from babelclip.models.clip import Clip
from babelclip.models.conditioning import PRESETS, TokenRule, encode_tokens
from babelclip.models.export.diffusers import export_diffusers
from babelclip.models.text import TextEncoder, build_text_backbone
from tests.golden.inputs import TEXTS

GOLDEN = Path(__file__).parents[1] / "golden" / "altclip_flagai"
# As in the generator: prompts, the empty negative prompt, and a text longer than 77 tokens.
CONDITIONS = [TEXTS[0], TEXTS[2], TEXTS[5], "", TEXTS[-1]]
STATES = {"altdiffusion": "m9", "altdiffusion-m9": "m9", "altdiffusion-m18": "m18", "altclip": "transformers"}


@pytest.fixture(scope="module")
def clip() -> Clip:
    return altclip.load(GOLDEN, "text")


@pytest.fixture(scope="module")
def text(clip: Clip) -> TextEncoder:
    assert clip.text is not None
    return clip.text


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "expected.npz") as file:
        return dict(file)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("batch_size", [32, 2])
def test_token_states_equal_the_original(preset, batch_size, clip, expected):
    found = clip.encode_tokens(CONDITIONS, preset=preset, length=77, batch_size=batch_size)
    assert found.states.shape == (5, 77, 20)
    np.testing.assert_allclose(found.states.numpy(), expected[f"states_{STATES[preset]}"], atol=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_row_does_not_depend_on_its_neighbours_or_on_the_padding(preset, text):
    together = encode_tokens(text, CONDITIONS, preset=preset, length=77)
    for row, condition in enumerate(CONDITIONS):
        alone = encode_tokens(text, condition, preset=preset, length="dynamic")
        tokens = int(together.mask[row].sum())
        assert alone.mask.tolist() == [[1] * tokens]
        torch.testing.assert_close(alone.states[0], together.states[row, :tokens], atol=1e-5, rtol=0)


def test_pooled_and_features_are_the_vectors_before_and_after_the_text_projection(text, expected):
    found = encode_tokens(text, TEXTS)
    np.testing.assert_allclose(found.features.numpy(), expected["text"], atol=1e-5)
    torch.testing.assert_close(text.head[2](found.pooled), found.features)
    assert found.pooled.shape == (len(TEXTS), 20)


def test_only_the_states_of_transformers_agree_with_the_pooled_vector(text):
    agrees = {
        preset: torch.allclose(found.states[:, 0], found.pooled, atol=1e-5)
        for preset in PRESETS
        for found in [encode_tokens(text, CONDITIONS, preset=preset)]
    }
    assert agrees == {preset: preset == "altclip" for preset in PRESETS}


def test_a_keyword_takes_the_place_of_the_preset(text):
    by_hand = encode_tokens(text, CONDITIONS, layer=-2, norm="pre", head="transformation_pre", length="dynamic")
    preset = encode_tokens(text, CONDITIONS, preset="altdiffusion-m18", length="dynamic")
    assert torch.equal(by_hand.states, preset.states)
    assert encode_tokens(text, CONDITIONS, preset="altclip").states.shape[1] == 77
    assert encode_tokens(text, CONDITIONS[:2], preset="altclip").states.shape[1] < 77


def test_a_shorter_length_cuts_texts_as_a_tokenizer_does(text):
    found = encode_tokens(text, CONDITIONS, length=6)
    text.tokenizer.max_length = 6
    try:
        cut = encode_tokens(text, CONDITIONS, length=6)
    finally:
        text.tokenizer.max_length = 77
    assert found.states.shape == (5, 6, 20)
    assert torch.equal(found.states, cut.states)


def test_an_empty_list_gives_no_rows(text):
    for length in (77, "dynamic"):
        found = encode_tokens(text, [], length=length)
        assert (len(found.states), len(found.mask)) == (0, 0)
        assert (found.pooled.shape, found.features.shape) == ((0, 20), (0, 16))


def test_the_tower_is_in_eval_mode_and_keeps_its_own(text):
    text.train()
    try:
        first, second = (encode_tokens(text, CONDITIONS) for _ in range(2))
        assert torch.equal(first.states, second.states)
        assert text.training
    finally:
        text.eval()


def test_states_have_no_gradient_but_may_enter_the_training_of_an_adapter(text):
    states = encode_tokens(text, CONDITIONS).states
    assert not states.requires_grad
    adapter = torch.nn.Linear(20, 3)
    adapter(states).sum().backward()
    assert adapter.weight.grad is not None


def test_results_come_in_the_dtype_asked_for(text):
    found = encode_tokens(text, CONDITIONS, dtype=torch.float16)
    assert {found.states.dtype, found.pooled.dtype, found.features.dtype} == {torch.float16}
    assert found.mask.dtype == torch.int64


def test_hidden_states_of_any_text_tower_can_be_had(tiny_text_encoder):
    found = encode_tokens(tiny_text_encoder, ["a dog", "två hundar"], norm="none", head="none", length="dynamic")
    input_ids, mask = tiny_text_encoder.pad(tiny_text_encoder.tokenize(["a dog", "två hundar"]))
    with torch.no_grad():
        states = tiny_text_encoder.backbone(input_ids=input_ids, attention_mask=mask).last_hidden_state
    assert torch.equal(found.states, states)
    np.testing.assert_allclose(found.features, tiny_text_encoder.encode(["a dog", "två hundar"], False), atol=1e-6)


def test_the_final_norm_of_a_clip_tower_can_be_laid_on_any_layer(tiny_tokenizer):
    torch.manual_seed(0)
    config = {
        "model_type": "clip_text_model", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "vocab_size": tiny_tokenizer.vocabulary_size, "max_position_embeddings": 16,
    }  # fmt: skip
    tower = TextEncoder(build_text_backbone(config), pooling="eos", head=[], tokenizer=tiny_tokenizer).eval()
    texts = ["a dog", "red circle"]
    last = encode_tokens(tower, texts, norm="final", head="none", length="dynamic")
    input_ids, mask = tower.pad(tower.tokenize(texts))
    with torch.no_grad():
        output = tower.backbone(input_ids=input_ids, attention_mask=mask, output_hidden_states=True)
        before = tower.backbone.final_layer_norm(output.hidden_states[-2])
    torch.testing.assert_close(last.states, output.last_hidden_state)
    assert torch.equal(
        encode_tokens(tower, texts, layer=-2, norm="final", head="none", length=16).mask.sum(1), mask.sum(1)
    )
    found = encode_tokens(tower, texts, layer=-2, norm="final", head="none", length="dynamic")
    torch.testing.assert_close(found.states, before)


@pytest.mark.parametrize(
    ("settings", "cure"),
    [
        ({"preset": "altdiffusion-m19"}, "altdiffusion-m18"),
        ({"norm": "preLN"}, "pre"),
        ({"head": "transform"}, "transformation"),
        ({"length": "long"}, "dynamic"),
        ({"length": 100}, "max_length"),
        ({"length": 1}, "2 to 77"),
        ({"layer": 3}, "-3 to 2"),
        ({"layer": -4}, "-3 to 2"),
        ({"norm": "final"}, "none"),
    ],
)
def test_what_the_tower_does_not_have_is_one_error_with_a_cure(settings, cure, text):
    with pytest.raises(BabelclipError, match=cure):
        encode_tokens(text, CONDITIONS, **settings)


def test_another_head_than_altclips_is_named(tiny_text_encoder):
    with pytest.raises(BabelclipError, match=r"linear.*norm='none'"):
        encode_tokens(tiny_text_encoder, ["a dog"])
    with pytest.raises(BabelclipError, match="m18"):
        encode_tokens(tiny_text_encoder, ["a dog"], norm="none", head="transformation_pre")


def test_a_text_that_is_no_string_is_named(text):
    with pytest.raises(BabelclipError, match="Text 1 "):
        encode_tokens(text, ["a dog", 7])


def test_rules_are_checked_when_they_are_made():
    with pytest.raises(BabelclipError, match="final"):
        TokenRule(norm="last")


@pytest.mark.parametrize("preset", ["altdiffusion", "altdiffusion-m9", "altdiffusion-m18"])
def test_an_export_for_diffusers_holds_the_names_of_its_class(preset, text, tmp_path):
    # That RobertaSeriesModelWithTransformation loads it whole and computes the golden states is checked where
    # diffusers is installed: tests/golden/exports.py.
    folder = export_diffusers(text, tmp_path / "out", preset=preset)
    tensors = load_file(folder / "text_encoder" / "model.safetensors")
    pre = preset == "altdiffusion-m18"
    heads = {"transformation"} | ({"pre_LN", "transformation_pre"} if pre else set())
    assert {name.split(".")[0] for name in tensors} == heads | {"roberta"}
    assert torch.equal(tensors["roberta.encoder.layer.1.output.dense.weight"],
                       text.backbone.encoder.layer[1].output.dense.weight)  # fmt: skip
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    assert (config["project_dim"], config["has_pre_transformation"], config["use_attention_mask"]) == (20, pre, True)
    settings = json.loads((folder / "tokenizer" / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == 77


def test_transformers_reads_the_body_of_an_export_whole(text, tmp_path):
    from transformers import AutoTokenizer, XLMRobertaModel

    folder = export_diffusers(text, tmp_path / "out", preset="altdiffusion-m9")
    body, report = XLMRobertaModel.from_pretrained(folder / "text_encoder", output_loading_info=True)
    assert not report["missing_keys"]
    tokens = AutoTokenizer.from_pretrained(folder / "tokenizer")(
        CONDITIONS, padding="max_length", truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        states = text.head[1](body(tokens["input_ids"], tokens["attention_mask"]).last_hidden_state)
    torch.testing.assert_close(states, encode_tokens(text, CONDITIONS).states, atol=1e-5, rtol=0)


def test_what_diffusers_cannot_compute_is_refused(text, tiny_text_encoder, tmp_path):
    plain = altclip.load(GOLDEN.parent / "altclip_hub", "text").text
    with pytest.raises(BabelclipError, match="altdiffusion-m9"):
        export_diffusers(plain, tmp_path / "out", preset="altdiffusion-m18")
    with pytest.raises(BabelclipError, match="altdiffusion"):
        export_diffusers(text, tmp_path / "out", preset="altclip")
    with pytest.raises(BabelclipError, match="bert"):
        export_diffusers(tiny_text_encoder, tmp_path / "out", preset="altdiffusion-m9")
    assert not (tmp_path / "out").exists()
