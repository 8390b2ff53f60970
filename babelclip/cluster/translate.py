"""`translate_on`: captions into other languages by a launcher, to the byte as `translate_captions`.

A shard is a job of `babelclip translate`: one language of one block, written whole into the folder of the translation
with a record of its own. That folder is the ledger, and a commit has nothing to do but the report at the end.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from babelclip.cluster.job import Fragment, Means, Shard, Worker, run_job
from babelclip.errors import BabelclipError
from babelclip.files import LockedError, lock_file
from babelclip.store.layout import LOCK
from babelclip.translate import folder
from babelclip.translate.folder import Shard as Record
from babelclip.translate.jobs import Job, Jobs
from babelclip.translate.pipeline import Asked, all_jobs, asked_for, finish, prepare
from babelclip.translate.report import TranslationReport

_LOOK = 0.5


def translate_on(
    launcher: str, source: str | Path, out: str | Path, *, means: Means, **settings: Any
) -> TranslationReport | None:
    """Translates captions into the folder `out`; returns the report, or None where another rank writes it.

    Args:
        launcher: "local", "ray" or "rank".
        source: see `translate_captions`; so are the `settings`.
        out: every process must see it at the same path.
        means: what the launcher may use.
        settings: what to do.

    Raises:
        BabelclipError: as `run_job` and `translate_captions`.
    """
    source = str(Path(source).absolute()) if Path(source).exists() else source
    asked = asked_for(source, Path(out).absolute(), **settings)
    folder.check_folder(asked.work.out)
    return run_job(TranslateJob(asked, progress=means.progress), launcher=launcher, means=means)


@dataclasses.dataclass(frozen=True)
class TranslateJob:
    """A `cluster.job.Job` that fills a folder of translations.

    Attributes:
        asked: for what.
        progress: show a bar while the source is read.
    """

    asked: Asked
    progress: bool = False
    what: str = "Translations"
    unit: str = "captions"
    # Shards need no commit, but for the last.
    group: int = 1 << 62

    @property
    def folder(self) -> str:
        """That of the translation."""
        return str(self.asked.work.out)

    def shards(self) -> Sequence[Shard]:
        """Returns one shard for each language and block; reads the source first, or waits until another has."""
        work = self.asked.work
        while True:
            manifest = folder.read_manifest(work.out)
            if manifest is None or manifest["sources"] is None:
                try:
                    release = self.lock()
                except LockedError:
                    time.sleep(_LOOK)
                    continue
                try:
                    manifest = prepare(self.asked, self.progress)
                finally:
                    release()
            folder.check_same(work.out, manifest, self.asked.options, folder.source_facts(self.asked.source))
            jobs = all_jobs(work, manifest["sources"])
            return [
                Shard(number, _id(job, manifest), job.planned, json.dumps([job.lang, job.block]))
                for number, job in enumerate(jobs)
            ]

    def lacking(self, shards: Sequence[Shard]) -> list[Shard]:
        """Returns those of `shards` that have no record in the folder."""
        return [shard for shard in shards if self._record(shard) is None]

    def committed(self) -> int:
        """Returns 0: there is one commit, at the end."""
        return 0

    def worker(self, device: str, lanes: int = 1, decoders: Executor | None = None) -> Worker:
        """Returns what does shards; keeps the engine of the last language open."""
        work = self.asked.work
        doer = Jobs(work, device, lanes)
        models: dict[str, str] = {}

        def do(shard: Shard) -> Fragment:
            if self._record(shard) is None:
                job, start = self._job(shard), time.perf_counter()
                made = doer.do(job._replace(model=models.get(job.lang, "")), lambda n: None)
                models[job.lang] = made.model
                timing = {"lang": job.lang, "block": job.block, "captions": made.planned, "device": device}
                folder.add_timing(work.out, {**timing, "seconds": round(time.perf_counter() - start, 3)})
            return Fragment(shard.id, shard.number)

        return do

    def commit(self, shards: Sequence[Shard]) -> None:
        """Checks that each language was translated by one model.

        Raises:
            BabelclipError: two workers had different models for one.
        """
        models: dict[str, str] = {}
        for shard in shards:
            record = self._record(shard)
            if record is not None and models.setdefault(record.lang, record.model) != record.model:
                raise BabelclipError(
                    f"{record.lang} was translated by {models[record.lang]} in one worker and by {record.model} in "
                    "another. A language comes from one model: name it with its revision, and begin in another folder."
                )

    def finish(self) -> TranslationReport:
        """Writes report and manifest."""
        manifest = folder.read_manifest(self.asked.work.out)
        assert manifest is not None  # `shards` wrote it
        return finish(self.asked.work, manifest)

    def lock(self) -> Callable[[], None]:
        """Takes the write lock of the folder."""
        self.asked.work.out.mkdir(parents=True, exist_ok=True)
        return lock_file(self.asked.work.out / LOCK)

    def _job(self, shard: Shard) -> Job:
        lang, block = json.loads(shard.payload)
        return Job(lang, block, shard.rows)

    def _record(self, shard: Shard) -> Record | None:
        job = self._job(shard)
        return folder.read_shard(self.asked.work.out, job.lang, job.block)


def _id(job: Job, manifest: dict[str, Any]) -> str:
    """Returns what tells a shard of one translation from that of another."""
    content = json.dumps([job.lang, job.block, manifest["source"]["facts"], manifest["options"]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]
