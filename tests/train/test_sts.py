from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from babelclip.errors import BabelclipError
from babelclip.evaluate.sts import score_pairs
from babelclip.models.clip import Clip
from babelclip.models.text import TextEncoder
from babelclip.train import checkpoint, loop
from babelclip.train.log import read_log
from babelclip.train.pairs import NliPairs, ScoredPairs
from babelclip.train.recipe import Recipe, apply_overrides
from babelclip.train.sts import nli_triplets, no_negatives, sts, train_nli, train_sts
from tests.conftest import WORDS, make_text_encoder

SHORT = [
    "train.kind=sts",
    "train.precision=fp32",
    "train.device=cpu",
    "train.warmup_steps=0",
    "train.lr=3e-3",
    "train.steps=30",
    "train.batch_size=8",
    "train.log_every=1",
]


def recipe_of(*overrides: str) -> Recipe:
    return apply_overrides(Recipe(), [*SHORT, *overrides])


def nli_recipe(*overrides: str) -> Recipe:
    return recipe_of("sts.stage=nli", *overrides)


def make_pairs(n: int = 48, seed: int = 0) -> ScoredPairs:
    """Similar where the first words are the same, whatever the rest: an order that a random encoder does not have."""
    draw = np.random.default_rng(seed)
    first = [" ".join(draw.choice(WORDS, size=4)) for _ in range(n)]
    second = [" ".join([text.split()[0] if i % 2 else "katt", *draw.choice(WORDS, 3)]) for i, text in enumerate(first)]
    same = [a.split()[0] == b.split()[0] for a, b in zip(first, second, strict=True)]
    return ScoredPairs(tuple(first), tuple(second), np.where(same, 5.0, 0.0))


def make_nli(n: int = 24) -> NliPairs:
    draw = np.random.default_rng(1)
    premises = [" ".join(draw.choice(WORDS, size=3)) for _ in range(n)]
    hypotheses = [[f"{text} a", f"the {text}", "dog"] for text in premises]
    first = [text for text in premises for _ in range(3)]
    return NliPairs(tuple(first), tuple(text for row in hypotheses for text in row), np.tile([0, 1, 2], n))


def moved(encoder: TextEncoder, other: TextEncoder) -> list[str]:
    theirs = other.state_dict()
    return [name for name, tensor in encoder.state_dict().items() if not torch.equal(tensor, theirs[name])]


def test_the_first_loss_is_that_of_cosines_against_scores_over_5(tmp_path: Path):
    pairs, student = make_pairs(8), make_text_encoder()
    a, b = (student.encode(list(texts)) for texts in (pairs.first, pairs.second))
    by_hand = np.mean(((a * b).sum(axis=1) - pairs.scores / 5) ** 2)
    train_sts(student, pairs, recipe_of("train.steps=1"), tmp_path / "run", progress=False)
    assert read_log(tmp_path / "run" / "log.jsonl")[0]["loss"] == pytest.approx(by_hand, rel=1e-5)


def test_regression_teaches_an_order_and_the_best_step_on_dev_is_kept(tmp_path: Path):
    pairs, dev, student = make_pairs(), make_pairs(24, seed=7), make_text_encoder()
    before = score_pairs(student.encode, dev.first, dev.second, dev.scores)
    recipe = recipe_of("train.validate_every=10", "train.keep=best")
    result = train_sts(student, pairs, recipe, tmp_path / "run", validation=dev, progress=False)
    after = score_pairs(student.encode, dev.first, dev.second, dev.scores)
    assert after["spearman"] > before["spearman"] + 0.1
    assert result.scores == pytest.approx(after, abs=1e-5)
    curve = [line["spearman"] for line in read_log(tmp_path / "run" / "log.jsonl") if line["event"] == "validate"]
    assert after["spearman"] == pytest.approx(max(curve))
    assert (result.examples, result.skipped, student.training) == (48, {}, False)


def test_softmax_on_nli_learns_its_classes_and_leaves_the_student_without_them(tmp_path: Path):
    student, untouched = make_text_encoder(), make_text_encoder()
    recipe = nli_recipe("train.steps=40", "train.batch_size=16")
    result = train_nli(student, make_nli(), recipe, tmp_path / "run", validation=make_pairs(), progress=False)
    lines = [line for line in read_log(tmp_path / "run" / "log.jsonl") if line["event"] == "train"]
    assert lines[0]["loss"] == pytest.approx(np.log(3), abs=0.3)
    assert lines[-1]["accuracy"] >= 0.8
    assert set(student.state_dict()) == set(untouched.state_dict())
    assert moved(student, untouched)
    weights, _, _ = checkpoint.load(tmp_path / "run", 40)
    assert {"classes.weight", "classes.bias"} < set(weights), "a resumed run needs them"
    assert set(result.scores) == {"spearman", "pearson"}


def test_triplets_are_of_one_premise_and_those_without_both_are_counted():
    pairs = NliPairs(
        ("p", "p", "p", "p", "q", "r", "r"),
        ("e1", "e2", "c1", "n", "e3", "c2", "e4"),
        np.array([0, 0, 2, 1, 0, 2, 0]),
    )
    columns, left_out = nli_triplets(pairs)
    assert list(zip(*columns, strict=True)) == [("p", "e1", "c1"), ("p", "e2", "c1"), ("r", "e4", "c2")]
    assert left_out == 1
    with pytest.raises(BabelclipError, match='nli_loss = "softmax"'):
        nli_triplets(NliPairs(("p",), ("e",), np.array([0])))


def test_candidates_with_the_text_of_premise_or_answer_are_no_negatives():
    """Rows (premise, entailed, contradicting); rows 0 and 3 share a premise, rows 0 and 1 an entailed hypothesis."""
    texts = torch.tensor([[0, 1, 2], [3, 1, 4], [5, 6, 1], [0, 7, 8], [9, 0, 10]])
    of_first = no_negatives(texts, texts)[0].tolist()
    # Entailed: own, equal to own, another, of the equal premise, the premise itself. Contradicting: the third is "1".
    assert of_first == [True, True, False, True, True, False, False, True, False, False]
    assert no_negatives(texts[2:4], texts).tolist() == no_negatives(texts, texts)[2:4].tolist()


def test_the_first_ranking_loss_equals_the_plain_computation(tmp_path: Path, monkeypatch: Any):
    student, seen, real = make_text_encoder(), {}, loop.run

    def caught(model: Any, step_loss: loop.WholeBatchLoss, batches: Any, *args: Any, **more: Any) -> Any:
        batch = batches.load(batches.plan(0)[0])
        n = len(batch.texts)
        vectors = functional.normalize(model(batch.ids, batch.mask), dim=-1)
        anchors, candidates = vectors[:n], vectors[n:]
        texts, total = torch.cat([batch.texts[:, 1], batch.texts[:, 2]]).tolist(), 0.0
        for row in range(n):
            kept = [
                place
                for place, text in enumerate(texts)
                if place == row
                or (
                    text not in (texts[row], batch.texts[row, 0])
                    and not (place < n and batch.texts[place, 0] == batch.texts[row, 0])
                )
            ]
            logits = 20 * anchors[row] @ candidates[kept].T
            total -= torch.log_softmax(logits, 0)[kept.index(row)].item()
        ranks = loop.Ranks(0, 1, [n], None, None)
        seen["by hand"], seen["loss"] = total / n, step_loss.loss(model, batch, ranks)[0].item()
        return real(model, step_loss, batches, *args, **more)

    monkeypatch.setattr(loop, "run", caught)
    recipe = nli_recipe("sts.nli_loss=ranking", "train.steps=20")
    result = train_nli(student, make_nli(), recipe, tmp_path / "run", progress=False)
    assert seen["loss"] == pytest.approx(seen["by hand"], rel=1e-4)
    losses = [line["loss"] for line in read_log(tmp_path / "run" / "log.jsonl")]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert result.examples == 24


@pytest.mark.parametrize("stage", [[], ["sts.stage=nli"], ["sts.stage=nli", "sts.nli_loss=ranking"]])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path, stage: list[str]):
    def run(name: str, steps: int, resume: bool = False) -> TextEncoder:
        student = make_text_encoder()
        recipe = recipe_of(*stage, f"train.steps={steps}", "student.dropout=0.1", "train.batch_size=10")
        if stage:
            train_nli(student, make_nli(), recipe, tmp_path / name, resume=resume, progress=False)
        else:
            train_sts(student, make_pairs(), recipe, tmp_path / name, resume=resume, progress=False)
        return student

    whole = run("whole", 12)
    run("cut", 7)
    assert moved(run("cut", 12, resume=True), whole) == []


def test_long_pairs_are_left_out_and_counted_where_the_recipe_says_so(tmp_path: Path):
    pairs = make_pairs(8)
    longer = ScoredPairs((*pairs.first, "a " * 9), (*pairs.second, "dog"), np.append(pairs.scores, 1.0))
    recipe = recipe_of("train.steps=1", "student.max_length=8", "student.long=skip")
    result = train_sts(make_text_encoder(), longer, recipe, tmp_path / "run", progress=False)
    assert (result.examples, result.skipped) == (8, {"longer than student.max_length": 1})


def test_what_does_not_fit_is_refused_with_its_cure(tmp_path: Path):
    student, out = make_text_encoder(), tmp_path / "run"
    with pytest.raises(BabelclipError, match='stage = "sts"'):
        train_sts(student, make_pairs(), nli_recipe(), out)
    with pytest.raises(BabelclipError, match='kind = "sts"'):
        train_sts(student, make_pairs(), recipe_of("train.kind=distill"), out)
    with pytest.raises(BabelclipError, match="the student has 'mean'"):
        train_sts(student, make_pairs(), recipe_of("student.pooling=cls"), out)
    with pytest.raises(BabelclipError, match="no gradient cache"):
        train_nli(student, make_nli(), nli_recipe("train.micro_batch=2"), out)
    with pytest.raises(BabelclipError, match="none is left"):
        train_sts(student, ScoredPairs((), (), np.empty(0)), recipe_of(), out)
    assert not out.exists()


@pytest.mark.parametrize("stage", ["sts", "nli"])
def test_a_recipe_names_student_and_pairs_and_the_model_has_a_space_of_its_own(tmp_path: Path, stage: str):
    Clip(space="test/tiny", text=make_text_encoder(), languages=("en",), logit_scale=10.0).save(tmp_path / "student")
    pairs = make_pairs(12) if stage == "sts" else make_nli(6)
    values = pairs.scores if stage == "sts" else pairs.labels
    names = ("sentence1", "sentence2", "score" if stage == "sts" else "label")
    rows = zip(pairs.first, pairs.second, values.tolist(), strict=True)
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows))
    model, file = f"student.model={tmp_path / 'student'}", f"sts.pairs={tmp_path / 'pairs.jsonl'}"
    recipe = recipe_of(f"sts.stage={stage}", "train.steps=2", "student.pooling=cls", model, file)
    trained = sts(recipe, tmp_path / "run", progress=False)
    assert (trained.clip.name, trained.clip.logit_scale, trained.clip.text.pooling) == ("run", None, "cls")
    assert trained.clip.space.startswith("sts/")
    assert trained.result.run.step == 2
    with pytest.raises(BabelclipError, match=r"does not say sts\.pairs"):
        sts(recipe_of(model), tmp_path / "other")
