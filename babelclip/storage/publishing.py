"""Folders of this machine to addresses, and back: what a run writes is a folder on disk, and lies at its address too.

A folder is published so that a reader of the address never sees a manifest that names what is not there: small JSON
files, which are manifests, are read first and sent last, the outermost at the very end; all else is sent between.
What was sent is noted in the cache, so that a run that goes on sends only what changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from babelclip.errors import BabelclipError
from babelclip.files import cache_folder, read_json, write_json
from babelclip.storage.addresses import joined, place_of, plain, url_of
from babelclip.storage.locks import lock
from babelclip.storage.objects import (
    Entry,
    delete,
    download,
    in_parallel,
    kind_of,
    list_files,
    upload,
    write_bytes,
)
from babelclip.storage.shadows import exclusive

_log = logging.getLogger(__name__)
# Larger JSON files are data.
_MANIFEST_BYTES = 1 << 24
# Seconds between two times that unfinished work is published.
EVERY = 60.0


def publish(folder: Path, url: str, *, check: Callable[[], object] = lambda: None) -> int:
    """Makes the address hold what the folder holds, and returns how many objects were written.

    Hidden files and those being written are left out. An object that `publish` never wrote is not touched.

    Args:
        folder: whose files are written atomically, so that each is whole at any time.
        url: where it goes.
        check: is called before the manifests; what it raises keeps them back (`Lock.check`).

    Raises:
        BabelclipError: the storage cannot be written; what was sent stays, and the next call goes on.
    """
    notes = _notes(folder, url)
    found = {name: facts for name, facts in _files(folder) if notes.get(name, [])[:2] != facts}
    last: dict[str, bytes] = {}
    for name, (size, _) in found.items():
        if name.endswith(".json") and size <= _MANIFEST_BYTES:
            with contextlib.suppress(FileNotFoundError):
                last[name] = (folder / name).read_bytes()

    def send(name: str) -> None:
        try:
            upload(folder / name, joined(url, name))
        except FileNotFoundError:
            found.pop(name, None)  # removed meanwhile, as old checkpoints are

    in_parallel(send, [name for name in found if name not in last])
    check()
    for name in sorted(last, key=lambda name: (-name.count("/"), name == "manifest.json", name)):
        write_bytes(joined(url, name), last[name])
    there = {name for name, _ in _files(folder)}
    gone = [name for name in notes if name not in there]
    for name in gone:
        delete(joined(url, name))
    if found or gone:
        kept = {name: note for name, note in notes.items() if name in there}
        _note(folder, url, {**kept, **{name: [*facts, 0] for name, facts in found.items()}})
    return len(found)


def pull(url: str, folder: Path) -> None:
    """Makes a folder hold what lies at an address; work of this machine that was never sent stays where it fits.

    It fits as long as nobody else has written to the address since; otherwise what lies there wins.

    Raises:
        BabelclipError: the storage cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    notes = _notes(folder, url)
    entries = {entry.name: entry for entry in _published(url)}
    changed = [e for e in entries.values() if notes.get(e.name, [])[::2] != [e.size, e.modified]]
    if not changed and entries.keys() == notes.keys():
        return
    for name, facts in list(_files(folder)):
        if name not in entries or notes.get(name, [])[:2] != facts:
            (folder / name).unlink(missing_ok=True)
    there = dict(_files(folder))
    wanted = [e for e in entries.values() if e.name not in there or e in changed]
    in_parallel(lambda entry: download(entry.url, folder / entry.name, entry.size), wanted)
    _note(folder, url, {name: [*facts, 0] for name, facts in _files(folder)})


@contextlib.contextmanager
def output(path: Path | str, *, every: float = EVERY, leads: bool = True) -> Iterator[Path]:
    """Yields a folder of this machine for what goes to `path`; of an address, one in the cache that is published.

    What lies at the address is brought first, so that unfinished work goes on from any machine. It is published every
    minute and at the end, also when the block ends by an error or by Ctrl-C; a kill loses what came after the last
    time, and on the same machine not even that. One process at a time writes to an address.

    Args:
        path: an address, or a path of this machine, which is yielded as it is.
        every: seconds between two publications of unfinished work.
        leads: whether this process publishes; of several that work together (torchrun) one does, and the others, also
            on other machines, begin with what lies there.

    Raises:
        BabelclipError: another process writes there, or the storage cannot be read or written.
    """
    url = url_of(path)
    if url is None:
        yield plain(path)
        return
    if kind_of(url) == "file":
        raise BabelclipError(f"{url} is an object, and a folder is to be written there: give another address.")
    place, name = place_of(url, "work")
    folder = place / name
    if not leads:
        with exclusive(place / f".{name}.pull"):
            pull(url, folder)
        yield folder
        return
    held = lock(url)
    ended = threading.Event()

    def keep_publishing() -> None:
        while not ended.wait(every):
            try:
                publish(folder, url, check=held.check)
            except (BabelclipError, OSError) as error:
                _log.warning("%s is not published at the moment: %s", url, error)

    thread = threading.Thread(target=keep_publishing, name="babelclip-publish", daemon=True)
    try:
        with exclusive(place / f".{name}.pull"):
            pull(url, folder)
        thread.start()
        yield folder
    finally:
        ended.set()
        if thread.is_alive():
            thread.join()
        try:
            if folder.is_dir():
                publish(folder, url, check=held.check)
        finally:
            held.release()


def _files(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Yields (name, [size, time]) of the files below `folder` that are not hidden."""
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(here, name)
            if name.startswith(".") or name.endswith(".part"):
                continue
            with contextlib.suppress(FileNotFoundError):
                facts = path.stat()
                yield path.relative_to(folder).as_posix(), [facts.st_size, facts.st_mtime_ns]


def _published(url: str) -> list[Entry]:
    return [entry for entry in list_files(url) if not any(part.startswith(".") for part in entry.name.split("/"))]


def _notes(folder: Path, url: str) -> dict[str, list[int]]:
    """Returns name -> [size, time on disk, time at the address] of what was sent or brought."""
    file = _notes_file(folder, url)
    if not file.is_file():
        return {}
    try:
        notes = read_json(file)
    except BabelclipError:
        return {}
    return notes if isinstance(notes, dict) else {}


def _note(folder: Path, url: str, notes: dict[str, list[int]]) -> None:
    """Keeps notes, with the times at the address of what is new there."""
    times = {entry.name: entry.modified for entry in _published(url)}
    write_json(_notes_file(folder, url), {name: [*note[:2], times.get(name, note[2])] for name, note in notes.items()})


def _notes_file(folder: Path, url: str) -> Path:
    key = hashlib.sha256(f"{folder.resolve()}\0{url}".encode()).hexdigest()[:20]
    return cache_folder() / "published" / f"{key}.json"
