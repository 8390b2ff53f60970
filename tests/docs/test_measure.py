"""What docs/measure.md says is run: its commands in their order, then its Python, on tiny models and miniatures."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from babelclip.evaluate.report import read_results
from tests.cli.test_cli import call
from tests.conftest import COLOURS, draw_shape, make_clip

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "measure.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """Every line of the page's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def miniatures(folder: Path) -> None:
    """Writes the files that the page's reader has."""
    make_clip().save(folder / "demo" / "teacher")
    student = make_clip(seed=3)
    student.name = "student"
    student.save(folder / "demo" / "student")
    (folder / "xm3600" / "images").mkdir(parents=True)
    lines, keys = [], []
    for number, colour in enumerate(COLOURS):
        for place in (folder / f"{colour}.jpg", folder / "xm3600" / "images" / f"{number:016x}.jpg"):
            draw_shape(colour, "circle").save(place)
        lines += [
            json.dumps({"text": f"{word} {colour}", "lang": lang, "image": f"{colour}.jpg"})
            for lang, word in (("en", "a"), ("sv", "en"))
        ]
        captions = {lang: {"caption": [f"{lang} {colour}", f"{colour} {lang}"]} for lang in ("sv", "de", "en")}
        keys.append(json.dumps({"image/key": f"{number:016x}", **captions}))
        for split in ("train", "test"):
            for size in (40, 48, 56):
                place = folder / "cifar10" / split / colour / f"{size + (split == 'test')}.jpg"
                place.parent.mkdir(parents=True, exist_ok=True)
                draw_shape(colour, "square", size + (split == "test")).save(place)
    (folder / "captions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "xm3600" / "captions.jsonl").write_text("\n".join(keys), encoding="utf-8")
    names = {"cifar10": ["blå", "grön", "röd", "gul"]}
    (folder / "cifar10" / "sv_classnames.json").write_text(json.dumps(names), encoding="utf-8")
    (folder / "stsb").mkdir()
    rows = "".join(f"a\tb\tc\t1\t{n}\ta dog\t{'A ' * n}cat\n" for n in range(6))
    (folder / "stsb" / "sts-test.csv").write_text(rows, encoding="utf-8")
    (folder / "parallel").mkdir()
    for lang, words in (("en", "dog\ncat\nred\n"), ("sv", "hund\nkatt\nröd\n")):
        (folder / "parallel" / f"test.{lang}").write_text(words, encoding="utf-8")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The folder of the page after all of its commands."""
    folder = tmp_path_factory.mktemp("measure")
    miniatures(folder)
    for command in commands():
        program, *arguments = shlex.split(command)
        assert program == "babelclip", command
        code, out, error = call(*arguments, cwd=folder, BABELCLIP_CACHE=str(folder / "cache"))
        assert code == 0, (command, out, error)
        if arguments[0] == "evaluate":
            assert out, command
    return folder


def test_every_kind_of_result_that_the_page_names_is_there(home):
    files = sorted(path.name for path in (home / "results" / "mine").iterdir())
    assert "student--xm3600-test.json" in files
    assert "student--xm3600-first-test.json" in files
    results = [result for name in files for result in read_results(home / "results" / "mine" / name)]
    tasks = {result["task"] for result in results}
    assert tasks == {"zeroshot_retrieval", "zeroshot_classification", "sts", "translation_retrieval", "fidelity"}
    [probe] = [read_results(path) for path in (home / "results" / "probe").iterdir()]
    assert [result["shots"] for result in probe if result["task"] == "linear_probe"] == [None, 1]
    assert (home / "report.html").is_file()


def test_the_metrics_that_the_page_explains_are_those_of_the_results(home):
    [result, _] = [r for r in read_results(home / "results/mine/student--xm3600-test.json") if r["language"] == "sv"]
    named = {
        name for row in re.findall(r"^\| (`.*?) \|", PAGE, flags=re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)
    }
    for name in named - {"merged_R@k"}:
        assert name.replace("@k", "@1") in result["metrics"], name


def test_the_python_of_the_page_runs(home, monkeypatch):
    monkeypatch.chdir(home)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict = {}
    exec(block, names)
    stored = read_results(home / "results/mine/student--xm3600-test.json")
    assert [r["metrics"] for r in names["results"]] == [r["metrics"] for r in stored if r["language"] == "sv"]
