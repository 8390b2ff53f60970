"""What a dry run says, held against what a run does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from babelclip.data.captions import Captions, write_captions
from babelclip.errors import BabelclipError
from babelclip.models.clip import Clip
from babelclip.train import memory, skeleton, timed
from babelclip.train.contrastive import contrastive
from babelclip.train.plan import plan
from babelclip.train.recipe import Recipe, apply_overrides, recipe_from_dict
from babelclip.train.sts import sts
from babelclip.train.teach import teach
from babelclip.train.tension import tension
from tests.conftest import draw_shape, make_clip, make_text_encoder
from tests.train.parts import make_captions, make_store

TRAIN = {"steps": 5, "precision": "fp32", "device": "cpu", "warmup_steps": 0, "batch_size": 8}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A student, a whole clip, targets, captions with pictures, pairs."""
    Clip(space="", text=make_text_encoder(), languages=("en",), name="student").save(tmp_path / "student")
    make_clip().save(tmp_path / "clip")
    make_store(tmp_path / "targets")
    write_captions(make_captions(), tmp_path / "captions.parquet")
    names = []
    for colour in ("red", "green", "blue"):
        for shape in ("circle", "square", "star"):
            draw_shape(colour, shape).save(tmp_path / f"{colour}-{shape}.png")
            names.append(f"{colour}-{shape}.png")
    pictured = Captions.from_columns(text=[name[:-4].replace("-", " ") for name in names], lang="en", image=names)
    write_captions(pictured, tmp_path / "pictured.jsonl")
    rows = [f"g\tf\ty\t{n}\t{n % 6}\t{text}\ta red dog\n" for n, text in enumerate(make_captions().texts[:20])]
    (tmp_path / "sts.csv").write_text("".join(rows), encoding="utf-8")
    return tmp_path


def recipe_of(place: Path, kind: str, **sections: dict[str, Any]) -> Recipe:
    captions = "pictured.jsonl" if kind == "contrastive" else "captions.parquet"
    content: dict[str, Any] = {
        "train": {"kind": kind, **TRAIN},
        "student": {"model": str(place / ("clip" if kind == "contrastive" else "student"))},
        "teacher": {"targets": str(place / "targets")} if kind == "distill" else {},
        "data": {} if kind == "sts" else {"captions": [str(place / captions)]},
        "sts": {"pairs": [str(place / "sts.csv")]} if kind == "sts" else {},
    }
    for section, values in sections.items():
        content[section] = {**content.get(section, {}), **values}
    return recipe_from_dict(content)


def trained_weights(recipe: Recipe, out: Path) -> int:
    runs: dict[str, Any] = {
        "distill": lambda: teach(recipe, out, progress=False).result,
        "contrastive": lambda: contrastive(recipe, out, progress=False).result,
        "tension": lambda: tension(recipe, out, progress=False),
        "sts": lambda: sts(recipe, out, progress=False).result,
    }
    result: int = runs[recipe.train.kind]().trained_weights
    return result


@pytest.mark.parametrize(
    ("kind", "sections"),
    [
        ("distill", {"student": {"trainable": "last 1 layers"}}),
        ("distill", {"student": {"freeze_embeddings": True, "head": "mlp"}}),
        ("contrastive", {"towers": {"text": "last 2 layers"}}),
        ("contrastive", {"towers": {"image": "free", "text": "head"}}),
        ("tension", {}),
        ("sts", {}),
    ],
)
def test_a_plan_counts_what_a_run_trains_and_times_its_steps(place: Path, kind: str, sections: dict[str, Any]):
    recipe = recipe_of(place, kind, **sections)
    (made,) = plan(recipe)
    moving = sum(tower.trainable + tower.trainable_embeddings for tower in made.towers)
    # Contrastive training moves the logit scale as well, which belongs to no tower.
    assert trained_weights(recipe, place / "run") - moving == (1 if kind == "contrastive" else 0)
    assert made.steps == 5
    assert made.memory is not None
    assert made.memory.activations > 0
    assert made.memory.gradients == 4 * moving
    assert made.memory.optimizer == 8 * moving
    assert made.seconds is not None
    assert 0 < made.seconds < 60
    assert made.notes == ()
    labels = {"contrastive": ["text", "picture"], "tension": ["f1", "f2", "start"]}
    assert [tower.name for tower in made.towers] == labels.get(kind, ["text"])


def test_the_dry_run_leaves_nothing_behind_and_does_not_touch_the_data(place: Path):
    before = sorted(place.rglob("*"))
    plan(recipe_of(place, "distill"))
    assert sorted(place.rglob("*")) == before


def test_what_a_pass_keeps_is_what_autograd_keeps(place: Path):
    tower = make_text_encoder()
    ids = mask = torch.ones(6, 9, dtype=torch.int64)
    found: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = tower(ids, mask)
    own = {weight.untyped_storage().data_ptr() for weight in (*tower.parameters(), *tower.buffers())}
    real = sum(tensor.untyped_storage().nbytes() for place, tensor in found.items() if place not in own)
    assert features.requires_grad
    fake = skeleton.Fake()
    copied = fake.copied(tower)
    with fake:
        predicted = memory.text_pass(copied, 6, 9, tower.width, bf16=False, recomputed=False)
        assert memory.text_pass(copied, 12, 9, tower.width, bf16=False, recomputed=False) > 1.9 * predicted
        assert memory.text_pass(copied, 6, 9, tower.width, bf16=False, recomputed=True) < 0.7 * predicted
    assert predicted == pytest.approx(real, rel=0.05)


def test_locked_layers_keep_nothing(place: Path):
    whole, upper = (
        plan(recipe_of(place, "distill", student={"trainable": what}), measure=False)[0].memory
        for what in ("all", "last 1 layers")
    )
    assert whole is not None
    assert upper is not None
    assert upper.activations < 0.5 * whole.activations
    assert upper.gradients < 0.5 * whole.gradients


def test_a_large_contrastive_batch_holds_the_similarities_of_a_block_of_rows_only(place: Path):
    held = {}
    for rows in (1000, 8192, 90_000):
        train = {"batch_size": rows, "micro_batch": 4, "steps": 1}
        (made,) = plan(recipe_of(place, "contrastive", train=train), measure=False)
        assert made.memory is not None
        held[rows] = made.memory.loss
    # Six matrices of rows x rows, from some size on of 2^26 entries: not the 194 GB of 90,000 x 90,000.
    assert held[1000] == 6 * 4 * 1000 * 1000
    assert held[8192] == 6 * 4 * 8192 * 8192
    assert 0.99 * 6 * 4 * 2**26 < held[90_000] <= 6 * 4 * 2**26


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("FacebookAI/xlm-roberta-large", 558_840_832),
        ("copies/xlm-roberta-large", 558_840_832),
        ("M-CLIP/LABSE-Vit-L-14", 470_336_256),
        ("Contrastive-Tension/BERT-Large-CT", 334_092_288),
    ],
)
def test_a_name_stands_for_its_published_backbone(name: str, weights: int):
    with skeleton.Fake():
        tower = skeleton.text_skeleton(name)
        assert tower is not None
        assert sum(parameter.numel() for parameter in tower.parameters()) == weights


@pytest.mark.parametrize(
    ("name", "weights", "dim"),
    [
        ("openai/clip-vit-base-patch32", 87_849_216, 512),
        ("copies/CLIP-ViT-H-14-laion2B-s32B-b79K", 632_076_800, 1024),
        ("timm/vit_base_patch16_plus_clip_240.laion400m_e32", 117_213_824, 640),
    ],
)
def test_a_picture_tower_has_the_published_size(name: str, weights: int, dim: int):
    with skeleton.Fake():
        tower = skeleton.image_skeleton(name)
        assert tower is not None
        assert (sum(parameter.numel() for parameter in tower.parameters()), tower.embed_dim) == (weights, dim)


def test_what_is_not_here_is_said_and_nothing_is_guessed(place: Path):
    recipe = apply_overrides(recipe_of(place, "distill"), ["student.model=nowhere/at-all", "teacher.targets=lost"])
    (made,) = plan(recipe)
    assert (made.towers, made.memory, made.seconds) == ((), None, None)
    assert made.measured == "unknown: nowhere/at-all, lost is not on this machine"
    assert any("its sizes are not known" in note for note in made.notes)


def test_epochs_are_counted_in_steps_where_the_data_is_here(place: Path):
    epochs = apply_overrides(recipe_of(place, "sts"), ["train.epochs=2"])
    assert plan(epochs, measure=False)[0].steps == 6  # 20 pairs, 8 a batch
    epochs = apply_overrides(recipe_of(place, "distill"), ["train.epochs=1.5", "train.accumulation=2"])
    assert plan(epochs, measure=False)[0].steps == 12  # 120 captions, 8 a batch
    lost = apply_overrides(epochs, [f"data.captions={place / 'lost.parquet'}"])
    (made,) = plan(lost, measure=False)
    assert made.steps is None
    assert any("steps of 1.5 epochs are unknown" in note for note in made.notes)


def test_stages_are_planned_one_by_one(place: Path):
    content = {
        "train": {"kind": "contrastive", **TRAIN},
        "student": {"model": str(place / "clip")},
        "data": {"captions": [str(place / "pictured.jsonl")]},
        "stages": [{"name": "text"}, {"name": "heads", "towers": {"text": "head", "image": "head"}}],
    }
    first, second = plan(recipe_from_dict(content))
    assert (first.name, second.name) == ("text", "heads")
    assert first.seconds is not None
    assert (second.seconds, second.measured) == (None, "not measured: it starts from the model of the stage before")
    moved = [{tower.name: tower.trainable for tower in made.towers} for made in (first, second)]
    assert moved[0]["picture"] == 0 < moved[1]["picture"]
    assert moved[1]["text"] < moved[0]["text"]


def test_a_setting_that_does_not_fit_the_model_is_refused_as_in_training(place: Path):
    with pytest.raises(BabelclipError, match=r"student\.max_length = 900"):
        plan(recipe_of(place, "distill", student={"max_length": 900}))


def test_a_dry_run_reads_captions_that_name_no_language(place: Path):
    (place / "plain.txt").write_text("a red dog\na very long blue square in the snow\n", encoding="utf-8")
    recipe = recipe_of(place, "tension", data={"captions": [str(place / "plain.txt")], "lang": "en"})
    text = make_text_encoder()
    assert timed.longest_text(recipe, text.tokenizer) == max(
        len(ids) for ids in text.tokenize(["a very long blue square in the snow"])
    )
