from __future__ import annotations

import pytest

from babelclip.errors import BabelclipError, MissingExtraError, closest, did_you_mean, require
from babelclip.files import atomic_folder, atomic_path, read_json, sha256, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(path) == {"a": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_folder_leaves_the_old_folder_and_nothing_else(tmp_path):
    path = tmp_path / "model"
    with atomic_folder(path) as temporary:
        (temporary / "one").write_text("1")
    with pytest.raises(RuntimeError), atomic_folder(path) as temporary:
        (temporary / "two").write_text("2")
        raise RuntimeError
    assert [item.name for item in path.iterdir()] == ["one"]
    with atomic_folder(path) as temporary:
        (temporary / "three").write_text("3")
    assert [item.name for item in path.iterdir()] == ["three"]
    assert [item.name for item in tmp_path.iterdir()] == ["model"]


def test_json_that_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(BabelclipError, match=r"absent\.json does not exist"):
        read_json(tmp_path / "absent.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(BabelclipError, match=r"bad\.json is not valid JSON"):
        read_json(tmp_path / "bad.json")


def test_sha256_of_a_known_content(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_near_names_are_offered_and_a_missing_extra_is_named():
    assert closest("Meen", ["mean", "cls"]) == ["mean"]
    assert did_you_mean("meen", ["mean", "cls"]) == "Did you mean 'mean'?"
    assert did_you_mean("xyz", ["mean", "cls"]) == "Allowed: cls, mean."
    assert require("json", "train").dumps([1]) == "[1]"
    with pytest.raises(MissingExtraError, match=r"pip install 'babelclip\[search\]'"):
        require("no_such_module_here", "search")
