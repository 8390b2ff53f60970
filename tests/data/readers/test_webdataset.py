"""Tars of samples: read from front to end, nothing unpacked, damage counted."""

from __future__ import annotations

import json
import tarfile

import pytest

from babelclip.data.sources import kind_of, open_captions
from babelclip.errors import BabelclipError
from tests.data.layouts import ids_of, jpeg, rows_of, write_tar

SAMPLES = [
    ("0001.jpg", jpeg()),
    ("0001.txt", b"a dog"),
    ("0001.json", b'{"lang": "en", "label": "dog"}'),
    ("./dir/0002.json", json.dumps({"caption": ["en katt", "katten"], "lang": "swe_Latn"}).encode()),
    ("./dir/0002.png", b"y" * 2000),
    ("0003.jpg", b"x" * 600),
    ("0003.txt", "två\r\nrader\n".encode()),
    ("0003.cls", b"7\n"),
]


@pytest.mark.parametrize("name", ["s.tar", "s.tar.gz", "s.tgz"])
@pytest.mark.parametrize("rows", [1, 100])
def test_members_of_one_key_are_a_sample(tmp_path, name, rows):
    path = write_tar(tmp_path / name, SAMPLES, "w" if name.endswith(".tar") else "w:gz")
    found, skipped = rows_of(path, lang="sv", rows=rows)
    assert found == [
        {"id": "0001", "text": "a dog", "lang": "en", "image": f"{name}::0001.jpg", "label": "dog"},
        {"id": "dir/0002#1", "text": "en katt", "lang": "sv", "image": f"{name}::./dir/0002.png"},
        {"id": "dir/0002#2", "text": "katten", "lang": "sv", "image": f"{name}::./dir/0002.png"},
        {"id": "0003#1", "text": "två", "lang": "sv", "image": f"{name}::0003.jpg", "label": "7"},
        {"id": "0003#2", "text": "rader", "lang": "sv", "image": f"{name}::0003.jpg", "label": "7"},
    ]
    assert skipped == {}
    with tarfile.open(path) as archive:
        assert archive.extractfile(found[0]["image"].partition("::")[2]).read() == jpeg()


def test_a_text_of_two_lines_that_the_json_tells_as_one_stays_one(tmp_path):
    facts = json.dumps({"caption": "one\nand the same", "key": "1", "status": "success"}).encode()
    path = write_tar(tmp_path / "s.tar", [("1.jpg", b"x"), ("1.txt", b"one\nand the same"), ("1.json", facts)])
    assert [row["text"] for row in rows_of(path, lang="en")[0]] == ["one\nand the same"]


def test_a_caption_that_is_null_in_the_json_leaves_the_word_to_its_text(tmp_path):
    facts = json.dumps({"caption": None, "text": "a dog"}).encode()
    path = write_tar(tmp_path / "s.tar", [("1.jpg", b"x"), ("1.json", facts)])
    assert [row["text"] for row in rows_of(path, lang="en")[0]] == ["a dog"]


def test_a_folder_of_tars_is_read_in_order_of_names(tmp_path):
    write_tar(tmp_path / "00001.tar", [("b.jpg", b"x"), ("b.txt", b"second")])
    write_tar(tmp_path / "00000.tar", [("a.jpg", b"x"), ("a.txt", b"first")])
    (tmp_path / ".00002.tar.part").write_bytes(b"half")
    assert kind_of(tmp_path) == "webdataset"
    assert ids_of(tmp_path, lang="en") == ["a", "b"]


def test_what_is_no_sample_is_counted_and_nothing_leaves_the_tar(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    members = [
        ("../secret.jpg", b"x"),
        ("/etc/passwd.txt", b"x"),
        ("link.jpg", b"x"),
        ("link.txt", tarfile.SYMTYPE, str(secret)),
        ("hard.jpg", b"x"),
        ("hard.txt", tarfile.LNKTYPE, "0009.txt"),
        ("pipe.txt", tarfile.FIFOTYPE, ""),
        ("lone.txt", b"lone"),
        ("bad.jpg", b"x"),
        ("bad.json", b"[1"),
        ("latin.jpg", b"x"),
        ("latin.txt", b"caf\xe9"),
        ("empty.jpg", b"x"),
        ("empty.txt", b" \n"),
        ("long.jpg", b"x"),
        ("long.txt", b"x" * ((1 << 20) + 1)),
        ("good.jpg", b"x"),
        ("good.txt", b"good"),
    ]
    before = sorted(tmp_path.rglob("*"))
    rows, skipped = rows_of(write_tar(tmp_path / "s.tar", members), lang="en")
    assert [row["id"] for row in rows] == ["good"]
    assert skipped == {
        "member whose name leads out of the tar": 2,
        "picture without text": 2,
        "text without picture": 1,
        "its .json is no JSON object": 1,
        "not UTF-8": 1,
        "empty text": 1,
        "text of more than a megabyte": 1,
    }
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "s.tar"])


def offsets(path):
    with tarfile.open(path) as archive:
        return {member.name: (member.offset, member.offset_data) for member in archive}


@pytest.mark.parametrize("name", ["s.tar", "s.tar.gz"])
@pytest.mark.parametrize("where", ["before a header", "within a header", "within a picture", "garbage for a header"])
def test_of_a_tar_that_breaks_off_the_samples_before_are_used(tmp_path, caplog, name, where):
    whole = write_tar(tmp_path / "whole.tar", SAMPLES)
    header, data = offsets(whole)["0003.jpg"]
    content = whole.read_bytes()
    cut = {"before a header": header, "within a header": header + 100, "within a picture": data + 10}.get(where)
    content = content[:cut] if cut else content[:header] + b"\xff" * 512 + content[header + 512 :]
    path = tmp_path / name
    if name.endswith(".gz"):
        import gzip

        content = gzip.compress(content)
    path.write_bytes(content)
    rows, skipped = rows_of(path, lang="en")
    # The sample that was being read may lack members, so it is not used.
    assert [row["id"] for row in rows][:1] == ["0001"]
    assert {row["id"] for row in rows} <= {"0001", "dir/0002#1", "dir/0002#2"}
    assert skipped == {"tar breaks off here": 1}
    assert f"{name} breaks off after" in caplog.text
    with pytest.raises(BabelclipError, match="tar breaks off here"):
        list(open_captions(path, lang="en", strict=True))


def test_a_gzip_that_breaks_off_is_counted_too(tmp_path):
    members = [
        (f"{n:04d}.{s}", bytes((n * k * 7919) % 251 for k in range(3000)) if s == "jpg" else b"text")
        for n in range(40)
        for s in ("jpg", "txt")
    ]
    path = write_tar(tmp_path / "s.tar.gz", members, "w:gz")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    rows, skipped = rows_of(path, lang="en")
    assert 0 < len(rows) < 40
    assert skipped == {"tar breaks off here": 1}


@pytest.mark.parametrize("content", [b"", b"hello" * 1000, b"\x1f\x8b garbage"])
def test_what_is_no_tar_is_said_to_be_none(tmp_path, content):
    path = tmp_path / "s.tar"
    path.write_bytes(content)
    with pytest.raises(BabelclipError, match="is not a tar"):
        list(open_captions(path, lang="en"))
