"""CLIP folders in transformers layout against transformers 4.57 (tests/golden/make/clip_folders.py)."""

from __future__ import annotations

import json
import math
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

import babelclip
from babelclip.errors import BabelclipError
from babelclip.models.checkpoints import clip as reader
from babelclip.models.checkpoints import reader_of
from babelclip.models.checkpoints.files.tensors import Tensors
from tests.golden.inputs import TEXTS, pictures
from tests.models.checkpoints import folders
from tests.models.checkpoints.folders import GOLDEN

CLOSE = 1e-5
BOTH = ["clip", "clip_old"]


@pytest.mark.parametrize("name", BOTH)
def test_both_towers_equal_the_original(name: str):
    clip = reader.load(GOLDEN / name, "both")
    assert max(folders.text_differences(clip, name).values()) < CLOSE
    assert max(folders.image_differences(clip, name).values()) < CLOSE
    assert clip.logit_scale == pytest.approx(float(folders.expected(name)["logit_scale"]), rel=1e-6)
    assert clip.logit_bias is None
    assert np.abs(folders.logits_per_text(clip) - folders.expected(name)["logits_per_text"]).max() < 1e-4


@pytest.mark.parametrize("name", BOTH)
def test_pixels_equal_the_original_bit_for_bit(name: str):
    clip = reader.load(GOLDEN / name, "image")
    assert clip.image is not None
    crcs = [zlib.crc32(clip.image.preprocess(picture).tobytes()) for picture in pictures()]
    assert crcs == folders.expected(name)["pixels_crc"].tolist()


def test_a_folder_of_one_projected_tower_loads_as_that_tower():
    text = reader.load(GOLDEN / "clip_text_projection", "both")
    image = reader.load(GOLDEN / "clip_image_projection", "both")
    assert (text.image, image.text) == (None, None)
    assert (text.logit_scale, image.logit_scale) == (None, None)
    assert max(folders.text_differences(text, "clip_text_projection").values()) < CLOSE
    assert max(folders.image_differences(image, "clip_image_projection").values()) < CLOSE


def test_the_tower_that_a_folder_lacks_is_refused():
    with pytest.raises(BabelclipError, match=r'holds the text tower alone.*Load towers="text"'):
        reader.load(GOLDEN / "clip_text_projection", "image")


@pytest.mark.parametrize("name", BOTH)
def test_one_tower_reads_nothing_of_the_other(name: str, monkeypatch: pytest.MonkeyPatch):
    read: list[str] = []
    original = Tensors.__getitem__
    monkeypatch.setattr(Tensors, "__getitem__", lambda self, key: read.append(key) or original(self, key))
    text = reader.load(GOLDEN / name, "text")
    assert text.image is None
    assert not [key for key in read if key.startswith(("vision_model", "visual"))]
    read.clear()
    image = reader.load(GOLDEN / name, "image")
    assert image.text is None
    assert not [key for key in read if key.startswith("text")]
    assert text.logit_scale == image.logit_scale is not None


def test_a_text_that_spells_the_end_token_is_pooled_there():
    clip = reader.load(GOLDEN / "clip", "text")
    assert clip.text is not None
    plain, ended = clip.text.tokenize(["a dog", "a dog<|endoftext|> two"])
    assert ended[: len(plain)] == plain
    vectors = clip.encode_text(["a dog", "a dog<|endoftext|> two"], normalize=False)
    assert np.abs(vectors[0] - vectors[1]).max() < CLOSE


def test_the_end_token_of_an_old_config_is_the_tokenizers_own():
    clip = reader.load(GOLDEN / "clip_old", "text")
    assert clip.text is not None
    assert clip.text.tokenizer.eos_id == clip.text.tokenizer.vocabulary_size - 1


def test_texts_are_cut_at_the_position_table_and_keep_their_end():
    clip = reader.load(GOLDEN / "clip", "text")
    assert clip.text is not None
    (ids,) = clip.text.tokenize(["dog " * 90])
    assert len(ids) == 77
    assert ids[-1] == clip.text.tokenizer.eos_id


def test_the_layout_is_recognised_from_the_config(tmp_path: Path):
    for name in ("clip", "clip_old", "clip_text_projection", "clip_image_projection"):
        assert reader_of(GOLDEN / name).NAME == "clip"
    bare = folders.with_json(
        "clip_text_projection", tmp_path, "config.json", lambda c: c.update(architectures=["CLIPTextModel"])
    )
    assert not reader.recognises(bare)
    with pytest.raises(BabelclipError, match="without its projection"):
        reader_of(bare)


def test_wanted_files_follow_the_towers():
    names = ["config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json", "vocab.json", "merges.txt",
             "preprocessor_config.json", "flax_model.msgpack", "tf_model.h5", "README.md"]  # fmt: skip
    assert set(reader.wanted(names, "image")) == {"config.json", "model.safetensors", "preprocessor_config.json"}
    text = reader.wanted(names, "text")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(text)
    assert not {"preprocessor_config.json", "pytorch_model.bin", "README.md"} & set(text)


def test_the_processor_file_of_transformers_5_serves_too(tmp_path: Path):
    folder = folders.copy_of("clip", tmp_path)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    assert max(folders.image_differences(reader.load(folder, "image"), "clip").values()) < CLOSE


def test_a_folder_without_preprocessing_gives_the_text_tower_only(tmp_path: Path):
    folder = folders.copy_of("clip", tmp_path)
    (folder / "preprocessor_config.json").unlink()
    assert reader.load(folder, "text").text is not None
    with pytest.raises(BabelclipError, match=r'no preprocessor_config.json.*towers="text"'):
        reader.load(folder, "both")


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (lambda t: t.pop("text_projection.weight"), "missing head.0.weight"),
        (lambda t: t.pop("vision_model.pre_layrnorm.bias"), "missing vision_model.pre_layrnorm.bias"),
        (lambda t: t.update({"surprise.weight": torch.ones(2)}), "surprise.weight"),
        (lambda t: t.update({"text_model.surprise": torch.ones(2)}), "unexpected text_model.surprise"),
        (
            lambda t: t.update({"visual_projection.weight": torch.ones(3, 3)}),
            r"visual_projection.weight is \(3, 3\)",
        ),
        (lambda t: t.pop("logit_scale"), "logit_scale is missing"),
        (lambda t: t.update({"logit_scale": torch.ones(2)}), r"logit_scale is \(2,\)"),
    ],
)
def test_a_tensor_that_is_missing_unexplained_or_misshapen_is_named_with_its_file(tmp_path: Path, fault, named: str):
    folder = folders.with_tensors("clip", tmp_path, fault)
    with pytest.raises(BabelclipError, match=named) as caught:
        reader.load(folder, "both")
    assert str(folder / "model.safetensors") in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(text_config=[1]),
        lambda c: c["text_config"].update(hidden_size="wide"),
        lambda c: c["text_config"].update(num_attention_heads=5),
        lambda c: c["text_config"].update(hidden_act="swish_of_nobody"),
        lambda c: c.update(projection_dim="512"),
        lambda c: c["vision_config"].update(patch_size=0),
        lambda c: c["text_config"].update(eos_token_id=[2, 3]),
        lambda c: c["text_config"].update(num_attention_heads=-1),
        lambda c: c["text_config"].update(max_position_embeddings=-1),
    ],
)
def test_a_config_of_wrong_types_or_sizes_is_one_clear_error(tmp_path: Path, change):
    folder = folders.with_json("clip", tmp_path, "config.json", change)
    with pytest.raises(BabelclipError, match="again from the model's origin"):
        reader.load(folder, "both")


@pytest.mark.parametrize("end", [49407, None])  # the second is the first, by the default of the class
def test_an_end_of_text_that_no_text_can_have_is_refused(tmp_path: Path, end):
    folder = folders.with_json("clip", tmp_path, "config.json", lambda c: c["text_config"].update(eos_token_id=end))
    with pytest.raises(BabelclipError, match=r"eos_token_id = 49407, and its vocabulary has \d{3} tokens"):
        reader.load(folder, "text")


@pytest.mark.parametrize("stored", [float("nan"), 1e6])
def test_a_scale_without_an_exponential_is_refused(tmp_path: Path, stored: float):
    folder = folders.with_tensors("clip", tmp_path, lambda t: t.update(logit_scale=torch.tensor(stored)))
    with pytest.raises(BabelclipError, match=r"model\.safetensors: logit_scale is .*diverged"):
        reader.load(folder, "both")


@pytest.mark.parametrize("tower", ["text", "vision"])
def test_a_config_of_a_billion_layers_is_refused_at_once(tmp_path: Path, tower: str):
    folder = folders.with_json(
        "clip", tmp_path, "config.json", lambda c: c[f"{tower}_config"].update(num_hidden_layers=10**9)
    )
    with pytest.raises(BabelclipError, match="1000000000 layers"):
        reader.load(folder, "both")


def test_half_precision_weights_load_as_float32(tmp_path: Path):
    folder = folders.with_tensors(
        "clip", tmp_path, lambda t: t.update({name: tensor.half() for name, tensor in t.items()})
    )
    clip = babelclip.load(folder)
    difference = np.abs(clip.encode_text(TEXTS[:4], False) - folders.expected("clip")["text"][:4]).max()
    assert 0 < difference < 0.05
    assert math.isclose(clip.logit_scale or 0, float(folders.expected("clip")["logit_scale"]), rel_tol=1e-2)


def test_a_missing_shard_is_named(tmp_path: Path):
    folder = Path(shutil.copytree(GOLDEN / "clip_old", tmp_path / "clip_old"))
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(BabelclipError, match=r"pytorch_model-00002-of-00002\.bin"):
        reader.load(folder, "both")
