from __future__ import annotations

import base64
import json

import pytest

from babelclip.cluster import index
from babelclip.search.collection import open_collection
from tests.cli.test_cli import call
from tests.cluster.rows import all_rows
from tests.conftest import make_clip

pytest.importorskip("lancedb")


@pytest.fixture
def model(tmp_path):
    return make_clip().save(tmp_path / "model")


@pytest.fixture
def indexed(tmp_path, picture_folder, model):
    url = tmp_path / "p.lance"
    code, out, error = call("index", picture_folder, "--out", url, "--model", model, "--batch", 2)
    assert code == 0, error
    return url, out, error


def test_index_counts_what_it_did_and_remembers_the_model(indexed, picture_folder):
    url, out, error = indexed
    assert out == f"{url}: 12 pictures (12 added, 0 updated, 0 there already, 1 skipped as unreadable)\n"
    assert "broken.jpg" in error
    assert "pictures in" in error
    (picture_folder / "red-circle.png").unlink()
    code, out, error = call("index", picture_folder, "--out", url)
    assert (code, "1 pictures are gone" in error) == (0, True)
    code, out, _ = call("index", picture_folder, "--out", url, "--prune")
    assert out == f"{url}: 11 pictures (0 added, 0 updated, 11 there already, 1 removed, 1 skipped as unreadable)\n"


def test_launcher_makes_the_same_collection(indexed, tmp_path, picture_folder, model):
    pytest.importorskip("lance")
    given = ("index", picture_folder, "--out", tmp_path / "on.lance", "--model", model, "--launcher", "local")
    given, shards = (*given, "--batch", 2, "--shard-rows", 4), []
    with pytest.MonkeyPatch.context() as patch:
        commit = index.commit_group
        patch.setattr(index, "commit_group", lambda *args: shards.extend(args[3]) or commit(*args))
        code, out, error = call(*given)
    assert code == 0, error
    assert [shard.rows for shard in shards] == [4, 4, 4, 1]
    assert out.partition(": ")[2] == indexed[1].partition(": ")[2]
    assert "broken.jpg" in error
    assert all_rows(tmp_path / "on.lance").equals(all_rows(indexed[0]))
    assert "12 there already" in call(*given)[1]
    code, _, error = call("index", picture_folder, "--out", tmp_path / "on.lance", "--ray-address", "auto")
    assert (code, "add --launcher ray" in error) == (1, True)


def test_search_and_more_like_a_result(indexed):
    url = indexed[0]
    code, out, error = call("search", url, "--json", "--duplicates", "-k", 3, "a red circle", "狗")
    assert code == 0, error
    first, second = json.loads(out)
    assert (first["query"], second["query"], len(first["hits"])) == ("a red circle", "狗", 3)
    hit = first["hits"][0]
    assert hit.keys() >= {"id", "path", "score", "z", "caption", "similar"}
    code, out, error = call("search", url, "--json", "--duplicates", "--like", hit["id"])
    assert code == 0, error
    assert hit["id"] not in {other["id"] for other in json.loads(out)[0]["hits"]}


def test_a_text_may_look_like_no_path_and_a_thumbnail_is_told_in_json(indexed):
    for words in ("~nobody-is-called-so", "long words " * 40):
        code, out, error = call("search", indexed[0], "--plus", words, "-k", 1)
        assert (code, out.splitlines()[0]) == (0, words), error
    code, out, error = call("search", indexed[0], "a red circle", "--columns", "thumbnail", "--json", "-k", 1)
    assert code == 0, error
    assert base64.b64decode(json.loads(out)[0]["hits"][0]["thumbnail"]).startswith(b"\xff\xd8")
    code, out, error = call("search", indexed[0], "a red circle", "--columns", "thumbnail", "-k", 1)
    assert (code, " bytes" in out, "xff" in out) == (0, True, False), error


def test_wrong_use_says_what_to_do(indexed, picture_folder, model, tmp_path):
    url = indexed[0]
    assert call("search", url)[0] == 2
    cases = [
        (("search", url, "--like", "nowhere.jpg"), "no file"),
        (("search", "--in", picture_folder, "--where", "width > 3", "dog"), "--where needs a collection"),
        (("search", url, "--where", "widht > 3", "dog"), "width"),
        (("search", tmp_path / "absent.lance", "dog"), "absent.lance"),
        (("index", tmp_path / "absent", "--out", url), "does not exist"),
        (("index", picture_folder, "--out", url, "--space", "x"), "--space"),
        (("index", picture_folder, "--out", url, "--shard-rows", 8), "add --launcher local, ray or rank"),
        (("index", picture_folder, "--out", url, "--columns", "a b"), "cannot name a column"),
        (("compare", url, "dog"), "two languages"),
        (("compare", url, "dog", "--as", "hund"), "language=text"),
    ]
    for arguments, words in cases:
        code, out, error = call(*arguments)
        assert (code, words in error, "Traceback" in error) == (1, True, False), (arguments, out, error)
    assert open_collection(url).count() == 12
