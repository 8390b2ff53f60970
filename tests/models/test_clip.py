from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import babelclip
from babelclip.errors import BabelclipError, SpaceMismatchError
from babelclip.models.clip import Clip, top_k
from babelclip.models.pooling import pool
from babelclip.models.preprocess import PictureError
from babelclip.models.text import normalize_rows
from tests.conftest import draw_shape, make_clip, make_image_encoder, make_text_encoder

TEXTS = [
    "a red circle",
    "två hundar",
    "два",
    "狗",
    "كلب أحمر",
    "",
    "the blue star the blue star the blue star",
    "猫 红",
]


def test_text_features_are_normalised_float32_in_input_order(tiny_clip):
    features = tiny_clip.encode_text(TEXTS)
    assert features.shape == (len(TEXTS), 16)
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(features[row], tiny_clip.encode_text(text)[0], atol=1e-5)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(alphabet="abc dé狗к红ك ", max_size=30), min_size=1, max_size=12),
    budget=st.integers(1, 200),
    seed=st.integers(0, 5),
)
def test_order_padding_and_batch_size_change_nothing(texts, budget, seed):
    encoder = make_text_encoder()
    expected = encoder.encode(texts, normalize=False)
    np.testing.assert_allclose(encoder.encode(texts, normalize=False, token_budget=budget), expected, atol=1e-5)
    order = np.random.default_rng(seed).permutation(len(texts))
    np.testing.assert_allclose(encoder.encode([texts[i] for i in order], normalize=False), expected[order], atol=1e-5)


def test_features_equal_a_plain_forward_pass_one_text_at_a_time(tiny_text_encoder):
    encoder = tiny_text_encoder
    with torch.no_grad():
        rows = []
        for ids in encoder.tokenize(TEXTS):
            states = encoder.backbone(input_ids=torch.tensor([ids])).last_hidden_state
            weight, bias = encoder.head[0].weight, encoder.head[0].bias
            rows.append((states[0].mean(0) @ weight.T + bias).numpy())
    np.testing.assert_allclose(encoder.encode(TEXTS, normalize=False), np.stack(rows), atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "eos"])
def test_every_pooling_ignores_padding(pooling):
    encoder = make_text_encoder(pooling=pooling)
    together = encoder.encode(TEXTS, normalize=False, token_budget=10_000)
    alone = np.concatenate([encoder.encode(text, normalize=False) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_mean_of_many_tokens_is_the_same_with_padding_in_half_precision(dtype):
    states = torch.full((2, 512, 4), 200, dtype=dtype)  # their sum is beyond float16
    for tokens in (512, 257):  # and 257 is no number of bfloat16
        mask = torch.zeros(2, 512, dtype=torch.int64)
        mask[:, :tokens] = 1
        pooled = pool(states, mask, "mean")
        assert pooled.dtype == dtype
        assert torch.equal(pooled, pool(states[:, :tokens], None, "mean"))


def test_no_texts_and_no_pictures_give_empty_arrays(tiny_clip):
    assert tiny_clip.encode_text([]).shape == (0, 16)
    assert tiny_clip.encode_image([]).shape == (0, 16)


def test_encoding_leaves_the_training_mode_as_it_was(tiny_text_encoder):
    tiny_text_encoder.train()
    tiny_text_encoder.encode(["a dog"])
    assert tiny_text_encoder.training


def test_an_item_that_is_no_string_is_named_by_position(tiny_clip):
    with pytest.raises(BabelclipError, match="Text 1 is of type int"):
        tiny_clip.encode_text(["a", 3])


def test_picture_features_do_not_depend_on_batches_or_on_how_the_picture_is_given(tiny_clip, tmp_path):
    pictures = [draw_shape(c, s) for c in ("red", "blue") for s in ("circle", "square", "triangle")]
    paths = []
    for number, picture in enumerate(pictures):
        paths.append(tmp_path / f"{number}.png")
        picture.save(paths[-1])
    expected = tiny_clip.encode_image(pictures, normalize=False, batch_size=1)
    np.testing.assert_allclose(tiny_clip.encode_image(paths, normalize=False, batch_size=4), expected, atol=1e-5)
    arrays = [np.asarray(picture) for picture in pictures]
    np.testing.assert_allclose(tiny_clip.encode_image(arrays, normalize=False), expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(tiny_clip.encode_image(paths), axis=1), 1, atol=1e-5)


def test_a_picture_that_does_not_decode_is_an_error_or_a_counted_skip(tiny_clip, picture_folder):
    good, bad = picture_folder / "red-circle.png", picture_folder / "broken.jpg"
    with pytest.raises(PictureError, match=r"broken\.jpg does not decode"):
        tiny_clip.encode_image([good, bad])
    features, skipped = tiny_clip.image.encode_readable([good, bad, good, picture_folder / "absent.png"])
    assert features.shape == (2, 16)
    assert [(item.position, Path(item.name).name) for item in skipped] == [(1, "broken.jpg"), (3, "absent.png")]
    assert "does not exist" in skipped[1].reason


def test_a_truncated_picture_is_skipped(tiny_clip, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:900])
    features, skipped = tiny_clip.image.encode_readable([tmp_path / "cut.jpg", tmp_path / "whole.jpg"])
    assert features.shape == (1, 16)
    assert [item.position for item in skipped] == [0]


def test_rank_gives_the_best_pictures_first(tiny_clip):
    pictures = tiny_clip.encode_image([draw_shape(c, "circle") for c in ("red", "green", "blue")])
    scores, indices = tiny_clip.rank(["a dog", "två hundar"], pictures, k=10)
    full = tiny_clip.encode_text(["a dog", "två hundar"]) @ pictures.T
    assert scores.shape == indices.shape == (2, 3)
    np.testing.assert_array_equal(indices, np.argsort(-full, axis=1))
    np.testing.assert_allclose(scores, -np.sort(-full, axis=1), atol=1e-6)


def test_rank_names_both_shapes_when_the_features_are_of_another_space(tiny_clip):
    with pytest.raises(BabelclipError, match=r"\(2, 5\).*\(C, 16\)"):
        tiny_clip.rank("a dog", np.ones((2, 5), np.float32), k=1)
    with pytest.raises(BabelclipError, match="k is 0"):
        tiny_clip.rank("a dog", np.ones((2, 16), np.float32), k=0)


def test_logits_want_rows_of_the_space(tiny_clip):
    texts = tiny_clip.encode_text(["a dog", "två hundar"])
    assert tiny_clip.probabilities(texts, texts[:1]).shape == (2, 1)
    # One vector instead of a row of it would share 1 among the pictures and not among the texts.
    with pytest.raises(BabelclipError, match=r"text_features has shape \(16,\).*\(N, 16\).*vector\[None\]"):
        tiny_clip.probabilities(texts[0], texts)
    with pytest.raises(BabelclipError, match=r"image_features has shape \(2, 5\).*\(M, 16\)"):
        tiny_clip.logits(texts, texts[:, :5])


def test_float16_rows_become_unit_rows_whatever_their_length():
    rows = np.array([[0, 0], [300, 400], [0.003, 0.004]], dtype=np.float16)
    unit = normalize_rows(rows)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit, [[0, 0], [0.6, 0.8], [0.6, 0.8]], atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), [0, 1, 1], atol=1e-6)


def test_top_k_does_not_depend_on_how_many_scores_are_held(monkeypatch):
    rng = np.random.default_rng(0)
    queries, corpus = rng.integers(-3, 4, (7, 4)).astype(np.float32), rng.integers(-3, 4, (50, 4)).astype(np.float32)
    scores, indices = top_k(queries, corpus, 5)
    np.testing.assert_array_equal(indices, np.argsort(-(queries @ corpus.T), axis=1, kind="stable")[:, :5])
    monkeypatch.setattr("babelclip.models.clip._SCORES_AT_ONCE", 1)
    again = top_k(queries, corpus, 5)
    np.testing.assert_array_equal(again[0], scores)
    np.testing.assert_array_equal(again[1], indices)


def test_top_k_keeps_corpus_order_among_equals():
    _, indices = top_k(np.ones((1, 2), np.float32), np.ones((5, 2), np.float32), 3)
    np.testing.assert_array_equal(indices, [[0, 1, 2]])


def test_spaces_that_differ_are_both_named(tiny_clip):
    tiny_clip.check_space("test/tiny", "store a and model b")
    with pytest.raises(SpaceMismatchError, match=r"store a and model b.*'other/space'.*'test/tiny'"):
        tiny_clip.check_space("other/space", "store a and model b")


def test_towers_must_exist_and_agree():
    with pytest.raises(BabelclipError, match="at least one"):
        Clip(space="s")
    with pytest.raises(BabelclipError, match=r"16 dimensions.*8"):
        Clip(space="s", text=make_text_encoder(), image=make_image_encoder(embed_dim=8))


def test_a_pair_keeps_what_the_dtype_of_each_of_its_towers_costs():
    text = Clip(space="s", text=make_text_encoder(), fidelity={"text": {"dtype": "int8"}})
    image = Clip(space="s", text=text.text, image=make_image_encoder(), fidelity={"image": {"dtype": "bfloat16"}})
    both = babelclip.pair(text, image)
    assert both.fidelity == {"text": {"dtype": "int8"}, "image": {"dtype": "bfloat16"}}
    assert babelclip.pair(image, image).fidelity == {"image": {"dtype": "bfloat16"}}


def test_saved_and_loaded_model_gives_bit_equal_vectors(tiny_clip, tmp_path):
    picture = draw_shape("green", "triangle")
    tiny_clip.save(tmp_path / "model")
    again = babelclip.load(tmp_path / "model")
    np.testing.assert_array_equal(again.encode_text(TEXTS), tiny_clip.encode_text(TEXTS))
    np.testing.assert_array_equal(again.encode_image(picture), tiny_clip.encode_image(picture))
    assert (again.space, again.logit_scale, again.languages, again.name) == ("test/tiny", 10.0, ("en", "sv"), "tiny")
    again.save(tmp_path / "copy")
    for name in ("config.json", "tokenizer.json", "text_encoder.safetensors", "image_encoder.safetensors"):
        assert (tmp_path / "model" / name).read_bytes() == (tmp_path / "copy" / name).read_bytes()


def test_others_may_read_a_saved_model(tiny_clip, tmp_path):
    folder = tiny_clip.save(tmp_path / "model")
    assert {path.stat().st_mode & 0o044 for path in folder.iterdir()} == {0o044}


def test_only_a_model_or_an_empty_folder_is_replaced(tiny_clip, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "dog.jpg").write_bytes(b"jpeg")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "note.txt").write_text("a dog")
    for name, told in (("pictures", "dog.jpg"), ("other", "config.json"), ("note.txt", "is a file")):
        with pytest.raises(BabelclipError, match=told):
            tiny_clip.save(tmp_path / name)
    assert (tmp_path / "pictures" / "dog.jpg").read_bytes() == b"jpeg"
    assert (tmp_path / "note.txt").read_text() == "a dog"
    (tmp_path / "empty").mkdir()
    folder = tiny_clip.save(tmp_path / "empty")
    (folder / "README.md").write_text("a card")
    assert babelclip.load(tiny_clip.save(folder)).space == tiny_clip.space


def test_a_moved_folder_still_loads(tiny_clip, tmp_path):
    tiny_clip.save(tmp_path / "here")
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "here").rename(tmp_path / "far" / "away" / "model")
    assert babelclip.load(tmp_path / "far" / "away" / "model").embed_dim == 16
    assert str(tmp_path) not in (tmp_path / "far" / "away" / "model" / "config.json").read_text()


def test_one_tower_is_loaded_without_reading_the_other(tiny_clip, tmp_path):
    tiny_clip.save(tmp_path / "model")
    (tmp_path / "model" / "image_encoder.safetensors").write_bytes(b"damaged")
    clip = babelclip.load(tmp_path / "model", towers="text")
    assert clip.image is None
    with pytest.raises(BabelclipError, match='towers="text"'):
        clip.encode_image(draw_shape("red", "circle"))
    with pytest.raises(BabelclipError, match=r"image_encoder\.safetensors is not a whole safetensors file"):
        babelclip.load(tmp_path / "model")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_smaller_dtypes_stay_close_and_still_return_float32(tiny_clip, tmp_path, dtype):
    tiny_clip.save(tmp_path / "model")
    features = babelclip.load(tmp_path / "model", dtype=dtype).encode_text(TEXTS)
    assert features.dtype == np.float32
    assert (features * tiny_clip.encode_text(TEXTS)).sum(1).min() > 0.999


def test_loading_says_what_is_wrong_and_what_to_do(tiny_clip, tmp_path):
    folder = tiny_clip.save(tmp_path / "model")
    for arguments, message in (
        ({"towers": "txt"}, "Did you mean 'text'"),
        ({"dtype": "float23"}, "Did you mean 'float32'"),
    ):
        with pytest.raises(BabelclipError, match=message):
            babelclip.load(folder, **arguments)
    with pytest.raises(BabelclipError, match="is no folder"):
        babelclip.load(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BabelclipError, match="it holds nothing"):
        babelclip.load(tmp_path / "empty")


def test_a_hub_name_without_a_network_fails_with_the_command_that_would_fetch_it():
    with pytest.raises(BabelclipError, match="hf download nobody/nothing"):
        babelclip.load("nobody/nothing")


def change_config(folder: Path, change) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["text"]["head"].append({"kind": "linear", "out": 4}), r"missing head\.1\.weight \(4, 16\)"),
        (
            lambda c: c["text"]["head"][0].update(out=8),
            r"head\.0\.weight is \(16, 32\) but the config asks for \(8, 32\)",
        ),
        (lambda c: c["text"]["backbone"].update(num_hidden_layers=1), r"unexpected backbone\.encoder\.layer\.1"),
        (lambda c: c["text"].update(pooling="meen"), None),
        (lambda c: c.update(format_version=2), "format version 2"),
        (lambda c: c["text"].update(backbone="bert"), r"config\.json .*text\.backbone is 'bert'"),
        (lambda c: c["text"].update(prefix=None), r"text\.prefix is None"),
        (lambda c: c["text"].update(max_length=-1), r"text\.max_length is -1"),
        (lambda c: c["text"].update(eos_id=[2]), r"text\.eos_id is \[2\]"),
        (lambda c: c["image"].update(preprocess=224), r"image\.preprocess is 224"),
        (lambda c: c.update(image=[]), r"config\.json is incomplete or of wrong types"),
        (lambda c: c.pop("space"), "incomplete"),
        (lambda c: c["text"].pop("head"), "incomplete"),
        (lambda c: c["text"]["head"][0].update(kind="lineal"), "Did you mean 'linear'"),
    ],
)
def test_a_config_that_does_not_fit_the_weights_is_refused(tiny_clip, tmp_path, change, message):
    folder = tiny_clip.save(tmp_path / "model")
    change_config(folder, change)
    if message is None:  # an unknown pooling is noticed at the first text
        with pytest.raises(BabelclipError, match="Did you mean 'mean'"):
            babelclip.load(folder, towers="text").encode_text("a")
    else:
        with pytest.raises(BabelclipError, match=message):
            babelclip.load(folder, towers="text")


def test_saving_over_a_model_replaces_it_whole(tmp_path):
    folder = make_clip(0).save(tmp_path / "model")
    second = make_clip(5)
    second.image = None
    second.save(folder)
    assert not (folder / "image_encoder.safetensors").exists()
    assert [item.name for item in tmp_path.iterdir()] == ["model"]
    np.testing.assert_array_equal(babelclip.load(folder).encode_text(TEXTS), second.encode_text(TEXTS))
