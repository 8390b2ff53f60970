"""Who gets which caption: equal sizes, nobody twice, the same for a seed, and block by block."""

from __future__ import annotations

import numpy as np
import pytest

from babelclip.errors import BabelclipError
from babelclip.translate.plan import make_plan

NINE = ["sv", "de", "fr", "ja", "ko", "ru", "th", "zh", "zh-Hant"]


def dealt(plan, count, block):
    """Caption number -> languages, and the sizes, from blocks."""
    given = {}
    for start in range(0, count, block):
        for lang, rows in plan.assign(start, min(block, count - start)).items():
            assert rows.tolist() == sorted(rows.tolist())
            for row in rows.tolist():
                given.setdefault(start + row, []).append(lang)
    sizes = {}
    for langs in given.values():
        for lang in langs:
            sizes[lang] = sizes.get(lang, 0) + 1
    return given, sizes


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
@pytest.mark.parametrize("count", [1, 10, 997])
def test_split_gives_every_caption_to_one_language_in_equal_sizes(block, count):
    plan = make_plan(NINE, keep_english=0.1)
    given, sizes = dealt(plan, count, block)
    assert sorted(given) == list(range(count))
    assert all(len(langs) == 1 for langs in given.values())
    translated = [sizes.get(lang, 0) for lang in NINE]
    assert max(translated) - min(translated) <= 1
    assert sizes.get("en", 0) == count // 10
    assert plan.sizes(count, block) == {lang: sizes.get(lang, 0) for lang in [*NINE, "en"]}


@pytest.mark.parametrize("block", [1, 50, 10_000])
def test_weights_make_sizes_in_proportion(block):
    plan = make_plan(["sv", "de", "fr"], "weights", weights={"sv": 2, "fr": 0.5}, keep_english=0)
    given, sizes = dealt(plan, 7000, block)
    assert all(len(langs) == 1 for langs in given.values())
    assert [abs(sizes[lang] - ideal) <= 1 for lang, ideal in (("sv", 4000), ("de", 2000), ("fr", 1000))] == [True] * 3


def test_all_gives_every_caption_to_every_language_and_copies_a_share_of_the_rows():
    given, sizes = dealt(make_plan(["sv", "de"], "all", keep_english=0.1), 900, 100)
    assert sizes == {"sv": 900, "de": 900, "en": 200}  # 200 of 2,000 rows are a tenth
    assert {langs.count("en") for langs in given.values()} == {0, 1}
    _, sizes = dealt(make_plan(NINE, "all", keep_english=0.5), 100, 30)
    assert sizes["en"] == 100  # each once at most


def test_one_seed_repeats_and_two_differ():
    deal = [dealt(make_plan(NINE, seed=seed), 500, 100)[0] for seed in (3, 3, 4)]
    assert deal[0] == deal[1]
    same = sum(deal[0][n] == deal[2][n] for n in range(500))
    assert same < 150  # a ninth would be chance


def test_a_language_gets_a_sample_from_everywhere_and_not_a_stretch():
    rows = make_plan(NINE, keep_english=0).assign(0, 9000)["ja"]
    assert len(rows) == 1000
    counts = np.histogram(rows, bins=9, range=(0, 9000))[0]
    assert counts.min() > 70
    # Blocks differ, or the same places would always go to the same language.
    assert rows.tolist() != make_plan(NINE, keep_english=0).assign(9000, 9000)["ja"].tolist()


def test_the_assignment_of_a_seed_never_changes():
    # Frozen: a resumed run, perhaps under another numpy, must deal the same.
    rows = make_plan(["sv", "de"], keep_english=0.2, seed=7).assign(20, 10)
    frozen = {"sv": [0, 2, 5, 8], "de": [1, 3, 4, 6], "en": [7, 9]}
    assert {lang: part.tolist() for lang, part in rows.items()} == frozen


def test_the_source_language_among_the_targets_is_ruled_by_keep_english():
    plan = make_plan(["en", "sv", "SWE_latn", "jp"], keep_english=0)
    assert plan.languages == ("sv", "ja")
    assert set(plan.assign(0, 100)) == {"sv", "ja"}


def test_a_block_without_rows_gives_nothing():
    for kind in ("split", "all"):
        assert make_plan(["sv"], kind).assign(50, 0) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"to": ["sv"], "kind": "splitt"}, "Did you mean 'split'"),
        ({"to": ["en"]}, "names no language to translate into"),
        ({"to": ["swedish"]}, "Did you mean sv"),
        ({"to": ["sv"], "keep_english": 1.0}, "from 0 to below 1"),
        ({"to": ["sv"], "keep_english": float("nan")}, "from 0 to below 1"),
        ({"to": ["sv"], "seed": -1}, "whole number from 0"),
        ({"to": ["sv"], "weights": {"sv": 2}}, "plan 'weights'"),
        ({"to": ["sv"], "kind": "weights"}, "sv=2"),
        ({"to": ["sv"], "kind": "weights", "weights": {"en": 2}}, "keep_english"),
        ({"to": ["sv"], "kind": "weights", "weights": {"de": 2}}, "not among the languages sv"),
        ({"to": ["sv"], "kind": "weights", "weights": {"sv": 0}}, "above 0"),
        ({"to": ["sv"], "kind": "weights", "weights": {"sv": float("inf")}}, "above 0"),
    ],
)
def test_what_is_not_allowed_is_named(arguments, message):
    with pytest.raises(BabelclipError, match=message):
        make_plan(**arguments)
