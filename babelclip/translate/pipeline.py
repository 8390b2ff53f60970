"""Captions into other languages: read once, translated language by language, block by block, through any interruption.

1. The source is read and written to `sources/` in blocks, so that the rest, and every resumed run, does not need it.
2. A plan says which captions of each block go into which language (`plan.py`).
3. Each language and block is one job: translated, filtered, written as one shard (`jobs.py`, `workers.py`).
4. The report is written, and the manifest says that all is complete.

Stopped at any moment, the next run with the same options does what lacks, and the folder becomes the same bytes.
`folder.py` says what lies in it. Entry point: `translate_captions`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from babelclip import languages
from babelclip.data.captions import SCHEMA, Captions, write_captions
from babelclip.data.sources import count_captions, open_captions
from babelclip.errors import BabelclipError, closest
from babelclip.progress import progress_bar, progress_bars
from babelclip.store.id_file import IdFile
from babelclip.translate import folder
from babelclip.translate.choices import EngineChoice
from babelclip.translate.filters import Filters
from babelclip.translate.folder import Shard
from babelclip.translate.jobs import Job, Work
from babelclip.translate.plan import KEEP_ENGLISH, Plan, make_plan
from babelclip.translate.report import LanguageReport, TranslationReport, language_report, speeds, write_report
from babelclip.translate.workers import run_jobs

# Captions in a block. With one language that is what a kill can lose; with 48, some 300 captions a shard.
ROWS = 16384

NO_ENGLISH = (
    "keep_english is 0: a student that never sees English with its English target loses it (AltCLIP: 15.5 instead of "
    "51.6 on ImageNet in English). Give a share such as 0.1, or mix English in at training."
)

_log = logging.getLogger(__name__)


def translate_captions(
    source: str | Path,
    out: str | Path,
    *,
    to: Sequence[str],
    engine: EngineChoice | Mapping[str, EngineChoice],
    plan: str = "split",
    weights: Mapping[str, float] | None = None,
    keep_english: float = KEEP_ENGLISH,
    seed: int = 0,
    filters: Filters | None = None,
    source_lang: str = "en",
    lang: str | None = None,
    strict: bool = False,
    drop_duplicates: bool = False,
    rows: int = ROWS,
    batch_size: int | None = None,
    devices: Sequence[str] = ("cpu",),
    progress: bool = False,
    say: Callable[[str], object] | None = None,
) -> TranslationReport:
    """Translates captions into a folder, or goes on where an earlier run was stopped, and returns the report.

    Args:
        source: any source of captions (`babelclip.data.sources`); rows in other languages than `source_lang` are left
            out and counted.
        out: a new folder, or one that the same call began.
        to: languages; `babelclip.translate.table.targets` expands "48".
        engine: what translates, for all languages or each.
        plan: `split`, `all` or `weights`; see `babelclip.translate.plan`, also for `weights`, `keep_english`, `seed`.
        weights: of languages, for plan `weights`.
        keep_english: share of the rows that are untranslated copies; without them a student loses English.
        seed: of the plan.
        filters: what a translation must pass; None for those of `make_filters()`.
        source_lang: language of the captions to translate.
        lang: language of the rows that name none; None for `source_lang`.
        strict: whether the first row that cannot be used is an error.
        drop_duplicates: leave out, and count, captions with text and picture of an earlier one.
        rows: captions in a block.
        batch_size: texts that an engine is given at once, which neural results depend on in the last bits; None for
            what each engine likes best.
        devices: one worker process for each, for example `("cuda:0", "cuda:1")` or `("cpu",) * 4`. With several, a
            script of one's own needs `if __name__ == "__main__":`.
        progress: show bars on stderr.
        say: told a line when a language is finished.

    Raises:
        UnknownLanguageError: a language is not known.
        BabelclipError: an option is not allowed, the folder was begun otherwise or is being written, the source cannot
            be read, or an engine cannot translate. What is finished stays.
        MissingExtraError: an engine or filter needs an extra that is not installed.
    """
    asked = asked_for(
        source,
        out,
        to=to,
        engine=engine,
        plan=plan,
        weights=weights,
        keep_english=keep_english,
        seed=seed,
        filters=filters,
        source_lang=source_lang,
        lang=lang,
        strict=strict,
        drop_duplicates=drop_duplicates,
        rows=rows,
        batch_size=batch_size,
    )
    if not devices:
        raise BabelclipError("devices is empty: give at least one, such as cpu, or leave it out.")
    work = asked.work
    folder.check_folder(work.out)
    release = folder.lock(work.out)
    try:
        begun = folder.read_manifest(work.out) is not None
        manifest = prepare(asked, progress)
        done, jobs = _jobs(work, manifest["sources"])
        if begun:
            _check_engines(work, list(dict.fromkeys(job.lang for job in jobs)))
        _translate(work, done, jobs, devices, progress, say)
        return finish(work, manifest)
    finally:
        release()


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a translation is asked for; travels to other processes.

    Attributes:
        source: captions.
        work: what all jobs share.
        options: what decides the bytes of the result, as it stands in the manifest.
    """

    source: str | Path
    work: Work
    options: dict[str, Any]


def asked_for(
    source: str | Path,
    out: str | Path,
    *,
    to: Sequence[str],
    engine: EngineChoice | Mapping[str, EngineChoice],
    plan: str = "split",
    weights: Mapping[str, float] | None = None,
    keep_english: float = KEEP_ENGLISH,
    seed: int = 0,
    filters: Filters | None = None,
    source_lang: str = "en",
    lang: str | None = None,
    strict: bool = False,
    drop_duplicates: bool = False,
    rows: int = ROWS,
    batch_size: int | None = None,
) -> Asked:
    """Returns what the same arguments of `translate_captions` ask for, checked; nothing is read or written."""
    made = make_plan(to, plan, weights=weights, keep_english=keep_english, seed=seed, source=source_lang)
    if rows < 1 or (batch_size is not None and batch_size < 1):
        raise BabelclipError(
            f"rows={rows} and batch_size={batch_size}: each must be at least 1. Leave them out for good values."
        )
    if not made.keep_english:
        _log.warning(NO_ENGLISH)
    work = Work(Path(out), made, rows, _engines(made, engine), filters or Filters(), batch_size)
    default = languages.normalize(lang) if lang else made.source
    return Asked(source, work, _options(work, default, strict, drop_duplicates))


def prepare(asked: Asked, progress: bool) -> dict[str, Any]:
    """Returns the manifest of a folder whose sources are written; begins it, or goes on. The caller holds its lock.

    Raises:
        BabelclipError: the folder was begun otherwise, or the source cannot be read.
    """
    work, options = asked.work, asked.options
    facts = folder.source_facts(asked.source)
    manifest = folder.read_manifest(work.out)
    # What an engine lacks is better known now than hours later, and before a folder is begun in vain.
    if manifest is None:
        _check_engines(work, work.plan.languages)
        manifest = {"source": facts, "options": options, "sources": None, "complete": False}
        folder.write_manifest(work.out, manifest)
    else:
        folder.check_same(work.out, manifest, options, facts)
    if manifest["sources"] is None:
        manifest["sources"] = _spool(asked.source, work, options, progress)
        folder.write_manifest(work.out, manifest)
    return manifest


def kept_so_far(out: str | Path) -> tuple[int, int]:
    """Returns how many shards of a folder are finished, and the captions in them; (0, 0) for any other folder."""
    shards = [
        folder.read_shard(Path(out), path.parent.name, int(path.stem)) for path in Path(out).glob("shards/*/*.json")
    ]
    finished = [shard for shard in shards if shard is not None]
    return len(finished), sum(shard.planned for shard in finished)


# -- the source ------------------------------------------------------------------------------------------------------


def _spool(source: str | Path, work: Work, options: Mapping[str, Any], progress: bool) -> dict[str, Any]:
    """Writes the source captions in blocks and returns their number, that of the blocks, and what was skipped."""
    skipped: Counter[str] = Counter()
    count = blocks = 0
    ids = IdFile(work.out, lambda block: pq.read_table(folder.source_file(work.out, block), columns=["id"])["id"])
    parts = open_captions(
        source,
        lang=options["lang"],
        strict=options["strict"],
        only=work.plan.source,
        drop_duplicates=options["drop_duplicates"],
    )
    total = count_captions(source) if progress else None
    with progress_bar("Captions read", total, shown=progress, unit="captions") as advance:
        for table in _blocks(parts, work.rows, skipped, advance):
            _refuse_twice(ids, table["id"], source)
            _write_block(work.out, blocks, table, source)
            ids.add([table["id"]])
            count, blocks = count + table.num_rows, blocks + 1
    return {"captions": count, "blocks": blocks, "skipped": dict(sorted(skipped.items()))}


def _blocks(
    parts: Iterator[Captions], rows: int, skipped: Counter[str], advance: Callable[[int], object]
) -> Iterator[pa.Table]:
    """Yields tables of exactly `rows` captions, the last one of fewer, whatever the parts; counts what they skipped."""
    waiting: list[pa.Table] = []
    there = 0
    for part in parts:
        skipped.update(part.skipped)
        advance(len(part) + sum(part.skipped.values()))
        waiting.append(part.table)
        there += len(part)
        while there >= rows:
            table = pa.concat_tables(waiting)
            yield table.slice(0, rows).combine_chunks()
            waiting, there = [table.slice(rows)], there - rows
    if there:
        yield pa.concat_tables(waiting).combine_chunks()


def _write_block(out: Path, block: int, table: pa.Table, source: str | Path) -> None:
    """Writes a block, or compares it with the one that a run before wrote."""
    path = folder.source_file(out, block)
    rows = table.set_column(SCHEMA.get_field_index("source_id"), "source_id", pa.nulls(table.num_rows, pa.string()))
    if not path.is_file():
        write_captions(Captions(rows), path)
    elif not pq.read_table(path).equals(rows):
        raise BabelclipError(
            f"{source} has other captions than when {out} was begun: block {block} differs from {path}. A folder holds "
            "one translation of one source: give the source as it was, or choose another folder."
        )


def _refuse_twice(ids: IdFile, new: pa.ChunkedArray, source: str | Path) -> None:
    names = new.to_pylist()
    before = ids.find(names)
    twice = [name for name, row in zip(names, before.tolist(), strict=True) if row >= 0]
    twice += [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BabelclipError(
            f"{source}: {len(twice)} ids occur more than once, first {twice[:3]}. An id ties a translation to its "
            "caption: give each caption its own, or leave the column out, then translate into a new folder."
        )


# -- the work --------------------------------------------------------------------------------------------------------


def _jobs(work: Work, sources: Mapping[str, Any]) -> tuple[dict[str, dict[int, Shard]], list[Job]]:
    """Returns the finished shards by language and block, and the jobs that lack, language by language."""
    planned = _planned(work, sources)
    done = {lang: _finished(work, lang, counts) for lang, counts in planned.items()}
    jobs = [
        Job(lang, block, count, next((shard.model for shard in done[lang].values()), ""))
        for lang, counts in planned.items()
        for block, count in counts.items()
        if block not in done[lang]
    ]
    return done, jobs


def _translate(
    work: Work,
    done: dict[str, dict[int, Shard]],
    jobs: Sequence[Job],
    devices: Sequence[str],
    progress: bool,
    say: Callable[[str], object] | None,
) -> None:
    """Does the jobs, and adds their shards to those that are done."""
    left = Counter(job.lang for job in jobs)
    totals = Counter({lang: sum(shard.planned for shard in shards.values()) for lang, shards in done.items()})
    there = dict(totals)
    for job in jobs:
        totals[job.lang] += job.planned
    with progress_bars(totals, shown=progress and bool(jobs), unit="captions") as advance:
        for lang, count in there.items():
            if count:
                advance(lang, count, 0)

        def finished(shard: Shard, seconds: float, device: str) -> None:
            done[shard.lang][shard.block] = shard
            timing = {"lang": shard.lang, "block": shard.block, "captions": shard.planned, "device": device}
            folder.add_timing(work.out, {**timing, "seconds": round(seconds, 3)})
            left[shard.lang] -= 1
            if say is not None and not left[shard.lang]:
                say(_line(shard.lang, language_report(done[shard.lang].values()), speeds(work.out)))

        run_jobs(work, jobs, devices, advance=advance, finished=finished)


def all_jobs(work: Work, sources: Mapping[str, Any]) -> list[Job]:
    """Returns the jobs of all languages and blocks, done or not, language by language."""
    return [
        Job(lang, block, count) for lang, counts in _planned(work, sources).items() for block, count in counts.items()
    ]


def _planned(work: Work, sources: Mapping[str, Any]) -> dict[str, dict[int, int]]:
    """Returns the captions of each language and block, languages in the order of the plan, copies last."""
    planned: dict[str, dict[int, int]] = {lang: {} for lang in (*work.plan.languages, work.plan.source)}
    for block in range(sources["blocks"]):
        start = block * work.rows
        for lang, rows in work.plan.assign(start, min(work.rows, sources["captions"] - start)).items():
            planned[lang][block] = len(rows)
    return planned


def _finished(work: Work, lang: str, planned: Mapping[int, int]) -> dict[int, Shard]:
    shards = {block: folder.read_shard(work.out, lang, block) for block in planned}
    return {block: shard for block, shard in shards.items() if shard is not None}


def finish(
    work: Work, manifest: dict[str, Any], done: Mapping[str, Mapping[int, Shard]] | None = None
) -> TranslationReport:
    """Writes the report, and the manifest with every shard, all of which are done; returns the report.

    Args:
        work: what was to be done.
        manifest: as `prepare` returned it.
        done: the shards by language and block; None to read them from the folder.
    """
    found: dict[str, LanguageReport] = {}
    listed: dict[str, list[dict[str, Any]]] = {}
    for lang, counts in _planned(work, manifest["sources"]).items():
        shards = _finished(work, lang, counts) if done is None else done.get(lang, {})
        found[lang] = language_report(shards[block] for block in sorted(shards))
        listed[lang] = [
            {"block": block, "rows": shard.kept, **shard.files["translations"]}
            for block, shard in sorted(shards.items())
            if shard.kept
        ]
    sources = manifest["sources"]
    report = TranslationReport(
        work.out,
        manifest["source"]["name"],
        sources["captions"],
        sources["skipped"],
        manifest["options"],
        found,
        speeds(work.out),
    )
    write_report(report)
    folder.write_manifest(work.out, {**_without_format(manifest), "complete": True, "shards": listed})
    return report


def _without_format(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in manifest.items() if name not in ("format", "version")}


# -- what was asked for ----------------------------------------------------------------------------------------------


def _engines(plan: Plan, engine: EngineChoice | Mapping[str, EngineChoice]) -> dict[str, EngineChoice]:
    """Returns the choice for each language of the plan."""
    if isinstance(engine, EngineChoice):
        return dict.fromkeys(plan.languages, engine)
    given = {languages.normalize(code): choice for code, choice in engine.items()}
    lacking = [lang for lang in plan.languages if lang not in given]
    if lacking:
        raise BabelclipError(
            f"no engine was given for {', '.join(lacking)}; there is one for {', '.join(given) or 'no language'}. Each "
            "language needs one: add it, or leave the language out."
        )
    return {lang: given[lang] for lang in plan.languages}


def _options(work: Work, lang: str, strict: bool, drop_duplicates: bool) -> dict[str, Any]:
    """Returns what decides the bytes of the result, as it stands in the manifest."""
    return {
        "plan": work.plan.facts(),
        "rows": work.rows,
        "batch_size": work.batch_size,
        "lang": lang,
        "strict": strict,
        "drop_duplicates": drop_duplicates,
        "filters": work.filters.facts(),
        "engines": {code: choice.facts(code) for code, choice in work.engines.items()},
    }


def _check_engines(work: Work, wanted: Collection[str]) -> None:
    """Does nothing where the engines can translate into all these languages and have their models."""
    for choice in dict.fromkeys(work.engines[lang] for lang in wanted if lang in work.engines):
        mine = [lang for lang in wanted if work.engines.get(lang) == choice]
        engine = choice.open()
        try:
            there = engine.languages()
            lacking = [lang for lang in mine if lang not in there]
            if lacking:
                near = [one for lang in lacking for one in closest(lang, there, n=1)]
                hint = f"Did you mean {near[0]}? Or l" if near else "L"
                raise BabelclipError(
                    f"engine {choice.name} does not translate into {', '.join(lacking)}; it serves {len(there)} "
                    f"languages ({', '.join(there[:12])}{', …' if len(there) > 12 else ''}). {hint}eave these out, or "
                    "choose another engine for them."
                )
            for lang in mine:
                engine.model(lang)
        finally:
            engine.close()


def _line(lang: str, report: LanguageReport, speed: Mapping[str, float]) -> str:
    rejected = ", ".join(f"{count:,} {reason}" for reason, count in report.rejected.items())
    pace = f", {speed[lang]:,.0f} captions/s" if report.engine and lang in speed else ""
    return f"{lang}: {report.kept:,} of {report.planned:,} kept{f' ({rejected} rejected)' if rejected else ''}{pace}"
