"""`babelclip collection` on a small collection."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from babelclip.cli.collection import collection as verb
from babelclip.errors import BabelclipError
from babelclip.search.collection import open_collection
from babelclip.search.recall import caption_queries
from tests.search.collections import DIM, ROWS, files_with, make_collection


@pytest.fixture
def url(tmp_path):
    return make_collection("lance", tmp_path).url


def run(*arguments, **more):
    result = CliRunner().invoke(verb, [str(argument) for argument in arguments], catch_exceptions=False, **more)
    assert result.exit_code == 0, result.output
    return result.output


def test_info_tells_what_is_there_as_text_and_json(url):
    run("index", url)
    content = json.loads(run("info", url, "--json", "--where", "lang = 'sv'"))
    assert content["rows"] == ROWS
    assert content["space"] == "test/space"
    assert content["matching"] == open_collection(url).count() - content["rows"] + content["matching"]
    assert content["report"]["kind"] == "none"
    text = run("info", url)
    assert "search is exact" in text
    assert "price float" in text


def test_export_writes_a_folder_that_numpy_reads(url, tmp_path):
    assert "layout clip-retrieval" in run("export", url, "--to", "clip-retrieval", "--out", tmp_path / "out")
    assert np.load(tmp_path / "out" / "img_emb" / "img_emb_0.npy").shape == (ROWS, DIM)


def test_delete_asks_first_and_then_removes_from_the_disk(url, tmp_path):
    blob = open_collection(url).get(["r1"], columns=["thumbnail"])["thumbnail"][0].as_py()
    assert blob
    refused = CliRunner().invoke(verb, ["delete", url, "--id", "r1"], input="n\n")
    assert refused.exit_code == 1
    assert f"Delete 1 of {ROWS} rows" in refused.output
    assert open_collection(url).count() == ROWS
    assert f"1 rows deleted, {ROWS - 1} left" in run("delete", url, "--id", "r1", "--yes")
    assert open_collection(url).stats().versions <= 2
    with pytest.raises(BabelclipError, match="--id or --where"):
        CliRunner().invoke(verb, ["delete", url], catch_exceptions=False)
    assert files_with(tmp_path, b"r1,") == []


def test_optimize_says_what_is_left(url):
    assert f"{ROWS} rows" in run("optimize", url, "--keep-hours", 0)


def test_captions_are_sampled_as_text_queries(url):
    collection = open_collection(url)
    asked = []
    vectors = caption_queries(collection, lambda texts: asked.extend(texts) or np.ones((len(texts), DIM)), count=5)
    assert vectors is None  # few distinct captions
    rows = [f"caption {n}\nsecond line" for n in range(40)]
    writer = open_collection(url, write=True)
    table = next(iter(collection.scan(columns=[], with_vectors=True, batch_rows=40)))
    import pyarrow as pa

    table = pa.table({"id": table["id"], "vector": table["vector"], "caption": rows})
    writer.upsert(table)
    vectors = caption_queries(writer, lambda texts: asked.extend(texts) or np.ones((len(texts), DIM)), count=5)
    assert vectors.shape == (5, DIM)
    assert all("\n" not in text for text in asked)
    assert len(set(asked)) == 5
