"""M-CLIP of 2021 equals its own class (tests/golden/make/mclip_legacy.py); the head is converted once, never run."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import babelclip
from babelclip.errors import BabelclipError
from babelclip.models.checkpoints import mclip_legacy, transformer
from tests.models.checkpoints.golden import assert_same_text, change_tensors, copy_of

DISTIL = "mclip_legacy_distil"
HEAD = "M-BERT Distil 40 Linear Weights"


@pytest.mark.parametrize(("name", "dimensions"), [(DISTIL, 20), ("mclip_legacy_swedish", 12)])
def test_vectors_equal_those_of_the_original_class(tmp_path, name, dimensions):
    folder = copy_of(name, tmp_path)
    clip = babelclip.load(folder)
    assert clip.embed_dim == dimensions
    assert_same_text(clip, name)
    assert_same_text(clip, name, "text_single")


def test_the_converted_head_serves_without_the_pickle(tmp_path):
    folder = copy_of(DISTIL, tmp_path)
    mclip_legacy.load(folder, "text")
    assert (folder / f"{HEAD}.safetensors").is_file()
    (folder / f"{HEAD}.pkl").unlink()
    assert mclip_legacy.recognises(folder)
    assert not transformer.recognises(folder)
    assert_same_text(mclip_legacy.load(folder, "text"), DISTIL)


def test_a_folder_without_its_head_is_never_taken_for_the_whole_model(tmp_path):
    folder = copy_of(DISTIL, tmp_path)
    (folder / f"{HEAD}.pkl").unlink()
    assert not mclip_legacy.recognises(folder)
    with pytest.raises(BabelclipError, match=r"one linear head.*none"):
        mclip_legacy.load(folder, "text")
    (folder / "a.pkl").write_bytes(b"")
    (folder / "b.pkl").write_bytes(b"")
    with pytest.raises(BabelclipError, match=r"a\.pkl, b\.pkl"):
        mclip_legacy.load(folder, "text")


def test_a_head_of_another_width_is_named_with_its_file(tmp_path):
    folder = copy_of(DISTIL, tmp_path)
    kernel = np.zeros((40, 20), dtype=np.float32)
    (folder / f"{HEAD}.pkl").write_bytes(pickle.dumps([kernel, kernel[0, :20]]))
    with pytest.raises(BabelclipError, match=rf"{HEAD}.*weight.*\(20, 40\)"):
        mclip_legacy.load(folder, "text")


def test_a_missing_tensor_of_the_transformer_is_named(tmp_path):
    folder = copy_of(DISTIL, tmp_path)
    change_tensors(folder, lambda state: state.pop("embeddings.LayerNorm.bias"))
    with pytest.raises(BabelclipError, match=r"embeddings\.LayerNorm\.bias"):
        mclip_legacy.load(folder, "text")


def test_there_is_no_image_tower_to_load(tmp_path):
    with pytest.raises(BabelclipError, match="RN50x4"):
        mclip_legacy.load(copy_of(DISTIL, tmp_path), "image")


def test_wanted_files_have_the_head_and_no_other_weights():
    names = ["config.json", "pytorch_model.bin", "tf_model.h5", "vocab.txt", f"{HEAD}.pkl", "model_fp16.safetensors"]
    assert sorted(mclip_legacy.wanted(names, "text")) == sorted(
        ["config.json", "pytorch_model.bin", "vocab.txt", f"{HEAD}.pkl"]
    )
