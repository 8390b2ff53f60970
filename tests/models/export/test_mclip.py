"""Exports to M-CLIP's layout, read back by babelclip; tests/golden/exports.py reads them by the original class."""

from __future__ import annotations

import json

import pytest

import babelclip
from babelclip.errors import BabelclipError
from babelclip.models.checkpoints.text_body import published_backbones
from babelclip.models.export.mclip import _published, export_mclip
from tests.golden.inputs import TEXTS
from tests.models.export.parts import golden, quietly, size, text_differences

NAMES = ["mclip_xlmr", "mclip_inline", "mclip_distilbert", "mclip_bert", "mclip_legacy_distil", "tensorflow_mclip"]


@pytest.mark.parametrize("name", NAMES)
def test_every_vector_is_bit_equal_after_a_round_trip(tmp_path, name):
    clip = golden(name)
    folder = export_mclip(clip, tmp_path / "mclip")
    assert babelclip.models.checkpoints.reader_of(folder).NAME == "mclip"
    assert text_differences(clip, babelclip.load(folder, device="cpu")).max() == 0


def test_a_sentence_transformer_without_bias_fits_too(tmp_path):
    clip = golden("sentence_transformers_2021")
    back = babelclip.load(export_mclip(clip, tmp_path / "mclip"), device="cpu")
    assert text_differences(clip, back).max() == 0


def test_all_sizes_stand_in_the_config_so_that_no_other_is_needed(tmp_path):
    folder = export_mclip(golden("mclip_xlmr"), tmp_path / "mclip")
    config = json.loads((folder / "config.json").read_text())
    assert config["modelBase"] == "backbone"
    assert (config["transformerDimensions"], config["numDims"], config["hidden_size"]) == (32, 16, 32)
    del config["modelBase"]
    (folder / "config.json").write_text(json.dumps(config))
    clip = babelclip.load(folder, device="cpu")
    assert text_differences(clip, golden("mclip_xlmr")).max() == 0


def test_a_published_backbone_is_named_by_its_hub_name():
    large = {"model_type": "xlm-roberta", **published_backbones()["xlm-roberta-large"]}
    assert _published(large) == "xlm-roberta-large"
    for other in ({"vocab_size": 50000}, {"hidden_act": "relu"}, {"layer_norm_eps": 1e-12}):
        assert _published({**large, **other}) is None


def test_another_base_may_be_named(tmp_path):
    folder = export_mclip(golden("mclip_xlmr"), tmp_path / "mclip", model_base="org/backbone")
    assert json.loads((folder / "config.json").read_text())["modelBase"] == "org/backbone"


def test_float16_halves_the_files_and_moves_little(tmp_path):
    clip = golden("mclip_xlmr")
    full, half = export_mclip(clip, tmp_path / "a"), export_mclip(clip, tmp_path / "b", dtype="float16")
    assert size(half) < 0.65 * size(full)
    one, other = (found.encode_text(TEXTS) for found in (clip, babelclip.load(half, device="cpu")))
    assert (one * other).sum(axis=1).min() > 0.99999


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("altclip_hub", "pooling 'cls', the head .*layer_norm"),
        ("openclip_xlmr", "the head .*gelu.*sentence-transformers"),
        ("contrastive_tension_bert", r"the head \[\]"),
        ("clip", "backbone clip_text_model"),
    ],
)
def test_what_has_no_place_there_is_named(tmp_path, name, message):
    with pytest.raises(BabelclipError, match=message):
        export_mclip(golden(name), tmp_path / "mclip")
    assert not (tmp_path / "mclip").exists()


def test_a_prefix_and_a_picture_tower_are_refused(tmp_path):
    clip = golden("mclip_xlmr")
    clip.text.tokenizer.prefix = "query: "
    with pytest.raises(BabelclipError, match=r"'query: ' before every text.*sentence-transformers"):
        export_mclip(clip, tmp_path / "mclip")
    with pytest.raises(BabelclipError, match="text tower alone"):
        quietly(export_mclip, golden("clip"), tmp_path / "mclip", towers="image")
