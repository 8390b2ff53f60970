from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import babelclip
from babelclip.data.embed_targets import text_vectors
from babelclip.errors import BabelclipError
from babelclip.models.clip import Clip
from babelclip.models.export.altclip import export_altclip
from babelclip.models.text import TextEncoder, build_text_backbone
from babelclip.train.assemble import assemble
from babelclip.train.recipe import Student
from babelclip.train.students import fit_student
from tests.conftest import make_clip, make_tokenizer


def make_student(pooled: int) -> TextEncoder:
    tokenizer = make_tokenizer()
    torch.manual_seed(3)
    config = {
        "model_type": "xlm-roberta", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48, "vocab_size": tokenizer.vocabulary_size, "max_position_embeddings": 34,
        "pad_token_id": 1, "layer_norm_eps": 1e-5, "type_vocab_size": 1,
    }  # fmt: skip
    tower = TextEncoder(build_text_backbone(config), pooling="mean", head=[], tokenizer=tokenizer).eval()
    return fit_student(tower, Student(pooling="cls", head="norm+linear"), embed_dim=pooled)


def make_teacher() -> Clip:
    """CLIP's form: a pooled state of width 32, and a projection without bias."""
    clip = make_clip(2)
    assert clip.text is not None
    tower = TextEncoder(
        clip.text.backbone, pooling="eos", head=[{"kind": "linear", "out": 16, "bias": False}],
        tokenizer=clip.text.tokenizer,
    )  # fmt: skip
    clip.text = tower.eval()
    assert clip.image is not None
    clip.image.preprocess = dataclasses.replace(clip.image.preprocess, long_side="floor", crop_offset="floor")
    return clip


def test_the_student_takes_the_place_of_the_teachers_text_body():
    teacher, student = make_teacher(), make_student(32)
    clip = assemble(student, teacher, languages=("en", "sv"), name="alt")
    assert (clip.space, clip.logit_scale, clip.languages) == ("test/tiny", 10.0, ("en", "sv"))
    assert clip.text is not None
    pooled = student.encode(["red dog", "två"], normalize=False)
    weight = teacher.text.head[0].weight.detach().numpy()
    np.testing.assert_allclose(clip.encode_text(["red dog", "två"], normalize=False), pooled @ weight.T, atol=1e-5)
    np.testing.assert_allclose(text_vectors(clip.text, ["red dog"], target="pooled"), pooled[:1], atol=1e-6)
    assert clip.image is teacher.image


def test_what_is_assembled_exports_as_an_altclip_and_loads(tmp_path: Path):
    clip = assemble(make_student(32), make_teacher(), languages=("en", "sv"), name="alt")
    export_altclip(clip, tmp_path / "alt")
    again = babelclip.load(tmp_path / "alt", device="cpu", space="test/tiny")
    texts = ["a red star", "två hundar"]
    expected = clip.encode_text(texts, normalize=False)
    np.testing.assert_allclose(again.encode_text(texts, normalize=False), expected, atol=1e-5)
    pictures = [np.full((40, 40, 3), 90, np.uint8)]
    np.testing.assert_allclose(again.encode_image(pictures), clip.encode_image(pictures), atol=1e-5)
    assert again.logit_scale == pytest.approx(10.0, rel=1e-5)


def test_a_student_of_another_size_is_refused_with_both_sizes():
    with pytest.raises(BabelclipError, match=r"projects to 20 but the teacher's projection takes 32"):
        assemble(make_student(20), make_teacher())
    with pytest.raises(BabelclipError, match="without its text tower"):
        assemble(make_student(32), Clip(space="test/tiny", image=make_clip().image))
