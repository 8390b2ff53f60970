"""open_clip's layout against open_clip 3.3.0 (tests/golden/make/openclip.py): numbers, tokens, strictness."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import babelclip
from babelclip.errors import BabelclipError
from babelclip.models.checkpoints import openclip, reader_of
from babelclip.models.checkpoints.openclip_bpe import MERGES_FILE, read_english
from babelclip.models.checkpoints.openclip_tokenizer import TokenizerNeededError
from tests.golden.inputs import TEXTS, pictures
from tests.models.checkpoints.folders import GOLDEN, copy_of, expected, image_differences, text_differences, with_json

FOLDERS = sorted(path.name for path in GOLDEN.glob("openclip_*"))
SAFE = "open_clip_model.safetensors"
CONFIG = openclip.CONFIG
CLOSE = 1e-5


def changed(name: str, place: Path, change) -> Path:
    """A copy of a golden folder with its tensors changed in place."""
    folder = copy_of(name, place)
    file = next(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    tensors = load_file(file) if file.suffix == ".safetensors" else torch.load(file)
    change(tensors)
    save_file(tensors, file) if file.suffix == ".safetensors" else torch.save(tensors, file)
    return folder


def configured(name: str, place: Path, part: str, **values) -> Path:
    """A copy of a golden folder with values of one part of `model_cfg` changed."""

    def change(content: dict) -> None:
        (content["model_cfg"][part] if part else content["model_cfg"]).update(values)

    return with_json(name, place, CONFIG, change)


# --- numbers -------------------------------------------------------------------------------------------------------


def test_every_kind_of_tower_has_a_golden_folder():
    assert len(FOLDERS) == 9


@pytest.mark.parametrize("name", FOLDERS)
def test_both_towers_equal_open_clip_in_a_list_alone_and_in_other_order(name):
    clip = babelclip.load(GOLDEN / name)
    assert max(text_differences(clip, name).values()) < CLOSE
    assert max(image_differences(clip, name).values()) < CLOSE
    right = expected(name)
    assert clip.logit_scale == pytest.approx(float(right["logit_scale"]), abs=CLOSE)
    assert clip.logit_bias == (pytest.approx(float(right["logit_bias"])) if "logit_bias" in right else None)


@pytest.mark.parametrize("name", FOLDERS)
def test_one_tower_alone_gives_the_same_and_the_other_is_not_built(name):
    text, image = babelclip.load(GOLDEN / name, "text"), babelclip.load(GOLDEN / name, "image")
    assert text.image is None
    assert image.text is None
    np.testing.assert_allclose(text.encode_text(TEXTS, normalize=False), expected(name)["text"], atol=CLOSE)
    np.testing.assert_allclose(image.encode_image(pictures(), normalize=False), expected(name)["image"], atol=CLOSE)


@pytest.mark.parametrize("name", FOLDERS)
def test_tokens_equal_open_clips(name):
    tokenizer = babelclip.load(GOLDEN / name, "text").text.tokenizer
    # CLIP's own tokenizer fills with 0, which is also a letter; a mask hides the filling in either case.
    for row, ids in zip(expected(name)["tokens"].tolist(), tokenizer(TEXTS), strict=True):
        assert row[: len(ids)] == ids
        assert set(row[len(ids) :]) <= {tokenizer.pad_id}


def test_the_language_of_a_text_is_nllbs_first_token():
    name = "openclip_nllb_siglip"
    text, right = babelclip.load(GOLDEN / name, "text").text, expected(name)
    np.testing.assert_allclose(text.encode(TEXTS, normalize=False, lang="sv"), right["text_sv"], atol=CLOSE)
    assert [ids[0] for ids in text.tokenize(TEXTS, "sv")] == right["tokens_sv"][:, 0].tolist()
    assert np.abs(right["text_sv"] - right["text"]).max() > 0.1


@pytest.mark.parametrize("name", FOLDERS)
def test_a_saved_copy_in_the_own_format_gives_equal_bits(name, tmp_path):
    clip = babelclip.load(GOLDEN / name, space="test/openclip")
    again = babelclip.load(clip.save(tmp_path / "saved"))
    np.testing.assert_array_equal(again.encode_text(TEXTS), clip.encode_text(TEXTS))
    np.testing.assert_array_equal(again.encode_image(pictures()), clip.encode_image(pictures()))
    assert (again.logit_scale, again.logit_bias) == (clip.logit_scale, clip.logit_bias)


# --- which files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FOLDERS)
def test_the_layout_is_recognised_from_its_files(name):
    assert reader_of(GOLDEN / name) is openclip


def test_a_load_wants_one_weight_form_and_only_what_its_towers_need():
    names = [
        CONFIG, SAFE, "open_clip_pytorch_model.bin", "pytorch_model.bin", "config.json", "tokenizer.json", "vocab.json",
        "merges.txt", "tokenizer_config.json", "README.md", "text_backbone/config.json",
    ]  # fmt: skip
    assert openclip.wanted(names, "image") == [CONFIG, SAFE]
    text = openclip.wanted(names, "text")
    assert set(text) == {
        CONFIG, SAFE, "config.json", "text_backbone/config.json", "tokenizer.json", "tokenizer_config.json",
        "merges.txt",
    }  # fmt: skip
    assert openclip.wanted([CONFIG, "a.pt", MERGES_FILE], "both") == [CONFIG, "a.pt", MERGES_FILE]


@pytest.mark.parametrize("wanted", ["both", "text", "image"])
@pytest.mark.parametrize("name", FOLDERS)
def test_the_files_that_a_load_wants_are_enough(name, wanted, tmp_path):
    names = [str(path.relative_to(GOLDEN / name)) for path in (GOLDEN / name).rglob("*") if path.is_file()]
    for chosen in openclip.wanted(names, wanted):
        (tmp_path / chosen).parent.mkdir(exist_ok=True)
        shutil.copy(GOLDEN / name / chosen, tmp_path / chosen)
    clip = openclip.load(tmp_path, wanted)
    assert (clip.text is None, clip.image is None) == (wanted == "image", wanted == "text")


def test_a_release_file_under_any_name_loads_with_a_config_beside_it(tmp_path):
    folder = copy_of("openclip_vit_quickgelu", tmp_path)
    tensors = torch.load(folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_pytorch_model.bin").unlink()
    wrapped = {"epoch": 32, "state_dict": {f"module.{key}": value for key, value in tensors.items()}}
    torch.save(wrapped, folder / "vit_tiny-laion400m_e32-0123abcd.pt")
    assert max(text_differences(babelclip.load(folder, "text"), "openclip_vit_quickgelu").values()) < CLOSE


def test_a_config_beside_the_weights_wins_over_the_published_backbone(tmp_path):
    folder = copy_of("openclip_xlmr", tmp_path)
    config = json.loads((GOLDEN / "openclip_xlmr_bundle" / "text_backbone" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config))
    # 4 heads there, 12 in xlm-roberta-base: the one number that no tensor shows.
    assert openclip.load(folder, "text").text.backbone.config.num_attention_heads == 4


# --- the English tokenizer -----------------------------------------------------------------------------------------


def test_the_three_forms_of_the_english_tokenizer_agree():
    size = len(json.loads((GOLDEN / "openclip_vit_quickgelu" / "vocab.json").read_text()))
    texts = [
        *TEXTS,
        "I'M we'll '\u017ft",
        "a <end_of_text> b",
        "<|endoftext|>",
        "caf&eacute; e\u0301",
        "x1234y",
        "👩‍👩‍👧",
    ]
    forms = [
        read_english(GOLDEN / name, max_length=20, cleaning="lower", vocab_size=size)(texts)
        for name in ("openclip_vit", "openclip_vit_quickgelu", "openclip_resnet")
    ]
    assert forms[0] == forms[1] == forms[2]
    assert all(len(ids) <= 20 and ids[0] == size - 2 and ids[-1] == size - 1 for ids in forms[0])
    # A text that spells the end has it early; the tower pools at the first.
    assert forms[0][len(TEXTS) + 1].count(size - 1) == 2


def test_lines_behind_the_merges_in_use_are_left_out(tmp_path, monkeypatch):
    lines = gzip.decompress((GOLDEN / "openclip_resnet" / MERGES_FILE).read_bytes())
    count = len(lines.split(b"\n")) - 1
    (tmp_path / MERGES_FILE).write_bytes(gzip.compress(lines + b"\nq q\nz z\n"))
    monkeypatch.setattr("babelclip.models.checkpoints.openclip_bpe.MERGES", count)
    assert read_english(tmp_path, max_length=8, cleaning="lower", vocab_size=512 + count + 2).vocabulary_size > 512


def test_without_a_tokenizer_the_error_names_the_file_and_the_picture_tower_loads(tmp_path):
    folder = copy_of("openclip_resnet", tmp_path)
    (folder / MERGES_FILE).unlink()
    with pytest.raises(BabelclipError, match=rf'{MERGES_FILE}.*towers="image"'):
        openclip.load(folder, "text")
    assert openclip.load(folder, "image").image is not None


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", b'{"model": {"type": "Unigram"}}'),
        ("tokenizer.json", b'{"model": {"type": "BPE", "end_of_word_suffix": "</w>", "merges": ["a"]}}'),
        ("tokenizer.json", b"[]"),
        ("merges.txt", b"#version\nunknown pieces\n"),
        ("merges.txt", b"#version\n\xff\xfe\n"),
        (MERGES_FILE, b"no gzip"),
        (MERGES_FILE, gzip.compress(b"a b\nc d")[:-9]),
    ],
)
def test_a_foreign_or_damaged_tokenizer_is_one_clear_error(file, content, tmp_path):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(BabelclipError, match=rf"{file}.* Copy it again"):
        read_english(tmp_path, max_length=8, cleaning="lower", vocab_size=600)


def test_a_tokenizer_of_another_size_is_refused():
    with pytest.raises(BabelclipError, match=r"gives \d+ tokens, and the model knows 49408"):
        read_english(GOLDEN / "openclip_vit", max_length=8, cleaning="lower", vocab_size=49408)


# --- the tokenizer of another repository ---------------------------------------------------------------------------

NLLB = "openclip_nllb_siglip"


def with_the_english_tokenizer(place: Path) -> Path:
    """NLLB-CLIP as the hub has it: the repository's tokenizer is that of the English CLIP."""
    folder = copy_of(NLLB, place)
    vocabulary = {f"token{index}": index for index in range(600)}
    content = {
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": ""},
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def test_another_models_tokenizer_is_refused_and_the_right_repository_named(tmp_path):
    folder = with_the_english_tokenizer(tmp_path)
    with pytest.raises(TokenizerNeededError, match=r"600 tokens.*hf download facebook/nllb-200") as error:
        openclip.load(folder, "both")
    assert error.value.repository == "facebook/nllb-200-distilled-600M"
    assert openclip.load(folder, "image").text is None


@pytest.mark.parametrize("name", [NLLB, "openclip_xlmr", "openclip_worldwide", "openclip_siglip"])
def test_a_missing_tokenizer_names_the_repository_that_has_it(name, tmp_path):
    folder = copy_of(name, tmp_path)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(TokenizerNeededError, match=r'no tokenizer.*towers="image"') as error:
        openclip.load(folder, "text")
    assert error.value.repository in (folder / CONFIG).read_text()


def test_a_tokenizer_in_the_sub_folder_or_given_by_the_caller_is_taken(tmp_path):
    folder = with_the_english_tokenizer(tmp_path)
    fitting = tmp_path / "elsewhere"
    fitting.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(GOLDEN / NLLB / file, fitting)
    right = openclip.load(GOLDEN / NLLB, "text").encode_text(TEXTS)
    given = openclip.load(folder, "text", tokenizer_folder=fitting)
    np.testing.assert_array_equal(given.encode_text(TEXTS), right)
    fitting.rename(folder / "tokenizer")
    np.testing.assert_array_equal(openclip.load(folder, "text").encode_text(TEXTS), right)
    assert "tokenizer/tokenizer.json" in openclip.wanted([CONFIG, "tokenizer/tokenizer.json"], "text")


# --- strictness ----------------------------------------------------------------------------------------------------

TEXT_TENSORS = {
    "openclip_vit": "transformer.resblocks.1.attn.in_proj_bias",
    "openclip_vit_quickgelu": "text.text_projection",
    "openclip_worldwide": "positional_embedding",
    "openclip_xlmr": "text.proj.2.weight",
    "openclip_xlmr_bundle": "text.transformer.pooler.dense.bias",
    "openclip_nllb_siglip": "text.transformer.layers.1.fc2.bias",
    "openclip_siglip": "text.text_projection.bias",
    "openclip_siglip_tanh": "text.ln_final.bias",
}
IMAGE_TENSORS = {
    "openclip_vit": "visual.ln_pre.bias",
    "openclip_resnet": "visual.layer1.0.downsample.1.running_var",
    "openclip_siglip": "visual.trunk.attn_pool.mlp.fc1.bias",
    "openclip_siglip_tanh": "visual.trunk.attn_pool.q.bias",
}
FAULTS = {
    "missing": lambda tensors, name: tensors.pop(name),
    "of another shape": lambda tensors, name: tensors.update({name: torch.zeros(3, 5, 7)}),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("tower", "name"), [("text", n) for n in TEXT_TENSORS] + [("image", n) for n in IMAGE_TENSORS])
def test_a_missing_or_misshapen_tensor_is_named_with_its_file(fault, tower, name, tmp_path):
    tensor = (TEXT_TENSORS if tower == "text" else IMAGE_TENSORS)[name]
    folder = changed(name, tmp_path, lambda tensors: FAULTS[fault](tensors, tensor))
    with pytest.raises(BabelclipError) as error:
        openclip.load(folder, tower)
    assert str(folder) in str(error.value)
    assert fault == "missing" or tensor in str(error.value)
    # The other tower does not read it.
    openclip.load(folder, "image" if tower == "text" else "text")


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("extra", ["visual.extra.weight", "text.extra.weight", "extra.weight"])
def test_a_tensor_that_nothing_explains_is_named(name, extra, tmp_path):
    folder = changed(name, tmp_path, lambda tensors: tensors.update({extra: torch.zeros(2)}))
    with pytest.raises(BabelclipError, match=extra):
        openclip.load(folder, "both")


def test_a_missing_logit_scale_is_an_error(tmp_path):
    folder = changed("openclip_vit", tmp_path, lambda tensors: tensors.pop("logit_scale"))
    with pytest.raises(BabelclipError, match="logit_scale is missing"):
        openclip.load(folder, "image")


def test_a_logit_scale_of_one_dimension_reads_as_well(tmp_path):
    folder = changed(
        "openclip_vit", tmp_path, lambda tensors: tensors.update(logit_scale=tensors["logit_scale"].reshape(1))
    )
    assert openclip.load(folder, "image").logit_scale == openclip.load(GOLDEN / "openclip_vit", "image").logit_scale


@pytest.mark.parametrize(
    ("name", "part", "values", "message"),
    [
        ("openclip_siglip", "vision_cfg", {"timm_model_name": "convnext_base"}, "convnext_base.*siglip"),
        ("openclip_siglip", "vision_cfg", {"timm_pool": "avg"}, "timm_pool 'avg'"),
        ("openclip_vit", "vision_cfg", {"ls_init_value": 0.1}, "vision_cfg.ls_init_value = 0.1.*readable: None"),
        ("openclip_vit", "vision_cfg", {"pool_type": "avg"}, "vision_cfg.pool_type = 'avg'"),
        ("openclip_vit", "vision_cfg", {"widht": 3}, "'widht'.*Did you mean 'width'"),
        ("openclip_vit", "vision_cfg", {"width": "wide"}, "wrong types"),
        ("openclip_vit", "vision_cfg", {"head_width": 0}, "impossible sizes"),
        ("openclip_vit", "text_cfg", {"layers": 10**9}, "1000000000 layers"),
        ("openclip_resnet", "vision_cfg", {"layers": [1, 1, 1, 10**9]}, "1000000000.* layers"),
        ("openclip_resnet", "vision_cfg", {"layers": [1, 1]}, "layers"),
        ("openclip_vit", "vision_cfg", {"width": 32}, "but the config asks for"),
        ("openclip_vit", "text_cfg", {"pool_type": "first"}, "pool_type 'first'"),
        ("openclip_vit", "text_cfg", {"no_causal_mask": True}, "without causal mask"),
        ("openclip_vit", "text_cfg", {"embed_cls": True}, "text_cfg.embed_cls"),
        ("openclip_vit", "text_cfg", {"tokenizer_kwargs": {"clean": "lover"}}, "Did you mean 'lower'"),
        ("openclip_vit", "text_cfg", {"tokenizer_kwargs": {"strip_sep_token": True}}, "strip_sep_token"),
        ("openclip_vit", "text_cfg", {"act_kwargs": {"approximate": "sine"}}, "act_kwargs"),
        ("openclip_vit", "text_cfg", {"norm_kwargs": {"bias": False}}, "norm_kwargs"),
        ("openclip_worldwide", "text_cfg", {"pool_type": "argmax"}, "largest id"),
        ("openclip_siglip_tanh", "", {"embed_dim": 20}, "from 32 to 20 dimensions"),
        ("openclip_xlmr", "text_cfg", {"hf_pooler_type": "meen_pooler"}, "Did you mean 'mean_pooler'"),
        ("openclip_xlmr", "text_cfg", {"hf_proj_type": None}, "hf_proj_type = None"),
        ("openclip_xlmr", "text_cfg", {"hf_model_name": "xlm-roberta-bas"}, "xlm-roberta-base.*config.json"),
        ("openclip_xlmr", "text_cfg", {"hf_model_name": "x" * 5000}, "whose config is not shipped"),
        ("openclip_xlmr", "text_cfg", {"hf_model_name": "../openclip_xlmr"}, "whose config is not shipped"),
        ("openclip_vit", "", {"embed_dim": "many"}, "embed_dim = 'many'"),
        ("openclip_vit", "", {"vision_cfg": None}, "vision_cfg"),
    ],
)
def test_a_config_that_cannot_be_followed_is_refused_with_the_reason(name, part, values, message, tmp_path):
    folder = configured(name, tmp_path, part, **values)
    with pytest.raises(BabelclipError, match=message):
        openclip.load(folder, "both")


def test_settings_of_training_change_nothing(tmp_path):
    folder = configured("openclip_vit", tmp_path, "vision_cfg", patch_dropout=0.5, output_tokens=True)
    assert max(image_differences(babelclip.load(folder, "image"), "openclip_vit").values()) < CLOSE


def test_the_activation_is_the_configs(tmp_path):
    folder = configured("openclip_vit", tmp_path, "", quick_gelu=True)
    assert max(image_differences(babelclip.load(folder, "image"), "openclip_vit").values()) > 1e-3
    assert max(text_differences(babelclip.load(folder, "text"), "openclip_vit").values()) > 1e-3


def test_the_checkpoints_of_a_training_in_one_folder_are_named(tmp_path):
    folder = copy_of("openclip_vit", tmp_path)
    tensors = load_file(folder / SAFE)
    (folder / SAFE).unlink()
    torch.save(tensors, folder / "epoch_1.pt")
    assert openclip.load(folder, "image").embed_dim == openclip.load(GOLDEN / "openclip_vit", "image").embed_dim
    torch.save(tensors, folder / "epoch_2.pt")
    with pytest.raises(BabelclipError, match=r"2 torch files \(epoch_1\.pt, epoch_2\.pt\).*folder of its own"):
        openclip.load(folder, "image")
