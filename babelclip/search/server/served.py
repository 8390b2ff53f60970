"""A collection behind the service: read anew now and then, with the versions that scrolling still needs.

Entry point: `Served`.
"""

from __future__ import annotations

import collections
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from babelclip.errors import BabelclipError
from babelclip.models.clip import Clip
from babelclip.search.candidates import FOLDED
from babelclip.search.collection import Collection, ImageSpace
from babelclip.search.columns import FIXED
from babelclip.search.faiss_fast import open_fast
from babelclip.search.filters import Filter, IsNull, Not
from babelclip.search.memory import MemoryCollection, copied
from babelclip.search.near_duplicates import LEAST_COSINE
from babelclip.search.query_background import Background, background, known_background
from babelclip.search.server.problems import Problem
from babelclip.search.server.versions import QUICK, Versions

# Rows that are looked at to say what can be filtered, and values offered of a column.
_SAMPLE = 50_000
_VALUES = 30
# Columns of every collection that people filter by.
_FILTERED = ("lang", "source", "width", "height", "modified")
_ORDERS = 8
# Collections that are kept in memory unasked: rows below which they have no index either, and bytes.
_COMPARED, _COPY_BYTES = 50_000, 256 << 20
# Rows of which is remembered what they show; a kilobyte each.
_SHOWN = 10_000
# Rows that can be looked through without a query.
_BROWSED = 100_000
# What `Versions.state` gives.
State = tuple[int, float]


class Served:
    """A collection by its public name.

    Attributes:
        name: in addresses.
        fingerprint: space and what made the vectors.
    """

    def __init__(self, name: str, collection: Collection, refresh: float, *, fast: bool = False) -> None:
        self.name = name
        self._versions = Versions(collection, refresh, _graph if fast else _copied)
        self._filterable: tuple[State, list[dict[str, Any]]] | None = None
        self._measuring = threading.Lock()
        self._spread: tuple[tuple[int, int], Background | None] | None = None
        self._groups: tuple[State, collections.Counter[str]] | None = None
        self._shown: tuple[State, dict[str, dict[str, Any]]] = ((-1, 0.0), {})
        self._seen = False
        self._orders: collections.OrderedDict[tuple[State, Filter | None], list[str]] = collections.OrderedDict()

    @property
    def fingerprint(self) -> ImageSpace:
        """What made the vectors."""
        return self._versions.collection.fingerprint

    def current(self) -> Collection:
        """Returns the collection as it is now, or was some seconds ago."""
        return self._versions.current()

    def at_once(self, version: int = 0) -> Collection | None:
        """Returns the collection (at a version, 0 for the newest) where it answers in less than a thread would take."""
        now = self._versions.ready()
        if isinstance(now, MemoryCollection) and now.numbers <= QUICK and version in (0, now.version()):
            return now
        return None

    def at(self, version: int) -> Collection:
        """Returns the collection at a version, so that scrolling stays whole while rows come and go.

        Raises:
            Problem: 410, the version is not kept any more.
        """
        try:
            return self._versions.at(version)
        except BabelclipError as error:
            raise gone() from error

    def filterable(self) -> list[dict[str, Any]]:
        """Returns what rows can be filtered by: column, type, its most frequent values or its least and greatest."""
        collection = self.current()
        state = self._versions.state(collection)
        known = self._filterable
        if known is not None and known[0] == state:
            return known[1]
        own = [name for name in collection.columns if name not in FIXED]
        asked = [name for name in (*_FILTERED, *own) if collection.columns.get(name) not in (None, "bytes")]
        found = [fact for name in asked if (fact := _facts(collection, name)) is not None]
        self._filterable = (state, found)
        return found

    @property
    def url(self) -> str:
        """What `open_collection` takes."""
        return self._versions.collection.url

    def expire(self) -> None:
        """Has the collection read anew at the next question: it was changed. Older versions may be gone."""
        self._versions.expire()

    def known_spread(self, clip: Clip | None) -> tuple[Background | None] | None:
        """Returns what `spread` would at once; None where it would measure, or read the collection."""
        if clip is None or clip.text is None or clip.image is None:
            return (None,)
        known, now = self._spread, self._versions.ready()
        if known is not None and now is not None and known[0] == (id(clip), now.version()):
            return (known[1],)
        if not isinstance(now, MemoryCollection) or not now.count():
            return None
        kept = known_background(now, clip)
        if kept is None:
            return None
        self._spread = ((id(clip), now.version()), kept)
        return (kept,)

    def spread(self, clip: Clip | None) -> Background | None:
        """Returns how unrelated queries of a model score here; None where it lacks a tower, or nothing is here.

        Measured once, and anew when the collection has changed much; see `query_background.background`.
        """
        if clip is None or clip.text is None or clip.image is None:
            return None
        collection = self.current()
        key = (id(clip), collection.version())
        if self._spread is None or self._spread[0] != key:
            with self._measuring:
                if self._spread is None or self._spread[0] != key:
                    self._spread = (key, background(collection, clip) if collection.count() else None)
        return self._spread[1]

    def group_sizes(self, collection: Collection) -> Mapping[str, int]:
        """Returns how many rows each near-duplicate group has; counted once for a version."""
        state = self._versions.state(collection)
        known = self._groups
        if known is None or known[0] != state:
            sizes: collections.Counter[str] = collections.Counter()
            if "group" in collection.columns:
                for batch in collection.scan(columns=["group"], where=Not(IsNull("group")), batch_rows=8192):
                    sizes.update(batch["group"].to_pylist())
            known = self._groups = (state, sizes)
        return known[1]

    def shown(self, collection: Collection) -> dict[str, dict[str, Any]]:
        """Returns id -> what a row of a version shows, as far as somebody has noted it there."""
        state = self._versions.state(collection)
        known, rows = self._shown
        if known != state or len(rows) > _SHOWN:
            rows = {}
            self._shown = (state, rows)
        return rows

    def has_thumbnails(self, collection: Collection, ids: Sequence[str]) -> bool:
        """Returns whether these rows may have thumbnails; what was imported as vectors has none.

        They are looked at until one of the collection is met that has: to ask all rows would read all thumbnails.
        """
        if not self._seen:
            rows = collection.get(ids, columns=["thumbnail"])
            self._seen = rows["thumbnail"].null_count < len(rows)
        return self._seen

    def in_order(self, collection: Collection, where: Filter | None) -> list[str]:
        """Returns ids to look through: the newest first, then those without a time; at most `_BROWSED` of them."""
        key = (self._versions.state(collection), where)
        kept = self._orders.get(key)
        if kept is None:
            timed = "modified" in collection.columns
            rows: list[tuple[float, str]] = []
            for batch in collection.scan(columns=["modified"] if timed else [], where=where, batch_rows=8192):
                times = batch.column("modified").cast(pa.int64()).to_pylist() if timed else [None] * batch.num_rows
                names = batch.column("id").to_pylist()
                rows += [
                    (-time if time is not None else float("inf"), name) for time, name in zip(times, names, strict=True)
                ]
                if len(rows) >= _BROWSED:
                    break
            kept = self._orders[key] = [name for _time, name in sorted(rows)]
            while len(self._orders) > _ORDERS:
                self._orders.popitem(last=False)
        return kept

    def close(self) -> None:
        """Closes the collection and its snapshots."""
        self._versions.close()


def gone() -> Problem:
    """Returns the refusal of a version that is not kept any more."""
    return Problem(410, "gone", "The collection has changed since. Search again from the start.")


def _graph(collection: Collection, wanted: Callable[[], bool]) -> MemoryCollection:
    """Returns the fast mode of a version, see `faiss_fast.open_fast`."""
    return open_fast(collection, wanted=wanted)


def _copied(collection: Collection, _wanted: Callable[[], bool]) -> MemoryCollection | None:
    """Returns the copy of a version that is small enough to compare all of its vectors."""
    copy = copied(collection, most_rows=_COMPARED, most_bytes=_COPY_BYTES)
    if copy is not None and copy.numbers <= QUICK:
        copy.note_twins(FOLDED, LEAST_COSINE)
    return copy


def _facts(collection: Collection, column: str) -> dict[str, Any] | None:
    """Returns what the first rows hold in a column; None where that is nothing to choose from."""
    batches, rows = [], 0
    for batch in collection.scan(columns=[column], batch_rows=8192):
        batches.append(batch.column(column))
        rows += batch.num_rows
        if rows >= _SAMPLE:
            break
    if not rows:
        return None
    values = pa.chunked_array(batches).drop_null()
    kind = collection.columns[column]
    fact: dict[str, Any] = {"column": column, "type": kind, "values": [], "min": None, "max": None}
    if kind in ("text", "bool"):
        counts = sorted(pc.value_counts(values).to_pylist(), key=lambda entry: (-entry["counts"], str(entry["values"])))
        # Every row its own value (a name, an address) is nothing to choose from, and neither is one value for all.
        if len(counts) < 2 or len(counts) > max(_VALUES, len(values) // 4):
            return None
        fact["values"] = [{"value": entry["values"], "count": entry["counts"]} for entry in counts[:_VALUES]]
        return fact
    if len(values) == 0:
        return None
    ends = pc.min_max(values)
    low, high = (ends[name].as_py() for name in ("min", "max"))
    if low == high or (kind == "float" and not (math.isfinite(low) and math.isfinite(high))):
        return None
    fact["min"], fact["max"] = (end.isoformat() if kind == "time" else end for end in (low, high))
    return fact
