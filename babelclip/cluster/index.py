"""`index_on`: the plain `index` on many processes or machines. The same rows, in the same order, to the bit.

Workers write rows straight into the files of the collection's table (`index_shard.py`); the driver commits them, a
group of shards at a time, by one small write, and in the order of shards. No vector and no thumbnail passes through it.
What is compared, which rows are told anew, removed or grouped, and how the vectors are indexed is what `search.index`
does, before the shards (`index_plan.py`) and after them.

Killed between two commits, a run finds its fragments in the ledger and commits them. Killed between a commit and the
note of it, it finds by the table's version that something was written, and by their ids which rows are there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from babelclip import storage
from babelclip.cluster.index_commit import OutdatedPlanError, commit_group
from babelclip.cluster.index_plan import STATE, Plan, clear_plan, gone_of, read_note, read_plan, write_note
from babelclip.cluster.index_planning import make_plan
from babelclip.cluster.index_shard import IndexWorker
from babelclip.cluster.index_vectors import INDEXED_BY_ALL_FROM, build_on_cluster
from babelclip.cluster.job import Means, equipped, run_job
from babelclip.cluster.ledger import Ledger, Shard
from babelclip.errors import BabelclipError, require
from babelclip.files import LockedError
from babelclip.models.decoding import EncodeReport
from babelclip.search import near_duplicates
from babelclip.search.collection import Collection, IndexReport, open_collection
from babelclip.search.index import EncodeTexts, IndexingReport, check_found, remove, settled
from babelclip.search.index_known import CHANGED, NEW, SAME, TOLD
from babelclip.search.index_sources import Problems
from babelclip.search.index_state import FOLDER, lock_collection, take_lock
from babelclip.search.lance import PICTURES

# Pictures of a shard, rounded to whole batches: a minute or two of a processor, some 20 MB of rows.
SHARD = 1024
# Shards of one commit: what a dead driver leaves to be committed by the next.
_GROUP = 8
_WAIT = 0.5  # seconds between two looks at another rank's plan
_SKIPPED = "skipped.json"


def index_on(
    model: str,
    sources: Sequence[Path | str],
    url: Path | str,
    *,
    launcher: str,
    means: Means,
    captions: Path | str | None = None,
    columns: Sequence[str] = (),
    lang: str | None = None,
    image_root: Path | str | None = None,
    prune: bool = False,
    strict: bool = False,
    groups: bool = True,
    batch_size: int = 32,
    shard_rows: int | None = None,
    on_skip: Callable[[str], object] | None = None,
) -> IndexingReport | None:
    """Returns what `index_pictures` returns for the same sources; None where another rank commits.

    Args:
        model: name or folder of the model, which every worker loads.
        sources: see `index_pictures`, as for all that is not named here; seen by all machines under the same paths.
        url: a collection of Lance; its folder is seen by all machines.
        launcher: "local", "ray" or "rank" (`cluster.job`).
        means: what the launcher may use.
        captions: see `index_pictures`; so are the following.
        columns: metadata to keep.
        lang: language of captions that name none.
        image_root: folder that the names in a table begin in.
        prune: remove rows whose picture is gone.
        strict: whether the first picture that cannot be used is an error.
        groups: look for near duplicates.
        batch_size: pictures a forward pass.
        shard_rows: pictures of a shard; None: 1,024. Another number changes no bit.
        on_skip: is told why a picture cannot be read, of each.

    Raises:
        MissingExtraError: pylance or Ray is not installed.
        BabelclipError: as `index_pictures` and `run_job`; or `url` is no collection of Lance.
    """
    require("lance", "cluster")
    job = IndexJob(
        url=_lance_url(url),
        model=str(Path(model).expanduser().resolve()) if Path(model).expanduser().is_dir() else model,
        sources=tuple(_absolute(source) for source in sources),
        captions=None if captions is None else _absolute(captions),
        columns=tuple(columns),
        lang=lang,
        image_root=None if image_root is None else _absolute(image_root),
        prune=prune,
        strict=strict,
        groups=groups,
        batch_size=batch_size,
        shard_rows=-(-(shard_rows or SHARD) // batch_size) * batch_size,
        launcher=launcher,
        means=means,
    )
    with equipped(launcher, means) as means:
        job.means = dataclasses.replace(means, say=_silent)
        report = _run(job, launcher, means)
    if report is not None and on_skip is not None:
        for reason in job.reasons():
            on_skip(reason)
    return report


@dataclasses.dataclass
class IndexJob:
    """See `cluster.job.Job`, and `index_on` for the settings."""

    folder: str = dataclasses.field(init=False)  # where plan, fragments and ledger lie

    url: str
    model: str
    sources: tuple[str, ...]
    captions: str | None
    columns: tuple[str, ...]
    lang: str | None
    image_root: str | None
    prune: bool
    strict: bool
    groups: bool
    batch_size: int
    shard_rows: int
    launcher: str
    means: Means
    group: int = _GROUP
    what: str = "Pictures"
    unit: str = "pictures"
    run: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        """Puts the folder inside that of the collection."""
        self.folder = f"{self.url}/{FOLDER}/job"

    @property
    def table(self) -> str:
        """Address of the Lance table."""
        return f"{self.url}/{PICTURES}.lance"

    def identity(self) -> str:
        """Returns the hash of the settings that decide what is to be done."""
        told = {
            name: getattr(self, name)
            for name in ("url", "model", "sources", "captions", "columns", "lang", "image_root", "prune", "strict")
        }
        told |= {"groups": self.groups, "batch_size": self.batch_size, "shard_rows": self.shard_rows}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def planned(self) -> bool:
        """Returns whether an earlier run left its plan unfinished."""
        return self._plan() is not None

    def shards(self) -> Sequence[Shard]:
        """See `Job.shards`. Where another rank is planning, or finishing what was before, this one waits for it."""
        while (plan := self._plan()) is None:
            try:
                release = take_lock(self.url) if self.launcher == "rank" else lock_collection(self.url)
            except LockedError:
                time.sleep(_WAIT)
                continue
            try:
                return (self._plan() or make_plan(self, self.folder, self.identity())).shards
            finally:
                release()
        return plan.shards

    def lacking(self, shards: Sequence[Shard]) -> list[Shard]:
        """See `Job.lacking`."""
        if self._plan() is None:
            return []  # another rank has finished it
        there = self.committed()
        return Ledger(self.folder).lacking([shard for shard in shards if shard.number >= there])

    def committed(self) -> int:
        """See `Job.committed`."""
        return int(self._state()["committed"])

    def worker(self, device: str, lanes: int = 1, decoders: Executor | None = None) -> IndexWorker:
        """See `Job.worker`."""
        import torch

        import babelclip

        plan = self._plan()
        if plan is None:
            raise BabelclipError(
                f"{self.folder} has no plan any more: another run has finished it. Run the same again."
            )
        clip = babelclip.load(self.model, towers="image", dtype=plan.dtype, device=device, progress=False)
        assert clip.image is not None
        torch.set_num_threads(lanes)
        settings: dict[str, Any] = {"batch_size": self.batch_size, "strict": self.strict, "run": self.run}
        return IndexWorker(self.folder, self.table, plan, clip.image, lanes=lanes, decoders=decoders, **settings)

    def commit(self, shards: Sequence[Shard]) -> None:
        """See `Job.commit`."""
        version = commit_group(self.url, self.table, self.folder, shards, self._state()["version"], self.run)
        write_note(self.folder, STATE, {"committed": shards[-1].number + 1, "version": version})

    def finish(self) -> IndexingReport:
        """See `Job.finish`: removes what is gone, groups near duplicates, compacts, indexes the vectors."""
        began, plan, folder = time.perf_counter(), self._plan(), self.folder
        if plan is None:
            raise _finished(self.folder)
        facts = [found.facts for shard in plan.shards if (found := Ledger(folder).find(shard)) is not None]
        kinds = sum((Counter(fact["kinds"]) for fact in facts), Counter[str]())
        skipped = [reason for fact in facts for _position, _name, reason in fact["skipped"]]
        write_note(folder, _SKIPPED, skipped)
        problems = Problems()
        for reason, (count, first) in plan.problems.items():
            problems.counts[reason], problems.first[reason] = count, first
        with contextlib.closing(open_collection(self.url, write=True)) as collection:
            try:
                check_found(problems, collection, self.strict, len(skipped))
            except BabelclipError:
                clear_plan(folder)  # the next run looks at mended sources
                raise
            pruned = remove(collection, gone_of(folder)) if self.prune else 0
            made = near_duplicates.group(collection, self.url, progress=self.means.progress) if self.groups else None
            wrote = kinds[NEW] + kinds[CHANGED] + plan.counts.get(TOLD, 0) + pruned
            index = self._indexed(collection) if wrote else None
            report = IndexingReport(
                there=plan.there,
                added=kinds[NEW],
                updated=kinds[CHANGED],
                told=plan.counts.get(TOLD, 0),
                unchanged=plan.counts.get(SAME, 0),
                gone=plan.gone,
                pruned=pruned,
                skipped=len(skipped),
                problems=plan.problems,
                groups=made,
                encode=sum((EncodeReport(**fact["encode"]) for fact in facts), EncodeReport(0, 0, 0.0, 0.0, 0.0)),
                write_seconds=0.0,
                seconds=time.perf_counter() - began,
                rows=collection.count(),
                index=index,
                unused=plan.unused,
            )
        clear_plan(folder)
        Ledger(folder).clear()
        return report

    def lock(self) -> Callable[[], None]:
        """See `Job.lock`."""
        return take_lock(self.url)

    def reasons(self) -> list[str]:
        """Returns why pictures could not be read, of the run that ended last."""
        reasons: list[str] = read_note(self.folder, _SKIPPED)
        return reasons

    def _plan(self) -> Plan | None:
        return read_plan(self.folder, self.identity())

    def _state(self) -> dict[str, int]:
        return dict(read_note(self.folder, STATE))

    def _indexed(self, collection: Any) -> IndexReport | None:
        if self.launcher == "ray" and collection.count() >= INDEXED_BY_ALL_FROM and not collection.fingerprint.dim % 8:
            collection.optimize()
            return build_on_cluster(collection, self.table, self.means, self._encode_text(collection))
        return settled(collection, self._encode_text(collection))

    def _encode_text(self, collection: Collection) -> EncodeTexts | None:
        """Returns what encodes captions as queries; the model is loaded when they are there."""
        import babelclip

        if not collection.fingerprint.text_models:
            return None
        return lambda texts: babelclip.load(self.model, towers="text", progress=False).encode_text(texts)


def _run(job: IndexJob, launcher: str, means: Means) -> IndexingReport | None:
    """Runs the job to its end, with all that its sources have now."""
    begun_before = job.planned()
    try:
        report = run_job(job, launcher=launcher, means=means)
    except OutdatedPlanError:
        report = run_job(job, launcher=launcher, means=means)
    if report is not None and begun_before and launcher != "rank":
        # What it went on with was planned by an earlier run: the sources may have more since.
        later = run_job(job, launcher=launcher, means=means)
        report = report if later is None else _both(report, later)
    return report


def _finished(folder: str) -> BabelclipError:
    return BabelclipError(f"{folder} has no plan any more: another run has finished it. Run the same again.")


def _both(first: IndexingReport, later: IndexingReport) -> IndexingReport:
    """Returns the report of two runs, one after the other."""
    added = {
        name: getattr(first, name) + getattr(later, name)
        for name in ("added", "updated", "told", "pruned", "encode", "seconds")
    }
    return dataclasses.replace(later, there=first.there, index=later.index or first.index, **added)


def _lance_url(url: Path | str) -> str:
    text = str(url).rstrip("/")
    if "://" in text and not text.endswith(".lance"):
        raise BabelclipError(
            f"{text} is no collection of Lance, the only kind whose files many workers can write: give a folder "
            "NAME.lance or s3://bucket/NAME.lance, or leave --launcher out, which writes through one process."
        )
    return _absolute(text)


def _absolute(path: Path | str) -> str:
    return str(path) if storage.is_url(path) else str(Path(path).expanduser().resolve())


def _silent(line: str) -> None:
    del line
