"""The Parquet files of a published data set: of equal size, each written once however often a run is stopped."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from babelclip.errors import BabelclipError
from babelclip.files import atomic_path, read_json, sha256, write_json
from babelclip.store import EmbeddingStore

# Rows that a reader takes at once: 12 MB of 768 float16.
_ROW_GROUP = 8192

Ints = npt.NDArray[np.int64]


class ParquetFiles:
    """Collects the rows of one folder into files; `notes` keeps what is known of those that are finished."""

    def __init__(
        self,
        folder: Path,
        notes: Path,
        rows: int,
        vectors: EmbeddingStore | None,
        published: list[dict[str, Any]] | None,
    ) -> None:
        """Begins, or begins again.

        Args:
            folder: where the files go.
            notes: where a note of each file goes.
            rows: rows of a file.
            vectors: what fills the column `embedding`; None: there is none.
            published: entries of a finished folder, to which the rows are only compared; None: files are written.
        """
        self._folder, self._notes = folder, notes
        self._rows = rows
        self._vectors = vectors
        self._published = published
        self._tables: list[pa.Table] = []
        self._places: list[Ints] = []
        self._entries: list[dict[str, Any]] = []
        # A kill while the files took their last names leaves some with it.
        for named in folder.glob("train-*-of-*.parquet") if published is None else ():
            os.replace(named, folder / f"{named.name.partition('-of-')[0]}.parquet")

    def add(self, table: pa.Table, places: Ints) -> int:
        """Takes rows and the places of their vectors in the store.

        Returns:
            How many rows were written, and not found already written.
        """
        self._tables.append(table)
        self._places.append(places)
        waiting = sum(part.num_rows for part in self._tables)
        if waiting < self._rows:
            return 0
        joined, at = pa.concat_tables(self._tables), np.concatenate(self._places)
        whole = waiting - waiting % self._rows
        self._tables, self._places = [joined.slice(whole)], [at[whole:]]
        return sum(
            self._write(joined.slice(start, self._rows), at[start : start + self._rows])
            for start in range(0, whole, self._rows)
        )

    def finish(self) -> dict[str, dict[str, Any]]:
        """Writes the rest; returns what the manifest says of each file, by its last name, which tells their number."""
        rest = pa.concat_tables(self._tables) if self._tables else None
        if rest is not None and rest.num_rows:
            self._write(rest, np.concatenate(self._places))
        count = len(self._entries)
        if self._published is not None and count != len(self._published):
            raise _other_rows(self._folder)
        named = {f"train-{number:05d}-of-{count:05d}.parquet": entry for number, entry in enumerate(self._entries)}
        if self._published is None:
            for number, name in enumerate(named):
                os.replace(self._file(number), self._folder / name)
        return named

    def _file(self, number: int) -> Path:
        return self._folder / f"train-{number:05d}.parquet"

    def _write(self, table: pa.Table, places: Ints) -> int:
        """Writes the next file unless it is there; returns the rows that were written."""
        number = len(self._entries)
        digest = _digest(table)
        found = self._found(number, digest)
        if found is not None:
            self._entries.append(found)
            return 0
        langs = Counter(table["lang"].to_pylist()) if "lang" in table.column_names else Counter()
        with atomic_path(self._file(number)) as temporary:
            self._write_file(temporary, table, places)
        entry = {
            "rows": table.num_rows,
            "bytes": self._file(number).stat().st_size,
            "sha256": sha256(self._file(number)),
            "digest": digest,
            "languages": dict(sorted(langs.items())),
        }
        write_json(self._notes / f"{number:05d}.json", entry)
        self._entries.append(entry)
        return int(table.num_rows)

    def _write_file(self, path: Path, table: pa.Table, places: Ints) -> None:
        schema = table.schema
        if self._vectors is not None:
            kind = pa.list_(pa.from_numpy_dtype(np.dtype(self._vectors.dtype)), self._vectors.dim)
            schema = schema.append(pa.field("embedding", kind))
        options = {
            # Vectors do not shrink, and to find their least and largest number costs as much as to write them.
            "compression": {name: "zstd" for name in table.column_names},
            "write_statistics": table.column_names,
            "use_dictionary": ["lang"] if "lang" in table.column_names else False,
        }
        with pq.ParquetWriter(path, schema, **options) as writer:
            for start in range(0, table.num_rows, _ROW_GROUP):
                part = table.slice(start, _ROW_GROUP)
                if self._vectors is not None:
                    vectors = _embeddings(self._vectors, places[start : start + _ROW_GROUP])
                    part = part.append_column(schema.field("embedding"), vectors)
                writer.write_table(part, row_group_size=_ROW_GROUP)

    def _found(self, number: int, digest: str) -> dict[str, Any] | None:
        """Returns the entry of a file that holds these rows already; None where it is to be written."""
        if self._published is not None:
            if number >= len(self._published) or self._published[number]["digest"] != digest:
                raise _other_rows(self._folder)
            return self._published[number]
        note = self._notes / f"{number:05d}.json"
        if not note.is_file() or not self._file(number).is_file():
            return None
        entry: dict[str, Any] = read_json(note)
        same = entry["digest"] == digest and self._file(number).stat().st_size == entry["bytes"]
        return entry if same else None


def vectors_in(file: pq.ParquetFile, dim: int, dtype: str) -> npt.NDArray[np.floating[Any]]:
    """Returns the column `embedding` of a file as (N, D), read in small pieces."""
    vectors = np.empty((file.metadata.num_rows, dim), dtype)
    start = 0
    for batch in file.iter_batches(_ROW_GROUP, columns=["embedding"]):
        flat = batch["embedding"].flatten().to_numpy(zero_copy_only=False)
        vectors[start : start + batch.num_rows] = flat.reshape(-1, dim)
        start += batch.num_rows
    return vectors


def _embeddings(store: EmbeddingStore, places: Ints) -> pa.FixedSizeListArray:
    flat = store.gather(places).astype(store.dtype).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), store.dim)


def _digest(table: pa.Table) -> str:
    """Returns the SHA-256 of all values of a table of strings."""
    digest = hashlib.sha256()
    for name in table.column_names:
        lengths = pc.fill_null(pc.binary_length(table[name]), -1)
        digest.update(lengths.combine_chunks().to_numpy(zero_copy_only=False).astype("<i8").tobytes())
        digest.update("".join(value for value in table[name].to_pylist() if value is not None).encode())
    return digest.hexdigest()


def _other_rows(folder: Path) -> BabelclipError:
    return BabelclipError(
        f"{folder.parent} is a published data set of other captions. A folder is published once: choose another, or "
        "remove this one first."
    )
