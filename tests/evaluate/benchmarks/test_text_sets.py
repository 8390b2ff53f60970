"""Items of selection, scored pairs, parallel texts."""

from __future__ import annotations

import pytest

from babelclip.errors import BabelclipError
from babelclip.evaluate.benchmarks import open_benchmark
from babelclip.evaluate.benchmarks.sets import SelectionItem
from tests.evaluate.benchmarks.layouts import MARK, lines, made


def test_winoground_is_two_by_two_with_its_tags(tmp_path):
    found = open_benchmark(made("winoground", tmp_path))
    assert found.items == (
        SelectionItem((0, 1), ("a dog and a cat", "a cat and a dog"), "Object"),
        SelectionItem((2, 3), ("a dog and a cat", MARK), "Relation"),
    )
    assert "400 items are published and 2 usable here: figures do not compare" in found.notes


def test_sugarcrepe_is_one_by_two_in_parts(tmp_path):
    spec = made("sugarcrepe", tmp_path)
    found = open_benchmark(spec)
    assert found.items == (
        SelectionItem((0,), ("a dog", "a cat"), "add_att"),
        SelectionItem((1,), (MARK, "a cat"), "add_att"),
        SelectionItem((0,), ("a dog", "a cat"), "swap_obj"),
    )
    assert len(open_benchmark(spec, split="swap_obj").items) == 1
    with pytest.raises(BabelclipError, match=r"no split 'add_obj'. It has add_att, swap_obj"):
        open_benchmark(spec, split="add_obj")


def test_a_year_of_sts_keeps_subsets_and_leaves_out_pairs_that_nobody_rated(tmp_path):
    found = open_benchmark(made("sts15", tmp_path), strict=True)
    assert {name: pairs.gold for name, pairs in found.subsets.items()} == {
        "headlines": [1.2, 5.0, 3.0],
        "images": [0.0, 4.5],
    }
    assert found.subsets["headlines"].first[1] == 'He said "no'
    assert found.subsets["images"].second == ["B", "D"]
    assert "1 left out: pair without a score" in " ".join(found.notes)
    within = open_benchmark(f"sts15={tmp_path / 'sts15/STS15-en-test'}")
    assert within.subsets == found.subsets


def test_lower_casing_is_a_protocol_with_a_name_of_its_own(tmp_path):
    spec = made("stsb", tmp_path)
    plain, lower = open_benchmark(spec), open_benchmark(spec.replace("stsb=", "stsb-lowercased="))
    assert (plain.name, plain.protocol) == ("stsb", "plain")
    assert (lower.name, lower.protocol) == ("stsb-lowercased", "lowercased")
    assert plain.subsets["stsb"].first == ['A "girl', f"A {MARK}", "X"]
    assert lower.subsets["stsb"].first == ['a "girl', f"a {MARK.lower()}", "x"]
    assert plain.subsets["stsb"].second[1] == "A cat"  # of nine fields the first seven count


def test_sts17_knows_the_languages_of_both_sides(tmp_path):
    spec = made("sts17", tmp_path)
    found = open_benchmark(spec)
    assert found.pair_languages == {"track1.ar-ar": ("ar", "ar"), "track6.tr-en": ("en", "tr")}
    assert set(open_benchmark(spec, languages=["tr"]).subsets) == {"track6.tr-en"}
    with pytest.raises(BabelclipError, match="in sv"):
        open_benchmark(spec, languages=["sv", "tr"])


def test_parallel_texts_stay_aligned_when_a_line_is_left_out(tmp_path):
    spec = made("parallel", tmp_path)
    lines(tmp_path / "parallel/mine.sv", "sv one", "", "sv three")
    found = open_benchmark(spec)
    assert found.texts == {"en": ["en one", "en three"], "sv": ["sv one", "sv three"]}
    assert "1 left out: line that is blank or not UTF-8 in a language (first: line 2)" in found.notes
    with pytest.raises(BabelclipError, match="With strict"):
        open_benchmark(spec, strict=True)


def test_parallel_texts_come_from_two_files_or_a_folder_in_the_order_asked_for(tmp_path):
    spec = made("parallel", tmp_path)
    root = tmp_path / "parallel"
    assert open_benchmark(f"moses={root / 'mine.sv'},{root / 'mine.en'}").languages == ("en", "sv")
    assert open_benchmark(spec, languages=["sv", "en"]).languages == ("sv", "en")
    with pytest.raises(BabelclipError, match="Two languages are needed: ask for two of en, sv"):
        open_benchmark(spec, languages=["sv"])
    assert open_benchmark(made("flores", tmp_path), split="dev").texts["sv"] == ["of another split"]
