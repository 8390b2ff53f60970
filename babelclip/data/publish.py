"""Vectors and their captions as a folder fit for a data set hub, and back.

Entry points: `publish_store`, `import_published`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from babelclip.data.captions import Captions
from babelclip.store import EmbeddingStore

# Rows of a Parquet file: 100 MB of 768 float16.
SHARD_ROWS = 65536


@dataclasses.dataclass(frozen=True)
class Published:
    """What lies in a published folder.

    Attributes:
        folder: where.
        rows: rows with a vector.
        translations: rows without one, whose `source_id` names a row that has one.
        languages: number of rows by language, of both kinds.
        without_caption: vectors of the store that no caption has, which were left out.
        files: size in bytes by name relative to the folder.
    """

    folder: Path
    rows: int
    translations: int
    languages: dict[str, int]
    without_caption: int
    files: dict[str, int]


def publish_store(
    store: EmbeddingStore | Path | str,
    captions: Captions | str | Path | Iterable[Captions | str | Path] | None,
    folder: Path | str,
    *,
    licence: str,
    attribution: str | Sequence[str] = (),
    name: str = "",
    teacher_revision: str = "",
    about: str = "",
    rows: int = SHARD_ROWS,
    progress: bool = False,
) -> Published:
    """Writes the vectors of a store with their captions as Parquet files, a data card and checksums.

    A caption whose `id` has a vector becomes a row of `data/` with it. A caption whose `source_id` has one becomes a
    row of `translations/`, without, so that a vector is written once however many translations it has.

    Run again after an interruption, it goes on behind the last whole file, and the folder becomes the same as without.

    Args:
        store: the vectors, or their folder.
        captions: what the vectors are of, and translations of it: sources that `open_captions` reads (a file, the
            folder that `translate` wrote), or captions in memory, or several of either. None: ids and vectors alone.
        folder: a new or empty folder.
        licence: of the captions and vectors together, for example `cc-by-4.0`; there is no default on purpose.
        attribution: whom the licence asks to name, one line each.
        name: what the card calls the data set; the name of the folder if empty.
        teacher_revision: commit of the weights that made the vectors.
        about: a paragraph for the card, in Markdown: where the captions come from, how they were translated.
        rows: rows of a file.
        progress: show a bar on stderr.

    Raises:
        BabelclipError: the licence is missing, the folder holds other things, or captions have no vector.
    """
    raise NotImplementedError


def import_published(folder: Path | str, path: Path | str, *, progress: bool = False) -> EmbeddingStore:
    """Returns the store at `path` with the ids and the vectors, bit for bit, of a folder that `publish_store` wrote.

    Run again after an interruption, it goes on behind the last whole shard.

    Raises:
        BabelclipError: the folder is of another kind or damaged, or the store at `path` holds other vectors.
    """
    raise NotImplementedError
