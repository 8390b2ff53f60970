"""MetaCLIP 2 folders against transformers 4.57 (tests/golden/make/metaclip2.py)."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints import metaclip2 as reader
from babelclip.models.checkpoints import reader_of
from tests.golden.inputs import pictures
from tests.models.checkpoints import folders
from tests.models.checkpoints.folders import GOLDEN

CLOSE = 1e-5


def test_both_towers_equal_the_original():
    clip = reader.load(GOLDEN / "metaclip2", "both")
    assert max(folders.text_differences(clip, "metaclip2").values()) < CLOSE
    assert max(folders.image_differences(clip, "metaclip2").values()) < CLOSE
    assert clip.logit_scale == pytest.approx(float(folders.expected("metaclip2")["logit_scale"]), rel=1e-6)
    assert np.abs(folders.logits_per_text(clip) - folders.expected("metaclip2")["logits_per_text"]).max() < 1e-4


def test_pictures_are_squashed_to_the_square_bit_for_bit():
    clip = reader.load(GOLDEN / "metaclip2", "image")
    assert clip.image is not None
    assert clip.image.preprocess.fit == "squash"
    crcs = [zlib.crc32(clip.image.preprocess(picture).tobytes()) for picture in pictures()]
    assert crcs == folders.expected("metaclip2")["pixels_crc"].tolist()


def test_texts_are_pooled_at_the_first_id_2_and_cut_at_77_tokens():
    clip = reader.load(GOLDEN / "metaclip2", "text")
    assert clip.image is None
    assert clip.text is not None
    assert clip.text.tokenizer.eos_id == 2
    (ids,) = clip.text.tokenize(["dog " * 90])
    assert (len(ids), ids[-1]) == (77, 2)


def test_the_activation_is_the_configs_own(tmp_path: Path):
    folder = folders.with_json(
        "metaclip2", tmp_path, "config.json", lambda c: c["vision_config"].update(hidden_act="gelu")
    )
    assert folders.image_differences(reader.load(folder, "image"), "metaclip2")["list"] > 1e-4


def test_the_layout_is_recognised_from_the_config():
    assert reader_of(GOLDEN / "metaclip2").NAME == "metaclip2"
    assert not reader.recognises(GOLDEN / "clip")


def test_a_missing_tensor_is_named_with_its_file(tmp_path: Path):
    folder = folders.with_tensors("metaclip2", tmp_path, lambda t: t.pop("text_model.final_layer_norm.bias"))
    with pytest.raises(BabelclipError, match=r"safetensors does not fit.*missing text_model.final_layer_norm.bias"):
        reader.load(folder, "text")
    assert reader.load(folder, "image").text is None
