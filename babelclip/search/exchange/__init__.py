"""Collections and the layouts of others: `importing.py`, `exporting.py`, and what their columns become."""

from __future__ import annotations

from babelclip.search.exchange.exporting import export_collection as export_collection
from babelclip.search.exchange.importing import import_vectors as import_vectors

__all__ = ["export_collection", "import_vectors"]
