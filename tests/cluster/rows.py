"""The rows of a collection, as one table."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from babelclip.search.collection import open_collection


def all_rows(url: Path | str) -> pa.Table:
    """Every row in the order of the table, with its vector."""
    collection = open_collection(url)
    parts = list(collection.scan(columns=list(collection.columns), with_vectors=True))
    return pa.Table.from_batches(parts).combine_chunks()
