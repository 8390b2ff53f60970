from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from babelclip.errors import BabelclipError, MissingExtraError, closest, did_you_mean, require
from babelclip.files import atomic_folder, atomic_path, cache_folder, read_json, sha256, write_json

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes to fork here")


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


def test_threads_that_write_one_file_at_once_do_not_mix(tmp_path):
    path = tmp_path / "a.txt"
    begun, go = threading.Event(), threading.Event()

    def write_slowly():
        with atomic_path(path) as temporary:
            temporary.write_text("fir")
            begun.set()
            go.wait(20)
            temporary.write_text("first")

    first = threading.Thread(target=write_slowly)
    first.start()
    assert begun.wait(20)
    with atomic_path(path) as temporary:
        temporary.write_text("second")
    assert path.read_text() == "second"
    go.set()
    first.join(20)
    assert path.read_text() == "first"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def killed_while(work):
    """Does the work in another process, which says "ready" in it and is killed then."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(lambda: (os.write(writing, b"x"), time.sleep(60)))
        finally:
            os._exit(1)
    assert os.read(reading, 1) == b"x"
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    os.close(reading)
    os.close(writing)


def write_folder(path, content, ready=lambda: None):
    with atomic_folder(path) as temporary:
        (temporary / "file").write_text(content)
        ready()


@needs_fork
def test_what_a_killed_process_left_beside_a_folder_goes_with_the_next_write(tmp_path):
    path = tmp_path / "model"
    write_folder(path, "old")
    killed_while(lambda ready: write_folder(path, "half", ready))
    assert len(list(tmp_path.iterdir())) == 2
    assert (path / "file").read_text() == "old"
    write_folder(path, "new")
    assert [item.name for item in tmp_path.iterdir()] == ["model"]
    assert (path / "file").read_text() == "new"


@needs_fork
def test_a_folder_that_was_moved_aside_when_its_process_was_killed_is_put_back(tmp_path, monkeypatch):
    path = tmp_path / "model"
    write_folder(path, "old")

    def killed_between(ready):
        rename = os.replace
        monkeypatch.setattr(os, "replace", lambda old, new: ready() if new == path else rename(old, new))
        write_folder(path, "new")

    killed_while(killed_between)
    assert not path.exists()
    with pytest.raises(RuntimeError):
        write_folder(path, "newer", lambda: (_ for _ in ()).throw(RuntimeError))
    assert [item.name for item in tmp_path.iterdir()] == ["model"]
    assert (path / "file").read_text() == "old"


def test_a_folder_that_another_writes_is_left_alone_and_the_last_one_stays(tmp_path):
    path, other = tmp_path / "model", tmp_path / "model.v2"
    begun, go = threading.Event(), threading.Event()
    first = threading.Thread(target=lambda: write_folder(path, "first", lambda: (begun.set(), go.wait(20))))
    first.start()
    assert begun.wait(20)
    write_folder(other, "other")
    write_folder(path, "second")
    assert (path / "file").read_text() == "second"
    go.set()
    first.join(20)
    assert (path / "file").read_text() == "first"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["model", "model.v2"]


def test_a_folder_that_appears_in_between_is_replaced(tmp_path, monkeypatch):
    path = tmp_path / "model"
    rename, late_once = os.replace, iter([True])

    def late(old, new):
        if new == path and next(late_once, False):
            path.mkdir()
            (path / "other").write_text("of another process")
        rename(old, new)

    monkeypatch.setattr(os, "replace", late)
    write_folder(path, "new")
    assert [item.name for item in path.iterdir()] == ["file"]
    assert [item.name for item in tmp_path.iterdir()] == ["model"]


def test_json_that_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(BabelclipError, match=r"absent\.json does not exist"):
        read_json(tmp_path / "absent.json")
    for content in (b"{", b"\xff\xfe{", b"[" * 100_000, b"9" * 10_000):
        (tmp_path / "bad.json").write_bytes(content)
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


def test_an_extra_that_is_there_and_broken_is_not_called_absent(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_here.py").write_text("from json import no_such_name")
    (tmp_path / "lacking_here.py").write_text("import no_such_module_here")
    for module, reason in (("broken_here", "no_such_name"), ("lacking_here", "no_such_module_here")):
        with pytest.raises(
            MissingExtraError, match=rf"{module}, which is installed and .*{reason}.*babelclip\[search\]"
        ):
            require(module, "search")


def test_the_cache_may_be_named_from_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BABELCLIP_CACHE", "~/kept")
    assert cache_folder() == tmp_path / "kept"
    monkeypatch.delenv("BABELCLIP_CACHE")
    assert cache_folder() == tmp_path / ".cache" / "babelclip"
