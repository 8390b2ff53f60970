"""A folder of the cache that stands for one in object storage: all names, sizes and times, contents only when read.

So whatever walks a folder on disk walks one on s3:// too, and nothing copies a data set. A file whose content is not
there yet has its size and no permission at all; `present` fetches it, whole and under its name in one step, and
`content` reads a picture without keeping it. Small files that readers open by name alone (.json, .toml, models'
tokenizers) are fetched at once; pictures, tars, tables, texts, vectors and weights wait.

A copy is as the listing says: an object whose size or time has changed is fetched again. Fetched files of a megabyte
and more are counted, and the longest unused give way above `BABELCLIP_CACHE_BYTES` (50 GB), not before ten minutes.
Processes share the cache: whoever fetches a file holds its lock, and the others wait for it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from babelclip.errors import BabelclipError, closest
from babelclip.files import cache_folder
from babelclip.storage.addresses import KINDS, joined, origin_of, parent_and_name, place_of, plain, url_of
from babelclip.storage.objects import (
    Entry,
    download,
    entry_of,
    in_parallel,
    kind_of,
    list_files,
    open_input,
    read_bytes,
)

_log = logging.getLogger(__name__)

BYTES_VARIABLE = "BABELCLIP_CACHE_BYTES"
_CACHE_BYTES = 50 * 10**9
# Files of fewer bytes are not counted: a million captions beside pictures are no more than one tar.
_COUNTED = 1 << 20
# Seconds without use before a file may give way: it may still be in somebody's hands.
_IN_USE = 600.0
# S3 tells times in seconds: what was written just now may be written again within the same one.
_RACY = 2_000_000_000
_LAZY = frozenset(
    ".tar .tgz .npy .npz .index .parquet .pq .arrow .feather .jsonl .ndjson .csv .tsv .tab .txt .tmx"
    " .safetensors .bin .pt .pth .ckpt .h5 .onnx .msgpack".split()
)
_BESIDE = (".json", ".cls")


def shadow(path: Path | str, *, everything: bool = False, kind: str = KINDS[0]) -> Path:
    """Returns the folder or file of the cache that stands for an address, as it is now; other paths as they are.

    Args:
        path: an address, or a path of this machine, which may begin with `file://`.
        everything: fetch all contents now.
        kind: which part of the cache; that of readers, or that of a writer, who alone changes it.

    Raises:
        BabelclipError: nothing is at the address, or it cannot be read.
    """
    url = url_of(path)
    if url is None:
        url = origin_of(path) if everything else None
        if url is None:
            return plain(path)
    found = kind_of(url)
    if not found:
        raise _missing(url)
    place, name = place_of(url, kind)
    entries = list_files(url) if found == "folder" else [entry_of(url)]
    root = place / name if found == "folder" else place
    with exclusive(place / f".{_hashed(name)}.lock"):
        _refresh(root, entries, whole=found == "folder")
    wanted = _eager(entries) if not everything else [entry.name for entry in entries]
    waiting = [root / name for name in wanted if is_waiting(root / name)]
    in_parallel(present, waiting)
    return place / name


def shadowed(source: Path | str) -> Path | str:
    """Returns what `shadow` does for an address, and anything else, words such as "moses:a.en,b.sv" too, as it is."""
    return source if url_of(source) is None else shadow(source)


def local(path: Path | str) -> Path:
    """Returns a path of this machine with all that is at an address; other paths as they are. See `shadow`.

    Raises:
        BabelclipError: nothing is at the address, or it cannot be read.
    """
    return shadow(path, everything=True)


def present(path: Path, check: Callable[[Path], str] | None = None) -> Path:
    """Returns `path`, whose content is there now.

    Args:
        path: any path; one of the cache that waits for its content gets it.
        check: says what is wrong with what was fetched, "" where nothing is.

    Raises:
        BabelclipError: the content cannot be fetched, or is not what was expected.
    """
    text = os.fspath(path)
    if not any(f"{os.sep}{kind}{os.sep}" in text for kind in KINDS):
        return path  # a path of this machine costs no system call
    url = origin_of(path)
    if url is None:
        return path
    if not _lacks(path):
        _used(path)
        return path
    with exclusive(_locks() / _hashed(text)[:2]):
        if _lacks(path):
            _fetch(url, path, check)
    return path


def content(path: Path | str) -> bytes | None:
    """Returns the content of an address, or of a file of the cache that waits for it; None of any other path.

    Nothing is kept: a picture is read once, and so is its object.

    Raises:
        FileNotFoundError: there is no such object.
        BabelclipError: it cannot be read.
    """
    url = url_of(path)
    if url is None:
        if not any(f"{os.sep}{kind}{os.sep}" in os.fspath(path) for kind in KINDS):
            return None
        url = origin_of(path)
        if url is None or not _lacks(Path(path)):
            return None
    return read_bytes(url)


def opened(path: Path) -> Any:
    """Returns a file to read parts of: of one in the cache that waits for its content, each read asks for its range."""
    url = origin_of(path) if is_waiting(path) else None
    return path.open("rb") if url is None else open_input(url)


def is_waiting(path: Path) -> bool:
    """Returns whether `path` is a file of the cache without its content."""
    try:
        facts = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(facts.st_mode) and not stat.S_IMODE(facts.st_mode)


def size_of(path: Path) -> int:
    """Returns the bytes of a file; of one in object storage also where this machine has not even its name.

    Raises:
        OSError: there is no such file.
        BabelclipError: the storage cannot be asked.
    """
    url = url_of(path) or origin_of(path)
    return path.stat().st_size if url is None or path.exists() else entry_of(url).size


def settle(path: Path, sent: Entry) -> None:
    """Notes that a file of the cache is what lies at an address: it was written there from here."""
    os.utime(path, ns=(sent.modified, sent.modified))
    _used(path)


def make_room() -> None:
    """Takes the content of files that were not used for long, until what is kept is within its bound."""
    bound, kept = _bound(), []
    for note in _held().iterdir():
        with contextlib.suppress(OSError, ValueError):
            size, _, name = note.read_text(encoding="utf-8").partition("\n")
            kept.append((note.stat().st_mtime, int(size), Path(name), note))
    total, now = sum(entry[1] for entry in kept), time.time()
    for used, length, path, note in sorted(kept):
        if total <= bound or now - used < _IN_USE:
            return
        with contextlib.suppress(OSError):
            facts = path.stat()
            _placeholder(path, facts.st_size, facts.st_mtime_ns)
        note.unlink(missing_ok=True)
        total -= length


def _bound() -> int:
    """Returns the bytes that may be kept."""
    given = os.environ.get(BYTES_VARIABLE) or str(_CACHE_BYTES)
    try:
        return int(float(given))
    except (ValueError, OverflowError) as error:
        raise BabelclipError(
            f"{BYTES_VARIABLE}={given} is no number of bytes: give one, for example 50000000000 or 5e10, or unset it."
        ) from error


def _lacks(path: Path) -> bool:
    """Returns whether a file of the readers' part is not here: it waits, or was listed by another machine."""
    return is_waiting(path) or (not path.exists() and f"{os.sep}{KINDS[0]}{os.sep}" in os.fspath(path))


def _fetch(url: str, path: Path, check: Callable[[Path], str] | None) -> None:
    try:
        entry = entry_of(url)
        download(url, path, path.stat().st_size if path.exists() else entry.size, check)
    except FileNotFoundError as error:
        raise BabelclipError(f"{url} was deleted since it was listed. Run the same again, which looks anew.") from error
    stamp = _stamp(entry)
    os.utime(path, ns=(stamp, stamp))
    _used(path)
    make_room()


def _stamp(entry: Entry) -> int:
    """Returns the time that the copy of an object gets: its own, or another one where it may be written again in it."""
    return entry.modified + (time.time_ns() - entry.modified < _RACY)


def _refresh(root: Path, entries: Sequence[Entry], *, whole: bool) -> None:
    """Makes the names below `root` those of `entries`; with `whole`, removes others."""
    root.mkdir(parents=True, exist_ok=True)
    there = dict(_walk(root)) if whole else {}
    for entry in entries:
        path = root / entry.name
        if not whole and path.is_file():
            there[entry.name] = path.stat()
        facts = there.pop(entry.name, None)
        if facts is not None and facts.st_size == entry.size and facts.st_mtime_ns == entry.modified:
            continue
        if any(part.startswith(".") for part in entry.name.split("/")) and ".." not in entry.name.split("/"):
            continue  # of a writer, or marked as aside
        if not _is_safe(entry.name):
            _log.warning("%s was left out: its name is no path of a file.", entry.url)
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _placeholder(path, entry.size, _stamp(entry))
        except OSError as error:
            _log.warning("%s was left out: %s.", entry.url, error.strerror)
    for name in there:
        (root / name).unlink(missing_ok=True)


def _walk(root: Path, below: str = "") -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(root / below) as found:
        for item in found:
            name = f"{below}{item.name}"
            if item.name.startswith("."):
                continue
            if item.is_dir(follow_symlinks=False):
                yield from _walk(root, f"{name}/")
            else:
                yield name, item.stat(follow_symlinks=False)


def _placeholder(path: Path, size: int, modified: int) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with temporary.open("wb") as file:
        file.truncate(size)
    os.utime(temporary, ns=(modified, modified))
    temporary.chmod(0)
    os.replace(temporary, path)


def _is_safe(name: str) -> bool:
    # Hidden names are ours or nobody's data; the others must lead to a file below the folder.
    parts = name.split("/")
    return all(part and not part.startswith(".") and "\0" not in part and "\\" not in part for part in parts)


def _eager(entries: Sequence[Entry]) -> list[str]:
    """Returns the names that readers open without asking for their content first."""
    stems = {os.path.splitext(entry.name)[0] for entry in entries if _is_picture(entry.name)}
    eager = []
    for entry in entries:
        stem, suffix = os.path.splitext(entry.name.lower().removesuffix(".gz"))
        lazy = suffix in _LAZY or _is_picture(entry.name)
        lazy |= suffix in _BESIDE and os.path.splitext(entry.name)[0] in stems
        if stem and not lazy and _is_safe(entry.name):
            eager.append(entry.name)
    return eager


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _picture_suffixes()


@functools.cache
def _picture_suffixes() -> frozenset[str]:
    from PIL import Image

    return frozenset(Image.registered_extensions())


def _missing(url: str) -> BabelclipError:
    parent, name = parent_and_name(url)
    near: list[str] = []
    if parent.count("/") > 2:
        there = {entry.name.partition("/")[0] for entry in list_files(parent.rstrip("/"))[:10_000]}
        near = closest(name, there)
    return BabelclipError(
        f"{url} does not exist, neither as an object nor as a folder of objects. "
        + (f"Did you mean {joined(parent, near[0])}?" if near else "Check the address; names are case-sensitive.")
    )


def _used(path: Path) -> None:
    """Notes that a file of the cache is in use."""
    try:
        size = path.stat().st_size
    except OSError:
        return  # a writer is about to make it
    if size < _COUNTED:
        return
    note = _held() / _hashed(os.fspath(path))
    if note.exists():
        os.utime(note)
    else:
        note.write_text(f"{size}\n{path}", encoding="utf-8")


def _held() -> Path:
    folder = cache_folder().resolve() / KINDS[0] / ".held"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _locks() -> Path:
    folder = cache_folder().resolve() / KINDS[0] / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:20]


@contextlib.contextmanager
def exclusive(file: Path) -> Iterator[None]:
    """Waits until no other process or thread holds the lock of `file`, and holds it."""
    with file.open("a") as opened:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
