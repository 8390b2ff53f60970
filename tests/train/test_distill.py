from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from babelclip.data.captions import Captions
from babelclip.errors import BabelclipError, SpaceMismatchError
from babelclip.models.text import TextEncoder
from babelclip.train import checkpoint
from babelclip.train.distill import distill
from babelclip.train.fidelity import fidelity
from babelclip.train.log import read_log
from babelclip.train.recipe import Recipe, apply_overrides, load_recipe
from tests.conftest import make_text_encoder
from tests.train.parts import make_captions, make_store

SHORT = [
    "train.steps=30",
    "train.lr=3e-3",
    "train.precision=fp32",
    "train.tokens_per_batch=256",
    "train.warmup_steps=3",
]


def recipe_of(*overrides: str) -> Recipe:
    return apply_overrides(Recipe(), [*SHORT, "train.log_every=1", *overrides])


def train(folder: Path, *overrides: str, student: TextEncoder | None = None, captions: Captions | None = None, **more):
    student = make_text_encoder() if student is None else student
    store = make_store(folder / "store")
    captions = make_captions() if captions is None else captions
    result = distill(student, captions, store, recipe_of(*overrides), folder / "run", progress=False, **more)
    return student, result


def losses_of(folder: Path) -> list[float]:
    return [line["loss"] for line in read_log(folder / "run" / "log.jsonl") if line["event"] == "train"]


def test_a_student_learns_its_teacher_and_the_report_shows_it_beside_the_trivial_predictor(tmp_path: Path):
    student, result = train(tmp_path, "train.steps=100", validation=make_captions(20, seed=0))
    assert result.run.validation["mse"] < 0.3 * result.run.validation["trivial_mse"]
    assert result.relative_mse < 0.3
    assert result.run.validation["cosine"] > 0.85
    assert {"mse/en", "mse/sv", "cosine/sv", "trivial_mse/en"} <= set(result.run.validation)
    assert result.languages == {"en": 60, "sv": 60}
    line = read_log(tmp_path / "run" / "log.jsonl")[0]
    assert line["trivial_mse"] == pytest.approx(result.trivial_mse, rel=1e-5)
    assert line["mse"] == pytest.approx(line["loss"], rel=1e-5)
    assert not student.training


def test_the_target_of_a_caption_is_the_vector_of_its_source(tmp_path: Path):
    """A hand-written full-batch regression on the stored vectors gives the same weights."""
    student, _ = train(tmp_path, "train.batch_size=200", "train.steps=3", "train.clip_norm=0")
    reference = make_text_encoder()
    captions, store = make_captions(), make_store(tmp_path / "again")
    targets = torch.from_numpy(np.concatenate([store.read(), store.read()]))
    optimizer = torch.optim.AdamW(reference.parameters(), lr=3e-3, weight_decay=0)
    for step in range(3):
        optimizer.param_groups[0]["lr"] = 3e-3 * (step + 1) / 3
        loss = (reference(*reference.pad(reference.tokenize(captions.texts))) - targets).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, ours in student.state_dict().items():
        torch.testing.assert_close(ours, reference.state_dict()[name], rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.parametrize("loss", ["mse_sum", "cosine", "infonce", "mse+cosine", "mse+infonce"])
def test_every_loss_falls(tmp_path: Path, loss: str):
    train(tmp_path, f"loss.name={loss}", "train.steps=40")
    falling = losses_of(tmp_path)
    assert np.mean(falling[-4:]) < 0.75 * np.mean(falling[:4])


def test_relative_mse_starts_near_what_the_trivial_predictor_gets(tmp_path: Path):
    _, result = train(tmp_path / "a", "loss.relative=true", "train.steps=2")
    line = read_log(tmp_path / "a" / "run" / "log.jsonl")[0]
    assert line["loss"] == pytest.approx(line["mse"] / result.trivial_mse, rel=1e-4)


@pytest.mark.parametrize("trainable", ["head", "last 1 layers", "last 2 layers"])
def test_training_on_kept_states_equals_training_through_the_network(tmp_path: Path, trainable: str):
    choice = f"student.trainable={trainable}"
    whole, _ = train(tmp_path / "whole", choice, "student.cache=off")
    exact, kept = train(tmp_path / "exact", choice, "student.cache=float32")
    half, _ = train(tmp_path / "half", choice, "student.cache=float16")
    assert kept.cached_layers == {"head": 3, "last 1 layers": 2, "last 2 layers": 1}[trainable]
    assert losses_of(tmp_path / "exact") == pytest.approx(losses_of(tmp_path / "whole"), rel=2e-5)
    assert losses_of(tmp_path / "half") == pytest.approx(losses_of(tmp_path / "whole"), rel=5e-3)
    # Adam divides by the size of the gradient, so a weight whose gradient is near 0 may differ by a step of lr.
    for name, expected in whole.state_dict().items():
        torch.testing.assert_close(exact.state_dict()[name], expected, rtol=1e-3, atol=1e-3, msg=name)
        torch.testing.assert_close(half.state_dict()[name], expected, rtol=1e-2, atol=2e-2, msg=name)


def test_layers_below_stay_bit_for_bit_and_are_not_in_checkpoints(tmp_path: Path):
    before = {name: tensor.clone() for name, tensor in make_text_encoder().state_dict().items()}
    student, result = train(tmp_path, "student.trainable=last 1 layers")
    moved = {name for name, tensor in student.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved
    assert all(name.startswith(("backbone.encoder.layer.2.", "head.")) for name in moved)
    weights, _, _ = checkpoint.load(tmp_path / "run", 30)
    assert set(weights) == {n for n in before if n.startswith(("backbone.encoder.layer.2.", "head."))}
    assert result.trained_weights == sum(w.numel() for w in weights.values())


def test_word_embeddings_can_stay_while_all_else_learns(tmp_path: Path):
    before = make_text_encoder().backbone.embeddings.word_embeddings.weight
    student, _ = train(tmp_path, "student.freeze_embeddings=true", "train.steps=5")
    assert torch.equal(student.backbone.embeddings.word_embeddings.weight, before)
    assert not torch.equal(
        student.backbone.embeddings.position_embeddings.weight,
        make_text_encoder().backbone.embeddings.position_embeddings.weight,
    )


def test_validation_on_kept_states_gives_the_figures_of_the_whole_student(tmp_path: Path):
    held_out = make_captions(20, seed=0)
    student, result = train(tmp_path, "student.trainable=last 1 layers", "student.cache=float32", validation=held_out)
    targets = make_store(tmp_path / "again").read()[:20]
    measured = fidelity(
        student.encode(held_out.texts, normalize=False), np.concatenate([targets, targets]), held_out.langs
    )
    for name, value in measured.items():
        assert result.run.validation[name] == pytest.approx(value, rel=1e-4), name


def test_kept_states_are_removed_at_the_end_and_the_recipe_stays(tmp_path: Path):
    train(tmp_path, "student.trainable=last 1 layers", "train.steps=2")
    assert not (tmp_path / "run" / "states").exists()
    recipe = load_recipe(tmp_path / "run" / "recipe.toml")
    assert recipe == recipe_of("student.trainable=last 1 layers", "train.steps=2")


def test_a_finished_run_gives_its_weights_back_to_a_fresh_student(tmp_path: Path):
    trained, _ = train(tmp_path, "student.trainable=last 1 layers")
    fresh = make_text_encoder()
    recipe = recipe_of("student.trainable=last 1 layers")
    store = make_store(tmp_path / "again")
    distill(fresh, make_captions(), store, recipe, tmp_path / "run", resume=True, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), fresh.parameters(), strict=True))


def test_other_captions_are_refused_at_resume(tmp_path: Path):
    train(tmp_path, "train.steps=2")
    store = make_store(tmp_path / "again")
    with pytest.raises(BabelclipError, match=r"captions\.tokens was"):
        distill(
            make_text_encoder(), make_captions().select(lang="en"), store, recipe_of("train.steps=4"),
            tmp_path / "run", resume=True, progress=False,
        )  # fmt: skip


def test_weights_by_language_and_by_caption_choose_what_is_seen(tmp_path: Path):
    _, by_lang = train(tmp_path / "a", "data.weights.sv=0", "train.batch_size=60", "train.steps=1")
    assert by_lang.run.examples == 60
    only_first = np.zeros(120)
    only_first[:7] = 1
    _, by_row = train(tmp_path / "b", "train.batch_size=60", "train.steps=2", weights=only_first)
    assert by_row.run.examples == 14
    with pytest.raises(BabelclipError, match=r"data\.weights names fi"):
        train(tmp_path / "c", "data.weights.fi=2")
    with pytest.raises(BabelclipError, match="3 sampling weights for 120 captions"):
        train(tmp_path / "d", weights=np.ones(3))


def test_training_without_english_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        train(tmp_path / "a", "train.steps=1")
        assert not caplog.records
        train(tmp_path / "b", "train.steps=1", captions=make_captions().select(lang="sv"))
    assert "No caption in English" in caplog.text


def test_dropout_trains_in_train_mode_and_regression_is_without(tmp_path: Path):
    first, _ = train(tmp_path / "a", "student.dropout=0.3", "train.steps=2")
    second, _ = train(tmp_path / "b", "train.steps=2")
    assert not torch.equal(first.head[0].weight, second.head[0].weight)
    assert not first.training


def test_what_does_not_fit_is_named_with_its_cure(tmp_path: Path):
    captions, student = make_captions(), make_text_encoder()
    wide = make_store(tmp_path / "wide", dim=20)
    with pytest.raises(
        BabelclipError, match=r"\(60, 20\) but the student projects to 16: set embed_dim = 20 in \[student\]"
    ):
        distill(student, captions, wide, recipe_of(), tmp_path / "x")
    store = make_store(tmp_path / "store")
    with pytest.raises(SpaceMismatchError, match="other/space"):
        distill(student, captions, store, recipe_of("teacher.space=other/space"), tmp_path / "x")
    with pytest.raises(BabelclipError, match="loss of mse"):
        distill(student, captions, store, recipe_of("loss.name=clip"), tmp_path / "x")
    with pytest.raises(BabelclipError, match="has 3 layers: name 1 to 3"):
        distill(student, captions, store, recipe_of("student.trainable=last 9 layers"), tmp_path / "x")
    with pytest.raises(BabelclipError, match="last N layers"):
        distill(student, captions, store, recipe_of("student.trainable=some"), tmp_path / "x")
    with pytest.raises(BabelclipError, match="below 1"):
        distill(student, captions, store, recipe_of("student.dropout=1"), tmp_path / "x")
    unknown = Captions.from_columns(text=["a dog"], lang=["en"], id=["nobody"])
    with pytest.raises(BabelclipError, match="nobody"):
        distill(student, unknown, store, recipe_of(), tmp_path / "x")


def test_bf16_on_kept_states_learns_and_leaves_float32_weights(tmp_path: Path):
    student, result = train(tmp_path, "train.precision=bf16", "student.trainable=last 1 layers", "train.steps=60")
    assert result.run.precision == "bf16"
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    falling = losses_of(tmp_path)
    assert np.mean(falling[-4:]) < 0.75 * np.mean(falling[:4])


def test_negatives_are_drawn_from_the_targets_and_the_same_after_a_resume(tmp_path: Path):
    store, captions = make_store(tmp_path / "store"), make_captions()
    settings = ("loss.name=infonce", "train.log_every=1", "train.save_every=4")

    def run(name: str, *more: str, resume: bool = False) -> TextEncoder:
        student = make_text_encoder()
        recipe = recipe_of(*settings, *more)
        distill(student, captions, store, recipe, tmp_path / name / "run", progress=False, resume=resume)
        return student

    whole = run("whole", "loss.negatives=5", "train.steps=8")
    run("cut", "loss.negatives=5", "train.steps=4")
    resumed = run("cut", "loss.negatives=5", "train.steps=8", resume=True)
    assert losses_of(tmp_path / "cut") == losses_of(tmp_path / "whole")
    for name, expected in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], expected, rtol=0, atol=0, msg=name)
    run("none", "train.steps=8")
    assert losses_of(tmp_path / "none")[0] < losses_of(tmp_path / "whole")[0]


def test_targets_of_another_space_or_kind_are_refused_at_resume(tmp_path: Path):
    train(tmp_path, "train.steps=2")
    other = make_store(tmp_path / "other", space="test/other", seed=0)
    with pytest.raises(BabelclipError, match=r"taught\.space was 'test/tiny' and is 'test/other'"):
        distill(
            make_text_encoder(), make_captions(), other, recipe_of("train.steps=4"),
            tmp_path / "run", resume=True, progress=False,
        )  # fmt: skip


def test_targets_that_are_all_the_same_have_no_trivial_predictor_to_be_measured_by(tmp_path: Path):
    captions = make_captions()
    one = captions.select(lang="en")
    one = Captions(one.table.slice(0, 1))
    _, result = train(tmp_path / "held-out", "train.steps=2", validation=one)
    assert result.run.validation["trivial_mse"] == 0
    assert np.isnan(result.relative_mse)
    with pytest.raises(BabelclipError, match=r"loss\.relative divides by the variance of the targets"):
        train(tmp_path / "trained", "train.steps=2", "loss.relative=true", captions=one)
