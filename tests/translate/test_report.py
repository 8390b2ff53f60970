"""The report adds up what the shards say, shows a few samples of each kind, and keeps time out of what is compared."""

from __future__ import annotations

import io
import sys
import time

import pytest

from babelclip import progress
from babelclip.errors import BabelclipError
from babelclip.translate import folder
from babelclip.translate.folder import Shard
from babelclip.translate.report import (
    LanguageReport,
    TranslationReport,
    language_report,
    markdown,
    read_report,
    speeds,
    write_report,
)


def make_shard(block, kept=2, **rejected):
    samples = {"kept": [{"source": f"s{block}{n}", "text": f"t{block}{n}"} for n in range(min(kept, 3))]}
    samples |= {name: [{"source": "s", "text": f"{name} {block}", "value": 0.25}] for name in rejected}
    planned = kept + sum(rejected.values())
    return Shard("sv", block, planned, kept, rejected, planned - 1, "opus", "m@1", {}, samples)


def make_report(out, **given):
    language = language_report([make_shard(0, copy=1), make_shard(1, kept=1, script=4)])
    copies = LanguageReport(1, 1, {}, 0, "", "", {"kept": [{"source": "a", "text": "a"}]})
    options = {"plan": {"plan": "split", "seed": 3, "keep_english": 0.1}}
    values = {"skipped": {"empty text": 2}, "languages": {"sv": language, "en": copies}, **given}
    return TranslationReport(out, "captions.jsonl", 9, options=options, **values)


def test_shards_add_up_and_the_first_samples_of_each_kind_are_shown():
    report = language_report([make_shard(0, copy=1), make_shard(1, copy=2, script=4), make_shard(2, copy=1)])
    assert (report.planned, report.kept, report.distinct) == (14, 6, 11)
    assert report.rejected == {"copy": 4, "script": 4}
    assert [pair["text"] for pair in report.samples["kept"]] == ["t00", "t01", "t10"]
    assert [pair["text"] for pair in report.samples["copy"]] == ["copy 0", "copy 1"]
    assert (report.engine, report.model) == ("opus", "m@1")


def test_a_language_without_captions_has_an_empty_report():
    assert language_report([]) == LanguageReport(0, 0, {}, 0, "", "", {"kept": []})


def test_markdown_has_a_row_for_each_language_and_a_column_for_each_reason():
    lines = markdown(make_report("out")).splitlines()
    assert (
        "9 captions of captions.jsonl, plan split, seed 3, untranslated copies 10%: 4 of 9 rows kept (44.4%)." in lines
    )
    assert "Rows of the source that were left out: 2 empty text." in lines
    assert "| language | rows | kept | copy | script | engine | model |" in lines
    assert "| sv (Swedish) | 8 | 37.5% | 1 | 4 | opus | m@1 |" in lines
    assert "| en (English) | 1 | 100.0% | 0 | 0 | copied | - |" in lines
    assert "* s → copy 0 **rejected: copy, 0.25**" in lines
    assert "* s00 → t00" in lines


def test_a_report_is_read_as_it_was_written_and_says_nothing_of_time(tmp_path):
    folder.add_timing(tmp_path, {"lang": "sv", "block": 0, "captions": 300, "device": "cpu", "seconds": 2.0})
    folder.add_timing(tmp_path, {"lang": "sv", "block": 1, "captions": 100, "device": "cpu", "seconds": 2.0})
    report = make_report(tmp_path, speed={"sv": 100.0})
    write_report(report)
    assert read_report(tmp_path) == report
    before = (tmp_path / "report.json").read_bytes()
    write_report(make_report(tmp_path, speed={"sv": 7.0}))
    assert (tmp_path / "report.json").read_bytes() == before
    assert report.kept == 4
    assert report.rejected == {"copy": 1, "script": 4}


def test_a_timing_that_a_kill_cut_off_is_left_out(tmp_path):
    folder.add_timing(tmp_path, {"lang": "sv", "block": 0, "captions": 300, "device": "cpu", "seconds": 2.0})
    with (tmp_path / "timings.jsonl").open("a") as file:
        file.write('{"lang": "sv", "blo')
    assert speeds(tmp_path) == {"sv": 150.0}
    folder.add_timing(tmp_path, {"lang": "de", "block": 0, "captions": 10, "device": "cpu", "seconds": 2.0})
    assert speeds(tmp_path) == {"sv": 150.0, "de": 5.0}


def test_an_unfinished_folder_has_no_report(tmp_path):
    with pytest.raises(BabelclipError, match="to its end"):
        read_report(tmp_path)


def test_bars_show_the_speed_and_the_time_left_of_each_language_and_of_all(monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with progress.progress_bars({"sv": 20, "de": 40, "fi": 5}, shown=True, unit="captions") as advance:
        advance("sv", 10, 0)
        for _ in range(2):
            time.sleep(0.05)
            advance("de", 5)
        time.sleep(0.15)
    shown = stream.getvalue()
    assert "captions/s" in shown
    assert "left" in shown
    assert "all" in shown
    assert "10/40" in shown
    assert "20/65" in shown
    assert "fi" not in shown  # not begun
