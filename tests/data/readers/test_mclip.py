"""M-CLIP's translations and pairs of columns: row numbers are what published vectors go by."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from babelclip.data.sources import count_captions, open_captions, read_all
from babelclip.errors import BabelclipError
from tests.data.layouts import ids_of, rows_of

FIELDS = ("caption", "caption_sv", "caption_multi", "multi_language_code", "multi_language_name", "target_code")
TABLE = [
    ("a dog", "en hund", "ein Hund", "de", "german", ""),
    ("a cat", "", "貓", "zh", "chinese_traditional", "cmn_Hant"),
    ("a cow", "en ko", "一头牛", "zh", "chinese_simplified", "cmn_Hans"),
    ("a sheep", "ett får", "ett lamm", "sv", "swedish", ""),
    (" ", "något", "etwas", "de", "german", ""),
    ("a sun", "en sol", None, None, None, None),
    ("a copy", "en kopia", "a copy", "en", "english", ""),
]
ROWS = [{**dict(zip(FIELDS, row, strict=True)), "url": "u", "index": n + 1} for n, row in enumerate(TABLE)]
WANTED_IDS = ["0", "0-sv", "0-de", "1", "1-zh-Hant", "2", "2-sv", "2-zh", "3", "3-sv", "5", "5-sv", "6", "6-sv", "6-en"]
COUNTED = {"empty translation": 2, "second translation into one language": 1, "empty text": 1, "empty source text": 2}


def save(path, rows=ROWS):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        pyarrow.feather.write_feather(pa.Table.from_pylist(rows), str(path))
    return path


@pytest.mark.parametrize("name", ["m.parquet", "m.jsonl", "m.feather"])
@pytest.mark.parametrize("rows", [2, 1000])
def test_a_row_becomes_its_caption_and_its_translations(tmp_path, name, rows):
    path = save(tmp_path / name)
    found, skipped = rows_of(path, rows=rows)
    assert [row["id"] for row in found] == WANTED_IDS
    assert found[2] == {"id": "0-de", "text": "ein Hund", "lang": "de", "source_id": "0"}
    assert {row["id"]: row["lang"] for row in found if "zh" in row["lang"]} == {"1-zh-Hant": "zh-Hant", "2-zh": "zh"}
    assert skipped == COUNTED
    assert count_captions(path) == len(found) + sum(skipped.values())


def test_chinese_without_a_name_is_told_by_the_tag_or_not_used(tmp_path):
    rows = [{**ROWS[1], "multi_language_name": None, "target_code": tag} for tag in (">>cmn_Hant<<", "cmn_Hans", None)]
    found, skipped = rows_of(save(tmp_path / "m.parquet", rows), only=["zh", "zh-Hant"])
    assert [row["lang"] for row in found] == ["zh-Hant", "zh"]
    assert skipped["Chinese of a script that is not told"] == 1


def test_row_numbers_run_through_the_parts_of_a_folder(tmp_path):
    for number, part in enumerate((ROWS[:2], ROWS[2:3], ROWS[3:])):
        save(tmp_path / f"train-{number:05d}-of-00003.parquet", part)
    assert ids_of(tmp_path) == WANTED_IDS


def test_rows_that_were_left_out_of_a_copy_are_noticed(tmp_path, caplog):
    save(tmp_path / "m.parquet", ROWS[:1] + ROWS[2:3])
    assert ids_of(tmp_path / "m.parquet") == ["0", "0-sv", "0-de", "1", "1-sv", "1-zh"]
    assert "row 1 carries index 3, not 2" in caplog.text
    caplog.clear()
    ids_of(save(tmp_path / "whole.parquet"))
    assert "carries index" not in caplog.text


def test_the_language_of_a_pair_of_columns_is_told_by_the_name_or_by_the_caller(tmp_path):
    rows = [{"english": "a dog", "non_english": "en hund"}, {"english": "a cat", "non_english": None}]
    (tmp_path / "en-sv").mkdir()
    for path in (tmp_path / "en-sv" / "train.parquet", tmp_path / "talks.en-sv.parquet", tmp_path / "en_sv.parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    expected = [
        {"id": "0", "text": "a dog", "lang": "en"},
        {"id": "0-sv", "text": "en hund", "lang": "sv", "source_id": "0"},
        {"id": "1", "text": "a cat", "lang": "en"},
    ]
    assert rows_of(tmp_path / "en-sv" / "train.parquet") == (expected, {"empty translation": 1})
    assert rows_of(tmp_path / "en_sv.parquet")[0] == expected
    plain = tmp_path / "talks.parquet"
    pq.write_table(pa.Table.from_pylist(rows), plain)
    with pytest.raises(BabelclipError, match="does not say which language"):
        list(open_captions(plain))
    assert read_all(plain, lang="swe").langs == ["en", "sv", "en"]
    assert count_captions(plain) == 4


def test_altclips_columns_are_a_pair_too(tmp_path):
    path = tmp_path / "stage1.jsonl"
    path.write_text(json.dumps({"source_text": "a dog", "target_text": "一只狗"}) + "\n")
    assert [row["lang"] for row in rows_of(path, lang="zh")[0]] == ["en", "zh"]
