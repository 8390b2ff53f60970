"""What lies in the folder of an embed job, beside the store that it fills: `targets.job/` for `targets/`.

job.json                what was asked for, the source, what the store had before; when all is done, the report
plan.parquet            number, id, rows and first row of every shard: written when all shards are
shards/00000.parquet    the captions of a shard (id, text, lang, text_hash, first), or its names of pictures
done/, fragments/       the ledger (`ledger.py`)
committed.json          how many shards the store has, before and after the commit that is being made
.lock                   held by the one process that plans or commits
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from babelclip.cluster.job import Shard
from babelclip.errors import BabelclipError
from babelclip.files import atomic_path, lock_file, read_json, write_json
from babelclip.translate.folder import differences

FORMAT, VERSION = "babelclip-job", 1
_JOB, _PLAN, _COMMITTED, _LOCK = "job.json", "plan.parquet", "committed.json", ".lock"


@dataclasses.dataclass(frozen=True)
class JobFolder:
    """The folder of one job; every process of the job opens its own."""

    path: Path

    def lock(self) -> Callable[[], None]:
        """Takes the right to plan and to commit; see `files.lock_file`."""
        self.path.mkdir(parents=True, exist_ok=True)
        return lock_file(self.path / _LOCK)

    def read(self) -> dict[str, Any] | None:
        """Returns job.json; None where no job was begun."""
        if not (self.path / _JOB).is_file():
            return None
        content: dict[str, Any] = read_json(self.path / _JOB)
        if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
            raise BabelclipError(
                f"{self.path / _JOB} is no job of this babelclip: its format must be {FORMAT!r}, version {VERSION}. "
                "Finish it with the version that began it, or remove the folder; the store keeps what it has."
            )
        return content

    def write(self, content: Mapping[str, Any]) -> None:
        """Replaces job.json."""
        write_json(self.path / _JOB, {"format": FORMAT, "version": VERSION, **content})

    def shard_file(self, number: int) -> Path:
        """Returns where the captions or names of a shard lie."""
        return self.path / "shards" / f"{number:05d}.parquet"

    def write_shard(self, number: int, table: pa.Table) -> None:
        """Writes the content of a shard."""
        with atomic_path(self.shard_file(number)) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    def read_shard(self, number: int, columns: list[str] | None = None) -> pa.Table:
        """Returns the content of a shard.

        Raises:
            BabelclipError: it is not there: another process has finished the job.
        """
        try:
            return pq.ParquetFile(self.shard_file(number)).read(columns=columns)
        except FileNotFoundError as error:
            raise BabelclipError(
                f"{self.shard_file(number)} is gone. It is there until a job is finished, so another process has "
                "finished this one: run the same again, which tells what there is."
            ) from error

    def write_plan(self, shards: Sequence[Shard]) -> None:
        """Writes the list of all shards."""
        columns = {name: [getattr(shard, name) for shard in shards] for name in ("number", "id", "rows", "payload")}
        schema = pa.schema({"number": pa.int64(), "id": pa.string(), "rows": pa.int64(), "payload": pa.string()})
        with atomic_path(self.path / _PLAN) as temporary:
            pq.write_table(pa.table(columns, schema=schema), temporary, compression="zstd")

    def read_plan(self) -> list[Shard]:
        """Returns all shards in order."""
        table = pq.ParquetFile(self.path / _PLAN).read()
        return [Shard(**row) for row in table.to_pylist()]

    def committed(self) -> dict[str, Any] | None:
        """Returns what the last commit noted before it began."""
        path = self.path / _COMMITTED
        found: dict[str, Any] | None = read_json(path) if path.is_file() else None
        return found

    def note_commit(self, content: Mapping[str, Any]) -> None:
        """Notes what a commit is about to do."""
        write_json(self.path / _COMMITTED, content)

    def clear(self) -> None:
        """Removes plan and contents of shards, of a job that is finished or begun anew."""
        (self.path / _PLAN).unlink(missing_ok=True)
        (self.path / _COMMITTED).unlink(missing_ok=True)
        shutil.rmtree(self.path / "shards", ignore_errors=True)

    def remove(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.path, ignore_errors=True)

    def check_same(self, job: Mapping[str, Any], asked: Mapping[str, Any], out: Path) -> None:
        """Does nothing where a job that was begun is the one that is asked for.

        Raises:
            BabelclipError: it differs; names each option with both values.
        """
        told = differences(job["asked"], asked)
        if told:
            raise BabelclipError(
                f"{self.path} is a job of {out} that was begun otherwise and is not finished: {'; '.join(told)}. It "
                f"goes on only as it began: ask for the same again, or remove {self.path} ({out} keeps what it has) "
                "and begin anew."
            )
