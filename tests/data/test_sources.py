"""`open_captions`: every source through one door, and errors that say what is expected."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from babelclip.data.captions import Captions, read_captions, read_lines, write_captions, write_parts
from babelclip.data.duplicates import without_duplicates
from babelclip.data.sources import FILES, FOLDERS, SPECS, count_captions, image_root, kind_of, open_captions, read_all
from babelclip.errors import BabelclipError
from babelclip.files import write_json
from babelclip.languages import UnknownLanguageError
from tests.data.layouts import ids_of, rows_of
from tests.data.test_captions import BAD_ROWS, ROWS, in_format, write


def captions(*ids, lang="sv", **columns):
    return Captions.from_columns(id=list(ids), text=[f"text {name}" for name in ids], lang=lang, **columns)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv", "tsv", "jsonl.gz", "parquet.gz"])
def test_a_table_file_gives_what_read_captions_gives(tmp_path, suffix):
    path = write(tmp_path / f"c.{suffix}", in_format(suffix.split(".")[0], ROWS))
    assert read_all(path).table.combine_chunks().equals(read_captions(path).table.combine_chunks())
    assert read_all(str(path)).ids == read_captions(path).ids
    bad = write(tmp_path / "bad.jsonl", b"\n".join(row for row, _ in BAD_ROWS) + b"\n")
    assert read_all(bad).skipped == read_captions(bad).skipped
    twice = write(tmp_path / "twice.jsonl", '{"id": 1, "text": "a", "lang": "en"}\n' * 2)
    with pytest.raises(BabelclipError, match=r"twice\.jsonl: 1 ids occur more than once"):
        read_all(twice)


def test_plain_lines_tell_their_language_by_their_ending(tmp_path):
    path = write(tmp_path / "train.sv", "\ufeffen hund\r\n\ntvå\n")
    assert rows_of(path) == (
        [{"id": "sv-1", "text": "en hund", "lang": "sv"}, {"id": "sv-3", "text": "två", "lang": "sv"}],
        {"empty text": 1},
    )
    assert read_all(path).ids == read_lines(path, "sv").ids
    assert count_captions(path) == 3
    plain = write(tmp_path / "train.txt", "en hund\n")
    assert ids_of(plain, lang="swe") == ["sv-1"]
    with pytest.raises(BabelclipError, match=r"do not say their language.*train\.sv.*lang="):
        open_captions(plain)


def test_aligned_files_give_sources_and_translations_of_any_number_of_languages(tmp_path):
    english = write(tmp_path / "c.en", "one\n\nthree\n")
    swedish = write(tmp_path / "c.sv.gz", "ett\ntvå\n\n")
    german = write(tmp_path / "c.en-de.de", "eins\nzwei\ndrei\n")
    rows, skipped = rows_of(f"moses:{english},{swedish},{german}", rows=1)
    assert [(row["id"], row.get("source_id")) for row in rows] == [
        ("en-1", None), ("sv-1", "en-1"), ("de-1", "en-1"), ("en-3", None), ("de-3", "en-3"),
    ]  # fmt: skip
    assert skipped == {"empty source text": 3, "empty text": 1}
    assert ids_of(f"moses:{english},{swedish}", only="sv") == ["sv-1"]
    assert count_captions(f"moses:{english},{german}") == 6
    assert count_captions(f"moses:{english},{swedish}") is None
    write(swedish, "ett\n")
    with pytest.raises(BabelclipError, match=r"c\.en has 3, .*c\.sv\.gz has 1.*same release"):
        read_all(f"moses:{english},{swedish}")
    with pytest.raises(BabelclipError, match=r"both read as en"):
        read_all(f"moses:{english},{english}")
    other = write(tmp_path / "c.txt", "a\nb\nc\n")
    assert ids_of(f"moses:{english},{other}", lang="fi")[:2] == ["en-1", "fi-1"]


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_aligned_lines_point_to_the_lines_of_their_source(tmp_path, ending):
    english = write(tmp_path / f"corpus.en{ending}", b"\xef\xbb\xbftwo dogs\r\na  red ball \r\nsnow")
    swedish = write(tmp_path / f"corpus.sv{ending}", "två hundar\nen röd boll \nsnö\n")
    captions = read_all(f"moses:{english},{swedish}")
    sources, translations = captions.select("en"), captions.select("sv")
    assert translations.texts == ["två hundar", "en röd boll ", "snö"]
    assert translations.ids == ["sv-1", "sv-2", "sv-3"]
    assert sources.texts == read_lines(english, "en").texts == ["two dogs", "a  red ball ", "snow"]
    assert sources.ids == read_lines(english, "en").ids == ["en-1", "en-2", "en-3"]
    assert translations.table["source_id"].to_pylist() == sources.ids
    assert len(captions) == 6


def test_aligned_lines_whose_source_cannot_be_used_are_left_out_with_it(tmp_path):
    english = write(tmp_path / "c.en", b"one\n\nthree\ncaf\xe9\nfive\n")
    swedish = write(tmp_path / "c.sv", b"ett\ntv\xc3\xa5\n\nfyra\nf\xe4m\n")
    captions = read_all(f"moses:{english},{swedish}")
    assert captions.ids == ["en-1", "sv-1", "en-3", "en-5"]
    assert captions.skipped == {"empty source text": 2, "not UTF-8": 3, "empty text": 1}
    with pytest.raises(BabelclipError, match=r"c\.sv, line 2: empty source text"):
        read_all(f"moses:{english},{swedish}", strict=True)


def test_parts_of_a_folder_are_one_table_numbered_through(tmp_path):
    for name, text in (("b.jsonl", "three"), ("a.jsonl", "one"), ("_SUCCESS", "x"), (".c.jsonl.part", "{")):
        write(
            tmp_path / name, f'{{"text": "{text}", "lang": "en"}}\nnot json\n{{"text": "{text} too", "lang": "en"}}\n'
        )
    rows, skipped = rows_of(tmp_path)
    assert [(row["id"], row["text"]) for row in rows] == [
        ("0", "one"), ("2", "one too"), ("3", "three"), ("5", "three too"),
    ]  # fmt: skip
    assert skipped == {"not a JSON object": 2}
    assert count_captions(tmp_path) == 6
    write(tmp_path / "d.csv", "text,lang\nx,en\n")
    with pytest.raises(BabelclipError, match=r"several formats.*name the file"):
        open_captions(tmp_path)


def test_a_numbered_set_is_whole_and_of_one_split(tmp_path):
    for number in (0, 2):
        write_captions(captions(str(number)), tmp_path / f"train-{number:05d}-of-00003.parquet")
    with pytest.raises(BabelclipError, match=r"2 of the 3 parts of 'train'.*number 1"):
        open_captions(tmp_path)
    write_captions(captions("1"), tmp_path / "train-00001-of-00003.parquet")
    assert ids_of(tmp_path) == ["0", "1", "2"]
    write_captions(captions("1"), tmp_path / "test-00000-of-00001.parquet")
    with pytest.raises(BabelclipError, match=r"several sets of parts: test, train.*hub:"):
        open_captions(tmp_path)


def test_a_translate_folder_gives_its_translations_by_language_and_shard(tmp_path, caplog):
    out = tmp_path / "out"
    write(tmp_path / "manifest.json", "{}")
    for name, ids in {
        "sources/00000": ["a", "b"],
        "translations/sv/00001": ["b-sv"],
        "translations/sv/00000": ["a-sv"],
        "translations/de/00000": ["a-de"],
    }.items():
        write_captions(captions(*ids, lang=name.split("/")[1] if "tr" in name else "en"), out / f"{name}.parquet")
    with pytest.raises(BabelclipError, match=r"no folder of captions that is known"):
        open_captions(out)
    write(out / "manifest.json", "{}")
    write(out / "translations" / "sv" / ".00002.parquet.part", b"half")
    assert ids_of(out) == ["a-de", "a-sv", "b-sv"]
    assert "not translated to its end" not in caplog.text
    write(out / "manifest.json", '{"complete": false}')
    assert ids_of(out) == ["a-de", "a-sv", "b-sv"]
    assert "not translated to its end" in caplog.text
    assert ids_of(out / "sources") == ["a", "b"]
    assert (kind_of(out), count_captions(out)) == ("translate folder", 3)
    for shard in (out / "translations").glob("*/0*.parquet"):
        shard.unlink()
    with pytest.raises(BabelclipError, match=r"has no translations yet.*run babelclip translate"):
        open_captions(out)


def test_languages_are_chosen_and_the_others_counted(tmp_path):
    path = write(tmp_path / "c.jsonl", in_format("jsonl", [{"text": "a", "lang": "en"}, {"text": "b", "lang": "sv"}]))
    assert rows_of(path, only=["swe"])[1] == {"another language": 1}
    assert rows_of(path, only="sv")[0][0]["text"] == "b"
    with pytest.raises(UnknownLanguageError, match=r"swedishh"):
        open_captions(path, only="swedishh")
    with pytest.raises(BabelclipError, match=r"rows=0"):
        open_captions(path, rows=0)


def test_what_is_not_there_or_of_no_kind_is_answered_with_what_is_expected(tmp_path):
    write(tmp_path / "captions.jsonl", "{}")
    with pytest.raises(BabelclipError, match=r"does not exist.*Did you mean .*captions\.jsonl"):
        open_captions(tmp_path / "caption.jsonl")
    with pytest.raises(BabelclipError, match=r"'mose' is no kind of source.*Did you mean moses:"):
        open_captions("mose:a.en,b.sv")
    with pytest.raises(BabelclipError, match=r"c\.xlsx has the ending '\.xlsx'.*\.parquet.*\.tmx.*\.tar"):
        open_captions(write(tmp_path / "c.xlsx", "x"))
    with pytest.raises(BabelclipError, match=r"a\.en does not exist"):
        open_captions("moses:a.en,b.sv")
    folder = tmp_path / "odd"
    (folder / "below").mkdir(parents=True)
    write(folder / "x.bin", "x")
    with pytest.raises(BabelclipError) as raised:
        open_captions(folder)
    assert "holds below/, x.bin" in str(raised.value)
    assert all(kind.looks in str(raised.value) for kind in FOLDERS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BabelclipError, match=r"holds nothing"):
        open_captions(tmp_path / "empty")


def test_every_kind_of_source_stands_in_the_formats_page():
    text = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    assert [kind.name for kind in (*FILES, *FOLDERS) if kind.name not in text] == []
    assert [name for name in SPECS if f"{name}:" not in text] == []


def test_pictures_lie_beside_a_file_and_in_a_folder(tmp_path):
    assert image_root(tmp_path / "c.jsonl") == tmp_path
    assert image_root(tmp_path) == tmp_path


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_duplicate_rows_are_left_out_on_request_and_counted(tmp_path, rows):
    kinds = [
        {"text": "a", "lang": "en"},
        {"text": "a", "lang": "en"},
        {"text": "a", "lang": "sv"},
        {"text": "a", "lang": "en", "source_id": "1"},
        {"text": "a", "lang": "en", "image": "1"},
        {"text": "A", "lang": "en"},
        {"text": "a", "lang": "eng_Latn"},
    ]
    path = write(tmp_path / "c.jsonl", in_format("jsonl", [{"id": f"i{n}", **row} for n, row in enumerate(kinds)]))
    found, skipped = rows_of(path, drop_duplicates=True, rows=rows)
    assert [row["id"] for row in found] == ["i0", "i2", "i3", "i4", "i5"]
    assert skipped == {"duplicate row": 2}
    assert read_all(path, drop_duplicates=True).skipped == skipped
    assert len(read_all(path)) == 7


def test_duplicates_are_found_across_many_parts_in_little_memory():
    def parts():
        for start in (*range(0, 40_000, 2000), 0, 30_000):
            numbers = range(start, start + 2000)
            yield Captions.from_columns(
                id=[f"{start}-{n}" for n in numbers], text=[f"t{n}" for n in numbers], lang="en"
            )

    lengths = [len(part) for part in without_duplicates(parts())]
    assert lengths == [2000] * 20 + [0, 0]
    tracemalloc.start()
    for _ in without_duplicates(parts()):
        pass
    assert tracemalloc.get_traced_memory()[1] < 4e6  # 40,000 texts alone would take 2.1 MB and their set as much
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["c.parquet", "c.jsonl", "c.jsonl.gz"])
def test_parts_are_written_as_one_file_whose_bytes_do_not_tell_the_parts(tmp_path, monkeypatch, name):
    monkeypatch.setattr("babelclip.data.captions._GROUP", 4)
    whole = captions(*map(str, range(11)), image=[f"{n}.jpg" for n in range(11)])
    contents = []
    for size in (1, 3, 5, 11):
        pieces = (Captions(whole.table.slice(start, size)) for start in range(0, 11, size))
        assert write_parts(pieces, tmp_path / str(size) / name) == 11
        contents.append((tmp_path / str(size) / name).read_bytes())
    assert len(set(contents)) == 1
    assert read_captions(tmp_path / "3" / name).table.to_pylist() == whole.table.to_pylist()
    if name == "c.parquet":
        assert pq.ParquetFile(tmp_path / "3" / name).metadata.num_row_groups == 3


def test_writing_parts_leaves_the_old_file_where_reading_them_fails(tmp_path):
    path = tmp_path / "c.parquet"
    write_captions(captions("old"), path)

    def failing():
        yield captions("new")
        raise BabelclipError("the source broke")

    for parts, message in ((failing(), "the source broke"), (iter(()), "There is no caption to write")):
        with pytest.raises(BabelclipError, match=message):
            write_parts(parts, path)
    assert read_captions(path).ids == ["old"]
    assert [item.name for item in tmp_path.iterdir()] == ["c.parquet"]


def test_pictures_of_a_translation_are_looked_for_where_its_source_has_them(tmp_path):
    folder = tmp_path / "translated"
    (folder / "translations").mkdir(parents=True)
    (tmp_path / "photos").mkdir()
    for name, root in ((tmp_path / "photos", tmp_path / "photos"), (tmp_path / "gone.jsonl", folder)):
        write_json(folder / "manifest.json", {"source": {"name": str(name)}})
        assert image_root(folder) == root


@pytest.mark.parametrize("other", ["Text", "text"])
def test_an_arrow_file_with_two_columns_of_one_name_is_refused(tmp_path, other):
    table = pa.table([["a"], ["b"], ["en"]], names=["text", other, "lang"])
    with pa.OSFile(str(tmp_path / "c.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(BabelclipError, match=r"c\.arrow has the column 'text' more than once"):
        read_all(tmp_path / "c.arrow")


def test_pictures_within_a_table_are_left_there_and_its_texts_are_read(tmp_path):
    columns = {"image": [{"bytes": b"jpeg", "path": "a.jpg"}], "caption": ["a dog"], "label": [3]}
    pq.write_table(pa.table(columns), tmp_path / "c.parquet")
    with pa.OSFile(str(tmp_path / "c.arrow"), "wb") as file, pa.ipc.new_file(file, pa.table(columns).schema) as writer:
        writer.write_table(pa.table(columns))
    for name in ("c.parquet", "c.arrow"):
        row = {"id": "0", "text": "a dog", "lang": "en", "label": "3"}
        assert rows_of(tmp_path / name, lang="en") == ([row], {})


@pytest.mark.parametrize("name", ["c.csv", "c.tsv", "c.jsonl", "c.sv", "c.csv.gz"])
def test_text_in_utf16_is_told_from_text_with_damage(tmp_path, name):
    path = write(tmp_path / name, "text,lang\nett,sv\n".encode("utf-16"))
    with pytest.raises(BabelclipError, match=r"is text in UTF-16, .*save it again as UTF-8"):
        read_all(path)
