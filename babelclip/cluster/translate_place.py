"""Where a translation by several processes lies: a folder on a disk that they share, or one in object storage.

On a disk every process writes into the folder itself, as `babelclip translate` does without a launcher. In object
storage it has a room on its own machine for what it is at: a block of the source is brought there, and what came of it
is sent, the record last, as the record is what makes a shard finished. The end is the same objects as the files are.

Entry point: `translation_at`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from babelclip import storage
from babelclip.cluster.place import Bucket, place_at
from babelclip.errors import BabelclipError
from babelclip.storage.objects import entry_of, in_parallel, kind_of
from babelclip.translate import folder
from babelclip.translate.folder import Shard as Record
from babelclip.translate.jobs import Job, Jobs, Work
from babelclip.translate.pipeline import Asked, finish, prepare
from babelclip.translate.report import TranslationReport

# Records looked at together.
_AT_ONCE = 16
_REPORTS = ("report.json", "report.md")


class TranslationPlace(Protocol):
    """What a job of translations needs of its folder."""

    def check(self) -> None:
        """Does nothing where the folder is new, empty or of a translation; raises BabelclipError where it is not."""
        ...

    def manifest(self) -> dict[str, Any] | None:
        """Returns the manifest; None where there is none."""
        ...

    def prepare(self, asked: Asked, progress: bool) -> dict[str, Any]:
        """Writes the source in blocks and returns the manifest that says so; the caller holds the lock."""
        ...

    def record(self, job: Job) -> Record | None:
        """Returns the record of a finished shard, None where it is not finished."""
        ...

    def records(self, jobs: Sequence[Job]) -> list[Record | None]:
        """Does what `record` does for many."""
        ...

    def doer(self, work: Work, device: str, lanes: int) -> Callable[[Job], Record]:
        """Returns what does jobs on a device, and keeps the engine of the last one open."""
        ...

    def finish(
        self, work: Work, manifest: dict[str, Any], done: Mapping[str, Mapping[int, Record]]
    ) -> TranslationReport:
        """Writes report and manifest; `done` has the shards by language and block."""
        ...

    def lock(self) -> Callable[[], None]:
        """Takes the right to write the manifest; returns what gives it back. Raises LockedError."""
        ...


def translation_at(out: Path | str) -> TranslationPlace:
    """Returns the translation at a path or an address."""
    url = storage.url_of(out)
    return _OnDisk(Path(out)) if url is None else _InBucket(url)


class _OnDisk:
    """See `TranslationPlace`."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def check(self) -> None:
        folder.check_folder(self._out)

    def manifest(self) -> dict[str, Any] | None:
        return folder.read_manifest(self._out)

    def prepare(self, asked: Asked, progress: bool) -> dict[str, Any]:
        return prepare(asked, progress)

    def record(self, job: Job) -> Record | None:
        return folder.read_shard(self._out, job.lang, job.block)

    def records(self, jobs: Sequence[Job]) -> list[Record | None]:
        return [self.record(job) for job in jobs]

    def doer(self, work: Work, device: str, lanes: int) -> Callable[[Job], Record]:
        doer, out = Jobs(work, device, lanes), self._out

        def do(job: Job) -> Record:
            start = time.perf_counter()
            made = doer.do(job, lambda n: None)
            timing = {"lang": job.lang, "block": job.block, "captions": made.planned, "device": device}
            folder.add_timing(out, {**timing, "seconds": round(time.perf_counter() - start, 3)})
            return made

        return do

    def finish(
        self, work: Work, manifest: dict[str, Any], done: Mapping[str, Mapping[int, Record]]
    ) -> TranslationReport:
        return finish(work, manifest, done)

    def lock(self) -> Callable[[], None]:
        return place_at(self._out).lock()


class _InBucket:
    """See `TranslationPlace`. No timings are kept: an object cannot be appended to."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._place = Bucket(url)

    def check(self) -> None:
        if kind_of(self._url) == "file":
            raise BabelclipError(
                f"{self._url} is an object, and a folder is to be written there: give another address."
            )
        folder.check_names(self._url, {entry.name.partition("/")[0] for entry in storage.list_files(self._url)})

    def manifest(self) -> dict[str, Any] | None:
        with self._room() as room:
            self._bring(room, [folder.MANIFEST])
            return folder.read_manifest(room)

    def prepare(self, asked: Asked, progress: bool) -> dict[str, Any]:
        with self._room() as room:
            self._bring(room, [folder.MANIFEST])
            here = dataclasses.replace(asked, work=dataclasses.replace(asked.work, out=room))
            manifest = prepare(here, progress)
            # Without a manifest that counts them, blocks are what a killed process left.
            self._place.remove("sources")
            self._send(room, [file for file in room.rglob("*.parquet") if not file.name.startswith(".")])
            self._send(room, [room / folder.MANIFEST])
            return manifest

    def record(self, job: Job) -> Record | None:
        record = self._read(job)
        return record if record is not None and _is_whole(record, self._sizes_of(record)) else None

    def records(self, jobs: Sequence[Job]) -> list[Record | None]:
        sizes = {entry.name: entry.size for entry in storage.list_files(self._url)}

        def read(job: Job) -> Record | None:
            record = self._read(job) if _record_of(job) in sizes else None
            return record if record is not None and _is_whole(record, sizes) else None

        with ThreadPoolExecutor(_AT_ONCE) as pool:  # object storage takes its time for each
            return list(pool.map(read, jobs))

    def doer(self, work: Work, device: str, lanes: int) -> Callable[[Job], Record]:
        room = Path(tempfile.mkdtemp(), storage.name_of(self._url))
        doer = Jobs(dataclasses.replace(work, out=room), device, lanes)

        def do(job: Job) -> Record:
            room.mkdir()
            try:
                with _called(room, self._url):
                    self._bring(room, [folder.source_file(Path(), job.block).as_posix()])
                    made = doer.do(job, lambda n: None)
                    self._replace(room, job)
                    return made
            finally:
                shutil.rmtree(room, ignore_errors=True)

        weakref.finalize(do, shutil.rmtree, room.parent, ignore_errors=True)
        return do

    def finish(
        self, work: Work, manifest: dict[str, Any], done: Mapping[str, Mapping[int, Record]]
    ) -> TranslationReport:
        with self._room() as room:
            report = finish(dataclasses.replace(work, out=room), manifest, done)
            self._send(room, [room / name for name in _REPORTS])
            self._send(room, [room / folder.MANIFEST])
        return dataclasses.replace(report, out=Path(self._url))

    def lock(self) -> Callable[[], None]:
        return self._place.lock()

    def _read(self, job: Job) -> Record | None:
        content = self._place.read(_record_of(job))
        try:
            return None if content is None else Record(**json.loads(content))
        except (ValueError, TypeError):
            return None  # a record that cannot be read is none: its shard is made again

    def _sizes_of(self, record: Record) -> dict[str, int]:
        sizes = {}
        for file in _files_of(record).values():
            with contextlib.suppress(FileNotFoundError):
                sizes[file] = entry_of(storage.joined(self._url, file)).size
        return sizes

    @contextlib.contextmanager
    def _room(self) -> Iterator[Path]:
        """Yields an empty folder of this machine, which errors call by the address."""
        with tempfile.TemporaryDirectory() as name:
            room = Path(name, storage.name_of(self._url))
            room.mkdir()
            with _called(room, self._url):
                yield room

    def _bring(self, room: Path, names: Sequence[str]) -> None:
        """Copies objects into a room; those that are not there are left out."""
        for name in names:
            content = self._place.read(name)
            if content is not None:
                (room / name).parent.mkdir(parents=True, exist_ok=True)
                (room / name).write_bytes(content)

    def _send(self, room: Path, files: Sequence[Path]) -> None:
        names = {file: file.relative_to(room).as_posix() for file in files}
        in_parallel(lambda file: storage.upload(file, storage.joined(self._url, names[file])), list(files))

    def _replace(self, room: Path, job: Job) -> None:
        """Sends what came of a job, its record last, and deletes what came of it before and does not any more."""
        made = [one(room, job.lang, job.block) for one in (folder.translations_file, folder.rejected_file)]
        self._send(room, [file for file in made if file.exists()])
        for file in made:
            if not file.exists():
                self._place.remove(file.relative_to(room).as_posix())
        self._send(room, [folder.shard_file(room, job.lang, job.block)])


def _record_of(job: Job) -> str:
    return folder.shard_file(Path(), job.lang, job.block).as_posix()


def _files_of(record: Record) -> dict[str, str]:
    """Returns the names of the files of a shard, those that have a row."""
    places = {"translations": folder.translations_file, "rejected": folder.rejected_file}
    return {name: places[name](Path(), record.lang, record.block).as_posix() for name in record.files}


def _is_whole(record: Record, sizes: Mapping[str, int]) -> bool:
    """Returns whether the files of a shard are there with the sizes that its record names."""
    return all(sizes.get(file) == record.files[name]["bytes"] for name, file in _files_of(record).items())


@contextlib.contextmanager
def _called(room: Path, url: str) -> Iterator[None]:
    """Lets errors name the address where they name its room."""
    try:
        yield
    except BabelclipError as error:
        error.args = (str(error).replace(str(room), url),)
        raise
