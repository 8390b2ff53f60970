"""A folder that all processes of a job see, on a disk that they share or in object storage, by the same few functions.

Each file is written whole or not at all. On a disk that is a new name for a file written elsewhere; in object storage
an object is whole by itself.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from babelclip import storage
from babelclip.errors import BabelclipError
from babelclip.files import LockedError, lock_file, sync

_LOCK = ".lock"


class Place(Protocol):
    """What a job needs of its folder; names are relative, with "/"."""

    def source(self, name: str) -> Path | io.BytesIO:
        """Returns what a reader of Parquet takes; raises FileNotFoundError where there is no such file."""
        ...

    def read(self, name: str) -> bytes | None:
        """Returns a file; None where there is none."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, in place of one that is there."""
        ...

    def take(self, files: list[Path], folder: str) -> None:
        """Moves files of this machine, best of a `room`, into a folder of the place."""
        ...

    def fetched(self, folder: str) -> contextlib.AbstractContextManager[Path]:
        """Yields a folder of the place as one of this machine."""
        ...

    def sizes(self, folder: str) -> dict[str, int]:
        """Returns the bytes of the files of a folder, by name; {} where there is none."""
        ...

    def remove(self, name: str) -> None:
        """Removes a file, or a folder with all in it; "" is the place itself."""
        ...

    def room(self) -> contextlib.AbstractContextManager[Path]:
        """Yields an empty folder of this machine, from which `take` is cheap; it is gone when the block ends."""
        ...

    def lock(self) -> Callable[[], None]:
        """Takes the lock of the place and returns what gives it back; raises LockedError where another has it."""
        ...


def place_at(path: Path | str) -> Place:
    """Returns the place at a path or an address."""
    url = storage.url_of(path)
    return Disk(Path(path)) if url is None else Bucket(url)


class Disk:
    """A folder of a disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def source(self, name: str) -> Path | io.BytesIO:
        """See `Place`."""
        return self.path / name

    def read(self, name: str) -> bytes | None:
        """See `Place`."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """See `Place`."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{_fresh_name()}.part")
        temporary.write_bytes(content)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)

    def take(self, files: list[Path], folder: str) -> None:
        """See `Place`."""
        place = self.path / folder
        place.mkdir(parents=True, exist_ok=True)
        for file in files:
            sync(file)
            shutil.move(file, place / file.name)
        sync(place)

    @contextlib.contextmanager
    def fetched(self, folder: str) -> Iterator[Path]:
        """See `Place`."""
        yield self.path / folder

    def sizes(self, folder: str) -> dict[str, int]:
        """See `Place`."""
        try:
            with os.scandir(self.path / folder) as entries:
                return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        except FileNotFoundError:
            return {}

    def remove(self, name: str) -> None:
        """See `Place`."""
        path = self.path / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def room(self) -> Iterator[Path]:
        """See `Place`."""
        room = self.path / "rooms" / _fresh_name()
        room.mkdir(parents=True)
        try:
            yield room
        finally:
            shutil.rmtree(room, ignore_errors=True)

    def lock(self) -> Callable[[], None]:
        """See `Place`."""
        self.path.mkdir(parents=True, exist_ok=True)
        return lock_file(self.path / _LOCK)


class Bucket:
    """A folder in object storage."""

    def __init__(self, url: str) -> None:
        self.url = url

    def source(self, name: str) -> Path | io.BytesIO:
        """See `Place`."""
        return io.BytesIO(storage.read_bytes(storage.joined(self.url, name)))

    def read(self, name: str) -> bytes | None:
        """See `Place`."""
        try:
            return storage.read_bytes(storage.joined(self.url, name))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """See `Place`."""
        storage.write_bytes(storage.joined(self.url, name), content)

    def take(self, files: list[Path], folder: str) -> None:
        """See `Place`."""
        for file in files:
            storage.upload(file, storage.joined(self.url, f"{folder}/{file.name}"))
            file.unlink()

    @contextlib.contextmanager
    def fetched(self, folder: str) -> Iterator[Path]:
        """See `Place`."""
        with tempfile.TemporaryDirectory() as name:
            for entry in storage.list_files(storage.joined(self.url, folder)):
                storage.download(entry.url, Path(name, entry.name), entry.size)
            yield Path(name)

    def sizes(self, folder: str) -> dict[str, int]:
        """See `Place`."""
        return {entry.name: entry.size for entry in storage.list_files(storage.joined(self.url, folder))}

    def remove(self, name: str) -> None:
        """See `Place`."""
        storage.delete(storage.joined(self.url, name) if name else self.url)

    @contextlib.contextmanager
    def room(self) -> Iterator[Path]:
        """See `Place`."""
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)

    def lock(self) -> Callable[[], None]:
        """See `Place`."""
        try:
            return storage.lock(self.url).release
        except BabelclipError as error:
            for entry in storage.list_files(storage.joined(self.url, _LOCK)):
                with contextlib.suppress(FileNotFoundError, ValueError):
                    facts = json.loads(storage.read_bytes(entry.url))
                    raise LockedError(f"{facts.get('pid')} of {facts.get('host')}") from error
            raise


def _fresh_name() -> str:
    # Two hosts that share a folder may have processes of one number.
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
