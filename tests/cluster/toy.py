"""A job without a model: each shard becomes a line, a commit appends lines to a file; for tests of what runs jobs."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path

from babelclip.cluster.job import Fragment, Ledger, Shard
from babelclip.errors import BabelclipError
from babelclip.files import atomic_path, lock_file


@dataclasses.dataclass(frozen=True)
class ToyJob:
    """Lines 0, 1, 4, 9, ... in `folder`/out.txt; `die` and `refuse` are numbers of shards."""

    folder: str
    count: int = 12
    group: int = 3
    die: int = -1
    refuse: int = -1
    pause: float = 0.0
    what: str = "Toys"
    unit: str = "toys"

    def shards(self):
        return [Shard(number, f"toy-{number}", 1) for number in range(self.count)]

    def lacking(self, shards):
        return self.ledger.lacking([shard for shard in shards if shard.number >= self.committed()])

    def committed(self):
        return len(self.lines())

    def worker(self, device, lanes=1, decoders=None):
        def work(shard):
            if (there := self.ledger.find(shard)) is not None:
                return there
            if shard.number == self.die:
                os.kill(os.getpid(), signal.SIGKILL)
            if shard.number == self.refuse:
                raise BabelclipError(f"shard {shard.number} is refused")
            time.sleep(self.pause)
            with self.ledger.room() as room:
                (room / "line.txt").write_text(f"{shard.number**2}\n")
                return self.ledger.record(shard, room, {"process": os.getpid()})

        return work

    def commit(self, shards):
        lines = self.lines()
        assert [shard.number for shard in shards] == list(range(len(lines), len(lines) + len(shards)))
        for shard in shards:
            with self.ledger.open(shard) as (fragment, place):
                assert isinstance(fragment, Fragment)
                lines.append((place / "line.txt").read_text())
        with atomic_path(Path(self.folder) / "out.txt") as temporary:
            temporary.write_text("".join(lines))
        with (Path(self.folder) / "commits.txt").open("a") as file:
            file.write(f"{len(shards)}\n")

    def finish(self):
        return "".join(self.lines())

    def lock(self):
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        return lock_file(Path(self.folder) / ".lock")

    @property
    def ledger(self):
        return Ledger(self.folder)

    def lines(self):
        path = Path(self.folder) / "out.txt"
        return path.read_text().splitlines(keepends=True) if path.exists() else []

    def processes(self):
        """Numbers of the processes that did the shards that are not cleared."""
        found = [self.ledger.read(number) for number in range(self.count)]
        return {fragment.facts["process"] for fragment in found if fragment is not None}


def whole(count=12):
    return "".join(f"{number**2}\n" for number in range(count))
