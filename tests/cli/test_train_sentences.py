"""`babelclip train` with recipes that need no pictures and no teacher: from sentences or pairs to a model."""

from __future__ import annotations

from pathlib import Path

import pytest

import babelclip
from babelclip.evaluate.sts import score_pairs
from babelclip.train.pairs import read_scored
from tests.cli.test_cli import call
from tests.train.test_tension import make_pairs, make_student, make_texts

ROOT = Path(__file__).parents[2]
SHORT = ("train.steps=4", "train.validate_every=2", "train.precision=fp32", "train.device=cpu")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A student, sentences one a line, and pairs in the form of STS-b."""
    make_student().save(tmp_path / "student")
    (tmp_path / "texts.en").write_text("\n".join(make_texts()), encoding="utf-8")
    pairs = make_pairs()
    rows = zip(pairs.scores, pairs.first, pairs.second, strict=True)
    (tmp_path / "sts.csv").write_text("".join(f"g\tf\ty\ti\t{s}\t{a}\t{b}\n" for s, a, b in rows), encoding="utf-8")
    return tmp_path


def settings(*given: str) -> list[str]:
    return [word for setting in (*SHORT, *given) for word in ("--set", setting)]


def test_the_small_recipe_of_tension_trains_resumes_and_saves_three_models(files: Path):
    command = ["train", str(ROOT / "recipes" / "ct-small.toml"), "--out", str(files / "run")]
    command += settings(
        f"student.model={files / 'student'}",
        "student.max_length=0",
        f"data.captions={files / 'texts.en'}",
        f"sts.validation={files / 'sts.csv'}",
    )
    code, out, error = call(*command)
    assert (code, error) == (0, "")
    assert "f1/spearman: " in out
    kept = out.partition("kept: ")[2][:2]
    pairs = read_scored(files / "sts.csv")
    figures = {
        name: score_pairs(babelclip.load(files / "run" / name).encode_text, pairs.first, pairs.second, pairs.scores)
        for name in ("f1", "f2", "model")
    }
    assert figures["model"] == figures[kept]
    assert f"{kept}/spearman: {100 * figures[kept]['spearman']:.2f}" in out
    code, again, _ = call(*command, "--resume")
    assert code == 0
    assert again == out


def test_the_small_recipe_of_sts_b_trains(files: Path):
    command = ["train", str(ROOT / "recipes" / "sts-b-small.toml"), "--out", str(files / "run")]
    command += settings(
        f"student.model={files / 'student'}",
        f"sts.pairs={files / 'sts.csv'}",
        f"sts.validation={files / 'sts.csv'}",
        "train.epochs=0",
        "train.save_every=2",
    )
    code, out, error = call(*command)
    assert (code, error) == (0, "")
    model = babelclip.load(files / "run" / "model")
    pairs = read_scored(files / "sts.csv")
    spearman = score_pairs(model.encode_text, pairs.first, pairs.second, pairs.scores)["spearman"]
    assert f"  spearman: {100 * spearman:.2f}" in out
    assert model.space.startswith("sts/")


def test_a_picture_tower_is_refused_with_the_reason(files: Path):
    command = ["train", str(ROOT / "recipes" / "sts-b-small.toml"), "--out", str(files / "run"), "--image", "demo/x"]
    code, _, error = call(*command)
    assert code == 1
    assert "a space of its own" in error
