"""Groups of pictures that are nearly the same: equal files, and vectors of cosine >= 0.94, joined by connection.

The threshold is that of clip-retrieval's service, which groups at each query (specs/search-and-serving.md 1.5); here it
is done once, after indexing, so that a query only compares names of groups. Only what is new is compared with the rest
(near_pairs.py). A group is called by the smallest id in it.

A row that is removed may have tied two others: groups are not taken apart. `regroup=True` makes them all anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from babelclip.progress import progress_bar
from babelclip.search.collection import Collection
from babelclip.search.filters import In, IsNull, Not
from babelclip.search.index_state import Waiting
from babelclip.search.near_pairs import Joined, join_all

LEAST_COSINE = 0.94
# Rows that are read or written at once.
_ROWS = 500


def group(
    collection: Collection,
    url: Path | str,
    *,
    least: float = LEAST_COSINE,
    regroup: bool = False,
    progress: bool = False,
) -> tuple[int, int]:
    """Returns how many groups the collection has and how many pictures are in them, after grouping what is new.

    What is new is kept beside the collection until its groups are written, so a kill loses nothing.

    Args:
        collection: open for writing.
        url: where it lies.
        least: cosine from which two pictures are near duplicates.
        regroup: forget all groups first.
        progress: show a bar on stderr.
    """
    waiting = Waiting(url)
    ids = waiting.ids()
    if regroup:
        ids = [name for batch in collection.scan() for name in batch["id"].to_pylist()]
    if ids:
        joined = Joined()
        with progress_bar("Near duplicates", len(ids), shown=progress, unit="pictures") as advance:
            join_all(collection, ids, least, joined, advance)
        if not regroup:
            _join_groups(collection, joined)
        _write(collection, ids, joined)
        waiting.clear()
    sizes: dict[str, list[str]] = {}
    for batch in collection.scan(columns=["group"], where=Not(IsNull("group"))):
        for name, label in zip(batch["id"].to_pylist(), batch["group"].to_pylist(), strict=True):
            sizes.setdefault(label, []).append(name)
    # What was in a group with a picture that changed or went stands alone now.
    alone = [names[0] for names in sizes.values() if len(names) == 1]
    _relabel(collection, dict.fromkeys(alone))
    return len(sizes) - len(alone), sum(len(names) for names in sizes.values()) - len(alone)


def _join_groups(collection: Collection, joined: Joined) -> None:
    """Joins what is new to the whole groups that its neighbours are in."""
    members = joined.members()
    groups: set[str] = set()
    for start in range(0, len(members), _ROWS):
        rows = collection.get(members[start : start + _ROWS], columns=["group"])
        groups |= {name for name in rows["group"].to_pylist() if name}
    names = sorted(groups)
    for start in range(0, len(names), _ROWS):
        for batch in collection.scan(columns=["group"], where=In("group", tuple(names[start : start + _ROWS]))):
            for name, label in zip(batch["id"].to_pylist(), batch["group"].to_pylist(), strict=True):
                # The group's name is an id that may be gone, and still ties its members.
                joined.join(name, label)


def _write(collection: Collection, ids: Sequence[str], joined: Joined) -> None:
    """Writes the group of every picture whose group is another than its row says."""
    asked = list(dict.fromkeys([*ids, *joined.members()]))
    sizes: Counter[str] = Counter()
    there: list[tuple[str, str | None]] = []
    for start in range(0, len(asked), _ROWS):
        rows = collection.get(asked[start : start + _ROWS], columns=["group"])
        there += zip(rows["id"].to_pylist(), rows["group"].to_pylist(), strict=True)
    sizes.update(joined.first(name) for name, _label in there)
    smallest: dict[str, str] = {}
    for name, _label in there:
        top = joined.first(name)
        smallest[top] = min(smallest.get(top, name), name)
    wrong = {
        name: label
        for name, old in there
        if (label := smallest[joined.first(name)] if sizes[joined.first(name)] > 1 else None) != old
    }
    _relabel(collection, wrong)


def _relabel(collection: Collection, wrong: Mapping[str, str | None]) -> None:
    """Writes the group of each id."""
    names = list(wrong)
    for start in range(0, len(names), _ROWS):
        part = names[start : start + _ROWS]
        columns = [name for name in collection.columns if name != "id"]
        rows = collection.get(part, columns=columns, with_vectors=True)
        labels: list[Any] = [wrong[name] for name in rows["id"].to_pylist()]
        place = rows.column_names.index("group")
        collection.upsert(rows.set_column(place, "group", pa.array(labels, pa.string())))
