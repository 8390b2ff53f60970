from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from babelclip.starter.hundred.npm import NpmError, NpmPart, find_package


def archive(path: Path, members: dict[str, bytes]) -> str:
    """Writes a package as npm lays it out, and returns its checksum."""
    with tarfile.open(path, mode="w:gz") as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


MEMBERS = {
    "package/package.json": b"{}",
    "package/names/sv/names.json": b"[1]",
    "package/names/../../escaped/names.json": b"[2]",
    "package/names/sv/install.js": b"bad()",
}


def part_of(folder: Path) -> NpmPart:
    part = NpmPart("tiny names", "tiny-names", "1.2.3", "", "names", "names.json", "nobody")
    folder.mkdir(parents=True, exist_ok=True)
    return dataclasses.replace(part, sha256=archive(folder / part.archive, MEMBERS))


def test_only_wanted_files_of_an_archive_in_the_cache_are_unpacked(tmp_path):
    part = part_of(tmp_path)
    folder = find_package(part, tmp_path, download=False)
    assert [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()] == ["sv/names.json"]
    assert not (tmp_path / "escaped").exists()
    (tmp_path / part.archive).unlink()
    assert find_package(part, tmp_path, download=False) == folder  # found again


def test_an_archive_of_another_content_is_refused_with_both_checksums(tmp_path):
    part = dataclasses.replace(part_of(tmp_path), sha256="0" * 64)
    with pytest.raises(NpmError, match=r"damaged: its SHA-256 is [0-9a-f]{64}, not 0{64}.*npm pack tiny-names@1\.2\.3"):
        find_package(part, tmp_path, download=False)
    assert not list(tmp_path.glob("npm-*"))


def fake_npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    program = folder / "npm"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")


def test_what_is_not_in_the_cache_is_packed_by_npm_without_running_scripts(tmp_path, monkeypatch):
    part = part_of(tmp_path / "registry")
    fake_npm(tmp_path / "bin", f'echo "$@" > {tmp_path}/asked; cp {tmp_path}/registry/{part.archive} .', monkeypatch)
    folder = find_package(part, tmp_path / "cache")
    assert (folder / "sv" / "names.json").read_bytes() == b"[1]"
    assert (tmp_path / "asked").read_text().split() == ["pack", "--ignore-scripts", "--silent", "tiny-names@1.2.3"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["npm-tiny-names-1.2.3"]


def test_an_unreachable_registry_is_told_with_what_npm_said_and_the_cure(tmp_path, monkeypatch):
    part = part_of(tmp_path / "registry")
    fake_npm(tmp_path / "bin", "echo 'npm error network unreachable' >&2; exit 1", monkeypatch)
    with pytest.raises(NpmError, match=r"could not fetch tiny-names@1\.2\.3 \(npm error network unreachable\)"):
        find_package(part, tmp_path / "cache")


def test_a_system_without_npm_is_told_how_to_copy_the_package(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    part = part_of(tmp_path / "registry")
    with pytest.raises(NpmError, match=r"npm is not on this system.*copy tiny-names-1\.2\.3\.tgz into"):
        find_package(part, tmp_path / "cache")


def test_nothing_is_fetched_where_no_download_was_asked(tmp_path):
    with pytest.raises(NpmError, match="no download was asked"):
        find_package(part_of(tmp_path / "registry"), tmp_path / "cache", download=False)
