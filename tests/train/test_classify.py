from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

import babelclip
from babelclip.errors import BabelclipError
from babelclip.models.clip import Clip
from babelclip.train import checkpoint
from babelclip.train.class_inputs import LabelledPictures, read_class_folder
from babelclip.train.class_scores import zero_shot_scores
from babelclip.train.classify import Trained, classify, train_classify
from babelclip.train.log import read_log
from babelclip.train.recipe import Recipe, apply_overrides
from tests.conftest import draw_shape, make_clip

SHORT = [
    "train.kind=classify",
    "train.precision=fp32",
    "train.device=cpu",
    "train.steps=6",
    "train.lr=1e-3",
    "train.warmup_steps=0",
    "train.batch_size=6",
    "classify.validation_share=0.34",
    "classify.templates={},a {},the {}",
    "classify.second_lang=sv",
    "classify.second_names={red=röd,green=grön,blue=blå}",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of each of three colours in `train`, three in `test`, and a model."""
    folder = tmp_path_factory.mktemp("classes")
    for split, count in (("train", 6), ("test", 3)):
        for colour in ("red", "green", "blue"):
            (folder / split / colour).mkdir(parents=True)
            for number in range(count):
                shape = ("circle", "square", "triangle")[number % 3]
                draw_shape(colour, shape, 36 + number).save(folder / split / colour / f"{number}.png")
    make_clip().save(folder / "model")
    return folder


def recipe_of(folder: Path, *overrides: str) -> Recipe:
    paths = [f"student.model={folder / 'model'}", f"classify.pictures={folder / 'train'}"]
    return apply_overrides(Recipe(), [*SHORT, *paths, f"classify.test={folder / 'test'}", *overrides])


def run(folder: Path, out: Path, *overrides: str, resume: bool = False) -> Trained:
    return classify(recipe_of(folder, *overrides), out, resume=resume, progress=False)


def moved(clip: Clip) -> set[str]:
    """Names of the tensors that differ from those of the tiny model."""
    names = set()
    for name, tower, start in (("text", clip.text, make_clip().text), ("image", clip.image, make_clip().image)):
        before = start.state_dict()
        names |= {f"{name}.{key}" for key, tensor in tower.state_dict().items() if not torch.equal(tensor, before[key])}
    return names


def weights(clip: Clip) -> dict[str, torch.Tensor]:
    towers = {"text": clip.text, "image": clip.image}
    return {f"{name}.{key}": tensor for name, tower in towers.items() for key, tensor in tower.state_dict().items()}


@pytest.mark.parametrize("loss", ["multi_positive", "class_vectors", "sigmoid"])
def test_a_picture_tower_learns_the_classes(folder: Path, tmp_path: Path, loss: str):
    trained = run(folder, tmp_path / "run", "classify.trainable=image", "train.steps=25", f"classify.loss={loss}")
    result = trained.result
    assert result.before["test"]["acc1/en"] <= 0.5
    assert result.tuned["test"]["acc1/en"] >= 0.8
    losses = [line["loss"] for line in read_log(tmp_path / "run" / "log.jsonl") if line["event"] == "train"]
    assert losses[-1] < losses[0]
    assert trained.clip.logit_scale is not None
    assert (trained.clip.logit_bias is not None) == (loss == "sigmoid")


@pytest.mark.parametrize(
    ("trainable", "allowed", "must"),
    [
        ("text", ("text.",), "text.backbone.embeddings.word_embeddings.weight"),
        ("text_head", ("text.head.",), "text.head.0.weight"),
        ("image", ("image.",), "image.backbone.encoder.layers.0.mlp.fc1.weight"),
        ("image_head", ("image.head.",), "image.head.0.weight"),
        ("heads", ("text.head.", "image.head."), "text.head.0.bias"),
        ("all", ("text.", "image."), "image.head.0.weight"),
        ("lora", ("text.", "image."), "image.backbone.encoder.layers.0.mlp.fc1.weight"),
    ],
)
def test_only_what_is_trainable_moves_and_the_result_is_a_model_like_any(
    folder: Path, tmp_path: Path, trainable: str, allowed: tuple, must: str
):
    trained = run(folder, tmp_path / "run", f"classify.trainable={trainable}")
    changed = moved(trained.clip)
    assert must in changed
    assert [name for name in changed if not name.startswith(allowed)] == []
    assert weights(trained.clip).keys() == weights(make_clip()).keys()
    tower_moved = any(name.startswith("image.") for name in changed)
    assert trained.clip.space == ("test/tiny+run" if tower_moved else "test/tiny")
    again = babelclip.load(trained.clip.save(tmp_path / "model"), dtype="float32", device="cpu")
    pictures = [str(path) for path in sorted((folder / "test" / "red").iterdir())]
    assert np.array_equal(again.encode_image(pictures), trained.clip.encode_image(pictures))
    assert np.array_equal(again.encode_text(["a red", "röd"]), trained.clip.encode_text(["a red", "röd"]))


def test_of_lora_checkpoints_hold_the_adapters_alone(folder: Path, tmp_path: Path):
    trained = run(folder, tmp_path / "run", "classify.trainable=lora", "classify.rank=2")
    saved, _, _ = checkpoint.load(tmp_path / "run", 6)
    assert all(".lora_" in name or name == "log_scale" for name in saved)
    assert sum(tensor.numel() for tensor in saved.values()) == trained.result.trained_weights
    assert trained.result.trained_weights < sum(tensor.numel() for tensor in weights(trained.clip).values()) / 3


@pytest.mark.parametrize("trainable", ["heads", "lora"])
def test_resume_matches_an_uninterrupted_run(folder: Path, tmp_path: Path, trainable: str):
    settings = (f"classify.trainable={trainable}", "train.steps=8", "classify.interpolate=0.5,1")
    whole = run(folder, tmp_path / "whole", *settings)
    run(folder, tmp_path / "cut", *settings, "train.steps=3")
    resumed = run(folder, tmp_path / "cut", *settings, resume=True)
    first, second = weights(whole.clip), weights(resumed.clip)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert resumed.result.tuned == whole.result.tuned
    assert resumed.result.before == whole.result.before
    with pytest.raises(BabelclipError, match=r"cannot be resumed .*classify\.loss was 'multi_positive'"):
        run(folder, tmp_path / "cut", *settings, "classify.loss=sigmoid", resume=True)


def test_a_head_on_states_computed_once_trains_as_one_behind_its_tower(folder: Path, tmp_path: Path):
    """The whole tower, of which only the head has a rate, is the same run."""
    common = ("train.steps=4", "train.clip_norm=0", "towers.logit_scale=locked")
    stored = run(folder, tmp_path / "stored", "classify.trainable=image_head", *common)
    live = run(folder, tmp_path / "live", "classify.trainable=image", *common, "train.lr=0", "train.head_lr=1e-3")
    assert (tmp_path / "stored" / "image_pooled").is_dir()
    assert not (tmp_path / "live" / "image_pooled").exists()
    assert moved(stored.clip) == moved(live.clip) == {"image.head.0.weight"}
    torch.testing.assert_close(stored.clip.image.head[0].weight, live.clip.image.head[0].weight, rtol=1e-3, atol=1e-4)
    assert stored.result.pictures == live.result.pictures == {"train": 12, "validation": 6, "test": 9}


def test_shares_of_the_tuned_weights_are_chosen_on_validation(folder: Path, tmp_path: Path):
    settings = ("classify.trainable=image", "train.steps=25", "classify.interpolate=0,0.5,1")
    trained = run(folder, tmp_path / "run", *settings)
    result = trained.result
    assert [point.alpha for point in result.points] == [0, 0.5, 1]
    assert result.points[0].scores == result.before["validation"]
    assert result.points[2].scores == result.tuned["validation"]
    kept = {name: tensor for name, tensor in weights(trained.clip).items() if name == "image.head.0.weight"}
    start = make_clip().image.head[0].weight
    assert torch.equal(kept["image.head.0.weight"], start) == (result.alpha == 0)
    best = max(result.points, key=lambda point: point.scores["acc1"])
    assert result.alpha == best.alpha
    assert result.after["validation"] == best.scores
    written = json.loads((tmp_path / "run" / "classify.json").read_text(encoding="utf-8"))
    assert written["points"] == [dataclasses.asdict(point) for point in result.points]
    assert written["classes"]["sv"] == ["blå", "grön", "röd"]
    assert set(written["after"]) == {"validation", "test"}


def test_a_collapsed_model_is_detected_and_the_start_is_kept(folder: Path, tmp_path: Path, caplog):
    settings = [
        "classify.trainable=image",
        "train.lr=1",
        "train.clip_norm=0",
        "train.steps=4",
        "classify.interpolate=0,1",
    ]
    with caplog.at_level(logging.WARNING):
        result = run(folder, tmp_path / "run", *settings, "classify.second_lang=", "classify.second_names={}").result
    assert result.tuned["validation"]["classes_predicted/en"] == 1
    assert "faster than they can take" in caplog.text
    if result.before["validation"]["classes_predicted/en"] > 1:
        assert "one answer to every picture in en: it has collapsed" in caplog.text
    assert result.alpha == 0


def test_unreadable_pictures_are_counted_and_left_out(folder: Path, tmp_path: Path):
    given, clip = read_class_folder(folder / "train"), make_clip()
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"this is no picture")
    damaged = LabelledPictures(given.classes, (*given.paths, broken), np.append(given.labels, 0))
    test = read_class_folder(folder / "test")
    for trainable in ("heads", "image"):
        recipe = recipe_of(folder, f"classify.trainable={trainable}", "train.steps=4")
        result = train_classify(
            clip, damaged, recipe, tmp_path / trainable, validation=given, test=test, progress=False
        )
        assert result.skipped == {"picture is unreadable": 1}
        with pytest.raises(babelclip.models.preprocess.PictureError):
            strict = apply_overrides(recipe, ["data.strict=true"])
            train_classify(clip, damaged, strict, tmp_path / f"strict-{trainable}", validation=given, progress=False)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["classify.pictures="], r"classify\.pictures, which this training needs"),
        (["classify.second_names={red=röd}"], "has no name in Swedish for blue, green"),
        (["classify.second_lang=en", "classify.second_names={red=röd,green=grön,blue=blå}"], "is the language that is"),
        (["loss.name=clip"], "nothing in \\[loss\\]; classify.loss names the loss"),
        (["train.micro_batch=2"], "which it does not read: drop them"),
        (["classify.loss=diagonal"], "hold two pictures of one class"),
        (["train.batch_size=1"], "holds 1 class"),
        (["train.best_metric=acc2"], "'acc2' was not measured"),
    ],
)
def test_settings_that_do_not_fit_are_errors(folder: Path, tmp_path: Path, overrides: list, message: str):
    with pytest.raises(BabelclipError, match=message):
        run(folder, tmp_path / "run", *overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("classify.interpolate=0,2", "goes beyond the tuned weights"),
        ("classify.validation_share=1", "leaves nothing to train on"),
        ("classify.second_lang=", "without a language"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_by_the_recipe(folder: Path, override: str, message: str):
    with pytest.raises(BabelclipError, match=message):
        recipe_of(folder, override)


def test_zero_shot_scores_of_a_hand_written_case():
    axes = np.eye(3, dtype=np.float32)
    pictures = axes[[0, 0, 0, 1, 2, 2]]
    labels = np.asarray([0, 0, 1, 1, 1, 1])
    scores = zero_shot_scores(pictures, axes, labels)
    assert scores == {
        "acc1": pytest.approx(3 / 6),
        "mean_per_class_recall": pytest.approx(0.625),
        "classes_predicted": 3,
    }
    assert zero_shot_scores(axes[[0, 0, 0]], axes, np.asarray([0, 1, 2]))["classes_predicted"] == 1


def test_a_second_language_may_be_added_when_a_run_is_resumed(folder: Path, tmp_path: Path):
    plain = ("classify.second_lang=", "classify.second_names={}")
    first = run(folder, tmp_path / "run", *plain)
    assert "acc1/sv" not in first.result.before["test"]
    again = run(folder, tmp_path / "run", resume=True)
    assert again.result.before["test"]["acc1/en"] == first.result.before["test"]["acc1/en"]
    assert 0 <= again.result.before["test"]["acc1/sv"] <= 1
