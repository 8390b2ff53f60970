"""`EmbedJob`: captions or pictures to an `EmbeddingStore` by many processes, to the byte as by one.

The plan is what one process would do: which rows go into which shard, and which of them have a text that an earlier row
has. It is made once, by whoever comes first. Workers then write shards as the store wants them (`embed_commit.py`);
only vectors of repeated texts are filled in by the commit, from the earlier shard.

What is done to captions and to pictures differs: `Kind`, in `embed_captions.py` and `embed_pictures.py`.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Protocol

from babelclip import storage
from babelclip.cluster import embed_commit
from babelclip.cluster.embed_folder import JobFolder
from babelclip.cluster.job import Fragment, Ledger, Shard, Worker
from babelclip.errors import BabelclipError
from babelclip.files import LockedError
from babelclip.store.layout import StoreFacts

# Shards of one commit. Workers run on while it is made; a reader sees the store grow by so many.
_GROUP = 8
# Seconds between two looks whether another rank has made the plan.
_LOOK = 0.5


class Kind(Protocol):
    """What an embed job does to its source; holds no model.

    Attributes:
        what: title of the bar.
        unit: what is counted.
    """

    @property
    def what(self) -> str:
        """Title of the bar."""
        ...

    @property
    def unit(self) -> str:
        """What is counted."""
        ...

    def asked(self) -> dict[str, Any]:
        """Returns all that decides the bytes of the result, as JSON."""
        ...

    def plan(self, out: str, folder: JobFolder, progress: bool) -> Plan:
        """Writes the contents of all shards, and returns what they are; `out` is made where it is not there."""
        ...

    def do(self, device: str, lanes: int, decoders: Executor | None, job: dict[str, Any]) -> Do:
        """Loads the model, and returns what does a shard."""
        ...

    def report(self, job: dict[str, Any], fragments: Iterable[Fragment], rows: int, seconds: float) -> Embedded:
        """Returns what the job did; `rows` are those of the store."""
        ...


# Takes a shard, its content and an empty folder; writes vectors.npy and rows.parquet into it and returns facts.
Do = Callable[[Shard, Any, Path], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        shards: in order.
        facts: of the store.
        base: shards and rows that the store had.
        columns: names and Arrow types of the rows, `id` first.
        told: counts for the report.
    """

    shards: list[Shard]
    facts: StoreFacts
    base: tuple[int, int]
    columns: list[tuple[str, str]]
    told: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Embedded:
    """What a job did.

    Attributes:
        report: `EmbedReport` or `PicturesReport`, as `embed` without a launcher gives it.
        skipped: why pictures were left out, the first hundred reasons.
        languages: that the model knows.
    """

    report: Any
    skipped: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class EmbedJob:
    """A `cluster.job.Job` that fills the store at `out`.

    Attributes:
        out: the store, a path or an address.
        kind: captions or pictures.
        keep: whether the folder stays when all is done, so that a rank that comes late knows of it.
        progress: show a bar while the plan is made.
    """

    out: str
    kind: Kind
    keep: bool = False
    progress: bool = False
    group: int = _GROUP
    began: float = dataclasses.field(default_factory=time.time)

    @property
    def folder(self) -> str:
        """Where plan and ledger lie: beside the store, under its name with `.job`."""
        return self._folder.path

    @property
    def what(self) -> str:
        """Title of the bar."""
        return self.kind.what

    @property
    def unit(self) -> str:
        """What is counted."""
        return self.kind.unit

    def shards(self) -> Sequence[Shard]:
        """Returns all shards, from the plan; makes it, or waits until another process has made it."""
        while True:
            job = self._job()
            if job is not None and (job["complete"] or job["planned"]):
                return [] if job["complete"] else self._folder.read_plan()
            try:
                release = self.lock()
            except LockedError:
                time.sleep(_LOOK)
                continue
            try:
                if (job := self._job()) is None or not (job["planned"] or job["complete"]):
                    self._plan()
            finally:
                release()

    def lacking(self, shards: Sequence[Shard]) -> list[Shard]:
        """Returns those of `shards` that are neither in the store nor in the ledger."""
        there = self.committed()
        return self._ledger.lacking([shard for shard in shards if shard.number >= there])

    def committed(self) -> int:
        """Returns how many shards, from the first on, are in the store.

        Raises:
            BabelclipError: something else has written to the store since the plan was made.
        """
        job = self._begun()
        if job["complete"]:
            return int(job["shards"])
        return embed_commit.committed(len(embed_commit.shards_of(self.out)), self.out, self._folder, job["base"][0])

    def worker(self, device: str, lanes: int = 1, decoders: Executor | None = None) -> Worker:
        """Returns what does shards; see `cluster.job.Job`."""
        do = self.kind.do(device, lanes, decoders, self._begun())
        ledger, folder = self._ledger, self._folder

        def work(shard: Shard) -> Fragment:
            there = ledger.find(shard)
            if there is not None:
                return there
            with ledger.room() as room:
                facts = do(shard, folder.read_shard(shard.number), room)
                return ledger.record(shard, room, facts)

        return work

    def commit(self, shards: Sequence[Shard]) -> None:
        """Puts the next shards into the store."""
        embed_commit.commit(self.out, self._folder, self._ledger, shards, self._begun())

    def finish(self) -> Embedded:
        """Returns what was done, and removes the folder, or all of it but the report."""
        job = self._begun()
        rows = sum(shard.count for shard in embed_commit.shards_of(self.out))
        if job["complete"]:
            return self.kind.report(job, [], rows, 0.0)
        shards = self._folder.read_plan()
        fragments = (self._ledger.read(shard.number) for shard in shards)
        done = self.kind.report(job, (one for one in fragments if one is not None), rows, time.time() - self.began)
        if self.keep:
            self._folder.write({**job, "complete": True, "shards": len(shards), "rows": rows})
            self._ledger.clear()
            self._folder.clear()
        else:
            self._folder.remove()
        return done

    def lock(self) -> Callable[[], None]:
        """Takes the right to plan and to commit."""
        return self._folder.lock()

    @property
    def _folder(self) -> JobFolder:
        return JobFolder(f"{str(self.out).rstrip('/')}.job")

    @property
    def _ledger(self) -> Ledger:
        return Ledger(self._folder.path)

    def _begun(self) -> dict[str, Any]:
        job = self._folder.read()
        if job is None:
            raise BabelclipError(
                f"{self._folder.path} has no job.json. It is there while a job runs, so another process has finished "
                "this one, or removed the folder: run the same again, which tells what there is."
            )
        return job

    def _job(self) -> dict[str, Any] | None:
        """Returns the job that was begun; None where there is none to go on with."""
        job = self._folder.read()
        if job is None:
            return None
        asked = self.kind.asked()
        if job["complete"]:
            # Of the same, only a rank that comes late takes it as the answer; who runs alone looks again.
            rows = sum(shard.count for shard in embed_commit.shards_of(self.out))
            same = job["asked"] == asked and rows >= job["rows"]
            return job if same and self.keep else None
        self._folder.check_same(job, asked, self.out)
        return job

    def _plan(self) -> None:
        self._ledger.clear()
        self._folder.clear()
        begun = {"out": storage.name_of(self.out), "asked": self.kind.asked(), "planned": False, "complete": False}
        self._folder.write(begun)
        if storage.is_url(self.out):  # what is looked up while the plan is made lies on this machine
            with tempfile.TemporaryDirectory() as name:
                plan = self.kind.plan(self.out, JobFolder(name), self.progress)
                self._folder.take_shards(Path(name))
        else:
            plan = self.kind.plan(self.out, self._folder, self.progress)
        self._folder.write_plan(plan.shards)
        facts = {"facts": dataclasses.asdict(plan.facts), "base": list(plan.base), "columns": plan.columns}
        self._folder.write({**begun, **facts, "told": plan.told, "planned": True})
