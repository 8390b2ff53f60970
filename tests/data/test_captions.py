from __future__ import annotations

import doctest
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babelclip.data import captions as module
from babelclip.data.captions import (
    SCHEMA,
    Captions,
    read_captions,
    text_key,
    write_captions,
)
from babelclip.errors import BabelclipError
from babelclip.languages import UnknownLanguageError

ROWS = [
    {"id": "1-en", "text": "two dogs in the snow", "lang": "en", "image": "1.jpg"},
    {"id": "1-sv", "text": "två hundar i snön", "lang": "sv", "source_id": "1-en", "image": "1.jpg"},
    {"id": "2-ar", "text": "كلبان في الثلج", "lang": "ar", "label": "dog"},
]


def full(row):
    return {name: row.get(name) for name in SCHEMA.names}


def write(path, content):
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def in_format(name, rows=ROWS):
    """The bytes of a caption file with `rows`."""
    if "jsonl" in name:
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if "parquet" in name:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist([full(row) for row in rows]), sink)
        return sink.getvalue().to_pybytes()
    separator = "," if "csv" in name else "\t"
    lines = [SCHEMA.names, *([value or "" for value in full(row).values()] for row in rows)]
    return "".join(separator.join(line) + "\n" for line in lines).encode()


@pytest.mark.parametrize("suffix", ["parquet", "pq", "jsonl", "ndjson", "csv", "tsv", "tab"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_the_same_captions_come_from_every_format(tmp_path, suffix, ending):
    kind = {"pq": "parquet", "ndjson": "jsonl", "tab": "tsv"}.get(suffix, suffix)
    captions = read_captions(write(tmp_path / f"captions.{suffix}{ending}", in_format(kind)))
    assert captions.table.to_pylist() == [full(row) for row in ROWS]
    assert captions.table.schema == SCHEMA
    assert captions.skipped == {}
    assert (len(captions), captions.ids, captions.langs) == (3, ["1-en", "1-sv", "2-ar"], ["en", "sv", "ar"])
    assert captions.texts[2] == "كلبان في الثلج"
    assert captions.language_counts() == {"ar": 1, "en": 1, "sv": 1}


values = st.none() | st.text(min_size=1, max_size=8)
texts = st.text(min_size=1, max_size=20).filter(str.strip)
captions_strategy = st.lists(
    st.tuples(texts, st.sampled_from(["en", "sv", "zh-Hant"]), values, values, values), min_size=1
)


@settings(deadline=None)  # each example is synced to a disk that others use too
@given(rows=captions_strategy, suffix=st.sampled_from([".jsonl", ".parquet", ".jsonl.gz"]))
def test_what_is_written_is_read_back_equal(tmp_path_factory, rows, suffix):
    text, lang, source_id, image, label = (list(column) for column in zip(*rows, strict=True))
    captions = Captions.from_columns(text=text, lang=lang, source_id=source_id, image=image, label=label)
    path = tmp_path_factory.mktemp("round") / f"captions{suffix}"
    write_captions(captions, path)
    assert read_captions(path) == Captions(captions.table)
    assert captions.texts == text
    assert captions.table["image"].to_pylist() == image


def test_equal_captions_make_equal_files(tmp_path):
    captions = Captions.from_columns(text=["a", "b"], lang="en")
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_captions(captions, tmp_path / name)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl.gz", "b.jsonl.gz"]


@pytest.mark.parametrize("name", ["out.csv", "out.parquet.gz"])
def test_writing_another_format_is_an_error_that_names_those_there_are(tmp_path, name):
    with pytest.raises(BabelclipError, match=r"\.parquet, \.jsonl or \.jsonl\.gz: choose one"):
        write_captions(Captions.from_columns(text=["a"], lang="en"), tmp_path / name)


@pytest.mark.parametrize("name", ["c.csv", "c.tsv", "c.jsonl"])
def test_byte_order_mark_and_crlf_are_no_part_of_the_text(tmp_path, name):
    content = b"\xef\xbb\xbf" + in_format(name).replace(b"\n", b"\r\n")
    assert read_captions(write(tmp_path / name, content)).table.to_pylist() == [full(row) for row in ROWS]


def test_texts_stay_exactly_as_given(tmp_path):
    odd = ["  two  spaces ", '"quoted" text', "Cafe\u0301", "a\u2028b\u0085c", "tab\there", "line\nend\r", "\ufeffmark"]
    captions = read_captions(write(tmp_path / "c.jsonl", in_format("jsonl", [{"text": t, "lang": "en"} for t in odd])))
    assert captions.texts == odd
    tsv = read_captions(write(tmp_path / "c.tsv", 'text\tlang\n "half quoted\ten\n"whole" \ten\n'))
    assert tsv.texts == [' "half quoted', '"whole" ']


def test_csv_values_may_hold_commas_quotes_and_line_ends(tmp_path):
    path = write(tmp_path / "c.csv", 'lang,text\nen,"a ""red"", round\r\nball"\nen,next\nxx,third\n')
    assert read_captions(path).texts == ['a "red", round\r\nball', "next"]
    # The third row begins on line 5, because the first takes two.
    with pytest.raises(BabelclipError, match=r"c\.csv, line 5: unknown language"):
        read_captions(path, strict=True)


@pytest.mark.parametrize("content", ['text,lang\n"never closed,en\nnext,en\n', 'text,lang\nfine,en\n"a"b,en\n'])
def test_broken_quotes_of_csv_are_an_error_with_the_line(tmp_path, content):
    with pytest.raises(BabelclipError, match=r"c\.csv, line [23]: .*write the file again"):
        read_captions(write(tmp_path / "c.csv", content))


def test_columns_are_known_by_their_aliases_in_any_case(tmp_path):
    content = "Caption\tLANGUAGE\tfilepath\tcaption_id\tclassname\turl\nen hund\tswe_Latn\td.jpg\t7\tdog\thttp://x\n"
    captions = read_captions(write(tmp_path / "c.tsv", content))
    expected = {"id": "7", "text": "en hund", "lang": "sv", "source_id": None, "image": "d.jpg", "label": "dog"}
    assert captions.table.to_pylist() == [expected]
    upper = tmp_path / "c.parquet"
    pq.write_table(pa.table({"Caption": ["en hund"], "lang": ["sv"], "vector": [[0.5, 1.0]]}), upper)
    assert read_captions(upper).texts == ["en hund"]


def test_the_proper_name_wins_over_an_alias_and_two_aliases_are_an_error(tmp_path):
    path = write(tmp_path / "c.csv", "caption,text,lang\nno,yes,en\n")
    assert read_captions(path).texts == ["yes"]
    with pytest.raises(BabelclipError, match=r"\['caption', 'sentence'\], which all mean 'text'.*name 'text' the"):
        read_captions(write(tmp_path / "d.csv", "caption,sentence,lang\nno,yes,en\n"))
    with pytest.raises(BabelclipError, match=r"column 'text' more than once"):
        read_captions(write(tmp_path / "e.csv", "text,Text,lang\nno,yes,en\n"))


@pytest.mark.parametrize("name", ["c.csv", "c.tsv", "c.jsonl", "c.parquet"])
def test_a_file_without_a_text_column_names_its_columns(tmp_path, name):
    if name == "c.parquet":
        pq.write_table(pa.table({"words": ["a dog"], "lang": ["en"]}), tmp_path / name)
    else:
        separator = "," if "csv" in name else "\t"
        content = (
            '{"words": "a dog", "lang": "en"}\n' if "json" in name else f"a dog{separator}words\na cat{separator}en\n"
        )
        write(tmp_path / name, content)
    with pytest.raises(BabelclipError, match=r"has no column for the text; it has \[.*words.*\].*'text' or 'caption'"):
        read_captions(tmp_path / name)


def test_whole_numbers_as_id_and_label_become_text(tmp_path):
    content = '{"id": 7, "text": "a dog", "lang": "en", "label": 3, "source_id": 9007199254740993}\n'
    captions = read_captions(write(tmp_path / "c.jsonl", content))
    assert captions.table.to_pylist()[0] == {
        "id": "7", "text": "a dog", "lang": "en", "source_id": "9007199254740993", "image": None, "label": "3",
    }  # fmt: skip
    pq.write_table(
        pa.table({"id": [7], "text": ["a"], "lang": pa.array(["en"]).dictionary_encode()}), tmp_path / "c.pq"
    )
    assert read_captions(tmp_path / "c.pq").ids == ["7"]


def test_without_ids_the_row_number_in_the_file_is_the_id_whatever_is_skipped(tmp_path):
    captions = read_captions(write(tmp_path / "c.tsv", "text\tlang\na\ten\nonly one column\nb\txx\nc\ten\n"))
    assert captions.ids == ["0", "3"]


BAD_ROWS = [
    (b'{"text": "fine", "lang": "en"}', None),
    (b'{"text": "caf\xe9", "lang": "en"}', "not UTF-8"),
    (b'{"text": "lone \\ud800", "lang": "en"}', "not UTF-8"),
    (b'{"text": "", "lang": "en"}', "empty text"),
    (b'{"text": " \\u3000\\n", "lang": "en"}', "empty text"),
    (b'{"lang": "en"}', "empty text"),
    (b'{"text": "no language"}', "no language"),
    (b'{"text": "no language", "lang": ""}', "no language"),
    (b'{"text": "who speaks this?", "lang": "xx"}', "unknown language"),
    (b'{"text": ["a list"], "lang": "en"}', "value is not text"),
    (b'{"text": true, "lang": "en"}', "value is not text"),
    (b'["a dog", "en"]', "not a JSON object"),
    (b"{broken", "not a JSON object"),
    (b"", "blank line"),
]


def test_rows_that_cannot_be_used_are_counted_by_reason(tmp_path, caplog):
    captions = read_captions(write(tmp_path / "c.jsonl", b"\n".join(row for row, _ in BAD_ROWS) + b"\n"))
    assert captions.texts == ["fine"]
    assert captions.skipped == {
        "not UTF-8": 2,
        "empty text": 3,
        "no language": 2,
        "unknown language": 1,
        "value is not text": 2,
        "not a JSON object": 2,
        "blank line": 1,
    }
    assert "'xx'" in caplog.text


@pytest.mark.parametrize(("row", "reason"), [pair for pair in BAD_ROWS if pair[1]])
def test_strict_reading_stops_at_the_first_bad_row_with_file_and_line(tmp_path, row, reason):
    good = BAD_ROWS[0][0]
    path = write(tmp_path / "c.jsonl", b"\n".join([good, good, row, good, b'{"lang": 5.5}', b'{"text": ""}', b""]))
    with pytest.raises(BabelclipError, match=rf"c\.jsonl, line 3: {reason}.*mend the row"):
        read_captions(path, strict=True)


def test_strict_reading_of_an_unknown_language_names_the_code_of_that_row(tmp_path):
    path = write(tmp_path / "c.tsv", "text\tlang\na\ten\n\tqqx\nb\tenn\n")
    assert read_captions(path).skipped == {"empty text": 1, "unknown language": 1}
    with pytest.raises(BabelclipError, match=r"line 3: empty text"):
        read_captions(path, strict=True)
    path = write(tmp_path / "d.tsv", "text\tlang\na\ten\nb\tenn\nc\tqqx\n")
    with pytest.raises(BabelclipError, match=r"line 3: unknown language \(.*'enn'"):
        read_captions(path, strict=True)


@pytest.mark.parametrize("name", ["c.csv", "c.tsv"])
def test_rows_of_csv_and_tsv_with_bad_bytes_or_columns_are_counted(tmp_path, name):
    content = b"text\tlang\na\ten\ncaf\xe9\ten\nb\n\nc\ten\tmore\n"
    captions = read_captions(write(tmp_path / name, content.replace(b"\t", b"," if "csv" in name else b"\t")))
    assert captions.texts == ["a"]
    assert captions.skipped == {"not UTF-8": 1, "wrong number of columns": 2, "blank line": 1}


def test_parquet_rows_with_bad_bytes_are_counted(tmp_path):
    raw = pa.array([b"fine", b"caf\xe9", b"also fine"])
    unchecked = pa.StringArray.from_buffers(3, *raw.buffers()[1:])
    pq.write_table(pa.table({"text": unchecked, "lang": ["en"] * 3}), tmp_path / "c.parquet")
    captions = read_captions(tmp_path / "c.parquet")
    assert (captions.texts, captions.ids, captions.skipped) == (["fine", "also fine"], ["0", "2"], {"not UTF-8": 1})
    with pytest.raises(BabelclipError, match=r"c\.parquet, row 1: not UTF-8"):
        read_captions(tmp_path / "c.parquet", strict=True)


def test_parquet_columns_of_lists_are_an_error_that_names_the_type(tmp_path):
    pq.write_table(pa.table({"text": [["a", "b"]], "lang": ["en"]}), tmp_path / "c.parquet")
    with pytest.raises(BabelclipError, match=r"'text' has type list.*convert it"):
        read_captions(tmp_path / "c.parquet")


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int8(), pa.string())]
)
def test_parquet_text_is_read_whatever_arrow_type_it_was_written_with(tmp_path, kind):
    texts = pa.chunked_array([["två", None], ["hundar"]]).cast(kind)
    pq.write_table(pa.table({"text": texts, "lang": ["sv"] * 3}), tmp_path / "c.parquet")
    captions = read_captions(tmp_path / "c.parquet")
    assert (captions.texts, captions.skipped) == (["två", "hundar"], {"empty text": 1})


def test_the_language_given_fills_only_the_rows_that_name_none(tmp_path):
    path = write(tmp_path / "c.csv", "text,lang\na,\nb,pt_BR\n")
    assert read_captions(path, lang="swe").langs == ["sv", "pt-BR"]
    assert read_captions(path).skipped == {"no language": 1}
    with pytest.raises(UnknownLanguageError):
        read_captions(path, lang="swedishh")


def test_language_codes_of_other_conventions_become_bcp_47():
    captions = Captions.from_columns(text=list("abcd"), lang=["jp", "deu_Latn", "zh_TW", "EN"])
    assert captions.langs == ["ja", "de", "zh-Hant", "en"]


def test_ids_that_occur_twice_are_an_error_that_names_them(tmp_path):
    path = write(tmp_path / "c.csv", "id,text,lang\n1,a,en\n2,b,en\n1,c,sv\n")
    with pytest.raises(BabelclipError, match=r"1 ids occur more than once, first \['1'\].*own"):
        read_captions(path)


def test_keys_that_only_some_lines_of_jsonl_have_are_null_in_the_others(tmp_path):
    lines = ['{"text": "a", "lang": "en"}', '{"label": "x", "text": "b", "lang": "en"}', '{"text": "c", "lang": "en"}']
    captions = read_captions(write(tmp_path / "c.jsonl", "\n".join(lines)))
    assert captions.table["label"].to_pylist() == [None, "x", None]


def test_a_row_without_id_is_counted_where_others_have_one(tmp_path):
    captions = read_captions(write(tmp_path / "c.csv", "id,text,lang\n1,a,en\n,b,en\n"))
    assert (captions.ids, captions.skipped) == (["1"], {"no id": 1})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.jsonl", "", "is empty"),
        ("c.csv", "", "is empty"),
        ("c.csv", "text,lang\n", "no usable caption .it has no rows"),
        ("c.csv", "text\na dog\n", r"1 no language.*pass the language of the texts as lang="),
        ("c.csv", "text,lang\na dog,englsh\n", r"1 unknown language.*'englsh'"),
        ("c.jsonl", "\n\n", "2 blank line"),
        ("c.jsonl", "[\n1]\n", "2 not a JSON object"),
        ("c.jsonl", '{"text": ""}\n', "1 empty text"),
    ],
)
def test_a_file_without_usable_captions_is_one_error_with_the_counts(tmp_path, name, content, message):
    with pytest.raises(BabelclipError, match=message):
        read_captions(write(tmp_path / name, content))


def test_a_missing_file_names_one_with_a_similar_name(tmp_path):
    write(tmp_path / "captions.jsonl", "")
    with pytest.raises(BabelclipError, match=r"does not exist.*Did you mean 'captions\.jsonl'"):
        read_captions(tmp_path / "caption.jsonl")
    with pytest.raises(BabelclipError, match=r"is a folder"):
        read_captions(tmp_path)


def test_another_ending_is_an_error_that_names_the_formats(tmp_path):
    with pytest.raises(BabelclipError, match=r"ending '\.xlsx'.*\.parquet, \.jsonl, \.csv, \.tsv.*convert"):
        read_captions(write(tmp_path / "c.xlsx", "x"))


@pytest.mark.parametrize("name", ["c.jsonl.gz", "c.parquet.gz"])
def test_a_cut_gzip_file_is_an_error_that_names_it(tmp_path, name):
    path = write(tmp_path / name, in_format(name))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BabelclipError, match=r"not a whole gzip file.*copy it again"):
        read_captions(path)
    path.write_bytes(b"no gzip at all")
    with pytest.raises(BabelclipError, match=r"not a whole gzip file"):
        read_captions(path)


def test_a_cut_parquet_file_is_an_error_that_names_it(tmp_path):
    path = write(tmp_path / "c.parquet", in_format("parquet")[:-30])
    with pytest.raises(BabelclipError, match=r"not a whole Parquet file"):
        read_captions(path)


# -- what captions can do --------------------------------------------------------------------------------------------


def make_captions():
    return Captions.from_columns(
        text=["A red  ball", "ein roter Ball", "ett rött klot", " "],
        lang=["en", "de", "sv", "en"],
        id=["a", "b", "c", "d"],
        image=["ball.png", "", None, "x.png"],
    )


def test_one_language_or_several_can_be_selected():
    captions = make_captions()
    assert captions.select("swe_Latn").ids == ["c"]
    assert captions.select(["de", "en"]).ids == ["a", "b"]
    assert captions.select("de").skipped == {"empty text": 1}
    with pytest.raises(BabelclipError, match=r"leaves no caption of 3 \(de, en, sv\).*choose"):
        captions.select("fi")
    with pytest.raises(UnknownLanguageError):
        captions.select("germn")


@pytest.mark.parametrize("same", ["a RED ball", "a\u00a0red ball ", "Ａ red\tball"])
def test_test_captions_are_removed_however_they_are_spelt(same):
    rest, removed = make_captions().without_texts([same, "something else"])
    assert (rest.ids, removed) == (["b", "c"], 1)


def test_removing_every_caption_is_an_error():
    captions = make_captions()
    assert captions.without_texts([])[1] == 0
    with pytest.raises(BabelclipError, match="leaves no caption"):
        captions.without_texts(captions.texts)


def test_text_key_joins_what_reads_the_same_and_nothing_else():
    assert text_key("  Straße\n№ 5 ") == text_key("STRASSE no 5")
    assert text_key("röd") != text_key("rod")


def test_captions_without_picture_are_counted_or_an_error(tmp_path):
    captions = make_captions()
    with_picture = captions.require_images()
    assert (with_picture.ids, with_picture.skipped) == (["a"], {"empty text": 1, "no picture": 2})
    assert with_picture.require_images(strict=True) is with_picture
    with pytest.raises(BabelclipError, match=r"2 of 3 captions have no picture, first id 'b'.*fill the column"):
        captions.require_images(strict=True)
    with pytest.raises(BabelclipError, match=r"3 of 3 captions have no picture in "):
        captions.require_images(folder=tmp_path)
    (tmp_path / "ball.png").write_bytes(b"")
    assert captions.require_images(folder=tmp_path).ids == ["a"]


def test_joined_captions_sum_what_was_skipped_and_refuse_an_id_twice():
    more = Captions.from_columns(text=["kaksi koiraa", ""], lang="fi", id=["e", "f"])
    joined = Captions.concat([make_captions(), more])
    assert joined.ids == ["a", "b", "c", "e"]
    assert joined.skipped == {"empty text": 2}
    with pytest.raises(BabelclipError, match=r"occur more than once, first \['e'\]"):
        Captions.concat([more, more])
    with pytest.raises(BabelclipError, match="leaves no caption"):
        Captions.concat([])


def test_columns_of_different_length_are_an_error_with_the_lengths():
    with pytest.raises(BabelclipError, match=r"'text': 2.*'lang': 1"):
        Captions.from_columns(text=["a", "b"], lang=["en"])
    with pytest.raises(BabelclipError, match="one value per caption"):
        Captions.from_columns(text="a dog", lang="en")


def test_columns_in_memory_are_checked_like_files():
    captions = Captions.from_columns(text=["a", None, "\ud800", 1.5, "b"], lang="en", id=[1, 2, 3, 4, "five"])
    assert (captions.ids, captions.texts) == (["1", "five"], ["a", "b"])
    assert captions.skipped == {"empty text": 1, "not UTF-8": 1, "value is not text": 1}
    with pytest.raises(BabelclipError, match="from_columns, row 1: empty text"):
        Captions.from_columns(text=["a", "", "b"], lang="en", strict=True)


def test_a_table_of_other_columns_is_refused():
    with pytest.raises(BabelclipError, match=r"Captions\.from_columns"):
        Captions(pa.table({"text": ["a"]}))


def test_the_example_in_the_documentation_runs():
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
