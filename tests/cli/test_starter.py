from __future__ import annotations

from typer.testing import CliRunner

from babelclip.cli.main import app
from babelclip.starter.hundred import texts
from babelclip.starter.sources import Row
from babelclip.starter.words import Source, build_corpus


def test_texts_in_a_hundred_languages_need_a_folder():
    done = CliRunner().invoke(app, ["starter", "--text", "hundred"])
    assert done.exit_code == 2
    assert "give their folder by --out" in done.output


def test_texts_are_written_with_their_counts_and_the_next_command(tmp_path, monkeypatch):
    rows = {"names": [Row("fox", "en", "fox"), Row("räv", "sv", "fox"), Row("Hund", "de", "dog")]}
    corpus = build_corpus(rows, [], {"names": Source()})
    monkeypatch.setattr(texts, "gather_texts", lambda **_options: corpus)
    done = CliRunner().invoke(app, ["starter", "--text", "hundred", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "3 texts taught, 2 English texts as targets" in done.output
    assert f"babelclip embed {tmp_path}/sources.parquet" in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["captions.parquet", "counts.json", "sources.parquet"]
