"""What an `EmbeddingStore` holds, without reading its vectors."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from babelclip.store import layout, origin
from babelclip.store.embedding_store import EmbeddingStore
from babelclip.store.parquet import read_table


def describe(path: Path | str) -> dict[str, Any]:
    """Returns the facts of a store as JSON: those of `StoreFacts`, rows, shards, bytes, columns, rows per language.

    `languages` is there where the rows have a column `lang`, most rows first; `unfinished` tells a merge or an import
    that was stopped.

    Raises:
        BabelclipError: there is no store, or it is damaged.
    """
    store = EmbeddingStore.open(path)
    facts: dict[str, Any] = {
        **dataclasses.asdict(store.facts),
        "rows": len(store),
        "shards": len(store.shards),
        "bytes": sum(shard.vectors_bytes + shard.rows_bytes for shard in store.shards),
        "columns": {field.name: str(field.type) for field in store.row_schema},
        "unfinished": origin.unfinished(store.path),
    }
    if "lang" in store.row_schema.names:
        facts["languages"] = _languages(store)
    return facts


def _languages(store: EmbeddingStore) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for number in range(len(store.shards)):
        for table in read_table(layout.rows_file(store.path, number), columns=["lang"]):
            for entry in pc.value_counts(table["lang"]).to_pylist():
                counts[entry["values"] or ""] += entry["counts"]
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
