"""Where the Tux Paint stamps come from: the system, the cache, or the Debian package, fetched without root.

Stamps cannot be had everywhere, and nobody should have to install a paint program to see a demo, so `find_stamps` never
fails: it returns a folder, or a reason that says how to get one. The package is 161 MB, mostly sound; 30 MB of pictures
and captions are kept. Names inside the archive decide nothing about where files are written.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from babelclip.files import atomic_folder, sha256

PACKAGE = "tuxpaint-stamps-default"
VERSION = "2022.06.04-1"
SHA256 = "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34"
SYSTEM_FOLDER = Path("/usr/share/tuxpaint/stamps")

_INSIDE = ("usr", "share", "tuxpaint", "stamps")
_KEPT = (".png", ".txt")
_LARGEST_MEMBER = 32 << 20  # bytes; the largest stamp has under 1 MB
_SECONDS = 600
_HOW_TO = (
    f"On Debian or Ubuntu: apt-get update, then apt-get install {PACKAGE}; elsewhere copy the folder {SYSTEM_FOLDER} "
    "of such a machine to the same place."
)


@dataclass(frozen=True)
class Stamps:
    """The stamps folder, or None, and one line for the user: where it came from, or why there is none and the cure."""

    folder: Path | None
    note: str


class _Unavailable(Exception):
    """The stamps cannot be had this way; the text says why."""


def find_stamps(cache: Path | None = None, *, download: bool = True, system: Path = SYSTEM_FOLDER) -> Stamps:
    """Returns the folder of the stamps, fetching and unpacking the Debian package where necessary and possible.

    Args:
        cache: what is fetched is kept here; None is babelclip's cache folder, `~/.cache/babelclip`.
        download: False never touches the network.
        system: where an installed package has its stamps.
    """
    if system.is_dir():
        return Stamps(system, f"{PACKAGE}, installed in {system}")
    if cache is None:
        from babelclip.search.folder import cache_folder

        cache = cache_folder()
    kept = sorted(cache.glob(f"{PACKAGE}_*"), key=lambda path: (path.name == f"{PACKAGE}_{VERSION}", path.name))
    if kept:
        return Stamps(kept[-1], f"{kept[-1].name.replace('_', ' ')}, kept in {kept[-1]}")
    if not download:
        return Stamps(
            None, f"Tux Paint pictures are left out: not on this machine, and no download was asked. {_HOW_TO}"
        )
    try:
        folder = _fetch(cache)
    except (_Unavailable, OSError) as reason:
        return Stamps(None, f"Tux Paint pictures are left out: {reason}. {_HOW_TO}")
    return Stamps(folder, f"{folder.name.replace('_', ' ')}, fetched into {folder}")


def _fetch(cache: Path) -> Path:
    """Returns the folder of the unpacked package, which is then complete; the package itself is not kept."""
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise _Unavailable(f"{program} is not on this system")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as temporary:
        package = _download(Path(temporary))
        version = package.name.split("_")[1]
        if version == VERSION and sha256(package) != SHA256:
            raise _Unavailable(f"the fetched {package.name} is damaged: its SHA-256 is not {SHA256}")
        # The version becomes part of a folder's name.
        target = cache / f"{PACKAGE}_{re.sub(r'[^A-Za-z0-9.+~-]', '-', version)}"
        unpack(package, target)
    return target


def _download(folder: Path) -> Path:
    """Returns the .deb, fetched into `folder` by apt-get, which verifies it against the signed lists.

    The system's package lists are tried first; where they are absent or old, fresh ones are fetched into `folder`,
    which needs no root and leaves the system as it is.
    """
    complaint = _apt(["download", PACKAGE], folder)
    if complaint:
        for part in ("lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True)
        own_lists = ["-o", f"Dir::State::lists={folder / 'lists'}", "-o", f"Dir::Cache={folder / 'cache'}"]
        # As root, apt would drop to a user that may not write into the cache.
        own_lists += ["-o", "APT::Sandbox::User=root"]
        complaint = _apt([*own_lists, "update"], folder) or _apt([*own_lists, "download", PACKAGE], folder)
    packages = sorted(folder.glob(f"{PACKAGE}_*.deb"))
    if complaint or not packages:
        raise _Unavailable(f"apt-get could not fetch {PACKAGE} ({complaint or 'it left no package'})")
    return packages[0]


def _apt(arguments: list[str], folder: Path) -> str:
    """Runs apt-get in `folder`; returns the last line of its complaint, or nothing when all went well."""
    try:
        done = subprocess.run(
            ["apt-get", "-q", *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_SECONDS} seconds"
    except OSError as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {done.returncode}"


def unpack(package: Path, target: Path) -> None:
    """Writes pictures and captions of a .deb to the folder `target`, whole or not at all.

    Raises:
        _Unavailable: dpkg-deb cannot read the package, or it holds no stamps.
    """
    with atomic_folder(target) as temporary:
        with subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", str(package)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert process.stdout is not None  # asked for above
            try:
                count = _write_members(process.stdout, temporary)
            except (tarfile.TarError, EOFError) as error:
                process.kill()
                raise _Unavailable(f"{package.name} is damaged ({error})") from error
            while process.stdout.read(1 << 16):
                pass  # the padding behind the archive: unread, it would make dpkg-deb fail
        if process.returncode != 0:
            raise _Unavailable(f"dpkg-deb could not read {package.name} (exit code {process.returncode})")
        if count == 0:
            raise _Unavailable(f"{package.name} holds no stamps in {'/'.join(_INSIDE)}")


def _write_members(stream: IO[bytes], folder: Path) -> int:
    """Writes the wanted plain files of a tar stream below `folder` and returns how many they were."""
    count = 0
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            place = _place_of(member)
            content = archive.extractfile(member) if place is not None else None
            if place is None or content is None:
                continue
            path = folder / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.read())
            count += 1
    return count


def _place_of(member: tarfile.TarInfo) -> PurePosixPath | None:
    """Returns where a member belongs below the stamps folder, or None where it is not wanted or not to be trusted."""
    parts = PurePosixPath(member.name).parts
    if not member.isreg() or member.size > _LARGEST_MEMBER or ".." in parts or "\\" in member.name:
        return None
    if parts[: len(_INSIDE)] != _INSIDE or PurePosixPath(member.name).suffix not in _KEPT:
        return None
    return PurePosixPath(*parts[len(_INSIDE) :])
