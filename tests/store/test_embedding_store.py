from __future__ import annotations

import doctest
import itertools
import json
import os
import pickle
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babelclip.errors import BabelclipError, SpaceMismatchError
from babelclip.store import EmbeddingStore, layout
from babelclip.store import embedding_store as module
from babelclip.store.id_file import IdFile
from babelclip.store.id_index import IdIndex
from tests.store.stores import write_store

FACTS = {"space": "tiny/space", "model": "tiny-teacher", "dim": 8, "normalized": False}


def make_vectors(count, dim=8, seed=0):
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def make_store(path, counts=(5, 3, 7), dtype="float32", **facts):
    """A closed store with ids r0, r1, ... and its vectors."""
    vectors = make_vectors(sum(counts))
    with EmbeddingStore.create(path, **{**FACTS, "dtype": dtype, **facts}) as store:
        for stop, count in zip(itertools.accumulate(counts), counts, strict=True):
            rows = range(stop - count, stop)
            store.append([f"r{row}" for row in rows], vectors[rows], {"text": [f"text {row}" for row in rows]})
    return vectors


def snapshot(folder):
    return {
        file.relative_to(folder): (file.stat().st_mtime_ns, file.stat().st_size) for file in Path(folder).rglob("*")
    }


def test_what_was_appended_is_read_back_in_order(tmp_path):
    vectors = make_store(tmp_path / "s")
    store = EmbeddingStore.open(tmp_path / "s")
    assert len(store) == 15
    assert (store.space, store.model, store.dim, store.dtype) == ("tiny/space", "tiny-teacher", 8, "float32")
    assert (store.kind, store.target, store.normalized) == ("text", "projected", False)
    assert store.ids == [f"r{row}" for row in range(15)]
    assert store.rows.column_names == ["id", "text"]
    assert store.rows["text"].to_pylist() == [f"text {row}" for row in range(15)]
    assert store.read().dtype == np.float32
    np.testing.assert_array_equal(store.read(), vectors)
    assert [len(shard) for shard in store.vectors()] == [5, 3, 7]
    assert store.verify() == []


def test_float16_store_keeps_the_rounded_vectors(tmp_path):
    vectors = make_store(tmp_path / "s", dtype="float16")
    store = EmbeddingStore.open(tmp_path / "s")
    assert next(store.vectors()).dtype == np.float16
    np.testing.assert_array_equal(store.read(), vectors.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(store.gather([14, 0]), vectors[[14, 0]].astype(np.float16).astype(np.float32))


def test_plain_numpy_and_plain_pyarrow_read_the_shards(tmp_path):
    vectors = make_store(tmp_path / "s")
    shard = np.load(tmp_path / "s/vectors/00001.npy", mmap_mode="r")
    np.testing.assert_array_equal(shard, vectors[5:8])
    table = pq.read_table(tmp_path / "s/rows/00001.parquet")
    assert table.to_pydict() == {"id": ["r5", "r6", "r7"], "text": ["text 5", "text 6", "text 7"]}
    manifest = json.loads((tmp_path / "s/manifest.json").read_text())
    assert manifest["space"] == "tiny/space"
    assert [entry["count"] for entry in manifest["shards"]] == [5, 3, 7]


@pytest.mark.parametrize("with_torch", [True, False])
def test_every_float16_becomes_the_same_float32_with_torch_and_without(monkeypatch, with_torch):
    if with_torch:
        import torch  # noqa: F401
    else:
        monkeypatch.delitem(sys.modules, "torch", raising=False)
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(64, -1)
    features = layout.to_float32(halves)
    assert features.dtype == np.float32
    expected = halves.astype(np.float32)
    finite = np.isfinite(expected)
    assert np.array_equal(features.view(np.uint32)[finite], expected.view(np.uint32)[finite])
    assert (np.isfinite(features) == finite).all()


@pytest.fixture(scope="module")
def four_shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("four") / "s"
    return make_store(folder, (5, 1, 7, 2)), EmbeddingStore.open(folder)


@given(indices=st.lists(st.integers(0, 14), max_size=40))
def test_gather_equals_fancy_indexing_of_the_whole(four_shards, indices):
    vectors, store = four_shards
    gathered = store.gather(indices)
    assert gathered.dtype == np.float32
    np.testing.assert_array_equal(gathered, vectors[indices].reshape(-1, 8))


@pytest.mark.parametrize("indices", [[0, 15], [-1, 3]])
def test_gather_outside_the_store_is_an_error(tmp_path, indices):
    make_store(tmp_path / "s")
    with pytest.raises(BabelclipError, match=r"index (15|-1), but .* 15 rows.*positions"):
        EmbeddingStore.open(tmp_path / "s").gather(indices)


@pytest.mark.parametrize("indices", [[0.5], [True, False], [[1, 2]], ["r1"]])
def test_gather_by_something_else_than_whole_numbers_is_an_error(tmp_path, indices):
    make_store(tmp_path / "s")
    with pytest.raises(BabelclipError, match="whole numbers"):
        EmbeddingStore.open(tmp_path / "s").gather(indices)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux memory maps")
def test_gather_leaves_the_rest_of_the_shard_unread(tmp_path):
    rows, dim = 20_000, 256
    with EmbeddingStore.create(tmp_path / "s", **{**FACTS, "dim": dim}, dtype="float16") as store:
        store.append(range(rows), make_vectors(rows, dim))
        store.gather([7, 19_000])
    maps = Path("/proc/self/smaps").read_text()
    entry = re.search(re.escape(str(tmp_path / "s/vectors/00000.npy")) + r"\n.*?\nRss:\s+(\d+) kB", maps, re.DOTALL)
    assert entry is not None
    # 10 MB lie in the shard; the kernel may map a few neighbouring pages of what it holds in memory anyway.
    assert int(entry[1]) < 1000


def test_positions_find_rows_by_id_and_whole_numbers_by_their_text(tmp_path):
    with EmbeddingStore.create(tmp_path / "s", **FACTS) as store:
        store.append([10, 20], make_vectors(2))
        assert store.positions(["20", 10]).tolist() == [1, 0]
        store.append(["x", np.int64(30)], make_vectors(2))
        assert store.positions([30, "x", 20, 20]).tolist() == [3, 2, 1, 1]
        assert store.find(["x", "nobody"]).tolist() == [2, -1]
        assert store.ids == ["10", "20", "x", "30"]
        assert store.positions([]).dtype == np.int64


def test_missing_ids_are_counted_and_named(tmp_path):
    make_store(tmp_path / "s")
    with pytest.raises(BabelclipError, match=r"2 of 3 ids .*\['nope', 'neither'\].*embed"):
        EmbeddingStore.open(tmp_path / "s").positions(["nope", "r3", "neither"])


def id_index(kind, blocks):
    """An index of each kind with these blocks of ids; the writer's reads them again where its hashes agree."""
    blocks = [pa.chunked_array([pa.array(block, pa.string())]) for block in blocks]
    index = IdIndex() if kind == "memory" else IdFile(Path(tempfile.gettempdir()), blocks.__getitem__)
    index.add([])
    index.add(blocks[:1])
    index.add(iter(blocks[1:]))
    return index


@pytest.mark.parametrize("kind", ["memory", "file"])
@given(names=st.lists(st.text(min_size=1, max_size=4), unique=True, max_size=60), data=st.data())
def test_id_index_finds_every_id_and_no_other(kind, names, data):
    cut, cut_again = sorted(data.draw(st.tuples(st.integers(0, len(names)), st.integers(0, len(names)))))
    index = id_index(kind, [names[:cut], names[cut:cut_again], names[cut_again:]])
    assert index.find(names[::-1]).tolist() == list(range(len(names)))[::-1]
    assert index.find(["longer than any of them"]).tolist() == [-1]
    assert index.find([]).tolist() == []


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_id_index_tells_ids_of_one_hash_apart(monkeypatch, kind):
    monkeypatch.setattr("babelclip.store.id_index.hash", len, raising=False)
    monkeypatch.setattr("babelclip.store.id_file.hash", len, raising=False)
    index = id_index(kind, [["aa", "b", "cc"], ["dd", "e"]])
    assert index.find(["dd", "e", "aa", "xx", "cc", "b", "longer", "e"]).tolist() == [3, 4, 0, -1, 2, 1, -1, 4]


def test_a_writer_finds_ids_beyond_one_block_of_its_file(monkeypatch):
    monkeypatch.setattr("babelclip.store.id_file._BLOCK", 7)
    index = id_index("file", [[str(row) for row in range(40)], [str(row) for row in range(40, 100)]])
    assert index.find([str(row) for row in range(120)]).tolist() == [*range(100), *[-1] * 20]


def test_a_writer_leaves_no_file_of_its_own_behind(tmp_path):
    make_store(tmp_path / "s")
    with EmbeddingStore.open_or_create(tmp_path / "s", **FACTS, dtype="float32") as store:
        assert store.find(["r7", "nope"]).tolist() == [7, -1]
        assert {item.name for item in (tmp_path / "s").iterdir()} == {"manifest.json", "vectors", "rows", ".lock"}


def test_ids_of_some_rows_are_read_across_shards(tmp_path):
    make_store(tmp_path / "s")
    store = EmbeddingStore.open(tmp_path / "s")
    assert store.ids == [f"r{row}" for row in range(len(store))]
    for start, end in ((0, 1), (2, 9), (3, 3), (5, 10**6), (-4, 2)):
        assert store.ids_between(start, end) == store.ids[max(start, 0) : end]


def test_appending_goes_on_where_the_last_writer_stopped(tmp_path):
    first = make_store(tmp_path / "s")
    more = make_vectors(4, seed=1)
    with EmbeddingStore.open_or_create(tmp_path / "s", **FACTS, dtype="float32") as store:
        assert len(store) == 15
        store.append(["a", "b", "c", "d"], more, {"text": list("abcd")})
        np.testing.assert_array_equal(store.read(), np.concatenate([first, more]))
        assert len(store.rows) == 19
    np.testing.assert_array_equal(EmbeddingStore.open(tmp_path / "s").gather([18, 2]), [more[3], first[2]])


def test_open_changes_nothing_in_the_folder(tmp_path):
    make_store(tmp_path / "s")
    (tmp_path / "s/vectors/00003.npy").write_bytes(b"left by a killed writer")
    before = snapshot(tmp_path / "s")
    store = EmbeddingStore.open(tmp_path / "s")
    store.read(), store.gather([1, 14]), store.positions(["r4"]), store.verify(), store.rows
    assert len(store) == 15
    assert snapshot(tmp_path / "s") == before


def test_a_store_opened_for_reading_refuses_to_append(tmp_path):
    make_store(tmp_path / "s")
    with pytest.raises(BabelclipError, match=r"reading only.*open_or_create"):
        EmbeddingStore.open(tmp_path / "s").append(["new"], make_vectors(1), {"text": ["t"]})


def test_leftovers_of_a_killed_writer_are_removed_at_the_next_append_and_nothing_else(tmp_path):
    make_store(tmp_path / "s")
    leftovers = ["vectors/00003.npy", "rows/00003.parquet", "vectors/.00003.npy.17.part", ".manifest.json.17.part"]
    for name in [*leftovers, "vectors/notes.txt"]:
        (tmp_path / "s" / name).write_bytes(b"half")
    with EmbeddingStore.open_or_create(tmp_path / "s", **FACTS, dtype="float32") as store:
        store.append(["new"], make_vectors(1), {"text": ["t"]})
    names = {str(file.relative_to(tmp_path / "s")) for file in (tmp_path / "s").rglob("*") if file.is_file()}
    shards = {f"{kind}/{n:05d}.{end}" for n in range(4) for kind, end in (("vectors", "npy"), ("rows", "parquet"))}
    assert names == shards | {"manifest.json", ".lock", "vectors/notes.txt"}
    assert EmbeddingStore.open(tmp_path / "s").verify() == []


def test_a_second_writer_is_refused_until_the_first_closes(tmp_path):
    first = EmbeddingStore.create(tmp_path / "s", **FACTS)
    with pytest.raises(BabelclipError, match=r"written by process \d+ \(this process.*one writer.*close\(\)"):
        EmbeddingStore.open_or_create(tmp_path / "s", **FACTS)
    with pytest.raises(BabelclipError, match="one writer"):
        EmbeddingStore.create(tmp_path / "s", **FACTS, overwrite=True)
    assert len(EmbeddingStore.open(tmp_path / "s")) == 0
    first.close()
    EmbeddingStore.open_or_create(tmp_path / "s", **FACTS).append(["a"], make_vectors(1))
    # The store above was dropped without close(), and with it went the lock.
    with EmbeddingStore.open_or_create(tmp_path / "s", **FACTS) as store:
        assert len(store) == 1


def test_a_pickled_store_opens_for_reading_and_carries_no_vectors(tmp_path):
    vectors = make_store(tmp_path / "s")
    store = EmbeddingStore.open(tmp_path / "s")
    store.gather([0])
    pickled = pickle.dumps(store)
    assert len(pickled) < 1000
    np.testing.assert_array_equal(pickle.loads(pickled).gather([9, 1]), vectors[[9, 1]])


def test_another_space_is_an_error_that_names_both(tmp_path):
    make_store(tmp_path / "s")
    store = EmbeddingStore.open(tmp_path / "s")
    store.check_space("tiny/space")
    with pytest.raises(SpaceMismatchError, match=r"tiny/space.*openai/ViT-L-14"):
        store.check_space("openai/ViT-L-14")
    with pytest.raises(SpaceMismatchError, match=r"tiny/space.*openai/ViT-L-14"):
        EmbeddingStore.open_or_create(tmp_path / "s", **{**FACTS, "space": "openai/ViT-L-14"}, dtype="float32")


def test_resuming_with_other_facts_names_both_values_and_frees_the_lock(tmp_path):
    make_store(tmp_path / "s")
    with pytest.raises(BabelclipError, match=r"dim is 8, asked for 16.*choose another folder") as error:
        EmbeddingStore.open_or_create(tmp_path / "s", **{**FACTS, "dim": 16}, dtype="float16")
    assert "dtype is 'float32', asked for 'float16'" in str(error.value)
    EmbeddingStore.open_or_create(tmp_path / "s", **FACTS, dtype="float32").close()


@pytest.mark.parametrize(
    ("fact", "message"),
    [
        ({"dtype": "float61"}, "Did you mean 'float16'"),
        ({"kind": "images"}, "Did you mean 'image'"),
        ({"target": "raw"}, "Allowed: penultimate, pooled, projected"),
        ({"dim": 0}, "clip.embed_dim"),
        ({"space": ""}, "clip.space"),
    ],
)
def test_a_fact_that_is_not_allowed_names_what_is(tmp_path, fact, message):
    with pytest.raises(BabelclipError, match=message):
        EmbeddingStore.create(tmp_path / "s", **{**FACTS, **fact})
    assert not (tmp_path / "s").exists()


def test_create_refuses_a_store_that_is_there_unless_told_to_overwrite(tmp_path):
    make_store(tmp_path / "s")
    with pytest.raises(BabelclipError, match=r"already holds.*open_or_create.*overwrite=True"):
        EmbeddingStore.create(tmp_path / "s", **FACTS)
    with EmbeddingStore.create(tmp_path / "s", **FACTS, overwrite=True) as store:
        assert len(store) == 0
        store.append(["r0"], make_vectors(1))
    assert [file.name for file in (tmp_path / "s/vectors").iterdir()] == ["00000.npy"]


def test_create_refuses_a_folder_with_other_things_in_it(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(BabelclipError, match=r"holds other things.*another path"):
        EmbeddingStore.create(tmp_path, **FACTS)


def test_create_takes_a_folder_that_a_killed_create_left(tmp_path):
    for name in ("vectors", "rows"):
        (tmp_path / "s" / name).mkdir(parents=True)
    (tmp_path / "s/.lock").write_text("17")
    assert len(EmbeddingStore.open_or_create(tmp_path / "s", **FACTS)) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors_with_nan_or_infinity_are_refused_and_named(tmp_path, bad):
    vectors = make_vectors(4)
    vectors[2, 3] = bad
    with EmbeddingStore.create(tmp_path / "s", **FACTS) as store:
        with pytest.raises(BabelclipError, match=r"1 of 4 vectors contain NaN or infinity, first id 'c'.*look at"):
            store.append(["a", "b", "c", "d"], vectors)
        assert len(store) == 0
        assert not list((tmp_path / "s/vectors").iterdir())


def test_vectors_too_large_for_float16_name_the_cure(tmp_path):
    vectors = make_vectors(2)
    vectors[1, 0] = 70_000
    with EmbeddingStore.create(tmp_path / "s", **FACTS, dtype="float16") as store:
        with pytest.raises(BabelclipError, match=r"first id 'b' \(largest value 70000, allowed 65504\).*float32"):
            store.append(["a", "b"], vectors)
    with EmbeddingStore.create(tmp_path / "t", **FACTS, dtype="float32") as store:
        store.append(["a", "b"], vectors)


def test_a_store_marked_normalized_takes_only_vectors_of_length_one(tmp_path):
    vectors = make_vectors(3)
    with EmbeddingStore.create(tmp_path / "s", **{**FACTS, "normalized": True}) as store:
        with pytest.raises(BabelclipError, match=r"length 1, first id 'a'.*normalize=True"):
            store.append(["a", "b", "c"], vectors)
        store.append(["a", "b", "c"], vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@pytest.mark.parametrize(
    "vectors", [np.ones((2, 9), np.float32), np.ones((3, 8), np.float32), np.ones((2, 8), np.int64), np.ones(8)]
)
def test_vectors_of_another_shape_or_type_are_refused(tmp_path, vectors):
    with EmbeddingStore.create(tmp_path / "s", **FACTS) as store:
        with pytest.raises(BabelclipError, match=r"for 2 ids. This store takes floats of shape \(2, 8\)"):
            store.append(["a", "b"], vectors)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "b", "a"], r"occur twice, first \['a'\]"),
        ([1, "1", 2], r"occur twice, first \['1'\]"),
        (["", "b", "c"], "non-empty string"),
        ([1.5, "b", "c"], "whole number"),
        ([None, True, "c"], r"2 of 3 ids cannot be used"),
        (["\ud800", "b", "c"], "column 'id' cannot be stored"),
    ],
)
def test_ids_that_cannot_name_a_row_are_refused(tmp_path, ids, message):
    with EmbeddingStore.create(tmp_path / "s", **FACTS) as store:
        with pytest.raises(BabelclipError, match=message):
            store.append(ids, make_vectors(3))


def test_appending_nothing_is_an_error(tmp_path):
    with EmbeddingStore.create(tmp_path / "s", **FACTS) as store:
        with pytest.raises(BabelclipError, match=r"0 rows.*skip empty batches"):
            store.append([], np.empty((0, 8), np.float32))


def test_an_id_that_the_store_has_is_refused_also_after_reopening(tmp_path):
    make_store(tmp_path / "s")
    with EmbeddingStore.open_or_create(tmp_path / "s", **FACTS, dtype="float32") as store:
        with pytest.raises(BabelclipError, match=r"1 of 2 ids are already in .*\['r7'\]"):
            store.append(["new", "r7"], make_vectors(2), {"text": ["a", "b"]})
        store.append(["new"], make_vectors(1), {"text": ["a"]})
        with pytest.raises(BabelclipError, match=r"\['new'\]"):
            store.append(["new"], make_vectors(1), {"text": ["a"]})


def test_columns_keep_their_names_and_types_in_every_shard(tmp_path):
    with EmbeddingStore.create(tmp_path / "s", **FACTS) as store:
        store.append(["a"], make_vectors(1), {"lang": [None], "count": [1]})
        store.append(["b"], make_vectors(1), {"count": [2], "lang": ["sv"]})
        store.append(["c"], make_vectors(1), {"count": [None], "lang": [None]})
        assert store.rows.to_pydict() == {"id": ["a", "b", "c"], "lang": [None, "sv", None], "count": [1, 2, None]}
        for columns in ({"lang": ["fi"]}, {"lang": ["fi"], "count": [1], "more": [1]}, None):
            with pytest.raises(BabelclipError, match="takes \\['count', 'lang'\\]"):
                store.append(["d"], make_vectors(1), columns)
        for columns in ({"lang": [5], "count": [1]}, {"lang": ["fi"], "count": ["one"]}):
            with pytest.raises(BabelclipError, match=r"cannot be stored as .* convert"):
                store.append(["d"], make_vectors(1), columns)
        with pytest.raises(BabelclipError, match="'lang' has 2 values for 1 ids"):
            store.append(["d"], make_vectors(1), {"lang": ["fi", "sv"], "count": [1]})
        assert len(store) == 3


def test_a_store_without_rows_reads_as_empty(tmp_path):
    EmbeddingStore.create(tmp_path / "s", **FACTS).close()
    store = EmbeddingStore.open(tmp_path / "s")
    assert (len(store), store.ids, store.rows.num_rows, store.verify()) == (0, [], 0, [])
    assert store.read().shape == store.gather([]).shape == (0, 8)


@pytest.mark.parametrize("file", ["vectors/00001.npy", "rows/00001.parquet"])
def test_a_truncated_or_missing_file_is_found_when_the_store_is_opened(tmp_path, file):
    make_store(tmp_path / "s")
    path = tmp_path / "s" / file
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BabelclipError, match=rf"1 place.*{file} has {size - 1} bytes instead of {size}.*copy"):
        EmbeddingStore.open(tmp_path / "s")
    path.unlink()
    with pytest.raises(BabelclipError, match=rf"{file} is missing"):
        EmbeddingStore.open(tmp_path / "s")


def test_a_shard_of_the_same_size_but_another_header_is_found_when_the_store_is_opened(tmp_path):
    make_store(tmp_path / "s")
    path = tmp_path / "s/vectors/00000.npy"
    np.save(path, np.load(path).reshape(4, 10))
    with pytest.raises(BabelclipError, match=r"\(4, 10\) float32 instead of \(5, 8\) float32"):
        EmbeddingStore.open(tmp_path / "s")
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(BabelclipError, match=r"not a .npy file"):
        EmbeddingStore.open(tmp_path / "s")


@pytest.mark.parametrize("file", ["vectors/00002.npy", "rows/00000.parquet"])
def test_verify_finds_a_single_changed_bit(tmp_path, file):
    make_store(tmp_path / "s")
    path = tmp_path / "s" / file
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    problems = EmbeddingStore.open(tmp_path / "s").verify()
    assert len(problems) == 1
    assert file in problems[0]


def test_a_file_cut_while_the_store_is_open_is_an_error_and_not_a_crash(tmp_path):
    make_store(tmp_path / "s")
    store = EmbeddingStore.open(tmp_path / "s")
    with (tmp_path / "s/vectors/00001.npy").open("r+b") as file:
        file.truncate(150)
    with pytest.raises(BabelclipError, match="changed while the store was open"):
        store.gather([6])
    assert any("00001.npy" in problem for problem in store.verify())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.pop("dim"), "damaged.*dim"),
        (lambda manifest: manifest["shards"][0].pop("rows_sha256"), "damaged"),
        (lambda manifest: manifest["shards"].pop(), "counts 15 rows, but its shards hold 8"),
        (lambda manifest: manifest.update(version=2), "version 2.*newer babelclip"),
        (lambda manifest: manifest.update(format="other"), "not the manifest of an embedding store"),
    ],
)
def test_a_damaged_manifest_is_an_error(tmp_path, change, message):
    make_store(tmp_path / "s")
    manifest = json.loads((tmp_path / "s/manifest.json").read_text())
    change(manifest)
    (tmp_path / "s/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BabelclipError, match=message):
        EmbeddingStore.open(tmp_path / "s")


def test_a_folder_without_a_store_is_an_error_that_says_what_to_give(tmp_path):
    with pytest.raises(BabelclipError, match=r"not an embedding store.*Give a folder"):
        EmbeddingStore.open(tmp_path / "nowhere")


def test_a_failed_write_leaves_the_store_as_it_was(tmp_path, monkeypatch):
    make_store(tmp_path / "s")
    with EmbeddingStore.open_or_create(tmp_path / "s", **FACTS, dtype="float32") as store:
        with monkeypatch.context() as patched:
            patched.setattr("babelclip.store.layout.write_json", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
            with pytest.raises(OSError, match="disk full"):
                store.append(["new"], make_vectors(1), {"text": ["t"]})
        assert len(store) == 15
        assert len(EmbeddingStore.open(tmp_path / "s")) == 15
        store.append(["new"], make_vectors(1), {"text": ["t"]})
        np.testing.assert_array_equal(store.gather(store.positions(["new"])), make_vectors(1))


# -- killed writers ------------------------------------------------------------------------------------------------

KILLED_SHARDS, KILLED_ROWS, KILLED_DIM = 40, 64, 32
# Appends the shards that are not there yet and prints the number of each after append() has returned.
WRITER = f"""
import sys
import tempfile
import numpy as np
from babelclip.store import EmbeddingStore

store = EmbeddingStore.open_or_create(sys.argv[1], space="s", model="m", dim={KILLED_DIM}, normalized=False)
for number in range(len(store) // {KILLED_ROWS}, {KILLED_SHARDS}):
    rows = range(number * {KILLED_ROWS}, (number + 1) * {KILLED_ROWS})
    vectors = np.random.default_rng(number).standard_normal(({KILLED_ROWS}, {KILLED_DIM})).astype(np.float32)
    store.append(rows, vectors, {{"text": [f"text {{row}}" for row in rows]}})
    print(number, flush=True)
"""


def expected_shard(number):
    return np.random.default_rng(number).standard_normal((KILLED_ROWS, KILLED_DIM)).astype(np.float16)


def run_writer(folder, acknowledgements, delay):
    """Starts the writer, kills it `delay` seconds after so many acknowledgements, returns the last one or None."""
    command = [sys.executable, "-c", WRITER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as writer:
        lines = list(itertools.islice(writer.stdout, acknowledgements))
        time.sleep(delay)
        writer.kill()
        lines += writer.stdout.readlines()
    # The kill may cut the last line.
    complete = [line for line in lines if line.endswith("\n")]
    return int(complete[-1]) if complete else None


class Killed(BaseException):
    """Stands for the end of the process in the test below."""


def test_an_append_that_ends_at_any_step_leaves_the_shard_whole_or_absent(tmp_path, monkeypatch):
    vectors = make_vectors(20)

    def append_until(step, folder):
        """Appends a second shard, and dies at the given sync or rename; returns whether append came to its end."""
        steps = itertools.count()

        def dying(function):
            def wrapped(*arguments):
                if next(steps) == step:
                    raise Killed
                return function(*arguments)

            return wrapped

        with EmbeddingStore.open_or_create(folder, **FACTS, dtype="float32") as store, monkeypatch.context() as patched:
            patched.setattr("os.fsync", dying(os.fsync))
            patched.setattr("os.replace", dying(os.replace))
            try:
                store.append(range(10, 20), vectors[10:])
            except Killed:
                return False
        return True

    rows_left = []
    for step in itertools.count():
        folder = tmp_path / str(step)
        with EmbeddingStore.create(folder, **FACTS, dtype="float32") as store:
            store.append(range(10), vectors[:10])
        ended = append_until(step, folder)
        store = EmbeddingStore.open(folder)
        assert store.verify() == []
        np.testing.assert_array_equal(store.read(), vectors[: len(store)])
        if ended:
            break
        rows_left.append(len(store))
        if len(store) == 10:
            assert append_until(-1, folder)
        assert EmbeddingStore.open(folder).ids == [str(row) for row in range(20)]
    assert len(store) == 20
    # Two files and the manifest: each is synced, renamed, and its folder synced. Only the last step comes after
    # the shard is named.
    assert rows_left == [10] * 8 + [20]


def test_no_acknowledged_row_is_lost_when_the_writer_is_killed(tmp_path):
    chance = random.Random(20)
    folder = tmp_path / "killed"
    kept = []
    for _ in range(4):
        last = run_writer(folder, acknowledgements=chance.randint(1, 5), delay=chance.uniform(0, 0.012))
        store = EmbeddingStore.open(folder)
        shards = len(store) // KILLED_ROWS
        kept.append(shards)
        assert last is not None
        # One shard more than the last line is possible: killed between the end of append() and print().
        assert shards in (last + 1, last + 2)
        assert store.verify() == []
        assert store.ids == [str(row) for row in range(shards * KILLED_ROWS)]
        for number, shard in enumerate(store.vectors()):
            assert shard.tobytes() == expected_shard(number).tobytes()
    assert kept == sorted(kept)
    assert kept[-1] < KILLED_SHARDS, "the writer ended before it was killed: the test proves nothing"

    for path in (folder, tmp_path / "uninterrupted"):
        subprocess.run([sys.executable, "-c", WRITER, str(path)], check=True, stdout=subprocess.DEVNULL)
    for part in ("vectors", "rows"):
        names = sorted(file.name for file in (folder / part).iterdir())
        assert names == sorted(file.name for file in (tmp_path / "uninterrupted" / part).iterdir())
        assert len(names) == KILLED_SHARDS
    for name in sorted(file.name for file in (folder / "vectors").iterdir()):
        resumed, whole = (path / "vectors" / name for path in (folder, tmp_path / "uninterrupted"))
        assert resumed.read_bytes() == whole.read_bytes()
    resumed, whole = EmbeddingStore.open(folder), EmbeddingStore.open(tmp_path / "uninterrupted")
    assert resumed.rows.equals(whole.rows)


def test_the_example_in_the_documentation_runs():
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_a_store_with_any_damaged_byte_is_read_or_refused_by_the_name_of_a_file(tmp_path):
    write_store(tmp_path / "store", [f"id {number}" for number in range(7)], columns={"lang": ["sv"] * 7})
    refused = 0
    for file in sorted((tmp_path / "store" / "rows").iterdir()):
        content = file.read_bytes()
        for place in range(0, len(content), 7):
            for change in (0x80, 0x01):
                file.write_bytes(content[:place] + bytes([content[place] ^ change]) + content[place + 1 :])
                store = EmbeddingStore.open(tmp_path / "store")
                for read in (lambda s: s.rows, lambda s: s.find(["id 1"]), lambda s: list(s.blocks()), lambda s: s.ids):
                    try:
                        read(store)
                    except BabelclipError as error:
                        refused += 1
                        message = str(error)
                        assert str(tmp_path / "store") in message
        file.write_bytes(content)
    assert refused > 50


def test_vectors_that_are_gone_after_opening_are_named(tmp_path):
    store = write_store(tmp_path / "store", ["a", "b"])
    (tmp_path / "store" / "vectors" / "00000.npy").unlink()
    for read in (store.read, lambda: list(store.blocks())):
        with pytest.raises(BabelclipError, match=r"00000\.npy cannot be read .* Copy it again"):
            read()
