from __future__ import annotations

import dataclasses
import io
import os
import re
import shutil
import stat
import tarfile
from pathlib import Path

import pytest

from babelclip.starter import debian
from babelclip.starter.debian import DebianPart, find_folder, find_folders, left_out, unpack
from babelclip.starter.freedict import DICTIONARIES
from babelclip.starter.tuxpaint import STAMPS
from babelclip.starter.wordnet import WORDNET

PARTS = (STAMPS, WORDNET, *DICTIONARIES.values())
PACKAGE, VERSION = STAMPS.package, STAMPS.version
INSIDE = f"./{STAMPS.inside}"
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
    unpack(STAMPS, deb(tmp_path / "p.deb", members), tmp_path / "out")
    assert files_below(tmp_path / "out") == {"animals/crow.png", "animals/crow.txt"}
    assert (tmp_path / "out/animals/crow.txt").read_bytes() == b"A crow."


@needs_dpkg
def test_files_named_one_by_one_are_kept_and_the_statement_of_copyright_with_them(tmp_path):
    inside = f"./{WORDNET.inside}"
    members = {f"{inside}/{name}": name.encode() for name in (*WORDNET.kept, "data.verb", "index.noun.old")}
    members |= {"./usr/share/doc/wordnet-base/copyright": b"Princeton", "./usr/share/doc/other/copyright": b"x"}
    unpack(WORDNET, deb(tmp_path / "p.deb", members), tmp_path / "out")
    assert files_below(tmp_path / "out") == {*WORDNET.kept, "copyright"}
    assert (tmp_path / "out/copyright").read_bytes() == b"Princeton"


@needs_dpkg
def test_a_package_that_lacks_a_needed_file_is_refused(tmp_path):
    members = {f"./{WORDNET.inside}/{name}": b"x" for name in WORDNET.kept[1:]}
    with pytest.raises(debian._Unavailable, match=r"does not hold data\.noun"):
        unpack(WORDNET, deb(tmp_path / "p.deb", members), tmp_path / "out")
    assert not (tmp_path / "out").exists()


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
    unpack(STAMPS, deb(tmp_path / "p.deb", members, links), tmp_path / "deep" / "out")
    assert files_below(outside) == set()
    assert files_below(tmp_path) == {"p.deb", "deep/out/good.txt", "deep/out/link/evil.txt"}


@needs_dpkg
@pytest.mark.parametrize("size", [0, 20, 300, -40])
def test_a_damaged_package_leaves_nothing_behind(tmp_path, size):
    whole = deb(tmp_path / "p.deb", {f"{INSIDE}/a{n}.txt": os.urandom(500) for n in range(9)}).read_bytes()
    (tmp_path / "cut.deb").write_bytes(whole[:size])
    with pytest.raises(debian._Unavailable, match=r"cut\.deb"):
        unpack(STAMPS, tmp_path / "cut.deb", tmp_path / "out")
    assert files_below(tmp_path) == {"p.deb", "cut.deb"}
    assert not (tmp_path / "out").exists()


@needs_dpkg
def test_a_package_without_stamps_is_refused(tmp_path):
    with pytest.raises(debian._Unavailable, match=r"does not hold \.png, \.txt in usr/share/tuxpaint/stamps"):
        unpack(STAMPS, deb(tmp_path / "p.deb", {"./usr/share/doc/readme.txt": b"x"}), tmp_path / "out")


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


def away(part: DebianPart, tmp_path: Path) -> DebianPart:
    """The part as on a machine where its package is not installed."""
    return dataclasses.replace(part, system=tmp_path / "absent")


def find(tmp_path, **options):
    return find_folder(away(STAMPS, tmp_path), tmp_path / "cache", **options)


def dictionary(tmp_path, code: str) -> Path:
    """A package in the style of FreeDict."""
    inside = f"./usr/share/dictd/freedict-eng-{code}"
    return deb(tmp_path / f"{code}.deb", {f"{inside}.dict.dz": b"zipped", f"{inside}.index": b"dog\tA\tB\n"})


def test_an_installed_package_comes_first(tmp_path):
    (tmp_path / "system").mkdir()
    found = find_folder(dataclasses.replace(STAMPS, system=tmp_path / "system"), tmp_path / "cache")
    assert found.folder == tmp_path / "system"
    assert "installed" in found.note


def test_a_folder_that_packages_share_is_taken_only_with_the_files_that_are_needed(tmp_path):
    (tmp_path / "freedict-eng-fra.index").write_text("")
    french, german = (dataclasses.replace(DICTIONARIES[lang], system=tmp_path) for lang in ("fr", "de"))
    assert find_folder(french, tmp_path / "cache", download=False).folder is None
    (tmp_path / "freedict-eng-fra.dict.dz").write_bytes(b"")
    assert find_folder(french, tmp_path / "cache", download=False).folder == tmp_path
    assert find_folder(german, tmp_path / "cache", download=False).folder is None


def test_every_part_names_one_package_its_checksum_its_files_and_its_licence():
    assert len({part.package for part in PARTS}) == len(PARTS) == 12
    assert all(re.fullmatch("[0-9a-f]{64}", part.sha256) for part in PARTS)
    assert len({part.sha256 for part in PARTS}) == len(PARTS)
    for part in PARTS:
        assert part.kept
        assert part.licence
        assert part.package in part.attribution
        assert part.installed == Path("/", part.inside)


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


@needs_dpkg
def test_several_packages_are_fetched_by_one_call(tmp_path, apt, package):
    french = dictionary(tmp_path, "fra")
    apt(f"""echo "$@" >> {tmp_path}/calls
      cp {package} {PACKAGE}_2099.1-1_all.deb
      cp {french} dict-freedict-eng-fra_1%3a2099-1_all.deb""")
    stamps, words = find_folders([away(STAMPS, tmp_path), away(DICTIONARIES["fr"], tmp_path)], tmp_path / "cache")
    assert (tmp_path / "calls").read_text() == f"-q download {PACKAGE} dict-freedict-eng-fra\n"
    assert files_below(stamps.folder) == {"crow.png", "crow.txt"}
    assert words.folder.name == "dict-freedict-eng-fra_1-2099-1"
    assert DICTIONARIES["fr"].is_complete(words.folder)


@needs_dpkg
def test_one_unknown_package_does_not_keep_the_others_away(tmp_path, apt, package):
    apt(f"""case "$*" in
      *update*) exit 0 ;;
      *freedict*) echo "E: Unable to locate package dict-freedict-eng-fra" >&2; exit 100 ;;
      *) cp {package} {PACKAGE}_2099.1-1_all.deb ;;
    esac""")
    stamps, words = find_folders([away(STAMPS, tmp_path), away(DICTIONARIES["fr"], tmp_path)], tmp_path / "cache")
    assert stamps.folder is not None
    assert words.folder is None
    assert "Unable to locate package dict-freedict-eng-fra" in words.note
    assert "English-French dictionary" in words.note


@needs_dpkg
def test_one_damaged_package_does_not_keep_the_others_away(tmp_path, apt, package):
    version = DICTIONARIES["fr"].version
    apt(f"""cp {package} {PACKAGE}_2099.1-1_all.deb; cp {package} dict-freedict-eng-fra_{version}_all.deb""")
    stamps, words = find_folders([away(STAMPS, tmp_path), away(DICTIONARIES["fr"], tmp_path)], tmp_path / "cache")
    assert stamps.folder is not None
    assert "damaged" in words.note


def test_what_is_left_out_for_one_reason_is_one_line_with_one_cure(tmp_path, apt):
    found = find_folders([away(part, tmp_path) for part in PARTS], tmp_path / "cache")
    (line,) = left_out(found)
    assert line.startswith("Tux Paint pictures, WordNet nouns, English-Arabic dictionary")
    assert f"apt-get install {PACKAGE} wordnet-base dict-freedict-eng-ara" in line
    assert left_out([]) == ()


def test_a_cache_that_cannot_be_written_is_a_reason_and_no_crash(tmp_path, apt):
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not on this system")
    apt("exit 1")
    (tmp_path / "cache").write_text("a file")
    found = find(tmp_path)
    assert found.folder is None
    assert "cache" in found.note
