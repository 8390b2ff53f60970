"""`babelclip report` writes what was asked for, and says what it passed over."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from babelclip.cli.main import app
from babelclip.errors import BabelclipError
from tests.evaluate.test_report_read import OF_CLIP_BENCHMARK, own, saved


def report(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_three_files_are_written_from_results_of_two_tools(tmp_path):
    saved(tmp_path / "in" / "ours.json", [own(dataset="xm3600", language="ja", captions_per_image="first")])
    saved(tmp_path / "in" / "theirs.json", OF_CLIP_BENCHMARK)
    saved(tmp_path / "in" / "log.json", {"steps": 1})
    files = [tmp_path / "out" / name for name in ("r.html", "r.md", "r.csv")]
    done = report(tmp_path / "in", "--html", files[0], "--markdown", files[1], "--csv", files[2], "--metric", "R@1")
    assert done.exit_code == 0, done.output
    page, markdown, lines = (file.read_text("utf-8") for file in files)
    assert "xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k" in page
    # Both are of the first caption and stand in one table.
    assert markdown.count("## XM3600, retrieval, text to picture") == 1
    assert lines.startswith("task,dataset,split,direction,protocol,model")
    assert "log.json" in done.output


def test_without_a_file_the_tables_are_printed(tmp_path):
    done = report(saved(tmp_path / "r.json", [own()]), "--no-published")
    assert done.exit_code == 0
    assert "| m | 50.0 |" in done.output


def test_what_is_no_result_fails_with_its_name(tmp_path):
    done = report(saved(tmp_path / "x.json", json.dumps({"steps": 1})))
    assert isinstance(done.exception, BabelclipError)
    with pytest.raises(BabelclipError, match=r"x\.json holds records with steps"):
        raise done.exception
