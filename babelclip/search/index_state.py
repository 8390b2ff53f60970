"""What is known beside a collection: who writes it, which pictures still wait for their group, how scores spread.

For a collection in a folder these files lie in it, under `.babelclip/`; for one elsewhere (`s3://`, `milvus://`) in the
user's cache. All of them can be made again. The lock of a writer lies beside the folder, since it is there first.

    model                   folder or name of the model that the last run was given
    waiting                 ids, one a line, written before their rows are: not yet looked at for near duplicates
    background-*.json       scores of unrelated queries (query_background.py)
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from babelclip import storage
from babelclip.errors import BabelclipError
from babelclip.files import LockedError, atomic_path, cache_folder, lock_file, sync

FOLDER = ".babelclip"
_WAITING, _MODEL = "waiting", "model"


def state_folder(url: str | Path) -> Path:
    """Returns the folder of these files for the collection at `url`; it need not exist."""
    text = str(url)
    if "://" not in text:
        path = Path(text).expanduser()
        if path.is_dir() or (not path.exists() and path.suffix == ".lance"):
            return path / FOLDER
        text = str(path.resolve())
    return cache_folder() / "collections" / hashlib.sha256(text.encode()).hexdigest()[:20]


def lock_collection(url: str | Path) -> Callable[[], None]:
    """Takes the right to index into the collection at `url`, and returns what gives it back; it ends with the process.

    Raises:
        BabelclipError: another run has it.
    """
    try:
        return take_lock(url)
    except LockedError as error:
        this = " (this one)" if error.holder == str(os.getpid()) else ""
        raise BabelclipError(
            f"{url} is being indexed by process {error.holder}{this}. One run at a time writes a collection: wait for "
            "it, or stop it; what it has written is kept."
        ) from error


def take_lock(url: str | Path) -> Callable[[], None]:
    """Does what `lock_collection` does, for those who can wait.

    Raises:
        LockedError: another run has it.
    """
    if storage.is_url(url):
        return storage.take(str(url)).release
    if "://" in str(url):
        file = cache_folder() / "locks" / hashlib.sha256(str(url).encode()).hexdigest()[:20]
    else:
        path = Path(url).expanduser().resolve()
        file = path.with_name(f".{path.name}.lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    return lock_file(file)


def note_model(url: str | Path, model: str) -> None:
    """Keeps which model encodes queries of the collection; folders by their absolute path."""
    folder = state_folder(url)
    folder.mkdir(parents=True, exist_ok=True)
    path = Path(model).expanduser()
    with atomic_path(folder / _MODEL) as temporary:
        temporary.write_text(str(path.resolve()) if path.is_dir() else model, encoding="utf-8")


def noted_model(url: str | Path) -> str:
    """Returns what `note_model` kept; "" where there is nothing, or the folder is gone."""
    file = state_folder(url) / _MODEL
    model = file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else ""
    return "" if model.startswith("/") and not Path(model).is_dir() else model


class Waiting:
    """The ids of rows that near duplicates have not been looked for, kept through kills."""

    def __init__(self, url: str | Path) -> None:
        self._path = state_folder(url) / _WAITING

    def add(self, ids: Iterable[str]) -> None:
        """Notes ids, durably, before their rows are written."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            # A kill may have cut the last line: the new ones begin on their own.
            file.write("\n" + "".join(f"{name}\n" for name in ids))
            file.flush()
            os.fsync(file.fileno())

    def ids(self) -> list[str]:
        """Returns the ids, each once, in the order in which they came."""
        if not self._path.exists():
            return []
        lines = self._path.read_text(encoding="utf-8", errors="replace").split("\n")
        return [line for line in dict.fromkeys(lines) if line]

    def clear(self) -> None:
        """Forgets all: their groups are written."""
        if self._path.exists():
            with atomic_path(self._path) as temporary:
                temporary.write_bytes(b"")
            self._path.unlink()
            sync(self._path.parent)
