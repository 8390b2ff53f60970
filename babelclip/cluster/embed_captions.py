"""Captions as an embed job: the plan, one shard, the report.

The plan reads the source once, as `babelclip embed` does: what the store has is left out, ids that come twice are an
error, and each row learns which row of the store to be has its text first. Memory does not grow with the rows: ids and
texts are looked up by their hashes in files (`store/id_file.py`), and the contents of shards lie on disk.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from babelclip.cluster.embed_commit import write_fragment
from babelclip.cluster.embed_folder import JobFolder
from babelclip.cluster.embed_job import Do, Embedded, Plan
from babelclip.cluster.job import Fragment, Shard
from babelclip.data import embed_rows
from babelclip.data.captions import Captions
from babelclip.data.embed import (
    SHARD_ROWS,
    EmbedReport,
    own_captions,
    read_ahead,
    source_name,
    sources_of,
    text_tower,
)
from babelclip.data.embed_rows import KnownTexts, Row, Sieve, only_first, refuse_twice, row_columns
from babelclip.data.embed_shard import TextSettings, encode_new, first_rows, is_new, own_vectors, reads_language
from babelclip.data.embed_targets import check_float16, target_dim
from babelclip.data.parts import positive
from babelclip.data.sources import count_captions, open_captions
from babelclip.models.clip import Clip
from babelclip.progress import progress_bar
from babelclip.store import EmbeddingStore
from babelclip.store.checks import checked_ids, row_table
from babelclip.store.id_file import IdFile
from babelclip.store.layout import StoreFacts
from babelclip.translate.folder import source_facts

_TYPES = {"string": pa.string(), "bool": pa.bool_(), "int64": pa.int64(), "null": pa.null()}


@dataclasses.dataclass(frozen=True)
class CaptionsKind:
    """What `embed_file` is asked for; see there.

    Attributes:
        source: captions.
        model: folder or name of the teacher.
        lang: language of the rows that name none.
        only: keep these languages.
        strict: whether the first row that cannot be used is an error.
        sources_only: leave out rows that name a `source_id`.
        settings: of the vectors.
        dtype: of the store.
        shard_rows: captions of a shard; None for what `embed` takes.
        device: kind of the devices, "cpu" or "cuda": they round differently, so they are not mixed.
    """

    source: str
    model: str
    lang: str | None = None
    only: tuple[str, ...] | None = None
    strict: bool = False
    sources_only: bool = False
    settings: TextSettings = dataclasses.field(default_factory=TextSettings)
    dtype: str = "float16"
    shard_rows: int | None = None
    device: str = "cpu"
    what: str = "Text vectors"
    unit: str = "texts"

    def asked(self) -> dict[str, Any]:
        """Returns what decides the bytes."""
        told = dataclasses.asdict(self)
        facts = source_facts(sources_of(self.source))
        told |= {"source": facts["facts"] or facts["name"], "shard_rows": self._rows}
        return {name: value for name, value in told.items() if name not in ("what", "unit")}

    def plan(self, out: str, folder: JobFolder, progress: bool) -> Plan:
        """Writes the contents of all shards."""
        import babelclip

        clip = babelclip.load(self.model, towers="text")
        tower = text_tower(clip)
        facts = self._facts(clip)
        source = sources_of(self.source)
        total = count_captions(source) if progress else None
        skipped: Counter[str] = Counter()
        with EmbeddingStore.open_or_create(out, **dataclasses.asdict(facts)) as store:
            sieve, there = Sieve(store, source_name(source), reads_language(tower)), len(store)
            sample = row_columns(["en"], [""], [False], source_name(source))
            schema = row_table(["x"], sample, store.row_schema if there else None).schema
            spool = _Spool(store, folder, self._rows, hashlib.sha256(repr((self.asked(), facts)).encode()).hexdigest())
            with progress_bar("Captions planned", total, shown=progress, unit="captions") as advance:
                for part in read_ahead(self._parts(source)):
                    skipped.update(part.skipped)
                    spool.add(sieve.lacking(part))
                    advance(len(part) + sum(part.skipped.values()))
                spool.flush()
            base = (len(store.shards), there)
        told = {"encoded": spool.encoded, "skipped": dict(skipped), "languages": dict(spool.langs)}
        columns = [(field.name, str(field.type)) for field in schema]
        return Plan(
            spool.shards, facts, base, columns, {**told, "source": source_name(source), "model": clip.languages}
        )

    def do(self, device: str, lanes: int, decoders: Executor | None, job: dict[str, Any]) -> Do:
        """Loads the text tower, and returns what does a shard."""
        import babelclip

        tower = text_tower(babelclip.load(self.model, towers="text", device=device))
        devices = [tower] * lanes if device.startswith("cpu") else [tower]

        def do(shard: Shard, table: pa.Table, room: Path) -> dict[str, Any]:
            start, first = int(shard.payload), table["first"].to_numpy()
            fresh = is_new(first, start)
            new = table.filter(pa.array(fresh))
            made = encode_new(tower, new["text"].to_pylist(), new["lang"].to_pylist(), self.settings, devices=devices)
            own = own_vectors(made, first, start)
            ids = table["id"].to_pylist()
            here = [ids[place] for place in np.flatnonzero(first >= start).tolist()]
            lossy = check_float16(own, here) if job["facts"]["dtype"] == "float16" and here else 0
            hashes, langs = table["text_hash"].to_pylist(), table["lang"].to_pylist()
            rows = {"id": ids, **row_columns(langs, hashes, (~fresh).tolist(), job["told"]["source"])}
            whole = pa.table({name: pa.array(rows[name], _TYPES[kind]) for name, kind in job["columns"]})
            write_fragment(room, here, own, whole, job["facts"])
            return {"rows": len(ids), "lossy": lossy}

        return do

    def report(self, job: dict[str, Any], fragments: Iterable[Fragment], rows: int, seconds: float) -> Embedded:
        """Returns what the job did."""
        told = job["told"]
        if job["complete"]:
            return Embedded(EmbedReport(rows, 0, 0, told["skipped"], {}, 0, seconds))
        there, lossy = job["base"][1], sum(int(one.facts["lossy"]) for one in fragments)
        report = EmbedReport(there, rows - there, told["encoded"], told["skipped"], told["languages"], lossy, seconds)
        return Embedded(report, languages=tuple(told["model"]))

    @property
    def _rows(self) -> int:
        return positive(self.shard_rows or SHARD_ROWS)

    def _facts(self, clip: Clip) -> StoreFacts:
        tower, target = text_tower(clip), self.settings.target
        return StoreFacts(
            space=clip.space,
            model=clip.name or clip.space,
            dim=target_dim(tower, target),
            dtype=self.dtype,
            normalized=self.settings.normalize,
            kind="text",
            target=target,
        )

    def _parts(self, source: Path | str) -> Iterator[Captions]:
        parts = open_captions(source, lang=self.lang, strict=self.strict, only=self.only)
        return own_captions(parts, str(source)) if self.sources_only else parts


class _Spool:
    """Writes the captions that lack as contents of shards, each row with the row that has its text first."""

    def __init__(self, store: EmbeddingStore, folder: JobFolder, shard_rows: int, salt: str) -> None:
        self._folder, self._shard_rows, self._salt = folder, shard_rows, salt
        self._known = KnownTexts(store, self._hashes_of)
        self._ids = IdFile(Path(folder.path), lambda number: folder.read_shard(number, ["id"])["id"])
        self._waiting: list[Row] = []
        self._start = len(store)
        self.shards: list[Shard] = []
        self.encoded = 0
        self.langs: Counter[str] = Counter()

    def add(self, rows: list[Row]) -> None:
        """Takes captions that the store lacks."""
        self._waiting += rows
        while len(self._waiting) >= self._shard_rows:
            self._write(self._waiting[: self._shard_rows])
            del self._waiting[: self._shard_rows]

    def flush(self) -> None:
        """Writes what waits as the last shard."""
        if self._waiting:
            self._write(self._waiting)
            self._waiting = []

    def _write(self, rows: list[Row]) -> None:
        ids, hashes = [row.id for row in rows], [row.hash for row in rows]
        before = self._ids.find(ids)
        refuse_twice(
            [name for name, row in zip(ids, before.tolist(), strict=True) if row >= 0]
            + [name for name, count in Counter(ids).items() if count > 1]
        )
        checked_ids(ids)
        number, start = len(self.shards), self._start
        first = first_rows(hashes, self._known, start)
        fresh = is_new(first, start).tolist()
        texts = [row.text if new else None for row, new in zip(rows, fresh, strict=True)]
        table = pa.table(
            {
                "id": pa.array(ids, pa.string()),
                "text": pa.array(texts, pa.string()),
                "lang": pa.array([row.lang for row in rows], pa.string()),
                "text_hash": pa.array(hashes, pa.string()),
                "first": pa.array(first, pa.int64()),
            }
        )
        self._folder.write_shard(number, table)
        content = "\0".join([self._salt, str(start), *ids, *hashes, *map(str, first.tolist())])
        digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
        self.shards.append(Shard(number, digest[:32], len(rows), str(start)))
        self._known.add(hashes, [not new for new in fresh])
        self._ids.add([table["id"]])
        self._start += len(rows)
        self.encoded += sum(fresh)
        self.langs.update(row.lang for row in rows)

    def _hashes_of(self, number: int) -> pa.ChunkedArray:
        table, start = self._folder.read_shard(number, ["text_hash", "first"]), int(self.shards[number].payload)
        return only_first(table[embed_rows.TEXT_HASH], pa.chunked_array([~is_new(table["first"].to_numpy(), start)]))
