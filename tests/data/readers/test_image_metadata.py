"""img2dataset's output and clip-retrieval's metadata."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from babelclip.data.sources import count_captions, kind_of, open_captions
from babelclip.errors import BabelclipError
from tests.data.layouts import clip_retrieval, ids_of, img2dataset, rows_of, write_tar


@pytest.mark.parametrize("into", ["webdataset", "files"])
def test_of_img2dataset_the_fetched_rows_are_read_with_their_pictures(tmp_path, into):
    folder = img2dataset(tmp_path / "out", into=into)
    assert kind_of(folder) == "img2dataset"
    rows, skipped = rows_of(folder, lang="en", rows=1)
    image = "00000.tar::000000001.jpg" if into == "webdataset" else "00000/000000001.jpg"
    assert rows[1] == {"id": "000000001", "text": "caption 000000001", "lang": "en", "image": image}
    assert [row["id"] for row in rows] == ["000000000", "000000001", "000010000"]
    assert skipped == {"picture was not fetched": 2}
    assert count_captions(folder) == 5
    if into == "files":
        assert all((folder / row["image"]).is_file() for row in rows)


def test_a_tar_of_img2dataset_gives_the_same_captions_by_itself(tmp_path):
    folder = img2dataset(tmp_path / "out", into="webdataset")
    assert rows_of(folder / "00000.tar", lang="en")[0] == rows_of(folder, lang="en")[0][:2]


def test_shards_that_lack_a_half_are_told(tmp_path, caplog):
    folder = img2dataset(tmp_path / "out", into="webdataset")
    write_tar(folder / "00007.tar", [("x.jpg", b"x")])
    (folder / "00001.tar").unlink()
    rows, _ = rows_of(folder, lang="en")
    assert ["image" in row for row in rows] == [True, True, False]
    assert "00007.tar" in caplog.text
    assert "neither 00001.tar nor 00001/" in caplog.text
    (folder / "00000.tar").write_bytes(b"no tar at all")
    with pytest.raises(BabelclipError, match=r"00000\.tar is not a whole tar"):
        list(open_captions(folder, lang="en"))


def test_captions_without_a_language_ask_for_one(tmp_path):
    with pytest.raises(BabelclipError, match="pass the language of the texts as lang="):
        list(open_captions(img2dataset(tmp_path / "out", into="files")))


def test_clip_retrieval_rows_are_numbered_as_their_vectors(tmp_path):
    folder = clip_retrieval(tmp_path / "laion", parts=(("a", "", "b"), ("c",)))
    expected = [
        {"id": "0", "text": "caption a", "lang": "en", "image": "/data/a.jpg"},
        {"id": "2", "text": "caption b", "lang": "en", "image": "/data/b.jpg"},
        {"id": "3", "text": "caption c", "lang": "en", "image": "/data/c.jpg"},
    ]
    assert rows_of(folder, lang="en") == (expected, {"empty text": 1})
    assert rows_of(folder / "metadata", lang="en")[0] == expected
    assert count_captions(folder) == 4


def test_metadata_exported_from_a_store_keep_its_ids(tmp_path):
    (tmp_path / "metadata").mkdir()
    table = pa.table({"store_id": ["c7", "c9"], "image_path": ["a.jpg", "b.jpg"], "caption": ["one", "two"]})
    pq.write_table(table, tmp_path / "metadata" / "metadata_0.parquet")
    assert ids_of(tmp_path, lang="en") == ["c7", "c9"]


def test_metadata_in_arrow_files_is_read_as_well(tmp_path):
    table = pa.table({"image_path": ["a.jpg", "b.jpg"], "caption": ["one", "two"], "url": ["u", "v"]})
    (tmp_path / "metadata").mkdir()
    with (
        pa.OSFile(str(tmp_path / "metadata" / "metadata_0.arrow"), "wb") as file,
        pa.ipc.new_file(file, table.schema) as out,
    ):
        out.write_table(table, max_chunksize=1)
    assert ids_of(tmp_path, lang="en", rows=1) == ["0", "1"]


def test_vectors_without_their_metadata_are_an_error(tmp_path):
    folder = clip_retrieval(tmp_path / "laion", vectors=(0, 1, 2))
    with pytest.raises(BabelclipError, match=r"has part 2 and .*metadata has not"):
        open_captions(folder, lang="en")
