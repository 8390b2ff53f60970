"""Addresses, objects, the shadow folder and locks, against a real S3 server (moto)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from babelclip import storage
from babelclip.errors import BabelclipError
from babelclip.storage import filesystem, shadows
from babelclip.storage.shadows import BYTES_VARIABLE, is_waiting, make_room


@pytest.mark.parametrize("given", ["s3://bucket/a b/c/", Path("s3://bucket/a b/c"), "s3:/bucket/a b/c"])
def test_an_address_is_one_also_after_it_went_through_path(given):
    assert storage.url_of(given) == "s3://bucket/a b/c"


@pytest.mark.parametrize("given", ["photos", "/s3/x", "moses:a.en,b.sv", "hub:name", "milvus://h:1/x", "https://x/y"])
def test_what_is_no_address_is_left_alone(given):
    assert storage.url_of(given) is None
    assert storage.shadow(given) == Path(given)
    assert storage.address(given) == given


def test_a_file_address_is_a_path_of_this_machine(tmp_path):
    (tmp_path / "x.txt").write_text("x")
    assert storage.local(f"file://{tmp_path}/x.txt") == tmp_path / "x.txt"


def test_objects_are_written_listed_read_in_parts_and_deleted(s3):
    storage.write_bytes(s3("f/deep/x.bin"), b"0123456789")
    storage.write_bytes(s3("f/y.bin"), b"y")
    assert [(entry.name, entry.size) for entry in storage.list_files(s3("f"))] == [("deep/x.bin", 10), ("y.bin", 1)]
    assert storage.read_bytes(s3("f/deep/x.bin"), 3, 4) == b"3456"
    with storage.open_input(s3("f/deep/x.bin")) as file:
        file.seek(8)
        assert file.read() == b"89"
    storage.delete(s3("f/y.bin"))
    storage.delete(s3("f/y.bin"))
    assert not storage.exists(s3("f/y.bin"))
    assert storage.exists(s3("f"))


def test_a_shadow_has_names_sizes_and_times_and_gets_contents_when_asked(s3):
    storage.write_bytes(s3("f/config.json"), b"{}")
    storage.write_bytes(s3("f/t/a.tar"), b"t" * 2000)
    storage.write_bytes(s3("f/t/dog.jpg"), b"picture")
    folder = storage.shadow(s3("f"))
    assert folder.name == "f"
    assert (folder / "config.json").read_bytes() == b"{}"  # small and of a kind that is opened by name
    tar, dog = folder / "t" / "a.tar", folder / "t" / "dog.jpg"
    assert (tar.stat().st_size, is_waiting(tar), is_waiting(dog)) == (2000, True, True)
    assert storage.content(dog) == b"picture"
    assert is_waiting(dog)  # a picture is read and not kept
    assert storage.present(tar).read_bytes() == b"t" * 2000
    assert storage.address(tar) == s3("f/t/a.tar")
    assert storage.with_addresses(f"{tar} is damaged") == f"{s3('f/t/a.tar')} is damaged"


def test_a_shadow_follows_what_changes_and_keeps_what_does_not(s3, monkeypatch):
    storage.write_bytes(s3("f/a.csv"), b"aaaa")
    storage.write_bytes(s3("f/same.csv"), b"same")
    storage.write_bytes(s3("f/b.csv"), b"bbbb")
    monkeypatch.setattr(shadows, "_RACY", 0)  # else what is younger than two seconds is fetched again in any case
    folder = storage.local(s3("f"))
    kept = (folder / "same.csv").stat().st_ino
    storage.write_bytes(s3("f/b.csv"), b"BBBBB")
    storage.write_bytes(s3("f/c.csv"), b"c")
    storage.delete(s3("f/a.csv"))
    storage.write_bytes(s3("f/a2.csv"), b"2")
    assert {p.name: p.read_bytes() for p in storage.local(s3("f")).iterdir()} == {
        "a2.csv": b"2",
        "b.csv": b"BBBBB",
        "c.csv": b"c",
        "same.csv": b"same",
    }
    assert (folder / "same.csv").stat().st_ino == kept


def test_the_cache_gives_way_to_what_is_used(s3, monkeypatch):
    storage.write_bytes(s3("f/old.tar"), b"o" * (1 << 20))
    storage.write_bytes(s3("f/new.tar"), b"n" * (1 << 20))
    folder = storage.local(s3("f"))
    monkeypatch.setenv(BYTES_VARIABLE, str(3 << 19))
    make_room()
    assert not is_waiting(folder / "old.tar")  # used just now, so it may be in somebody's hands
    long_ago = time.time() - 3600
    for note in Path(os.environ["BABELCLIP_CACHE"], "objects", ".held").iterdir():
        if "old.tar" in note.read_text():
            os.utime(note, (long_ago, long_ago))
    make_room()
    assert (is_waiting(folder / "old.tar"), is_waiting(folder / "new.tar")) == (True, False)
    assert storage.present(folder / "old.tar").read_bytes() == b"o" * (1 << 20)
    monkeypatch.setenv(BYTES_VARIABLE, "50 GB")
    with pytest.raises(BabelclipError, match="50000000000"):
        make_room()


def test_names_that_lead_out_of_the_folder_are_left_out(s3, s3_server):
    import boto3

    bucket, _, name = s3("f").removeprefix("s3://").partition("/")
    client = boto3.client("s3", endpoint_url=s3_server)
    client.put_object(Bucket=bucket, Key=f"{name}/../../evil.csv", Body=b"x")
    client.put_object(Bucket=bucket, Key=f"{name}/good.csv", Body=b"x")
    folder = storage.local(s3("f"))
    assert [path.name for path in folder.rglob("*")] == ["good.csv"]
    assert not list(folder.parent.parent.rglob("evil*"))


def test_a_second_writer_is_refused_by_name_until_the_first_ends(s3):
    held = storage.lock(s3("out"))
    with pytest.raises(BabelclipError, match=rf"written by process {os.getpid()} of .*one writer at a time"):
        storage.lock(s3("out"))
    held.check()
    held.release()
    storage.lock(s3("out")).release()


def test_the_lock_of_a_killed_process_is_taken_over_and_the_dead_one_could_not_publish(s3):
    code = f"from babelclip import storage; storage.lock({s3('out')!r}); print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(BabelclipError, match=rf"process {other.pid} of "):
            storage.lock(s3("out"))
        other.kill()
    storage.lock(s3("out")).release()


def test_a_lock_that_was_taken_away_keeps_its_writer_from_publishing(s3):
    held = storage.lock(s3("out"))
    storage.delete(held.object)
    with pytest.raises(BabelclipError, match=r"taken over by another writer.*Run it again"):
        held.check()
    held.release()


def test_output_is_published_at_the_end_and_goes_on_from_any_machine(s3, monkeypatch, tmp_path):
    with storage.output(s3("run")) as folder:
        (folder / "parts").mkdir()
        (folder / "parts" / "0.bin").write_bytes(b"0" * 100)
        (folder / "parts" / ".half.part").write_bytes(b"half")
        (folder / "manifest.json").write_text('{"parts": 1}')
    assert [entry.name for entry in storage.list_files(s3("run"))] == ["manifest.json", "parts/0.bin"]
    monkeypatch.setenv("BABELCLIP_CACHE", str(tmp_path / "another machine"))
    with pytest.raises(RuntimeError), storage.output(s3("run")) as folder:
        assert (folder / "parts" / "0.bin").read_bytes() == b"0" * 100
        (folder / "parts" / "1.bin").write_bytes(b"1")
        (folder / "parts" / "0.bin").unlink()
        raise RuntimeError("stopped")
    assert [entry.name for entry in storage.list_files(s3("run"))] == ["manifest.json", "parts/1.bin"]


def test_work_that_a_kill_kept_from_being_published_is_there_for_the_next_run(s3):
    code = f"""
import os
from babelclip import storage
with storage.output({s3("run")!r}) as folder:
    (folder / "0.bin").write_bytes(b"0")
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert storage.list_files(s3("run/0.bin")) == []
    with storage.output(s3("run")) as folder:
        assert (folder / "0.bin").read_bytes() == b"0"
    assert storage.read_bytes(s3("run/0.bin")) == b"0"


def test_what_another_machine_published_since_wins_over_unpublished_leftovers(s3, monkeypatch, tmp_path):
    with storage.output(s3("run")) as mine:
        (mine / "manifest.json").write_text("1")
    (mine / "left.bin").write_bytes(b"left by a kill")
    here = os.environ["BABELCLIP_CACHE"]
    monkeypatch.setenv("BABELCLIP_CACHE", str(tmp_path / "another machine"))
    with storage.output(s3("run")) as folder:
        (folder / "manifest.json").write_text("22")
    monkeypatch.setenv("BABELCLIP_CACHE", here)
    with storage.output(s3("run")) as again:
        assert again == mine
        assert (again / "manifest.json").read_text() == "22"
        assert not (again / "left.bin").exists()


def test_a_manifest_is_sent_after_everything_that_it_may_name(s3, tmp_path, monkeypatch):
    sent = []
    for name in ("upload", "write_bytes"):
        real = getattr(storage, name)

        def noting(what, where, real=real):
            sent.append((what if isinstance(what, str) else where).rpartition("run/")[2])
            real(what, where)

        monkeypatch.setattr(f"babelclip.storage.publishing.{name}", noting)
    for name in ("manifest.json", "config.json", "deep/facts.json", "a.bin", "z.bin"):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text("{}")
    assert storage.publish(tmp_path / "run", s3("run")) == 5
    assert set(sent[:2]) == {"a.bin", "z.bin"}
    assert sent[2:] == ["deep/facts.json", "config.json", "manifest.json"]
    assert storage.publish(tmp_path / "run", s3("run")) == 0


# -- what goes wrong ---------------------------------------------------------------------------------------------


def test_a_missing_bucket_and_a_missing_name_are_told_apart(s3):
    storage.write_bytes(s3("photos/a.json"), b"{}")
    with pytest.raises(BabelclipError, match=r"bucket 'no-such-bucket' does not exist.*check its name"):
        storage.shadow("s3://no-such-bucket/photos")
    with pytest.raises(BabelclipError, match=r"photo does not exist.*Did you mean s3://.*/photos\?"):
        storage.shadow(s3("photo"))
    with pytest.raises(BabelclipError, match="names no bucket"):
        storage.shadow("s3://")


def test_an_endpoint_that_is_down_is_told_within_ten_seconds(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(BabelclipError, match=r"cannot be reached at http://127.0.0.1:9 .*AWS_ENDPOINT_URL"):
        storage.shadow("s3://bucket/photos")
    assert time.monotonic() - began < 10


def test_an_endpoint_that_says_nothing_is_told_after_one_wait(s3, monkeypatch):
    assert filesystem._CONNECT + filesystem._FIRST_ANSWER < 10
    monkeypatch.setattr(filesystem, "_FIRST_ANSWER", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(BabelclipError, match="cannot be reached"):
            storage.exists("s3://bucket/photos")
    assert time.monotonic() - began < 10  # one of 1 s on an idle machine
