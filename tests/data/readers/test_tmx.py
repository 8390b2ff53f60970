"""TMX: units become a source row and its translations; nothing of a stranger's file is expanded or fetched."""

from __future__ import annotations

import gzip
import itertools

import pytest

from babelclip.data.sources import open_captions
from babelclip.errors import BabelclipError
from tests.data.layouts import ids_of, rows_of

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n'


def tmx(units: str, srclang: str = "en", head: str = HEAD) -> str:
    return f'{head}<tmx version="1.4"><header srclang="{srclang}" datatype="xml"/><body>{units}</body></tmx>'


def unit(*texts, attributes: str = "") -> str:
    inner = "".join(f'<tuv xml:lang="{lang}"><seg>{text}</seg></tuv>' for lang, text in texts)
    return f"<tu {attributes}>{inner}</tu>"


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_units_become_a_source_row_and_its_translations(tmp_path):
    units = unit(("en", "a dog"), ("sv-SE", "en hund"), ("zh-TW", "一隻狗")) + unit(
        ("sv", "två"), ("en-US", "two"), attributes='tuid="k7"'
    )
    rows, skipped = rows_of(write(tmp_path / "c.tmx", tmx(units)))
    assert rows == [
        {"id": "0", "text": "a dog", "lang": "en"},
        {"id": "0-sv", "text": "en hund", "lang": "sv", "source_id": "0"},
        {"id": "0-zh-Hant", "text": "一隻狗", "lang": "zh-Hant", "source_id": "0"},
        {"id": "k7", "text": "two", "lang": "en"},
        {"id": "k7-sv", "text": "två", "lang": "sv", "source_id": "k7"},
    ]
    assert skipped == {}


def test_the_source_language_is_that_of_the_unit_then_of_the_header_then_english(tmp_path):
    texts = (("de", "eins"), ("sv", "ett"), ("en", "one"))
    assert ids_of(write(tmp_path / "a.tmx", tmx(unit(*texts), "sv"))) == ["0", "0-de", "0-en"]
    assert rows_of(tmp_path / "a.tmx")[0][0]["lang"] == "sv"
    own = write(tmp_path / "b.tmx", tmx(unit(*texts, attributes='srclang="de"'), "sv"))
    assert rows_of(own)[0][0]["lang"] == "de"
    assert rows_of(write(tmp_path / "c.tmx", tmx(unit(*texts), "*all*")))[0][0]["lang"] == "en"
    assert rows_of(write(tmp_path / "d.tmx", tmx(unit(*texts[:2]), "*all*")))[0][0]["lang"] == "de"


def test_text_in_highlights_stays_and_markup_codes_go(tmp_path):
    codes = '<bpt i="1">&lt;b&gt;<sub>not this</sub></bpt>dog<ept i="1">&lt;/b&gt;</ept>'
    text = f'a <hi type="b">big</hi> {codes} &amp; <ph/>cat'
    assert rows_of(write(tmp_path / "c.tmx", tmx(unit(("en", text)))))[0][0]["text"] == "a big dog & cat"


def test_what_cannot_be_used_is_counted_under_its_reason(tmp_path):
    units = (
        unit(("en", "one"), ("sv", "ett"), ("sv", "etta"), ("sv", " "), ("de", "  "), ("xx-yy", "?"))
        + "\n"
        + unit(("sv", "utan källa"))
        + unit(("en", " "), ("sv", "tom källa"))
        + unit(("en", "with &nbsp; in it"), ("sv", "hej"))
    )
    rows, skipped = rows_of(write(tmp_path / "c.tmx", tmx(units)))
    assert [row["id"] for row in rows] == ["0", "0-sv"]
    assert skipped == {
        "second text in one language": 2,
        "empty text": 2,
        "unknown language": 1,
        "unit without text in the source language": 1,
        "empty source text": 1,
        "entity that is not declared": 2,
    }
    with pytest.raises(BabelclipError, match=r"c\.tmx, line 3: second text in one language"):
        list(open_captions(tmp_path / "c.tmx", strict=True))


@pytest.mark.parametrize(
    "declared",
    [
        '<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">',
        '<!ENTITY a SYSTEM "file:///etc/passwd">',
        '<!ENTITY % p SYSTEM "http://127.0.0.1/x"> %p;',
    ],
)
def test_declared_entities_are_refused_before_anything_is_expanded(tmp_path, declared):
    path = write(tmp_path / "c.tmx", tmx(unit(("en", "&a;")), head=f"<!DOCTYPE tmx [{declared}]>"))
    with pytest.raises(BabelclipError, match=r"neither expanded.*write the file again"):
        list(open_captions(path))


def test_a_damaged_place_costs_its_text_alone_and_other_encodings_are_read(tmp_path):
    broken = tmx(unit(("en", "caf@"), ("sv", "kafé")) + unit(("en", "tea"))).encode().replace(b"@", b"\xe9")
    rows, skipped = rows_of(write(tmp_path / "c.tmx", broken))
    assert [row["id"] for row in rows] == ["1"]
    assert skipped == {"not UTF-8": 2}
    for encoding, declared in (("utf-16", "UTF-16"), ("latin-1", "ISO-8859-1"), ("utf-8-sig", "UTF-8")):
        head = f'<?xml version="1.0" encoding="{declared}"?>\r\n'
        path = write(tmp_path / "e.tmx", tmx(unit(("en", "café")), head=head).encode(encoding))
        assert rows_of(path)[0][0]["text"] == "café"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<html></html>", "begins with <html>"),
        (tmx(unit(("en", "a")))[:-20].encode(), "end tag"),
        (b"hello", "well-formed"),
    ],
)
def test_what_is_no_tmx_is_said_to_be_none(tmp_path, content, message):
    with pytest.raises(BabelclipError, match=message):
        list(open_captions(write(tmp_path / "c.tmx", content)))


def test_a_gzipped_file_is_read_in_parts_that_together_are_the_whole(tmp_path):
    units = "".join(unit(("en", f"number {n} " + "x" * 200), ("sv", f"nummer {n}")) for n in range(2000))
    path = tmp_path / "c.tmx.gz"
    path.write_bytes(gzip.compress(tmx(units).encode()))
    parts = list(open_captions(path, rows=100))
    assert len(parts) > 5
    ids = list(itertools.chain.from_iterable(part.ids for part in parts))
    assert ids == [name for n in range(2000) for name in (str(n), f"{n}-sv")]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BabelclipError, match="not a whole gzip file"):
        list(open_captions(path))


def test_with_strict_an_unknown_language_beside_a_known_one_is_named(tmp_path):
    path = write(tmp_path / "c.tmx", tmx(unit(("en", "a dog"), ("qqq1", "x"))))
    assert rows_of(path)[1] == {"unknown language": 1}
    with pytest.raises(BabelclipError, match=r"c\.tmx, line 3: unknown language \('qqq1' is not a language code"):
        list(open_captions(path, strict=True))


def test_a_variety_is_the_source_only_where_the_language_itself_is_not_there(tmp_path):
    units = unit(("en-GB", "a lorry"), ("en", "a truck"), ("sv", "en lastbil")) + unit(("en-GB", "a lift"), ("sv", "x"))
    rows, _ = rows_of(write(tmp_path / "c.tmx", tmx(units)))
    assert [(row["id"], row["text"], row.get("source_id")) for row in rows] == [
        ("0", "a truck", None), ("0-en-GB", "a lorry", "0"), ("0-sv", "en lastbil", "0"),
        ("1", "a lift", None), ("1-sv", "x", "1"),
    ]  # fmt: skip
