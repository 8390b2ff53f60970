"""What each kind of training leaves is exported to the published layouts that have a place for it, and read back."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import babelclip
from babelclip.errors import BabelclipError
from babelclip.models.clip import Clip
from babelclip.models.export import export
from babelclip.models.export.stored import ExportWarning
from babelclip.train.classify import classify
from babelclip.train.contrastive import contrastive
from babelclip.train.recipe import Recipe, recipe_from_dict
from babelclip.train.sts import sts
from babelclip.train.teach import teach
from babelclip.train.tension import tension
from tests.conftest import draw_shape
from tests.train.test_assemble import make_teacher
from tests.train.test_plan import place  # noqa: F401
from tests.train.test_students import make_folder

TEXTS = ["a red star", "två hundar", "a blue circle and a cat"]
TRAIN = {"steps": 2, "lr": 1e-3, "warmup_steps": 0, "precision": "fp32", "device": "cpu", "batch_size": 8}
# Layouts that open_clip and sentence-transformers read differ from babelclip by rounding alone.
CLOSE = 2e-5


@pytest.fixture
def models(place: Path) -> Path:  # noqa: F811
    """Also a teacher in CLIP's form and plain students."""
    make_teacher().save(place / "teacher")
    make_folder(place / "xlmr", "xlm-roberta", layer_norm_eps=1e-5)  # as the published ones
    make_folder(place / "nllb", "m2m_100")
    for name in ("circle", "square"):
        for number, colour in enumerate(("red", "green", "blue", "yellow")):
            (place / "classes" / name).mkdir(parents=True, exist_ok=True)
            draw_shape(colour, name, 30 + number).save(place / "classes" / name / f"{colour}.png")
    return place


def recipe_of(folder: Path, kind: str, student: dict[str, Any], **sections: Any) -> Recipe:
    data = {"captions": [str(folder / ("pictured.jsonl" if kind == "contrastive" else "captions.parquet"))]}
    content: dict[str, Any] = {"train": {"kind": kind, **TRAIN}, "student": student, "data": data}
    if kind == "classify":
        content |= {"data": {}, "classify": {"pictures": str(folder / "classes"), "validation_share": 0.25}}
    if kind == "sts":
        content |= {"data": {}, "sts": {"pairs": [str(folder / "sts.csv")]}}
    for section, values in sections.items():
        content[section] = {**content.get(section, {}), **values}
    return recipe_from_dict(content)


def same_vectors(clip: Clip, folder: Path, to: str, lang: str | None = None) -> None:
    """Exports a model, reads what was written, and compares both towers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExportWarning)
        towers = "both" if to in ("openclip", "altclip") or (clip.image is not None and to != "mclip") else "text"
        export(clip, folder / to, to=to, towers=towers)
    again = babelclip.load(folder / to, device="cpu", dtype="float32", space=clip.space)
    expected = clip.encode_text(TEXTS, normalize=False, lang=lang)
    np.testing.assert_allclose(again.encode_text(TEXTS, normalize=False, lang=lang), expected, atol=CLOSE)
    if clip.image is not None and towers == "both":
        pictures = [draw_shape("red", "star"), draw_shape("blue", "circle", 50)]
        np.testing.assert_allclose(
            again.encode_image(pictures, normalize=False), clip.encode_image(pictures, normalize=False), atol=CLOSE
        )
        # sentence-transformers has no place for a scale; its README tells it.
        expected_scale = None if to == "sentence-transformers" else pytest.approx(clip.logit_scale, rel=1e-5)
        assert again.logit_scale == expected_scale


def moved(clip: Clip, start: Clip) -> bool:
    """Returns whether training changed the vectors of texts: an export of what was loaded would prove nothing."""
    before, after = (one.encode_text(TEXTS, normalize=False) for one in (start, clip))
    return before.shape != after.shape or float(np.abs(after - before).max()) > 1e-4


@pytest.mark.parametrize("to", ["mclip", "sentence-transformers"])
def test_a_taught_text_tower(models: Path, to: str):
    recipe = recipe_of(models, "distill", {"model": str(models / "xlmr")}, teacher={"targets": str(models / "targets")})
    same_vectors(teach(recipe, models / "run", progress=False).clip, models, to)


def test_a_student_of_pooled_targets_becomes_an_altclip_also_after_its_contrastive_stage(models: Path):
    student = {"model": str(models / "xlmr"), "pooling": "cls", "head": "norm+linear"}
    teacher = {"model": str(models / "teacher"), "target": "pooled"}
    first = teach(recipe_of(models, "distill", student, teacher=teacher), models / "run", progress=False).clip
    same_vectors(first, models, "altclip")
    first.save(models / "stage-1")
    second = contrastive(
        recipe_of(models, "contrastive", {"model": str(models / "stage-1")}), models / "stage-2", progress=False
    ).clip
    assert moved(second, first)
    same_vectors(second, models, "altclip")
    same_vectors(second, models, "sentence-transformers")


@pytest.mark.parametrize("head", ["mlp-nobias", "linear-nobias"])
def test_a_text_tower_that_met_a_locked_picture_tower_becomes_a_bundle_of_open_clip(models: Path, head: str):
    student = {"model": str(models / "xlmr"), "head": head}
    towers = {"image_model": str(models / "clip")}
    trained = contrastive(recipe_of(models, "contrastive", student, towers=towers), models / "run", progress=False)
    same_vectors(trained.clip, models, "openclip")


def test_an_nllb_clip_becomes_a_bundle_of_open_clip(models: Path):
    student = {"model": str(models / "nllb"), "head": "linear-nobias", "pooling": "cls"}
    towers = {"image_model": str(models / "clip")}
    trained = contrastive(recipe_of(models, "contrastive", student, towers=towers), models / "run", progress=False)
    same_vectors(trained.clip, models, "openclip", lang="sv")


@pytest.mark.parametrize("kind", ["tension", "sts"])
def test_a_sentence_encoder_becomes_one_of_sentence_transformers(models: Path, kind: str):
    recipe = recipe_of(models, kind, {"model": str(models / "xlmr")})
    if kind == "sts":
        clip = sts(recipe, models / "run", progress=False).clip
    else:
        clip = tension(recipe, models / "run", progress=False).model
    same_vectors(clip, models, "sentence-transformers")
    with pytest.raises(BabelclipError, match="Export to sentence-transformers"):
        export(clip, models / "mclip", to="mclip", towers="text")


@pytest.mark.parametrize("trainable", ["heads", "all", "lora"])
def test_a_clip_that_was_tuned_to_classes_is_exported_as_any_other(models: Path, trainable: str):
    student = {"model": str(models / "xlmr"), "head": "mlp-nobias"}
    towers = {"image_model": str(models / "clip")}
    start = contrastive(recipe_of(models, "contrastive", student, towers=towers), models / "run", progress=False).clip
    start.save(models / "start")
    rate = {"lr": 1e-2 if trainable != "all" else 1e-3}
    recipe = recipe_of(
        models, "classify", {"model": str(models / "start")}, train=rate, classify={"trainable": trainable}
    )
    tuned = classify(recipe, models / "tuned", progress=False).clip
    assert moved(tuned, start)
    for to in ("openclip", "sentence-transformers"):
        same_vectors(tuned, models, to)
