"""`EmbeddingStore`: vectors for training and exchange on disk, appendable, resumable, checksummed.

`embedding_store.py` is the class, `layout.py` its files, manifest and lock, `checks.py` what may be appended, and
`id_index.py` the way from ids to rows, `id_file.py` the same for a writer, in memory that does not grow.
"""

from __future__ import annotations

from babelclip.store.embedding_store import EmbeddingStore as EmbeddingStore

__all__ = ["EmbeddingStore"]
