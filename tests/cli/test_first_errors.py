"""What a newcomer does wrong first gets an answer that says what to do: no traceback, and the way on in the text."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from babelclip import errors
from babelclip.errors import MissingExtraError
from tests.cli.test_cli import call
from tests.conftest import draw_shape, make_clip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    make_clip().save(folder / "model")
    for name in ("pictures", "empty"):
        (folder / name).mkdir()
    draw_shape("red", "circle").save(folder / "pictures" / "red.png")
    (folder / "note.txt").write_text("a dog\n")
    (folder / "wrong.toml").write_text("[student]\nmodle = 'x'\n")
    (folder / "pdfs").mkdir()
    (folder / "pdfs" / "photo.jpg").write_bytes(b"%PDF-1.4\n")
    (folder / "plain.jsonl").write_text('{"text": "a dog"}\n')
    (folder / "english.jsonl").write_text('{"text": "a dog", "lang": "en"}\n')
    (folder / "captions.jsonl").write_text('{"text": "a dog", "lang": "swedish"}\n')
    return folder


MISTAKES = {
    "serch --in pictures dog": (2, "Did you mean 'search'"),
    "search --in pictures dog --modle model": (2, "--model"),
    "search dog": (2, "--in FOLDER"),
    "search --in picture dog --model model": (1, "does not exist"),
    "search --in empty dog --model model": (1, "holds no pictures"),
    "search --in note.txt dog --model model": (1, "is a file"),
    "search --in pictures dog": (1, "babelclip starter"),
    "search --in pictures dog --model XLM-Roberta-Large-Vit-L14": (1, "M-CLIP/XLM-Roberta-Large-Vit-L-14"),
    "search --in pictures dog --model pictures": (1, "config.json"),
    "search photos.lance dog --model model": (1, "babelclip index"),
    "search pictures dog --model model": (1, "--in pictures"),
    "index note.txt --out photos.lance --model model": (1, "a folder of pictures"),
    "models --lang swedish": (1, "Did you mean sv (Swedish)"),
    "embed captions.jsonl --model model --out targets": (1, "Did you mean sv (Swedish)"),
    "evaluate model --dataset xm360=pictures": (1, "Did you mean 'xm3600'"),
    "evaluate model --dataset xm3600=pictures": (1, "captions.jsonl"),
    "evaluate model": (1, "--captions FILE"),
    "serve": (1, "babelclip index"),
    "train teach.toml --out run": (1, "does not exist"),
    "train wrong.toml --out run": (1, "Did you mean 'model'"),
    "export model --to onxx --out out": (1, "Did you mean 'onnx'"),
    "report note.txt": (1, "a file of results"),
    "train pictures --out run": (1, "is a folder. A recipe is one file"),
    "embed plain.jsonl --model model --out targets": (1, "(--lang sv)"),
    "embed note.txt --model model --out targets": (1, "(--lang sv)"),
    "evaluate model --captions english.jsonl": (1, "its captions name none"),
    "store info pictures": (1, "Give a folder that `babelclip embed` wrote"),
    "search --in pdfs dog --model model": (1, "does not decode as a picture"),
    "search --in pictures dog --model organisation/nothing": (1, "hf download organisation/nothing"),
    "index pictures --out /proc/x.lance --model model": (1, "below a folder that exists"),
    "starter --out note.txt": (1, "note.txt is a file"),
    "demo --out note.txt": (1, "note.txt is a file"),
    "translate english.jsonl --to klingon --out out": (1, "Did you mean"),
    "translate english.jsonl --to sv --engine google --out out": (1, "Allowed: apertium"),
    "export pictures --to onnx --out out": (1, "Give the folder in which config.json"),
    "models --lang 99": (1, "Allowed are BCP-47 codes"),
    "serve photos.lance --port 99999": (2, "less than or equal to 65535"),
    "models XLM-Roberta-Large-Vit-L-14 --lang sv": (2, "give one of the two"),
    "translate english.jsonl --to sv --engine opus --dictionary note.txt --out out": (1, "--choose LANG=dictionary"),
    "embed pictures --model model --out targets --lang sv": (1, "--lang was given"),
    "embed english.jsonl --model model --out targets --publish pictures --licence mit": (
        1,
        "pictures holds other things",
    ),
    "serve =photos.lance": (1, "names no collection"),
    "index ~nobody-is-called-so/x --out photos.lance --model model": (1, "Write the path whole"),
    "compare photos.lance dog --as sv=hund --as sv=vovve": (1, "given twice for sv"),
    "evaluate model --captions english.jsonl --dataset one --dataset two": (1, "one and two"),
    "starter --model model": (2, "--collection"),
    "starter --collection photos.lance --out somewhere": (2, "--collection"),
    "trim model --lang en --out pictures": (1, "holds red.png"),
    "starter --out pictures": (1, "holds red.png"),
    "export model --to mclip --out model --overwrite": (1, "the model itself"),
    "export model --to mclip --out . --overwrite": (1, "the model itself"),
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_first_mistake_gets_the_way_on(line, home):
    pytest.importorskip("lancedb")
    expected, way_on = MISTAKES[line]
    code, out, said = call(*line.split(), cwd=home, BABELCLIP_CACHE=str(home / "cache"))
    assert (code, out) == (expected, ""), said
    assert way_on in " ".join(said.split())
    assert "Traceback" not in said


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(MissingExtraError, match=r"babelclip\[search\]"):
        errors.require("lancedb", "search")


def run(home, *arguments, **environment):
    """The program in a process of its own, bytes in and out."""
    command = [sys.executable, "-m", "babelclip.cli.main", *arguments]
    environment = {**os.environ, "PYTHONUTF8": "0", **environment}
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, check=False)


def test_output_that_the_terminal_cannot_show_is_written_by_its_numbers(home):
    done = run(home, "models", "--lang", "狗", PYTHONIOENCODING="latin-1")
    assert done.returncode == 1
    assert b"\\u72d7" in done.stderr
    assert b"Traceback" not in done.stderr


def test_an_argument_in_another_encoding_is_an_error_in_words(home):
    done = run(home, "models", b"\xff\xfe", LC_ALL="C.UTF-8")
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: An argument is not in utf-8")
    assert b"PYTHONUTF8=1" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("index", "", "--out", "x.lance", "--model", "model"), ("search", "--in", "pictures", " ", "--model", "model")],
)
def test_an_empty_argument_is_not_this_folder_and_no_query(arguments, home):
    pytest.importorskip("lancedb")
    code, out, said = call(*arguments, cwd=home, BABELCLIP_CACHE=str(home / "cache"))
    assert (code, out) == (1, ""), said
    assert "is empty" in said
