"""M-CLIP of 2022 equals its own class (tests/golden/make/mclip.py) in every file form; what does not fit is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

import babelclip
from babelclip.errors import BabelclipError
from babelclip.models.checkpoints import mclip
from babelclip.models.checkpoints.text_body import published_backbones, room
from tests.golden.inputs import TEXTS
from tests.models.checkpoints.golden import (
    GOLDEN,
    assert_same_text,
    change_json,
    change_tensors,
    copy_of,
    expected,
)

FOLDERS = ("mclip_xlmr", "mclip_bert", "mclip_distilbert", "mclip_inline")


@pytest.mark.parametrize("name", FOLDERS)
def test_vectors_equal_those_of_the_original_class(name):
    assert mclip.recognises(GOLDEN / name)
    clip = babelclip.load(GOLDEN / name, towers="text")
    assert_same_text(clip, name)
    assert_same_text(clip, name, "text_single")


def test_a_tensorflow_file_gives_the_vectors_of_the_originals_tensorflow_class():
    pytest.importorskip("h5py")
    clip = mclip.load(GOLDEN / "tensorflow_mclip", "text")
    wanted = expected("tensorflow_mclip")
    # The original was run on the texts for which its small position table has room.
    texts = TEXTS[: len(wanted)]
    np.testing.assert_allclose(clip.encode_text(texts, normalize=False), wanted, rtol=0, atol=1e-5)


def test_sharded_torch_archives_give_the_same_vectors(tmp_path):
    folder = copy_of("mclip_bert", tmp_path)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    names = sorted(state)
    files = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, part in files.items():
        torch.save({name: state[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in files.items() for name in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "pytorch_model.bin").unlink()
    assert_same_text(mclip.load(folder, "text"), "mclip_bert")


def test_texts_longer_than_the_position_table_are_cut():
    clip = mclip.load(GOLDEN / "mclip_xlmr", "text")
    assert clip.text.tokenizer.max_length == 128
    long, cut = clip.encode_text(["dog " * 300, "dog " * 126], normalize=False)
    np.testing.assert_array_equal(long, cut)


def test_both_spellings_of_the_dimensions_are_read(tmp_path):
    folder = copy_of("mclip_xlmr", tmp_path)
    change_json(folder / "config.json", numDims=None, transformerDimensions=None, imageDimSize=16)
    assert_same_text(mclip.load(folder, "text"), "mclip_xlmr")
    change_json(folder / "config.json", imageDimSize=None)
    assert mclip.load(folder, "text").embed_dim == 16


def test_a_trimmed_vocabulary_wins_over_the_named_backbone(tmp_path):
    folder = copy_of("mclip_xlmr", tmp_path)
    words = "transformer.embeddings.word_embeddings.weight"
    change_tensors(folder, lambda state: state.update({words: state[words][:60]}))
    assert mclip.load(folder, "text").text.backbone.config.vocab_size == 60


def test_a_lost_layer_of_a_named_backbone_is_missing_and_not_counted_away(tmp_path):
    folder = copy_of("mclip_xlmr", tmp_path)
    base = folder / "base"
    base.mkdir()
    inline = json.loads((GOLDEN / "mclip_inline" / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**inline, "model_type": "xlm-roberta", "num_hidden_layers": 3}))
    change_json(folder / "config.json", modelBase="base")
    with pytest.raises(BabelclipError, match=r"missing transformer\.encoder\.layer\.2\."):
        mclip.load(folder, "text")


def test_the_backbone_may_be_a_sub_folder_with_a_config(tmp_path):
    folder = copy_of("mclip_inline", tmp_path)
    base = folder / "base"
    base.mkdir()
    whole = json.loads((folder / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**whole, "model_type": "xlm-roberta"}))
    (folder / "config.json").write_text(json.dumps({"model_type": "M-CLIP", "modelBase": "base", "numDims": 16}))
    assert_same_text(mclip.load(folder, "text"), "mclip_inline")


def test_an_unknown_backbone_gets_the_closest_names_and_a_way_out(tmp_path):
    folder = copy_of("mclip_xlmr", tmp_path)
    change_json(folder / "config.json", modelBase="xlm-roberta-larg")
    with pytest.raises(BabelclipError, match=r"'xlm-roberta-large'.*sub-folder"):
        mclip.load(folder, "text")
    change_json(folder / "config.json", modelBase=None)
    with pytest.raises(BabelclipError, match="neither a modelBase"):
        mclip.load(folder, "text")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("LinearTransformation.bias"), r"missing LinearTransformation\.bias"),
        (
            lambda state: state.pop("transformer.encoder.layer.1.output.dense.bias"),
            r"missing transformer\.encoder\.layer\.1\.output\.dense\.bias",
        ),
        (lambda state: state.update({"extra.weight": torch.zeros(2)}), r"extra\.weight"),
        (lambda state: state.update({"transformer.encoder.more": torch.zeros(2)}), r"transformer\.encoder\.more"),
        (
            lambda state: state.update({"LinearTransformation.weight": torch.zeros(16, 31)}),
            r"LinearTransformation\.weight .*\(16, 31\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named_with_their_file(tmp_path, change, message):
    folder = copy_of("mclip_xlmr", tmp_path)
    change_tensors(folder, change)
    with pytest.raises(BabelclipError, match=message) as caught:
        mclip.load(folder, "text")
    assert "model.safetensors" in str(caught.value)


@pytest.mark.parametrize("value", ["many", -1, 2.5, True])
def test_sizes_of_wrong_types_are_named(tmp_path, value):
    folder = copy_of("mclip_inline", tmp_path)
    change_json(folder / "config.json", max_position_embeddings=value)
    with pytest.raises(BabelclipError, match="max_position_embeddings"):
        mclip.load(folder, "text")


def test_a_config_of_a_billion_layers_is_refused_at_once(tmp_path):
    folder = copy_of("mclip_inline", tmp_path)
    change_json(folder / "config.json", num_hidden_layers=10**9)
    with pytest.raises(BabelclipError, match="1000000000 layers"):
        mclip.load(folder, "text")


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "os.system"}, {"hidden_dropout_prob": 7}, {"layer_norm_eps": "x"}, {"layer_norm_eps": -1e-5},
        {"layer_norm_eps": float("nan")}, {"attention_probs_dropout_prob": True},
    ],
)  # fmt: skip
def test_values_that_no_model_has_are_errors_of_the_config(tmp_path, changes):
    folder = copy_of("mclip_inline", tmp_path)
    change_json(folder / "config.json", **changes)
    with pytest.raises(BabelclipError):
        mclip.load(folder, "text")


def test_an_epsilon_that_is_no_number_is_told_whatever_transformers_says_of_it(tmp_path):
    """transformers 5.2 builds such a layer, and torch fails at the first text."""
    folder = copy_of("mclip_inline", tmp_path)
    change_json(folder / "config.json", layer_norm_eps="x")
    with pytest.raises(BabelclipError, match=r"layer_norm_eps = 'x'; it is a positive number.* Copy config\.json"):
        mclip.load(folder, "text")


def test_heads_that_do_not_divide_the_width_are_an_error_of_the_config(tmp_path):
    folder = copy_of("mclip_inline", tmp_path)
    change_json(folder / "config.json", num_attention_heads=5)
    with pytest.raises(BabelclipError, match="cannot be built"):
        mclip.load(folder, "text")


def test_there_is_no_image_tower_to_load():
    with pytest.raises(BabelclipError, match="text tower alone"):
        mclip.load(GOLDEN / "mclip_xlmr", "image")


def test_wanted_files_are_one_weight_form_and_the_tokenizer():
    names = [
        "README.md", "config.json", "model.safetensors", "pytorch_model.bin", "sentencepiece.bpe.model", "tf_model.h5",
        "tokenizer.json", "tokenizer_config.json", "onnx/model.onnx",
    ]  # fmt: skip
    assert sorted(mclip.wanted(names, "both")) == [
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("xlm-roberta-large", 559_890_432),
        ("xlm-roberta-base", 278_043_648),
        ("sentence-transformers/LaBSE", 470_926_848),
        ("google-bert/bert-base-multilingual-cased", 177_853_440),
        ("distilbert-base-multilingual-cased", 134_734_080),
        ("KB/bert-base-swedish-cased", 124_690_944),
        ("bert-base-uncased", 109_482_240),
        ("google-bert/bert-large-uncased", 335_141_888),
        ("distilbert-base-uncased", 66_362_880),
        ("roberta-large", 355_359_744),
    ],
)
def test_shipped_backbones_have_the_published_number_of_parameters(name, parameters):
    config = dict(published_backbones()[name])
    assert room(config) == 512
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
