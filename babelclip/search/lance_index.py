"""The index of a Lance collection: when there is one, how it is built and measured, and how its table is kept small.

Below 50,000 rows comparing all of them takes 0.1 s and finds everything. Above, IVF_RQ: partitions (sqrt(n)) of
vectors cut to one bit a number; the best candidates are then compared by their full vectors. How many partitions
must be read is not a constant but what the recall report finds.
"""

from __future__ import annotations

import datetime
import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from babelclip.errors import BabelclipError, did_you_mean
from babelclip.search import recall
from babelclip.search.collection import CollectionStats, IndexReport, IndexSpec, bytes_below, now
from babelclip.search.columns import VECTOR

NO_INDEX_BELOW = 50_000
_MANY_ROWS, _ROWS_A_PARTITION = 10_000_000, 7_500
# Unindexed rows are compared one by one: beyond these an index is built anew.
_UNINDEXED_ROWS, _UNINDEXED_SHARE = 50_000, 0.05
_MAX_DELTAS = 8


def build(collection: recall.Tunable, table: Any, spec: IndexSpec) -> IndexReport:
    """Builds what the policy or `spec` says in place of what is there, and returns the measured report.

    Raises:
        BabelclipError: the kind is not known, or it cannot index so few rows or such a dimension.
    """
    if spec.kind not in ("auto", "none", "ivf_rq"):
        raise BabelclipError(f"index {spec.kind!r} is not known. {did_you_mean(spec.kind, ['auto', 'none', 'ivf_rq'])}")
    rows, dim = table.count_rows(), collection.fingerprint.dim
    kind = ("ivf_rq" if rows >= NO_INDEX_BELOW and dim % 8 == 0 else "none") if spec.kind == "auto" else spec.kind
    if kind == "ivf_rq" and (dim % 8 or rows < 256):
        raise BabelclipError(
            f"an index ivf_rq needs at least 256 rows and a dimension divisible by 8, not {rows} and {dim}: leave the "
            "kind at auto, which searches exactly then."
        )
    start = time.perf_counter()
    if kind == "none":
        for index in table.list_indices():
            table.drop_index(index.name)
        return IndexReport("none", rows, seconds=time.perf_counter() - start, made=now())
    partitions = spec.partitions or default_partitions(rows)
    _create(table, partitions, spec.bits)
    seconds = time.perf_counter() - start
    draft = IndexReport(kind, rows, partitions, spec.bits, 1, spec.refine, seconds, made=now())
    return recall.measured(collection, draft, spec)


def default_partitions(rows: int) -> int:
    """Returns sqrt(rows), and beyond 10 million rows one partition for each 7,500."""
    return max(1, round(math.sqrt(rows)) if rows <= _MANY_ROWS else rows // _ROWS_A_PARTITION)


def _create(table: Any, partitions: int, bits: int) -> None:
    from lancedb.index import BTree, IvfRq

    # The metric is said at each build: a query of another one falls back to comparing everything, without an error.
    config = IvfRq(distance_type="dot", num_bits=bits, num_partitions=partitions)
    table.create_index(VECTOR, config=config, replace=True)
    table.create_index("id", config=BTree(), replace=True)


def rebuild(table: Any, report: IndexReport | None) -> None:
    """Builds the index anew with the numbers it had, where there was one."""
    if report is not None:
        _create(table, report.partitions or default_partitions(table.count_rows()), report.bits or 1)


def optimize(table: Any, keep_versions_for: float, *, alone: bool = False) -> None:
    """Joins small files, adds new rows to the index and removes versions older than so many seconds.

    With `alone`, files that belong to no version go too: nobody writes, so nobody is about to need them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*cleanup_older_than=0")  # the caller asked for it
        table.optimize(
            cleanup_older_than=datetime.timedelta(seconds=max(0.0, keep_versions_for)), delete_unverified=alone
        )


def fragments_of(rows: pa.Table) -> set[int]:
    """Returns the numbers of the files (fragments) that rows with `_rowaddr` lie in."""
    addresses = rows["_rowaddr"].to_numpy()
    return set(np.unique(addresses >> np.uint64(32)).tolist())


def rewrite_fragments(table: Any, fragments: list[int]) -> None:
    """Writes the rows of these fragments into new files, so that what was deleted in them is in no file any more.

    Compaction leaves a fragment as it is where less than a tenth of it is deleted.
    """
    for number in fragments:
        condition = f"_rowaddr >= {number << 32} AND _rowaddr < {(number + 1) << 32}"
        table.update(where=condition, values_sql={"id": "id"})


def describe(table: Any, url: str, report: IndexReport | None, *, exact: bool) -> CollectionStats:
    """Returns the facts of a table. See `CollectionStats`."""
    rows = table.count_rows()
    unindexed, deltas = 0, 0
    for index in table.list_indices():
        if index.columns == [VECTOR]:
            numbers = table.index_stats(index.name)
            unindexed, deltas = int(numbers.num_unindexed_rows), int(numbers.num_indices or 1)
    advice = ""
    if exact and rows >= NO_INDEX_BELOW:
        advice = f"{rows:,} rows without an index: build one."
    elif not exact and (unindexed > max(_UNINDEXED_ROWS, _UNINDEXED_SHARE * rows) or deltas > _MAX_DELTAS):
        advice = f"{unindexed:,} rows are not in the index, which has {deltas} parts: build it anew."
    return CollectionStats(
        backend="lance",
        rows=rows,
        unindexed=unindexed,
        index="none" if exact else (report.kind if report else "ivf_rq"),
        deltas=deltas,
        bytes=bytes_below(Path(url)) if "://" not in url else -1,
        versions=len(table.list_versions()),
        report=report,
        advice=advice,
    )
