from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

import babelclip
from babelclip.errors import BabelclipError
from babelclip.models.preprocess import Preprocess
from babelclip.starter.teacher import PREPROCESS, build_teacher, read_efficientnet_lite, read_sentence_encoder
from tests.conftest import draw_shape
from tests.starter.miniatures import CLASSES, TINY_LITE, TINY_STAGES, lite_state, write_sentence_encoder

NAMES = ["red dog", "blue cat", "green star", "circle", "square", "katt"]


@pytest.fixture
def sources(tmp_path):
    torch.save(lite_state(), tmp_path / "lite.pth")
    return tmp_path / "lite.pth", write_sentence_encoder(tmp_path / "sentences")


@pytest.fixture
def teacher(sources):
    return build_teacher(*sources, NAMES, TINY_LITE, Preprocess(resize=32, crop=32, fit="pad"))


def same(x, kernel, stride):
    total = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[-2:]]
    down, across = total
    return functional.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))


def unfolded(state, pixels):
    """The network with its batch norms as they were, written out; returns the class logits (N, C)."""

    def layer(x, convolution, norm, kernel, stride=1, groups=1, relu=True):
        x = functional.conv2d(same(x, kernel, stride), state[f"{convolution}.weight"], stride=stride, groups=groups)
        names = ("running_mean", "running_var", "weight", "bias")
        x = functional.batch_norm(x, *(state[f"{norm}.{name}"] for name in names), eps=1e-3)
        return functional.relu6(x) if relu else x

    x = layer(pixels, "_conv_stem", "_bn0", 3, 2)
    index = 0
    for expansion, out, count, first_stride, kernel in TINY_STAGES:
        for repeat in range(count):
            b, stride, y = f"_blocks.{index}.", first_stride if repeat == 0 else 1, x
            if expansion > 1:
                y = layer(y, b + "_expand_conv", b + "_bn0", 1)
            y = layer(y, b + "_depthwise_conv", b + "_bn1", kernel, stride, groups=y.shape[1])
            y = layer(y, b + "_project_conv", b + "_bn2", 1, relu=False)
            x = x + y if stride == 1 and x.shape[1] == out else y
            index += 1
    x = layer(x, "_conv_head", "_bn1", 1)
    return x.mean((2, 3)) @ state["_fc.weight"].T + state["_fc.bias"]


def test_folding_batch_norms_changes_no_class_score(teacher):
    pixels = torch.randn(3, 3, 31, 32)
    with torch.inference_mode():
        logits = teacher.image.head[0](teacher.image.pooled(pixels))
    torch.testing.assert_close(logits, unfolded(lite_state(), pixels), atol=1e-4, rtol=1e-4)


def test_pictures_are_the_probability_weighted_mean_of_centred_class_vectors(sources, teacher):
    sentences = read_sentence_encoder(sources[1])
    vectors = sentences.encode([f"a photo of a {name}" for name in NAMES])
    pixels = torch.stack([torch.from_numpy(teacher.image.preprocess(draw_shape("red", "circle")))])
    probabilities = unfolded(lite_state(), pixels).softmax(dim=-1).numpy()
    expected = sum(probabilities[0, c] * (vectors[c] - vectors.mean(axis=0)) for c in range(CLASSES))
    np.testing.assert_allclose(
        teacher.encode_image(draw_shape("red", "circle"), normalize=False)[0], expected, atol=1e-5
    )


def test_texts_are_unit_vectors_with_the_mean_class_taken_off(sources, teacher):
    sentences = read_sentence_encoder(sources[1])
    vectors = sentences.encode([f"a photo of a {name}" for name in NAMES])
    texts = ["a red dog", "två hundar"]
    expected = sentences.encode(texts) - vectors.mean(axis=0)
    np.testing.assert_allclose(teacher.encode_text(texts, normalize=False), expected, atol=1e-6)


def test_the_teacher_is_an_ordinary_clip_that_survives_the_disk_bit_for_bit(teacher, tmp_path):
    pictures = [draw_shape("red", "circle"), draw_shape("blue", "square")]
    again = babelclip.load(teacher.save(tmp_path / "saved"))
    assert again.space == "starter/lite0-conse-minilm"
    assert again.languages == ("en",)
    assert again.logit_scale is None
    assert again.attribution == teacher.attribution
    np.testing.assert_array_equal(again.encode_image(pictures), teacher.encode_image(pictures))
    np.testing.assert_array_equal(again.encode_text(["a cat"]), teacher.encode_text(["a cat"]))


def test_pixels_are_shifted_by_127_and_divided_by_128():
    assert PREPROCESS(draw_shape("red", "circle", size=300)).shape == (3, 224, 224)
    np.testing.assert_allclose(PREPROCESS(draw_shape("red", "circle"))[:, 0, 0], (255 - 127) / 128, atol=1e-6)


def test_a_tensor_too_few_or_too_many_is_named(tmp_path):
    state = lite_state()
    del state["_blocks.1._bn1.running_var"]
    torch.save(state, tmp_path / "few.pth")
    with pytest.raises(BabelclipError, match=r"few\.pth lacks the tensor '_blocks\.1\._bn1\.running_var'"):
        read_efficientnet_lite(tmp_path / "few.pth", TINY_LITE)
    torch.save({**lite_state(), "_blocks.9._se.weight": torch.zeros(1)}, tmp_path / "many.pth")
    with pytest.raises(BabelclipError, match=r"many\.pth holds tensors .* no place for: _blocks\.9\._se\.weight"):
        read_efficientnet_lite(tmp_path / "many.pth", TINY_LITE)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(sources):
    state = lite_state()
    state["_fc.weight"] = state["_fc.weight"][:, :20].clone()
    torch.save(state, sources[0])
    with pytest.raises(BabelclipError, match=r"head\.0\.weight is \(6, 20\) but the config asks for \(6, 24\)"):
        build_teacher(*sources, NAMES, TINY_LITE)


def test_names_for_other_classes_are_refused(sources):
    with pytest.raises(BabelclipError, match=r"5 class names were given for the 6 classes"):
        build_teacher(*sources, NAMES[:5], TINY_LITE)


class Harmful:
    def __reduce__(self):
        return (print, ("a pickle was run",))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, capsys):
    torch.save({"_fc.weight": Harmful()}, tmp_path / "evil.pth")
    with pytest.raises(BabelclipError, match=r"evil\.pth is not a torch file of tensors only"):
        read_efficientnet_lite(tmp_path / "evil.pth", TINY_LITE)
    assert "a pickle was run" not in capsys.readouterr().out


def test_a_file_that_is_no_torch_file_is_named(tmp_path):
    for name, content in (("empty.pth", b""), ("text.pth", b"hello"), ("cut.pth", b"PK\x03\x04half a zip")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BabelclipError, match=name):
            read_efficientnet_lite(tmp_path / name, TINY_LITE)
