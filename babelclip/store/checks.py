"""What `EmbeddingStore.append` takes: ids, vectors and columns are checked here before a byte is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from babelclip.errors import BabelclipError
from babelclip.store.layout import StoreFacts

# Rounding to float16 moves the length of a unit vector by less than 0.001; raw projections are far from 1.
UNIT_LENGTH_TOLERANCE = 0.01


def checked_ids(ids: Sequence[str | int]) -> list[str]:
    """Returns `ids` as strings.

    Raises:
        BabelclipError: there are none, or one is empty, of another type, or there twice.
    """
    wrong = [
        name for name in ids if isinstance(name, bool) or not isinstance(name, (str, int, np.integer)) or name == ""
    ]
    if wrong:
        raise BabelclipError(
            f"{len(wrong)} of {len(ids)} ids cannot be used, first {wrong[:3]!r}. An id is a non-empty string or a "
            "whole number: give each row one."
        )
    names = [str(name) for name in ids]
    if not names:
        raise BabelclipError("append got 0 rows, but a shard holds at least one: skip empty batches.")
    if len(set(names)) < len(names):
        twice = repeated(names, set())
        raise BabelclipError(
            f"{len(twice)} of {len(names)} ids occur twice, first {twice[:3]}. An id names one row: make them distinct "
            "(1 and '1' are the same id)."
        )
    return names


def repeated(names: Iterable[str], seen: set[str]) -> list[str]:
    """Returns those of `names` that are in `seen` or came before, and adds all of them to `seen`."""
    twice = []
    for name in names:
        if name in seen:
            twice.append(name)
        seen.add(name)
    return twice


def checked_vectors(vectors: npt.ArrayLike, names: list[str], facts: StoreFacts) -> npt.NDArray[np.floating[Any]]:
    """Returns `vectors` (N, D) in the dtype of the store.

    Raises:
        BabelclipError: their shape, type, range or length does not fit what the store says.
    """
    given = np.asarray(vectors)
    if given.shape != (len(names), facts.dim) or not np.issubdtype(given.dtype, np.floating):
        raise BabelclipError(
            f"append got vectors of shape {given.shape} and type {given.dtype} for {len(names)} ids. This store takes "
            f"floats of shape ({len(names)}, {facts.dim}): use the output of clip.encode_text or clip.encode_image."
        )
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(given, dtype=np.dtype(facts.dtype).newbyteorder("<"))
    bad = np.flatnonzero(~np.isfinite(stored).all(axis=1))
    if len(bad):
        first = names[int(bad[0])]
        if np.isfinite(given).all():
            raise BabelclipError(
                f"{len(bad)} of {len(names)} vectors do not fit into {facts.dtype}, first id {first!r} (largest value "
                f"{np.abs(given).max():.6g}, allowed {np.finfo(facts.dtype).max:.6g}): create the store with "
                "dtype='float32'."
            )
        raise BabelclipError(
            f"{len(bad)} of {len(names)} vectors contain NaN or infinity, first id {first!r}. A store takes finite "
            "numbers: look at what the model was given, or encode with dtype='float32'."
        )
    if facts.normalized:
        lengths = np.linalg.norm(stored.astype(np.float32), axis=1)
        off = np.flatnonzero(np.abs(lengths - 1) > UNIT_LENGTH_TOLERANCE)
        if len(off):
            raise BabelclipError(
                f"{len(off)} of {len(names)} vectors do not have length 1, first id {names[int(off[0])]!r} with "
                f"{lengths[off[0]]:.4g}, but the store is marked normalized: encode with normalize=True, or create "
                "the store with normalized=False."
            )
    return stored


def row_table(names: list[str], columns: Mapping[str, Sequence[Any] | pa.Array], known: pa.Schema | None) -> pa.Table:
    """Returns the rows of a new shard, `id` first; a column keeps the type that `known`, the last shard, gives it.

    A column that comes as an Arrow array brings its own type where `known` has none.

    Raises:
        BabelclipError: columns lack, are too many, too short, or hold values of another type.
    """
    expected = [name for name in known.names if name != "id"] if known is not None else list(columns)
    if set(columns) != set(expected) or "id" in columns:
        raise BabelclipError(
            f"append got the columns {sorted(columns)}, and this store takes {sorted(set(expected) - {'id'})}; `id` is "
            "filled from ids. Every shard has the same columns: pass exactly these, with None where a value lacks."
        )
    arrays = {}
    for name, values in {"id": names, **{name: columns[name] for name in expected}}.items():
        if len(values) != len(names):
            raise BabelclipError(
                f"column {name!r} has {len(values)} values for {len(names)} ids: pass one value per id, None where it "
                "lacks."
            )
        kind = pa.string() if name == "id" else known.field(name).type if known is not None else None
        try:
            arrays[name] = _array(values, None if kind == pa.null() else kind)
        except (pa.ArrowException, UnicodeError, OverflowError) as error:
            raise BabelclipError(
                f"column {name!r} cannot be stored as {kind or 'one type'} ({error}). All values of a column have one "
                "type, in every shard: convert them first."
            ) from error
    return pa.table(arrays)


def _array(values: Sequence[Any] | pa.Array, kind: pa.DataType | None) -> pa.Array:
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values if kind is None or values.type == kind else values.cast(kind)
    return pa.array(list(values), type=kind)
