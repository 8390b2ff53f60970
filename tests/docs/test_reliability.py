"""The table of docs/reliability.md is what the campaign has recorded; the tests and commands that it names exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

from benchmarks.reliability import table

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
RECORDS = sorted(ROOT.glob("results/reliability-*.json"))


def test_the_table_is_that_of_the_newest_record():
    record = json.loads(RECORDS[-1].read_text(encoding="utf-8"))
    assert table(record["jobs"]) in PAGE
    assert RECORDS[-1].name in PAGE


def test_nothing_in_the_record_was_wrong():
    record = json.loads(RECORDS[-1].read_text(encoding="utf-8"))
    wrong = {(job, fault): tally["wrong"] for job, faults in record["jobs"].items() for fault, tally in faults.items()}
    assert {place: lines for place, lines in wrong.items() if lines} == {}


def test_tests_and_results_that_are_named_exist():
    for file, function in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE):
        content = (ROOT / file).read_text(encoding="utf-8")
        assert not function or f"def {function}(" in content, (file, function)
    for name in re.findall(r"(?:results/|benchmarks/)[\w.-]+\.(?:json|py)", PAGE):
        assert (ROOT / name).is_file(), name
