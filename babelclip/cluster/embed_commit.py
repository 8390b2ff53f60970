"""Fragments of an embed job into its store: shard files are moved in as they are, and the manifest then names them.

A fragment has `rows.parquet` as the store wants it, and `vectors.npy` with the vectors of all rows whose text no
earlier shard has; mostly that is all of them, and then nothing is computed here. What the commit is about to do is
noted before the manifest changes, so that a commit that was killed is known to be made or not made.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from babelclip import storage
from babelclip.cluster.embed_folder import JobFolder
from babelclip.cluster.job import Ledger, Shard
from babelclip.errors import BabelclipError
from babelclip.files import atomic_path, sha256, sync
from babelclip.store import layout, remote
from babelclip.store.checks import checked_vectors
from babelclip.store.layout import StoreFacts

VECTORS, ROWS = "vectors.npy", "rows.parquet"


def write_fragment(room: Path, ids: list[str], vectors: npt.NDArray[np.float32], table: pa.Table, facts: Any) -> None:
    """Writes the two files of a fragment.

    Args:
        room: where.
        ids: of the vectors.
        vectors: (M, D) float32, of all N rows or of those that need no earlier shard.
        table: the N rows.
        facts: `StoreFacts` as a dictionary.

    Raises:
        BabelclipError: a vector is not finite, or not of the length that the store wants.
    """
    known = StoreFacts(**facts)
    stored = checked_vectors(vectors.reshape(len(ids), known.dim), ids, known)
    with (room / VECTORS).open("wb") as file:
        np.save(file, stored, allow_pickle=False)
    pq.write_table(table, room / ROWS, compression="zstd")


def shards_of(out: str) -> list[layout.Shard]:
    """Returns what the manifest of the store names; [] where there is none."""
    url = storage.url_of(out)
    place = Path(out) if url is None else storage.shadow(url) if storage.exists(url) else None
    return layout.read_manifest(place)[1] if place is not None and (place / layout.MANIFEST).is_file() else []


def committed(there: int, out: str, folder: JobFolder, base: int) -> int:
    """Returns how many shards of the plan are in the store.

    Args:
        there: shards of the store.
        out: the store.
        folder: of the job.
        base: shards that the store had before the job.

    Raises:
        BabelclipError: the store has shards of another writer.
    """
    note = folder.committed() or {"before": [0, base], "after": [0, base]}
    for state in ("after", "before"):
        done, shards = note[state]
        if shards == there:
            return int(done)
    raise BabelclipError(
        f"{out} has {there} shards, and the job in {folder.path} left it with {note['before'][1]} or "
        f"{note['after'][1]}: another command has written to it. A job's plan holds for the store that it found: "
        f"remove {folder.path}, and the same command makes a new plan for what still lacks."
    )


def commit(out: str, folder: JobFolder, ledger: Ledger, shards: Sequence[Shard], job: dict[str, Any]) -> None:
    """Puts the next shards of the plan, all of which are done, into the store, with one change of its manifest.

    Raises:
        DamagedFragmentError: a fragment is not as it was written; nothing of this group is committed.
        BabelclipError: another process writes to the store.
    """
    place, sender = remote.begin(out)
    release = remote.both(lambda: None, sender)
    try:
        release = remote.both(layout.lock_folder(place), sender)
        facts, there = layout.read_manifest(place)
        before = committed(len(there), out, folder, job["base"][0])
        layout.remove_unnamed_files(place, len(there))
        new = list(there)
        for name in ("vectors", "rows"):  # an address has no empty folders
            (place / name).mkdir(exist_ok=True)
        for shard in shards:
            with ledger.open(shard) as (fragment, room):
                if fragment.facts["rows"]:
                    _take_in(place, facts, new, folder, shard, room, fragment.files)
        for name in ("vectors", "rows"):
            sync(place / name)
        folder.note_commit({"before": [before, len(there)], "after": [shards[-1].number + 1, len(new)]})
        layout.write_manifest(place, facts, new)
        if sender is not None:
            numbers = range(len(there), len(new))
            files = [name(place, number) for number in numbers for name in (layout.vectors_name, layout.rows_name)]
            sender.send([*files, place / layout.MANIFEST])
        for shard in shards:
            ledger.drop_files(shard)
    finally:
        release()


def _take_in(
    out: Path, facts: StoreFacts, shards: list[layout.Shard], folder: JobFolder, shard: Shard, place: Path, files: Any
) -> None:
    """Adds the files of a fragment to the store as its next shard, and to `shards` what the manifest says of it."""
    number = len(shards)
    vectors, rows = layout.vectors_name(out, number), layout.rows_name(out, number)
    _move_in(place / ROWS, rows)
    count = pq.read_metadata(rows).num_rows
    made = np.load(place / VECTORS, mmap_mode="r")
    if len(made) == count:
        _move_in(place / VECTORS, vectors)
        size, digest = files[VECTORS]["bytes"], files[VECTORS]["sha256"]
    else:
        first = folder.read_shard(shard.number, ["first"])["first"].to_numpy()
        whole = _with_earlier(out, facts, shards, first, made)
        with atomic_path(vectors) as temporary, temporary.open("wb") as file:
            np.save(file, whole, allow_pickle=False)
        size, digest = vectors.stat().st_size, sha256(vectors)
    shards.append(layout.Shard(count, size, digest, files[ROWS]["bytes"], files[ROWS]["sha256"]))


def _with_earlier(
    out: Path, facts: StoreFacts, shards: list[layout.Shard], first: npt.NDArray[np.int64], made: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Returns the vectors (N, D) of a shard in the stored dtype; those of texts of earlier shards are read from there.

    Args:
        out: the store.
        facts: of it.
        shards: those before this one.
        first: (N,) the row that has each text first.
        made: (M, D) the vectors of the rows whose text no earlier shard has.
    """
    starts = np.cumsum([0, *(shard.count for shard in shards)], dtype=np.int64)
    earlier = first < starts[-1]
    whole = np.empty((len(first), facts.dim), np.dtype(facts.dtype).newbyteorder("<"))
    whole[~earlier] = made
    asked, places_of = np.unique(first[earlier], return_inverse=True)
    old = np.empty((len(asked), facts.dim), whole.dtype)
    for number, part, places in layout.split_rows(asked, starts):
        old[part] = layout.map_vectors(out, facts, number, shards[number])[places]
    whole[earlier] = old[places_of]
    return whole


def _move_in(file: Path, target: Path) -> None:
    """Gives a file a second name in the store, or copies it where it lies on another disk; the first one stays."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    try:
        os.link(file, temporary)
    except OSError:
        shutil.copyfile(file, temporary)
        sync(temporary)
    os.replace(temporary, target)
