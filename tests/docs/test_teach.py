"""What docs/teach.md says is run: its commands in their order, then its Python, on tiny models in the same folders."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from babelclip.data.captions import Captions, write_captions
from babelclip.data.sources import read_all
from babelclip.store import EmbeddingStore
from tests.cli.test_cli import call
from tests.conftest import draw_shape, make_clip

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "teach.md").read_text(encoding="utf-8")
NOUNS = "dog cat horse boat house tree flower bird fish bicycle".split()
VERBS = "runs sleeps stands".split()
# A run of a few steps on the page's recipe.
SHORT = "train.steps=2 train.batch_size=8 train.warmup_steps=0 loss.negatives=4 student.trainable=head".split()


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
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for command in commands():
            program, *arguments = shlex.split(command)
            assert program == "babelclip", command
            if arguments[0] == "train":
                arguments += [word for setting in SHORT for word in ("--set", setting)]
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
