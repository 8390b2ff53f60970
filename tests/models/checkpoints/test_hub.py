"""Models come from the hub whole, from one commit, and only as far as needed; without a hub the answer is quick."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints.hub import answers as hub_answers
from babelclip.models.checkpoints.hub import transfer as hub_transfer
from babelclip.models.checkpoints.hub.repository import open_repository
from babelclip.models.checkpoints.hub.transfer import RemoteFile

NAME = "org/two-towers"
FILES = {
    "config.json": b'{"model_type": "test"}',
    "1_Pooling/config.json": b'{"mean": true}',
    "tokenizer.json": b'{"big": true}',
    "text.safetensors": b"text weights " * 40_000,
    "image.safetensors": b"image weights " * 40_000,
    "pytorch_model.bin": b"the same again " * 40_000,
    "README.md": b"# card",
}


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def partials(tmp_path):
    return list((tmp_path / "cache").rglob("*.incomplete"))


def test_only_the_files_asked_for_are_fetched_and_configs_come_first(hub):
    commit = hub.push(NAME, FILES)
    repository = open_repository(NAME)
    assert repository.commit == commit
    assert repository.names == sorted(FILES)
    folder = repository.small_files()
    assert sorted(hub.fetched()) == ["1_Pooling/config.json", "config.json"]
    wanted = ["config.json", "tokenizer.json", "text.safetensors"]
    assert repository.download(wanted) == folder
    assert sorted(hub.fetched()) == ["1_Pooling/config.json", "config.json", "text.safetensors", "tokenizer.json"]
    assert contents(folder) == {name: FILES[name] for name in [*wanted, "1_Pooling/config.json"]}


def test_the_cache_is_the_one_of_the_hub_s_own_tools(hub, monkeypatch):
    from huggingface_hub import hf_hub_download

    commit = hub.push(NAME, FILES)
    folder = open_repository(NAME).download(["text.safetensors"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = hf_hub_download(NAME, "text.safetensors", cache_dir=os.environ["HF_HUB_CACHE"], local_files_only=True)
    assert Path(found) == folder / "text.safetensors"
    assert folder.name == commit


def test_one_commit_serves_all_files_although_main_moves_meanwhile(hub):
    first = hub.push(NAME, FILES)
    hub.after_listing = lambda: hub.push(NAME, {**FILES, "text.safetensors": b"newer weights" * 1000})
    repository = open_repository(NAME)
    folder = repository.download(["config.json", "text.safetensors"])
    assert repository.commit == first
    assert contents(folder)["text.safetensors"] == FILES["text.safetensors"]
    assert all(f"/resolve/{first}/" in path for _, path, _ in hub.requests if "/resolve/" in path)


def test_a_new_commit_is_taken_and_what_did_not_change_is_not_fetched_again(hub):
    hub.push(NAME, FILES)
    open_repository(NAME).download(["config.json", "text.safetensors"])
    second = hub.push(NAME, {**FILES, "config.json": b'{"model_type": "newer"}'})
    repository = open_repository(NAME)
    folder = repository.download(["config.json", "text.safetensors"])
    assert repository.commit == second
    assert contents(folder)["config.json"] == b'{"model_type": "newer"}'
    assert hub.fetched().count("text.safetensors") == 1


def test_a_pinned_commit_in_the_cache_asks_nothing(hub):
    commit = hub.push(NAME, FILES)
    repository = open_repository(NAME)
    repository.small_files()
    repository.download(["config.json", "text.safetensors"])
    hub.requests.clear()
    for repository in (open_repository(f"{NAME}@{commit}"), open_repository(NAME, commit)):
        repository.small_files()
        repository.download(["config.json", "text.safetensors"])
    assert hub.requests == []


def test_a_damaged_list_of_files_is_written_anew_when_the_hub_answers(hub, tmp_path):
    commit = hub.push(NAME, FILES)
    open_repository(NAME).small_files()
    (kept,) = (tmp_path / "babelclip").rglob(f"{commit}.json")
    kept.write_text("{")
    open_repository(NAME, commit)
    hub.requests.clear()
    open_repository(NAME, commit)
    assert hub.requests == []


def test_a_branch_or_tag_is_resolved(hub):
    hub.push(NAME, FILES)
    old = hub.push(NAME, {"config.json": b"{}"}, branch="v1.0")
    assert open_repository(f"{NAME}@v1.0").commit == old
    assert open_repository(NAME, "v1.0").names == ["config.json"]


def test_a_dropped_connection_goes_on_where_it_stopped(hub, caplog):
    hub.push(NAME, FILES)
    hub.cut["text.safetensors"] = 100_000
    with caplog.at_level(logging.WARNING):
        folder = open_repository(NAME).download(["text.safetensors"])
    assert (folder / "text.safetensors").read_bytes() == FILES["text.safetensors"]
    ranges = [asked for _, path, asked in hub.requests if path.endswith("text.safetensors")]
    assert ranges == ["", "bytes=100000-"]
    assert "going on from there" in caplog.text


def test_an_interrupted_download_goes_on_in_the_next_run(hub, tmp_path, monkeypatch):
    hub.push(NAME, FILES)
    hub.cut["text.safetensors"] = 200_000

    def interrupt(_seconds):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(hub_transfer.time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            open_repository(NAME).download(["text.safetensors"])
    assert [path.stat().st_size for path in partials(tmp_path)] == [200_000]
    folder = open_repository(NAME).download(["text.safetensors"])
    assert (folder / "text.safetensors").read_bytes() == FILES["text.safetensors"]
    assert hub.requests[-1][2] == "bytes=200000-"
    assert partials(tmp_path) == []


def test_a_server_without_ranges_sends_the_whole_file_again(hub):
    hub.push(NAME, FILES)
    hub.ranges = False
    hub.cut["text.safetensors"] = 100_000
    folder = open_repository(NAME).download(["text.safetensors"])
    assert (folder / "text.safetensors").read_bytes() == FILES["text.safetensors"]


def test_an_empty_file_is_fetched(hub):
    hub.push(NAME, {**FILES, "added_tokens.json": b""})
    folder = open_repository(NAME).download(["added_tokens.json"])
    assert (folder / "added_tokens.json").read_bytes() == b""


@pytest.mark.parametrize("name", ["config.json", "text.safetensors"])
def test_content_with_another_hash_is_refused(hub, tmp_path, name):
    hub.push(NAME, FILES)
    hub.corrupt.add(name)
    with pytest.raises(BabelclipError, match=rf"{name} came with hash .* damaged on the way"):
        open_repository(NAME).download([name])
    assert partials(tmp_path) == []
    hub.corrupt.clear()
    folder = open_repository(NAME).download([name])
    assert (folder / name).read_bytes() == FILES[name]


def test_a_damaged_file_in_the_cache_is_fetched_again(hub):
    hub.push(NAME, FILES)
    folder = open_repository(NAME).download(["text.safetensors"])
    (folder / "text.safetensors").resolve().write_bytes(b"cut")
    open_repository(NAME).download(["text.safetensors"])
    assert (folder / "text.safetensors").read_bytes() == FILES["text.safetensors"]


def test_two_loads_at_once_fetch_each_file_once(hub):
    hub.push(NAME, FILES)
    threads = [threading.Thread(target=lambda: open_repository(NAME).download(["text.safetensors"])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert hub.fetched() == ["text.safetensors"]


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (404, "RepoNotFound", "is not on the hub, or it is private.*hf auth login"),
        (401, "RepoNotFound", "is not on the hub, or it is private"),
        (401, "GatedRepo", "is gated.*Accept them"),
        (403, "", "is gated"),
        (404, "RevisionNotFound", "has no revision 'main'"),
        (429, "", "too many requests"),
        (400, "", "answers 400"),
    ],
)
def test_a_refusal_says_what_to_do(hub, status, code, said):
    hub.refusal = (status, code)
    with pytest.raises(BabelclipError, match=said) as caught:
        open_repository(NAME)
    assert NAME in str(caught.value)
    assert len(hub.requests) == 1  # no silent retries


def test_a_gated_file_behind_a_public_listing_says_so(hub):
    hub.push(NAME, FILES)
    repository = open_repository(NAME)
    hub.refusal = (403, "GatedRepo")
    with pytest.raises(BabelclipError, match="is gated"):
        repository.download(["text.safetensors"])


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"[]", b'{"id": "x", "sha": "../..", "siblings": []}'])
def test_an_answer_that_is_no_listing_is_refused(hub, body):
    hub.push(NAME, FILES)
    hub.listing = body
    with pytest.raises(BabelclipError, match="no model listing"):
        open_repository(NAME)


@pytest.mark.parametrize("name", ["../../.bashrc", "a/../../b.json", "/etc/passwd", "a\\b", "C:/x", "a//b", "x\n.json"])
def test_names_that_leave_the_folder_are_refused(hub, tmp_path, name):
    commit = hub.push(NAME, FILES)
    siblings = [{"rfilename": name, "size": 2, "blobId": "0" * 40}]
    hub.listing = json.dumps({"id": NAME, "sha": commit, "siblings": siblings}).encode()
    with pytest.raises(BabelclipError, match="no plain path inside the repository"):
        open_repository(NAME)
    assert not list(tmp_path.rglob("snapshots"))


def test_a_hash_that_is_a_path_is_refused():
    with pytest.raises(BabelclipError, match="SHA-1 or SHA-256"):
        RemoteFile("config.json", 2, "../../../evil")


@pytest.mark.parametrize(
    "name", ["org/na me", "org/..", "org/a--b", "/org/name", "org/name/x", "name", "org/", "@main"]
)
def test_a_bad_name_is_refused_without_asking(hub, name):
    with pytest.raises(BabelclipError, match="no name of a hub repository"):
        open_repository(name)
    assert hub.requests == []


@pytest.mark.parametrize("name", ["org/name@", "org/name@../x", "org/name@a b"])
def test_a_bad_revision_is_refused_without_asking(hub, name):
    with pytest.raises(BabelclipError, match="no branch, tag or commit"):
        open_repository(name)
    assert hub.requests == []


def test_two_revisions_are_one_too_many(hub):
    with pytest.raises(BabelclipError, match="Give one of them"):
        open_repository(f"{NAME}@v1", "v2")


def test_a_file_that_the_repository_lacks_is_named(hub):
    hub.push(NAME, FILES)
    with pytest.raises(BabelclipError, match=r"has no file model-00002-of-00002.safetensors; it has"):
        open_repository(NAME).download(["model-00002-of-00002.safetensors"])


def test_a_full_disk_is_told_before_and_during_the_download(hub, monkeypatch):
    hub.push(NAME, FILES)
    repository = open_repository(NAME)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10, 9, 1000))
        with pytest.raises(BabelclipError, match=r"MB free. Make room, or set HF_HOME"):
            repository.download(["text.safetensors"])

    def full(*_args, **_keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("babelclip.models.checkpoints.hub.repository.fetch_blob", full)
    with pytest.raises(BabelclipError, match=r"is full.*it goes on from there"):
        repository.download(["text.safetensors"])


def test_offline_without_a_copy_names_the_command(hub, monkeypatch):
    hub.push(NAME, FILES)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BabelclipError, match=f"hf download {NAME} --revision main") as caught:
        open_repository(NAME)
    assert "HF_HUB_OFFLINE" in str(caught.value)
    assert hub.requests == []


def test_offline_with_a_copy_asks_nothing(hub, monkeypatch):
    commit = hub.push(NAME, FILES)
    open_repository(NAME).download(["config.json", "text.safetensors"])
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    repository = open_repository(NAME)
    folder = repository.download(["config.json", "text.safetensors"])
    assert repository.commit == commit
    assert (folder / "config.json").is_file()
    assert hub.requests == []


def test_offline_with_a_partial_copy_says_what_is_missing(hub, monkeypatch):
    commit = hub.push(NAME, FILES)
    open_repository(NAME).download(["config.json", "image.safetensors"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BabelclipError, match=f"hf download {NAME} text.safetensors --revision {commit}") as caught:
        open_repository(NAME).download(["config.json", "text.safetensors"])
    assert "it lacks text.safetensors" in str(caught.value)


def test_a_copy_that_another_tool_made_works_offline(hub, monkeypatch, tmp_path):
    commit = "ab" * 20
    snapshot = tmp_path / "cache" / "models--org--two-towers" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_bytes(b"{}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    repository = open_repository(NAME, commit)
    assert repository.small_files() == snapshot
    with pytest.raises(BabelclipError, match=rf"no weights.*hf download {NAME} --revision {commit}"):
        repository.download(["config.json"])
    (snapshot / "model.safetensors").write_bytes(b"weights")
    repository = open_repository(NAME, commit)
    assert repository.download(repository.names) == snapshot


def test_without_a_server_the_copy_serves_with_a_warning(hub, monkeypatch, caplog):
    commit = hub.push(NAME, FILES)
    open_repository(NAME).download(["text.safetensors"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        repository = open_repository(NAME)
        repository.download(["text.safetensors"])
        assert f"taking the copy in the cache, commit {commit}" in caplog.text
        with pytest.raises(BabelclipError, match=r"does not answer \(ConnectError"):
            repository.download(["image.safetensors"])


def test_a_hub_in_trouble_counts_as_no_answer(hub):
    hub.push(NAME, FILES)
    open_repository(NAME).download(["text.safetensors"])
    hub.refusal = (503, "")
    open_repository(NAME).download(["text.safetensors"])
    with pytest.raises(BabelclipError, match=r"it answers 503.*hf download org/other --revision main"):
        open_repository("org/other")


def test_a_server_that_never_answers_is_given_up_within_five_seconds(hub, monkeypatch):
    assert hub_answers.DEADLINE <= 4
    monkeypatch.setattr(hub_answers, "DEADLINE", 1.0)
    hub.hanging.add("api")
    start = time.monotonic()
    with pytest.raises(BabelclipError, match=rf"does not answer.*hf download {NAME} --revision main"):
        open_repository(NAME)
    assert time.monotonic() - start < 2
    assert len(hub.requests) == 1


def test_a_silent_hub_is_not_waited_for_twice_in_one_load(hub, monkeypatch):
    hub.push(NAME, FILES)
    open_repository(NAME).download(["text.safetensors"])
    hub.hanging.add("api")
    monkeypatch.setattr(hub_answers, "DEADLINE", 0.2)
    cached = open_repository(NAME)
    asked = len(hub.requests)
    with pytest.raises(BabelclipError, match="hf download org/other --revision main"):
        open_repository("org/other", unreachable=cached.unreachable)
    assert len(hub.requests) == asked


def test_a_name_server_that_never_answers_is_given_up_too(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_args, **_keywords: time.sleep(30))
    monkeypatch.setattr(hub_answers, "DEADLINE", 0.2)
    with pytest.raises(BabelclipError, match=r"does not answer \(TimeoutError: no answer within 0.2 s\)"):
        open_repository(NAME)


def test_a_file_that_never_comes_is_given_up(hub, monkeypatch):
    hub.push(NAME, FILES)
    hub.hanging.add("text.safetensors")
    monkeypatch.setattr(hub_transfer, "STALL", 0.3)
    with pytest.raises(BabelclipError, match="does not answer"):
        open_repository(NAME).download(["text.safetensors"])
    assert hub.fetched() == ["text.safetensors"]


@pytest.mark.parametrize("address", ["ftp://host", "host:80", "http://", "http://[bad", "http://host:port"])
def test_an_endpoint_that_is_no_address_is_refused(hub, monkeypatch, address):
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(BabelclipError, match=r"HF_ENDPOINT is .* must be an address"):
        open_repository(NAME)


def test_the_home_folder_of_the_hub_is_read_when_called(hub, monkeypatch, tmp_path):
    hub.push(NAME, FILES)
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    folder = open_repository(NAME).download(["config.json"])
    assert folder.is_relative_to(tmp_path / "home" / "hub")
