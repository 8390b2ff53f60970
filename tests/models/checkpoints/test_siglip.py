"""SigLIP and SigLIP 2 folders against transformers 4.57 (tests/golden/make/siglip.py)."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints import native, reader_of
from babelclip.models.checkpoints import siglip as reader
from babelclip.models.checkpoints.files.tokenizer_files import read_tokenizer
from tests.golden.inputs import TEXTS, pictures
from tests.models.checkpoints import folders
from tests.models.checkpoints.folders import GOLDEN

CLOSE = 1e-5
FIXED = ["siglip", "siglip2_fixed"]


@pytest.mark.parametrize("name", FIXED)
def test_both_towers_equal_the_original(name: str):
    clip = reader.load(GOLDEN / name, "both")
    right = folders.expected(name)
    assert max(folders.text_differences(clip, name).values()) < CLOSE
    assert max(folders.image_differences(clip, name).values()) < CLOSE
    assert clip.logit_scale == pytest.approx(float(right["logit_scale"]), rel=1e-6)
    assert clip.logit_bias == pytest.approx(float(right["logit_bias"]), rel=1e-6)
    assert np.abs(folders.logits_per_text(clip) - right["logits_per_text"]).max() < 1e-4


@pytest.mark.parametrize(("name", "filter_name"), [("siglip", "bicubic"), ("siglip2_fixed", "bilinear")])
def test_pixels_equal_the_original_bit_for_bit(name: str, filter_name: str):
    clip = reader.load(GOLDEN / name, "image")
    assert clip.image is not None
    assert clip.image.preprocess.interpolation == filter_name
    crcs = [zlib.crc32(clip.image.preprocess(picture).tobytes()) for picture in pictures()]
    assert crcs == folders.expected(name)["pixels_crc"].tolist()


@pytest.mark.parametrize(("name", "pad"), [("siglip", 1), ("siglip2_fixed", 0)])
def test_every_text_is_padded_to_64_and_ends_with_its_end_token(name: str, pad: int):
    clip = reader.load(GOLDEN / name, "text")
    assert clip.text is not None
    short, empty, long = clip.text.tokenize(["a dog", "", "dog " * 90])
    assert {len(short), len(empty), len(long)} == {64}
    assert short[-1] == pad
    assert empty[:2] == [1, pad]
    assert long[-1] == 1


def test_siglip_ignores_case_and_punctuation_and_joins_at_underscores():
    clip = reader.load(GOLDEN / "siglip", "text")
    assert clip.text is not None
    assert clip.text.tokenizer.cleaning == "siglip"
    plain, loud, joined = clip.text.tokenize(["two dogs playing", "  Two DOGS, playing!  ", "two_dogs playing"])
    assert plain == loud != joined


def test_siglip_2_ignores_case_and_keeps_punctuation():
    clip = reader.load(GOLDEN / "siglip2_fixed", "text")
    assert clip.text is not None
    assert clip.text.tokenizer.cleaning == "lowercase"
    plain, loud, marked = clip.text.tokenize(["zwei hunde", "Zwei Hunde", "zwei hunde!"])
    assert plain == loud != marked


@pytest.mark.parametrize(("name", "rule"), [("siglip", "siglip"), ("siglip2_fixed", "lowercase")])
def test_a_tokenizer_class_that_says_nothing_is_told_by_its_vocabulary(tmp_path: Path, name: str, rule: str):
    folder = folders.with_json(
        name, tmp_path, "tokenizer_config.json", lambda c: c.update(tokenizer_class="TokenizersBackend")
    )
    clip = reader.load(folder, "text")
    assert clip.text is not None
    assert clip.text.tokenizer.cleaning == rule
    (folder / "spiece.model").unlink(missing_ok=True)
    assert reader.load(folder, "text").text is not None
    assert max(folders.text_differences(clip, name).values()) < CLOSE


def test_an_unknown_padding_token_is_an_error(tmp_path: Path):
    folder = folders.with_json("siglip", tmp_path, "tokenizer_config.json", lambda c: c.pop("pad_token"))
    with pytest.raises(BabelclipError, match=r"tokenizer_config.json names no pad_token.*Copy"):
        reader.load(folder, "text")


def test_a_picture_tower_without_its_pooling_head_is_refused(tmp_path: Path):
    folder = folders.with_json(
        "siglip", tmp_path, "config.json", lambda c: c["vision_config"].update(vision_use_head=False)
    )
    with pytest.raises(BabelclipError, match="without its pooling head"):
        reader.load(folder, "image")
    assert reader.load(folder, "text").text is not None


@pytest.mark.parametrize("name", ["siglip", "siglip2_fixed", "siglip2_naflex"])
def test_the_layout_is_recognised_from_the_config(name: str):
    assert reader_of(GOLDEN / name).NAME == "siglip"


def test_one_tower_alone_loads_with_or_without_prefix(tmp_path: Path):
    def text_only(tensors: dict[str, torch.Tensor]) -> None:
        for key in list(tensors):
            tensor = tensors.pop(key)
            if key.startswith("text_model."):
                tensors[key.removeprefix("text_model.")] = tensor

    folder = folders.with_tensors("siglip", tmp_path, text_only)
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text())["text_config"]))
    clip = reader.load(folder, "both")
    assert (clip.image, clip.logit_scale, clip.logit_bias) == (None, None, None)
    assert np.abs(clip.encode_text(TEXTS, False) - folders.expected("siglip")["text"]).max() < CLOSE


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (lambda t: t.pop("text_model.head.bias"), "missing text_model.head.bias"),
        (lambda t: t.pop("vision_model.head.probe"), "missing backbone.head.probe"),
        (lambda t: t.pop("logit_bias"), "logit_bias is missing"),
        (lambda t: t.update({"text_projection.weight": torch.ones(2, 2)}), "unexpected text_projection.weight"),
        (
            lambda t: t.update({"vision_model.head.probe": torch.ones(1, 1, 3)}),
            r"vision_model.head.probe is \(1, 1, 3\)",
        ),
    ],
)
def test_a_tensor_that_is_missing_unexplained_or_misshapen_is_named_with_its_file(tmp_path: Path, fault, named: str):
    folder = folders.with_tensors("siglip", tmp_path, fault)
    with pytest.raises(BabelclipError, match=named) as caught:
        reader.load(folder, "both")
    assert str(folder / "model.safetensors") in str(caught.value)


def test_naflex_equals_the_original_and_keeps_proportions():
    clip = reader.load(GOLDEN / "siglip2_naflex", "both")
    right = folders.expected("siglip2_naflex")
    assert max(folders.text_differences(clip, "siglip2_naflex").values()) < CLOSE
    assert max(folders.image_differences(clip, "siglip2_naflex").values()) < CLOSE
    assert np.abs(folders.logits_per_text(clip) - right["logits_per_text"]).max() < 1e-4


def test_naflex_patches_and_grids_equal_the_original_bit_for_bit():
    clip = reader.load(GOLDEN / "siglip2_naflex", "image")
    assert clip.image is not None
    right = folders.expected("siglip2_naflex")
    packed = [clip.image.preprocess(picture) for picture in pictures()]
    assert {one.shape for one in packed} == {(20, 8 * 8 * 3 + 2)}
    crcs = [zlib.crc32(np.ascontiguousarray(one[:, :-2]).tobytes()) for one in packed]
    assert crcs == right["pixels_crc"].tolist()
    grids = [[one[:, -1].sum(), one[:, -2].sum()] for one in packed]
    assert grids == right["spatial_shapes"].tolist()
    assert len({tuple(grid) for grid in grids}) > 3


def test_naflex_survives_saving(tmp_path: Path):
    clip = reader.load(GOLDEN / "siglip2_naflex", "both")
    clip.space = "test/naflex"
    again = native.load(clip.save(tmp_path / "saved"), "both")
    assert np.array_equal(again.encode_image(pictures(), False), clip.encode_image(pictures(), False))
    assert np.array_equal(again.encode_text(TEXTS, False), clip.encode_text(TEXTS, False))
    assert (again.logit_scale, again.logit_bias) == (clip.logit_scale, clip.logit_bias)


def test_naflex_with_another_processor_is_refused(tmp_path: Path):
    folder = folders.with_json(
        "siglip2_naflex", tmp_path, "preprocessor_config.json",
        lambda c: c.update(image_processor_type="CLIPImageProcessor"),
    )  # fmt: skip
    with pytest.raises(BabelclipError, match="does not belong to SigLIP 2 NaFlex"):
        reader.load(folder, "image")


def test_a_folder_with_the_sentencepiece_model_alone_gives_the_same_vectors(tmp_path: Path):
    folder = folders.copy_of("siglip", tmp_path)
    (folder / "tokenizer.json").unlink()
    clip = reader.load(folder, "text")
    assert max(folders.text_differences(clip, "siglip").values()) < CLOSE


def test_a_tokenizer_whose_table_of_characters_is_damaged_is_named(tmp_path):
    """The library panics at it, which is no Exception."""
    content = json.loads((GOLDEN / "siglip" / "tokenizer.json").read_text(encoding="utf-8"))
    text = json.dumps(content)
    assert '"precompiled_charsmap": "' in text
    damaged = text.replace('"precompiled_charsmap": "', '"precompiled_charsmap": "\x7f')
    (tmp_path / "tokenizer.json").write_text(damaged)
    with pytest.raises(BabelclipError, match=r"tokenizer\.json is not a tokenizer\.json .* Copy it again"):
        read_tokenizer(tmp_path, max_length=16)
