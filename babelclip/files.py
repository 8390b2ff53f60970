"""Files that are written whole or not at all, their checksums, and the folder of what is kept between runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from babelclip.errors import BabelclipError


def cache_folder() -> Path:
    """Returns where what can be made or fetched again is kept: `$BABELCLIP_CACHE`, else `~/.cache/babelclip`."""
    return Path(os.environ.get("BABELCLIP_CACHE") or Path.home() / ".cache" / "babelclip")


def sync(path: Path) -> None:
    """Makes the file or folder at `path` durable on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is synced and takes the name of `path` in one step.

    A reader, or a run that starts after a kill, sees the old file or the new one, never a part. On an exception
    the temporary file is removed and `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yields a temporary folder that takes the place of `path` when the block ends well.

    An older folder at `path` is moved aside first and removed last, so a kill leaves at least one of the two.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    aside = path.with_name(f".{path.name}.{os.getpid()}.old")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for item in temporary.rglob("*"):
            sync(item)
        if path.exists():
            os.replace(path, aside)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)
        elif aside.exists():
            os.replace(aside, path)


class LockedError(OSError):
    """Another process, or another object of this one, holds a lock; `holder` is the number of the process."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"held by process {holder}")
        self.holder = holder


def lock_file(path: Path | str) -> Callable[[], None]:
    """Takes the lock of the file at `path`, made where there is none; returns what gives it back.

    It ends with the process too.

    Raises:
        LockedError: it is taken; says by which process.
    """
    file = Path(path).open("a+", encoding="utf-8")
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(1 << 30)  # beyond the text, which stays readable for the one who is refused
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise LockedError(holder) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file.close


def write_json(path: Path | str, content: Any) -> None:
    """Writes `content` as indented UTF-8 JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path | str) -> Any:
    """Returns the content of a JSON file.

    Raises:
        BabelclipError: the file is missing or is not JSON; the message names it.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BabelclipError(f"{path} does not exist. Check the path, or make the folder it belongs to.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BabelclipError(f"{path} is not valid JSON ({error}). It is damaged or of another kind.") from error


def sha256(path: Path | str) -> str:
    """Returns the SHA-256 of a file as a hexadecimal string."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
