"""`translate_on`: captions into other languages by a launcher, to the byte as `translate_captions`.

A shard is a job of `babelclip translate`: one language of one block, written whole into the folder of the translation
with a record of its own. That folder is the ledger, and a commit has nothing to do but the report at the end. It lies
on a disk that all processes see, or in object storage (`translate_place.py`).
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

from babelclip import storage
from babelclip.cluster.job import Fragment, Means, Shard, Worker, run_job
from babelclip.cluster.translate_place import TranslationPlace, translation_at
from babelclip.errors import BabelclipError
from babelclip.files import LockedError
from babelclip.translate import folder
from babelclip.translate.folder import Shard as Record
from babelclip.translate.jobs import Job
from babelclip.translate.pipeline import Asked, all_jobs, asked_for
from babelclip.translate.report import TranslationReport

_LOOK = 0.5


def translate_on(
    launcher: str, source: str | Path, out: str | Path, *, means: Means, **settings: Any
) -> TranslationReport | None:
    """Translates captions into the folder `out`; returns the report, or None where another rank writes it.

    Args:
        launcher: "local", "ray" or "rank".
        source: see `translate_captions`; so are the `settings`.
        out: a folder that every process sees at the same path, or an address of object storage.
        means: what the launcher may use.
        settings: what to do.

    Raises:
        BabelclipError: as `run_job` and `translate_captions`.
    """
    source = storage.shadowed(source)
    source = str(Path(source).absolute()) if Path(source).exists() else source
    place = storage.url_of(out) or str(Path(out).absolute())
    asked = asked_for(source, place, **settings)
    translation_at(place).check()
    return run_job(TranslateJob(asked, place, progress=means.progress), launcher=launcher, means=means)


@dataclasses.dataclass(frozen=True)
class TranslateJob:
    """A `cluster.job.Job` that fills a folder of translations.

    Attributes:
        asked: for what.
        folder: that of the translation, a path or an address.
        progress: show a bar while the source is read.
    """

    asked: Asked
    folder: str
    progress: bool = False
    what: str = "Translations"
    unit: str = "captions"
    # Shards need no commit, but for the last.
    group: int = 1 << 62

    def shards(self) -> Sequence[Shard]:
        """Returns one shard for each language and block; reads the source first, or waits until another has."""
        while True:
            manifest = self._place.manifest()
            if manifest is None or manifest["sources"] is None:
                try:
                    release = self.lock()
                except LockedError:
                    time.sleep(_LOOK)
                    continue
                try:
                    manifest = self._place.manifest()
                    if manifest is None or manifest["sources"] is None:
                        manifest = self._place.prepare(self.asked, self.progress)
                finally:
                    release()
            folder.check_same(self.folder, manifest, self.asked.options, folder.source_facts(self.asked.source))
            jobs = all_jobs(self.asked.work, manifest["sources"])
            return [
                Shard(number, _id(job, manifest), job.planned, json.dumps([job.lang, job.block]))
                for number, job in enumerate(jobs)
            ]

    def lacking(self, shards: Sequence[Shard]) -> list[Shard]:
        """Returns those of `shards` that have no record in the folder."""
        records = self._place.records([_job(shard) for shard in shards])
        return [shard for shard, record in zip(shards, records, strict=True) if record is None]

    def committed(self) -> int:
        """Returns 0: there is one commit, at the end."""
        return 0

    def worker(self, device: str, lanes: int = 1, decoders: Executor | None = None) -> Worker:
        """Returns what does shards; keeps the engine of the last language open."""
        place = self._place
        do = place.doer(self.asked.work, device, lanes)
        models: dict[str, str] = {}

        def work(shard: Shard) -> Fragment:
            job = _job(shard)
            if place.record(job) is None:
                models[job.lang] = do(job._replace(model=models.get(job.lang, ""))).model
            return Fragment(shard.id, shard.number)

        return work

    def commit(self, shards: Sequence[Shard]) -> None:
        """Checks that each language was translated by one model.

        Raises:
            BabelclipError: two workers had different models for one.
        """
        models: dict[str, str] = {}
        for record in self._place.records([_job(shard) for shard in shards]):
            if record is not None and models.setdefault(record.lang, record.model) != record.model:
                raise BabelclipError(
                    f"{record.lang} was translated by {models[record.lang]} in one worker and by {record.model} in "
                    "another. A language comes from one model: name it with its revision, and begin in another folder."
                )

    def finish(self) -> TranslationReport:
        """Writes report and manifest."""
        manifest = self._place.manifest()
        assert manifest is not None  # `shards` wrote it
        jobs = all_jobs(self.asked.work, manifest["sources"])
        done: dict[str, dict[int, Record]] = {}
        for job, record in zip(jobs, self._place.records(jobs), strict=True):
            if record is not None:
                done.setdefault(job.lang, {})[job.block] = record
        return self._place.finish(self.asked.work, manifest, done)

    def lock(self) -> Callable[[], None]:
        """Takes the write lock of the folder."""
        return self._place.lock()

    @property
    def _place(self) -> TranslationPlace:
        return translation_at(self.folder)


def _job(shard: Shard) -> Job:
    lang, block = json.loads(shard.payload)
    return Job(lang, block, shard.rows)


def _id(job: Job, manifest: dict[str, Any]) -> str:
    """Returns what tells a shard of one translation from that of another."""
    content = json.dumps([job.lang, job.block, manifest["source"]["facts"], manifest["options"]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]
