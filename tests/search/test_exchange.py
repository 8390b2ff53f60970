"""Vectors of others into a collection, and a collection for others to read without babelclip."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from babelclip.errors import BabelclipError, SpaceMismatchError
from babelclip.search.collection import ImageSpace, create_collection, open_collection
from babelclip.search.exchange import export_collection, import_vectors
from babelclip.search.exchange.importing import IMPORTS
from babelclip.search.filters import Eq
from babelclip.store import EmbeddingStore
from tests.search.collections import DIM, SPACE, make_collection, make_rows, write_clip_retrieval

ROWS = make_rows()
IDS = ROWS["id"].to_pylist()
VECTORS = np.array(ROWS["vector"].to_pylist(), np.float32)


def folder_of_pictures(tmp_path, name="laion", **more):
    table = ROWS.append_column("image_path", pa.array([f"/data/pictures/{n}.jpg" for n in range(len(ROWS))]))
    return write_clip_retrieval(tmp_path / name, table, names=False, **more)


def test_a_folder_of_clip_retrieval_becomes_a_collection(tmp_path):
    folder = folder_of_pictures(tmp_path, parts=3, dtype="float16")
    url = tmp_path / "x.lance"
    collection = import_vectors(folder, url, space="openai/ViT-B-32", root="/data/pictures")
    assert collection.count() == len(ROWS)
    assert collection.fingerprint.space == "openai/ViT-B-32"
    assert collection.roots == {"laion": "/data/pictures"}
    found = collection.search(VECTORS[:40], 1, columns=["path", "source", "source_row", "caption", "Title", "price"])
    assert found["source_row"].to_pylist() == list(range(40))
    assert found["id"].to_pylist() == [str(n) for n in range(40)]
    assert found["path"].to_pylist() == [f"{n}.jpg" for n in range(40)]
    assert set(found["source"].to_pylist()) == {"laion"}
    for name in ("caption", "Title", "price"):
        assert found[name].to_pylist() == ROWS[name].to_pylist()[:40]
    assert np.abs(found["score"].to_numpy() - 1).max() < 1e-3
    # As it was read in place.
    direct = open_collection(folder, space="openai/ViT-B-32")
    asked = np.random.default_rng(1).standard_normal((4, DIM))
    there, here = direct.search(asked, 8), collection.search(asked, 8)
    assert there["id"] == here["id"]
    assert np.abs(there["score"].to_numpy() - here["score"].to_numpy()).max() < 2e-6
    again = import_vectors(folder, url, space="openai/ViT-B-32", root="/data/pictures")
    assert again.count() == len(ROWS)


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_an_index_without_its_vectors_is_imported_and_goes_on_where_it_stopped(tmp_path, monkeypatch, ending):
    faiss = pytest.importorskip("faiss")
    monkeypatch.setattr("babelclip.search.exchange.importing._ROWS_AT_ONCE", 50)
    folder = folder_of_pictures(tmp_path, parts=2)
    shutil.rmtree(folder / "img_emb")
    index = faiss.IndexFlatIP(DIM)
    index.add(VECTORS)
    faiss.write_index(index, str(folder / "image.index"))
    if ending == "arrow":
        for file in (folder / "metadata").iterdir():
            table = pq.read_table(file)
            with pa.ipc.new_file(str(file.with_suffix(".arrow")), table.schema) as writer:
                writer.write_table(table)
            file.unlink()
    url = tmp_path / "x.lance"
    from babelclip.search.lance import LanceCollection

    upserts, upsert = [], LanceCollection.upsert

    def stopping(self, rows):
        if len(upserts) == 1:
            upserts.append(0)
            raise KeyboardInterrupt
        upserts.append(len(rows))
        upsert(self, rows)

    monkeypatch.setattr(LanceCollection, "upsert", stopping)
    with pytest.raises(KeyboardInterrupt):
        import_vectors(folder, url, space="s")
    collection = import_vectors(folder, url, space="s")
    assert upserts == [50, 0, 50, 20]
    found = collection.get([str(row) for row in range(len(ROWS))], columns=["caption", "path"], with_vectors=True)
    assert found["caption"].to_pylist() == ROWS["caption"].to_pylist()
    assert found["path"][7].as_py() == "/data/pictures/7.jpg"
    assert np.abs(np.array(found["vector"].to_pylist()) - VECTORS).max() < 1e-6


def test_an_import_that_was_stopped_goes_on_behind_its_last_block(tmp_path, monkeypatch):
    folder = folder_of_pictures(tmp_path, parts=4)
    url = tmp_path / "x.lance"
    upserts = []
    from babelclip.search.lance import LanceCollection

    upsert = LanceCollection.upsert

    def stopped(self, rows):
        if len(upserts) == 2:
            raise KeyboardInterrupt
        upserts.append(len(rows))
        upsert(self, rows)

    monkeypatch.setattr(LanceCollection, "upsert", stopped)
    with pytest.raises(KeyboardInterrupt):
        import_vectors(folder, url, space="s")
    assert open_collection(url).fact(IMPORTS)["laion"]["rows"] == 60
    monkeypatch.setattr(LanceCollection, "upsert", lambda self, rows: upserts.append(len(rows)) or upsert(self, rows))
    assert import_vectors(folder, url, space="s").count() == len(ROWS)
    assert upserts == [30] * 4


def test_positions_of_two_folders_do_not_replace_each_other(tmp_path):
    first, second = folder_of_pictures(tmp_path), folder_of_pictures(tmp_path, "more")
    url = tmp_path / "x.lance"
    import_vectors(first, url, space="s")
    with pytest.raises(BabelclipError, match="prefix='more-'"):
        import_vectors(second, url, space="s")
    collection = import_vectors(second, url, space="s", prefix="more-")
    assert collection.count() == 2 * len(ROWS)
    assert collection.get(["3", "more-3"], columns=["source"])["source"].to_pylist() == ["laion", "more"]
    with pytest.raises(SpaceMismatchError, match=r"'s'.*'other'|'other'.*'s'"):
        import_vectors(second, url, space="other", prefix="x-")


def test_a_store_of_pictures_becomes_a_collection_and_one_of_texts_does_not(tmp_path):
    facts = {"space": "s", "model": "m", "dim": DIM, "dtype": "float32", "normalized": False}
    with EmbeddingStore.create(tmp_path / "store", kind="image", **facts) as store:
        store.append(IDS[:50], VECTORS[:50] * 3, {"source": ["a.tar"] * 50, "bytes": list(range(50))})
    collection = import_vectors(tmp_path / "store", tmp_path / "x.lance")
    found = collection.search(VECTORS[:50], 1, columns=["path", "source", "bytes"])
    assert found["id"].to_pylist() == found["path"].to_pylist() == IDS[:50]
    assert found["bytes"].to_pylist() == list(range(50))
    with EmbeddingStore.create(tmp_path / "texts", kind="text", **facts) as store:
        store.append(IDS[:5], VECTORS[:5])
    with pytest.raises(BabelclipError, match="holds vectors of texts"):
        import_vectors(tmp_path / "texts", tmp_path / "y.lance")


@pytest.fixture
def collection(tmp_path):
    collection = make_collection("lance", tmp_path)
    rows = make_rows(0, 20)
    rows = rows.append_column("source", pa.array(["home"] * 20))
    collection.upsert(rows.append_column("path", pa.array([f"{n}.jpg" for n in range(20)])))
    return collection


def test_an_export_in_the_layout_of_clip_retrieval_is_read_by_plain_numpy_pyarrow_and_faiss(tmp_path, collection):
    faiss = pytest.importorskip("faiss")
    out = export_collection(collection, tmp_path / "out", layout="clip-retrieval")
    vectors = np.load(out / "img_emb" / "img_emb_0.npy")
    table = pq.read_table(out / "metadata" / "metadata_0.parquet")
    assert vectors.dtype == np.float16
    assert vectors.shape == (len(ROWS), DIM)
    assert len(table) == len(ROWS)
    by_id = dict(zip(table["store_id"].to_pylist(), vectors, strict=True))
    assert max(np.abs(by_id[name] - vector).max() for name, vector in zip(IDS, VECTORS, strict=True)) < 1e-3
    captions = dict(zip(table["store_id"].to_pylist(), table["caption"].to_pylist(), strict=True))
    assert captions == dict(zip(IDS, ROWS["caption"].to_pylist(), strict=True))
    paths = dict(zip(table["store_id"].to_pylist(), table["image_path"].to_pylist(), strict=True))
    assert paths[IDS[3]] == "/somewhere/3.jpg"
    index = faiss.IndexFlatIP(DIM)
    index.add(vectors.astype(np.float32))
    _, rows = index.search(VECTORS[:30], 1)
    assert [table["store_id"][int(row)].as_py() for row in rows[:, 0]] == IDS[:30]
    assert not list(tmp_path.glob(".*store*"))
    assert open_collection(out).fingerprint.space == SPACE.space  # and by ourselves, without saying the space


def test_exports_as_store_npy_and_data_set(tmp_path, collection):
    export_collection(collection, tmp_path / "store", where=Eq("lang", "sv"))
    store = EmbeddingStore.open(tmp_path / "store")
    assert store.verify() == []
    assert (store.space, store.kind, store.normalized, store.dtype) == (SPACE.space, "image", True, "float32")
    assert set(store.ids) == {n for n, lang in zip(IDS, ROWS["lang"].to_pylist(), strict=True) if lang == "sv"}
    assert np.array_equal(store.gather(np.arange(3)), VECTORS[[IDS.index(name) for name in store.ids[:3]]])
    assert "thumbnail" not in store.row_schema.names
    export_collection(collection, tmp_path / "npy", layout="npy")
    vectors, rows = np.load(tmp_path / "npy" / "vectors.npy"), pq.read_table(tmp_path / "npy" / "ids.parquet")
    places = {name: row for row, name in enumerate(rows["id"].to_pylist())}
    assert np.array_equal(vectors[[places[name] for name in IDS]], VECTORS)
    assert rows["width"].to_pylist()[places[IDS[2]]] == ROWS["width"].to_pylist()[2]
    with pytest.raises(BabelclipError, match="Did you mean 'npy'"):
        export_collection(collection, tmp_path / "x", layout="npi")
    with pytest.raises(BabelclipError, match="no row"):
        export_collection(collection, tmp_path / "x", where=Eq("lang", "nobody"))


def test_what_comes_out_goes_in_again_equal(tmp_path, collection):
    export_collection(collection, tmp_path / "store")
    again = import_vectors(tmp_path / "store", tmp_path / "again.lance", name="home")
    columns = [name for name in collection.columns if name not in ("id", "thumbnail", "source_row", "source")]
    rows = [
        {row["id"]: row for batch in one.scan(columns=columns, with_vectors=True) for row in batch.to_pylist()}
        for one in (collection, again)
    ]
    assert set(again.columns) == set(collection.columns)
    for name, row in rows[0].items():
        other = rows[1][name]
        assert np.allclose(row.pop("vector"), other.pop("vector"), atol=1e-7)
        assert other == {**row, "path": row["path"]}


def test_another_model_of_the_same_space_is_refused(tmp_path):
    url = tmp_path / "x.lance"
    create_collection(url, ImageSpace("s", "one model", dim=DIM))
    facts = {"space": "s", "model": "another", "dim": DIM, "dtype": "float32", "normalized": True, "kind": "image"}
    with EmbeddingStore.create(tmp_path / "store", **facts) as store:
        store.append(IDS[:5], VECTORS[:5])
    with pytest.raises(BabelclipError, match="'one model' against 'another'"):
        import_vectors(tmp_path / "store", url)
