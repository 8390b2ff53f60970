from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest

from babelclip.errors import BabelclipError
from babelclip.translate.apertium import ApertiumEngine
from babelclip.translate.engine import open_engine

SAMPLE = [
    "Two young men are outside near many bushes.",
    "A little girl climbs into a wooden playhouse.",
    "A black dog and a brown dog are playing in the grass.",
    "Several men in hard hats are operating a machine.",
    "A man in a blue shirt is standing on a ladder",
]
HOSTILE = [
    "", "   ", "\t", "[", "]", "[]", "[[", "]]", "^", "$", "^dog$", "^dog/perro<n>$", "\\", "\\\\", "/", "@", "@dog",
    "<b>bold</b>", "{x} {{y}}", "*dog", "#dog", "~", "a ~ b ~5", "+ + =", "[17]", "dog [0] dog", "\\[3\\]", ".[2]",
    "[<STREAMCMD:FLUSH>]", "[[t:b:abc]]dog[[/]]", "two\nlines", "\n\n", "a dog\r\nand a cat\n", "a\0b", "\0", ".",
    "...", "?", "!", "Don't!", "x" * 5000, "a dog " * 300, "😀", "a dog 🐕 and 👨‍👩‍👧 ok", "中文", "עברית",
    "e\u0301\u200b\u2028x", "\ud800",
    "\x01\x02", "https://example.org/a?b=c&d#e", "Mr. Smith's \"dog\" isn't 1,000.50 $ (or 20 %) — here; no: there",
]  # fmt: skip


def is_installed(target: str) -> bool:
    if shutil.which("apertium") is None:
        return False
    return f"-{target}\n" in subprocess.run(["apertium", "-l"], capture_output=True, text=True, check=False).stdout


def needs(target: str) -> pytest.MarkDecorator:
    package = {"spa": "apertium-eng-spa", "cat": "apertium-eng-cat", "gl": "apertium-en-gl"}[target]
    return pytest.mark.skipif(not is_installed(target), reason=f"needs `apt-get install apertium {package}`")


def fake_program(folder: Path, monkeypatch, body: str) -> Path:
    """Puts a program of the name into PATH; `$FOLDER` is where it may keep notes."""
    program = folder / "apertium"
    program.write_text(
        f'#!/bin/sh\nFOLDER={folder}\nif [ "$1" = -l ]; then printf "  eng-spa\\n  eng-cat_valencia\\n  eng-xyz_q\\n"; '
        f"exit; fi\n{body}\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return program


@pytest.mark.parametrize(
    ("lang", "word"),
    [
        pytest.param("es", "perro", marks=needs("spa")),
        pytest.param("ca", "gos", marks=needs("cat")),
        pytest.param("gl", "can", marks=needs("gl")),
    ],
)
def test_real_captions_are_translated(lang, word):
    engine = open_engine("apertium")
    assert lang in engine.languages()
    found = engine.translate(SAMPLE, "en", lang)
    assert word in found[2].lower().split()
    assert all(text and text != source for text, source in zip(found, SAMPLE, strict=True))
    assert [text.endswith(".") for text in found] == [True, True, True, True, False]
    assert not any("*" in text for text in found), "unknown words carry no mark"
    assert engine.model(lang).startswith("apertium-en")


@needs("spa")
def test_no_text_gets_the_translation_of_another():
    engine = open_engine("apertium")
    numbered = [f"{number} dogs" for number in range(2000)]
    texts = numbered + HOSTILE * 3
    random.Random(0).shuffle(texts)
    found = engine.translate(texts, "en", "es")
    assert len(found) == len(texts)
    translated = [(source, text) for source, text in zip(texts, found, strict=True) if source.endswith(" dogs")]
    assert len(translated) == 2000
    assert all(text.split()[0] == source.split()[0] and "perro" in text for source, text in translated)


@needs("spa")
def test_nothing_of_a_hostile_text_is_lost():
    found = dict(zip(HOSTILE, open_engine("apertium").translate(HOSTILE, "en", "es"), strict=True))
    for text in HOSTILE:
        for mark in "[]{}^$\\/@<>~#+=*😀🐕\n\r\0\x01":
            assert found[text].count(mark) == text.count(mark), (text, found[text], mark)
    for text in ["", "   ", "[", "\\", "[17]", "^", "~", "\n\n", "\0", "x" * 5000, "中文", "😀"]:
        assert found[text] == text
    assert found["two\nlines"] == "Dos\nLíneas"
    assert found["a dog " * 300].lower().count("perro") == 300


@needs("gl")
def test_equal_batches_give_equal_translations_whatever_came_before():
    texts = [f"{who} {does} near the {place}" for who in ("A girl who talks", "A trained police dog", "Two men")
             for does in ("is sitting", "plays with her cellphone", "sits next to his handler", "painted a rainbow")
             for place in ("street", "van", "grand piano", "table")]  # fmt: skip
    engine = open_engine("apertium")
    first = engine.translate(texts, "en", "gl")
    others = [text.replace("near", word) for text in texts for word in ("under", "painted", "close to", "to his")]
    engine.translate(others, "en", "gl")
    assert engine.translate(texts, "en", "gl") == first
    assert open_engine("apertium").translate(texts, "en", "gl") == first


def test_a_missing_program_is_met_with_the_command_that_installs_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BabelclipError, match=r"`apt-get install apertium apertium-en-gl .*apertium-eng-spa"):
        open_engine("apertium")


def test_a_missing_pair_is_met_with_its_package(monkeypatch, tmp_path):
    fake_program(tmp_path, monkeypatch, "cat")
    engine = open_engine("apertium")
    assert engine.languages() == ("ca-valencia", "es")
    with pytest.raises(BabelclipError, match=r"en: ca-valencia, es\. .*`apt-get install apertium apertium-en-gl`"):
        engine.translate(["a dog"], "en", "gl")
    with pytest.raises(BabelclipError, match=r"no installed pair from en to de .*engine opus or nllb"):
        engine.model("de")


def test_a_program_that_dies_is_started_once_more(monkeypatch, tmp_path):
    fake_program(tmp_path, monkeypatch, '[ -e "$FOLDER/died" ] || { touch "$FOLDER/died"; exit 3; }\nexec cat')
    assert ApertiumEngine().translate(["a dog", "", "[x] two"], "en", "es") == ["a dog", "", "[x] two"]


def test_a_program_that_dies_twice_is_an_error_with_what_it_said_and_at_which_text(monkeypatch, tmp_path):
    fake_program(tmp_path, monkeypatch, r"printf 'un perro.[0]\0'; echo out of luck >&2")
    with pytest.raises(BabelclipError, match=r"ended too early \(out of luck\), twice, at the text 'a cat'"):
        ApertiumEngine().translate(["a dog", "a cat"], "en", "es")


def test_an_answer_to_another_text_is_never_taken(monkeypatch, tmp_path):
    fake_program(tmp_path, monkeypatch, r"cat >/dev/null; printf 'un gato.[1]\0un perro.[0]\0'")
    with pytest.raises(BabelclipError, match="gave the answer to another text, twice"):
        ApertiumEngine().translate(["a dog", "a cat"], "en", "es")


def test_a_program_that_hangs_is_ended_with_all_that_it_started(monkeypatch, tmp_path):
    fake_program(tmp_path, monkeypatch, 'sleep 600 & echo $! >> "$FOLDER/children"; wait')
    start = time.monotonic()
    with pytest.raises(BabelclipError, match=r"gave no answer for 0\.3 seconds"):
        ApertiumEngine(patience=0.3).translate(["a dog"] * 5000, "en", "es")
    assert time.monotonic() - start < 5
    time.sleep(0.1)
    for child in (tmp_path / "children").read_text().split():
        state = Path(f"/proc/{child}/stat")
        assert not state.exists() or " Z " in state.read_text()
    assert not [thread for thread in threading.enumerate() if thread.name.endswith("(_write)")]
