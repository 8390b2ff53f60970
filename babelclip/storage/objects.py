"""Single objects: what is there, reading with ranges, writing whole or not at all, deleting."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from babelclip.errors import BabelclipError
from babelclip.files import atomic_path
from babelclip.storage.addresses import joined, url_of
from babelclip.storage.filesystem import opened, reaching

T = TypeVar("T")
# A request for each so many bytes of a transfer.
_CHUNK = 16 << 20


@dataclasses.dataclass(frozen=True)
class Entry:
    """An object.

    Attributes:
        name: below the folder that was listed, with slashes.
        url: its address.
        size: bytes.
        modified: nanoseconds since 1970, as the storage knows it (S3: whole seconds).
    """

    name: str
    url: str
    size: int
    modified: int


def exists(path: Path | str) -> bool:
    """Returns whether an object, or a folder with any object in it, is there; also of a path of this machine."""
    return kind_of(path) != ""


def kind_of(path: Path | str) -> str:
    """Returns "file", "folder" or "" for what lies at an address or a path.

    Raises:
        BabelclipError: the storage cannot be asked.
    """
    url = url_of(path)
    if url is None:
        return "folder" if Path(path).is_dir() else "file" if Path(path).exists() else ""
    from pyarrow import fs

    system, place = opened(url)
    with reaching(url):
        found = system.get_file_info(place).type
    return {fs.FileType.File: "file", fs.FileType.Directory: "folder"}.get(found, "")


def entry_of(url: str) -> Entry:
    """Returns the object at an address.

    Raises:
        FileNotFoundError: there is none.
        BabelclipError: the storage cannot be asked.
    """
    from pyarrow import fs

    system, place = opened(url)
    with reaching(url):
        info = system.get_file_info(place)
        if info.type != fs.FileType.File:
            raise FileNotFoundError(place)
    return Entry(url.rpartition("/")[2], url, info.size, info.mtime_ns or 0)


def list_files(url: str) -> list[Entry]:
    """Returns the objects below an address, sorted by name; [] where there are none. Markers of folders are left out.

    Raises:
        BabelclipError: the storage cannot be asked.
    """
    from pyarrow import fs

    system, place = opened(url)
    with reaching(url):
        found = system.get_file_info(fs.FileSelector(place, recursive=True, allow_not_found=True))
    start = len(place.rstrip("/")) + 1
    files = [info for info in found if info.type == fs.FileType.File and not info.path.endswith("/")]
    entries = [
        Entry(info.path[start:], joined(url, info.path[start:]), info.size, info.mtime_ns or 0) for info in files
    ]
    return sorted(entries, key=lambda entry: entry.name)


def open_input(url: str) -> Any:
    """Returns a file object (read, seek, tell, size) on an object; each read asks for its range only.

    Raises:
        FileNotFoundError: there is no such object.
        BabelclipError: the storage cannot be asked.
    """
    system, place = opened(url)
    with reaching(url):
        return system.open_input_file(place)


def read_bytes(url: str, start: int = 0, length: int | None = None) -> bytes:
    """Returns an object, or `length` bytes of it from `start`.

    Raises:
        FileNotFoundError: there is no such object.
        BabelclipError: it cannot be read.
    """
    with open_input(url) as file, reaching(url):
        if length is None:
            length = max(0, file.size() - start)
        content = file.read_at(length, start)
        return bytes(content)


def write_bytes(url: str, content: bytes) -> None:
    """Writes an object, whole or not at all; one that is there is replaced.

    Raises:
        BabelclipError: it cannot be written.
    """
    system, place = opened(url)

    def write() -> None:
        with system.open_output_stream(place, compression=None) as stream:
            stream.write(content)

    with reaching(url):
        _whole(write)


def upload(file: Path, url: str) -> Entry:
    """Writes a file of this machine to an address, whole or not at all, and returns the object.

    Raises:
        BabelclipError: it cannot be written, or has changed meanwhile.
    """
    system, place = opened(url)
    size = file.stat().st_size

    def write() -> None:
        with file.open("rb") as source, system.open_output_stream(place, compression=None) as stream:
            while block := source.read(_CHUNK):
                stream.write(block)

    with reaching(url):
        _whole(write)
    written = entry_of(url)
    if written.size != size:
        raise BabelclipError(f"{url} has {written.size} bytes and {file} had {size}: it was changed while it was sent.")
    return written


def download(url: str, file: Path, size: int | None = None, check: Callable[[Path], str] | None = None) -> None:
    """Writes an object to a file of this machine, whole or not at all.

    Args:
        url: the object.
        file: replaced in one step.
        size: bytes that it must have.
        check: says what is wrong with what was fetched, "" where nothing is.

    Raises:
        FileNotFoundError: there is no such object.
        BabelclipError: it cannot be read, or is not what was expected.
    """
    from pyarrow import fs

    system, place = opened(url)
    with atomic_path(file) as temporary:
        with reaching(url):
            target = os.fspath(temporary.absolute())
            fs.copy_files(place, target, system, fs.LocalFileSystem(), chunk_size=_CHUNK, use_threads=False)
        found = temporary.stat().st_size
        if size is not None and found != size:
            raise BabelclipError(
                f"{url} has {found} bytes and was listed with {size}: it was written anew meanwhile. Run it again."
            )
        if check is not None and (problem := check(temporary)):
            raise BabelclipError(f"{url} {problem}: it was changed since, or damaged. Write it again, or open it anew.")


def delete(url: str) -> None:
    """Deletes an object, or all objects below an address; what is not there is deleted already.

    Raises:
        BabelclipError: it cannot be deleted.
    """
    from pyarrow import fs

    system, place = opened(url)
    with reaching(url):
        kind = system.get_file_info(place).type
        if kind == fs.FileType.File:
            system.delete_file(place)
        elif kind == fs.FileType.Directory:
            system.delete_dir(place)


def in_parallel(work: Callable[[T], object], items: Iterator[T] | list[T], threads: int = 8) -> None:
    """Calls `work` for all items, some at a time; the first error ends it."""
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in futures:
                future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def _whole(write: Callable[[], object]) -> None:
    # To leave a stream of pyarrow closes it, and that publishes what came so far. Ctrl-C reaches the main thread only,
    # so what is written in another one is written to its end.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(write).result()
