"""Languages are sorted by what there is to learn from."""

from __future__ import annotations

import pytest

from babelclip import languages
from babelclip.evaluate.resource import GROUPS, _classes, by_resource, resource_group

XM3600 = "ar bn cs da de el en es fa fi fil fr he hi hr hu id it ja ko mi nl no pl pt quz ro ru sv sw te th tr uk vi zh"


@pytest.mark.parametrize(
    ("code", "group"),
    [
        ("en", "high"),
        ("jp", "high"),
        ("deu_Latn", "high"),
        ("th", "mid"),
        ("te", "low"),
        ("mi", "low"),
        ("de-AT", "high"),
    ],
)
def test_a_language_has_the_group_of_its_class(code, group):
    assert resource_group(code) == group


def test_every_language_of_crossmodal_3600_has_a_group_and_each_group_some():
    groups = by_resource(XM3600.split())
    assert list(groups) == list(GROUPS)
    assert sorted(code for codes in groups.values() for code in codes) == sorted(XM3600.split())
    assert groups["low"] == ["mi", "no", "quz", "sw", "te"]


def test_the_table_holds_canonical_codes_and_classes_of_the_paper():
    assert all(languages.normalize(code) == code for code in _classes())
    assert set(_classes().values()) == set(range(6))


def test_a_language_that_is_not_listed_is_in_no_group():
    assert resource_group("ary") is None
    assert by_resource(["ary"]) == {}
    with pytest.raises(languages.UnknownLanguageError):
        resource_group("klingon")
