from __future__ import annotations

import json

import numpy as np
import pytest

from babelclip.store import EmbeddingStore
from tests.cli.test_cli import call
from tests.store.stores import vectors_of, write_store


@pytest.fixture
def folder(tmp_path):
    write_store(tmp_path / "s", [f"r{row}" for row in range(7)], columns={"lang": ["sv"] * 4 + ["de"] * 3})
    return tmp_path / "s"


def test_info_shows_facts_rows_columns_and_languages(folder):
    code, out, error = call("store", "info", folder)
    assert (code, error) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert (lines["space"], lines["rows"], lines["shards"]) == ("tiny/space", "7", "2")
    assert (lines["normalized"], lines["columns"], lines["languages"]) == ("no", "id string, lang string", "sv 4, de 3")
    code, out, _ = call("store", "info", folder, "--json")
    assert (code, json.loads(out)["languages"]) == (0, {"sv": 4, "de": 3})


def test_verify_lists_every_damaged_file_and_exits_with_1(folder):
    code, out, _ = call("store", "verify", folder)
    assert (code, out) == (0, f"{folder}: whole\n")
    for name in ("vectors/00000.npy", "rows/00001.parquet"):
        (folder / name).write_bytes(b"nonsense")
    code, out, error = call("store", "verify", folder)
    assert code == 1
    assert [line.split(" ")[0] for line in out.splitlines()] == [
        str(folder / "vectors/00000.npy"),
        str(folder / "rows/00001.parquet"),
    ]
    assert error == f"{folder}: 2 damaged files\n"
    code, out, _ = call("store", "verify", folder, "--json")
    assert (code, json.loads(out)["whole"], len(json.loads(out)["problems"])) == (1, False, 2)
    (folder / "manifest.json").write_text("{")
    code, out, error = call("store", "verify", folder)
    assert (code, out) == (1, "")
    assert error.startswith("error: ")


def test_merge_says_what_it_left_out_and_refuses_another_space(folder, tmp_path):
    write_store(tmp_path / "t", ["r0", "new"], vectors_of(2, seed=5))
    code, out, _ = call("store", "merge", folder, tmp_path / "t", "--out", tmp_path / "m", "--on-duplicate", "first")
    assert code == 0
    assert out.startswith(f"{tmp_path / 'm'}: 8 vectors of 8 dimensions, float16, space tiny/space; 1 rows")
    write_store(tmp_path / "u", ["x"], space="other")
    code, out, error = call("store", "merge", folder, tmp_path / "u", "--out", tmp_path / "m2")
    assert (code, out) == (1, "")
    assert "'tiny/space' against 'other'" in error


@pytest.mark.parametrize("layout", ["clip-retrieval", "dataset", "npy"])
def test_a_store_is_exported_and_imported_without_a_further_flag(folder, tmp_path, layout):
    code, out, _ = call("store", "export", folder, "--to", layout, "--out", tmp_path / "e")
    assert code == 0
    assert (" scaled to length 1," in out) == (layout == "clip-retrieval")
    code, out, _ = call("store", "import", tmp_path / "e", "--out", tmp_path / "back")
    assert (code, out) == (0, f"{tmp_path / 'back'}: 7 vectors of 8 dimensions, float16, space tiny/space\n")
    back, store = EmbeddingStore.open(tmp_path / "back"), EmbeddingStore.open(folder)
    assert back.rows.equals(store.rows)
    cosines = (back.read() * store.read()).sum(1) / np.linalg.norm(back.read(), axis=1)
    np.testing.assert_allclose(cosines, np.linalg.norm(store.read(), axis=1), rtol=1e-3)


def test_an_import_needs_the_space_and_says_so(tmp_path):
    np.save(tmp_path / "x.npy", vectors_of(3))
    code, out, error = call("store", "import", tmp_path / "x.npy", "--ids", "position", "--out", tmp_path / "s")
    assert (code, out) == (1, "")
    assert "--space" in error
    given = (
        "--ids",
        "position",
        "--space",
        "a/b",
        "--raw",
        "--kind",
        "image",
        "--target",
        "pooled",
        "--dtype",
        "float16",
    )
    assert call("store", "import", tmp_path / "x.npy", *given, "--out", tmp_path / "s")[0] == 0
    store = EmbeddingStore.open(tmp_path / "s")
    assert (store.space, store.kind, store.target, store.dtype) == ("a/b", "image", "pooled", "float16")
