from __future__ import annotations

import datetime
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from babelclip.errors import BabelclipError, SpaceMismatchError
from babelclip.models.preprocess import PictureError
from babelclip.search.collection import open_collection
from babelclip.search.columns import vectors_of
from babelclip.search.index import index_pictures
from babelclip.search.index_state import Waiting, lock_collection
from tests.conftest import draw_shape, make_clip

pytest.importorskip("lancedb")


@pytest.fixture(scope="module")
def clip():
    return make_clip()


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number, colour in enumerate(("red", "green", "blue", "yellow")):
        draw_shape(colour, "circle", size=40 + number).save(folder / f"{colour}.png")
        draw_shape(colour, "square", size=50 + number).save(folder / "more" / f"{colour}.png")
    return folder


def rows(url: Path, *columns: str) -> dict[str, dict[str, Any]]:
    """Rows by path."""
    collection = open_collection(url)
    names = ["path", *columns]
    return {row["path"]: row for batch in collection.scan(columns=names) for row in batch.to_pylist()}


def counts(report: Any) -> tuple[int, ...]:
    return report.there, report.added, report.updated, report.told, report.unchanged, report.gone, report.pruned


def jpeg(colour: str, size: int = 48) -> bytes:
    file = io.BytesIO()
    draw_shape(colour, "circle", size=size).save(file, "JPEG")
    return file.getvalue()


def later(path: Path, content: bytes | None = None) -> None:
    """Changes a file, or only its time, as a second later."""
    before = path.stat().st_mtime_ns
    if content is not None:
        path.write_bytes(content)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def test_every_picture_becomes_a_row_with_its_facts(clip, photos, tmp_path):
    (photos / "red.txt").write_text("a red circle\nen röd cirkel\n", encoding="utf-8")
    report = index_pictures(clip, [photos], tmp_path / "p.lance", lang="en")
    assert counts(report) == (0, 8, 0, 0, 0, 0, 0)
    found = rows(tmp_path / "p.lance", "source", "caption", "lang", "width", "height", "bytes", "sha256", "thumbnail")
    assert sorted(found) == sorted(f"{d}{c}.png" for d in ("", "more/") for c in ("red", "green", "blue", "yellow"))
    red = found["red.png"]
    assert (red["caption"], red["lang"], red["width"], red["source"]) == (
        "a red circle\nen röd cirkel",
        "en",
        40,
        "photos",
    )
    assert red["bytes"] == (photos / "red.png").stat().st_size
    assert found["blue.png"]["caption"] is None
    with Image.open(io.BytesIO(red["thumbnail"])) as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("JPEG", (40, 40))
    assert open_collection(tmp_path / "p.lance").roots == {"photos": str(photos)}


def test_vectors_are_those_of_the_model(clip, photos, tmp_path):
    index_pictures(clip, [photos], tmp_path / "p.lance")
    collection = open_collection(tmp_path / "p.lance")
    batch = next(collection.scan(columns=["path"], with_vectors=True))
    expected = clip.encode_image([photos / path for path in batch["path"].to_pylist()])
    np.testing.assert_allclose(vectors_of(batch["vector"]), expected, atol=1e-5)


def test_a_second_run_adds_updates_and_on_request_removes(clip, photos, tmp_path):
    url = tmp_path / "p.lance"
    index_pictures(clip, [photos], url)
    before = rows(url, "id", "sha256")
    assert counts(index_pictures(clip, [photos], url)) == (8, 0, 0, 0, 8, 0, 0)
    draw_shape("red", "triangle").save(photos / "new.png")
    later(photos / "green.png", jpeg("yellow", 64))
    (photos / "blue.png").unlink()
    assert counts(index_pictures(clip, [photos], url)) == (8, 1, 1, 0, 6, 1, 0)
    assert len(rows(url)) == 9
    assert counts(index_pictures(clip, [photos], url, prune=True)) == (9, 0, 0, 0, 8, 1, 1)
    after = rows(url, "id", "sha256")
    assert "blue.png" not in after
    assert after["green.png"]["id"] == before["green.png"]["id"]
    assert after["green.png"]["sha256"] != before["green.png"]["sha256"]


def test_a_file_with_a_new_time_and_the_same_content_is_not_encoded_again(clip, photos, tmp_path, monkeypatch):
    url = tmp_path / "p.lance"
    index_pictures(clip, [photos], url)
    later(photos / "red.png")
    monkeypatch.setattr(type(clip.image), "forward", lambda *_given: pytest.fail("encoded"))
    assert counts(index_pictures(clip, [photos], url)) == (8, 0, 0, 1, 7, 0, 0)
    assert counts(index_pictures(clip, [photos], url)) == (8, 0, 0, 0, 8, 0, 0)


def test_a_new_caption_changes_the_row_and_a_run_without_captions_takes_none_away(clip, photos, tmp_path, monkeypatch):
    url, table = tmp_path / "p.lance", tmp_path / "captions.csv"
    table.write_text(
        "image,text,lang,year\nred.png,röd,sv,2001\nred.png,rund,sv,\nabsent.png,x,sv,1\n", encoding="utf-8"
    )
    report = index_pictures(clip, [photos], url, captions=table, columns=["year:int"])
    assert report.unused == 1
    assert rows(url, "caption", "lang", "year")["red.png"] | {"id": ""} == {
        "id": "", "path": "red.png", "caption": "röd\nrund", "lang": "sv", "year": 2001,
    }  # fmt: skip
    monkeypatch.setattr(type(clip.image), "forward", lambda *_given: pytest.fail("encoded"))
    assert counts(index_pictures(clip, [photos], url))[3:5] == (0, 8)
    (photos / "blue.txt").write_text("blå")
    assert counts(index_pictures(clip, [photos], url))[3:5] == (1, 7)
    found = rows(url, "caption", "year")
    assert (found["blue.png"]["caption"], found["red.png"]["year"]) == ("blå", 2001)


def test_metadata_of_an_updated_picture_stay(clip, photos, tmp_path):
    url, table = tmp_path / "p.lance", tmp_path / "captions.csv"
    table.write_text("image,text,year\nred.png,one,2001\n")
    index_pictures(clip, [photos], url, captions=table, columns=["year:int"])
    later(photos / "red.png", jpeg("green"))
    assert index_pictures(clip, [photos], url).updated == 1
    assert rows(url, "caption", "year")["red.png"]["year"] == 2001


def test_members_of_tars_are_pictures_with_captions_and_metadata(clip, tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    with tarfile.open(shards / "00000.tar", "w") as tar:
        for key, colour in enumerate(("red", "green", "blue")):
            members = {"jpg": jpeg(colour), "txt": f"a {colour} thing".encode()}
            members["json"] = json.dumps({"url": f"http://e/{key}", "year": 2000 + key, "lang": "en"}).encode()
            for ending, content in members.items():
                facts = tarfile.TarInfo(f"{key:04d}.{ending}")
                facts.size = len(content)
                tar.addfile(facts, io.BytesIO(content))
    url = tmp_path / "t.lance"
    report = index_pictures(clip, [shards], url, columns=["url,year:int"])
    assert (report.added, dict(report.problems)) == (3, {})
    found = rows(url, "caption", "lang", "url", "year")
    assert found["00000.tar::0001.jpg"] | {"id": ""} == {
        "id": "", "path": "00000.tar::0001.jpg", "caption": "a green thing", "lang": "en", "url": "http://e/1",
        "year": 2001,
    }  # fmt: skip
    later(shards / "00000.tar")
    assert counts(index_pictures(clip, [shards], url)) == (3, 0, 0, 3, 0, 0, 0)


@pytest.mark.parametrize("record", [False, True])
def test_pictures_in_parquet_are_known_by_their_key(clip, tmp_path, record):
    contents = [jpeg(colour) for colour in ("red", "green", "blue")]
    pictures = [{"bytes": content, "path": None} for content in contents] if record else contents
    columns = {"image": pictures, "id": ["a", "b", "c"], "caption": ["one", "two", None], "rating": [0.5, None, 1.5]}
    pq.write_table(pa.table(columns), tmp_path / "art.parquet")
    url = tmp_path / "a.lance"
    assert index_pictures(clip, [tmp_path / "art.parquet"], url, columns=["rating"]).added == 3
    found = rows(url, "caption", "rating", "source_row", "width")
    assert sorted(found) == ["art.parquet::a", "art.parquet::b", "art.parquet::c"]
    assert (found["art.parquet::a"]["rating"], found["art.parquet::c"]["source_row"]) == (0.5, 2)
    # In another order, and with one row less: the same rows.
    order = [2, 0]
    pq.write_table(
        pa.table({name: [values[i] for i in order] for name, values in columns.items()}), tmp_path / "art.parquet"
    )
    os.utime(tmp_path / "art.parquet", ns=(2 * 10**18, 2 * 10**18))
    report = index_pictures(clip, [tmp_path / "art.parquet"], url, prune=True)
    assert counts(report) == (3, 0, 0, 2, 0, 1, 1)


def test_a_table_names_files_and_none_outside_its_folder(clip, photos, tmp_path):
    table = photos / "list.jsonl"
    draw_shape("red", "star").save(tmp_path / "secret.png")
    names = ["red.png", "more/blue.png", "../secret.png", str(tmp_path / "secret.png"), "absent.png"]
    table.write_text("".join(json.dumps({"image": name, "text": f"about {name}"}) + "\n" for name in names))
    report = index_pictures(clip, [table], tmp_path / "t.lance")
    assert report.added == 2
    assert sum(count for count, _first in report.problems.values()) == 3
    assert sorted(rows(tmp_path / "t.lance")) == ["more/blue.png", "red.png"]


def test_pictures_are_turned_as_their_exif_says_and_thumbnails_carry_no_metadata(clip, tmp_path):
    folder = tmp_path / "turned"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "where I live"
    Image.new("RGB", (640, 400), (200, 30, 30)).save(folder / "a.jpg", exif=exif, comment=b"secret")
    index_pictures(clip, [folder], tmp_path / "t.lance")
    row = rows(tmp_path / "t.lance", "width", "height", "thumbnail", "colour")["a.jpg"]
    assert (row["width"], row["height"]) == (400, 640)
    with Image.open(io.BytesIO(row["thumbnail"])) as thumbnail:
        assert thumbnail.size == (200, 320)
        assert not thumbnail.getexif()
        assert "comment" not in thumbnail.info
    assert row["colour"] >> 16 > 190
    assert row["colour"] & 255 < 40


def test_what_cannot_be_read_is_named_and_counted_and_strict_stops(clip, photos, tmp_path):
    (photos / "broken.jpg").write_bytes(b"no picture")
    skipped: list[str] = []
    report = index_pictures(clip, [photos], tmp_path / "p.lance", on_skip=lambda item: skipped.append(item.reason))
    assert (report.skipped, report.added) == (1, 8)
    assert "broken.jpg" in skipped[0]
    with pytest.raises(PictureError, match=r"broken\.jpg"):
        index_pictures(clip, [photos], tmp_path / "q.lance", strict=True)


def test_a_cut_tar_is_counted_and_nothing_of_its_source_is_taken_for_gone(clip, tmp_path):
    shards, url = tmp_path / "s", tmp_path / "s.lance"
    shards.mkdir()
    with tarfile.open(shards / "0.tar", "w") as tar:
        for key in range(4):
            facts = tarfile.TarInfo(f"{key}.jpg")
            content = jpeg("red", 40 + key)
            facts.size = len(content)
            tar.addfile(facts, io.BytesIO(content))
    index_pictures(clip, [shards], url)
    whole = (shards / "0.tar").read_bytes()
    (shards / "0.tar").write_bytes(whole[: len(whole) // 3])
    report = index_pictures(clip, [shards], url, prune=True)
    assert report.problems
    assert report.pruned == 0
    assert len(rows(url)) == 4


def test_near_duplicates_are_grouped_and_taken_apart_when_they_change(clip, photos, tmp_path):
    url = tmp_path / "p.lance"
    (photos / "copy.png").write_bytes((photos / "red.png").read_bytes())
    from babelclip.search import near_duplicates

    index_pictures(clip, [photos], url, groups=False)
    assert all(row["group"] is None for row in rows(url, "group").values())
    collection = open_collection(url, write=True)
    assert near_duplicates.group(collection, url, least=0.9999999) == (1, 2)
    found = rows(url, "group")
    assert (
        found["copy.png"]["group"] == found["red.png"]["group"] == min(found[n]["id"] for n in ("copy.png", "red.png"))
    )
    assert Waiting(url).ids() == []
    later(photos / "copy.png", jpeg("blue"))
    index_pictures(clip, [photos], url, groups=False)
    collection = open_collection(url, write=True)
    assert near_duplicates.group(collection, url, least=0.9999999) == (0, 0)
    assert all(row["group"] is None for row in rows(url, "group").values())


def test_one_run_at_a_time_writes_a_collection(clip, photos, tmp_path):
    release = lock_collection(tmp_path / "p.lance")
    with pytest.raises(BabelclipError, match=f"being indexed by process {os.getpid()}"):
        index_pictures(clip, [photos], tmp_path / "p.lance")
    release()
    assert index_pictures(clip, [photos], tmp_path / "p.lance").added == 8


def test_a_moved_folder_keeps_its_ids_and_another_of_the_same_name_gets_its_own(clip, photos, tmp_path):
    url = tmp_path / "p.lance"
    index_pictures(clip, [photos], url)
    moved = tmp_path / "elsewhere" / "photos"
    moved.parent.mkdir()
    photos.rename(moved)
    assert index_pictures(clip, [moved], url).unchanged == 8
    other = tmp_path / "other" / "photos"
    other.mkdir(parents=True)
    draw_shape("red", "star").save(other / "red.png")
    assert index_pictures(clip, [other], url, prune=True).added == 1
    assert open_collection(url).roots == {"photos": str(moved), "photos-2": str(other)}
    assert open_collection(url).count() == 9


def test_another_model_is_refused_and_nothing_is_made_of_a_wrong_source(clip, photos, tmp_path):
    index_pictures(clip, [photos], tmp_path / "p.lance")
    stranger = make_clip(seed=5)
    stranger.space = "test/other"
    with pytest.raises(SpaceMismatchError, match="test/other"):
        index_pictures(stranger, [photos], tmp_path / "p.lance")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.docx").write_bytes(b"")
    cases = {"photo": "Did you mean", "empty": "no pictures", "text.docx": "no source of pictures"}
    for name, words in cases.items():
        with pytest.raises(BabelclipError, match=words):
            index_pictures(clip, [tmp_path / name], tmp_path / "new.lance")
    with pytest.raises(BabelclipError, match="twice"):
        index_pictures(clip, [photos, photos], tmp_path / "new.lance")
    assert not (tmp_path / "new.lance").exists()


@pytest.mark.parametrize(
    ("columns", "words"), [(["year:integer"], "Did you mean 'int'"), (["caption"], "there already")]
)
def test_columns_that_cannot_be_are_refused(clip, photos, tmp_path, columns, words):
    with pytest.raises(BabelclipError, match=words):
        index_pictures(clip, [photos], tmp_path / "p.lance", columns=columns)


def test_columns_can_be_added_later_and_hold_times(clip, photos, tmp_path):
    url = tmp_path / "p.lance"
    index_pictures(clip, [photos], url)
    for name in ("red", "blue"):
        (photos / f"{name}.json").write_text(json.dumps({"taken": "2020-05-01T10:00:00Z", "caption": name}))
    report = index_pictures(clip, [photos], url, columns=["taken:time"])
    assert report.told == 2
    row = rows(url, "taken", "caption")["red.png"]
    assert row["taken"] == datetime.datetime(2020, 5, 1, 10, tzinfo=datetime.timezone.utc)
    assert row["caption"] == "red"


def test_a_collection_whose_making_was_stopped_is_made_anew_and_another_folder_is_left_alone(clip, photos, tmp_path):
    (tmp_path / "half.lance" / "pictures.lance").mkdir(parents=True)
    assert index_pictures(clip, [photos], tmp_path / "half.lance", groups=False).added == 8
    (tmp_path / "mine.lance").mkdir()
    (tmp_path / "mine.lance" / "diary.txt").write_text("dear diary")
    with pytest.raises(BabelclipError, match="not a collection"):
        index_pictures(clip, [photos], tmp_path / "mine.lance")
    assert [path.name for path in (tmp_path / "mine.lance").iterdir()] == ["diary.txt"]


def test_odd_files_among_the_pictures_are_counted_by_reason(clip, photos, tmp_path):
    Path(os.fsdecode(os.fsencode(photos) + b"/bad\xff.png")).write_bytes((photos / "red.png").read_bytes())
    (photos / "packed.tar.gz").write_bytes(b"\x1f\x8b")
    (photos / "no.tar").write_bytes(b"no tar at all" * 100)
    (photos / "blue.txt").write_bytes(b"\xff\xfe\x00 not UTF-8")
    (photos / "green.json").write_text("[1, 2]")
    (photos / ".hidden.png").write_bytes((photos / "red.png").read_bytes())
    (photos / "link").symlink_to(tmp_path)
    (photos / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    report = index_pictures(clip, [photos], tmp_path / "p.lance")
    assert report.added == 8
    reasons = " ".join(report.problems)
    for words in ("not UTF-8", "packed tar", "tar cannot be read", "no JSON object", "cannot be opened"):
        assert words in reasons, words
    assert rows(tmp_path / "p.lance", "caption")["blue.png"]["caption"] is None
    (photos / "no.tar").unlink()  # it might hold pictures; nothing else there hides any
    (photos / "red.png").unlink()
    assert index_pictures(clip, [photos], tmp_path / "p.lance", prune=True).pruned == 1
    with pytest.raises(BabelclipError, match="--strict"):
        index_pictures(clip, [photos], tmp_path / "q.lance", strict=True)


def test_a_damaged_table_and_rows_without_pictures_are_counted(clip, tmp_path):
    folder = tmp_path / "tables"
    folder.mkdir()
    pq.write_table(pa.table({"id": ["a", "a", "b"], "image": [jpeg("red"), jpeg("blue"), None]}), folder / "1.parquet")
    report = index_pictures(clip, [folder], tmp_path / "t.lance")
    assert (report.added, len(report.problems)) == (1, 2)
    (folder / "1.parquet").write_bytes((folder / "1.parquet").read_bytes()[:-20])
    with pytest.raises(BabelclipError, match="not a whole Parquet file"):
        index_pictures(clip, [folder], tmp_path / "t.lance", prune=True)
    assert open_collection(tmp_path / "t.lance").count() == 1


def test_processes_decode_as_threads_do(clip, photos, tmp_path):
    index_pictures(clip, [photos], tmp_path / "threads.lance", groups=False)
    index_pictures(clip, [photos], tmp_path / "processes.lance", groups=False, workers=1)
    columns = ("sha256", "colour", "thumbnail", "width", "bytes")
    assert rows(tmp_path / "threads.lance", *columns) == rows(tmp_path / "processes.lance", *columns)


def test_a_picture_is_decoded_once(clip, photos, tmp_path, monkeypatch):
    opened: list[str] = []
    decode = Image.open
    monkeypatch.setattr(Image, "open", lambda *given, **named: (opened.append("x"), decode(*given, **named))[1])
    index_pictures(clip, [photos], tmp_path / "p.lance", groups=False)
    assert len(opened) == 8
