from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from babelclip.data.captions import Captions
from babelclip.errors import BabelclipError, SpaceMismatchError
from babelclip.models.clip import Clip
from babelclip.store import EmbeddingStore
from babelclip.train import checkpoint
from babelclip.train.contrastive import train_contrastive
from babelclip.train.log import read_log
from babelclip.train.pair_batches import group_numbers
from babelclip.train.recipe import Recipe, apply_overrides
from tests.conftest import COLOURS, make_clip

SHORT = [
    "train.kind=contrastive",
    "train.precision=fp32",
    "train.lr=3e-3",
    "train.warmup_steps=5",
    "train.batch_size=12",
]


def recipe_of(*overrides: str) -> Recipe:
    return apply_overrides(Recipe(), [*SHORT, *overrides])


@pytest.fixture
def shapes(picture_folder: Path) -> Captions:
    """Twelve drawn pictures with captions "red circle" and so on."""
    paths = sorted(str(path) for path in picture_folder.rglob("*.png"))
    texts = [Path(path).stem.replace("-", " ") for path in paths]
    assert len(paths) == 3 * len(COLOURS) == 12
    return Captions.from_columns(text=texts, lang=["en"] * 12, image=paths)


def recall_at_1(clip: Clip, captions: Captions) -> float:
    features = clip.encode_image(captions.table.column("image").to_pylist())
    _, found = clip.rank(captions.texts, features, 1)
    return float((found[:, 0] == np.arange(len(captions))).mean())


def state_of(tower: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in tower.state_dict().items()}


def moved(tower: torch.nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in tower.state_dict().items() if not torch.equal(tensor, before[name])}


def test_a_tiny_clip_from_scratch_finds_its_pictures(tmp_path: Path, shapes: Captions):
    clip = make_clip()
    assert recall_at_1(clip, shapes) < 0.5
    recipe = recipe_of("train.steps=80", "towers.image=free", "train.validate_every=40", "train.best_is=highest")
    result = train_contrastive(
        clip, shapes, recipe, tmp_path / "run", validate=lambda: {"R@1": recall_at_1(clip, shapes)}, progress=False
    )
    assert recall_at_1(clip, shapes) >= 0.9
    assert result.run.validation["R@1"] >= 0.9
    assert (result.pictures, result.captions) == (12, 12)
    assert clip.logit_scale == pytest.approx(result.logit_scale)
    assert not clip.text.training
    assert not clip.image.training


def test_a_locked_picture_tower_stays_bit_for_bit_and_is_not_in_checkpoints(tmp_path: Path, shapes: Captions):
    clip = make_clip()
    before = state_of(clip.image)
    train_contrastive(clip, shapes, recipe_of("train.steps=60"), tmp_path / "run", progress=False)
    assert moved(clip.image, before) == set()
    weights, inner, _ = checkpoint.load(tmp_path / "run", 60)
    assert not [name for name in weights if name.startswith("image.")]
    assert len(inner["optimizer"]["state"]) == len(weights)
    falling = [line["loss"] for line in read_log(tmp_path / "run" / "log.jsonl")]
    assert falling[-1] < 0.8 * falling[0], "the text tower learns towards it"


def test_parts_of_a_tower_can_move(tmp_path: Path, shapes: Captions):
    clip = make_clip()
    text, image = state_of(clip.text), state_of(clip.image)
    recipe = recipe_of("train.steps=3", "towers.image=head", "towers.text=last 1 layers", "towers.logit_scale=locked")
    train_contrastive(clip, shapes, recipe, tmp_path / "run", progress=False)
    assert moved(clip.image, image) == {"head.0.weight"}
    assert all(name.startswith(("backbone.encoder.layer.2.", "head.")) for name in moved(clip.text, text))
    assert clip.logit_scale == pytest.approx(10.0)


def store_of(path: Path, clip: Clip, captions: Captions, space: str = "test/tiny") -> EmbeddingStore:
    names = captions.table.column("image").to_pylist()[::-1]
    facts = {"space": space, "model": "tiny", "dim": 16, "dtype": "float32", "normalized": False, "kind": "image"}
    with EmbeddingStore.create(path, **facts) as store:
        store.append(names, clip.encode_image(names, normalize=False))
    return EmbeddingStore.open(path)


def test_stored_vectors_give_the_run_of_a_live_locked_tower_even_without_the_tower(tmp_path: Path, shapes: Captions):
    live, stored = make_clip(), make_clip()
    store = store_of(tmp_path / "store", stored, shapes)
    stored.image = None
    train_contrastive(live, shapes, recipe_of("train.steps=10"), tmp_path / "live", progress=False)
    train_contrastive(
        stored, shapes, recipe_of("train.steps=10"), tmp_path / "stored", image_features=store, progress=False
    )
    for a, b in zip(live.text.parameters(), stored.text.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_the_logit_scale_is_clamped(tmp_path: Path, shapes: Captions):
    clip = make_clip()
    clip.logit_scale = 99.0
    recipe = recipe_of(
        "train.steps=20", "train.lr=0.1", "train.warmup_steps=0", "towers.image=free", "towers.max_logit_scale=50"
    )
    result = train_contrastive(clip, shapes, recipe, tmp_path / "run", progress=False)
    assert result.logit_scale <= 50.001
    scales = [line["logit_scale"] for line in read_log(tmp_path / "run" / "log.jsonl")]
    assert max(scales[1:]) <= 50.001


def test_duplicate_captions_are_positives_of_each_other(tmp_path: Path, picture_folder: Path):
    """Four colours, three pictures each, captions by colour only: as negatives the loss could not fall below log 3."""
    paths = sorted(str(path) for path in picture_folder.rglob("*.png"))
    texts = [Path(path).stem.split("-")[0] for path in paths]
    captions = Captions.from_columns(text=texts, lang=["en"] * 12, image=paths)
    clip = make_clip()
    recipe = recipe_of("train.steps=80", "towers.image=free")
    train_contrastive(clip, captions, recipe, tmp_path / "run", progress=False)
    features = clip.encode_image(paths)
    _, found = clip.rank(sorted(set(texts)), features, 3)
    right = [
        texts[place] == colour for colour, places in zip(sorted(set(texts)), found, strict=True) for place in places
    ]
    assert np.mean(right) >= 0.9


def test_captions_that_differ_in_case_or_spacing_are_one_text():
    captions = Captions.from_columns(
        text=["Red  dog", "a cat", "red dog ", "A CAT"], lang=["en"] * 4, image=list("abcd")
    )
    assert group_numbers(captions)[:, 0].tolist() == [0, 1, 0, 1]


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path, shapes: Captions):
    recipe = recipe_of("towers.image=free", "train.steps=12", "train.batch_size=5", "student.dropout=0.1")
    whole, cut, resumed = make_clip(), make_clip(), make_clip()
    train_contrastive(whole, shapes, recipe, tmp_path / "whole", progress=False)
    short = apply_overrides(recipe, ["train.steps=7"])
    train_contrastive(cut, shapes, short, tmp_path / "cut", progress=False)
    train_contrastive(resumed, shapes, recipe, tmp_path / "cut", resume=True, progress=False)
    assert moved(resumed.text, state_of(whole.text)) == set()
    assert moved(resumed.image, state_of(whole.image)) == set()
    assert resumed.logit_scale == whole.logit_scale


def test_what_cannot_be_trained_is_named_with_its_cure(tmp_path: Path, shapes: Captions):
    clip, out = make_clip(), tmp_path / "run"
    paths = shapes.table.column("image").to_pylist()
    alike = Captions.from_columns(text=["A dog"] * 12, lang=["en"] * 12, image=paths)
    gap = Captions.from_columns(text=shapes.texts, lang=["en"] * 12, image=[None, *paths[1:]])
    store = store_of(tmp_path / "store", clip, shapes)
    other = store_of(tmp_path / "other", clip, shapes, space="other/space")
    with pytest.raises(BabelclipError, match="1 distinct text"):
        train_contrastive(clip, alike, recipe_of(), out)
    with pytest.raises(BabelclipError, match="1 distinct text"):
        train_contrastive(clip, shapes, recipe_of("train.batch_size=1"), out, progress=False)
    with pytest.raises(BabelclipError, match=r"1 of 12 captions cannot be used \(1 no picture\)"):
        train_contrastive(clip, gap, recipe_of("data.strict=true"), out)
    with pytest.raises(BabelclipError, match="Both towers are locked"):
        train_contrastive(clip, shapes, recipe_of("towers.text=locked"), out)
    with pytest.raises(BabelclipError, match='kind = "contrastive"'):
        train_contrastive(clip, shapes, recipe_of("loss.name=mse"), out)
    with pytest.raises(BabelclipError, match='set it to "locked"'):
        train_contrastive(clip, shapes, recipe_of("towers.image=free"), out, image_features=store)
    with pytest.raises(SpaceMismatchError, match="other/space"):
        train_contrastive(clip, shapes, recipe_of(), out, image_features=other)
    with pytest.raises(BabelclipError, match="both towers"):
        train_contrastive(Clip(space="x", text=clip.text), shapes, recipe_of(), out)


@pytest.mark.real
def test_a_tiny_clip_learns_emoji_from_scratch_in_three_languages(tmp_path: Path):
    from babelclip.starter.emoji import emoji_captions
    from babelclip.starter.parts import PartError

    try:
        every = emoji_captions()
    except PartError as error:
        pytest.skip(str(error).splitlines()[0])
    # Fruit and animals: pictures that differ, names that the tiny tokenizer can spell.
    wanted = ("red apple", "banana", "dog face", "frog", "tomato", "carrot", "panda", "penguin", "rose", "sunflower")
    ids = dict(zip(every.texts, every.ids, strict=True))
    concepts = {ids[name].partition(":")[0] for name in wanted}
    keep = np.array([one.partition(":")[0] in concepts for one in every.ids])
    some = Captions(every.table.filter(keep), {}).select(["en", "de", "es"])
    assert len(some) == 3 * len(wanted)
    clip = make_clip()
    recipe = recipe_of("train.steps=120", "train.batch_size=30", "towers.image=free")
    train_contrastive(clip, some, recipe, tmp_path / "run", progress=False)
    images = list(dict.fromkeys(some.table.column("image").to_pylist()))
    own = np.array([images.index(image) for image in some.table.column("image").to_pylist()])
    _, found = clip.rank(some.texts, clip.encode_image(images), 1)
    assert (found[:, 0] == own).mean() >= 0.9
