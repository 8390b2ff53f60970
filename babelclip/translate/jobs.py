"""One job: the captions of one block that go into one language, from sources to a finished shard.

A job is the unit of work, of resumption and of what a kill can lose. Nothing in it depends on which process does it, on
the device's number or on the jobs around it, so the shards of an interrupted run, or of one with many workers, are the
same bytes as those of a run in one piece. A translation is tied to its caption by the id; positions matter only between
a batch and the engine's answer, whose length is checked.

Entry points: `Work`, `Job`, `Jobs.do`.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from babelclip.data.captions import SCHEMA, Captions, write_captions
from babelclip.errors import BabelclipError
from babelclip.files import atomic_path
from babelclip.translate import folder
from babelclip.translate.choices import EngineChoice
from babelclip.translate.engine import Engine
from babelclip.translate.filters import Filters, Rejection, Sieve
from babelclip.translate.folder import Shard
from babelclip.translate.plan import Plan

# Rows of a shard that its record keeps for the report.
_SAMPLES_KEPT, _SAMPLES_REJECTED = 3, 2

Advance = Callable[[int], object]


class Job(NamedTuple):
    """`planned` captions of a block into a language; `model` is what its finished shards were translated by."""

    lang: str
    block: int
    planned: int
    model: str = ""


@dataclasses.dataclass(frozen=True)
class Work:
    """What all jobs of a run share; travels to the worker processes.

    Attributes:
        out: the folder.
        plan: which caption goes where.
        rows: captions in a block.
        engines: the choice for each language.
        filters: what a translation must pass.
        batch_size: texts that an engine is given at once; None for what it likes best.
    """

    out: Path
    plan: Plan
    rows: int
    engines: Mapping[str, EngineChoice]
    filters: Filters
    batch_size: int | None


class Jobs:
    """Does jobs in one process, on one device; keeps the last engine open."""

    def __init__(self, work: Work, device: str = "cpu", threads: int = 0) -> None:
        self._work, self._device, self._threads = work, device, threads
        self._sieve = Sieve(work.filters, work.plan.source, device)
        self._open: tuple[EngineChoice, Engine] | None = None

    def close(self) -> None:
        """Closes the engine."""
        if self._open is not None:
            self._open[1].close()
        self._open = None

    def do(self, job: Job, advance: Advance) -> Shard:
        """Returns the finished shard of a job, written to disk.

        Args:
            job: which.
            advance: told how many captions more are translated.

        Raises:
            BabelclipError: the engine cannot translate, gave another number of texts, or has another model than before.
        """
        table = self._rows(job)
        texts = table["text"].to_pylist()
        if job.lang == self._work.plan.source:
            advance(len(texts))
            return self._write(job, table, texts, [None] * len(texts), 0, "", "")
        engine = self._engine(job.lang)
        model = engine.model(job.lang)
        if job.model and job.model != model:
            raise BabelclipError(
                f"{job.lang} was translated by {job.model} so far, and {engine.name} now has {model}. A language comes "
                f"from one model: give the earlier one ({job.lang}={engine.name}:MODEL), or choose another folder."
            )
        source = self._work.plan.source
        distinct = list(dict.fromkeys(texts))
        counts = Counter(texts)
        found = translate_texts(
            engine,
            distinct,
            source,
            job.lang,
            self._work.batch_size or engine.batch_size,
            lambda done: advance(sum(counts[t] for t in done)),
        )
        verdicts = dict(
            zip(
                distinct,
                self._sieve.rejections(
                    distinct,
                    [found[text] for text in distinct],
                    job.lang,
                    lambda given: self._back(engine, given, job.lang),
                ),
                strict=True,
            )
        )
        translated, rejections = [found[text] for text in texts], [verdicts[text] for text in texts]
        return self._write(job, table, translated, rejections, len(distinct), engine.name, model)

    def _back(self, engine: Engine, texts: Sequence[str], lang: str) -> list[str]:
        """Returns texts in `lang` translated into the language of the captions."""
        distinct, size = list(dict.fromkeys(texts)), self._work.batch_size or engine.batch_size
        found = translate_texts(engine, distinct, lang, self._work.plan.source, size, lambda done: None)
        return [found[text] for text in texts]

    def _rows(self, job: Job) -> pa.Table:
        block = pq.read_table(folder.source_file(self._work.out, job.block))
        assigned = self._work.plan.assign(job.block * self._work.rows, block.num_rows)
        return block.take(pa.array(assigned[job.lang]))

    def _engine(self, lang: str) -> Engine:
        choice = self._work.engines[lang]
        if self._open is None or self._open[0] != choice:
            self.close()
            self._open = (choice, choice.open(self._device, self._threads))
        return self._open[1]

    def _write(
        self,
        job: Job,
        table: pa.Table,
        texts: Sequence[str],
        rejections: Sequence[Rejection | None],
        distinct: int,
        engine: str,
        model: str,
    ) -> Shard:
        """Writes what was kept, what was not, and last the record."""
        out = self._work.out
        kept = [row for row, rejection in enumerate(rejections) if rejection is None]
        path = folder.translations_file(out, job.lang, job.block)
        if kept:
            write_captions(Captions(translated(table, texts, job.lang).take(pa.array(kept, pa.int64()))), path)
        else:
            path.unlink(missing_ok=True)
        left_out = [(row, one) for row, one in enumerate(rejections) if one is not None]
        lines = [_line(table.slice(row, 1).to_pylist()[0], texts[row], job.lang, one) for row, one in left_out]
        path = folder.rejected_file(out, job.lang, job.block)
        if lines:
            with atomic_path(path) as temporary:
                temporary.write_text(
                    "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8"
                )
        else:
            path.unlink(missing_ok=True)
        sources = table["text"].to_pylist()
        samples: dict[str, list[dict[str, Any]]] = {
            "kept": [{"source": sources[row], "text": texts[row]} for row in kept[:_SAMPLES_KEPT]]
        }
        for line in lines:
            pairs = samples.setdefault(line["reason"], [])
            if len(pairs) < _SAMPLES_REJECTED:
                pairs.append({"source": line["source_text"], "text": line["text"], "value": line["value"]})
        reasons = dict(sorted(Counter(line["reason"] for line in lines).items()))
        files = folder.describe_files(out, job.lang, job.block)
        shard = Shard(job.lang, job.block, len(texts), len(kept), reasons, distinct, engine, model, files, samples)
        folder.write_shard(out, shard)
        return shard


def translate_texts(
    engine: Engine,
    texts: Sequence[str],
    source: str,
    target: str,
    batch_size: int,
    advance: Callable[[list[str]], object],
) -> dict[str, str]:
    """Returns the translation of each of N distinct texts.

    Texts of like length share a batch, so that little is padded; the longest come first, so that a batch that needs too
    much memory fails at once and not after an hour. The order depends on the texts alone.

    Raises:
        BabelclipError: the engine gave something else than one text for each.
    """
    ordered = sorted(texts, key=lambda text: (-len(text), text))
    found: dict[str, str] = {}
    for start in range(0, len(ordered), batch_size):
        batch = ordered[start : start + batch_size]
        given = engine.translate(batch, source, target)
        if len(given) != len(batch) or not all(isinstance(text, str) for text in given):
            raise BabelclipError(
                f"engine {engine.name} gave {len(given)} translations into {target} for {len(batch)} texts. It must "
                "give one text for each, or captions and translations would no longer belong together: nothing of "
                "this shard was written. Mend or replace the engine, then run the same again."
            )
        found.update(zip(batch, (text.strip() for text in given), strict=True))
        advance(batch)
    return found


def translated(table: pa.Table, texts: Sequence[str], lang: str) -> pa.Table:
    """Returns captions (N rows of `SCHEMA`) that carry `texts` in `lang` and point at the rows of `table`."""
    ids = table["id"].to_pylist()
    columns = {
        "id": pa.array([f"{name}-{lang}" for name in ids], pa.string()),
        "text": pa.array(texts, pa.string()),
        "lang": pa.array([lang] * len(ids), pa.string()),
        "source_id": pa.array(ids, pa.string()),
        "image": table["image"],
        "label": table["label"],
    }
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _line(row: Mapping[str, Any], text: str, lang: str, rejection: Rejection) -> dict[str, Any]:
    return {
        "id": f"{row['id']}-{lang}",
        "source_id": row["id"],
        "lang": lang,
        "source_text": row["text"],
        "text": text,
        "reason": rejection.reason,
        "value": rejection.value,
    }
