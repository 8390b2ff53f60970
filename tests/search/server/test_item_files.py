"""Files of the server: by id, below the folders of the collection, whatever a row says (S4, S11)."""

from __future__ import annotations

import io
import os
import tarfile

import pytest
from PIL import Image

from babelclip.search.server.item_files import read_picture_file
from babelclip.search.server.jpeg import plain_jpeg
from babelclip.search.server.problems import Problem
from tests.search.server.conftest import problem, search


@pytest.fixture
def house(tmp_path):
    """A root with a picture, a tar, and links that lead out; a secret beside it."""
    root, secret = tmp_path / "root", tmp_path / "root-secret"
    (root / "inside").mkdir(parents=True)
    secret.mkdir()
    (secret / "key.png").write_bytes(b"secret")
    (root / "inside" / "a.png").write_bytes(b"picture")
    (root / "link.png").symlink_to(secret / "key.png")
    (root / "folder").symlink_to(secret)
    (root / "kept.png").symlink_to(root / "inside" / "a.png")
    os.mkfifo(root / "pipe.png")
    with tarfile.open(root / "b.tar", "w") as tar:
        for name, kind, target in (
            ("a.png", tarfile.REGTYPE, ""),
            ("../up.png", tarfile.REGTYPE, ""),
            ("link.png", tarfile.SYMTYPE, "../root-secret/key.png"),
            ("hard.png", tarfile.LNKTYPE, "/etc/passwd"),
            ("pipe.png", tarfile.FIFOTYPE, ""),
            ("disk.png", tarfile.BLKTYPE, ""),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size = kind, target, 6 if kind == tarfile.REGTYPE else 0
            tar.addfile(entry, io.BytesIO(b"member"))
    (root / "out.tar").symlink_to(secret / "c.tar")
    with tarfile.open(secret / "c.tar", "w") as tar:
        entry = tarfile.TarInfo("a.png")
        entry.size = 6
        tar.addfile(entry, io.BytesIO(b"secret"))
    return root


def test_pictures_below_the_root_are_read(house):
    roots = {"own": str(house)}
    assert read_picture_file(roots, "own", "inside/a.png", 100) == b"picture"
    assert read_picture_file(roots, "own", "b.tar::a.png", 100) == b"member"
    assert read_picture_file(roots, "own", "kept.png", 100) == b"picture"  # a link that stays inside
    # Members are names in a tar and not paths, so dots in them lead nowhere.
    assert read_picture_file(roots, "own", "b.tar::../up.png", 100) == b"member"


@pytest.mark.parametrize(
    "path",
    [
        "../root-secret/key.png", "inside/../../root-secret/key.png", "/etc/passwd", "//etc/passwd", "link.png",
        "folder/key.png", "", ".", "inside", "inside/", "pipe.png", "inside/a.png\0.jpg", "~/.bashrc", "absent.png",
        "file:///etc/passwd", "/dev/zero", "/proc/self/environ", "..", "../root-secret", "..\\root-secret\\key.png",
        "b.tar::absent", "b.tar::link.png", "b.tar::hard.png", "b.tar::pipe.png", "b.tar::disk.png", "out.tar::a.png",
        "../root-secret/c.tar::a.png", "inside/a.png::a.png", "%2e%2e/root-secret/key.png", "x" * 5000, "::a.png",
    ],
)  # fmt: skip
def test_nothing_else_is_read(house, path):
    with pytest.raises(Problem) as refused:
        read_picture_file({"own": str(house)}, "own", path, 100)
    assert refused.value.status == 404
    assert str(house) not in refused.value.detail


@pytest.mark.parametrize("source", [None, "", "other", "../own", "/"])
def test_a_source_without_a_root_has_no_files(house, source):
    with pytest.raises(Problem):
        read_picture_file({"own": str(house)}, source, "inside/a.png", 100)


def test_a_file_above_the_bound_is_not_read(house):
    for path in ("inside/a.png", "b.tar::a.png"):
        with pytest.raises(Problem):
            read_picture_file({"own": str(house)}, "own", path, 5)


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/x",
        "/etc/passwd",
        "a%00b",
        "'; drop",
        "%ff%fe",
        "x" * 3000,
    ],
)
def test_a_request_names_no_file(client, name):
    for part in ("", "/thumbnail", "/picture", "/similar", "/group"):
        assert client.get(f"/v1/collections/shapes/items/{name}{part}").status_code in (400, 404, 422)
    assert client.get(f"/static/{name}").status_code == 404


def test_no_path_is_in_an_answer_or_a_question_unless_the_operator_says_so(serve, client, item, collection):
    everything = client.get(f"/v1/collections/shapes/items/{item['id']}").text + client.get("/v1/collections").text
    assert ".png" not in everything
    assert str(collection.parent) not in everything
    asked = "/v1/collections/shapes/search"
    # A filter on it would tell it letter by letter.
    for guess in (
        {"columns": ["path"]},
        {"group_by": "path"},
        {"where": {"op": "range", "column": "path", "gte": "a"}},
        {"where": {"op": "not", "part": {"op": "is_null", "column": "path"}}},
    ):
        problem(client.post(asked, json=guess), 400, "bad_request")
    told = search(serve(show_paths=True), k=1, columns=["path"])["hits"][0]
    assert told["columns"]["path"].endswith(".png")


def test_pictures_are_given_without_metadata_and_only_where_they_may(serve, client, item, clip, tmp_path):
    answer = client.get(item["picture"])
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["content-disposition"].startswith("inline")
    assert "sandbox" in answer.headers["content-security-policy"]
    assert "exif" not in Image.open(io.BytesIO(answer.content)).info
    small = serve(full_pictures=False)
    assert search(small, k=1)["hits"][0]["picture"] is None
    assert small.get(item["picture"]).status_code == 404


def jpeg(**how) -> bytes:
    file = io.BytesIO()
    Image.radial_gradient("L").resize((64, 48)).convert("RGB").save(file, "JPEG", **how)
    return file.getvalue()


def test_a_thumbnail_of_a_row_is_a_plain_jpeg_or_nothing():
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    for how in ({}, {"progressive": True}, {"exif": exif, "comment": b"where I live"}, {"restart_marker_rows": 1}):
        made = jpeg(**how)
        clean = plain_jpeg(made + b"<script>alert(1)</script>")
        assert clean is not None
        assert b"where I live" not in clean
        assert b"script" not in clean
        assert Image.open(io.BytesIO(clean)).convert("RGB").tobytes() == Image.open(io.BytesIO(made)).tobytes()


@pytest.mark.parametrize(
    "content",
    [
        None, b"", b"\xff\xd8\xff", b"<svg onload=alert(1)>", b"GIF89a", b"\xff\xd8\xff\xd9", b"\xff\xd8<html>",
        jpeg()[:200], jpeg()[:-2], b"\xff\xd8\xff\xe0\x00\x00" * 9, jpeg() * 5000,
        jpeg().replace(b"\x00\x30\x00\x40", b"\xff\xff\xff\xff", 1), jpeg().replace(b"\x00\x30\x00\x40", bytes(4), 1),
    ],
)  # fmt: skip
def test_what_is_no_small_jpeg_is_not_given_out(content):
    assert plain_jpeg(content) is None
