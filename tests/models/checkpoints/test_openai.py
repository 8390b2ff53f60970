"""OpenAI's TorchScript archives against OpenAI's own code (tests/golden/make/openai.py)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import babelclip
from babelclip.errors import BabelclipError
from babelclip.models.checkpoints import openai, openclip, reader_of
from babelclip.models.checkpoints.files.tensors import Tensors, open_tensors
from tests.golden.inputs import TEXTS, pictures
from tests.models.checkpoints.folders import GOLDEN, copy_of, expected, image_differences, text_differences

FOLDER = GOLDEN / "openai_vit"
FILE = "ViT-tiny.pt"
CLOSE = 1e-5


def plain(path: Path) -> dict[str, torch.Tensor]:
    tensors = open_tensors(path)
    return {name: tensors[name].clone() for name in tensors}


def test_both_towers_equal_openais_code_in_a_list_alone_and_in_other_order():
    clip = babelclip.load(FOLDER)
    assert max(text_differences(clip, FOLDER.name).values()) < CLOSE
    assert max(image_differences(clip, FOLDER.name).values()) < CLOSE
    assert clip.logit_scale == pytest.approx(float(expected(FOLDER.name)["logit_scale"]), abs=CLOSE)
    assert clip.image.backbone.config.hidden_act == clip.text.backbone.config.hidden_act == "quick_gelu"


def test_tokens_equal_openais():
    tokenizer = openai.load(FOLDER, "text").text.tokenizer
    for row, ids in zip(expected(FOLDER.name)["tokens"].tolist(), tokenizer(TEXTS), strict=True):
        assert row[: len(ids)] == ids
        assert not any(row[len(ids) :])


def test_one_tower_alone_gives_the_same_and_the_other_is_not_built():
    text, image = babelclip.load(FOLDER, "text"), babelclip.load(FOLDER, "image")
    assert text.image is None
    assert image.text is None
    np.testing.assert_allclose(text.encode_text(TEXTS, normalize=False), expected(FOLDER.name)["text"], atol=CLOSE)
    np.testing.assert_allclose(image.encode_image(pictures(), False), expected(FOLDER.name)["image"], atol=CLOSE)


def test_the_layout_is_recognised_from_its_files():
    assert reader_of(FOLDER) is openai
    assert not openai.recognises(GOLDEN / "openclip_vit")


def test_a_load_wants_the_archive_and_for_texts_the_tokenizer():
    names = [FILE, "tokenizer.json", "README.md"]
    assert openai.wanted(names, "image") == [FILE]
    assert openai.wanted(names, "both") == [FILE, "tokenizer.json"]


def test_without_a_tokenizer_the_picture_tower_still_loads(tmp_path):
    shutil.copy(FOLDER / FILE, tmp_path)
    assert openai.load(tmp_path, "image").image is not None
    with pytest.raises(BabelclipError, match=r'bpe_simple_vocab_16e6.txt.gz.*towers="image"'):
        openai.load(tmp_path, "both")


def test_a_plain_state_dict_is_refused_with_the_config_that_makes_it_readable(tmp_path):
    folder = copy_of(FOLDER.name, tmp_path)
    torch.save({"state_dict": plain(folder / FILE)}, folder / FILE)
    with pytest.raises(BabelclipError, match="quick_gelu") as error:
        openai.load(folder, "both")
    config = json.loads(str(error.value).splitlines()[-1])
    config["model_cfg"]["quick_gelu"] = True
    (folder / openclip.CONFIG).write_text(json.dumps(config))
    assert reader_of(folder) is openclip
    clip = babelclip.load(folder)
    np.testing.assert_allclose(clip.encode_text(TEXTS, normalize=False), expected(FOLDER.name)["text"], atol=CLOSE)
    np.testing.assert_allclose(clip.encode_image(pictures(), False), expected(FOLDER.name)["image"], atol=CLOSE)


@pytest.mark.parametrize("name", ["openclip_resnet", "openclip_vit"])
def test_sizes_are_read_from_the_shapes(name):
    stated = json.loads((GOLDEN / name / openclip.CONFIG).read_text())["model_cfg"]
    inferred = openai.inferred_config(open_tensors(GOLDEN / name, openclip.WEIGHTS))
    assert inferred["embed_dim"] == stated["embed_dim"]
    assert inferred["vision_cfg"] == {
        key: pytest.approx(value, abs=0.05) if key == "mlp_ratio" else value
        for key, value in stated["vision_cfg"].items()
        if key != "head_width"
    }
    assert {**inferred["text_cfg"], "heads": 4} == stated["text_cfg"]


def test_the_wider_heads_of_laions_large_towers_are_known():
    def shapes(width: int) -> Tensors:
        tensors = Tensors(Path("x.pt"), {})
        found = {
            "visual.proj": (width, 64), "visual.conv1.weight": (width, 3, 14, 14), "text_projection": (64, 64),
            "visual.positional_embedding": (257, width), "positional_embedding": (77, 64),
            "visual.transformer.resblocks.0.mlp.c_fc.weight": (4 * width, width), "token_embedding.weight": (9, 64),
        }  # fmt: skip
        tensors._entries = dict.fromkeys(found)
        tensors.shape = found.__getitem__
        return tensors

    widths = {
        width: openai.inferred_config(shapes(width))["vision_cfg"].get("head_width") for width in (1024, 1280, 1664)
    }
    assert widths == {1024: None, 1280: 80, 1664: 104}


def test_two_archives_in_one_folder_are_refused(tmp_path):
    folder = copy_of(FOLDER.name, tmp_path)
    shutil.copy(folder / FILE, folder / "other.pt")
    with pytest.raises(BabelclipError, match=r"2 torch files \(ViT-tiny.pt, other.pt\)"):
        openai.load(folder, "both")


def test_a_file_that_is_no_clip_is_refused_by_name(tmp_path):
    torch.save({"layer.weight": torch.zeros(2, 2)}, tmp_path / "model.pt")
    with pytest.raises(BabelclipError, match=r"model.pt is no CLIP"):
        openai.load(tmp_path, "image")
