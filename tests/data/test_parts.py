"""Caption files in parts: the rows, reasons and errors of the whole readers."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from babelclip.data.captions import read_captions
from babelclip.data.sources import open_captions, read_all
from babelclip.data.tables import count_rows
from babelclip.errors import BabelclipError
from babelclip.languages import UnknownLanguageError
from tests.data.test_captions import BAD_ROWS, in_format, write

MANY = [{"id": f"c{n}", "text": f"text {n}", "lang": "sv" if n % 3 else "en", "label": str(n)} for n in range(23)]


def joined(parts):
    parts = list(parts)
    skipped = {}
    for part in parts:
        for reason, count in part.skipped.items():
            skipped[reason] = skipped.get(reason, 0) + count
    return pa.concat_tables([part.table for part in parts]).combine_chunks(), skipped, [len(part) for part in parts]


@pytest.mark.parametrize("rows", [1, 5, 23, 1000])
@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv", "tsv"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_parts_are_the_whole_file_in_order(tmp_path, suffix, ending, rows):
    path = write(tmp_path / f"c.{suffix}{ending}", in_format(suffix, MANY))
    table, skipped, lengths = joined(open_captions(path, rows=rows))
    assert table.equals(read_captions(path).table.combine_chunks())
    assert skipped == {}
    assert max(lengths) == min(rows, 23)
    assert count_rows(path) == (None if ending else 23)


@pytest.mark.parametrize("rows", [1, 4, 1000])
def test_rows_left_out_are_counted_and_strict_names_the_same_line(tmp_path, rows):
    path = write(tmp_path / "c.jsonl", b"\n".join(row for row, _ in BAD_ROWS) + b"\n")
    table, skipped, _ = joined(open_captions(path, rows=rows))
    whole = read_captions(path)
    assert (table.to_pylist(), skipped) == (whole.table.to_pylist(), whole.skipped)
    with pytest.raises(BabelclipError) as expected:
        read_captions(path, strict=True)
    with pytest.raises(BabelclipError) as found:
        list(open_captions(path, strict=True, rows=rows))
    assert str(found.value) == str(expected.value)


def test_rows_without_id_are_numbered_through_all_parts(tmp_path):
    path = write(tmp_path / "c.tsv", "text\tlang\na\ten\nonly one column\nb\txx\nc\ten\n")
    assert joined(open_captions(path, rows=2))[0]["id"].to_pylist() == ["0", "3"]
    pq.write_table(pa.table({"text": ["a", "", "c"], "lang": ["en"] * 3}), tmp_path / "c.parquet")
    assert joined(open_captions(tmp_path / "c.parquet", rows=2))[0]["id"].to_pylist() == ["0", "2"]
    with pytest.raises(BabelclipError, match=r"c\.parquet, row 1: empty text"):
        list(open_captions(tmp_path / "c.parquet", strict=True, rows=1))


def test_one_language_is_kept_and_the_others_are_counted(tmp_path):
    path = write(tmp_path / "c.jsonl", in_format("jsonl", MANY))
    table, skipped, _ = joined(open_captions(path, only="eng", rows=4))
    assert table.equals(read_captions(path).select("en").table.combine_chunks())
    assert skipped == {"another language": 15}
    with pytest.raises(BabelclipError, match=r"no caption in \['fi'\]; of 23 .* en, sv.*choose"):
        list(open_captions(path, only="fi", rows=4))
    with pytest.raises(UnknownLanguageError):
        open_captions(path, only="germn")


def test_a_file_without_usable_captions_is_the_error_of_the_whole_reader(tmp_path):
    for content in ("", "\n\n", '{"text": "a"}\n', '{"text": "a", "lang": "englsh"}\n'):
        path = write(tmp_path / "c.jsonl", content)
        with pytest.raises(BabelclipError) as expected:
            read_captions(path)
        with pytest.raises(BabelclipError) as found:
            list(open_captions(path, rows=1))
        assert str(found.value) == str(expected.value)
    with pytest.raises(BabelclipError, match="does not exist"):
        open_captions(tmp_path / "absent.jsonl")
    with pytest.raises(BabelclipError, match="rows=0"):
        open_captions(path, rows=0)


def test_a_column_for_id_or_text_that_comes_late_is_an_error(tmp_path):
    path = write(tmp_path / "c.jsonl", '{"text": "a", "lang": "en"}\n{"text": "b", "lang": "en", "id": "x"}\n')
    with pytest.raises(BabelclipError, match=r"'id' is read from column 'id' around line 2.*'no column'.*every row"):
        list(open_captions(path, rows=1))
    path = write(tmp_path / "d.jsonl", '{"caption": "a", "lang": "en"}\n{"text": "b", "lang": "en"}\n')
    with pytest.raises(BabelclipError, match=r"'text' is read from column 'text'.*'caption'"):
        list(open_captions(path, rows=1))


def test_a_large_parquet_row_group_is_read_in_parts(tmp_path):
    pq.write_table(pa.table({"text": [f"t{n}" for n in range(500)], "lang": ["en"] * 500}), tmp_path / "c.parquet")
    assert joined(open_captions(tmp_path / "c.parquet", rows=64))[2] == [64] * 7 + [52]


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_aligned_lines_come_in_parts_too(tmp_path, rows):
    english = write(tmp_path / "c.en", b"one\n\nthree\ncaf\xe9\nfive\nsix\n")
    swedish = write(tmp_path / "c.sv.gz", "ett\ntvå\n\nfyra\nfem\nsex\n")
    table, skipped, _ = joined(open_captions(f"moses:{english},{swedish}", rows=rows))
    whole = read_all(f"moses:{english},{swedish}")
    assert (table.to_pylist(), skipped) == (whole.table.to_pylist(), whole.skipped)
    longer = write(tmp_path / "d.en", "one\n" * 9)
    with pytest.raises(BabelclipError, match=r"d\.en has 9, .*c\.sv\.gz has 6\..*same release"):
        list(open_captions(f"moses:{longer},{swedish}", rows=rows))
