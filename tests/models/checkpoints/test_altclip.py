"""AltCLIP against transformers 4.57 and 5.23 and diffusers 0.42 (tests/golden/make/altclip.py), in every layout."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import babelclip
from babelclip.errors import BabelclipError
from babelclip.models.checkpoints import altclip, reader_of
from babelclip.models.checkpoints.files.tensors import Tensors, open_tensors
from babelclip.models.clip import Clip
from babelclip.models.export.altclip import export_altclip, hub_tensors
from tests.golden.inputs import TEXTS, pictures

GOLDEN = Path(__file__).parents[2] / "golden"
HUB = GOLDEN / "altclip_hub"
FOLDERS = ["altclip_hub", "altclip_t5", "altclip_flagai"]
CLOSE = 1e-5


def expected(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name / "expected.npz") as file:
        return dict(file)


def vectors(clip: Clip) -> np.ndarray:
    return np.concatenate([clip.encode_text(TEXTS[:6], normalize=False), clip.encode_image(pictures()[:3], False)])


@pytest.fixture
def hub_state() -> dict[str, torch.Tensor]:
    tensors = open_tensors(HUB)
    return {name: tensors[name].clone() for name in tensors}


@pytest.fixture
def folder_with(tmp_path: Path) -> Callable[..., Path]:
    """Makes a copy of the hub golden with other tensors in a file of another form."""

    def make(state: dict[str, object], file: str = "pytorch_model.bin") -> Path:
        folder = tmp_path / "AltCLIP"
        shutil.copytree(HUB, folder)
        (folder / "pytorch_model.bin").unlink()
        if file.endswith(".safetensors"):
            save_file(state, folder / file)
        else:
            torch.save(state, folder / file)
        return folder

    return make


def changed_config(folder: Path, change: Callable[[dict], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


# --- numbers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("towers", ["both", "text"])
def test_text_features_equal_the_original_in_a_batch_alone_and_in_other_order(name, towers):
    clip = altclip.load(GOLDEN / name, towers)
    wanted = expected(name)
    np.testing.assert_allclose(clip.encode_text(TEXTS, normalize=False), wanted["text"], atol=CLOSE)
    alone = np.concatenate([clip.encode_text(text, normalize=False) for text in TEXTS])
    np.testing.assert_allclose(alone, wanted["text_single"], atol=CLOSE)
    order = np.random.default_rng(0).permutation(len(TEXTS))
    mixed = clip.encode_text([TEXTS[row] for row in order], normalize=False, token_budget=100)
    np.testing.assert_allclose(mixed, wanted["text"][order], atol=CLOSE)


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("towers", ["both", "image"])
def test_pixels_and_image_features_equal_the_original(name, towers):
    clip = altclip.load(GOLDEN / name, towers)
    wanted = expected(name)
    chosen = pictures()[: len(wanted["image"])]
    pixels = np.stack([clip.image.preprocess(picture) for picture in chosen])
    np.testing.assert_array_equal(pixels, wanted["pixels"])
    np.testing.assert_allclose(clip.encode_image(chosen, normalize=False), wanted["image"], atol=CLOSE)
    alone = np.concatenate([clip.encode_image(picture, normalize=False) for picture in chosen])
    np.testing.assert_allclose(alone, wanted["image"], atol=CLOSE)


@pytest.mark.parametrize("name", FOLDERS)
def test_logit_scale_and_logits_equal_the_original(name):
    clip = altclip.load(GOLDEN / name, "both")
    wanted = expected(name)
    chosen = pictures()[: len(wanted["image"])]
    assert clip.logit_scale == pytest.approx(float(wanted["logit_scale"]), abs=CLOSE)
    logits = clip.logits(clip.encode_text(TEXTS), clip.encode_image(chosen))
    # Cosines agree to 1e-6; the scale of 22 multiplies what is left.
    np.testing.assert_allclose(logits, wanted["logits_per_text"], atol=CLOSE * clip.logit_scale)


def test_texts_are_cut_at_77_tokens_and_the_limit_can_be_raised():
    text = altclip.load(HUB, "text").text
    assert [len(ids) for ids in text.tokenize([TEXTS[-1]])] == [77]
    text.tokenizer.max_length = 85
    assert [len(ids) for ids in text.tokenize([TEXTS[-1]])] == [85]


# --- layouts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FOLDERS)
def test_the_layout_is_recognised_from_its_files(name):
    assert reader_of(GOLDEN / name) is altclip


def renamed(state: dict[str, torch.Tensor], *pairs: tuple[str, str]) -> dict[str, torch.Tensor]:
    for old, new in pairs:
        state = {name.replace(old, new): tensor for name, tensor in state.items()}
    return state


def without_position_ids(state):
    return {name: tensor for name, tensor in state.items() if not name.endswith("position_ids")}


LAYOUTS = {
    "hub": lambda state: state,
    "without position_ids": without_position_ids,
    "save_pretrained of transformers 5": lambda state: renamed(
        without_position_ids(state), ("vision_model.encoder.layers.", "vision_model.encoder.layer.")
    ),
    "in memory of transformers 5": lambda state: renamed(state, ("roberta.encoder.layer.", "roberta.encoder.layers.")),
    "FlagAI": lambda state: {"module": state, "iteration": 10},
    "state_dict": lambda state: {"state_dict": state},
    "distributed": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "FlagAI, distributed": lambda state: {"module": {f"module.{name}": tensor for name, tensor in state.items()}},
    "unused pooler": lambda state: {**state, "text_model.roberta.pooler.dense.bias": torch.zeros(24)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_model(layout, hub_state, folder_with):
    clip = altclip.load(folder_with(LAYOUTS[layout](hub_state)), "both")
    np.testing.assert_array_equal(vectors(clip), vectors(altclip.load(HUB, "both")))


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_single_and_sharded_files_give_the_same_model(form, hub_state, folder_with):
    stem = {"safetensors": "model", "bin": "pytorch_model"}[form]
    single = folder_with(hub_state, f"{stem}.{form}")
    wanted = vectors(altclip.load(HUB, "both"))
    np.testing.assert_array_equal(vectors(altclip.load(single, "both")), wanted)
    (single / f"{stem}.{form}").unlink()
    names = sorted(hub_state)
    shards = {f"{stem}-0000{n}-of-00002.{form}": names[n - 1 :: 2] for n in (1, 2)}
    for file, members in shards.items():
        save = save_file if form == "safetensors" else torch.save
        save({name: hub_state[name] for name in members}, single / file)
    weight_map = {name: file for file, members in shards.items() for name in members}
    (single / f"{stem}.{form}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    np.testing.assert_array_equal(vectors(altclip.load(single, "both")), wanted)


def test_legacy_config_keys_change_nothing_and_config_dicts_override(tmp_path):
    # The golden config holds direct_kd, num_layers: 3, torch_dtype, variant, and text_config_dict, whose two layers
    # override the five of text_config, as in transformers.
    config = json.loads((HUB / "config.json").read_text())
    assert config["text_config"]["num_hidden_layers"] == 5
    assert altclip.load(HUB, "text").text.backbone.config.num_hidden_layers == 2
    folder = tmp_path / "m"
    shutil.copytree(HUB, folder)
    changed_config(folder, lambda config: config.update(vision_config_dict=config.pop("vision_config")))
    np.testing.assert_array_equal(vectors(altclip.load(folder, "both")), vectors(altclip.load(HUB, "both")))


def test_what_a_config_does_not_say_is_the_default_of_transformers(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "altclip"}')
    config = altclip._parsed(tmp_path / "config.json")
    assert (config.text_config.project_dim, config.projection_dim, config.text_config.hidden_size) == (768, 768, 1024)
    assert config.vision_config.hidden_act == "quick_gelu"


# --- one tower -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("towers", "other", "file"),
    [
        ("text", ("vision_model.", "visual_projection."), "preprocessor_config.json"),
        ("image", ("text_model.", "text_projection."), "tokenizer.json"),
    ],
)
def test_the_other_tower_is_neither_read_nor_needed(towers, other, file, tmp_path, monkeypatch):
    folder = tmp_path / "one"
    shutil.copytree(HUB, folder)
    (folder / file).unlink()
    read: list[str] = []
    original = Tensors.__getitem__
    monkeypatch.setattr(Tensors, "__getitem__", lambda self, name: read.append(name) or original(self, name))
    clip = altclip.load(folder, towers)
    assert (clip.text is None, clip.image is None) == (towers == "image", towers == "text")
    assert read != []
    assert [name for name in read if name.startswith(other)] == []
    assert not any(name.endswith("position_ids") for name in read)


def test_the_processor_file_of_transformers_5_serves_too(tmp_path):
    folder = Path(shutil.copytree(HUB, tmp_path / "saved"))
    settings = json.loads((folder / altclip.two_tower.PREPROCESSOR).read_text())
    (folder / altclip.two_tower.PREPROCESSOR).unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    assert altclip.load(folder, "image").image.preprocess == altclip.load(HUB, "image").image.preprocess
    assert "processor_config.json" in altclip.wanted([path.name for path in folder.iterdir()], "image")


def test_a_download_takes_the_files_that_the_towers_need():
    names = [
        "README.md", "config.json", "model.safetensors", "pytorch_model.bin", "preprocessor_config.json",
        "sentencepiece.bpe.model", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    both = ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(altclip.wanted(names, "both")) == both
    assert sorted(altclip.wanted(names, "text")) == [name for name in both if "preprocessor" not in name]
    assert sorted(altclip.wanted(names, "image")) == both[:3]
    slow = [name for name in names if name != "tokenizer.json"]
    assert "sentencepiece.bpe.model" in altclip.wanted(slow, "text")


# --- strictness ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "towers"),
    [
        ("text_model.pre_LN.weight", "text"),
        ("text_model.transformation.bias", "both"),
        ("text_projection.weight", "text"),
        ("text_model.roberta.encoder.layer.1.output.dense.bias", "text"),
        ("vision_model.pre_layrnorm.bias", "image"),
        ("visual_projection.weight", "image"),
        ("logit_scale", "both"),
    ],
)
def test_a_missing_tensor_is_one_error_that_names_file_and_tensor(name, towers, hub_state, folder_with):
    del hub_state[name]
    folder = folder_with(hub_state)
    with pytest.raises(BabelclipError) as caught:
        altclip.load(folder, towers)
    message = str(caught.value)
    assert "pytorch_model.bin" in message
    # A missing weight is named by its place in the model: the last two parts are those of the checkpoint's name.
    assert name.split(".")[-1] in message
    assert "missing" in message


@pytest.mark.parametrize("name", ["text_model.extra.weight", "vision_model.extra", "head", "text_model.roberta.x.bias"])
def test_an_unknown_tensor_is_an_error_that_names_it(name, hub_state, folder_with):
    folder = folder_with({**hub_state, name: torch.zeros(2)})
    with pytest.raises(BabelclipError, match=name):
        altclip.load(folder, "both")


@pytest.mark.parametrize("towers", ["text", "image"])
def test_a_tensor_of_another_shape_is_an_error_with_both_shapes(towers, hub_state, folder_with):
    name = {"text": "text_projection.weight", "image": "visual_projection.weight"}[towers]
    hub_state[name] = hub_state[name].T.contiguous()
    folder = folder_with(hub_state)
    with pytest.raises(BabelclipError) as caught:
        altclip.load(folder, towers)
    shape = tuple(hub_state[name].shape)
    assert all(part in str(caught.value) for part in ("pytorch_model.bin", name, str(shape), str(shape[::-1])))


def test_both_names_of_one_layer_are_refused(hub_state, folder_with):
    twice = "vision_model.encoder.layer.0.layer_norm1.bias"
    folder = folder_with({**hub_state, twice: torch.zeros(24)})
    with pytest.raises(BabelclipError, match="layer_norm1"):
        altclip.load(folder, "image")


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["text_config_dict"].update(num_attention_heads=5),
        lambda config: config["text_config_dict"].update(vocab_size="many"),
        lambda config: config.update(text_config_dict=7),
        lambda config: config.update(projection_dim="wide"),
        lambda config: config["vision_config"].update(dtype=[2, 3]),
        lambda config: config["text_config_dict"].update(max_position_embeddings=-1),
    ],
)
def test_a_config_that_makes_no_sense_is_an_error_that_names_the_file(change, tmp_path):
    folder = tmp_path / "odd"
    shutil.copytree(HUB, folder)
    changed_config(folder, change)
    with pytest.raises(BabelclipError, match=r"config\.json"):
        altclip.load(folder, "text")


# --- export --------------------------------------------------------------------------------------------------------


def test_the_hub_layout_comes_back_bit_for_bit(hub_state):
    again = hub_tensors(altclip.load(HUB, "both"))
    wanted = without_position_ids(hub_state)
    assert again.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert again[name].dtype == tensor.dtype
        assert torch.equal(again[name], tensor), name


@pytest.mark.parametrize("name", FOLDERS)
def test_an_export_loads_with_equal_vectors(name, tmp_path):
    clip = altclip.load(GOLDEN / name, "both")
    again = altclip.load(export_altclip(clip, tmp_path / "out"), "both")
    np.testing.assert_array_equal(vectors(again), vectors(clip))
    assert again.logit_scale == pytest.approx(clip.logit_scale, rel=1e-7)
    assert again.image.preprocess == clip.image.preprocess
    assert (again.text.token_head is None) == (name != "altclip_flagai")


@pytest.mark.parametrize("name", ["altclip_hub", "altclip_t5"])
def test_transformers_reads_an_export_whole_and_gives_equal_outputs(name, tmp_path):
    from transformers import AltCLIPModel, AutoTokenizer

    clip = altclip.load(GOLDEN / name, "both")
    folder = export_altclip(clip, tmp_path / "out")
    model, report = AltCLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, truncation=True, return_tensors="pt")
    pixels = torch.from_numpy(expected(name)["pixels"])
    with torch.no_grad():
        text = model.get_text_features(tokens["input_ids"], tokens["attention_mask"])
        image = model.get_image_features(pixels)
    # transformers 4 gives a tensor here, 5 an output object.
    text, image = (x if isinstance(x, torch.Tensor) else x.pooler_output for x in (text, image))
    np.testing.assert_allclose(clip.encode_text(TEXTS, normalize=False), text.numpy(), atol=CLOSE)
    np.testing.assert_allclose(clip.encode_image(pictures()[: len(pixels)], normalize=False), image.numpy(), atol=CLOSE)
    assert clip.logit_scale == pytest.approx(math.exp(model.logit_scale.item()), rel=1e-6)


def test_an_export_holds_the_hub_names_in_the_safe_form(tmp_path, hub_state):
    clip = altclip.load(HUB, "both")
    folder = export_altclip(clip, tmp_path / "out")
    assert load_file(folder / "model.safetensors").keys() == without_position_ids(hub_state).keys()
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"
    ]  # fmt: skip


def test_what_the_layout_cannot_hold_is_refused(tiny_clip, tmp_path):
    with pytest.raises(BabelclipError, match="bert"):
        export_altclip(tiny_clip, tmp_path / "out")
    with pytest.raises(BabelclipError, match="both"):
        export_altclip(altclip.load(HUB, "text"), tmp_path / "out")
    clip = altclip.load(HUB, "both")
    clip.text.tokenizer.prefix = "query: "
    with pytest.raises(BabelclipError, match="text tower has prefix 'query: '"):
        export_altclip(clip, tmp_path / "out")
    clip = altclip.load(HUB, "both")
    clip.image.preprocess = replace(clip.image.preprocess, crop_offset="round")
    with pytest.raises(BabelclipError, match="half a pixel at the cut"):
        export_altclip(clip, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_native_format_keeps_everything(tmp_path):
    clip = babelclip.load(GOLDEN / "altclip_flagai", space="test/altclip")
    again = babelclip.load(clip.save(tmp_path / "native"))
    np.testing.assert_array_equal(vectors(again), vectors(clip))
    rule = {"preset": "altdiffusion-m18"}
    assert torch.equal(again.encode_tokens(TEXTS, **rule).states, clip.encode_tokens(TEXTS, **rule).states)
