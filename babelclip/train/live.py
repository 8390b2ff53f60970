"""Targets without a store: the teacher encodes the source texts of the captions as the run goes.

`LiveTargets` has the face of an `EmbeddingStore` that training needs: ids to positions, positions to raw vectors. What
a position stands for is a source text. Nothing is kept here: who asks for the same vectors again computes them again,
so training asks for those of a window of rows at once (`mix_batches.py`), or of all captions where they fit in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from babelclip.data.captions import Captions
from babelclip.data.embed_targets import target_dim, text_vectors
from babelclip.errors import BabelclipError, SpaceMismatchError
from babelclip.files import atomic_path
from babelclip.models.clip import Clip
from babelclip.store.id_index import IdIndex
from babelclip.train.texts import langs_of

_TEXTS = "sources.arrow"
_SCHEMA = pa.schema([("id", pa.large_string()), ("text", pa.large_string()), ("lang", pa.large_string())])


class Targets(Protocol):
    """Where targets come from: an `EmbeddingStore`, or `LiveTargets`."""

    space: str
    dim: int
    target: str

    def __len__(self) -> int:
        """Returns how many vectors there are."""

    def find(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Returns the positions (B,) of ids, -1 where there is none."""

    def positions(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Returns the positions (B,) of ids; raises BabelclipError where there is none."""

    def gather(self, indices: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Returns raw vectors (B, D) float32."""

    def check_space(self, space: str) -> None:
        """Raises SpaceMismatchError unless the vectors are of this space."""


class LiveTargets:
    """The teacher's vectors of source texts, computed when they are asked for; not normalised.

    Attributes:
        space, dim, target: as of an `EmbeddingStore`.
    """

    def __init__(
        self, teacher: Clip, sources: SourceTexts, *, target: str = "projected", budget: int | None = None
    ) -> None:
        """Takes a teacher with its text tower and the texts that it reads.

        Args:
            teacher: is left as it is; where it lies, it computes.
            sources: texts by id.
            target: `projected` or `pooled` (see `babelclip.data.embed_targets`).
            budget: most tokens of a padded batch; None as in `TextEncoder.encode`.

        Raises:
            BabelclipError: the teacher has no text tower.
        """
        if teacher.text is None:
            raise BabelclipError(
                f"{teacher.name or 'The teacher'} was loaded without its text tower, which makes the targets. "
                'Load it with towers="both" or "text".'
            )
        self._tower, self._sources, self._budget = teacher.text, sources, budget
        self.space, self.target, self.dim = teacher.space, target, target_dim(teacher.text, target)

    def __len__(self) -> int:
        return len(self._sources)

    def find(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Returns the positions (B,) of source ids, -1 where no source text has the id."""
        return self._sources.find(ids)

    def positions(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Returns the positions (B,) of source ids.

        Raises:
            BabelclipError: a source text lacks; names how many and the first few.
        """
        found = self.find(ids)
        lacking = [ids[place] for place in np.flatnonzero(found < 0).tolist()]
        if lacking:
            raise BabelclipError(
                f"{len(lacking)} of {len(ids)} captions have no source text for the teacher to read, first "
                f"{lacking[:3]}. It reads the caption that source_id names: name the file that holds those captions "
                "in teacher.sources."
            )
        return found

    def gather(self, indices: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Returns the raw vectors (B, D) float32 of source texts; each distinct one is encoded once a call."""
        distinct, places = np.unique(np.asarray(indices, np.int64), return_inverse=True)
        if not len(distinct):
            return np.empty((0, self.dim), np.float32)
        texts, langs = self._sources.take(distinct)
        lang = langs_of(self._tower, langs)
        vectors = text_vectors(self._tower, texts, target=self.target, lang=lang, token_budget=self._budget)
        return np.asarray(vectors[places], np.float32)

    def check_space(self, space: str) -> None:
        """Raises SpaceMismatchError unless the teacher's space is `space`."""
        if space != self.space:
            raise SpaceMismatchError(given=self.space, expected=space, what="the live teacher and the recipe")


class SourceTexts:
    """Texts by id, in memory or mapped from a file; of the ids, memory holds 16 bytes each."""

    def __init__(self, table: pa.Table) -> None:
        """Takes columns `id`, `text` and `lang`."""
        self._table = table
        self._index = IdIndex()
        self._index.add([table.column("id")])

    @classmethod
    def from_parts(cls, parts: Iterable[Captions], folder: Path | None = None) -> SourceTexts:
        """Returns the texts of captions; the first text of an id counts.

        Args:
            parts: captions, read once.
            folder: where they are laid out so that they may be more than memory holds; None keeps them there.
        """
        tables = (_columns(part) for part in parts)
        if folder is None:
            return cls(pa.concat_tables([_SCHEMA.empty_table(), *tables]))
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / _TEXTS) as temporary, pa.ipc.new_file(str(temporary), _SCHEMA) as file:
            for table in tables:
                file.write_table(table)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> SourceTexts:
        """Returns the texts that `from_parts` has laid out."""
        with pa.memory_map(str(folder / _TEXTS)) as mapped:
            return cls(pa.ipc.open_file(mapped).read_all())

    @staticmethod
    def is_at(folder: Path) -> bool:
        """Returns whether `from_parts` has laid texts out in a folder."""
        return (folder / _TEXTS).is_file()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def find(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Returns the positions (B,) of ids, -1 where there is none."""
        return self._index.find(list(ids))

    def take(self, positions: npt.NDArray[np.int64]) -> tuple[list[str], list[str]]:
        """Returns texts and languages at positions (B,)."""
        rows: Any = self._table.select(["text", "lang"]).take(pa.array(positions))
        return rows.column("text").to_pylist(), rows.column("lang").to_pylist()


class KeptTargets:
    """Some vectors of other targets, computed once and kept in memory under their own positions."""

    def __init__(self, targets: Targets, positions: npt.NDArray[np.int64]) -> None:
        """Takes the positions (B,) that will be asked for."""
        self._distinct = np.unique(positions)
        self._vectors = targets.gather(self._distinct)

    def gather(self, indices: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Returns raw vectors (B, D) float32 of positions among those that were given."""
        return np.asarray(self._vectors[np.searchsorted(self._distinct, np.asarray(indices, np.int64))])


def _columns(captions: Captions) -> pa.Table:
    # A translation has no vector of its own: its source has.
    table = captions.table.filter(pc.is_null(captions.table["source_id"]))
    return table.select(["id", "text", "lang"]).cast(_SCHEMA)
