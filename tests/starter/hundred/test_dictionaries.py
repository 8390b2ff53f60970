from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from babelclip.starter.freedict import DICTIONARIES
from babelclip.starter.hundred.dictionaries import MORE_DICTIONARIES, dictionary_rows
from babelclip.starter.sources import Row
from tests.starter.miniatures import write_dictionary

WORDS = {"dog": True, "sun": True, "snowstorm": True}


def folders(tmp_path: Path, lang: str, entries: list[tuple[str, str]]) -> dict:
    part = MORE_DICTIONARIES[lang]
    write_dictionary(tmp_path, part.package.removeprefix("dict-freedict-eng-"), entries)
    return {part: tmp_path}


@pytest.mark.parametrize(
    ("lang", "written", "word"),
    [("sv", "hund", "hund"), ("bg", "слъ\u0301нце", "слънце"), ("hu", "hóesô", "hóeső"), ("nl", "ĳs", "ijs")],
)
def test_words_are_given_as_people_write_them(tmp_path, lang, written, word):
    found = dictionary_rows(folders(tmp_path, lang, [("dog", f"dog <n>\n{written}\n")]), WORDS, Counter())
    assert found == [Row(word, lang, "dog")]


def test_words_that_are_not_asked_for_and_other_parts_of_speech_give_nothing(tmp_path):
    entries = [("cat", "cat <n>\nkatt\n"), ("dog", "dog <v>\nföra\n"), ("sun", "sun <n>\nsol\n")]
    assert dictionary_rows(folders(tmp_path, "sv", entries), WORDS, Counter()) == [Row("sol", "sv", "sun")]


def test_languages_are_others_than_those_of_the_demo():
    assert not set(MORE_DICTIONARIES) & set(DICTIONARIES)
    assert len({part.package for part in MORE_DICTIONARIES.values()}) == len(MORE_DICTIONARIES)
