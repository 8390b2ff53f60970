"""An `EmbeddingStore` in object storage: the writer's folder in the cache, and what of it goes to the address when.

A shard is sent as soon as it is written, its two files first and the manifest last, so that the address holds a whole
store at any time. What was sent stays in the cache like what was fetched, and gives way like it (`storage.shadow`): a
store may be larger than the disk. The address alone decides what is there: a run that goes on after a kill begins with
its manifest, on whatever machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from babelclip import storage
from babelclip.storage.addresses import place_of
from babelclip.storage.shadows import settle

_KIND = "work"


class RemoteStore:
    """The address that a store is written to. Made by `begin`, which takes the lock.

    Attributes:
        url: the address.
        folder: where the store lies meanwhile.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._lock = storage.lock(url)
        try:
            place, name = place_of(url, _KIND)
            self.folder = place / name
            if storage.exists(url):
                storage.shadow(url, kind=_KIND)
            else:
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder.mkdir(parents=True)
        except BaseException:
            self._lock.release()
            raise

    def send(self, files: Sequence[Path]) -> None:
        """Sends files of the folder, the last one last.

        Raises:
            BabelclipError: the storage cannot be written, or another writer took over.
        """
        for file in files:
            if file == files[-1]:
                self._lock.check()
            name = file.relative_to(self.folder).as_posix()
            settle(file, storage.upload(file, storage.joined(self.url, name)))

    def remove_others(self) -> None:
        """Deletes what the folder does not have."""
        for entry in storage.list_files(self.url):
            hidden = any(part.startswith(".") for part in entry.name.split("/"))
            if not hidden and not (self.folder / entry.name).exists():
                storage.delete(entry.url)

    def release(self) -> None:
        """Gives the lock back."""
        self._lock.release()


def begin(path: Path | str) -> tuple[Path, RemoteStore | None]:
    """Returns the folder to write to, and for an address what sends it there.

    Raises:
        BabelclipError: another process writes there, or the storage cannot be reached.
    """
    url = storage.url_of(path)
    if url is None:
        return Path(path), None
    remote = RemoteStore(url)
    return remote.folder, remote


def both(first: Callable[[], object], remote: RemoteStore | None) -> Callable[[], None]:
    """Returns what gives back the lock of the folder and that of the address."""

    def release() -> None:
        first()
        if remote is not None:
            remote.release()

    return release
