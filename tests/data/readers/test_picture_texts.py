"""Folders of picture.jpg and picture.txt."""

from __future__ import annotations

import pytest

from babelclip.data.sources import kind_of, open_captions
from babelclip.errors import BabelclipError
from tests.data.layouts import jpeg, rows_of


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    (root / "sub" / ".hidden").mkdir(parents=True)
    for name in ("b.jpg", "a.JPG", "alone.png", "sub/c.webp", "sub/.hidden/x.jpg", "twice.jpg", "twice.png"):
        (root / name).write_bytes(jpeg())
    texts = {
        "a.txt": b"\xef\xbb\xbfone\r\ntwo\r\n\r\n",
        "b.txt": "ett får".encode(),
        "sub/c.TXT": b"c",
        "sub/.hidden/x.txt": b"hidden",
        "lone.txt": b"no picture",
        "twice.txt": b"t",
        "notes.md": b"# notes",
    }
    for name, content in texts.items():
        (root / name).write_bytes(content)
    return root


def test_each_line_beside_a_picture_is_a_caption(folder):
    rows, skipped = rows_of(folder, lang="sv")
    assert rows == [
        {"id": "a#1", "text": "one", "lang": "sv", "image": "a.JPG"},
        {"id": "a#2", "text": "two", "lang": "sv", "image": "a.JPG"},
        {"id": "b", "text": "ett får", "lang": "sv", "image": "b.jpg"},
        {"id": "twice", "text": "t", "lang": "sv", "image": "twice.jpg"},
        {"id": "sub/c", "text": "c", "lang": "sv", "image": "sub/c.webp"},
    ]
    assert skipped == {"picture without text": 2, "text without picture": 1}
    assert kind_of(folder) == "pictures with texts"
    parts = list(open_captions(folder, lang="sv", rows=1))
    assert [name for part in parts for name in part.ids] == [row["id"] for row in rows]


def test_broken_and_empty_and_huge_texts_are_counted(folder):
    (folder / "b.txt").write_bytes(b"caf\xe9")
    (folder / "sub" / "c.TXT").write_bytes(b"\n \n")
    (folder / "twice.txt").write_bytes(b"x" * (1 << 20) + b"y")
    rows, skipped = rows_of(folder, lang="sv")
    assert [row["id"] for row in rows] == ["a#1", "a#2"]
    assert skipped["not UTF-8"] == skipped["empty text"] == skipped["text of more than a megabyte"] == 1
    with pytest.raises(BabelclipError, match="picture 2: picture without text"):
        list(open_captions(folder, lang="sv", strict=True))
