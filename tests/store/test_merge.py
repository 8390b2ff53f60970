from __future__ import annotations

import json
import os

import numpy as np
import pytest

from babelclip.errors import BabelclipError, SpaceMismatchError
from babelclip.store import EmbeddingStore, writer
from babelclip.store.merge import merge_stores
from tests.store.stores import FACTS, content, killed_until_done, vectors_of, write_store


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(writer, "SHARD_ROWS", 4)


def test_rows_keep_their_order_and_vectors_and_come_in_equal_shards(tmp_path):
    first = write_store(tmp_path / "a", [f"a{row}" for row in range(7)])
    second = write_store(tmp_path / "b", [f"b{row}" for row in range(6)], vectors_of(6, seed=1))
    merged = merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "m")
    assert merged.ids == first.ids + second.ids
    np.testing.assert_array_equal(merged.read(), np.concatenate([first.read(), second.read()]))
    assert [shard.count for shard in merged.shards] == [4, 4, 4, 1]
    assert merged.facts == first.facts
    assert merged.verify() == []


def test_the_same_merge_gives_the_same_bytes_and_repeated_does_nothing(tmp_path):
    for name in ("a", "b"):
        write_store(tmp_path / name, [f"{name}{row}" for row in range(6)])
    for out in ("m1", "m2"):
        merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / out)
    assert content(tmp_path / "m1") == content(tmp_path / "m2")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "m1").rglob("*.*") if file.name != ".lock"}
    merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "m1")
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_a_column_that_one_store_lacks_is_null_there_and_keeps_its_type(tmp_path):
    write_store(tmp_path / "a", ["a", "b"], columns={"lang": ["sv", "de"]})
    write_store(tmp_path / "b", ["c", "d"], columns={"width": [3, None], "lang": [None, None]})
    rows = merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "m").rows
    assert rows.to_pydict() == {
        "id": ["a", "b", "c", "d"],
        "lang": ["sv", "de", None, None],
        "width": [None, None, 3, None],
    }
    assert str(rows.schema.field("width").type) == "int64"


def test_columns_of_two_types_are_refused_before_anything_is_written(tmp_path):
    write_store(tmp_path / "a", ["a"], columns={"year": [1999]})
    write_store(tmp_path / "b", ["b"], columns={"year": ["1999"]})
    with pytest.raises(BabelclipError, match=r"'year' holds int64 in .*/a and string in .*/b"):
        merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"space": "other"}, r"different embedding spaces: 'tiny/space' against 'other'"),
        ({"dim": 4}, r"/a and .*/b cannot be merged: dim is 8 and 4"),
        ({"dtype": "float32"}, r"dtype is 'float16' and 'float32'"),
        ({"target": "pooled"}, r"target is 'projected' and 'pooled'"),
        ({"kind": "image"}, r"kind is 'text' and 'image'"),
        ({"model": "elsewhere"}, r"model is 'tiny-teacher' and 'elsewhere'.*--model"),
    ],
)
def test_stores_of_different_kinds_are_refused_naming_both(tmp_path, facts, message):
    write_store(tmp_path / "a", ["a"])
    write_store(tmp_path / "b", ["b"], **facts)
    with pytest.raises(BabelclipError, match=message) as caught:
        merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "m")
    assert isinstance(caught.value, SpaceMismatchError) == ("space" in facts)
    assert not (tmp_path / "m").exists()


def test_normalised_and_raw_vectors_are_refused_and_models_join_under_a_given_name(tmp_path):
    write_store(tmp_path / "a", ["a"], vectors_of(1, unit=True), normalized=True)
    write_store(tmp_path / "b", ["b"])
    with pytest.raises(BabelclipError, match="normalized is True and False"):
        merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "m")
    write_store(tmp_path / "c", ["c"], model="elsewhere")
    assert merge_stores([tmp_path / "b", tmp_path / "c"], tmp_path / "m", model="both").model == "both"


def test_an_id_in_two_stores_is_an_error_unless_told_what_to_do(tmp_path):
    vectors = vectors_of(9)
    write_store(tmp_path / "a", list("abcdef"), vectors[:6])
    write_store(tmp_path / "b", list("xbyf"), vectors[[6, 1, 7, 5]])
    write_store(tmp_path / "c", list("ez"), vectors[[8, 8]])
    with pytest.raises(BabelclipError, match=r"2 of 4 ids of .*/b are in an earlier store too, first \['b', 'f'\]"):
        merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "m1")
    same = merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "m2", on_duplicate="same")
    assert same.ids == list("abcdefxy")
    np.testing.assert_array_equal(same.read(), vectors[[0, 1, 2, 3, 4, 5, 6, 7]])
    with pytest.raises(BabelclipError, match=r"1 of 2 ids of .*/c have another vector there, first \['e'\]"):
        merge_stores([tmp_path / "a", tmp_path / "b", tmp_path / "c"], tmp_path / "m3", on_duplicate="same")
    first = merge_stores([tmp_path / "a", tmp_path / "b", tmp_path / "c"], tmp_path / "m4", on_duplicate="first")
    assert first.ids == list("abcdefxyz")
    np.testing.assert_array_equal(first.gather([4]), vectors[[4]])
    with pytest.raises(BabelclipError, match="Did you mean 'first'"):
        merge_stores([tmp_path / "a"], tmp_path / "m5", on_duplicate="frist")


def test_a_store_is_neither_merged_twice_nor_into_itself_nor_into_one_with_other_rows(tmp_path):
    write_store(tmp_path / "a", ["a"])
    write_store(tmp_path / "b", ["b"])
    write_store(tmp_path / "c", ["c"])
    for sources, out in ((["a", "a"], "m"), (["a", "b"], "b"), ([], "m")):
        with pytest.raises(BabelclipError, match="distinct stores"):
            merge_stores([tmp_path / name for name in sources], tmp_path / out)
    with pytest.raises(BabelclipError, match="holds 1 vectors that were not put there"):
        merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "m")
    with pytest.raises(BabelclipError, match="made by another command: sources differ"):
        merge_stores([tmp_path / "a", tmp_path / "c"], tmp_path / "m")


def test_a_merge_that_was_stopped_and_changed_since_does_not_go_on(tmp_path):
    sources = [write_store(tmp_path / name, [name]).path for name in "ab"]
    merged = merge_stores(sources, tmp_path / "m").path
    note = json.loads((merged / "origin.json").read_text())
    (merged / "origin.json").write_text(json.dumps({**note, "complete": False}))
    with EmbeddingStore.open_or_create(merged, **FACTS) as store:
        store.append(["x"], vectors_of(1))
    with pytest.raises(BabelclipError, match=r"ends with id 'x', which none of the stores.*another folder"):
        merge_stores(sources, merged)


def test_a_store_written_anew_over_a_merged_one_is_no_longer_called_merged(tmp_path):
    write_store(tmp_path / "a", ["a"])
    merge_stores([tmp_path / "a"], tmp_path / "m")
    write_store(tmp_path / "m", ["x"], overwrite=True)
    assert not (tmp_path / "m/origin.json").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("on_duplicate", ["error", "first"])
def test_a_merge_killed_again_and_again_ends_with_the_same_bytes(tmp_path, on_duplicate):
    count = 120
    shift = 0 if on_duplicate == "error" else 50  # so many ids of the second store are in the first
    write_store(tmp_path / "a", [f"r{row}" for row in range(count)], shard=31, columns={"n": list(range(count))})
    write_store(
        tmp_path / "b", [f"r{row + count - shift}" for row in range(count)], vectors_of(count, seed=1), shard=17
    )
    sources = [tmp_path / "a", tmp_path / "b"]
    merge_stores(sources, tmp_path / "whole", on_duplicate=on_duplicate)

    def rows_there():
        manifest = tmp_path / "cut/manifest.json"
        return json.loads(manifest.read_text())["count"] if manifest.exists() else 0

    kills = killed_until_done(
        lambda: merge_stores(sources, tmp_path / "cut", on_duplicate=on_duplicate), rows_there, 2 * count - shift
    )
    assert kills > 1
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    assert len(EmbeddingStore.open(tmp_path / "cut")) == 2 * count - shift
