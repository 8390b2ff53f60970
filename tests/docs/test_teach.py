"""What docs/teach.md says is run: its commands in their order, then its Python, on tiny models in the same folders."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

import babelclip
from babelclip.data.captions import Captions, write_captions
from babelclip.data.sources import read_all
from babelclip.store import EmbeddingStore
from tests.cli.test_cli import call
from tests.conftest import draw_shape, make_clip

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "teach.md").read_text(encoding="utf-8")
NOUNS = "dog cat horse boat house tree flower bird fish bicycle".split()
VERBS = "runs sleeps stands".split()
# Runs of a few steps on the page's recipes; models here read few tokens.
SHORT = {
    "teach": "train.steps=2 train.batch_size=8 train.warmup_steps=0 loss.negatives=4 student.trainable=head",
    "altclip-m18-stage2": "train.steps=2 train.batch_size=4 train.micro_batch=0 student.max_length=0",
    "ct-small": "train.steps=2 student.max_length=0",
    "sts-b-small": "train.steps=2 train.epochs=0 train.warmup_steps=0",
    "classify-cifar10": "train.steps=2 train.batch_size=10 train.warmup_steps=0 classify.validation_share=0.4",
}
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()


def commands() -> list[str]:
    """Every line of the page's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """The folders of the page after all of its commands."""
    if not shutil.which("apertium") or not Path("/usr/share/apertium/modes/eng-spa.mode").exists():
        pytest.skip("Apertium with eng-spa is not installed: apt-get install apertium apertium-eng-spa …")
    folder = tmp_path_factory.mktemp("teach")
    for name in ("teacher", "student"):
        make_clip().save(folder / "demo" / name)
    texts = [f"A {noun} {verb} in the street." for noun in NOUNS for verb in VERBS]
    write_captions(Captions.from_columns(text=texts, lang="en"), folder / "captions.jsonl")
    write_captions(Captions.from_columns(text=texts, lang="en"), folder / "own.jsonl")
    (folder / "photos").mkdir()
    for colour in ("red", "blue"):
        draw_shape(colour, "square").save(folder / "photos" / f"{colour}.jpg")
    pairs = [("a red square", "en"), ("un cuadrado rojo", "es"), ("a blue square", "en"), ("un cuadrado azul", "es")]
    images = ["red.jpg", "red.jpg", "blue.jpg", "blue.jpg"]
    columns = {"text": [text for text, _ in pairs], "lang": [lang for _, lang in pairs], "image": images}
    write_captions(Captions.from_columns(**columns), folder / "photos" / "pairs.jsonl")
    for number, name in enumerate(CLASSES):
        (folder / "cifar10" / "train" / name).mkdir(parents=True)
        for size in range(5):
            draw_shape("red", "circle", 30 + 5 * size + number).save(folder / "cifar10/train" / name / f"{size}.png")
    (folder / "stsb").mkdir()
    lines = [f"g\tf\ty\t{place}\t{place % 6}\t{text}\t{texts[place - 1]}\n" for place, text in enumerate(texts)]
    for name in ("train", "dev"):
        (folder / "stsb" / f"sts-{name}.csv").write_text("".join(lines), encoding="utf-8")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for command in commands():
            program, *arguments = shlex.split(command)
            assert program == "babelclip", command
            if arguments[0] == "train" and "--dry-run" not in arguments:
                settings = SHORT[Path(arguments[1]).stem].split()
                arguments += [word for setting in settings for word in ("--set", setting)]
            code, out, error = call(*arguments, BABELCLIP_CACHE=str(folder / "cache"))
            assert code == 0, (command, out, error)
    finally:
        os.chdir(before)
    return folder


def test_every_caption_is_translated_once_and_meets_the_vector_of_its_source(home):
    sources, rows = read_all(home / "translated" / "sources"), read_all(home / "translated")
    assert set(rows.langs) == {"en", "es", "ca", "gl"}
    targets = EmbeddingStore.open(home / "targets")
    assert sorted(targets.ids) == sorted(sources.ids)
    assert set(rows.table["source_id"].to_pylist()) <= set(targets.ids)


def test_the_folders_that_the_page_shows_exist(home):
    for command in commands():
        if found := re.search(r"--out (\S+)", command):
            assert (home / found[1]).is_dir(), command
    assert (home / "upload" / "README.md").is_file()


def test_the_python_of_the_page_runs(home, monkeypatch):
    monkeypatch.chdir(home)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict = {}
    exec(block, names)
    assert len(names["batch"]) == 256
    assert set(names["batch"]["source"].to_pylist()) == {"translated", "own"}


def test_every_kind_of_training_on_the_page_leaves_a_model_with_a_card(home):
    runs = ["es", "pictures/stage-1-text", "pictures/stage-2-heads", "ct", "sts-b", "cifar10"]
    kinds = ["distill", "contrastive", "contrastive", "tension", "sts", "classify"]
    for run, kind in zip(runs, kinds, strict=True):
        card = (home / "runs" / run / "model" / "README.md").read_text(encoding="utf-8")
        assert f'- "{kind}"' in card, run
        assert "## Cost" in card
    assert {row.split("`")[1] for row in PAGE.splitlines() if re.match(r"\| `\w+` \|", row)} >= set(kinds)


def test_what_was_exported_on_the_page_gives_the_vectors_of_the_run(home):
    for run, layout in (("es", "mclip"), ("ct", "ct")):
        model = babelclip.load(home / "runs" / run / "model", towers="text", device="cpu", dtype="float32")
        shipped = babelclip.load(
            home / "shipped" / layout, towers="text", device="cpu", dtype="float32", space=model.space
        )
        texts = ["A dog runs in the street.", "Un perro"]
        np.testing.assert_allclose(shipped.encode_text(texts), model.encode_text(texts), atol=1e-5)
