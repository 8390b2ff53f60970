"""Exports to sentence-transformers, read back by babelclip; tests/golden/exports.py uses the library itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers

import babelclip
from babelclip.errors import BabelclipError
from babelclip.models.cleaning import CLEANINGS
from babelclip.models.clip import Clip
from babelclip.models.export.sentence_transformers import export_sentence_transformers
from babelclip.models.export.stored import ExportWarning
from babelclip.models.export.tokenizers import cleaning_steps, write_tokenizer
from babelclip.models.head import build_head
from babelclip.models.text import TextEncoder
from babelclip.models.tokenization import TextTokenizer
from tests.conftest import make_image_encoder, make_text_encoder
from tests.golden.inputs import TEXTS, pictures
from tests.models.export.parts import REPAIRED, golden, image_differences, quietly, size, text_differences


@pytest.mark.parametrize(
    "name",
    [
        "mclip_xlmr", "mclip_distilbert", "mclip_bert", "contrastive_tension_swedish", "sentence_transformers_6",
        "altclip_hub", "clip", "metaclip2",
    ],
)  # fmt: skip
def test_every_vector_is_bit_equal_after_a_round_trip(tmp_path, name):
    clip = golden(name)
    back = babelclip.load(quietly(export_sentence_transformers, clip, tmp_path / "st"), device="cpu")
    assert text_differences(clip, back).max() == 0
    assert (back.image is None) == (clip.image is None)
    if clip.image is not None:
        assert image_differences(clip, back).max() == 0


@pytest.mark.parametrize("name", ["openclip_xlmr", "openclip_vit", "openclip_worldwide"])
def test_only_texts_that_ftfy_repairs_differ_and_the_readme_says_so(tmp_path, name):
    clip = golden(name)
    with pytest.warns(ExportWarning, match="ftfy"):
        folder = export_sentence_transformers(clip, tmp_path / "st", towers="text")
    differences = text_differences(clip, babelclip.load(folder, device="cpu"))
    assert [row for row in range(len(TEXTS)) if differences[row] > 0] == REPAIRED
    assert "ftfy" in (folder / "README.md").read_text()


def test_pictures_that_transformers_prepares_otherwise_are_told(tmp_path):
    clip = golden("openclip_xlmr")
    with pytest.warns(ExportWarning, match="half a pixel at the cut of the middle: cut off"):
        folder = export_sentence_transformers(clip, tmp_path / "st")
    # The first five are RGB of even rests.
    assert image_differences(clip, babelclip.load(folder, device="cpu"))[:5].max() == 0
    assert "transparent pictures: laid on white" in (folder / "README.md").read_text()


def test_both_towers_make_one_router_and_each_loads_alone(tmp_path):
    clip = golden("altclip_hub")
    folder = quietly(export_sentence_transformers, clip, tmp_path / "st")
    router = json.loads((folder / "router_config.json").read_text())
    assert router["parameters"]["route_mappings"] == {"(None, 'text')": "text", "(None, 'image')": "image"}
    assert babelclip.load(folder, "text", device="cpu").image is None
    assert babelclip.load(folder, "image", device="cpu").text is None
    image = quietly(export_sentence_transformers, clip, tmp_path / "image", towers="image")
    back = babelclip.load(image, device="cpu")
    assert back.text is None
    assert image_differences(clip, back).max() == 0


def test_a_plain_text_tower_is_written_as_every_version_reads_it(tmp_path):
    folder = quietly(export_sentence_transformers, golden("mclip_xlmr"), tmp_path / "st")
    types = [module["type"] for module in json.loads((folder / "modules.json").read_text())]
    assert types == [f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling", "Dense")]
    assert json.loads((folder / "1_Pooling" / "config.json").read_text())["pooling_mode_mean_tokens"] is True


def test_a_clip_text_tower_is_written_so_that_old_versions_stop(tmp_path):
    """sentence-transformers 3.4 leaves its weights random under the old names, without a word."""
    folder = quietly(export_sentence_transformers, golden("metaclip2"), tmp_path / "st", towers="text")
    types = [module["type"] for module in json.loads((folder / "modules.json").read_text())]
    assert types[0] == "sentence_transformers.base.modules.transformer.Transformer"


def test_float16_halves_the_files_and_moves_little(tmp_path):
    clip = golden("mclip_xlmr")
    full = export_sentence_transformers(clip, tmp_path / "full")
    half = export_sentence_transformers(clip, tmp_path / "half", dtype="float16")
    assert size(half) < 0.6 * size(full)
    back = babelclip.load(half, device="cpu")
    one, other = (found.encode_text(TEXTS) for found in (clip, back))
    assert (one * other).sum(axis=1).min() > 0.99999


def test_a_prefix_becomes_the_prompt_of_every_method(tmp_path):
    clip = golden("mclip_xlmr")
    clip.text.tokenizer.prefix = "query: "
    folder = export_sentence_transformers(clip, tmp_path / "st")
    settings = json.loads((folder / "config_sentence_transformers.json").read_text())
    assert settings["prompts"] == {"default": "query: ", "query": "query: ", "document": "query: "}
    assert settings["default_prompt_name"] == "default"
    assert text_differences(clip, babelclip.load(folder, device="cpu")).max() == 0


def test_with_normalize_the_rows_have_unit_length(tmp_path):
    folder = export_sentence_transformers(golden("mclip_xlmr"), tmp_path / "st", normalize=True)
    rows = babelclip.load(folder, device="cpu").encode_text(TEXTS, normalize=False)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_with_normalize_both_towers_end_so_behind_their_router(tmp_path):
    folder = quietly(export_sentence_transformers, golden("altclip_hub"), tmp_path / "st", normalize=True)
    clip = babelclip.load(folder, device="cpu")
    for rows in (clip.encode_text(TEXTS, normalize=False), clip.encode_image(pictures()[:2], normalize=False)):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("rule", sorted(CLEANINGS))
def test_every_cleaning_rule_has_a_form_as_normalizers(rule):
    assert bool(cleaning_steps(rule)[0]) == (rule != "none")


def test_a_head_of_other_layers_is_carried_over(tmp_path):
    text = make_text_encoder()
    layers = [{"kind": "normalize"}, {"kind": "shift"}, {"kind": "tanh"}, {"kind": "linear", "out": 16}]
    text = TextEncoder(text.backbone, pooling="max", head=layers, tokenizer=text.tokenizer).eval()
    torch.nn.init.normal_(text.head[1].bias)
    clip = Clip(space="test/tiny", text=text)
    back = babelclip.load(export_sentence_transformers(clip, tmp_path / "st"), device="cpu")
    assert text_differences(clip, back).max() <= 1e-6


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("siglip", {}, "backbone is siglip_text_model"),
        ("openclip_nllb_siglip", {}, "backbone is m2m_100"),
        ("openclip_resnet", {}, "backbone is ClipResNet.*towers='text'"),
        ("mclip_xlmr", {"towers": "image"}, "without that tower"),
        ("mclip_xlmr", {"towers": "all"}, "towers='all'"),
        ("mclip_xlmr", {"dtype": "int8"}, "onnx or openvino"),
    ],
)
def test_what_has_no_place_there_is_named(tmp_path, name, options, message):
    with pytest.raises(BabelclipError, match=message):
        quietly(export_sentence_transformers, golden(name), tmp_path / "st", **options)
    assert not (tmp_path / "st").exists()


@pytest.mark.parametrize("layer", [{"kind": "softmax"}, {"kind": "layer_norm", "eps": 1e-12}])
def test_a_layer_that_has_no_place_there_is_named(tmp_path, layer):
    text = make_text_encoder()
    text.head_layers = [layer]
    text.head, text.embed_dim = build_head([layer], text.width)
    with pytest.raises(BabelclipError, match=f"Layer 0 of the text tower's head is .*{layer['kind']}"):
        export_sentence_transformers(Clip(space="test/tiny", text=text), tmp_path / "st")


def test_an_own_preprocessing_that_no_processor_has_is_refused(tmp_path):
    image = make_image_encoder()
    image.preprocess = type(image.preprocess)(resize=32, crop=32, fit="pad")
    with pytest.raises(BabelclipError, match=r"fit 'pad'.*towers='text'"):
        export_sentence_transformers(Clip(space="test/tiny", image=image), tmp_path / "st")


def test_weights_beyond_half_precision_are_refused(tmp_path):
    text = make_text_encoder()
    text.head[0].bias.data[0] = 1e6
    with pytest.raises(BabelclipError, match=r"linear\.bias.*65504.*float32"):
        export_sentence_transformers(Clip(space="test/tiny", text=text), tmp_path / "st", dtype="float16")


@pytest.mark.parametrize("prefix", ["", "query: "])
@pytest.mark.parametrize("rule", ["none", "lowercase", "siglip", "plain_phrase"])
def test_cleaning_as_normalizers_equals_the_rule(rule, prefix):
    if prefix and rule == "siglip":
        pytest.skip("it takes the colon out of the prefix, which the notes say")
    steps, _notes = cleaning_steps(rule, prefix)
    made = normalizers.Sequence(steps)
    texts = [*TEXTS, "ΟΔΟΣ ΣΟΦΟΣ.", "A\x1cB\u3000c_d", "İstanbul -- (ÄÖ)!", "En hund. ", " Är du där...", "NASA", "A",
             "F-22", "Ｅn", "Một con chó。", "Собака.", ".", " . ", "E\u0301tude."]  # fmt: skip
    assert [made.normalize_str(prefix + text) for text in texts] == [prefix + CLEANINGS[rule](text) for text in texts]


def test_a_prefix_that_the_cleaning_would_change_is_told():
    assert "prefix" in " ".join(cleaning_steps("lowercase", "Query: ")[1])
    assert "prefix" not in " ".join(cleaning_steps("lowercase", "query: ")[1])


def test_the_readme_says_whose_work_it_is(tmp_path):
    clip = golden("mclip_xlmr")
    clip.attribution = ("weights by A, CC-BY 4.0",)
    text = (export_sentence_transformers(clip, tmp_path / "st") / "README.md").read_text()
    for fact in (clip.name, clip.space, "weights by A, CC-BY 4.0", 'SentenceTransformer("st")'):
        assert fact in text


def test_the_language_that_nllb_names_otherwise_than_flores_stands_first(tmp_path):
    words = {token: number for number, token in enumerate(("<s>", "<pad>", "</s>", "<unk>", "sat_Beng", "a"))}
    tokenizer = TextTokenizer(
        Tokenizer(models.WordLevel(words, unk_token="<unk>")), max_length=8, pad_id=1, language="sat"
    )
    write_tokenizer(tokenizer, tmp_path)
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("a").tokens == ["sat_Beng", "a", "</s>"]
