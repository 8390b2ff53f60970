"""A folder of clip-retrieval that somebody else made is served: nothing in it is believed (S4, S10, S11)."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from starlette.testclient import TestClient

from babelclip.errors import BabelclipError
from babelclip.search.collection import open_collection
from babelclip.search.columns import vector_array
from babelclip.search.exchange import import_vectors
from babelclip.search.server.app import create_app
from babelclip.search.server.served import Served
from tests.search.collections import write_clip_retrieval
from tests.search.server.conftest import HERE, search
from tests.search.serving import make_service

DIM = 16


@pytest.fixture
def folder(tmp_path):
    """Rows whose metadata name files of the host, addresses, and markup."""
    (tmp_path / "secret.png").write_bytes(b"secret")
    paths = ["/etc/passwd", "../secret.png", str(tmp_path / "secret.png"), "file:///etc/passwd", "a.tar::../secret.png"]
    rows = pa.table(
        {
            "id": [str(number) for number in range(len(paths))],
            "vector": pa.array(np.eye(len(paths), DIM, dtype=np.float32).tolist()),
            "image_path": paths,
            "caption": ["<img src=x onerror=alert(1)>"] * len(paths),
            "url": ["http://169.254.169.254/latest/meta-data/"] * len(paths),
        }
    )
    return write_clip_retrieval(tmp_path / "theirs", rows, parts=1, names=False)


def test_no_file_of_the_host_is_given_whatever_the_metadata_name(folder, collection, clip):
    service = make_service(collection, clip)
    service.collections["shapes"] = Served("shapes", open_collection(folder, space="test/tiny"), 0.0)
    with TestClient(create_app(service), base_url=HERE, raise_server_exceptions=False) as client:
        hits = search(client, k=5)["hits"]
        assert len(hits) == 5
        for hit in hits:
            assert hit["picture"] is None
            assert hit["thumbnail"] is None  # nobody is sent to what is not there
            for part in ("thumbnail", "picture"):
                assert client.get(f"/v1/collections/shapes/items/{hit['id']}/{part}").status_code == 404
        asked = {"text": "a", "modality": "image", "num_images": 5, "indice_name": None}
        rows = client.post("/knn-service", content=json.dumps(asked)).json()
        assert len(rows) == 5
        assert not any({"image", "image_path"} & set(row) for row in rows)
        assert "secret" not in client.get("/v1/collections").text


def test_what_was_imported_as_vectors_has_thumbnails_of_its_pictures(serve, clip, collection, tmp_path):
    pictures = sorted((collection.parent / "shapes").glob("*-44.png"))
    rows = pa.table(
        {
            "id": [str(number) for number in range(len(pictures))],
            "vector": vector_array(clip.encode_image(pictures)),
            "image_path": [str(path) for path in [*pictures[:-1], "/etc/hostname"]],
            "caption": [path.stem for path in pictures],
        }
    )
    theirs = write_clip_retrieval(tmp_path / "theirs", rows, parts=1, names=False)
    ours = import_vectors(theirs, tmp_path / "ours.lance", space=clip.space, root=pictures[0].parent)
    place = Path(ours.url)
    hits = search(client := serve(place), k=50, columns=[])["hits"]
    assert len(hits) == len(pictures)
    given = {hit["id"]: client.get(hit["thumbnail"]) for hit in hits}
    assert given.pop(str(len(pictures) - 1)).status_code == 404  # not below the folder
    for answer in given.values():
        assert Image.open(io.BytesIO(answer.content)).size == (44, 44)
        assert answer.headers["content-type"] == "image/jpeg"
    small = serve(place, full_pictures=False)  # and never where the operator keeps the pictures back
    assert {hit["thumbnail"] for hit in search(small, k=50)["hits"]} == {None}
    assert small.get("/v1/collections/shapes/items/0/thumbnail").status_code == 404
    ours.upsert(pa.table({"id": ["with"], "vector": rows["vector"][:1], "thumbnail": [b"\xff\xd8"]}))
    assert None not in {hit["thumbnail"] for hit in search(small, k=50)["hits"]}  # since one of them has one


class _Run:
    def __reduce__(self):
        return os.mkdir, (os.environ["BABELCLIP_TEST_CANARY"],)


def test_vectors_that_are_pickled_objects_are_refused_and_not_run(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("BABELCLIP_TEST_CANARY", str(tmp_path / "ran"))
    np.save(folder / "img_emb" / "img_emb_0.npy", np.array([_Run()] * 5, dtype=object), allow_pickle=True)
    with pytest.raises(BabelclipError):
        open_collection(folder, space="test/tiny")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"<html>", os.urandom(3000)])
def test_files_that_are_something_else_are_refused_in_words(folder, content):
    for file in ("img_emb/img_emb_0.npy", "metadata/metadata_0.parquet", "image.index"):
        whole = (folder / file).read_bytes() if (folder / file).exists() else None
        (folder / file).write_bytes(content)
        with pytest.raises(BabelclipError):
            open_collection(folder, space="test/tiny")
        if whole is None:
            (folder / file).unlink()
        else:
            (folder / file).write_bytes(whole)
    assert open_collection(folder, space="test/tiny").count() == 5
