"""Pictures inside tars, `shards/00000.tar::0001.jpg`: as webdataset and img2dataset keep them, and captions name them.

A tar has no table of contents. The first picture asked for reads all its headers, some 10 microseconds each, and where
each member lies is kept for the last few tars; a picture is then one seek and one read.
"""

from __future__ import annotations

import functools
import tarfile
from os import PathLike, fspath
from pathlib import Path

from babelclip.storage import present, shadow

# Tars whose headers are kept: pictures come shard by shard, a few at a time with many decoders.
_KEPT = 16


def in_tar(path: str | PathLike[str]) -> tuple[Path, str] | None:
    """Returns the tar and the member that `path` names, None where it names a plain file."""
    tar, mark, member = fspath(path).partition(".tar::")
    return (shadow(f"{tar}.tar"), member) if mark else None


def member_size(tar: Path, member: str) -> int:
    """Returns the bytes of a member.

    Raises:
        OSError: the tar cannot be read, or has no such member.
    """
    return member_place(tar, member)[1]


def read_member(tar: Path, member: str) -> bytes:
    """Returns the content of a member.

    Raises:
        OSError: the tar cannot be read, or has no such member whole.
    """
    start, size = member_place(tar, member)
    with present(tar).open("rb") as file:
        file.seek(start)
        content = file.read(size)
    if len(content) < size:
        raise OSError(f"{tar} breaks off inside {member}")
    return content


def member_place(tar: Path, member: str) -> tuple[int, int]:
    """Returns where a member begins in a tar, and its bytes.

    Raises:
        OSError: the tar cannot be read, or has no such member.
    """
    facts = tar.stat()
    places = _places(tar, facts.st_size, facts.st_mtime_ns)
    if member not in places:
        raise FileNotFoundError(f"{tar} has no member {member!r}")
    return places[member]


@functools.lru_cache(maxsize=_KEPT)
def _places(tar: Path, _size: int, _changed: int) -> dict[str, tuple[int, int]]:
    """Returns where each file of a tar begins and its bytes; a tar that changed is read anew."""
    places: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(present(tar), "r:") as archive:
            for entry in archive:
                if entry.isfile():
                    places.setdefault(entry.name, (entry.offset_data, entry.size))
    except tarfile.TarError as error:
        # What lies before the break can be read; captions of what does not are skipped one by one.
        if not places:
            raise OSError(f"{tar} is not a plain tar ({error})") from error
    return places
