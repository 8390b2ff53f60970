"""lancedb brings one version of Lance, pylance another: each opens what the other wrote, rows, versions and indexes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from babelclip.search.collection import ImageSpace, create_collection, open_collection
from babelclip.search.columns import checked_rows, vector_array

lance = pytest.importorskip("lance")
pytest.importorskip("lancedb")
DIM = 16
SPACE = ImageSpace("test/tiny", "m", "", DIM, "p", "float32", ())


def rows(first: int, count: int) -> pa.Table:
    vectors = np.random.default_rng(first).normal(size=(count, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [f"{number:05d}" for number in range(first, first + count)]
    return pa.table({"id": names, "vector": vector_array(vectors), "caption": names})


@pytest.fixture
def url(tmp_path):
    collection = create_collection(tmp_path / "c.lance", SPACE, columns={}, roots={})
    collection.upsert(rows(0, 300))
    return tmp_path / "c.lance"


def ids(table: pa.Table) -> list[str]:
    names: list[str] = table["id"].to_pylist()
    return names


def test_pylance_reads_what_lancedb_wrote(url):
    with_pylance = lance.dataset(str(url / "pictures.lance")).to_table()
    assert ids(with_pylance) == ids(rows(0, 300))
    assert np.array_equal(with_pylance["vector"].to_pylist(), rows(0, 300)["vector"].to_pylist())


def test_lancedb_reads_and_goes_on_with_what_pylance_wrote(url):
    table = str(url / "pictures.lance")
    made = checked_rows(rows(300, 300), open_collection(url).columns, DIM)
    fragments = lance.fragment.write_fragments(made, table, mode="append")
    assert open_collection(url).count() == 300
    dataset = lance.dataset(table)
    lance.LanceDataset.commit(dataset, lance.LanceOperation.Append(fragments), read_version=dataset.version)
    collection = open_collection(url, write=True)
    assert [name for batch in collection.scan() for name in batch["id"].to_pylist()] == ids(rows(0, 600))
    collection.upsert(rows(590, 20))
    assert collection.delete(ids=["00301"]) == 1
    collection.optimize(keep_versions_for=0)
    assert lance.dataset(table).count_rows() == collection.count() == 609


@pytest.mark.parametrize("writer", ["lancedb", "pylance"])
def test_index_of_one_is_searched_by_the_other(url, writer):
    collection, table = open_collection(url, write=True), str(url / "pictures.lance")
    query = np.array(rows(0, 300)["vector"].to_pylist()[7], np.float32)
    if writer == "lancedb":
        from babelclip.search.collection import IndexSpec

        collection.build_index(IndexSpec("ivf_rq", partitions=2, queries=10))
        nearest = {"column": "vector", "q": query, "k": 3, "metric": "dot", "nprobes": 2, "refine_factor": 10}
        found = lance.dataset(table).to_table(nearest=nearest, columns=["id"])
        assert found["id"][0].as_py() == "00007"
    else:
        dataset = lance.dataset(table)
        dataset.create_index("vector", "IVF_RQ", metric="dot", num_partitions=2, num_bits=1, replace=True)
        dataset.create_scalar_index("id", "BTREE", replace=True)
        collection = open_collection(url)
        assert collection.stats().index == "ivf_rq"
        assert collection.search(query, 3)["id"][0].as_py() == "00007"
        assert ids(collection.get(["00009"])) == ["00009"]
