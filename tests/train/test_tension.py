from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import babelclip
from babelclip.errors import BabelclipError
from babelclip.evaluate.sts import score_pairs
from babelclip.files import read_json
from babelclip.models.clip import Clip
from babelclip.train import checkpoint, loop
from babelclip.train.log import read_log
from babelclip.train.pairs import ScoredPairs
from babelclip.train.recipe import Recipe, apply_overrides
from babelclip.train.sentences import distinct_sentences
from babelclip.train.tension import TensionResult, Twins, _Groups, tension, tension_groups, train_tension
from tests.conftest import WORDS, make_text_encoder

SHORT = [
    "train.kind=tension",
    "train.precision=fp32",
    "train.device=cpu",
    "train.optimizer=rmsprop",
    "train.eps=1e-7",
    "train.warmup_steps=0",
    "train.clip_norm=0",
    "train.lr=1e-3",
    "train.steps=12",
    "train.log_every=1",
]


def recipe_of(*overrides: str) -> Recipe:
    return apply_overrides(Recipe(), [*SHORT, *overrides])


def make_student(seed: int = 0) -> Clip:
    return Clip(space="test/tiny", text=make_text_encoder(seed), languages=("en",), name="tiny", attribution=("us",))


def make_texts(n: int = 60) -> list[str]:
    draw = np.random.default_rng(0)
    return [" ".join(draw.choice(WORDS, size=draw.integers(2, 6))) for _ in range(n)]


def make_pairs(n: int = 24) -> ScoredPairs:
    """Each text with itself without its last word, or with another one."""
    texts = make_texts(n)
    second = [text.rsplit(" ", 1)[0] if place % 2 else texts[place - 1] for place, text in enumerate(texts)]
    return ScoredPairs(tuple(texts), tuple(second), np.asarray([5.0 if place % 2 else 1.0 for place in range(n)]))


def train(out: Path, *overrides: str, student: Clip | None = None, **more: Any) -> TensionResult:
    return train_tension(student or make_student(), make_texts(), recipe_of(*overrides), out, progress=False, **more)


def test_a_group_is_one_positive_and_k_negatives_of_2k_other_sentences():
    for n in (15, 40, 5000):
        groups = tension_groups(n, 200, 7, np.random.default_rng(0))
        assert groups.shape == (200, 8, 2)
        assert (groups[:, 0, 0] == groups[:, 0, 1]).all()
        for group in groups.reshape(200, 16):
            assert len(set(group)) == 15, "the positive twice, 14 others once: none is anchored to it"
        assert groups.min() >= 0
        assert groups.max() < n


def test_every_sentence_is_drawn_about_equally_often():
    counts = Counter(tension_groups(400, 4000, 7, np.random.default_rng(1)).reshape(-1, 16)[:, 1:].reshape(-1).tolist())
    assert len(counts) == 400
    assert 0.6 < min(counts.values()) / 150 < max(counts.values()) / 150 < 1.4


def test_batches_follow_from_seed_and_epoch_and_hold_whole_groups():
    sentences = distinct_sentences(make_student().text, make_texts(), Recipe().student)
    data, again, other = (_Groups(sentences, 7, 16, seed) for seed in (0, 0, 1))
    first, repeated = data.plan(3), again.plan(3)
    assert len(first) == 500
    assert all(np.array_equal(a, b) for a, b in zip(first, repeated, strict=True))
    assert not np.array_equal(first[0], data.plan(4)[0])
    assert not np.array_equal(first[0], other.plan(3)[0])
    batch = data.load(first[7])
    assert batch.labels.tolist() == [1, 0, 0, 0, 0, 0, 0, 0] * 2
    for place, label in enumerate(batch.labels):
        texts = [ids[place][mask[place] == 1].tolist() for ids, mask in (batch[:2], batch[2:4])]
        assert (texts[0] == texts[1]) == bool(label)
    assert data.tokens(first[7]) == int(batch.mask.sum() + batch.other_mask.sum())


def test_texts_with_equal_tokens_are_one_sentence_and_long_ones_are_counted():
    student = make_student().text
    texts = ["A dog", "a DOG", "a cat", "a red dog and a green cat", "a dog"]
    found = distinct_sentences(student, texts, Recipe().student)
    assert found.of_text.tolist() == [0, 0, 1, 2, 0]
    cut = distinct_sentences(student, texts, dataclasses.replace(Recipe().student, max_length=5))
    assert (cut.long, cut.tokens.lengths.max()) == (1, 5)
    assert cut.tokens.load(np.array([2]))[0][0, -1] == 2, "the end mark stays"
    skipped = distinct_sentences(student, texts, dataclasses.replace(Recipe().student, max_length=5, long="skip"))
    assert skipped.of_text.tolist() == [0, 0, 1, -1, 0]
    assert student.tokenizer.max_length == 16, "as it was"
    with pytest.raises(BabelclipError, match="reads 16 tokens at most"):
        distinct_sentences(student, texts, dataclasses.replace(Recipe().student, max_length=17))


def test_the_score_is_the_dot_product_of_masked_means_without_head_and_dropout(tmp_path: Path, monkeypatch: Any):
    student, seen = make_student(), {}
    real = loop.run

    def caught(model: Twins, step_loss: Any, batches: Any, *args: Any, **more: Any) -> Any:
        batch = batches.load(batches.plan(0)[0])
        assert not any(part.training for encoder in (model.f1, model.f2) for part in encoder.modules())
        total = 0.0
        for place, label in enumerate(batch.labels.tolist()):
            means = []
            for ids, mask in (batch[:2], batch[2:4]):
                real_ids = ids[place][mask[place] == 1][None]
                means.append(student.text.backbone(input_ids=real_ids).last_hidden_state[0].mean(dim=0))
            z = (means[0] @ means[1]).item()
            total += float(np.log1p(np.exp(-z if label else z)))
        seen["by hand"], seen["loss"] = total / len(batch.labels), step_loss(model, batch)[0].item()
        return real(model, step_loss, batches, *args, **more)

    monkeypatch.setattr(loop, "run", caught)
    train(tmp_path / "run", "train.steps=1", student=student)
    assert seen["loss"] == pytest.approx(seen["by hand"], rel=1e-5)


def test_both_encoders_train_apart_and_the_student_stays(tmp_path: Path):
    student = make_student()
    before = {name: tensor.clone() for name, tensor in student.text.state_dict().items()}
    result = train(tmp_path / "run", student=student)
    weights, _, _ = checkpoint.load(tmp_path / "run", 12)
    names = [name.removeprefix("f1.") for name in weights if name.startswith("f1.")]
    assert len(weights) == 2 * len(names)
    assert any(not torch.equal(weights[f"f1.{name}"], weights[f"f2.{name}"]) for name in names)
    for which in ("f1", "f2"):
        assert any(not torch.equal(weights[f"{which}.{name}"], before[name]) for name in names), which
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.text.state_dict().items())
    losses = [line["loss"] for line in read_log(tmp_path / "run" / "log.jsonl")]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    assert result.duplicates == 60 - result.sentences


def test_without_an_evaluator_both_are_saved_with_tokenizer_and_f2_is_kept(tmp_path: Path):
    result = train(tmp_path / "run", "train.steps=2")
    assert (result.kept, result.scores) == ("f2", {})
    loaded = {name: babelclip.load(tmp_path / "run" / name) for name in ("f1", "f2")}
    assert loaded["f1"].space != loaded["f2"].space
    assert (loaded["f2"].languages, loaded["f2"].attribution) == (("en",), ("us",))
    np.testing.assert_array_equal(loaded["f2"].encode_text(["a dog"]), result.model.encode_text(["a dog"]))
    assert not np.array_equal(loaded["f1"].encode_text(["a dog"]), result.model.encode_text(["a dog"]))
    assert read_json(tmp_path / "run" / "tension.json")["kept"] == "f2"


@pytest.mark.parametrize("select", ["f1", "f2", "best"])
def test_the_kept_encoder_is_that_of_the_best_validation(tmp_path: Path, select: str):
    pairs = make_pairs()
    result = train(
        tmp_path / "run", f"tension.select={select}", "train.keep=best", "train.validate_every=3", validation=pairs
    )
    curve = {line["step"]: line for line in read_log(tmp_path / "run" / "log.jsonl") if line["event"] == "validate"}
    assert sorted(curve) == [0, 3, 6, 9, 12]
    wanted = {"best": max(curve[result.run.best_step][f"{which}/spearman"] for which in ("f1", "f2"))}
    wanted |= {which: max(line[f"{which}/spearman"] for line in curve.values()) for which in ("f1", "f2")}
    assert result.run.best_value == pytest.approx(wanted[select])
    assert result.kept == select or select == "best"
    figures = score_pairs(result.model.encode_text, pairs.first, pairs.second, pairs.scores)
    for name in ("spearman", "pearson"):
        assert result.scores[f"{result.kept}/{name}"] == pytest.approx(figures[name], abs=1e-5)


def test_in_batch_tension_learns_its_scale_and_needs_dropout(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    settings = ("tension.variant=in_batch", "train.batch_size=16", "train.optimizer=adamw")
    student = make_student()
    for part in student.text.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    with caplog.at_level(logging.WARNING):
        train(tmp_path / "equal", *settings, student=student)
    assert "Set student.dropout = 0.1" in caplog.text
    weights, _, _ = checkpoint.load(tmp_path / "equal", 12)
    names = [name.removeprefix("f1.") for name in weights if name.startswith("f1.")]
    # Copies get the same gradients but for rounding, and stay copies.
    for name in names:
        torch.testing.assert_close(weights[f"f1.{name}"], weights[f"f2.{name}"], atol=2e-3, rtol=0)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        train(tmp_path / "dropout", *settings, "student.dropout=0.1", student=student)
    assert "dropout" not in caplog.text
    weights, _, _ = checkpoint.load(tmp_path / "dropout", 12)
    apart = [(weights[f"f1.{name}"] - weights[f"f2.{name}"]).abs().max().item() for name in names]
    assert max(apart) > 4e-3
    scales = [line["scale"] for line in read_log(tmp_path / "dropout" / "log.jsonl")]
    assert scales[0] == pytest.approx(20, rel=1e-5)
    assert scales[-1] != pytest.approx(20, rel=1e-5)


@pytest.mark.parametrize("variant", [["tension.variant=original"], ["tension.variant=in_batch", "student.dropout=0.1"]])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path, variant: list[str]):
    variant = [*variant, "train.batch_size=16", "train.validate_every=4"]
    pairs = make_pairs()
    train(tmp_path / "whole", *variant, validation=pairs)
    train(tmp_path / "cut", *variant, "train.steps=7", validation=pairs)
    train(tmp_path / "cut", *variant, validation=pairs, resume=True)
    weights = [checkpoint.load(tmp_path / name, 12)[0] for name in ("whole", "cut")]
    assert [name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])] == []
    for which in ("f1", "f2"):
        files = [(tmp_path / name / which / "text_encoder.safetensors").read_bytes() for name in ("whole", "cut")]
        assert files[0] == files[1]


def test_the_stepped_rates_are_those_of_the_recipe(tmp_path: Path):
    stepped = ["train.schedule=steps", "train.lr=1e-5", "train.lr_steps.3=8e-6", "train.lr_steps.6=6e-6"]
    train(tmp_path / "run", *stepped, "train.steps=8")
    rates = [line["lr"] for line in read_log(tmp_path / "run" / "log.jsonl")]
    assert rates == pytest.approx([1e-5] * 3 + [8e-6] * 3 + [6e-6] * 2)


def test_what_does_not_fit_is_refused_with_its_cure(tmp_path: Path):
    out = tmp_path / "run"
    with pytest.raises(BabelclipError, match=r"batch_size = 20 is not divisible by 8.*for example 24"):
        train(out, "train.batch_size=20")
    with pytest.raises(BabelclipError, match=r"batch_size = 4 is not divisible by 8.*for example 8"):
        train(out, "train.batch_size=4")
    with pytest.raises(BabelclipError, match="needs 101: give more sentences"):
        train(out, "tension.negatives=50", "train.batch_size=51")
    with pytest.raises(BabelclipError, match='kind = "tension"'):
        train(out, "train.kind=distill")
    with pytest.raises(BabelclipError, match="nothing in \\[loss\\]"):
        train(out, "loss.name=mse")
    with pytest.raises(BabelclipError, match="without a head"):
        train(out, "student.head=linear")
    with pytest.raises(BabelclipError, match="no gradient cache"):
        train(out, "train.micro_batch=8")
    with pytest.raises(BabelclipError, match="nothing to tell apart"):
        train_tension(make_student(), ["a dog", "A dog"], recipe_of("tension.variant=in_batch"), out, progress=False)
    assert not out.exists(), "refused before anything is written"


def test_a_recipe_names_student_sentences_and_pairs(tmp_path: Path):
    make_student().save(tmp_path / "student")
    (tmp_path / "texts.en").write_text("\n".join(make_texts()), encoding="utf-8")
    pairs = make_pairs()
    rows = zip(pairs.scores, pairs.first, pairs.second, strict=True)
    lines = [f"genre\tfile\tyear\tid\t{score}\t{first}\t{second}" for score, first, second in rows]
    (tmp_path / "dev.csv").write_text("\n".join(lines), encoding="utf-8")
    given = [
        f"student.model={tmp_path / 'student'}",
        f"data.captions={tmp_path / 'texts.en'}",
        f"sts.validation={tmp_path / 'dev.csv'}",
    ]
    result = tension(recipe_of("train.steps=2", *given), tmp_path / "run", progress=False)
    assert set(result.scores) == {
        "spearman",
        "pearson",
        *(f"{f}/{s}" for f in ("f1", "f2") for s in ("spearman", "pearson")),
    }
    assert result.model.name == f"run-{result.kept}"
    for place, name in enumerate(("student.model", "data.captions")):
        with pytest.raises(BabelclipError, match=f"does not say {name}"):
            tension(recipe_of(*given[:place], *given[place + 1 :]), tmp_path / "other", progress=False)


def test_sentences_that_name_no_language_have_that_of_the_recipe(tmp_path: Path):
    make_student().save(tmp_path / "student")
    (tmp_path / "sentences.txt").write_text("\n".join(make_texts()), encoding="utf-8")
    paths = (f"student.model={tmp_path / 'student'}", f"data.captions={tmp_path / 'sentences.txt'}")
    result = tension(recipe_of(*paths, "data.lang=en", "train.steps=2"), tmp_path / "run", progress=False)
    assert result.sentences > 50


def test_a_locked_student_is_refused(tmp_path: Path):
    with pytest.raises(BabelclipError, match=r"student\.trainable = 'locked' leaves nothing to train"):
        train(tmp_path, "student.trainable=locked")
