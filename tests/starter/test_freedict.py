from __future__ import annotations

import gzip

import pytest

from babelclip.starter.freedict import DICTIONARIES, MALFORMED_INDEX, NOT_UTF8, OUTSIDE, read_dictionary
from tests.starter.miniatures import write_dictionary


def pairs(folder, lang, entries, words):
    write_dictionary(folder, lang, entries)
    return dict(read_dictionary(folder, lang, words).pairs)


def test_entries_are_found_through_the_index_wherever_they_lie(tmp_path):
    entries = [(f"w{number}", f"w{number} /x/\nmot{'s' * (number % 7)}") for number in range(3000)]
    found = pairs(tmp_path, "fr", [*entries, ("dog", "dog /dɔg/\nchien, clébard")], {"dog": True})
    assert found == {"dog": "chien"}


@pytest.mark.parametrize(
    ("lang", "entry", "translation"),
    [
        ("fr", "dog /dɔg/\nchien, clébard", "chien"),
        ("fr", "dog /dɔg/\n1. chien\n2. limier", "chien"),
        ("de", "dog /dˈɒɡ/\nHund <masc> [zool.]\n   Synonym: {hound}", "Hund"),
        ("de", 'dog /dˈɒɡ/\n      "a dog\'s life"  - ein Hundeleben\nHund <masc>', "Hund"),
        ("tr", "dog /dˈɒɡ/\n1. (k.dili.) köpek, it. dog days yazın en sıcak günleri.", "köpek"),
        ("ar", "Dog /dˈɒɡ/\nالكَلْب - حيوان", "الكلب"),
        ("ja", "dog //dɑɡ// //dɒɡ// <n>\n犬、イヌ\nanimal", "犬"),
        ("pt", "dog /dɔg/ <s>\ncão", "cão"),
    ],
)
def test_the_first_translation_is_taken_without_notes(tmp_path, lang, entry, translation):
    assert pairs(tmp_path, lang, [("dog", entry)], {"dog": True}) == {"dog": translation}


@pytest.mark.parametrize(
    ("lang", "entry"),
    [
        ("pt", "dog /dɔg/ <vt>\nperseguir"),
        ("ja", "Dog /dɔg/ <pn>\nドッグ"),
        ("fr", "doggy /dɔgi/\ntoutou"),
        ("fr", "dog /dɔg/\nun animal domestique qui aboie"),
        ("fr", "dog /dɔg/\nsee: hound"),
        ("fr", "dog /dɔg/"),
        ("fr", "dog /dɔg/\n   Synonym: {hound}"),
        ("ru", "dog /dɔg/\nhot dog"),
        ("es", "dog /dɔg/\nperrodecompañía"),
        ("fr", "dog /dɔg/\n~ chien"),
    ],
)
def test_what_is_not_surely_the_translation_of_the_noun_is_left_out(tmp_path, lang, entry):
    assert pairs(tmp_path, lang, [("dog", entry)], {"dog": True}) == {}


def test_an_entry_without_part_of_speech_must_be_the_only_one_of_a_word_that_is_hardly_a_verb(tmp_path):
    ship = ("ship", "ship /ʃip/\nexpédier")
    assert pairs(tmp_path, "fr", [ship], {"ship": False}) == {}
    assert pairs(tmp_path, "fr", [ship], {"ship": True}) == {"ship": "expédier"}
    assert pairs(tmp_path, "fr", [ship, ("ship", "ship /ʃip/\nbateau")], {"ship": True}) == {}
    marked = [("ship", "ship /ʃip/ <v>\nverschiffen"), ("ship", "ship /ʃip/\nSchiff <neut>")]
    assert pairs(tmp_path, "de", marked, {"ship": False}) == {"ship": "Schiff"}


def test_a_word_whose_entries_disagree_is_left_out(tmp_path):
    entries = [("dog", "dog /x/\nBandhaken <masc>"), ("dog", "dog /x/\nHund <masc>")]
    assert pairs(tmp_path, "de", entries, {"dog": True}) == {}
    assert pairs(tmp_path, "de", [*entries[1:], ("dog", "dog /x/\nHund <masc> [zool.]")], {"dog": True}) == {
        "dog": "Hund"
    }


def test_words_that_were_not_asked_for_are_not_read(tmp_path):
    entries = [("dog", "dog /dɔg/\nchien"), ("cat", "cat /kæt/\nchat")]
    assert pairs(tmp_path, "fr", entries, {"cat": True}) == {"cat": "chat"}


def test_damaged_lines_and_entries_are_skipped_and_counted(tmp_path):
    write_dictionary(tmp_path, "fr", [("dog", "dog /dɔg/\nchien"), ("cat", b"cat /k\xe6t/\nchat")])
    index = tmp_path / "freedict-eng-fra.index"
    index.write_text(index.read_text() + "no tab\nowl\tA\nowl\tA\tn!\nowl\t\tA\nowl\tA\t////\n")
    found = read_dictionary(tmp_path, "fr", {"dog": True, "cat": True, "owl": True})
    assert found.pairs == (("dog", "chien"),)
    assert found.skipped == {MALFORMED_INDEX: 4, NOT_UTF8: 1, OUTSIDE: 1}


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(b"dog /x/\nchien" * 99)[:40]])
def test_a_damaged_archive_gives_no_pairs_and_is_counted(tmp_path, content):
    write_dictionary(tmp_path, "fr", [("dog", "dog /dɔg/\nchien")])
    (tmp_path / "freedict-eng-fra.dict.dz").write_bytes(content)
    found = read_dictionary(tmp_path, "fr", {"dog": True})
    assert found.pairs == ()
    assert sum(found.skipped.values()) == 1


def test_there_is_a_dictionary_for_the_taught_languages_but_three():
    assert set(DICTIONARIES) == set("ar de es fr id it ja pt ru tr".split())
