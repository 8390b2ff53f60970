"""`EmbeddingStore`: vectors for training and exchange on disk, appendable, resumable, checksummed.

`embedding_store.py` is the class, `layout.py` its files, manifest and lock, `checks.py` what may be appended, and
`id_index.py` the way from ids to rows, `id_file.py` the same for a writer, in memory that does not grow.
`verify.py`, `info.py`, `merge.py` and `exchange/` are the verbs of `babelclip store`; the last two copy in blocks
(`parquet.py`, `writer.py`) and note what they go out from (`origin.py`), so that they go on after a kill.
"""

from __future__ import annotations

from babelclip.store.embedding_store import EmbeddingStore as EmbeddingStore

__all__ = ["EmbeddingStore"]
