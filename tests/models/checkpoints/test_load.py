"""What `load` adds to the readers: which model it is, which space it lies in, and what completes it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import babelclip
from babelclip import registry
from babelclip.errors import BabelclipError, SpaceMismatchError
from babelclip.models.checkpoints import READERS, reader_of
from babelclip.models.checkpoints.identity import fingerprint
from babelclip.models.checkpoints.openclip_known import known_config
from babelclip.models.clip import UndeclaredLanguageWarning
from tests.conftest import draw_shape, make_clip

GOLDEN = Path(__file__).parents[2] / "golden"
TEXT = GOLDEN / "mclip_xlmr"
BOTH = GOLDEN / "altclip_hub"
CHECKPOINTS = sorted(path.parent for path in GOLDEN.glob("*/expected.npz"))


def as_files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def published(monkeypatch):
    """Cards of tiny models: a text tower alone, and the model whose picture tower completes it."""
    text = dataclasses.replace(
        registry.find("M-CLIP/XLM-Roberta-Large-Vit-B-32"), name="lab/text", repo="lab/text", embed_dim=16,
        space="test/tiny", image_twin="lab/pictures", revision="", logit_scale=10.0,
    )  # fmt: skip
    image = dataclasses.replace(
        registry.find("timm/vit_base_patch32_clip_224.openai"), name="lab/pictures", repo="lab/pictures",
        embed_dim=16, space="test/tiny", layout="native", revision="",
    )  # fmt: skip
    cards = (text, image)
    monkeypatch.setattr(registry, "cards", lambda: cards)
    monkeypatch.setattr(registry, "_by_name", lambda: {card.name: card for card in cards})
    return cards


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda path: path.name)
def test_every_golden_checkpoint_is_taken_by_one_reader_and_encodes(folder, tmp_path):
    from importlib import import_module

    readers = [name for name in READERS if import_module(f"babelclip.models.checkpoints.{name}").recognises(folder)]
    assert readers, f"no reader takes {folder.name}"
    assert reader_of(folder).__name__.endswith(f".{readers[0]}")
    clip = babelclip.load(shutil.copytree(folder, tmp_path / "copy"))
    if clip.text is not None:
        assert np.isfinite(clip.encode_text(["två hundar", ""])).all()
    if clip.image is not None:
        assert np.isfinite(clip.encode_image(draw_shape("red", "circle"))).all()


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda path: path.name)
def test_a_published_model_saved_in_our_format_gives_the_same_vectors(folder, tmp_path):
    clip = babelclip.load(shutil.copytree(folder, tmp_path / "copy"))
    again = babelclip.load(clip.save(tmp_path / "saved"))
    assert (again.space, again.name, again.logit_scale, again.logit_bias) == (
        clip.space, clip.name, clip.logit_scale, clip.logit_bias,
    )  # fmt: skip
    if clip.text is not None:
        texts = ["två hundar", "A Photo of a dog!", "", "狗" * 40]
        np.testing.assert_array_equal(again.encode_text(texts, normalize=False), clip.encode_text(texts, False))
    if clip.image is not None:
        picture = draw_shape("red", "circle", size=57)
        np.testing.assert_array_equal(again.encode_image(picture, False), clip.encode_image(picture, False))


def test_an_unknown_folder_gets_a_space_of_its_own_whichever_tower_is_loaded(tmp_path):
    spaces = {babelclip.load(BOTH, towers).space for towers in ("both", "text", "image")}
    assert len(spaces) == 1
    assert spaces.pop().startswith("unknown/")
    assert babelclip.load(TEXT).space != babelclip.load(BOTH).space


def test_a_fingerprint_follows_the_weights_and_nothing_else(tmp_path):
    copy = shutil.copytree(BOTH, tmp_path / "other name")
    assert fingerprint(copy) == fingerprint(BOTH)
    (copy / "README.md").write_text("words")
    assert fingerprint(copy) == fingerprint(BOTH)
    weights = next(path for path in copy.iterdir() if path.suffix in (".bin", ".safetensors"))
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    assert fingerprint(copy) != fingerprint(BOTH)


@pytest.mark.parametrize("name", ["epoch_1.pt", "ViT-B-32.pth", "open_clip_pytorch_model-00001-of-00001.safetensors"])
def test_weights_under_any_name_tell_models_apart(tmp_path, name):
    found = set()
    for byte in (b"\0", b"\1"):
        folder = tmp_path / byte.hex()
        folder.mkdir()
        (folder / "open_clip_config.json").write_text("{}")
        (folder / name).write_bytes(byte * 100_000)
        found.add(fingerprint(folder))
    assert len(found) == 2


def test_weights_in_sub_folders_beside_the_model_count_by_their_known_names_alone(tmp_path):
    copy = shutil.copytree(BOTH, tmp_path / "copy")
    (copy / "checkpoints").mkdir()
    (copy / "checkpoints" / "epoch_1.pt").write_bytes(b"other weights")
    (copy / "optimizer.pt").write_bytes(b"of the training")
    assert fingerprint(copy) == fingerprint(BOTH)


def test_the_space_of_a_silent_folder_may_be_declared_but_not_contradicted(tmp_path):
    assert babelclip.load(TEXT, space="my/space").space == "my/space"
    own = make_clip().save(tmp_path / "own")
    assert babelclip.load(own, space="test/tiny").space == "test/tiny"
    with pytest.raises(SpaceMismatchError, match=r"'my/space' against 'test/tiny'"):
        babelclip.load(own, space="my/space")


def test_a_folder_named_after_a_published_model_of_its_size_takes_its_card(published, tmp_path):
    clip = babelclip.load(shutil.copytree(TEXT, tmp_path / "lab" / "text"))
    assert (clip.name, clip.space, clip.languages) == ("lab/text", "test/tiny", published[0].languages)
    assert clip.text is not None
    assert clip.image is None
    wrong_size = babelclip.load(shutil.copytree(BOTH, tmp_path / "other" / "text"))
    assert wrong_size.space.startswith("unknown/")
    assert wrong_size.name == "text"


def test_a_repository_of_another_with_a_published_short_name_takes_nothing_from_its_card(published, hub):
    hub.push("other/text", as_files(TEXT))
    clip = babelclip.load("other/text", progress=False)
    assert clip.name == "other/text"
    assert clip.space.startswith("unknown/")
    assert clip.languages == ()


def test_real_cards_identify_copies_by_name_layout_and_dimensions():
    hints = ["/data/models/XLM-Roberta-Large-Vit-B-32"]
    card = registry.identify(hints, layout="mclip", embed_dim=512)
    assert card is not None
    assert card.space == "openai/ViT-B-32"
    assert registry.identify(hints, layout="mclip", embed_dim=640) is None
    assert registry.identify(hints, layout="altclip", embed_dim=512) is None


def test_a_text_tower_by_name_comes_with_its_published_picture_tower(published, hub, tmp_path):
    pictures = make_clip().save(tmp_path / "pictures")
    hub.push("lab/text", as_files(TEXT))
    hub.push("lab/pictures", as_files(pictures))
    clip = babelclip.load("lab/text", progress=False)
    assert clip.name == "lab/text"
    assert clip.space == "test/tiny"
    assert clip.logit_scale == pytest.approx(10.0)
    assert len(clip.revision) == 40
    np.testing.assert_array_equal(clip.encode_text("två"), babelclip.load(TEXT).encode_text("två"))
    picture = draw_shape("red", "circle")
    np.testing.assert_array_equal(clip.encode_image(picture), babelclip.load(pictures).encode_image(picture))
    assert "text_encoder.safetensors" not in hub.fetched()


@pytest.mark.parametrize(
    ("towers", "fetched", "absent"),
    [("text", "config.json", "image_encoder.safetensors"), ("image", "image_encoder.safetensors", "tokenizer.json")],
)
def test_one_tower_of_a_pair_by_name_fetches_that_tower_only(published, hub, tmp_path, towers, fetched, absent):
    hub.push("lab/text", as_files(TEXT))
    hub.push("lab/pictures", as_files(make_clip().save(tmp_path / "pictures")))
    clip = babelclip.load("lab/text", towers, progress=False)
    assert (clip.text is None) == (towers == "image")
    assert (clip.image is None) == (towers == "text")
    assert fetched in hub.fetched()
    assert absent not in hub.fetched()


def test_a_repository_with_another_models_tokenizer_gets_the_right_one_from_its_own(published, hub, tmp_path):
    nllb = GOLDEN / "openclip_nllb_siglip"
    named = json.loads((nllb / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]["hf_tokenizer_name"]
    files = as_files(nllb)
    tokenizer = {name: files.pop(name) for name in list(files) if name.startswith(("tokenizer", "special_tokens"))}
    repository = named if named.count("/") == 1 else "facebook/nllb-tiny"
    config = json.loads(files["open_clip_config.json"])
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = repository
    files["open_clip_config.json"] = json.dumps(config).encode()
    hub.push("lab/nllb", files)
    hub.push(repository, {**tokenizer, "pytorch_model.bin": b"weights of NLLB itself"})
    clip = babelclip.load("lab/nllb", "text", progress=False)
    np.testing.assert_array_equal(clip.encode_text("två"), babelclip.load(nllb).encode_text("två"))
    assert not [path for _, path, _ in hub.requests if repository in path and path.endswith("pytorch_model.bin")]


def test_open_clip_weights_without_config_are_known_by_their_sizes_or_refused(monkeypatch, tmp_path):
    class Shapes(dict):
        shape = dict.__getitem__

    large = Shapes({
        "visual.conv1.weight": (1280, 3, 14, 14), "visual.positional_embedding": (257, 1280),
        "text.transformer.embeddings.word_embeddings.weight": (250002, 1024), "logit_scale": (),
    })  # fmt: skip
    assert known_config(large)["vision_cfg"]["head_width"] == 80
    plus = Shapes({
        "visual.conv1.weight": (896, 3, 16, 16), "visual.positional_embedding": (226, 896),
        "token_embedding.weight": (49408, 640),
    })  # fmt: skip
    assert known_config(plus)["embed_dim"] == 640
    assert known_config(Shapes({**plus, "visual.positional_embedding": (197, 896)})) is None

    folder = shutil.copytree(GOLDEN / "openclip_xlmr", tmp_path / "bare")
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    (folder / "open_clip_config.json").unlink()
    if not list(folder.glob("open_clip_*")):
        weights = next(path for path in folder.iterdir() if path.suffix in (".bin", ".safetensors"))
        weights.rename(folder / f"open_clip_model{weights.suffix}")
    with pytest.raises(BabelclipError, match=r"open_clip_config\.json does not exist, and .* has the sizes of none"):
        babelclip.load(folder)
    monkeypatch.setattr("babelclip.models.checkpoints.openclip.known_config", lambda tensors: config)
    expected = babelclip.load(GOLDEN / "openclip_xlmr").encode_text("två", normalize=False)
    np.testing.assert_array_equal(babelclip.load(folder).encode_text("två", normalize=False), expected)


def test_towers_join_within_a_space_and_nowhere_else(published, tmp_path):
    picture_tower = babelclip.load(make_clip().save(tmp_path / "own"), "image")
    text_tower = babelclip.load(TEXT, space="test/tiny")
    joined = babelclip.pair(text_tower, picture_tower)
    assert joined.text is text_tower.text
    assert joined.image is picture_tower.image
    assert joined.logit_scale == pytest.approx(10.0)
    elsewhere = babelclip.load(make_clip().save(tmp_path / "own"), "image")
    elsewhere.space = "test/other"
    with pytest.raises(SpaceMismatchError, match=r"'test/other' against 'test/tiny'.*of test/tiny: lab/pictures"):
        babelclip.pair(text_tower, elsewhere)
    with pytest.raises(BabelclipError, match="without its picture tower"):
        babelclip.pair(text_tower, text_tower)


@pytest.mark.parametrize("name", ["XLM-Roberta-Large-Vit-B32", "no such thing", "./nowhere", "a/b/c", "../up/x", ""])
def test_what_is_neither_folder_nor_model_is_refused_with_names_that_are_close(name):
    with pytest.raises(BabelclipError, match="is no folder"):
        babelclip.load(name)


def test_a_file_in_the_place_of_its_folder_is_refused_before_any_hub_is_asked(tmp_path, monkeypatch, hub):
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    Path("models/ViT-B-32.pt").write_bytes(b"PK")
    with pytest.raises(BabelclipError, match=r"models/ViT-B-32\.pt is a file, and a model is a folder.*of its own"):
        babelclip.load("models/ViT-B-32.pt")
    monkeypatch.setattr("babelclip.models.checkpoints.shadow", lambda url: Path("models/ViT-B-32.pt"))
    with pytest.raises(BabelclipError, match=r"s3://bucket/ViT-B-32\.pt is a file"):
        babelclip.load("s3://bucket/ViT-B-32.pt")
    assert hub.requests == []


def test_a_model_that_needs_remote_code_says_so():
    with pytest.raises(BabelclipError, match=r"jinaai/jina-clip-v2 cannot be loaded"):
        babelclip.load("jinaai/jina-clip-v2")


def test_logits_and_probabilities_follow_the_kind_of_space(tiny_clip):
    texts, pictures = tiny_clip.encode_text(["a", "b", "c"]), tiny_clip.encode_image([draw_shape("red", "circle")] * 2)
    logits = tiny_clip.logits(3 * texts, pictures)
    np.testing.assert_allclose(logits, 10 * texts @ pictures.T, rtol=1e-5)
    np.testing.assert_allclose(tiny_clip.probabilities(texts, pictures).sum(axis=0), 1, rtol=1e-5)
    tiny_clip.logit_bias = -3.0
    expected = 1 / (1 + np.exp(3 - 10 * texts @ pictures.T))
    np.testing.assert_allclose(tiny_clip.probabilities(texts, pictures), expected, rtol=1e-5)
    tiny_clip.logit_scale = None
    with pytest.raises(BabelclipError, match="has no logit scale"):
        tiny_clip.logits(texts, pictures)


def test_a_language_that_the_model_was_not_trained_on_brings_a_warning_once_a_call(tiny_clip):
    with pytest.warns(UndeclaredLanguageWarning, match=r"tiny was not trained on ta; .*en, sv"):
        tiny_clip.encode_text(["இரண்டு நாய்கள்"] * 3, lang="ta")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny_clip.encode_text(["två", "two"], lang=["sv", "en"])
        tiny_clip.languages = ()
        tiny_clip.encode_text("två", lang="ta")
    with pytest.raises(BabelclipError, match="2 languages were given for 1 texts"):
        tiny_clip.encode_text("två", lang=["sv", "en"])
