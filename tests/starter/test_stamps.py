from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
from pathlib import Path

import pytest

from babelclip.starter import stamps
from babelclip.starter.stamps import PACKAGE, VERSION, find_stamps, unpack

INSIDE = "./usr/share/tuxpaint/stamps"
needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not on this system")


def tar(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, target in (links or {}).items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def deb(path: Path, members: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    """A Debian package, made by hand: an ar archive of three members."""
    control = f"Package: {PACKAGE}\nVersion: {VERSION}\nArchitecture: all\nMaintainer: nobody\nDescription: tiny\n"
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": tar({"./control": control.encode()}),
        "data.tar.gz": tar(members, links),
    }
    content = b"!<arch>\n"
    for name, data in parts.items():
        content += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
        )
    path.write_bytes(content)
    return path


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@needs_dpkg
def test_only_pictures_and_captions_of_the_stamps_folder_are_unpacked(tmp_path):
    members = {
        f"{INSIDE}/animals/crow.png": b"picture",
        f"{INSIDE}/animals/crow.txt": b"A crow.",
        f"{INSIDE}/animals/crow.ogg": b"sound",
        "./usr/share/doc/changelog.txt": b"no stamp",
    }
    unpack(deb(tmp_path / "p.deb", members), tmp_path / "out")
    assert files_below(tmp_path / "out") == {"animals/crow.png", "animals/crow.txt"}
    assert (tmp_path / "out/animals/crow.txt").read_bytes() == b"A crow."


@needs_dpkg
def test_members_that_point_outside_write_nothing_there(tmp_path):
    members = {
        f"{INSIDE}/../../../../../evil.txt": b"x",
        f"{INSIDE}/a/../../evil.png": b"x",
        "/usr/share/tuxpaint/stamps/absolute.txt": b"x",
        f"{INSIDE}/link/evil.txt": b"x",
        f"{INSIDE}/good.txt": b"x",
    }
    outside = tmp_path / "outside"
    outside.mkdir()
    links = {f"{INSIDE}/link": str(outside), f"{INSIDE}/passwords.txt": "/etc/passwd"}
    unpack(deb(tmp_path / "p.deb", members, links), tmp_path / "deep" / "out")
    assert files_below(outside) == set()
    assert files_below(tmp_path) == {"p.deb", "deep/out/good.txt", "deep/out/link/evil.txt"}


@needs_dpkg
@pytest.mark.parametrize("size", [0, 20, 300, -40])
def test_a_damaged_package_leaves_nothing_behind(tmp_path, size):
    whole = deb(tmp_path / "p.deb", {f"{INSIDE}/a{n}.txt": os.urandom(500) for n in range(9)}).read_bytes()
    (tmp_path / "cut.deb").write_bytes(whole[:size])
    with pytest.raises(stamps._Unavailable, match=r"cut\.deb"):
        unpack(tmp_path / "cut.deb", tmp_path / "out")
    assert files_below(tmp_path) == {"p.deb", "cut.deb"}
    assert not (tmp_path / "out").exists()


@needs_dpkg
def test_a_package_without_stamps_is_refused(tmp_path):
    with pytest.raises(stamps._Unavailable, match="holds no stamps"):
        unpack(deb(tmp_path / "p.deb", {"./usr/share/doc/readme.txt": b"x"}), tmp_path / "out")


@pytest.fixture
def apt(tmp_path, monkeypatch):
    """A folder of programs that takes the place of PATH: `apt(script)` puts an apt-get there."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("dpkg-deb", "tar", "gzip", "cp", "sh", "rm", "cat"):
        if found := shutil.which(name):
            (programs / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(programs))

    def write(script: str) -> None:
        (programs / "apt-get").write_text(f"#!/bin/sh\n{script}\n")
        (programs / "apt-get").chmod(0o755 | stat.S_IXUSR)

    return write


@pytest.fixture
def package(tmp_path):
    return deb(tmp_path / "source.deb", {f"{INSIDE}/crow.png": b"picture", f"{INSIDE}/crow.txt": b"A crow."})


def find(tmp_path, **options):
    return find_stamps(tmp_path / "cache", system=tmp_path / "absent", **options)


def test_installed_stamps_come_first(tmp_path):
    (tmp_path / "system").mkdir()
    found = find_stamps(tmp_path / "cache", system=tmp_path / "system")
    assert found.folder == tmp_path / "system"
    assert "installed" in found.note


@needs_dpkg
def test_the_package_is_fetched_once_and_only_its_stamps_are_kept(tmp_path, apt, package):
    apt(f"cp {package} {PACKAGE}_2099.1-1_all.deb")
    first = find(tmp_path)
    assert files_below(first.folder) == {"crow.png", "crow.txt"}
    assert files_below(tmp_path / "cache") == {f"{PACKAGE}_2099.1-1/crow.png", f"{PACKAGE}_2099.1-1/crow.txt"}
    apt("exit 1")
    again = find(tmp_path)
    assert again.folder == first.folder
    assert "kept in" in again.note


@needs_dpkg
def test_without_package_lists_fresh_ones_are_fetched_into_a_folder_of_our_own(tmp_path, apt, package):
    apt(f"""case "$*" in
      *lists=*update*) exit 0 ;;
      *lists=*download*) cp {package} {PACKAGE}_2099.1-1_all.deb ;;
      *) echo "E: Unable to locate package" >&2; exit 100 ;;
    esac""")
    assert find(tmp_path).folder is not None


@needs_dpkg
def test_the_known_version_with_other_content_is_refused(tmp_path, apt, package):
    apt(f"cp {package} {PACKAGE}_{VERSION}_all.deb")
    found = find(tmp_path)
    assert found.folder is None
    assert "damaged" in found.note
    assert files_below(tmp_path / "cache") == set()


def test_without_network_the_reason_and_the_cure_are_one_line(tmp_path, apt):
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not on this system")
    apt('echo "W: first" >&2; echo "E: Unable to locate package tuxpaint-stamps-default" >&2; exit 100')
    found = find(tmp_path)
    assert found.folder is None
    assert "Unable to locate package" in found.note
    assert f"apt-get install {PACKAGE}" in found.note
    assert "\n" not in found.note


def test_a_system_without_apt_is_told_so(tmp_path, apt):
    found = find(tmp_path)
    assert found.folder is None
    assert "apt-get is not on this system" in found.note


def test_download_false_runs_no_program(tmp_path, apt):
    apt(f"touch {tmp_path}/was-run; exit 1")
    assert find(tmp_path, download=False).folder is None
    assert not (tmp_path / "was-run").exists()
