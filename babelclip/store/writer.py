"""`ShardWriter`: blocks of any size go in, shards of one size come out, so that equal rows give equal files."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from babelclip.store.embedding_store import EmbeddingStore
from babelclip.store.layout import SHARD_ROWS


class ShardWriter:
    """Collects rows and appends them to a store, `SHARD_ROWS` at a time.

    Attributes:
        ids: those of the rows that wait to be appended.
        place: where in `vectors` the row of an id waits.
        vectors: (SHARD_ROWS, D) in the dtype they come in; the first `len(ids)` rows are in use.
    """

    def __init__(self, store: EmbeddingStore, dtype: str) -> None:
        """Takes a store that is open for appending, and the dtype of the vectors to come."""
        self._store = store
        self._tables: list[pa.Table] = []
        self.ids: list[str] = []
        self.place: dict[str, int] = {}
        self.vectors = np.empty((SHARD_ROWS, store.dim), dtype)

    def add(self, vectors: npt.NDArray[np.floating[Any]], table: pa.Table) -> None:
        """Takes vectors (n, D) and their rows, all tables of one schema with a column `id`.

        Raises:
            BabelclipError: as `EmbeddingStore.append`.
        """
        done = 0
        while done < len(table):
            start = len(self.ids)
            part = table.slice(done, SHARD_ROWS - start)
            end = start + len(part)
            self.vectors[start:end] = vectors[done : done + len(part)]
            names = part["id"].to_pylist()
            self.ids += names
            self.place.update(zip(names, range(start, end), strict=True))
            self._tables.append(part.drop_columns(["id"]))
            done += len(part)
            if end == SHARD_ROWS:
                self.flush()

    def flush(self) -> None:
        """Appends what waits as one shard.

        Raises:
            BabelclipError: as `EmbeddingStore.append`.
        """
        if self.ids:
            table = pa.concat_tables(self._tables)
            columns = {name: table[name].combine_chunks() for name in table.column_names}
            self._store.append(self.ids, self.vectors[: len(self.ids)], columns)
        self.ids, self.place, self._tables = [], {}, []
