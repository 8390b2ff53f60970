"""Files that are written whole or not at all, their checksums, and the folder of what is kept between runs."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from babelclip.errors import BabelclipError


def cache_folder() -> Path:
    """Returns where what can be made or fetched again is kept: `$BABELCLIP_CACHE`, else `~/.cache/babelclip`."""
    # A shell leaves the ~ of `env BABELCLIP_CACHE=~/x` and of service files as it is.
    return Path(os.environ.get("BABELCLIP_CACHE") or "~/.cache/babelclip").expanduser()


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
    temporary = path.with_name(f".{path.name}.{_own_number()}.part")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _own_number() -> str:
    """Returns what tells this thread from others, of this process too: threads may write one file at once."""
    return f"{os.getpid()}-{threading.get_native_id()}"


@contextlib.contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yields a temporary folder that takes the place of `path` when the block ends well.

    A kill leaves the old folder or the new one: at `path`, or beside it until the next call for `path` puts it back.
    """
    path = Path(path)
    with folder_beside(path, "part") as temporary:
        yield temporary
        for item in temporary.rglob("*"):
            sync(item)
        replace_folder(temporary, path)


@contextlib.contextmanager
def folder_beside(path: Path | str, ending: str) -> Iterator[Path]:
    """Yields a new folder `.NAME.PID.ENDING` beside `path`, for what is to take its place; gone when the block ends.

    Those that killed processes left there are removed, and an older `path` that one of them had moved aside is put
    back. A folder in use is held by a lock, which ends with its process.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _put_back(path)
    for left in _named_beside(path, ending):
        _remove_unused(left)
    folder, held = _new_folder(path, ending)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)


def replace_folder(written: Path, path: Path) -> None:
    """Gives a whole folder the name of another beside it, which is moved aside first and removed last."""
    aside = path.with_name(f".{path.name}.{_own_number()}.old")
    try:
        while True:
            shutil.rmtree(aside, ignore_errors=True)
            if path.exists():
                os.replace(path, aside)
            try:
                os.replace(written, path)
                break
            except OSError as error:
                # Another process has put its own there in between: the last one stays.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        sync(path.parent)
    finally:
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)
        elif aside.exists():
            os.replace(aside, path)


def _named_beside(path: Path, ending: str) -> list[Path]:
    """Returns the folders beside `path` that are named as those of `folder_beside`."""
    name = re.compile(rf"\.{re.escape(path.name)}\.\d+(-\d+)?\.{ending}")
    with os.scandir(path.parent) as entries:
        return [Path(entry.path) for entry in entries if name.fullmatch(entry.name) and entry.is_dir()]


def _put_back(path: Path) -> None:
    """Undoes what a process that was killed between two renames had begun."""
    for old in _named_beside(path, "old"):
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(old, path)


def _new_folder(path: Path, ending: str) -> tuple[Path, int | None]:
    """Returns a new folder beside `path`, and what holds its lock; None where folders have none."""
    for turn in itertools.count():
        number = f"{os.getpid()}-{turn}" if turn else f"{os.getpid()}"
        folder = path.with_name(f".{path.name}.{number}.{ending}")
        try:
            folder.mkdir()
        except FileExistsError:  # of another thread
            continue
        held = _hold(folder, wait=True)
        if folder.is_dir():
            return folder, held
        if held is not None:  # another process took it for a left one before it was held
            os.close(held)
    raise AssertionError("there is always a next number")


def _hold(folder: Path, *, wait: bool) -> int | None:
    """Returns a descriptor that holds the lock of a folder; None where another has it, or folders have no locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_unused(folder: Path) -> None:
    """Removes a folder that no process holds; one whose lock cannot be asked for stays."""
    held = _hold(folder, wait=False)
    if held is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


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
    # Not UTF-8, not JSON, a number of more than 4,300 digits; or nested too deeply.
    except (ValueError, RecursionError) as error:
        raise BabelclipError(f"{path} is not valid JSON ({error}). It is damaged or of another kind.") from error


def read_object(path: Path | str) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Raises:
        BabelclipError: the file is missing, is not JSON, or holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise BabelclipError(
            f"{path} holds a {type(content).__name__}; a JSON object is expected. It is damaged or of another kind: "
            "copy it again from its origin."
        )
    return content


def sha256(path: Path | str) -> str:
    """Returns the SHA-256 of a file as a hexadecimal string."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
