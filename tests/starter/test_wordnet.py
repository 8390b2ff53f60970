from __future__ import annotations

import pytest

from babelclip.starter.wordnet import CONCRETE, read_nouns

LICENCE = "  1 This software and database is being provided to you  \n"
DATA = """\
00000001 05 n 02 dog 0 domestic_dog 0 001 @ 00000009 n 0000 | a domesticated animal; "the dog barked all night"
00000002 18 n 01 dog 1 000 | informal term for a man
00000003 20 n 01 Oak 0 000 | a tree that bears acorns
00000004 06 n 01 ship 0 000 | a vessel that carries passengers or freight
00000005 04 n 01 run 0 000 | the act of running
00000006 06 n 01 run 1 000 | a track in snow
00000007 13 n 0a a 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 stew_j 0 000 | ten names
"""
INDEX = """\
dog n 2 1 @ 2 1 00000001 00000002
domestic_dog n 1 1 @ 1 0 00000001
oak n 1 0 1 0 00000003
ship n 1 0 1 1 00000004
run n 2 0 2 1 00000005 00000006
"""
COUNTS = """\
dog%1:05:00:: 1 42
dog%1:18:01:: 2 3
dog%2:38:00:: 1 2
ship%1:06:00:: 1 49
ship%2:38:00:: 1 7
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data.noun").write_text(LICENCE + DATA)
    (tmp_path / "index.noun").write_text(LICENCE + INDEX)
    (tmp_path / "cntlist.rev").write_text(COUNTS)
    return tmp_path


def test_concrete_synsets_come_commonest_first_with_names_and_gloss(folder):
    synsets = read_nouns(folder).synsets
    assert [(synset.names[0], synset.domain, synset.count) for synset in synsets] == [
        ("ship", "artifact", 49),
        ("dog", "animal", 42),
        ("dog", "person", 3),
        ("Oak", "plant", 0),
        ("run", "artifact", 0),
        ("a", "food", 0),
    ]
    assert synsets[1].names == ("dog", "domestic dog")
    assert synsets[1].gloss == "a domesticated animal"
    # The number of names is hexadecimal.
    assert synsets[-1].names == (*"abcdefghi", "stew j")


def test_a_word_counts_where_its_first_sense_is_concrete(folder):
    words = read_nouns(folder).words
    assert set(words) == {"dog", "domestic dog", "oak", "ship"}
    # "dog" is a verb 2 times of 47, "ship" 7 times of 56; "oak" was never met.
    assert words == {"dog": True, "domestic dog": True, "oak": True, "ship": False}


def test_malformed_lines_are_skipped_and_counted(folder):
    bad = "nonsense\n00000008 xx n 01 cat 0 000 | a cat\n00000009 05 n 03 cat 0 000 | a cat\n"
    bad += "00000010 05 n 01 cat 0 000\n00000011 05 v 01 cat 0 000 | a verb\n"
    (folder / "data.noun").write_bytes(DATA.encode() + bad.encode() + b"\xff\xfe\n")
    (folder / "index.noun").write_text(INDEX + "cat n 1 0 1 0 99999999\ncat\ncat n x\n")
    (folder / "cntlist.rev").write_text(COUNTS + "cat%1:05:00:: 1\ncat%1:05:00:: 1 many\n")
    nouns = read_nouns(folder)
    assert nouns.skipped == {
        "malformed line of cntlist.rev": 2,
        "malformed line of data.noun": 6,
        "malformed line of index.noun": 3,
    }
    assert len(nouns.synsets) == 6
    assert set(nouns.words) == {"dog", "domestic dog", "oak", "ship"}


def test_concrete_domains_are_those_of_the_lexicographer_files():
    assert set(CONCRETE.values()) == {
        "animal", "artifact", "body", "food", "object", "person", "phenomenon", "plant", "substance",
    }  # fmt: skip
    # lexnames(5WN): 03 Tops, 04 act, 09 cognition and 15 location are none.
    assert CONCRETE.keys().isdisjoint({3, 4, 9, 15})
