"""Pictures of a source into rows of a collection, block by block: compared, decoded, encoded, written."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from time import perf_counter
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from babelclip.models.decoding import EncodeReport
from babelclip.models.encoding import Device, one_thread_each, replicas
from babelclip.models.image import ImageEncoder, SkippedPicture
from babelclip.models.preprocess import Picture
from babelclip.progress import Advance
from babelclip.search.collection import Collection
from babelclip.search.columns import VECTOR, vectors_of
from babelclip.search.index_known import CHANGED, NEW, SAME, TOLD, Known
from babelclip.search.index_rows import rows_table, table_of, told_over
from babelclip.search.index_sources import Found
from babelclip.search.index_state import Waiting
from babelclip.search.thumbnails import HeldPicture, Look, content_of, read_picture

# A write about so often: what a kill can lose. Shorter, and small collections consist of fragments.
_SECONDS = 5.0
_LEAST, _MOST = 64, 4096
# Picture files of tables that wait in memory for their block.
HELD = 64 << 20

# What encodes pictures: vectors (M, D) of those that can be read, by position what is kept of each, the others.
Encode = Callable[[list[Picture]], tuple[np.ndarray, dict[int, Look], list[SkippedPicture]]]


class Writer:
    """Writes tables one after the other in a thread, while the next is encoded; at most one waits.

    Used as a `with` block, which ends when all is written; after an error what was begun is ended, and no more.
    """

    def __init__(self, collection: Collection, waiting: Waiting) -> None:
        self._collection, self._waiting = collection, waiting
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._pending: Future[None] | None = None
        self.seconds = 0.0  # that the encoder waited

    def write(self, rows: pa.Table, *, encoded: bool, written: Callable[[], None]) -> None:
        """Takes rows; `written` is called, in this thread, once they are durable: at the next call, or at the end."""
        self.wait()
        self._written = written
        self._pending = self._thread.submit(self._upsert, rows, encoded)

    def wait(self) -> None:
        """Returns when all rows are durable."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            start = perf_counter()
            pending.result()
            self.seconds += perf_counter() - start
            self._written()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def _upsert(self, rows: pa.Table, encoded: bool) -> None:
        if encoded:
            self._waiting.add(rows["id"].to_pylist())
        self._collection.upsert(rows)


class Compared:
    """Pictures of a source against the collection: which are to be encoded, and which rows only told something else.

    Attributes:
        counts: pictures by `TOLD` and `SAME`.
    """

    def __init__(self, collection: Collection, known: Known, writer: Writer, pool: Executor, advance: Advance) -> None:
        """Takes what pictures are compared with; `pool` reads files whose time is another."""
        self._collection, self._known, self._writer, self._pool = collection, known, writer, pool
        self._advance = advance
        self._own = [name for name in collection.columns if name not in ("id", VECTOR)]
        self.counts: Counter[str] = Counter()

    def take(self, found: Sequence[Found]) -> list[tuple[Found, str]]:
        """Takes pictures of a source in its order; returns those to encode, `NEW` or `CHANGED`."""
        kinds = self._known.compare(found)
        older = [item for item, kind in zip(found, kinds, strict=True) if kind not in (NEW, SAME)]
        same_file = {item.id for item, kind in zip(found, kinds, strict=True) if kind == TOLD}
        changed = self._tell(older, same_file) if older else {}
        wanted = []
        for item, kind in zip(found, kinds, strict=True):
            if kind == NEW or (kind == CHANGED and item.id in changed):
                wanted.append((changed[item.id] if kind == CHANGED else item, kind))
            elif kind == SAME:
                self.counts[SAME] += 1
                self._advance(1, 0)
        return wanted

    def _tell(self, found: list[Found], same_file: set[str]) -> dict[str, Found]:
        """Writes what is told anew of rows whose picture is the same; returns the pictures that really changed.

        A file with another time may have the same content, and is then not encoded. Of a changed picture, what its
        source does not say (a caption from a table that was not given today) is taken from the row.
        """
        self._writer.wait()
        rows = self._collection.get([item.id for item in found], columns=self._own, with_vectors=True)
        vectors = vectors_of(rows[VECTOR]) if len(rows) else np.zeros((0, 0), np.float32)
        there = {row["id"]: (place, row) for place, row in enumerate(rows.drop_columns([VECTOR]).to_pylist())}
        unsure = [item for item in found if item.id not in same_file]
        digests = dict(
            zip((item.id for item in unsure), self._pool.map(_digest, [i.picture for i in unsure]), strict=True)
        )
        changed: dict[str, Found] = {}
        places, told = [], []
        for item in found:
            if item.id not in there:
                changed[item.id] = item
                continue
            place, row = there[item.id]
            if item.id not in same_file and (digests[item.id] is None or digests[item.id] != row["sha256"]):
                changed[item.id] = _completed(item, row)
                continue
            anew = told_over(row, item)
            if anew != row:
                places.append(place)
                told.append(anew)
        if told:
            self._writer.write(
                rows_table(told, vectors[places], self._collection.columns), encoded=False, written=_nothing
            )
        self.counts[TOLD] += len(told)
        self.counts[SAME] += len(found) - len(changed) - len(told)
        self._advance(len(found) - len(changed), 0)
        return changed


class Blocks:
    """Collects pictures to encode until a block is full, and counts what became of all.

    A block is a whole number of batches, so that a picture's batch, and with it the last bits of its vector, depend on
    its place among all that are encoded and not on how fast the machine was.

    Attributes:
        counts: pictures by `NEW`, `CHANGED`, `TOLD`, `SAME` and "skipped".
    """

    def __init__(
        self,
        collection: Collection,
        known: Known,
        writer: Writer,
        encode: Encode,
        pool: Executor,
        advance: Advance,
        *,
        batch: int,
        size: int | None,
        on_skip: Callable[[SkippedPicture], None] | None,
    ) -> None:
        """Takes what blocks go through; `size` None adapts it to the speed."""
        self._compared = Compared(collection, known, writer, pool, advance)
        self._writer, self._encode, self._advance, self._on_skip = writer, encode, advance, on_skip
        self._columns, self._batch = collection.columns, batch
        self._fixed, self._size = size is not None, size or self._whole(_LEAST)
        self._waiting: list[tuple[Found, str]] = []
        self._held = 0
        self.counts = self._compared.counts

    def take(self, found: Sequence[Found]) -> None:
        """Takes pictures of a source in its order."""
        for item, kind in self._compared.take(found):
            self._waiting.append((item, kind))
            self._held += item.size if isinstance(item.picture, HeldPicture) else 0
            whole = len(self._waiting) % self._batch == 0
            if len(self._waiting) >= self._size or (self._held > HELD and (whole or self._fixed)):
                self._flush()

    def finish(self) -> None:
        """Encodes the last block, which need not be full, and waits until all is written."""
        if self._waiting:
            self._flush()
        self._writer.wait()

    def _whole(self, pictures: float) -> int:
        """Returns the number of pictures in as many whole batches, at least one."""
        return max(1, round(pictures / self._batch)) * self._batch

    def _flush(self) -> None:
        began, block = perf_counter(), self._waiting
        self._waiting, self._held = [], 0
        vectors, looks, skipped = self._encode([item.picture for item, _kind in block])
        for problem in skipped:
            if self._on_skip is not None:
                self._on_skip(problem)
        bad = {problem.position for problem in skipped}
        kept = [place for place in range(len(block)) if place not in bad]
        self.counts["skipped"] += len(bad)
        self._advance(len(bad))
        if kept:
            found = [block[place][0] for place in kept]
            rows = table_of(found, [looks[place] for place in kept], vectors, self._columns)
            kinds = Counter(block[place][1] for place in kept)

            def written() -> None:
                self.counts.update(kinds)
                self._advance(len(kept))

            self._writer.write(rows, encoded=True, written=written)
        if not self._fixed:
            speed = len(block) / max(perf_counter() - began, 1e-3)
            self._size = self._whole(min(max(speed * _SECONDS, _LEAST), _MOST, 2 * self._size))


class TowerEncoder:
    """A picture tower with the settings of a run, as `Blocks` calls it; adds up what it took in `report`.

    The bits of a vector depend on its batch alone, not on the number of threads (`one_thread_each`).
    """

    def __init__(self, tower: ImageEncoder, devices: Sequence[Device] | None = None, **settings: Any) -> None:
        """Takes settings of `ImageEncoder.encode_readable`."""
        self._tower, self._settings = tower, settings
        self._devices = None if devices is None else replicas(tower, devices)
        self.report = EncodeReport(0, 0, 0.0, 0.0, 0.0)

    def __call__(self, pictures: list[Picture]) -> tuple[np.ndarray, dict[int, Look], list[SkippedPicture]]:
        """Returns vectors (M, D) of those that can be read, by position what is kept of each, and the others."""
        looks: dict[int, Look] = {}
        with one_thread_each(self._tower, self._devices) as lanes:
            vectors, skipped = self._tower.encode_readable(
                pictures, reader=read_picture, took=looks.__setitem__, report=self._add, devices=lanes, **self._settings
            )
        return vectors, looks, skipped

    def note(self) -> str:
        """Returns which share of its time the model waited for pixels, and computed, for a progress bar."""
        busy = max(self.report.decode_wait + self.report.model_seconds, 1e-9)
        return f"decode {self.report.decode_wait / busy:.0%}, model {self.report.model_seconds / busy:.0%}"

    def _add(self, report: EncodeReport) -> None:
        self.report += report


def _completed(item: Found, row: dict[str, Any]) -> Found:
    values = {name: row.get(name) if value is None else value for name, value in item.values.items()}
    caption, lang = (item.caption, item.lang) if item.caption else (row["caption"], row["lang"])
    return dataclasses.replace(item, caption=caption, lang=lang, values=values)


def _digest(picture: str | HeldPicture) -> str | None:
    """Returns the SHA-256 of a picture's file, None where it cannot be read: encoding it says why."""
    try:
        return hashlib.sha256(content_of(picture)).hexdigest()
    except OSError:
        return None


def _nothing() -> None:
    pass
