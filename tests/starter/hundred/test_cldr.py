from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from babelclip.starter.hundred import cldr
from babelclip.starter.hundred.cldr import keyword_rows, name_rows, read_annotations, word_rows
from babelclip.starter.sources import Row

ENGLISH = {
    "🦊": ("fox", ["animal", "face", "fox"]),
    "🐶": ("dog face", ["animal", "dog", "face"]),
    "🐟": ("fish", ["animal", "fish", "sea", "zodiac", "pisces"]),
    "🇸🇪": ("flag: Sweden", ["flag"]),
    "→": ("right arrow", ["arrow"]),
    "👋🏻": ("waving hand: light skin tone", ["hand"]),
}
SWEDISH = {
    "🦊": ("rävansikte", ["djur", "ansikte", "räv"]),
    "🐶": ("hundansikte", ["djur", "hund", "ansikte"]),
    "🐟": ("fish", ["djur", "fisk", "hav"]),
    "🇸🇪": ("flagga: Sverige", ["flagga"]),
    "→": ("högerpil", ["pil"]),
}


def write_locale(folder: Path, locale: str, annotations: dict[str, tuple[str, list[str]]], root: str) -> Path:
    path = folder / locale / "annotations.json"
    path.parent.mkdir(parents=True)
    facts = {emoji: {"tts": [name], "default": words} for emoji, (name, words) in annotations.items()}
    path.write_text(json.dumps({root: {"identity": {"language": locale}, "annotations": facts}}), encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cldr, "_LEAST_NAMES", 2)
    write_locale(tmp_path, "en", ENGLISH, "annotations")
    return write_locale(tmp_path, "sv", SWEDISH, "annotations")


def test_names_meet_their_english_names_and_untranslated_ones_signs_and_skin_tones_are_left_out(folder):
    locales = read_annotations([folder], Counter())
    assert name_rows(locales) == [
        Row("fox", "en", "fox"),
        Row("dog face", "en", "dog face"),
        Row("fish", "en", "fish"),
        Row("rävansikte", "sv", "fox"),
        Row("hundansikte", "sv", "dog face"),
    ]
    assert name_rows(locales, flags=True)[1] == Row("flagga: Sverige", "sv", "flag: Sweden")


def test_keywords_stand_side_by_side_at_most_four(folder):
    rows = keyword_rows(read_annotations([folder], Counter()))
    assert Row("animal, fish, sea, zodiac", "en", "animal, fish, sea, zodiac") in rows
    assert Row("djur, ansikte, räv", "sv", "animal, face, fox") in rows


def test_words_are_paired_where_they_stand_with_the_same_emoji(folder):
    pairs = [row for row in word_rows(read_annotations([folder], Counter())) if row.lang == "sv"]
    # "djur" has the three emoji of "animal", "ansikte" the two of "face"; other words have one emoji each.
    assert sorted(pairs) == [Row("ansikte", "sv", "face"), Row("djur", "sv", "animal")]


def test_codes_of_cldr_become_ours_and_regions_and_empty_locales_are_counted(folder, tmp_path):
    for locale in ("pt", "pt-PT", "no", "ca-ES-valencia", "sr-Latn", "es-419", "xx", "und"):
        write_locale(folder, locale, SWEDISH, "annotations")
    write_locale(folder, "fo", {"🦊": ("revur", [])}, "annotations")
    (folder / "blo").mkdir()
    (folder / "blo" / "annotations.json").write_text('{"annotations": {"identity": {}}}')
    skipped: Counter[str] = Counter()
    locales = read_annotations([folder], skipped)
    assert sorted(locales) == ["ca-valencia", "en", "nb", "pt", "pt-BR", "sr-Latn", "sv"]
    assert skipped == {
        "CLDR locale of a region": 1,
        "CLDR locale with few names": 2,
        "CLDR locale xx, an unknown language": 1,
    }


def test_composed_emoji_of_the_second_package_join_their_locale(folder, tmp_path):
    derived = write_locale(tmp_path / "derived", "sv", {"👩‍🍳": ("kvinnlig kock", ["kock"])}, "annotationsDerived")
    assert read_annotations([folder, derived], Counter())["sv"]["👩‍🍳"].name == "kvinnlig kock"
