"""Exports of open_clip bundles, read back by babelclip; tests/golden/exports.py reads them by open_clip itself."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import babelclip
from babelclip.errors import BabelclipError
from babelclip.models.clip import Clip
from babelclip.models.export import parity
from babelclip.models.export.openclip import export_openclip
from babelclip.models.export.openclip_blocks import _trunk_name
from babelclip.models.export.stored import ExportWarning
from tests.golden.inputs import TEXTS
from tests.models.export.parts import golden, image_differences, quietly, size, text_differences

TRUNKS = {
    "openclip_siglip": "vit_base_patch16_siglip_256",
    "openclip_siglip_tanh": "vit_so400m_patch16_siglip_256",
    "openclip_nllb_siglip": "vit_so400m_patch14_siglip_384",
}
NAMES = ["openclip_xlmr", "openclip_xlmr_bundle", "openclip_vit", "openclip_vit_quickgelu", "openclip_worldwide",
         "openclip_resnet", "openai_vit", *TRUNKS]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_vector_is_bit_equal_after_a_round_trip(tmp_path, name):
    clip = golden(name)
    folder = quietly(export_openclip, clip, tmp_path / "bundle", timm_model_name=TRUNKS.get(name))
    assert babelclip.models.checkpoints.reader_of(folder).NAME == "openclip"
    back = babelclip.load(folder, device="cpu")
    assert text_differences(clip, back).max() == 0
    assert image_differences(clip, back).max() == 0
    assert back.logit_scale == pytest.approx(clip.logit_scale, rel=1e-6)
    assert back.logit_bias == clip.logit_bias


def test_the_bundle_names_its_own_place_and_loads_here_from_another(tmp_path):
    clip = golden("openclip_xlmr")
    folder = export_openclip(clip, tmp_path / "bundle")
    text_cfg = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    assert text_cfg["hf_model_name"] == str(folder.resolve())
    assert (folder / "config.json").is_file()
    moved = shutil.move(folder, tmp_path / "elsewhere")
    assert text_differences(clip, babelclip.load(moved, device="cpu")).max() == 0


def test_a_bundle_that_was_compared_first_names_where_it_ended_up(tmp_path):
    from babelclip.models.export import export_checked

    done = export_checked(golden("openclip_xlmr"), tmp_path / "bundle", to="openclip")
    assert done.kept
    text_cfg = json.loads((tmp_path / "bundle" / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    assert text_cfg["hf_model_name"] == text_cfg["hf_tokenizer_name"] == str((tmp_path / "bundle").resolve())


def test_float16_keeps_the_scale_and_moves_little(tmp_path):
    clip = golden("openclip_vit")
    full = export_openclip(clip, tmp_path / "full")
    half = export_openclip(clip, tmp_path / "half", dtype="float16")
    assert size(half) < 0.7 * size(full)
    back = babelclip.load(half, device="cpu")
    assert back.logit_scale == pytest.approx(clip.logit_scale, rel=1e-6)
    assert (clip.encode_text(TEXTS) * back.encode_text(TEXTS)).sum(axis=1).min() > 0.99999


def test_an_altclip_picture_tower_joins_a_native_text_tower(tmp_path):
    """Towers of other layouts fit where their parts do; what open_clip prepares otherwise is told."""
    native, other = golden("openclip_vit"), golden("altclip_hub")
    text = native.text
    image = other.image
    text.head = text.head.__class__(native.text.head[0].__class__(text.width, other.embed_dim, bias=False))
    text.head_layers, text.embed_dim = [{"kind": "linear", "out": other.embed_dim, "bias": False}], other.embed_dim
    for tower in (text, image):
        tower.backbone.config.hidden_act = "gelu"
    clip = Clip(space="test/tiny", text=text, image=image, logit_scale=10.0)
    with pytest.warns(ExportWarning, match="half a pixel at the cut of the middle: rounded"):
        folder = export_openclip(clip, tmp_path / "bundle")
    assert text_differences(clip, babelclip.load(folder, device="cpu")).max() == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mclip_xlmr", "a tower is not here.*babelclip.pair"),
        ("altclip_hub", "head of the text tower is .*layer_norm"),
        ("clip", "quick_gelu"),
        ("siglip", "SigLIP 24 wide.*timm_model_name"),
    ],
)
def test_what_has_no_place_there_is_named(tmp_path, name, message):
    with pytest.raises(BabelclipError, match=message):
        quietly(export_openclip, golden(name), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_model_without_a_scale_or_with_another_padding_is_refused(tmp_path):
    clip = golden("openclip_xlmr")
    with pytest.raises(BabelclipError, match="the logit scale is not here"):
        export_openclip(replace(clip, logit_scale=None), tmp_path / "bundle")
    clip.text.tokenizer.pad_id = 0
    with pytest.raises(BabelclipError, match=r"pads with id 0 .* says 1"):
        export_openclip(clip, tmp_path / "bundle")


@pytest.mark.parametrize(("heads", "fits"), [(12, True), (8, False)])
def test_a_siglip_of_other_sizes_than_timms_is_refused(heads, fits):
    """Heads show in no tensor: timm would load the weights and compute other vectors."""
    config = SimpleNamespace(
        hidden_size=768, patch_size=16, hidden_act="gelu", num_hidden_layers=12, num_attention_heads=heads,
        intermediate_size=3072,
    )  # fmt: skip
    if fits:
        assert _trunk_name(config) == "vit_base_patch16_siglip_224"
        return
    with pytest.raises(BabelclipError, match=r"12 layers, 8 heads.*has \(12, 12, 3072\) .*timm_model_name"):
        _trunk_name(config)


def test_weights_are_whole_tensors(tmp_path):
    from safetensors.numpy import load_file

    clip = golden("openclip_vit")
    folder = export_openclip(clip, tmp_path / "bundle")
    tensors = load_file(folder / "open_clip_model.safetensors")
    np.testing.assert_array_equal(tensors["text_projection"], clip.text.head[0].weight.detach().numpy().T)


@pytest.mark.parametrize("name", ["openclip_vit", "openai_vit"])
def test_the_english_tokenizer_is_left_to_open_clip_and_its_file_still_serves_here(tmp_path, monkeypatch, name):
    """That of the golden models has 60 merges; open_clip carries the one of 48,894."""
    monkeypatch.setattr("babelclip.models.export.openclip.is_english_clip", lambda tokenizer: True)
    clip = golden(name)
    folder = quietly(export_openclip, clip, tmp_path / "bundle")
    text_cfg = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    assert not {"hf_tokenizer_name", "eos_id", "pool_type", "tokenizer_kwargs"} & text_cfg.keys()
    assert text_differences(clip, babelclip.load(folder, device="cpu")).max() == 0


def test_a_bundle_is_compared_without_dropout(tmp_path, monkeypatch):
    """open_clip gives a text encoder of transformers in training mode: a right bundle would be refused."""
    clip = golden("openclip_vit")
    model = torch.nn.Sequential(torch.nn.Dropout(0.5))
    model.encode_text = lambda texts: model(torch.from_numpy(clip.encode_text(texts, normalize=False)))
    model.encode_image = lambda pixels: model(clip.image(pixels))

    def preprocess(picture):
        return torch.from_numpy(clip.image.preprocess(picture))

    module = SimpleNamespace(
        create_model_from_pretrained=lambda name: (model, preprocess), get_tokenizer=lambda name: list
    )
    monkeypatch.setitem(sys.modules, "open_clip", module)
    compared = parity.check(clip, tmp_path, to="openclip")
    assert [(part.tower, part.read_by, part.passed) for part in compared] == [
        ("text", "open_clip", True), ("image", "open_clip", True)
    ]  # fmt: skip
