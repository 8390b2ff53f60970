"""Whether every byte of an `EmbeddingStore` is what was written, and what was written is what a store may hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from babelclip.errors import BabelclipError
from babelclip.files import sha256
from babelclip.progress import progress_bar
from babelclip.storage import shadow
from babelclip.store import layout
from babelclip.store.checks import UNIT_LENGTH_TOLERANCE, repeated
from babelclip.store.layout import Shard, StoreFacts
from babelclip.store.parquet import count_rows, naming, read_table

# Vectors looked at together: 12 MB of 768 float32.
_AT_ONCE = 4096


def verify_store(path: Path | str, *, progress: bool = False) -> list[str]:
    """Returns what is damaged in the store at `path`, also where it is too damaged to open; [] when all is well.

    Every byte is read, in memory of 8 bytes a row. Each sentence begins with the damaged file.

    Raises:
        BabelclipError: there is no store, or its manifest is damaged.
    """
    path = shadow(path)
    facts, shards = layout.read_manifest(path)
    return verify_shards(path, facts, shards, progress=progress)


def verify_shards(path: Path, facts: StoreFacts, shards: Sequence[Shard], *, progress: bool = False) -> list[str]:
    """Returns what is damaged of the given shards, one sentence a damaged file (see `verify_store`)."""
    problems: list[str] = []
    hashes: dict[int, npt.NDArray[np.int64]] = {}  # of the ids of each shard that can be read
    with progress_bar("Verifying", sum(shard.count for shard in shards), shown=progress, unit="rows") as advance:
        for number, shard in enumerate(shards):
            problems += _shard_problems(path, facts, number, shard, hashes)
            advance(shard.count)
    return problems + _repeated_ids(path, hashes)


def _shard_problems(
    path: Path, facts: StoreFacts, number: int, shard: Shard, hashes: dict[int, npt.NDArray[np.int64]]
) -> list[str]:
    """Returns what is damaged of a shard, and adds the hashes of its ids to `hashes` where these can be read."""
    problems = layout.cheap_problems(path, facts, number, shard)
    vectors, rows = layout.vectors_name(path, number), layout.rows_name(path, number)
    for file, expected in ((vectors, shard.vectors_sha256), (rows, shard.rows_sha256)):
        if any(problem.startswith(f"{file} ") for problem in problems):
            continue
        try:
            layout.fetched(path, number, file)
            if sha256(file) != expected:
                problems.append(f"{file} was changed: its SHA-256 is not that of {layout.MANIFEST}")
            elif file == vectors:
                problems += _value_problems(file, facts)
            else:
                hashes[number] = _id_hashes(file, shard.count)
        except BabelclipError as error:
            problems.append(str(error))
        except OSError as error:  # a sector that the disk cannot read
            problems.append(f"{file} cannot be read ({error.strerror})")
    return problems


def _value_problems(file: Path, facts: StoreFacts) -> list[str]:
    vectors = np.load(file, mmap_mode="r")
    not_finite, off = 0, 0
    for start in range(0, len(vectors), _AT_ONCE):
        block = np.asarray(vectors[start : start + _AT_ONCE], np.float32)
        finite = np.isfinite(block).all(axis=1)
        not_finite += int(len(block) - np.count_nonzero(finite))
        if facts.normalized:
            lengths = np.linalg.norm(block[finite], axis=1)
            off += int(np.count_nonzero(np.abs(lengths - 1) > UNIT_LENGTH_TOLERANCE))
    said = [f"{not_finite} vectors with NaN or infinity"] if not_finite else []
    said += [f"{off} vectors whose length is not 1 although the store is normalized"] if off else []
    return [f"{file} holds {' and '.join(said)}"] if said else []


def _id_hashes(file: Path, count: int) -> npt.NDArray[np.int64]:
    """Returns the hashes (n,) of the ids in a file of rows.

    Raises:
        BabelclipError: it cannot be read, has no ids, or not as many as the manifest says.
    """
    with naming(file):
        found = count_rows(file)
        parts = [table["id"].to_pylist() for table in read_table(file, columns=["id"]) if "id" in table.column_names]
    ids = [name for part in parts for name in part]
    if found != count or len(ids) != count or not all(isinstance(name, str) for name in ids):
        raise BabelclipError(f"{file} has {len(ids)} ids in {found} rows instead of {count}")
    return np.fromiter(map(hash, ids), np.int64, len(ids))


def _repeated_ids(path: Path, hashes: dict[int, npt.NDArray[np.int64]]) -> list[str]:
    """Returns a sentence for each file of rows that holds an id of an earlier row."""
    joined = np.concatenate([*hashes.values(), np.empty(0, np.int64)])
    joined.sort()
    suspected = joined[1:][joined[1:] == joined[:-1]]
    if not len(suspected):
        return []
    problems = []
    seen: set[str] = set()
    for number, found in hashes.items():
        places = np.flatnonzero(np.isin(found, suspected))
        if not len(places):
            continue
        # Equal hashes may be of different ids: the ids decide.
        ids = layout.ids_of_shard(path, number).take(pa.array(places)).to_pylist()
        twice = repeated(ids, seen)
        if twice:
            problems.append(
                f"{layout.rows_file(path, number)} holds {len(twice)} ids that an earlier row has, first {twice[:3]}"
            )
    return problems
