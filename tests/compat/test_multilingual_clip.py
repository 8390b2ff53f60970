"""The drop-in module gives what the package multilingual-clip gives, and fails with a sentence where that fails."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from babelclip.compat import multilingual_clip
from babelclip.compat.multilingual_clip import Config_MCLIP, legacy_multilingual_clip, pt_multilingual_clip
from babelclip.errors import BabelclipError
from tests.golden.inputs import TEXTS

GOLDEN = Path(__file__).parents[1] / "golden"
XLMR = GOLDEN / "mclip_xlmr"


def fast_tokenizer(folder: Path):
    """A transformers tokenizer object, as users of the old package pass it."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="<pad>")


@pytest.fixture
def model() -> pt_multilingual_clip.MultilingualCLIP:
    return pt_multilingual_clip.MultilingualCLIP.from_pretrained(str(XLMR), cache_dir=None)


@pytest.fixture
def legacy_folder(tmp_path: Path) -> Path:
    """A copy, because the first load writes the converted head beside the pickle."""
    return Path(shutil.copytree(GOLDEN / "mclip_legacy_swedish", tmp_path / "Swedish-2M"))


def test_forward_gives_the_originals_vectors(model):
    expected = np.load(XLMR / "expected.npz")
    features = model.forward(TEXTS, fast_tokenizer(XLMR))
    assert features.dtype == torch.float32
    assert not model.training
    np.testing.assert_allclose(features.detach().numpy(), expected["text"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["mclip_bert", "mclip_distilbert"])
def test_a_tokenizer_of_transformers_serves_with_and_without_token_types(name):
    from transformers import BertTokenizer

    folder = GOLDEN / name
    model = pt_multilingual_clip.MultilingualCLIP.from_pretrained(folder)
    tokenizer = BertTokenizer.from_pretrained(folder, do_lower_case=False)
    features = model(TEXTS, tokenizer)
    np.testing.assert_allclose(features.detach().numpy(), np.load(folder / "expected.npz")["text"], rtol=0, atol=1e-5)


def test_one_string_is_a_batch_of_one_and_calling_is_forward(model):
    features = model(TEXTS[0], fast_tokenizer(XLMR))
    np.testing.assert_allclose(
        features.detach().numpy(), np.load(XLMR / "expected.npz")["text_single"][:1], rtol=0, atol=1e-5
    )


def test_vectors_keep_their_gradients_and_the_keys_are_those_of_the_checkpoint(model):
    model(TEXTS[:2], fast_tokenizer(XLMR)).sum().backward()
    assert model.LinearTransformation.weight.grad is not None
    names = set(model.state_dict())
    assert {"LinearTransformation.weight", "transformer.embeddings.word_embeddings.weight"} <= names


def test_the_config_has_the_stored_names_and_takes_both_spellings(model, tmp_path):
    assert (model.config.modelBase, model.config.transformerDimensions, model.config.numDims) == (
        "xlm-roberta-large", 32, 16,
    )  # fmt: skip
    made = Config_MCLIP.MCLIPConfig("bert-base-multilingual-cased", transformerDimSize=768, imageDimSize=512)
    made.save_pretrained(tmp_path)
    read = Config_MCLIP.MCLIPConfig.from_pretrained(tmp_path)
    assert read.to_dict() == {
        "modelBase": "bert-base-multilingual-cased", "transformerDimensions": 768, "numDims": 512,
        "model_type": "M-CLIP",
    }  # fmt: skip
    assert Config_MCLIP.MCLIPConfig().numDims == 768


def test_a_model_is_built_on_a_backbone_folder_as_the_original_constructor_does():
    folder = GOLDEN / "contrastive_tension_bert"
    config = Config_MCLIP.MCLIPConfig(str(folder), transformerDimSize=32, imageDimSize=8)
    built = pt_multilingual_clip.MultilingualCLIP(config)
    assert built.LinearTransformation.weight.shape == (8, 32)
    with pytest.raises(BabelclipError, match="width 32, not 1024"):
        pt_multilingual_clip.MultilingualCLIP(Config_MCLIP.MCLIPConfig(str(folder)))


def test_too_many_tokens_get_a_sentence_instead_of_an_index_error(model):
    with pytest.raises(BabelclipError, match=r"at most 128.*truncates"):
        model("dog " * 200, fast_tokenizer(XLMR))


def test_a_folder_of_another_layout_is_refused(tmp_path):
    with pytest.raises(BabelclipError, match="no M-CLIP of 2022"):
        pt_multilingual_clip.MultilingualCLIP.from_pretrained(GOLDEN / "contrastive_tension_bert")


def test_cache_dir_is_where_the_hub_is_looked_for_and_nothing_else_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", "/before")
    with pytest.raises(BabelclipError, match=str(tmp_path)):
        pt_multilingual_clip.MultilingualCLIP.from_pretrained("M-CLIP/LABSE-Vit-L-14", cache_dir=tmp_path)
    import os

    assert os.environ["HF_HUB_CACHE"] == "/before"


def test_the_legacy_class_gives_the_originals_vectors(legacy_folder):
    head = "Swedish-2M Linear Weights.pkl"
    weights = legacy_folder.parent / "weights"
    weights.mkdir()
    (legacy_folder / head).rename(weights / head)
    model = legacy_multilingual_clip.MultilingualClip(
        str(legacy_folder), str(legacy_folder), head, weights_dir=f"{weights}/"
    )
    expected = np.load(legacy_folder / "expected.npz")
    np.testing.assert_allclose(model(TEXTS).detach().numpy(), expected["text"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(model(TEXTS[3]).detach().numpy(), expected["text_single"][3:4], rtol=0, atol=1e-5)
    assert model.clip_head.out_features == 12
    assert model("hund " * 400).shape == (1, 12)


def test_legacy_load_model_takes_the_old_names(legacy_folder, monkeypatch):
    assert sorted(multilingual_clip.AVAILABLE_MODELS) == [
        "M-BERT-Base-69", "M-BERT-Base-ViT-B", "M-BERT-Distil-40", "Swe-CLIP-2M", "Swe-CLIP-500k",
    ]  # fmt: skip
    entry = {"model_name": str(legacy_folder), "tokenizer_name": str(legacy_folder)}
    entry["head_name"] = multilingual_clip.AVAILABLE_MODELS["Swe-CLIP-2M"]["head_name"]
    monkeypatch.setitem(legacy_multilingual_clip.AVAILABLE_MODELS, "Swe-CLIP-2M", entry)
    assert multilingual_clip.load_model("Swe-CLIP-2M", cache_dir=None)("hund").shape == (1, 12)


def test_an_unknown_legacy_name_and_a_missing_head_say_what_to_do(legacy_folder):
    with pytest.raises(BabelclipError, match="M-BERT-Base-69"):
        multilingual_clip.load_model("M-BERT-Base-70")
    with pytest.raises(BabelclipError, match=r"legacy_get-weights\.sh"):
        multilingual_clip.MultilingualClip(str(legacy_folder), str(legacy_folder), "no head.pkl")
