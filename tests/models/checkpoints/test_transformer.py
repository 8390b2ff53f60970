"""Plain transformers folders equal Contrastive-Tension's masked mean (tests/golden/make/contrastive_tension.py)."""

from __future__ import annotations

import json

import pytest
import torch

import babelclip
from babelclip.errors import BabelclipError
from babelclip.models.checkpoints import transformer
from tests.models.checkpoints.golden import GOLDEN, assert_same_text, change_json, change_tensors, copy_of

BERT = "contrastive_tension_bert"
FOLDERS = (BERT, "contrastive_tension_swedish", "contrastive_tension_distil", "contrastive_tension_roberta")
TENSORFLOW = ("tensorflow_bert", "tensorflow_bert_pretraining", "tensorflow_distilbert")


@pytest.mark.parametrize("name", FOLDERS)
def test_vectors_equal_the_original_masked_mean(name):
    assert transformer.recognises(GOLDEN / name)
    clip = babelclip.load(GOLDEN / name)
    assert_same_text(clip, name)
    assert_same_text(clip, name, "text_single")


@pytest.mark.parametrize("name", TENSORFLOW)
def test_tensorflow_files_give_the_masked_mean_that_tensorflow_gives(name):
    pytest.importorskip("h5py")
    assert_same_text(transformer.load(GOLDEN / name, "text"), name)


@pytest.mark.parametrize(("name", "prefix"), [(BERT, "bert."), ("contrastive_tension_roberta", "roberta.")])
def test_names_may_carry_the_family_as_prefix_and_a_known_task_head(tmp_path, name, prefix):
    folder = copy_of(name, tmp_path)

    def wrap(state):
        renamed = {prefix + key: state.pop(key) for key in list(state)}
        state.update(renamed, **{"lm_head.bias": torch.zeros(3), "cls.predictions.bias": torch.zeros(3)})

    change_tensors(folder, wrap)
    assert_same_text(transformer.load(folder, "text"), name)


def test_the_first_names_of_layer_norms_are_read(tmp_path):
    folder = copy_of(BERT, tmp_path)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def rename(state):
        for key in list(state):
            for new_name, old_name in old.items():
                if key.endswith(new_name):
                    state[key.replace(new_name, old_name)] = state.pop(key)

    change_tensors(folder, rename)
    assert_same_text(transformer.load(folder, "text"), BERT)


def test_a_head_of_another_task_is_not_left_out_in_silence(tmp_path):
    folder = copy_of(BERT, tmp_path)
    change_tensors(folder, lambda state: state.update({"classifier.weight": torch.zeros(2, 32)}))
    with pytest.raises(BabelclipError, match=r"pytorch_model\.bin.*classifier\.weight"):
        transformer.load(folder, "text")


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("embeddings.LayerNorm.bias", None, r"embeddings\.LayerNorm\.bias"),
        ("embeddings.LayerNorm.bias", torch.zeros(31), r"embeddings\.LayerNorm\.bias .*\(31,\)"),
    ],
)
def test_missing_and_misshapen_tensors_are_named_with_their_file(tmp_path, name, changed, message):
    folder = copy_of(BERT, tmp_path)
    change_tensors(folder, lambda state: state.pop(name) if changed is None else state.update({name: changed}))
    with pytest.raises(BabelclipError, match=message) as caught:
        transformer.load(folder, "text")
    assert "pytorch_model.bin" in str(caught.value)


def test_only_text_encoders_without_other_layouts_files_are_recognised(tmp_path):
    folder = copy_of(BERT, tmp_path)
    (folder / "modules.json").write_text("[]")
    assert not transformer.recognises(folder)
    (folder / "modules.json").unlink()
    change_json(folder / "config.json", is_decoder=True)
    assert not transformer.recognises(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert not transformer.recognises(folder)
    assert not transformer.recognises(tmp_path)


def test_there_is_no_image_tower_to_load():
    with pytest.raises(BabelclipError, match="text tower alone"):
        transformer.load(GOLDEN / BERT, "image")


def test_a_padding_outside_of_the_vocabulary_is_named(tmp_path):
    folder = copy_of(BERT, tmp_path)
    change_json(folder / "config.json", pad_token_id=10**6)
    with pytest.raises(BabelclipError, match=r"cannot be built \(AssertionError: Padding_idx"):
        transformer.load(folder, "text")
