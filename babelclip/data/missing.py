"""Which rows have no vector in a store: to be known before a training run, and not in its third hour."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Protocol

from babelclip.data.captions import Captions
from babelclip.errors import BabelclipError
from babelclip.store import EmbeddingStore

_AT_ONCE = 65536
_SHOWN = 1000


class HasTargets(Protocol):
    """Rows that name their targets, such as a `Mixer`."""

    def target_ids(self) -> Iterator[tuple[str, list[str]]]:
        """Yields (language, ids of the vectors of some rows) until every row was met once."""


@dataclasses.dataclass(frozen=True)
class Missing:
    """What a store lacks.

    Attributes:
        rows: rows that were looked at, by language.
        lacking: rows whose vector lacks, by language; those without any are left out.
        ids: the first 1,000 distinct ids that lack, in the order of the rows.
    """

    rows: dict[str, int]
    lacking: dict[str, int]
    ids: list[str]

    def require_none(self, store: EmbeddingStore) -> None:
        """Does nothing where no vector lacks.

        Raises:
            BabelclipError: some do; counts them by language.
        """
        if self.lacking:
            counts = ", ".join(f"{lang} {n:,} of {self.rows[lang]:,}" for lang, n in self.lacking.items())
            raise BabelclipError(
                f"{sum(self.lacking.values()):,} of {sum(self.rows.values()):,} rows have no vector in {store.path} "
                f"({counts}), first {self.ids[:3]}. The vector of a row is that of its source_id, or of its own id "
                "where that is empty: embed these captions into the store too, or take the rows out."
            )


def find_missing(rows: HasTargets | Captions | Iterable[Captions], store: EmbeddingStore) -> Missing:
    """Returns which rows have no vector in `store`, by language.

    Args:
        rows: a `Mixer`, or captions, or parts of them as `open_captions` gives them; read once, part by part.
        store: the teacher's vectors, by the ids of what they are of.
    """
    seen: Counter[str] = Counter()
    lacking: Counter[str] = Counter()
    first: dict[str, None] = {}
    for langs, ids in _targets(rows):
        seen.update(langs)
        found = store.find(ids)
        for place in (found < 0).nonzero()[0].tolist():
            lacking[langs[place]] += 1
            if len(first) < _SHOWN:
                first.setdefault(ids[place])
    return Missing(dict(sorted(seen.items())), dict(sorted(lacking.items())), list(first))


def _targets(rows: HasTargets | Captions | Iterable[Captions]) -> Iterator[tuple[list[str], list[str]]]:
    """Yields (languages, ids of vectors) of some rows."""
    if isinstance(rows, Captions):
        rows = [rows]
    if not isinstance(rows, Iterable):
        for lang, ids in rows.target_ids():
            yield [lang] * len(ids), ids
        return
    for part in rows:
        for start in range(0, len(part), _AT_ONCE):
            table = part.table.slice(start, _AT_ONCE)
            sources = table["source_id"].to_pylist()
            own = table["id"].to_pylist()
            ids = [name if source is None else source for source, name in zip(sources, own, strict=True)]
            yield table["lang"].to_pylist(), ids
