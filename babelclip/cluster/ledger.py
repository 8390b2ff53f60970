"""`Ledger`: which shards of a job are done, and the files that they made, each with its checksum.

    fragments/00000/…        the files of shard 0, whole: written under another name, then moved here
    done/00000.json          written last: id of the shard, size and SHA-256 of its files, facts

A shard without an entry is not done, whatever files lie there; so is one whose entry has another id, because the job
became another one. Two workers may do the same shard at once: they write the same bytes, and each file is replaced in
one step. All files of a job pass through this module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from babelclip.errors import BabelclipError
from babelclip.files import sha256, sync

_ENTRY = re.compile(r"(\d{5,})\.json")


@dataclasses.dataclass(frozen=True)
class Shard:
    """A part of a job, to be done whole or not at all.

    Attributes:
        number: its place in the order in which results are committed, from 0.
        id: hash of its content and of all that decides its result.
        rows: captions or pictures in it, for bars and reports.
        payload: what the job needs to find its content; small, a path below the job's folder or JSON.
    """

    number: int
    id: str
    rows: int
    payload: str = ""


@dataclasses.dataclass(frozen=True)
class Fragment:
    """What a shard became.

    Attributes:
        shard: id of the shard.
        number: of the shard.
        files: size in bytes and SHA-256 of each file, by name.
        facts: what else the commit wants to know; JSON.
    """

    shard: str
    number: int
    files: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class DamagedFragmentError(BabelclipError):
    """The files of a fragment are not those that its entry names: it must be made again."""


class Ledger:
    """The finished shards of the job in `folder`; can be pickled, and opened by any number of processes."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    @contextlib.contextmanager
    def room(self) -> Iterator[Path]:
        """Yields an empty folder to write a fragment's files in; it is gone when the block ends."""
        room = self.folder / "rooms" / _fresh_name()
        room.mkdir(parents=True)
        try:
            yield room
        finally:
            shutil.rmtree(room, ignore_errors=True)

    def record(self, shard: Shard, room: Path | None = None, facts: Mapping[str, Any] | None = None) -> Fragment:
        """Moves the files of a `room` to where fragments lie, writes the entry, and returns what it says.

        Args:
            shard: that is done.
            room: with the files; None where the job keeps them elsewhere.
            facts: JSON that the commit wants to know.
        """
        made = sorted(room.iterdir()) if room is not None else []
        files = {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in made}
        place = self._place(shard.number)
        place.mkdir(parents=True, exist_ok=True)
        for file in made:
            sync(file)
            os.replace(file, place / file.name)
        sync(place)
        fragment = Fragment(shard.id, shard.number, files, dict(facts or {}))
        self._write(self._entry(shard.number), dataclasses.asdict(fragment))
        return fragment

    def read(self, number: int) -> Fragment | None:
        """Returns the entry of a shard, whether or not its files are still there; None where there is none."""
        try:
            return Fragment(**json.loads(self._entry(number).read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None  # an entry that cannot be read is none: its shard is done again

    def find(self, shard: Shard) -> Fragment | None:
        """Returns the fragment of a finished shard; None where it is not done, or a file has another size."""
        fragment, place = self.read(shard.number), self._place(shard.number)
        if fragment is None or fragment.shard != shard.id:
            return None
        try:
            whole = all((place / name).stat().st_size == facts["bytes"] for name, facts in fragment.files.items())
        except FileNotFoundError:
            return None
        return fragment if whole else None

    def lacking(self, shards: Sequence[Shard]) -> list[Shard]:
        """Returns those of `shards` that are not done, in their order."""
        entries = self._numbers()
        return [shard for shard in shards if shard.number not in entries or self.find(shard) is None]

    @contextlib.contextmanager
    def open(self, shard: Shard) -> Iterator[tuple[Fragment, Path]]:
        """Yields the fragment of a finished shard and the folder of its files, every checksum of which was compared.

        Raises:
            DamagedFragmentError: it is not there, or not as it was written; it is forgotten, to be made again.
        """
        fragment, place = self.find(shard), self._place(shard.number)
        if fragment is None or any(sha256(place / name) != facts["sha256"] for name, facts in fragment.files.items()):
            self.forget(shard)
            raise DamagedFragmentError(
                f"The fragment of shard {shard.number} in {self.folder} is not as it was written: its files must have "
                "the checksums of its entry. It was forgotten: run the same again, which makes it anew."
            )
        yield fragment, place

    def forget(self, shard: Shard) -> None:
        """Removes entry and files of a shard: the entry first."""
        self._entry(shard.number).unlink(missing_ok=True)
        shutil.rmtree(self._place(shard.number), ignore_errors=True)

    def drop_files(self, shard: Shard) -> None:
        """Removes the files of a shard that was committed; the entry stays, for the report."""
        shutil.rmtree(self._place(shard.number), ignore_errors=True)

    def clear(self) -> None:
        """Removes all entries, fragments and what killed workers left."""
        for name in ("done", "fragments", "rooms"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _numbers(self) -> set[int]:
        folder = self.folder / "done"
        names = (_ENTRY.fullmatch(name) for name in os.listdir(folder)) if folder.is_dir() else ()
        return {int(match[1]) for match in names if match}

    def _entry(self, number: int) -> Path:
        return self.folder / "done" / f"{number:05d}.json"

    def _place(self, number: int) -> Path:
        return self.folder / "fragments" / f"{number:05d}"

    def _write(self, path: Path, content: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{_fresh_name()}.part")
        temporary.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)


def _fresh_name() -> str:
    # Two hosts that share a folder may have processes of one number.
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
