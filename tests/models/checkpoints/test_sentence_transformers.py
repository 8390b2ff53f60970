"""sentence-transformers folders equal the library's `encode` (tests/golden/make/sentence_transformer_folders.py)."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import babelclip
from babelclip.errors import BabelclipError
from babelclip.models.checkpoints import sentence_transformers, transformer
from tests.models.checkpoints.golden import GOLDEN, assert_same_text, change_json, copy_of

OLD, NEW = "sentence_transformers_2021", "sentence_transformers_6"


@pytest.mark.parametrize("name", [OLD, NEW])
def test_vectors_equal_those_of_the_library(name):
    assert sentence_transformers.recognises(GOLDEN / name)
    assert not transformer.recognises(GOLDEN / name)
    clip = babelclip.load(GOLDEN / name)
    assert_same_text(clip, name)
    assert_same_text(clip, name, "text_single")
    assert clip.text.tokenizer.max_length == 48


@pytest.mark.parametrize("mode", ["mean", "max", "lasttoken"])
def test_poolings_equal_those_of_the_library(tmp_path, mode):
    folder = copy_of(NEW, tmp_path)
    change_json(folder / "1_Pooling" / "config.json", pooling_mode=mode)
    assert_same_text(sentence_transformers.load(folder, "text"), NEW, f"text_{mode}")


def test_lower_casing_is_that_of_the_library(tmp_path):
    folder = copy_of(OLD, tmp_path)
    change_json(folder / "sentence_bert_config.json", do_lower_case=True)
    assert_same_text(sentence_transformers.load(folder, "text"), OLD, "text_lower")


def test_the_transformer_may_lie_in_a_sub_folder(tmp_path):
    folder = copy_of(OLD, tmp_path)
    body = folder / "0_Transformer"
    body.mkdir()
    names = ("config.json", "pytorch_model.bin", "vocab.txt", "tokenizer_config.json", "sentence_bert_config.json")
    for name in names:
        (folder / name).rename(body / name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    assert_same_text(sentence_transformers.load(folder, "text"), OLD)


def test_without_a_default_prompt_none_is_put_before_texts(tmp_path):
    folder = copy_of(NEW, tmp_path)
    assert sentence_transformers.load(folder, "text").text.tokenizer.prefix == "photo: "
    change_json(folder / "config_sentence_transformers.json", default_prompt_name=None)
    assert sentence_transformers.load(folder, "text").text.tokenizer.prefix == ""
    change_json(folder / "config_sentence_transformers.json", default_prompt_name="other")
    with pytest.raises(BabelclipError, match="'other'"):
        sentence_transformers.load(folder, "text")


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "weightedmean"}, "weightedmean.*mean, cls, max, lasttoken"),
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}, r"\['cls', 'mean'\]"),
        ("1_Pooling/config.json", {"include_prompt": False}, "include_prompt"),
        ("2_Dense/config.json", {"activation_function": "os.system"}, r"os\.system.*never imported"),
        ("2_Dense/config.json", {"use_residual": True}, "residual"),
        ("2_Dense/config.json", {"out_features": "many"}, "out_features"),
        ("2_Dense/config.json", {"out_features": 15}, r"2_Dense: linear\.weight .*\(16, 32\)"),
        ("config.json", {"model_type": "gpt2"}, "'gpt2'"),
    ],
)
def test_what_is_not_read_here_is_named_with_its_file(tmp_path, file, changes, message):
    folder = copy_of(NEW, tmp_path)
    change_json(folder / file, **changes)
    with pytest.raises(BabelclipError, match=message):
        sentence_transformers.load(folder, "text")


def test_old_pooling_keys_of_other_modes_are_read(tmp_path):
    folder = copy_of(NEW, tmp_path)
    path = folder / "1_Pooling" / "config.json"
    path.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    assert sentence_transformers.load(folder, "text").text.pooling == "cls"
    path.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}))
    with pytest.raises(BabelclipError, match="cls"):
        sentence_transformers.load(folder, "text")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "custom_st.Transformer"}, "code of their own"),
        ({"type": "sentence_transformers.models.WeightedLayerPooling"}, "WeightedLayerPooling"),
        ({"path": "../elsewhere"}, "sub-folder"),
        ({"type": "sentence_transformers.models.Normalize"}, "lists Transformer, Normalize"),
    ],
)
def test_modules_that_bring_code_or_lie_elsewhere_are_refused(tmp_path, change, message):
    folder = copy_of(NEW, tmp_path)
    modules = json.loads((folder / "modules.json").read_text())
    modules[1].update(change)
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(BabelclipError, match=message):
        sentence_transformers.load(folder, "text")


def test_a_missing_and_an_extra_dense_tensor_are_named(tmp_path):
    folder = copy_of(OLD, tmp_path)
    dense = folder / "2_Dense" / "pytorch_model.bin"
    torch.save({"linear.bias": torch.zeros(16)}, dense)
    with pytest.raises(BabelclipError, match=r"missing 2_Dense: linear\.weight"):
        sentence_transformers.load(folder, "text")
    torch.save({"linear.weight": torch.zeros(16, 32), "residual.weight": torch.zeros(2)}, dense)
    with pytest.raises(BabelclipError, match=r"2_Dense.*residual\.weight"):
        sentence_transformers.load(folder, "text")


def test_a_folder_around_one_clip_gives_both_of_its_towers(tmp_path):
    inner = tmp_path / "0_CLIPModel"
    shutil.copytree(GOLDEN / "clip", inner)
    modules = [{"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    clip = sentence_transformers.load(tmp_path, "both")
    assert clip.image is not None
    with np.load(GOLDEN / "clip" / "expected.npz") as archive:
        wanted = archive["text"]
    from tests.golden.inputs import TEXTS

    np.testing.assert_allclose(clip.encode_text(TEXTS, normalize=False), wanted, rtol=0, atol=1e-5)
    assert sentence_transformers.load(tmp_path, "image").text is None


def test_the_image_tower_of_a_text_model_is_refused():
    with pytest.raises(BabelclipError, match="text tower alone"):
        sentence_transformers.load(GOLDEN / NEW, "image")


def test_wanted_files_are_those_of_the_modules():
    names = [
        "README.md", "modules.json", "config_sentence_transformers.json", "config.json", "model.safetensors",
        "pytorch_model.bin", "sentence_bert_config.json", "vocab.txt", "tokenizer.json", "1_Pooling/config.json",
        "2_Dense/config.json", "2_Dense/model.safetensors", "2_Dense/pytorch_model.bin", "onnx/model.onnx",
        "openvino/openvino_model.bin", "processor_config.json",
    ]  # fmt: skip
    assert sorted(sentence_transformers.wanted(names, "text")) == [
        "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors", "config.json",
        "config_sentence_transformers.json", "model.safetensors", "modules.json", "processor_config.json",
        "sentence_bert_config.json", "tokenizer.json",
    ]  # fmt: skip
