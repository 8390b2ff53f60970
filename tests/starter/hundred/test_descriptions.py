from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from babelclip.errors import BabelclipError
from babelclip.starter.hundred.descriptions import find_lists, list_rows
from babelclip.starter.sources import Row

ENGLISH = """Package: one
Description-md5: 1111
Description-en: program that draws small trees
 This program draws trees on a screen. It is written in C.
 .
 Some files:
  * one that is long enough
 .
 A last paragraph of five words.

Package: two
Description-md5: 2222
Description-en: library of useful round shapes

Package: three
Description-md5: 3333
Description-en: something that nobody translated yet
"""
GERMAN = """Package: one
Description-md5: 1111
Description-de: Programm, das kleine Bäume zeichnet
 Dieses Programm zeichnet Bäume auf einen Schirm. Es ist in C geschrieben.
 .
 Einige Dateien:
  * eine, die lang genug ist
 .
 Ein letzter Absatz aus fünf Wörtern.

Package: two
Description-md5: 2222
Description-de: Bibliothek nützlicher runder Formen
 Ein Absatz zu viel.

Package: three
Description-md5: 3333
Description-de: something that nobody translated yet

Package: four
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "Translation-en").write_text(ENGLISH, encoding="utf-8")
    (tmp_path / "Translation-de").write_text(GERMAN, encoding="utf-8")
    return tmp_path


def test_sentences_meet_their_english_ones_through_the_checksum(folder):
    skipped: Counter[str] = Counter()
    assert list_rows(folder, skipped) == [
        Row("Programm, das kleine Bäume zeichnet", "de", "program that draws small trees"),
        Row("Dieses Programm zeichnet Bäume auf einen Schirm.", "de", "This program draws trees on a screen."),
        Row("Es ist in C geschrieben.", "de", "It is written in C."),
        Row("Ein letzter Absatz aus fünf Wörtern.", "de", "A last paragraph of five words."),
    ]
    assert skipped == {
        "description with other paragraphs than its source": 1,
        "stanza without checksum or description": 1,
    }


def test_unknown_languages_and_invalid_text_are_counted(folder):
    (folder / "Translation-xx").write_text(GERMAN, encoding="utf-8")
    (folder / "Translation-sv").write_bytes(b"Package: one\nDescription-md5: 1111\nDescription-sv: tr\xe4d\n")
    skipped: Counter[str] = Counter()
    assert {row.lang for row in list_rows(folder, skipped)} == {"de"}
    assert skipped["descriptions in the unknown language xx"] == 1
    assert skipped["description of invalid UTF-8"] == 1


def test_lists_without_an_english_one_are_an_error(tmp_path):
    with pytest.raises(BabelclipError, match="has no Translation-en"):
        list_rows(tmp_path, Counter())


def test_lists_are_found_in_the_cache_and_otherwise_told_where_to_copy_them(tmp_path, monkeypatch):
    with pytest.raises(BabelclipError, match=r"no download was asked.*debian-translations"):
        find_lists(tmp_path, download=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BabelclipError, match="apt-get is not on this system"):
        find_lists(tmp_path)
    (tmp_path / "debian-translations").mkdir()
    assert find_lists(tmp_path, download=False) == tmp_path / "debian-translations"


def test_an_apt_get_that_brings_nothing_is_told_with_its_words(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'E: no network' >&2\nexit 100\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    with pytest.raises(BabelclipError, match=r"brought none \(E: no network\)"):
        find_lists(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
