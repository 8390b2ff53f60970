from __future__ import annotations

import json

import pytest

from babelclip.errors import BabelclipError
from babelclip.languages import UnknownLanguageError
from babelclip.starter.emoji import picture_of, read_emoji, split_concepts
from tests.conftest import draw_shape

DOG, HEART, THUMB, DARK_THUMB, FRANCE, ISLAND = "🐕", "❤\ufe0f", "👍", "👍🏿", "🇫🇷", "🇨🇵"
ENGLISH = {
    DOG: (":dog:", 2),
    HEART: (":red_heart:", 2),
    "❤": (":red_heart:", 4),
    THUMB: (":thumbs_up:", 2),
    DARK_THUMB: (":thumbs_up_dark_skin_tone:", 2),
    FRANCE: (":France:", 2),
    ISLAND: (":Clipperton_Island:", 2),
    "🫪": (":distorted_face:", 2),
}
SWEDISH = {DOG: ":hund:", HEART: ":rött_hjärta:", FRANCE: ":flagga_Frankrike:", ISLAND: ":flagga_Clippertonön:"}
CHINESE = {DOG: ":狗:", HEART: ":红心:"}


@pytest.fixture
def sources(tmp_path):
    names, pictures = tmp_path / "names", tmp_path / "72x72"
    names.mkdir()
    pictures.mkdir()
    facts = {emoji: {"en": name, "status": status, "E": 1} for emoji, (name, status) in ENGLISH.items()}
    for name, content in (("emoji", facts), ("emoji_sv", SWEDISH), ("emoji_zh", CHINESE)):
        (names / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    colours = {"1f415": "red", "2764": "green", "1f44d": "blue", "1f44d-1f3ff": "blue", "1f1eb-1f1f7": "yellow"}
    for name, colour in {**colours, "1f1e8-1f1f5": "yellow"}.items():
        draw_shape(colour, "circle").save(pictures / f"{name}.png")
    return names, pictures


def test_each_pictured_concept_has_a_row_for_each_language_that_names_it(sources):
    captions = read_emoji(*sources)
    found = dict(zip(captions.ids, captions.texts, strict=True))
    assert found == {
        "1f415:en": "dog",
        "1f415:sv": "hund",
        "1f415:zh": "狗",
        "2764-fe0f:en": "red heart",
        "2764-fe0f:sv": "rött hjärta",
        "2764-fe0f:zh": "红心",
        "1f44d:en": "thumbs up",
        "1f1eb-1f1f7:en": "France",
        "1f1eb-1f1f7:sv": "flagga Frankrike",
        "1f1e8-1f1f5:en": "Clipperton Island",
        "1f1e8-1f1f5:sv": "flagga Clippertonön",
    }
    assert captions.skipped["emoji without a picture"] == 1


def test_a_translation_points_to_its_english_row_and_picture(sources):
    rows = {row["id"]: row for row in read_emoji(*sources).table.to_pylist()}
    heart = rows["2764-fe0f:zh"]
    assert (heart["lang"], heart["source_id"]) == ("zh", "2764-fe0f:en")
    assert heart["image"] == str(sources[1] / "2764.png")
    assert rows["2764-fe0f:en"]["source_id"] is None


def test_emoji_that_share_a_drawing_share_a_label(sources):
    labels = {row["id"]: row["label"] for row in read_emoji(*sources).table.to_pylist()}
    assert labels["1f1eb-1f1f7:sv"] == labels["1f1e8-1f1f5:en"]
    assert len(set(labels.values())) == 4


def test_a_picture_is_found_with_and_without_the_variation_selector(sources):
    assert picture_of(HEART, sources[1]).name == "2764.png"
    draw_shape("red", "square").save(sources[1] / "2764-fe0f.png")
    assert picture_of(HEART, sources[1]).name == "2764-fe0f.png"
    assert picture_of("🫪", sources[1]) is None


def test_no_held_out_concept_is_taught_in_any_language(sources):
    captions = read_emoji(*sources)
    taught, held_out = split_concepts(captions, share=0.5)
    sides = [set(side.table.column("label").to_pylist()) for side in (taught, held_out)]
    assert len(sides[0]) == len(sides[1]) == 2
    assert not sides[0] & sides[1]
    assert sorted(taught.ids + held_out.ids) == sorted(captions.ids)


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_rows(sources):
    captions = read_emoji(*sources)
    reordered = type(captions)(table=captions.table.take(list(range(len(captions)))[::-1]), skipped={})
    splits = [sorted(split_concepts(captions, 0.5, seed)[1].ids) for seed in range(8)]
    assert splits[3] == sorted(split_concepts(reordered, 0.5, 3)[1].ids)
    assert len({tuple(split) for split in splits}) > 1


@pytest.mark.parametrize("share", [0.0, 1.0, 0.01])
def test_a_share_that_leaves_a_side_empty_is_refused(sources, share):
    with pytest.raises(BabelclipError, match=r"both sides need at least one.*for example 0\.2"):
        split_concepts(read_emoji(*sources), share)


def test_folders_that_do_not_belong_together_are_refused(sources, tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(BabelclipError, match=r"pip install --no-deps 'emoji==2\.16\.0'"):
        read_emoji(sources[0], tmp_path / "other")


def test_a_file_of_an_unknown_language_is_an_error(sources):
    (sources[0] / "emoji_xxq.json").write_text("{}")
    with pytest.raises(UnknownLanguageError, match="xxq"):
        read_emoji(*sources)
