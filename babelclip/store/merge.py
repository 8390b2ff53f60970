"""Several stores of one kind become one: streaming, in memory that does not grow, and resumable after a kill.

Rows keep their order, store by store. How far a killed merge came is seen from the last id that it wrote: a kept row
is the first of its id in all sources, so the first place of that id is where the next run goes on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from babelclip.errors import BabelclipError, SpaceMismatchError, did_you_mean
from babelclip.progress import progress_bar
from babelclip.store import layout, origin
from babelclip.store.embedding_store import EmbeddingStore
from babelclip.store.layout import StoreFacts
from babelclip.store.writer import ShardWriter

ON_DUPLICATE = ("error", "first", "same")


def merge_stores(
    sources: Sequence[Path | str],
    out: Path | str,
    *,
    on_duplicate: str = "error",
    model: str = "",
    progress: bool = False,
) -> EmbeddingStore:
    """Returns the store at `out` with the rows of all `sources`; a column that one of them lacks is null there.

    Args:
        sources: folders of stores of one space, dimension, dtype, kind and target.
        out: a new folder, or that of the same merge that was stopped.
        on_duplicate: what happens where an id is in two stores: "error"; "first" keeps the first row; "same" keeps it
            too, but is an error where the vectors differ.
        model: name of the model in the new store, needed where the sources name different ones.
        progress: show a bar on stderr.

    Raises:
        SpaceMismatchError: the stores are of different spaces.
        BabelclipError: they differ in another fact or in the type of a column, or share ids; `out` holds other things.
    """
    if on_duplicate not in ON_DUPLICATE:
        raise BabelclipError(f"on_duplicate={on_duplicate!r} is not known. {did_you_mean(on_duplicate, ON_DUPLICATE)}")
    out = Path(out)
    stores = _opened([Path(source) for source in sources], out)
    facts = _common_facts(stores, model)
    schema = _common_schema(stores)
    work = {"work": "merge", "sources": [origin.store_fingerprint(store.path) for store in stores]}
    with EmbeddingStore.open_or_create(out, **dataclasses.asdict(facts)) as merged:
        if not origin.begin(out, {**work, "on_duplicate": on_duplicate}, rows=len(merged)):
            number, start = _where_to_go_on(stores, merged)
            total = sum(map(len, stores))
            with progress_bar("Merging", total, shown=progress, unit="rows") as advance:
                advance(sum(map(len, stores[:number])) + start, 0)
                writer = ShardWriter(merged, facts.dtype)
                for store in stores[number:]:
                    for vectors, table in store.blocks(start):
                        kept = _new_rows(merged, writer, store, table["id"].to_pylist(), vectors, on_duplicate)
                        writer.add(vectors[kept], _widened(table.take(pa.array(kept)), schema))
                        advance(len(table))
                    start = 0
                writer.flush()
            origin.end(out, {**work, "on_duplicate": on_duplicate})
    return EmbeddingStore.open(out)


def _opened(sources: Sequence[Path], out: Path) -> list[EmbeddingStore]:
    places = [source.resolve() for source in sources]
    if not sources or len(set(places)) < len(places) or out.resolve() in places:
        raise BabelclipError(
            f"merge got the stores {', '.join(map(str, sources)) or '(none)'} and the folder {out} for the result. It "
            "takes distinct stores and a folder that is none of them: name each store once, and another folder."
        )
    return [EmbeddingStore.open(source) for source in sources]


def _common_facts(stores: Sequence[EmbeddingStore], model: str) -> StoreFacts:
    first = stores[0]
    for store in stores[1:]:
        if store.space != first.space:
            raise SpaceMismatchError(first.space, store.space, f"stores {first.path} and {store.path}")
        mine, other = dataclasses.asdict(first.facts), dataclasses.asdict(store.facts)
        if model:
            mine["model"] = other["model"] = model
        differing = [f"{name} is {mine[name]!r} and {other[name]!r}" for name in mine if mine[name] != other[name]]
        if differing:
            raise BabelclipError(
                f"{first.path} and {store.path} cannot be merged: {'; '.join(differing)}. All vectors of a store are "
                "of one kind: "
                + (
                    "name the model of the result with model= (--model) if both made these vectors."
                    if differing[0].startswith("model") and len(differing) == 1
                    else "embed one of them again as the other was."
                )
            )
    return dataclasses.replace(first.facts, model=model or first.model)


def _common_schema(stores: Sequence[EmbeddingStore]) -> pa.Schema:
    """Returns the columns of all stores, in the order in which they are met."""
    fields: dict[str, pa.Field] = {}
    owner: dict[str, EmbeddingStore] = {}
    for store in stores:
        for field in store.row_schema:
            known = fields.get(field.name)
            if known is None or known.type == pa.null():
                fields[field.name], owner[field.name] = pa.field(field.name, field.type), store
            elif field.type not in (known.type, pa.null()):
                raise BabelclipError(
                    f"column {field.name!r} holds {known.type} in {owner[field.name].path} and {field.type} in "
                    f"{store.path}. A column has one type: write one of the stores again with the other's type."
                )
    return pa.schema(list(fields.values()))


def _widened(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Returns `table` with all columns of `schema`, null where it lacks one."""
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _where_to_go_on(stores: Sequence[EmbeddingStore], merged: EmbeddingStore) -> tuple[int, int]:
    """Returns the number of a source and its first row that `merged` was not made from yet."""
    if not len(merged):
        return 0, 0
    last = merged.ids_between(len(merged) - 1, len(merged))[0]
    for number, store in enumerate(stores):
        start = 0
        for shard, entry in enumerate(store.shards):
            row = pc.index(layout.ids_of_shard(store.path, shard), last).as_py()
            if row >= 0:
                return number, start + row + 1
            start += entry.count
    raise BabelclipError(
        f"{merged.path} ends with id {last!r}, which none of the stores to merge has: it was changed since the merge "
        "was stopped. Choose another folder for the result."
    )


def _new_rows(
    merged: EmbeddingStore,
    writer: ShardWriter,
    store: EmbeddingStore,
    ids: list[str],
    vectors: npt.NDArray[np.floating[Any]],
    on_duplicate: str,
) -> npt.NDArray[np.int64]:
    """Returns which rows of a block are to be kept: those whose ids neither `merged` nor `writer` has.

    Raises:
        BabelclipError: there are others, and `on_duplicate` forbids them.
    """
    written = merged.find(ids)
    waiting = np.fromiter((writer.place.get(name, -1) for name in ids), np.int64, len(ids))
    again = np.flatnonzero((written >= 0) | (waiting >= 0))
    if on_duplicate == "same":
        first = writer.vectors[waiting[again]].astype(np.float32)
        on_disk = written[again] >= 0
        first[on_disk] = merged.gather(written[again][on_disk])
        refused = again[(first != vectors[again]).any(axis=1)]
    else:
        refused = again if on_duplicate == "error" else again[:0]
    if len(refused):
        told = "have another vector there" if on_duplicate == "same" else "are in an earlier store too"
        raise BabelclipError(
            f"{len(refused)} of {len(ids)} ids of {store.path} {told}, first {[ids[row] for row in refused[:3]]}. An "
            "id names one row: give the rows other ids, or keep the first of each with on_duplicate='first' "
            "(--on-duplicate first) and another folder for the result."
        )
    return np.setdiff1d(np.arange(len(ids)), again, assume_unique=True)
