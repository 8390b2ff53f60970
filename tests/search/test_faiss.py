"""Folders of clip-retrieval in every form they come in, and the fast mode."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from babelclip.errors import BabelclipError
from babelclip.search import faiss_fast
from babelclip.search.collection import ImageSpace, UnsupportedError, create_collection, open_collection
from babelclip.search.columns import vector_array
from babelclip.search.exchange import export_collection, import_vectors
from babelclip.search.faiss_fast import open_fast
from babelclip.search.filters import Eq, Range
from babelclip.search.query import QueryVector, find_vector
from tests.search.collections import DIM, SPACE, make_collection, make_rows, write_clip_retrieval

faiss = pytest.importorskip("faiss")
ROWS = make_rows()
IDS = ROWS["id"].to_pylist()
VECTORS = np.array(ROWS["vector"].to_pylist(), np.float32)
QUERIES = np.random.default_rng(5).standard_normal((6, DIM)).astype(np.float32)


def ids_of(found):
    return found["id"].to_pylist()


def exact_ids(k=5):
    scores = QUERIES @ VECTORS.T
    return [IDS[row] for row in np.argsort(-scores, axis=1)[:, :k].reshape(-1)]


def write_index(folder, index, name="image.index"):
    if not index.is_trained:
        index.train(VECTORS)
    index.add(VECTORS)
    faiss.write_index(index, str(folder / name))


def only_metadata(folder):
    write_clip_retrieval(folder, ROWS)
    for file in (folder / "img_emb").iterdir():
        file.unlink()
    (folder / "img_emb").rmdir()
    return folder


INDEXES = {
    "flat": lambda: faiss.IndexFlatIP(DIM),
    "flat l2": lambda: faiss.IndexFlatL2(DIM),
    "hnsw": lambda: faiss.index_factory(DIM, "HNSW15,Flat", faiss.METRIC_INNER_PRODUCT),
    "ivf": lambda: faiss.index_factory(DIM, "IVF2,Flat", faiss.METRIC_INNER_PRODUCT),
    "pca": lambda: faiss.index_factory(DIM, "PCA12,IVF2,SQ4", faiss.METRIC_INNER_PRODUCT),
}


@pytest.mark.parametrize("kind", INDEXES)
@pytest.mark.parametrize("beside", [False, True], ids=["index alone", "vectors beside"])
def test_an_index_is_searched_and_vectors_beside_it_give_the_scores(tmp_path, kind, beside):
    folder = write_clip_retrieval(tmp_path / "f", ROWS) if beside else only_metadata(tmp_path / "f")
    index = INDEXES[kind]()
    write_index(folder, index)
    collection = open_collection(folder, space="s")
    found = collection.search(QUERIES, 5, columns=["lang"], with_vectors=True)
    assert collection.stats().index != "none"
    lossy = kind == "pca" and not beside
    exact = collection.search(QUERIES, 5, exact=True)
    if lossy:
        assert len({*ids_of(found)} & {*exact_ids()}) > 8
        assert np.abs(found["score"].to_numpy() - exact["score"].to_numpy()).max() < 0.3
    else:
        shared = sum(one == other for one, other in zip(ids_of(found), exact_ids(), strict=False))
        assert shared >= (30 if kind.startswith("flat") or kind == "hnsw" else 12)
        units = QUERIES / np.linalg.norm(QUERIES, axis=1, keepdims=True)
        numbers = found["query"].to_numpy()
        true = (units[numbers] * VECTORS[[IDS.index(name) for name in ids_of(found)]]).sum(axis=1)
        assert np.abs(found["score"].to_numpy() - true).max() < 2e-6
        assert ids_of(exact) == exact_ids()
    inside = collection.search(QUERIES, 200, where=Eq("lang", "sv"))
    assert inside.num_rows == 6 * collection.count(Eq("lang", "sv"))


def test_a_large_index_folder_with_arrow_metadata_is_read_in_place(tmp_path):
    folder = tmp_path / "large"
    (folder / "metadata").mkdir(parents=True)
    (folder / "image.index").mkdir()
    index = faiss.index_factory(DIM, "IVF4,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(VECTORS)
    faiss.write_index(index, str(folder / "trained.index"))
    block = faiss.read_index(str(folder / "trained.index"))
    block.add_with_ids(VECTORS, np.arange(len(VECTORS)))
    faiss.write_index(block, str(folder / "block.index"))
    merged = faiss.read_index(str(folder / "trained.index"))
    from faiss.contrib.ondisk import merge_ondisk

    merge_ondisk(merged, [str(folder / "block.index")], str(folder / "image.index" / "merged_index.ivfdata"))
    merged.nprobe = 4
    faiss.write_index(merged, str(folder / "image.index" / "populated.index"))
    table = ROWS.drop_columns(["vector"]).rename_columns({"id": "image_path"})
    for name, part in (("0_en", table.slice(0, 50)), ("1_multi", table.slice(50, 70))):
        with pa.ipc.new_file(str(folder / "metadata" / f"{name}.arrow"), part.schema) as writer:
            writer.write_table(part)
    with pytest.raises(BabelclipError, match="120 vectors, but 1 metadata"):
        (folder / "metadata" / "1_multi.arrow").rename(folder / "aside.arrow")
        open_collection(folder, space="s")
    (folder / "aside.arrow").rename(folder / "metadata" / "1_multi.arrow")
    collection = open_collection(folder, space="s")
    found = collection.search(QUERIES, 5, columns=["path", "source_row"])
    assert found["path"].to_pylist() == exact_ids()
    assert found["id"].to_pylist() == [str(IDS.index(path)) for path in found["path"].to_pylist()]
    assert found["source_row"].to_pylist() == [int(name) for name in found["id"].to_pylist()]
    assert ids_of(collection.search(QUERIES, 5, exact=True)) == found["id"].to_pylist()
    assert collection.get(["7", "07", "-1", "120", "x"], with_vectors=True)["id"].to_pylist() == ["7"]


def test_half_precision_is_close_and_positions_are_ids(tmp_path):
    folder = write_clip_retrieval(tmp_path / "f", ROWS, dtype="float16", parts=11, names=False)
    assert (folder / "img_emb" / "img_emb_10.npy").exists()
    assert (folder / "img_emb" / "img_emb_00.npy").exists()
    collection = open_collection(folder, space="s")
    found = collection.search(VECTORS[:30], 1)
    assert ids_of(found) == [str(row) for row in range(30)]
    assert np.abs(found["score"].to_numpy() - 1).max() < 1e-3


def test_foreign_columns_get_names_and_types_that_a_collection_has(tmp_path):
    rows = make_rows(0, 4).select(["id", "vector"])
    table = rows.append_column("exif.iso", pa.array([1, None, 3, 4], pa.int32()))
    table = table.append_column("bytes", pa.array(["1 kB"] * 4)).append_column(
        "similarity", pa.array([0.5, float("nan")] * 2)
    )
    table = table.append_column("score", pa.array([[1, 2], None, [], [3]]))
    table = table.append_column("image_path", pa.array(["a.jpg", "b.jpg", "c.jpg", "d.jpg"]))
    collection = open_collection(write_clip_retrieval(tmp_path / "f", table, names=False), space="s")
    own = {"exif_iso": "int", "original_bytes": "text", "similarity": "float", "original_score": "text"}
    assert {name: collection.columns[name] for name in own} == own
    assert collection.columns["bytes"] == "int"
    found = collection.get(["1", "2"], columns=["exif_iso", "similarity", "original_score", "path", "bytes"])
    assert found.to_pylist() == [
        {"id": "1", "exif_iso": None, "similarity": None, "original_score": None, "path": "b.jpg", "bytes": None},
        {"id": "2", "exif_iso": 3, "similarity": 0.5, "original_score": "[]", "path": "c.jpg", "bytes": None},
    ]


def test_files_that_do_not_fit_together_are_named_with_their_counts(tmp_path):
    folder = write_clip_retrieval(tmp_path / "f", ROWS, parts=3)
    part = folder / "img_emb" / "img_emb_1.npy"
    whole = np.load(part)
    np.save(part, whole[:-1])
    with pytest.raises(BabelclipError, match=r"img_emb_1.npy holds 39 vectors and .*metadata_1.parquet 40 rows"):
        open_collection(folder, space="s")
    np.save(part, whole)
    (folder / "metadata" / "metadata_2.parquet").rename(folder / "aside")
    with pytest.raises(BabelclipError, match=r"img_emb_2.npy has no partner"):
        open_collection(folder, space="s")
    (folder / "aside").rename(folder / "metadata" / "metadata_2.parquet")
    write_index(folder, INDEXES["flat"]())
    (folder / "img_emb" / "img_emb_1.npy").unlink()
    (folder / "metadata" / "metadata_1.parquet").unlink()
    with pytest.raises(BabelclipError, match=r"image.index: 120 vectors, but 2 metadata file\(s\) hold 80 rows"):
        open_collection(folder, space="s")


def test_what_lacks_or_is_damaged_is_said(tmp_path):
    folder = write_clip_retrieval(tmp_path / "f", ROWS)
    with pytest.raises(BabelclipError, match="--space"):
        open_collection(folder)
    write_index(folder, INDEXES["hnsw"]())
    whole = (folder / "image.index").read_bytes()
    (folder / "image.index").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BabelclipError, match="cannot be read as a FAISS index"):
        open_collection(folder, space="s")
    (folder / "image.index").unlink()
    (folder / "metadata").rename(folder / "aside")
    (folder / "metadata.hdf5").write_bytes(b"")
    with pytest.raises(BabelclipError, match="missing values were lost"):
        open_collection(folder, space="s")
    texts = tmp_path / "texts"
    write_clip_retrieval(texts, ROWS)
    (texts / "img_emb").rename(texts / "text_emb")
    with pytest.raises(BabelclipError, match="Indexes of texts"):
        open_collection(texts, space="s")
    with pytest.raises(UnsupportedError, match="read as it is"):
        create_collection(folder, SPACE)


def test_a_folder_that_babelclip_exported_says_its_space(tmp_path):
    folder = write_clip_retrieval(tmp_path / "f", ROWS)
    facts = {"format": "babelclip-export", "complete": True, "space": "openai/ViT-B-32", "model": "m"}
    (folder / "babelclip.json").write_text(json.dumps(facts))
    assert open_collection(folder).fingerprint == ImageSpace("openai/ViT-B-32", "m", dim=DIM)


# Fast mode.


@pytest.fixture
def graph_from_few(monkeypatch):
    monkeypatch.setattr(faiss_fast, "_GRAPH_FROM", 500)


def many(count=4000, seed=0):
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((40, 32))
    vectors = (centres[random.integers(0, 40, count)] + 0.5 * random.standard_normal((count, 32))).astype(np.float32)
    return pa.table(
        {"id": [f"p{n}" for n in range(count)], "vector": vector_array(vectors), "width": list(range(count))}
    )


def test_the_fast_mode_finds_nearly_all_and_scores_are_cosines(tmp_path, graph_from_few):
    base = create_collection(tmp_path / "x.lance", ImageSpace("s", "m", dim=32))
    base.upsert(many())
    fast = open_fast(base, folder=tmp_path / "fast")
    assert fast.stats().index == "hnsw_sq8+fp16"
    assert fast.stats().backend == "fast"
    queries = np.array(many(50, seed=3)["vector"].to_pylist(), np.float32)
    found, exact = fast.search(queries, 10, columns=["width"], with_vectors=True), base.search(queries, 10, exact=True)
    shared = sum(len({*ids_of(found)[i : i + 10]} & {*ids_of(exact)[i : i + 10]}) for i in range(0, 500, 10))
    assert shared / 500 >= 0.97
    true = {(q, i): s for q, i, s in zip(*(exact[name].to_pylist() for name in ("query", "id", "score")), strict=True)}
    for row in found.to_pylist():
        assert row["id"] == f"p{row['width']}"
        # Half-precision vectors give the score: 0.001 is their rounding.
        assert abs(row["score"] - true.get((row["query"], row["id"]), row["score"])) < 1e-3
    assert fast.search(queries[0], 300, where=Range("width", high=199)).num_rows == 200
    assert ids_of(fast.search(queries, 10, exact=True)) == ids_of(exact)


def test_the_copy_on_disk_is_used_again_and_made_anew_when_it_is_damaged_or_old(tmp_path, graph_from_few, monkeypatch):
    builds = []
    build = faiss_fast._built
    monkeypatch.setattr(faiss_fast, "_built", lambda *given: builds.append(1) or build(*given))
    base = create_collection(tmp_path / "x.lance", ImageSpace("s", "m", dim=32))
    base.upsert(many(600))
    folder = tmp_path / "fast"
    asked = np.array(many(5, seed=3)["vector"].to_pylist(), np.float32)
    first = ids_of(open_fast(base, folder=folder).search(asked, 5))
    assert ids_of(open_fast(base, folder=folder).search(asked, 5)) == first
    assert len(builds) == 1
    index = folder / "fast.index"
    content = bytearray(index.read_bytes())
    content[len(content) // 2] ^= 255
    index.write_bytes(content)
    assert ids_of(open_fast(base, folder=folder).search(asked, 5)) == first
    assert len(builds) == 2
    index.write_bytes(index.read_bytes()[:1000])
    (folder / "fast.json").write_text("{")
    fast = open_fast(base, folder=folder)
    assert len(builds) == 3
    base.delete(ids=[first[0]])
    assert ids_of(fast.search(asked, 5)) == first  # a copy stays what it is
    assert fast.get([first[0]]).num_rows == 1
    newer = open_fast(base, folder=folder)
    assert len(builds) == 4
    assert first[0] not in ids_of(newer.search(asked, 5))
    assert newer.version() == base.version()
    assert fast.at(base.version()).get([first[0]]).num_rows == 0


def test_a_folder_that_was_made_anew_is_not_answered_from_its_old_copy(tmp_path, graph_from_few):
    asked = np.array(many(1, seed=3)["vector"].to_pylist(), np.float32)

    def best(folder):
        return ids_of(open_fast(open_collection(folder, space="s"), folder=tmp_path / "fast").search(asked, 5))

    first = write_clip_retrieval(tmp_path / "theirs", many(600), names=False)
    before, exact = best(first), ids_of(open_collection(first, space="s").search(asked, 5))
    assert before == exact
    version = open_collection(first, space="s").version()
    assert open_collection(first, space="s").version() == version > 0
    again = write_clip_retrieval(first, many(600, seed=1), names=False)  # as many rows, so the same positions
    changed = open_collection(again, space="s")
    assert best(again) == ids_of(changed.search(asked, 5)) != before
    with pytest.raises(BabelclipError, match="read that one"):
        changed.at(version)


def test_groups_of_strangers_are_no_near_duplicates(tmp_path):
    rows = ROWS.append_column("group", pa.array([f"hall {row % 3}" for row in range(len(ROWS))]))
    theirs = write_clip_retrieval(tmp_path / "museum", rows, names=False)
    read = open_collection(theirs, space="s")
    imported = import_vectors(theirs, tmp_path / "x.lance", space="s")
    for collection in (read, imported):
        assert len(find_vector(collection, QueryVector(VECTORS[0]), 20).rows) == 20
        assert collection.count(Eq("original_group", "hall 1")) == 40
    own = create_collection(tmp_path / "own.lance", SPACE, columns={})
    own.upsert(rows.select(["id", "vector", "group"]))
    export_collection(own, tmp_path / "exported", layout="clip-retrieval")
    ours = open_collection(tmp_path / "exported")
    assert ours.count(Eq("group", "hall 1")) == 40


def test_few_rows_are_compared_one_by_one_and_none_is_an_error(tmp_path):
    collection = make_collection("fast", tmp_path)
    assert collection.stats().index == "none"
    empty = create_collection(tmp_path / "empty.lance", SPACE)
    with pytest.raises(BabelclipError, match="is empty"):
        open_fast(empty, folder=tmp_path / "other")
