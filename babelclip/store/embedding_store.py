"""`EmbeddingStore`: vectors for training and exchange on disk, appendable, resumable and checksummed.

Why a format of its own: a training batch is 2,048 random rows. Rows of a data set decode every vector into Python
objects (about 320 ms a batch); memory-mapped float16 shards copy only the bytes asked for (about 3 ms; see
benchmarks/store.py). One `append` is one shard, and the parts stay readable without babelclip:

    manifest.json          space, model, target kind, dim, dtype, normalised; per shard: rows, sizes, SHA-256
    vectors/00000.npy      (n, D) float16 or float32: `numpy.load(..., mmap_mode="r")`
    rows/00000.parquet     column `id` and the columns given to `append`: `pyarrow.parquet.read_table(...)`

What the manifest does not name does not exist: a kill in the middle of an append leaves files that no reader sees and
that the next append removes. The manifest is rewritten at each append and grows by one entry per shard, so append
many rows at a time: `layout.SHARD_ROWS` (16,384) of 768 float16 are 25 MB, little to lose in a kill, and 100 million
rows are then 6,104 entries.

Entry points: `EmbeddingStore.create`, `.open`, `.open_or_create`; `append`, `gather`, `positions`, `blocks`, `verify`.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from babelclip.errors import BabelclipError, SpaceMismatchError
from babelclip.files import atomic_path, sync
from babelclip.storage import address, is_url, shadow
from babelclip.store import layout, remote
from babelclip.store.checks import checked_ids, checked_vectors, row_table
from babelclip.store.id_file import IdFile
from babelclip.store.id_index import IdIndex
from babelclip.store.layout import Shard, StoreFacts
from babelclip.store.parquet import naming, read_table
from babelclip.store.verify import verify_shards

# Numbers turned into float32 at once: they stay in the cache of a core, and torch does not start threads for so few,
# which would hang in a process that was forked from one with threads.
_NUMBERS_AT_ONCE = 32_767


class EmbeddingStore:
    """Vectors (N, D) with their ids and columns in a folder. Made by `create`, `open` and `open_or_create`.

    A store from `open` reads only and never changes the folder. One from the other two holds the folder's write lock
    until `close()`, the end of its `with` block, or the end of the process. A store can be pickled, for example into
    the workers of a data loader, where it opens read-only.

    Attributes:
        path: the folder; of a store in object storage the one in the cache, which gets its contents as they are read.
        space, model, dim, dtype, normalized, kind, target: see `babelclip.store.layout.StoreFacts`.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp() + "/targets"
        >>> with EmbeddingStore.create(folder, space="s", model="m", dim=2, normalized=False) as store:
        ...     store.append(["cat", "dog"], [[1.0, 2.0], [3.0, 4.0]])
        >>> store = EmbeddingStore.open(folder)
        >>> store.gather(store.positions(["dog"]))
        array([[3., 4.]], dtype=float32)
    """

    def __init__(self, path: Path, facts: StoreFacts, shards: Sequence[Shard] = ()) -> None:
        self.path = path
        self.space, self.model, self.dim, self.dtype = facts.space, facts.model, facts.dim, facts.dtype
        self.normalized, self.kind, self.target = facts.normalized, facts.kind, facts.target
        self._facts = facts
        self._shards = list(shards)
        self._starts = np.cumsum([0, *(shard.count for shard in shards)], dtype=np.int64)
        self._release: Callable[[], object] | None = None
        self._remote: remote.RemoteStore | None = None
        self._maps: dict[int, npt.NDArray[np.floating[Any]]] = {}
        self._rows: pa.Table | None = None
        self._lazy_index: IdIndex | IdFile | None = None

    @classmethod
    def create(
        cls,
        path: Path | str,
        *,
        space: str,
        model: str,
        dim: int,
        dtype: str = "float16",
        normalized: bool,
        kind: str = "text",
        target: str = "projected",
        overwrite: bool = False,
    ) -> EmbeddingStore:
        """Returns a new, empty store that can be appended to; `overwrite` empties one that is there.

        Raises:
            BabelclipError: a fact is not allowed, the folder holds something, or another writer has it open.
        """
        facts = StoreFacts(space, model, dim, dtype, normalized, kind, target)
        path, there = remote.begin(path)
        try:
            return cls._created(path, facts, there, overwrite=overwrite)
        except BaseException:
            if there is not None:
                there.release()
            raise

    @classmethod
    def _created(
        cls, path: Path, facts: StoreFacts, there: remote.RemoteStore | None, *, overwrite: bool
    ) -> EmbeddingStore:
        if (path / layout.MANIFEST).exists():
            if not overwrite:
                raise BabelclipError(
                    f"{path} already holds an embedding store. A new one needs an empty folder: go on with "
                    "EmbeddingStore.open_or_create, or pass overwrite=True to empty it."
                )
        elif layout.holds_other_things(path):
            raise BabelclipError(
                f"{path} is not an embedding store but holds other things. A new store needs an empty or a new "
                "folder: choose another path."
            )
        for name in ("vectors", "rows"):
            (path / name).mkdir(parents=True, exist_ok=True)
        sync(path.absolute().parent)
        store = cls(path, facts)
        store._hold(layout.lock_folder(path), there)
        # The empty manifest comes first: a kill before the old shards are removed leaves only unnamed files.
        layout.write_manifest(path, facts, [])
        layout.remove_unnamed_files(path, 0)
        (path / layout.ORIGIN).unlink(missing_ok=True)
        if there is not None:
            there.send([path / layout.MANIFEST])
            there.remove_others()
        return store

    @classmethod
    def open(cls, path: Path | str) -> EmbeddingStore:
        """Returns the store at `path` for reading, after a cheap look at the size and header of every shard.

        Raises:
            BabelclipError: no store is there, its manifest is damaged, or shards are missing, cut or of another shape.
        """
        facts, shards, problems = layout.looked_at(place := shadow(path))
        if problems and is_url(path):  # a writer may have added shards between the listing and the manifest
            facts, shards, problems = layout.looked_at(place := shadow(path))
        path = place
        if problems:
            raise BabelclipError(
                f"{path} is damaged in {len(problems)} place(s): {'; '.join(problems[:3])}. Every shard must be as "
                "the manifest says: copy these files again from where the store came from, or write the store anew "
                "with EmbeddingStore.create(..., overwrite=True)."
            )
        return cls(path, facts, shards)

    @classmethod
    def open_or_create(
        cls,
        path: Path | str,
        *,
        space: str,
        model: str,
        dim: int,
        dtype: str = "float16",
        normalized: bool,
        kind: str = "text",
        target: str = "projected",
    ) -> EmbeddingStore:
        """Returns the store at `path` for appending, made where there is none: the way to resume after a kill.

        Raises:
            SpaceMismatchError: the store that is there belongs to another space.
            BabelclipError: it differs in another fact, is damaged, or another writer has it open.
        """
        wanted = StoreFacts(space, model, dim, dtype, normalized, kind, target)
        path, there = remote.begin(path)
        release = remote.both(lambda: None, there)
        try:
            if not (path / layout.MANIFEST).exists():
                return cls._created(path, wanted, there, overwrite=False)
            release = remote.both(layout.lock_folder(path), there)
            store = cls.open(path)
            store._facts.check_same(wanted, path)
        except BaseException:
            release()
            raise
        store._hold(release, there)
        return store

    def close(self) -> None:
        """Gives the write lock back; reading still works."""
        if self._release is not None:
            self._release()
            self._release = None

    def __enter__(self) -> EmbeddingStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[[str], EmbeddingStore], tuple[str]]:
        return EmbeddingStore.open, (address(self.path),)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __repr__(self) -> str:
        return f"EmbeddingStore({address(self.path)!r}, {len(self)} x {self.dim} {self.dtype}, space={self.space!r})"

    @property
    def ids(self) -> list[str]:
        """The ids of all N rows, in order."""
        return self.ids_between(0, len(self))

    @property
    def rows(self) -> pa.Table:
        """The column `id` and the columns given to `append`, N rows in order; read at the first use."""
        if self._rows is None:
            tables = []
            for number in range(len(self._shards)):
                with naming(file := layout.rows_file(self.path, number)):
                    tables.append(pq.ParquetFile(file).read())
                    tables[-1].validate(full=True)
            with naming(self.path):
                # A column that held only nulls in the first shards takes the type it got later.
                joined = pa.concat_tables(tables, promote_options="default") if tables else None
            self._rows = joined if joined is not None else pa.table({"id": pa.array([], pa.string())})
        return self._rows

    @property
    def row_schema(self) -> pa.Schema:
        """Names and types of the columns, `id` first."""
        if not self._shards:
            return pa.schema({"id": pa.string()})
        # The last shard knows the most: a column that was all null at first has its type by then.
        with naming(file := layout.rows_file(self.path, len(self._shards) - 1)):
            return pq.read_schema(file)

    @property
    def facts(self) -> StoreFacts:
        """What holds for every vector."""
        return self._facts

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The manifest's entries."""
        return tuple(self._shards)

    def append(
        self, ids: Sequence[str | int], vectors: npt.ArrayLike, columns: Mapping[str, Sequence[Any]] | None = None
    ) -> None:
        """Writes one shard; when this returns, the rows are on disk and survive a kill or a power cut.

        Args:
            ids: N ids, each new to the store; whole numbers are stored as their decimal text.
            vectors: (N, D) floats, finite, and of length 1 where the store is `normalized`.
            columns: further columns of N values by name; the same names in every append.

        Raises:
            BabelclipError: the store is read-only, or ids, shape, values or columns do not fit; nothing is written.
        """
        if self._release is None:
            raise BabelclipError(
                f"{self.path} is open for reading only. Appending needs the write lock: open it with "
                "EmbeddingStore.open_or_create and append before close()."
            )
        names = checked_ids(ids)
        stored = checked_vectors(vectors, names, self._facts)
        table = row_table(names, columns or {}, self.row_schema if self._shards else None)
        index = self._index()
        known = index.find(names) >= 0
        if known.any():
            given = [name for name, is_known in zip(names, known, strict=True) if is_known]
            raise BabelclipError(
                f"{len(given)} of {len(names)} ids are already in {self.path}, first {given[:3]}. An id names one "
                "row: append only ids for which store.find(ids) is -1, or give new ones."
            )
        number = len(self._shards)
        layout.remove_unnamed_files(self.path, number)
        with atomic_path(layout.vectors_file(self.path, number)) as temporary, temporary.open("wb") as file:
            np.save(file, stored, allow_pickle=False)
        with atomic_path(layout.rows_file(self.path, number)) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        shards = [*self._shards, layout.describe_shard(self.path, number, len(names))]
        layout.write_manifest(self.path, self._facts, shards)
        if self._remote is not None:
            new = (layout.vectors_name(self.path, number), layout.rows_name(self.path, number))
            self._remote.send([*new, self.path / layout.MANIFEST])
        self._shards = shards
        self._starts = np.append(self._starts, self._starts[-1] + len(names))
        self._rows = None
        index.add([table["id"]])

    def gather(self, indices: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Returns rows `indices` (B,) as (B, D) float32, in the order asked for; only these rows are read from disk.

        Raises:
            BabelclipError: an index is not a whole number from 0 to N - 1.
        """
        asked = np.asarray(indices)
        if asked.ndim != 1 or (asked.size and not np.issubdtype(asked.dtype, np.integer)):
            raise BabelclipError(
                f"gather got indices of shape {asked.shape} and type {asked.dtype}. It takes whole numbers of shape "
                "(B,): for ids use store.positions(ids)."
            )
        # Ascending order turns random reads of a cold disk into one sweep.
        order = np.argsort(asked, kind="stable")
        rows = asked[order].astype(np.int64)
        if len(rows) and (rows[0] < 0 or rows[-1] >= len(self)):
            raise BabelclipError(
                f"gather got index {rows[0] if rows[0] < 0 else rows[-1]}, but {self.path} has {len(self)} rows, "
                "counted from 0: find rows with store.positions(ids)."
            )
        stored = np.empty((len(rows), self.dim), np.dtype(self.dtype).newbyteorder("<"))
        for number, part, places in layout.split_rows(rows, self._starts):
            if number not in self._maps:
                self._maps[number] = layout.map_vectors(self.path, self._facts, number, self._shards[number])
            # The places are inside: "clip" only spares the copy that the default makes in case they are not.
            np.take(self._maps[number], places, axis=0, out=stored[part], mode="clip")
        features = np.empty((len(rows), self.dim), np.float32)
        step = max(1, _NUMBERS_AT_ONCE // self.dim)
        for start in range(0, len(rows), step):
            features[order[start : start + step]] = layout.to_float32(stored[start : start + step])
        return features

    def ids_between(self, start: int, end: int) -> list[str]:
        """Returns the ids of the rows from `start` to before `end`, reading only the shards that hold them."""
        asked = np.arange(max(start, 0), min(end, len(self)))
        ids: list[str] = []
        for number, _, places in layout.split_rows(asked, self._starts):
            ids += layout.ids_of_shard(self.path, number)[int(places[0]) : int(places[-1]) + 1].to_pylist()
        return ids

    def find(self, ids: Sequence[str | int]) -> npt.NDArray[np.int64]:
        """Returns the rows (B,) int64 of `ids` (B,), -1 where the store lacks one; the first use reads all ids.

        A store open for reading keeps them in memory and answers fast. One that can be appended to keeps their hashes
        in a file, so that its memory does not grow, and reads that once for each call: ask for many ids at a time.
        """
        return self._index().find([str(name) for name in ids])

    def positions(self, ids: Sequence[str | int]) -> npt.NDArray[np.int64]:
        """Returns the rows (B,) int64 of `ids` (B,), for `gather`.

        Raises:
            BabelclipError: some ids are not in the store; names how many and the first few.
        """
        rows = self.find(ids)
        missing = np.flatnonzero(rows < 0)
        if len(missing):
            raise BabelclipError(
                f"{len(missing)} of {len(rows)} ids are not among the {len(self)} rows of {self.path}, first "
                f"{[ids[number] for number in missing[:3].tolist()]}. Every id must have a vector: embed these "
                "captions too, or drop those for which store.find(ids) is -1."
            )
        return rows

    def vectors(self) -> Iterator[npt.NDArray[np.floating[Any]]]:
        """Yields each shard (n, D) in the stored dtype as a read-only memory map, for one pass from front to back."""
        for number in range(len(self._shards)):
            yield layout.open_vectors(self.path, number)

    def blocks(
        self, start: int = 0, end: int | None = None
    ) -> Iterator[tuple[npt.NDArray[np.floating[Any]], pa.Table]]:
        """Yields vectors (n, D) in the stored dtype and their rows, `id` first, from row `start` to before `end`.

        For copying a store of any size: memory holds a block, some thousand rows. All tables have one schema,
        `row_schema`.
        """
        schema = self.row_schema
        left = (len(self) if end is None else min(end, len(self))) - start
        number = int(np.searchsorted(self._starts, start, side="right")) - 1
        while left > 0:
            if number == len(self._shards):
                raise BabelclipError(
                    f"{self.path} has {left} rows fewer than {layout.MANIFEST} says: a file of rows is damaged. "
                    "`babelclip store verify` names it; copy it again from where the store came from."
                )
            row = max(0, start - int(self._starts[number]))
            vectors = layout.open_vectors(self.path, number)
            file = layout.rows_file(self.path, number)
            for table in read_table(file, row):
                with naming(file):
                    part = table.slice(0, left).cast(schema)
                yield vectors[row : row + len(part)], part
                row += len(part)
                left -= len(part)
            number += 1

    def read(self) -> npt.NDArray[np.float32]:
        """Returns all vectors as (N, D) float32 in memory."""
        features = np.empty((len(self), self.dim), np.float32)
        for start, shard in zip(self._starts[:-1], self.vectors(), strict=True):
            features[start : start + len(shard)] = shard
        return features

    def check_space(self, space: str) -> None:
        """Does nothing where `space` is that of the store.

        Raises:
            SpaceMismatchError: the store belongs to another space; names both.
        """
        if space != self.space:
            raise SpaceMismatchError(self.space, space, f"store {self.path} and the model given")

    def verify(self) -> list[str]:
        """Returns what is damaged, one sentence a file, after reading every byte; [] when all is well.

        Looked at are sizes, headers and checksums, and where these are right, whether ids are distinct, vectors
        finite, and of length 1 where the store is `normalized`.
        """
        return verify_shards(self.path, self._facts, self._shards)

    def _index(self) -> IdIndex | IdFile:
        if self._lazy_index is None:
            # Not a method of this object: a store that is dropped must be gone at once, its lock with it.
            ids_of_shard = functools.partial(layout.ids_of_shard, self.path)
            self._lazy_index = IdIndex() if self._release is None else IdFile(self.path, ids_of_shard)
            self._lazy_index.add(map(ids_of_shard, range(len(self._shards))))
        return self._lazy_index

    def _hold(self, release: Callable[[], None], there: remote.RemoteStore | None) -> None:
        # A store that is dropped without close() must not keep the folder locked.
        self._release = weakref.finalize(self, remote.both(release, there))
        self._remote = there
