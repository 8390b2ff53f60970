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
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from babelclip.cluster.job import Shard
from babelclip.cluster.place import Place, place_at
from babelclip.errors import BabelclipError
from babelclip.translate.folder import differences

FORMAT, VERSION = "babelclip-job", 1
_JOB, _PLAN, _COMMITTED = "job.json", "plan.parquet", "committed.json"


@dataclasses.dataclass(frozen=True)
class JobFolder:
    """The folder of one job, a path or an address; every process of the job opens its own."""

    path: str

    @property
    def place(self) -> Place:
        """Where it lies."""
        return place_at(self.path)

    def lock(self) -> Callable[[], None]:
        """Takes the right to plan and to commit; raises LockedError where another process has it."""
        return self.place.lock()

    def read(self) -> dict[str, Any] | None:
        """Returns job.json; None where no job was begun."""
        content = self._read(_JOB)
        if content is None:
            return None
        if content.get("format") != FORMAT or content.get("version") != VERSION:
            raise BabelclipError(
                f"{_JOB} in {self.path} is no job of this babelclip: its format must be {FORMAT!r}, version {VERSION}. "
                "Finish it with the version that began it, or remove the folder; the store keeps what it has."
            )
        return content

    def write(self, content: Mapping[str, Any]) -> None:
        """Replaces job.json."""
        self._write(_JOB, {"format": FORMAT, "version": VERSION, **content})

    def write_shard(self, number: int, table: pa.Table) -> None:
        """Writes the content of a shard."""
        self._write_table(f"shards/{number:05d}.parquet", table)

    def read_shard(self, number: int, columns: list[str] | None = None) -> pa.Table:
        """Returns the content of a shard.

        Raises:
            BabelclipError: it is not there: another process has finished the job.
        """
        name = f"shards/{number:05d}.parquet"
        try:
            return pq.ParquetFile(self.place.source(name)).read(columns=columns)
        except FileNotFoundError as error:
            raise BabelclipError(
                f"{name} in {self.path} is gone. It is there until a job is finished, so another process has finished "
                "this one: run the same again, which tells what there is."
            ) from error

    def take_shards(self, folder: Path) -> None:
        """Takes the contents of shards that were written into a folder of this machine."""
        self.place.take(sorted((folder / "shards").glob("*.parquet")), "shards")

    def write_plan(self, shards: Sequence[Shard]) -> None:
        """Writes the list of all shards."""
        columns = {name: [getattr(shard, name) for shard in shards] for name in ("number", "id", "rows", "payload")}
        schema = pa.schema({"number": pa.int64(), "id": pa.string(), "rows": pa.int64(), "payload": pa.string()})
        self._write_table(_PLAN, pa.table(columns, schema=schema))

    def read_plan(self) -> list[Shard]:
        """Returns all shards in order."""
        return [Shard(**row) for row in pq.ParquetFile(self.place.source(_PLAN)).read().to_pylist()]

    def committed(self) -> dict[str, Any] | None:
        """Returns what the last commit noted before it began."""
        return self._read(_COMMITTED)

    def note_commit(self, content: Mapping[str, Any]) -> None:
        """Notes what a commit is about to do."""
        self._write(_COMMITTED, content)

    def clear(self) -> None:
        """Removes plan and contents of shards, of a job that is finished or begun anew."""
        for name in (_PLAN, _COMMITTED, "shards"):
            self.place.remove(name)

    def remove(self) -> None:
        """Removes the folder."""
        self.place.remove("")

    def _read(self, name: str) -> dict[str, Any] | None:
        content = self.place.read(name)
        if content is None:
            return None
        try:
            found = json.loads(content)
        except ValueError as error:
            raise BabelclipError(
                f"{name} in {self.path} is damaged ({error}): it must be as babelclip wrote it. Remove the folder, and "
                "the same command makes a new plan for what still lacks."
            ) from error
        return found if isinstance(found, dict) else {}

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        self.place.write(name, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())

    def _write_table(self, name: str, table: pa.Table) -> None:
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        self.place.write(name, buffer.getvalue())

    def check_same(self, job: Mapping[str, Any], asked: Mapping[str, Any], out: str) -> None:
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
