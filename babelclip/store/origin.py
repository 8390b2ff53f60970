"""What a merged or imported store is made from: so that the same command goes on after a kill, and no other does.

`origin.json` beside the manifest says what is done, from which contents, and whether it is complete. A store whose
`complete` is false is sound, but shorter than it will be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from babelclip.errors import BabelclipError
from babelclip.files import read_object, write_json
from babelclip.store.layout import MANIFEST, ORIGIN

# Bytes at each end of a file that tell it from another of its size.
_END = 1 << 16


def fingerprint(file: Path) -> dict[str, Any]:
    """Returns name, size and the SHA-256 of both ends of a file: tells it from another without reading all of it."""
    size = file.stat().st_size
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        digest.update(opened.read(_END))
        opened.seek(max(_END, size - _END))
        digest.update(opened.read(_END))
    return {"name": file.name, "bytes": size, "sha256_of_ends": digest.hexdigest()}


def store_fingerprint(path: Path) -> dict[str, Any]:
    """Returns name and the SHA-256 of the manifest of a store, which names every byte of it."""
    return {"name": path.resolve().name, "manifest_sha256": hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()}


def begin(path: Path, work: Mapping[str, Any], *, rows: int) -> bool:
    """Notes in the store at `path` what it is made from; returns whether that is complete already.

    Args:
        path: an open store.
        work: what is done and from what, as JSON.
        rows: how many the store has.

    Raises:
        BabelclipError: the store is made from something else.
    """
    file = path / ORIGIN
    if not file.exists():
        if rows:
            raise BabelclipError(
                f"{path} holds {rows:,} vectors that were not put there by this command. The result needs a folder of "
                "its own: choose another one."
            )
        write_json(file, {"complete": False, **work})
        return False
    noted = read_object(file)
    complete = noted.pop("complete", False)
    if noted != dict(work):
        differing = sorted(key for key in {*noted, *work} if noted.get(key) != work.get(key))
        raise BabelclipError(
            f"{path} was {'made' if complete else 'begun'} by another command: {', '.join(differing)} differ. It goes "
            f"on only with what it was begun with (see {file}): repeat that command, or choose another folder."
        )
    return bool(complete)


def end(path: Path, work: Mapping[str, Any]) -> None:
    """Notes that the store at `path` is complete."""
    write_json(path / ORIGIN, {"complete": True, **work})


def unfinished(path: Path) -> bool:
    """Returns whether the store at `path` is a merge or an import that was stopped."""
    return (path / ORIGIN).exists() and not read_object(path / ORIGIN).get("complete", False)
