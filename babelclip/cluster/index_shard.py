"""One shard of an index job, in a worker: pictures in, a file of rows in the collection's table out.

New rows become files of the Lance table (fragments), written by the worker beside those that the table has. They are no
part of it until the driver commits them, and no reader sees them before. Rows that replace others lie in the ledger,
as `changed.arrow`, and are put in by the driver: they need the old ones found and removed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from babelclip.cluster.index_plan import HELD, KIND, PICTURE, Plan, pictures_of, read_shard
from babelclip.cluster.ledger import Fragment, Ledger, Shard
from babelclip.errors import require
from babelclip.files import sha256
from babelclip.models.image import ImageEncoder, SkippedPicture
from babelclip.search.columns import checked_rows
from babelclip.search.index_known import CHANGED, NEW
from babelclip.search.index_rows import rows_table, values_of
from babelclip.search.index_write import TowerEncoder
from babelclip.search.thumbnails import Look

CHANGED_ROWS = "changed.arrow"


class IndexWorker:
    """Does shards of an index job with a model that is loaded once; see `cluster.job.Worker`."""

    def __init__(
        self,
        folder: str,
        table: str,
        plan: Plan,
        tower: ImageEncoder,
        *,
        run: str,
        batch_size: int,
        strict: bool,
        lanes: int,
        decoders: Executor | None,
    ) -> None:
        """Takes where the job and the Lance table lie, the picture tower, and the settings of the job."""
        self._folder, self._table, self._plan, self._run = folder, table, plan, run
        self._ledger = Ledger(folder)
        # A thread more than lanes decodes ahead while all lanes compute.
        pool = decoders or ThreadPoolExecutor(lanes + 1, thread_name_prefix="decode")
        self._tower = tower
        self._settings: dict[str, Any] = {"batch_size": batch_size, "strict": strict, "pool": pool}

    def __call__(self, shard: Shard) -> Fragment:
        """Returns the fragment of a shard, at once where it is there."""
        if fragment := self._ledger.find(shard):
            return fragment
        encode = TowerEncoder(self._tower, **self._settings)
        rows = read_shard(self._folder, shard)
        vectors, looks, skipped = encode(list(pictures_of(rows)))
        facts: dict[str, Any] = {
            "run": self._run,
            "skipped": [list(item) for item in skipped],
            "encode": dataclasses.asdict(encode.report),
            "kinds": {},
            "fragments": [],
            "files": [],
        }
        with self._ledger.room() as room:
            kept = _kept(rows, looks, skipped)
            if kept:
                made = rows_table(kept, vectors, self._plan.columns)
                table = checked_rows(made, self._plan.columns, self._plan.dim)
                kinds = pa.array([row[KIND] for row in kept])
                facts["kinds"] = {kind: kinds.to_pylist().count(kind) for kind in (NEW, CHANGED)}
                self._write(table, kinds, room, facts)
            return self._ledger.record(shard, room, facts)

    def _write(self, table: pa.Table, kinds: pa.Array, room: Path, facts: dict[str, Any]) -> None:
        new = table.filter(pa.compute.equal(kinds, NEW))
        changed = table.filter(pa.compute.equal(kinds, CHANGED))
        if len(changed):
            with pa.OSFile(str(room / CHANGED_ROWS), "wb") as file, pa.ipc.new_file(file, changed.schema) as writer:
                writer.write_table(changed)
        if len(new):
            lance = require("lance.fragment", "cluster")
            for fragment in lance.write_fragments(new, self._table, mode="append"):
                facts["fragments"].append(fragment.to_json())
                facts["files"] += list(_files(self._table, fragment))


def table_files(table: str, fragment: Any) -> Iterator[Path]:
    """Yields the files of a fragment of a table on disk."""
    for file in fragment.files:
        yield Path(table) / "data" / (file.path if isinstance(file.path, str) else file.path())


def _files(table: str, fragment: Any) -> Iterator[list[Any]]:
    """Yields name, size and SHA-256 of the files of a fragment; nothing of an object store, which checks by itself."""
    if "://" not in table:
        for path in table_files(table, fragment):
            yield [path.name, path.stat().st_size, sha256(path)]


def _kept(
    rows: Sequence[dict[str, Any]], looks: dict[int, Look], skipped: Sequence[SkippedPicture]
) -> list[dict[str, Any]]:
    """Returns the rows whose picture could be read, with what decoding gave."""
    bad = {item.position for item in skipped}
    own = ({name: value for name, value in row.items() if name not in (PICTURE, HELD)} for row in rows)
    return [row | values_of(looks[place]) for place, row in enumerate(own) if place not in bad]
