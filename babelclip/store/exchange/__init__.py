"""Vectors in the layouts of others, into an `EmbeddingStore` and out of it.

`importing.py` and `exporting.py` are the two ways; `clip_retrieval.py`, `dataset_rows.py` and `numpy_file.py` are the
layouts, each with `open_...` to read and `write_...` to write one part; `foreign.py` is what they share, `ids.py` which
ids their rows get. docs/formats.md has the layouts as tables.
"""

from __future__ import annotations

from babelclip.store.exchange.exporting import export_store as export_store
from babelclip.store.exchange.importing import import_store as import_store

__all__ = ["export_store", "import_store"]
