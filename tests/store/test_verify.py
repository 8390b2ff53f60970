from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from babelclip.errors import BabelclipError
from babelclip.store import EmbeddingStore, layout
from babelclip.store.info import describe
from babelclip.store.verify import verify_store
from tests.store.stores import vectors_of, write_store


def sealed(path):
    """Notes the files as they are: the checksums are right, whatever somebody wrote into them."""
    facts, shards = layout.read_manifest(path)
    shards = [layout.describe_shard(path, number, shard.count) for number, shard in enumerate(shards)]
    layout.write_manifest(path, facts, shards)


def overwrite_vector(path, number, row, value):
    file = layout.vectors_file(path, number)
    vectors = np.load(file)
    vectors[row] = value
    np.save(file, vectors)


def test_a_whole_store_has_no_problem(tmp_path):
    write_store(tmp_path / "s", [f"r{row}" for row in range(12)], vectors_of(12, unit=True), normalized=True)
    assert verify_store(tmp_path / "s") == []


def test_every_damaged_file_is_listed_once_also_where_the_store_no_longer_opens(tmp_path):
    write_store(tmp_path / "s", [f"r{row}" for row in range(20)])
    files = [tmp_path / "s" / name for name in ("vectors/00000.npy", "vectors/00002.npy", "rows/00002.parquet")]
    files[0].write_bytes(files[0].read_bytes()[:-3])
    files[1].unlink()
    files[2].write_bytes(files[2].read_bytes()[::-1])
    with pytest.raises(BabelclipError):
        EmbeddingStore.open(tmp_path / "s")
    problems = verify_store(tmp_path / "s")
    assert [problem.split(" ")[0] for problem in problems] == [str(file) for file in files]
    assert ["bytes instead of" in problems[0], "missing" in problems[1], "SHA-256" in problems[2]] == [True] * 3


def test_values_that_a_store_may_not_hold_are_found_behind_right_checksums(tmp_path):
    write_store(tmp_path / "s", [f"r{row}" for row in range(12)], vectors_of(12, unit=True), normalized=True)
    overwrite_vector(tmp_path / "s", 0, 3, np.nan)
    overwrite_vector(tmp_path / "s", 0, 4, np.inf)
    overwrite_vector(tmp_path / "s", 2, 1, 0.5)
    sealed(tmp_path / "s")
    first, second = verify_store(tmp_path / "s")
    assert first.endswith("00000.npy holds 2 vectors with NaN or infinity")
    assert second.endswith("00002.npy holds 1 vectors whose length is not 1 although the store is normalized")


def test_an_id_that_occurs_twice_is_found_and_named(tmp_path):
    write_store(tmp_path / "s", [f"r{row}" for row in range(15)])
    rows = pa.table({"id": ["r10", "r2", "r12", "r0", "new"]})
    pq.write_table(rows, tmp_path / "s/rows/00002.parquet")
    sealed(tmp_path / "s")
    (problem,) = verify_store(tmp_path / "s")
    assert problem.endswith("rows/00002.parquet holds 2 ids that an earlier row has, first ['r2', 'r0']")


@pytest.mark.parametrize(
    "rows", [{"id": ["a"]}, {"id": [1, 2, 3]}, {"id": ["a", None, "b"]}, {"name": ["a", "b", "c"]}]
)
def test_rows_without_an_id_each_are_found(tmp_path, rows):
    write_store(tmp_path / "s", ["x", "y", "z"])
    pq.write_table(pa.table(rows), tmp_path / "s/rows/00000.parquet")
    sealed(tmp_path / "s")
    (problem,) = verify_store(tmp_path / "s")
    assert "rows/00000.parquet has" in problem
    assert "instead of 3" in problem


def test_info_counts_rows_bytes_columns_and_languages(tmp_path):
    langs = ["sv", "de", "sv", None, "sv", "de"]
    store = write_store(tmp_path / "s", list("abcdef"), shard=4, columns={"lang": langs, "width": list(range(6))})
    told = describe(tmp_path / "s")
    assert {name: told[name] for name in dataclasses.asdict(store.facts)} == dataclasses.asdict(store.facts)
    assert (told["rows"], told["shards"], told["unfinished"]) == (6, 2, False)
    assert told["bytes"] == sum(file.stat().st_size for file in (tmp_path / "s").glob("*/*"))
    assert told["columns"] == {"id": "string", "lang": "string", "width": "int64"}
    assert list(told["languages"].items()) == [("sv", 3), ("de", 2), ("", 1)]


def test_info_of_an_empty_store_and_of_none(tmp_path):
    EmbeddingStore.create(tmp_path / "s", space="s", model="m", dim=2, normalized=False).close()
    assert (describe(tmp_path / "s")["rows"], describe(tmp_path / "s")["columns"]) == (0, {"id": "string"})
    assert verify_store(tmp_path / "s") == []
    with pytest.raises(BabelclipError, match="not an embedding store"):
        describe(tmp_path)
