from __future__ import annotations

import re

from babelclip import registry
from tests.docs.models_page import PAGE, with_tables


def test_the_tables_of_models_are_those_of_the_cards_and_of_the_golden_folders():
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page) == page, "docs/models.md is behind: run `python -m tests.docs.models_page`"


def test_every_family_has_its_row_and_its_number_of_models():
    page = PAGE.read_text(encoding="utf-8").split("### The golden folders")[0]
    rows = dict(re.findall(r"^\| ([^|(]+?)(?: \([^|]*\))? \| (\d+) \|", page, re.MULTILINE))
    counts: dict[str, int] = {}
    for card in registry.list_models():
        counts[card.family] = counts.get(card.family, 0) + 1
    assert {family: int(number) for family, number in rows.items()} == counts
