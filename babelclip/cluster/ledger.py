"""`Ledger`: which shards of a job are done, and the files that they made, each with its checksum.

    fragments/00000/…        the files of shard 0, whole: written under another name, then moved here
    done/00000.json          written last: id of the shard, size and SHA-256 of its files, facts

A shard without an entry is not done, whatever files lie there; so is one whose entry has another id, because the job
became another one. Two workers may do the same shard at once: they write the same bytes, and each file is replaced in
one step. Where they lie: `place.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from babelclip.cluster.place import place_at
from babelclip.errors import BabelclipError
from babelclip.files import sha256

_ENTRY = re.compile(r"(\d{5,})\.json")
# Entries looked at together.
_AT_ONCE = 16


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
        self.folder = folder
        self._place = place_at(folder)

    def room(self) -> contextlib.AbstractContextManager[Path]:
        """Yields an empty folder to write a fragment's files in; it is gone when the block ends."""
        return self._place.room()

    def record(self, shard: Shard, room: Path | None = None, facts: Mapping[str, Any] | None = None) -> Fragment:
        """Moves the files of a `room` to where fragments lie, writes the entry, and returns what it says.

        Args:
            shard: that is done.
            room: with the files; None where the job keeps them elsewhere.
            facts: JSON that the commit wants to know.
        """
        made = sorted(room.iterdir()) if room is not None else []
        files = {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in made}
        if made:
            self._place.take(made, _files(shard.number))
        fragment = Fragment(shard.id, shard.number, files, dict(facts or {}))
        content = json.dumps(dataclasses.asdict(fragment), ensure_ascii=False) + "\n"
        self._place.write(_entry(shard.number), content.encode())
        return fragment

    def read(self, number: int) -> Fragment | None:
        """Returns the entry of a shard, whether or not its files are still there; None where there is none."""
        content = self._place.read(_entry(number))
        try:
            return None if content is None else Fragment(**json.loads(content))
        except (ValueError, TypeError):
            return None  # an entry that cannot be read is none: its shard is done again

    def find(self, shard: Shard) -> Fragment | None:
        """Returns the fragment of a finished shard; None where it is not done, or a file has another size."""
        fragment = self.read(shard.number)
        if fragment is None or fragment.shard != shard.id:
            return None
        there = self._place.sizes(_files(shard.number)) if fragment.files else {}
        whole = all(there.get(name) == facts["bytes"] for name, facts in fragment.files.items())
        return fragment if whole else None

    def lacking(self, shards: Sequence[Shard]) -> list[Shard]:
        """Returns those of `shards` that are not done, in their order."""
        entries = {int(match[1]) for name in self._place.sizes("done") if (match := _ENTRY.fullmatch(name))}
        there = [shard for shard in shards if shard.number in entries]
        with ThreadPoolExecutor(_AT_ONCE) as pool:  # object storage takes its time for each
            done = {shard.number for shard, found in zip(there, pool.map(self.find, there), strict=True) if found}
        return [shard for shard in shards if shard.number not in done]

    @contextlib.contextmanager
    def open(self, shard: Shard) -> Iterator[tuple[Fragment, Path]]:
        """Yields the fragment of a finished shard and the folder of its files, every checksum of which was compared.

        Raises:
            DamagedFragmentError: it is not there, or not as it was written; it is forgotten, to be made again.
        """
        fragment = self.find(shard)
        with self._place.fetched(_files(shard.number)) as folder:
            if fragment is None or any(_differs(folder / name, facts) for name, facts in fragment.files.items()):
                self.forget(shard)
                raise DamagedFragmentError(
                    f"The fragment of shard {shard.number} in {self.folder} is not as it was written: its files must "
                    "have the checksums of its entry. It was forgotten: run the same again, which makes it anew."
                )
            yield fragment, folder

    def forget(self, shard: Shard) -> None:
        """Removes entry and files of a shard: the entry first."""
        self._place.remove(_entry(shard.number))
        self.drop_files(shard)

    def drop_files(self, shard: Shard) -> None:
        """Removes the files of a shard that was committed; the entry stays, for the report."""
        self._place.remove(_files(shard.number))

    def clear(self) -> None:
        """Removes all entries, fragments and what killed workers left."""
        for name in ("done", "fragments", "rooms"):
            self._place.remove(name)


def _entry(number: int) -> str:
    return f"done/{number:05d}.json"


def _files(number: int) -> str:
    return f"fragments/{number:05d}"


def _differs(file: Path, facts: Mapping[str, Any]) -> bool:
    return not file.is_file() or sha256(file) != facts["sha256"]
