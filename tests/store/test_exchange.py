from __future__ import annotations

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from babelclip.errors import BabelclipError
from babelclip.store import EmbeddingStore, parquet, writer
from babelclip.store.exchange import export_store, import_store
from babelclip.store.exchange.dataset_rows import open_dataset_rows
from tests.store.stores import content, killed_until_done, vectors_of, write_store

SPACE = {"space": "tiny/space"}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(writer, "SHARD_ROWS", 4)
    monkeypatch.setattr(parquet, "SHARD_ROWS", 3)


def clip_retrieval_folder(folder, counts=(3, 2), kinds=("img_emb",), **columns):
    """The layout by hand, as numpy and pyarrow write it: units in float16, one Parquet file for each .npy."""
    vectors = vectors_of(sum(counts), unit=True).astype(np.float16)
    for part, stop in enumerate(np.cumsum(counts)):
        rows = range(stop - counts[part], stop)
        for kind in kinds:
            (folder / kind).mkdir(parents=True, exist_ok=True)
            np.save(folder / kind / f"{kind}_{part}.npy", vectors[rows])
        (folder / "metadata").mkdir(exist_ok=True)
        table = {"image_path": [f"{row:05d}" for row in rows], "caption": [f"caption {row}" for row in rows]}
        table |= {name: [values[row] for row in rows] for name, values in columns.items()}
        pq.write_table(pa.table(table), folder / "metadata" / f"metadata_{part}.parquet")
    return vectors


def mclip_folder(folder, ids, dim=8, files=2, shape=(1,), dtype=np.float32):
    """Rows in the manner of M-CLIP/ImageCaptions-7M-Embeddings, by hand: lists of lists."""
    folder.mkdir(parents=True, exist_ok=True)
    vectors = vectors_of(len(ids), dim)
    for number, rows in enumerate(np.array_split(np.arange(len(ids)), files)):
        nested = vectors[rows].astype(dtype).reshape(len(rows), *shape, dim).tolist()
        kind = pa.list_(pa.from_numpy_dtype(dtype))
        columns = {"id": [ids[row] for row in rows], "embedding": pa.array(nested, pa.list_(kind) if shape else kind)}
        pq.write_table(pa.table(columns), folder / f"train-{number:05d}.parquet")
    return vectors


# ---- clip-retrieval


def test_clip_retrievals_folder_becomes_a_store_by_position(tmp_path):
    vectors = clip_retrieval_folder(tmp_path / "cr", NSFW=["UNLIKELY", None, "NSFW", None, None])
    store = import_store(tmp_path / "cr", tmp_path / "s", **SPACE)
    assert (store.kind, store.dtype, store.normalized, store.model) == ("image", "float16", True, "tiny/space")
    assert store.ids == ["0", "1", "2", "3", "4"]
    assert [shard.count for shard in store.shards] == [4, 1]
    np.testing.assert_array_equal(store.read(), vectors.astype(np.float32))
    assert store.rows.column_names == ["id", "image_path", "caption", "NSFW"]
    assert store.rows["NSFW"].to_pylist() == ["UNLIKELY", None, "NSFW", None, None]
    assert store.verify() == []


def test_a_column_gives_the_ids_and_the_position_is_kept(tmp_path):
    clip_retrieval_folder(tmp_path / "cr", kinds=("img_emb", "text_emb"), id=[7, 7, 8, 8, 9])
    with pytest.raises(BabelclipError, match=r"image and text: say which .*--kind"):
        import_store(tmp_path / "cr", tmp_path / "s", **SPACE)
    store = import_store(tmp_path / "cr", tmp_path / "s", kind="text", ids="image_path", dtype="float32", **SPACE)
    assert (store.kind, store.ids[:2]) == ("text", ["00000", "00001"])
    assert store.rows["source_row"].to_pylist() == [0, 1, 2, 3, 4]
    assert store.rows["original_id"].to_pylist() == [7, 7, 8, 8, 9]
    lengths = np.linalg.norm(store.read().astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=2e-7)
    with pytest.raises(BabelclipError, match=r"no column 'img_path'.*Did you mean 'image_path'"):
        import_store(tmp_path / "cr", tmp_path / "t", kind="text", ids="img_path", **SPACE)
    with pytest.raises(BabelclipError, match=r"2 of 4 ids occur twice, first \['7', '8'\]"):
        import_store(tmp_path / "cr", tmp_path / "u", kind="text", ids="id", **SPACE)


def test_rows_follow_the_order_of_file_names_as_clip_retrieval_reads_them(tmp_path):
    vectors = clip_retrieval_folder(tmp_path / "cr", counts=(1,) * 11)
    store = import_store(tmp_path / "cr", tmp_path / "s", **SPACE)
    order = [0, 1, 10, *range(2, 10)]
    assert store.rows["image_path"].to_pylist() == [f"{row:05d}" for row in order]
    np.testing.assert_array_equal(store.read(), vectors[order].astype(np.float32))


def test_misaligned_parts_are_refused_naming_both_files(tmp_path):
    clip_retrieval_folder(tmp_path / "cr")
    metadata = tmp_path / "cr/metadata/metadata_1.parquet"
    pq.write_table(pq.read_table(metadata).slice(1), metadata)
    with pytest.raises(BabelclipError, match=r"img_emb_1\.npy holds 2 vectors and .*metadata_1\.parquet 1 rows"):
        import_store(tmp_path / "cr", tmp_path / "s", **SPACE)
    metadata.unlink()
    with pytest.raises(BabelclipError, match=r"img_emb_1\.npy has no partner in .*metadata"):
        import_store(tmp_path / "cr", tmp_path / "s", **SPACE)
    assert not (tmp_path / "s").exists()


def test_a_cut_file_is_refused_by_name(tmp_path):
    clip_retrieval_folder(tmp_path / "cr")
    for name in ("img_emb/img_emb_0.npy", "metadata/metadata_0.parquet"):
        file = tmp_path / "cr" / name
        whole = file.read_bytes()
        file.write_bytes(whole[:-5])
        with pytest.raises(BabelclipError, match=f"{name} cannot be read"):
            import_store(tmp_path / "cr", tmp_path / "s", **SPACE)
        file.write_bytes(whole)


def test_vectors_of_two_sizes_nan_and_wrong_length_are_refused(tmp_path):
    vectors = clip_retrieval_folder(tmp_path / "cr")
    file = tmp_path / "cr/img_emb/img_emb_1.npy"
    np.save(file, vectors[3:, :4])
    with pytest.raises(BabelclipError, match=r"img_emb_0\.npy holds vectors of 8 dimensions and .*img_emb_1\.npy of 4"):
        import_store(tmp_path / "cr", tmp_path / "s", **SPACE)
    np.save(file, np.full((2, 8), np.nan, np.float16))
    with pytest.raises(BabelclipError, match=r"rows 0 to 4, .*img_emb_0\.npy to .*img_emb_1\.npy: .*NaN.*'3'"):
        import_store(tmp_path / "cr", tmp_path / "s", **SPACE)
    np.save(file, vectors[3:] * np.float16(3))
    with pytest.raises(BabelclipError, match="do not have length 1"):
        import_store(tmp_path / "cr", tmp_path / "t", dtype="float32", **SPACE)
    assert import_store(tmp_path / "cr", tmp_path / "u", normalized=False, **SPACE).normalized is False


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_store_goes_to_clip_retrievals_layout_and_back(tmp_path, kind):
    vectors = vectors_of(11, unit=True)
    columns = {"text": [f"text {row}" for row in range(11)], "n": list(range(11))}
    facts = {"kind": kind, "normalized": True, "model": "m"}
    store = write_store(tmp_path / "s", [f"r{row}" for row in range(11)], vectors, columns=columns, **facts)
    export_store(tmp_path / "s", tmp_path / "cr", layout="clip-retrieval", rows_per_file=1)
    name = "img_emb" if kind == "image" else "text_emb"
    parts = [np.load(tmp_path / f"cr/{name}/{name}_{part:02d}.npy") for part in range(11)]
    assert {part.dtype for part in parts} == {np.dtype(np.float16)}
    np.testing.assert_array_equal(np.concatenate(parts), store.read().astype(np.float16))
    table = pq.read_table(tmp_path / "cr/metadata/metadata_03.parquet").to_pylist()
    expected = {"caption": "text 3", "store_id": "r3", "n": 3}
    assert table == [expected if kind == "text" else {"image_path": "r3", **expected}]
    back = import_store(tmp_path / "cr", tmp_path / "back")
    assert back.facts == store.facts
    assert back.rows.equals(store.rows.select(back.rows.column_names))
    np.testing.assert_array_equal(back.read(), store.read())


def test_raw_vectors_are_scaled_for_clip_retrieval_and_zero_is_refused(tmp_path):
    vectors = vectors_of(4) * 20
    write_store(tmp_path / "s", list("abcd"), vectors, dtype="float32")
    told = export_store(tmp_path / "s", tmp_path / "cr", layout="clip-retrieval")
    assert told["was"] == {"dtype": "float32", "normalized": False}
    units = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    np.testing.assert_allclose(np.load(tmp_path / "cr/text_emb/text_emb_0.npy"), units, atol=1e-3)
    vectors[2] = 0
    write_store(tmp_path / "z", list("abcd"), vectors)
    with pytest.raises(BabelclipError, match=r"vector of id 'c' .* is zero"):
        export_store(tmp_path / "z", tmp_path / "crz", layout="clip-retrieval")


# ---- rows of a data set


@pytest.mark.parametrize("shape", [(1,), ()])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_rows_of_the_mclip_data_set_become_a_store_by_position(tmp_path, shape, dtype):
    vectors = mclip_folder(tmp_path / "d", list(range(10)), shape=shape, dtype=dtype)
    store = import_store(tmp_path / "d", tmp_path / "s", **SPACE)
    assert store.ids == [str(row) for row in range(10)]
    assert (store.dtype, store.normalized, store.kind) == (
        "float16" if dtype == np.float16 else "float32",
        False,
        "text",
    )
    assert store.rows.column_names == ["id"]
    np.testing.assert_array_equal(store.read(), vectors)


def test_an_id_that_contradicts_its_position_is_an_error_until_one_is_chosen(tmp_path):
    ids = [0, 1, 2, 3, 4, 9, 6, 7]
    mclip_folder(tmp_path / "d", ids)
    with pytest.raises(BabelclipError, match=r"position 5 has id 9 in .*00001\.parquet.*--ids id.*--ids position"):
        import_store(tmp_path / "d", tmp_path / "s", **SPACE)
    assert import_store(tmp_path / "d", tmp_path / "t", ids="id", **SPACE).ids == [str(name) for name in ids]
    by_position = import_store(tmp_path / "d", tmp_path / "u", ids="position", **SPACE)
    assert by_position.ids == [str(row) for row in range(8)]
    assert by_position.rows["original_id"].to_pylist() == ids


def test_ids_of_text_are_no_positions_and_a_name_is_not_given_to_two_columns(tmp_path):
    pq.write_table(pa.table({"id": ["0", "b"], "embedding": [[1.0, 2.0], [3.0, 4.0]]}), tmp_path / "rows.parquet")
    with pytest.raises(BabelclipError, match="position 1 has id b in"):
        import_store(tmp_path / "rows.parquet", tmp_path / "s", **SPACE)
    assert import_store(tmp_path / "rows.parquet", tmp_path / "t", ids="id", **SPACE).ids == ["0", "b"]
    table = pa.table({"id": ["0", "b"], "original_id": [1, 2], "embedding": [[1.0, 2.0], [3.0, 4.0]]})
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(BabelclipError, match="'original_id', and the import makes one of that name"):
        import_store(tmp_path / "rows.parquet", tmp_path / "u", ids="position", **SPACE)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[[1.0, 2.0]], [[1.0]]], r"1 of 2 rows of .*do not hold an embedding of shape \[1, 2\].*length 1 where 2"),
        ([[[1.0, 2.0]], [[1.0, 2.0], [3.0, 4.0]]], r"shape \[1, D\].*length 2 where 1"),
        ([[[1.0, 2.0]], None], "the first is null"),
        ([[[1.0, 2.0]], [[None, 1.0]]], "null in them"),
        ([[[1, 2]], [[3, 4]]], "list of floats"),
        ([1.0, 2.0], "list of floats"),
    ],
)
def test_rows_of_another_shape_are_refused(tmp_path, rows, message):
    pq.write_table(pa.table({"embedding": rows}), tmp_path / "rows.parquet")
    with pytest.raises(BabelclipError, match=message):
        import_store(tmp_path / "rows.parquet", tmp_path / "s", **SPACE)


def test_rows_with_any_damaged_byte_are_read_or_refused_by_name(tmp_path):
    rows = [{"id": n, "embedding": [vector]} for n, vector in enumerate(vectors_of(6, 4).tolist())]
    file = tmp_path / "train-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    content, refused = file.read_bytes(), 0
    for place in range(0, len(content), 5):
        file.write_bytes(content[:place] + bytes([content[place] ^ 0x81]) + content[place + 1 :])
        try:
            for _vectors, _table in open_dataset_rows(tmp_path).read(0):
                pass
        except BabelclipError as error:
            refused += 1
            message = str(error)
            assert file.name in message
    assert refused > 50


def test_a_table_without_embeddings_is_told_apart(tmp_path):
    pq.write_table(pa.table({"vector": [[1.0]]}), tmp_path / "rows.parquet")
    with pytest.raises(BabelclipError, match="no layout that is known"):
        import_store(tmp_path / "rows.parquet", tmp_path / "s", **SPACE)
    with pytest.raises(BabelclipError, match=r"columns vector, but .*'embedding'"):
        import_store(tmp_path / "rows.parquet", tmp_path / "s", layout="dataset", **SPACE)


@pytest.mark.parametrize(
    ("ids", "columns", "numbers"),
    [
        ([str(row) for row in range(7)], ["id", "embedding", "lang"], list(range(7))),
        (["5", "3", "1", "0", "2", "9", "11"], ["id", "embedding", "store_id", "lang"], [5, 3, 1, 0, 2, 9, 11]),
        (list("gfedcba"), ["id", "embedding", "store_id", "lang"], list(range(7))),
        (["01", *"234567"], ["id", "embedding", "store_id", "lang"], list(range(7))),
    ],
)
def test_a_store_goes_to_rows_of_a_data_set_and_back(tmp_path, ids, columns, numbers):
    store = write_store(tmp_path / "s", ids, columns={"lang": ["sv"] * 7})
    export_store(tmp_path / "s", tmp_path / "d", layout="dataset", rows_per_file=3)
    files = sorted((tmp_path / "d/data").iterdir())
    assert [file.name for file in files] == [f"train-{part:05d}-of-00003.parquet" for part in range(3)]
    table = pa.concat_tables([pq.read_table(file) for file in files])
    assert table.column_names == columns
    assert str(table.schema.field("embedding").type) == "list<element: list<element: float>>"
    assert np.array(table["embedding"].to_pylist(), np.float32).shape == (7, 1, 8)
    assert table["id"].to_pylist() == numbers
    back = import_store(tmp_path / "d", tmp_path / "back")
    assert back.facts == store.facts
    assert back.rows.equals(store.rows)
    np.testing.assert_array_equal(back.read(), store.read())


def test_datasets_reads_the_exported_folder(tmp_path):
    datasets = pytest.importorskip("datasets")
    store = write_store(tmp_path / "s", [str(row) for row in range(7)])
    export_store(tmp_path / "s", tmp_path / "d", layout="dataset", rows_per_file=3)
    rows = datasets.load_dataset(str(tmp_path / "d"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["id"][:] == list(range(7))
    np.testing.assert_array_equal(np.array(rows[3]["embedding"], np.float32), store.gather([3]))


# ---- .npy


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_store_goes_to_one_npy_file_and_back(tmp_path, dtype):
    store = write_store(tmp_path / "s", [f"r{row}" for row in range(9)], dtype=dtype, columns={"n": list(range(9))})
    export_store(tmp_path / "s", tmp_path / "n", layout="npy")
    plain = np.load(tmp_path / "n/vectors.npy")
    assert plain.dtype == dtype
    np.testing.assert_array_equal(plain.astype(np.float32), store.read())
    back = import_store(tmp_path / "n", tmp_path / "back")
    assert back.facts == store.facts
    assert back.rows.equals(store.rows)
    np.testing.assert_array_equal(back.read(), store.read())


def test_a_npy_file_takes_its_ids_from_a_file_of_lines_or_the_position(tmp_path):
    vectors = vectors_of(6)
    np.save(tmp_path / "x.npy", vectors)
    (tmp_path / "names.txt").write_text("".join(f"bild {row}\n" for row in range(6)), encoding="utf-8")
    store = import_store(tmp_path / "x.npy", tmp_path / "s", ids=str(tmp_path / "names.txt"), kind="image", **SPACE)
    assert (store.ids[5], store.kind, store.dtype) == ("bild 5", "image", "float32")
    np.testing.assert_array_equal(store.read(), vectors)
    assert import_store(tmp_path / "x.npy", tmp_path / "t", ids="position", **SPACE).ids == list("012345")
    with pytest.raises(BabelclipError, match=r"x\.npy comes with no file of ids.*--ids position"):
        import_store(tmp_path / "x.npy", tmp_path / "u", **SPACE)
    (tmp_path / "names.txt").write_text("one\ntwo\n", encoding="utf-8")
    with pytest.raises(BabelclipError, match=r"x\.npy holds 6 vectors and .*names\.txt 2 ids"):
        import_store(tmp_path / "x.npy", tmp_path / "u", ids=str(tmp_path / "names.txt"), **SPACE)
    (tmp_path / "names.txt").write_text("a\nb\na\nc\nd\ne\n", encoding="utf-8")
    with pytest.raises(BabelclipError, match=r"occur twice, first \['a'\]"):
        import_store(tmp_path / "x.npy", tmp_path / "u", ids=str(tmp_path / "names.txt"), **SPACE)
    (tmp_path / "names.txt").write_bytes(b"\xff\xfe\n" * 6)
    with pytest.raises(BabelclipError, match="not UTF-8"):
        import_store(tmp_path / "x.npy", tmp_path / "u", ids=str(tmp_path / "names.txt"), **SPACE)


@pytest.mark.parametrize("damage", [b"(((", b'""" ', b"\x00\x00", b"9" * 60])
def test_a_npy_header_that_is_no_python_is_refused(tmp_path, damage):
    np.save(tmp_path / "x.npy", vectors_of(6))
    whole = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(whole[:12] + damage + whole[12 + len(damage) :])
    with pytest.raises(BabelclipError, match=r"x\.npy cannot be read as \.npy"):
        import_store(tmp_path / "x.npy", tmp_path / "s", ids="position", **SPACE)


def test_what_is_no_table_of_floats_is_refused(tmp_path):
    for number, array in enumerate([np.zeros(3, np.float32), np.zeros((3, 2), np.int64), np.array([["a"]])]):
        np.save(tmp_path / f"{number}.npy", array)
        with pytest.raises(BabelclipError, match=f"{number}.npy holds .*floats of shape"):
            import_store(tmp_path / f"{number}.npy", tmp_path / "s", ids="position", **SPACE)


# ---- all of them


def test_the_space_must_be_named_and_a_store_or_an_absent_path_is_told_apart(tmp_path):
    clip_retrieval_folder(tmp_path / "cr")
    with pytest.raises(BabelclipError, match=r"does not say which space.*--space"):
        import_store(tmp_path / "cr", tmp_path / "s")
    write_store(tmp_path / "store", ["a"])
    with pytest.raises(BabelclipError, match="an embedding store already"):
        import_store(tmp_path / "store", tmp_path / "s", **SPACE)
    with pytest.raises(BabelclipError, match="does not exist"):
        import_store(tmp_path / "absent", tmp_path / "s", **SPACE)
    with pytest.raises(BabelclipError, match="Did you mean 'dataset'"):
        import_store(tmp_path / "cr", tmp_path / "s", layout="datasets", **SPACE)


def test_an_import_into_a_store_of_another_space_or_of_other_vectors_is_refused(tmp_path):
    clip_retrieval_folder(tmp_path / "cr")
    import_store(tmp_path / "cr", tmp_path / "s", **SPACE)
    with pytest.raises(BabelclipError, match="different embedding spaces: 'tiny/space' against 'other'"):
        import_store(tmp_path / "cr", tmp_path / "s", space="other")
    clip_retrieval_folder(tmp_path / "longer", counts=(3, 3))
    with pytest.raises(BabelclipError, match="made by another command: sources differ"):
        import_store(tmp_path / "longer", tmp_path / "s", **SPACE)
    assert len(import_store(tmp_path / "cr", tmp_path / "s", **SPACE)) == 5


def test_an_export_into_a_folder_of_other_things_or_of_another_export_is_refused(tmp_path):
    write_store(tmp_path / "s", list("abc"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("x")
    with pytest.raises(BabelclipError, match=r"holds other things, first \['mine.txt'\]"):
        export_store(tmp_path / "s", tmp_path / "full", layout="npy")
    before = export_store(tmp_path / "s", tmp_path / "d", layout="dataset")
    with pytest.raises(BabelclipError, match=r"another export: .*rows_per_file"):
        export_store(tmp_path / "s", tmp_path / "d", layout="dataset", rows_per_file=2)
    assert export_store(tmp_path / "s", tmp_path / "d", layout="dataset") == before
    EmbeddingStore.create(tmp_path / "e", space="s", model="m", dim=2, normalized=False).close()
    with pytest.raises(BabelclipError, match="export got 0 vectors"):
        export_store(tmp_path / "e", tmp_path / "x", layout="npy")


def test_an_export_that_was_stopped_or_lost_a_file_is_not_imported(tmp_path):
    write_store(tmp_path / "s", list("abcdef"))
    export_store(tmp_path / "s", tmp_path / "d", layout="dataset", rows_per_file=2)
    (tmp_path / "d/data/train-00001-of-00003.parquet").unlink()
    with pytest.raises(BabelclipError, match=r"holds 4 vectors, but its babelclip.json counts 6"):
        import_store(tmp_path / "d", tmp_path / "back")
    sidecar = tmp_path / "d/babelclip.json"
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "complete": False}))
    with pytest.raises(BabelclipError, match="an export that was stopped"):
        import_store(tmp_path / "d", tmp_path / "back")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("layout", ["clip-retrieval", "dataset", "npy"])
def test_export_and_import_killed_again_and_again_end_with_the_same_bytes(tmp_path, layout):
    count, size = 160, 4
    write_store(tmp_path / "s", [f"r{row}" for row in range(count)], shard=30)
    whole, cut = tmp_path / "whole", tmp_path / "cut"

    def export(out):
        export_store(tmp_path / "s", out, layout=layout, rows_per_file=size)

    def files_there(out=cut):
        return sum(1 for _ in out.glob("*/*") if ".part" not in _.name)

    export(whole)
    kills = killed_until_done(lambda: export(cut), files_there, files_there(whole))
    assert kills > 1 or layout == "npy"
    assert content(cut) == content(whole)

    def rows_there():
        manifest = tmp_path / "cut-store/manifest.json"
        return json.loads(manifest.read_text())["count"] if manifest.exists() else 0

    import_store(whole, tmp_path / "whole-store")
    kills = killed_until_done(lambda: import_store(whole, tmp_path / "cut-store"), rows_there, count)
    assert kills > 1
    assert content(tmp_path / "cut-store") == content(tmp_path / "whole-store")


# ---- what is given is not there, or of another kind


def empty_parts(folder):
    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()


def rows_of_two_types(folder):
    mclip_folder(folder, [0, 1], files=1)
    table = pq.read_table(folder / "train-00000.parquet")
    pq.write_table(table.append_column("n", pa.array([1, 2])), folder / "train-00000.parquet")
    pq.write_table(table.append_column("n", pa.array([[1], [2]])), folder / "train-00001.parquet")


def no_rows(folder):
    mclip_folder(folder, [0, 1], files=1)
    pq.write_table(pq.read_table(folder / "train-00000.parquet").slice(0, 0), folder / "train-00000.parquet")


def ids_that_are_lists(folder):
    clip_retrieval_folder(folder, tags=[["a"]] * 5)


@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        (empty_parts, {"layout": "clip-retrieval"}, r"img_emb holds no file img_emb_0\.npy: give the folder"),
        (ids_that_are_lists, {"ids": "tags"}, r"'tags' of .*list.*an id is a string or a whole number: choose"),
        (rows_of_two_types, {"layout": "dataset"}, r"train-00001\.parquet do not agree.*one type for each column"),
        (no_rows, {"layout": "dataset"}, "Parquet files without a row: give the folder of the whole"),
        (lambda folder: folder.mkdir(), {"layout": "dataset"}, "holds no Parquet file: give the folder"),
    ],
)
def test_a_folder_that_lacks_what_its_layout_has_is_refused_by_name(tmp_path, make, given, message):
    make(tmp_path / "source")
    with pytest.raises(BabelclipError, match=message):
        import_store(tmp_path / "source", tmp_path / "s", **given, **SPACE)
    assert not (tmp_path / "s" / "manifest.json").exists() or not len(EmbeddingStore.open(tmp_path / "s"))


def test_a_file_of_ids_that_is_absent_or_of_another_kind_is_refused(tmp_path):
    np.save(tmp_path / "v.npy", vectors_of(2))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\nb\n")
    for ids, message in (
        ("ids.csv", r"ids\.csv is no file of ids: give \.parquet .* or \.txt"),
        ("absent.txt", r"absent\.txt does not exist: check the path"),
        ("absent.parquet", r"absent\.parquet does not exist: check the path"),
        ("latin.txt", r"latin\.txt is not UTF-8 .*: write the ids as UTF-8"),
    ):
        with pytest.raises(BabelclipError, match=message):
            import_store(tmp_path / "v.npy", tmp_path / ids.replace(".", "-"), ids=str(tmp_path / ids), **SPACE)


def test_a_column_of_the_exports_own_name_and_an_unknown_layout_are_refused(tmp_path):
    store = write_store(tmp_path / "s", ["a", "b"], columns={"store_id": ["x", "y"]})
    for layout in ("clip-retrieval", "dataset"):
        with pytest.raises(BabelclipError, match=r"has a column 'store_id', which the export uses.*another name"):
            export_store(store.path, tmp_path / layout, layout=layout)
    with pytest.raises(BabelclipError, match=r"layout 'numpy' is not known\. Did you mean 'npy'"):
        export_store(store.path, tmp_path / "out", layout="numpy")


def test_a_data_set_that_lacks_a_part_is_refused_since_all_rows_behind_it_would_move(tmp_path):
    mclip_folder(tmp_path / "whole", range(6), files=3)
    for number in range(3):
        file = tmp_path / "whole" / f"train-{number:05d}.parquet"
        file.rename(tmp_path / "whole" / f"train-{number:05d}-of-00003.parquet")
    assert import_store(tmp_path / "whole", tmp_path / "s", **SPACE).ids == ["0", "1", "2", "3", "4", "5"]
    (tmp_path / "whole" / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(BabelclipError, match=r"lacks 1 of the 3 parts of 'train', first number 1.*fetch it again"):
        import_store(tmp_path / "whole", tmp_path / "t", **SPACE, ids="position")


def test_a_data_set_with_files_of_another_table_is_refused_by_name(tmp_path):
    mclip_folder(tmp_path / "d" / "data", range(2), files=1)
    (tmp_path / "d" / "translations").mkdir()
    pq.write_table(pa.table({"id": ["0-sv"], "text": ["en hund"]}), tmp_path / "d" / "translations" / "a.parquet")
    with pytest.raises(BabelclipError, match=r"a\.parquet has no column 'embedding'.*import_published"):
        import_store(tmp_path / "d", tmp_path / "s", **SPACE)


def test_ids_of_lines_may_begin_with_a_byte_order_mark_and_end_in_crlf(tmp_path):
    np.save(tmp_path / "vectors.npy", vectors_of(2, 3))
    (tmp_path / "ids.txt").write_bytes("\ufeffå\r\nb\rc\r\n".encode())
    assert import_store(tmp_path, tmp_path / "s", **SPACE).ids == ["å", "b\rc"]
