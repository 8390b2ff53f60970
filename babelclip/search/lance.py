"""A collection in LanceDB: a folder `NAME.lance`, or the same on an object store (`s3://bucket/NAME.lance`).

    NAME.lance/pictures.lance     the rows: id, vector, columns, thumbnails, indexes; every version of them
    NAME.lance/facts.lance        key, value (JSON): fingerprint, columns, roots, index report

Both are plain Lance tables. The engine's defaults do not fit here, so each call says: inner product instead of L2,
filters before the search, candidates compared by their full vectors, and no upper limit on the partitions read, since
with one a filtered search stops short of k (measured: 27 of 100 where 207 rows matched).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from babelclip.errors import BabelclipError, require, shown
from babelclip.search import exact as exact_search
from babelclip.search import lance_index, recall
from babelclip.search.collection import (
    CollectionStats,
    ImageSpace,
    IndexReport,
    IndexSpec,
    check_writable,
    facts_of_making,
    made_as,
)
from babelclip.search.columns import (
    ARROW_TYPES,
    VECTOR,
    all_columns,
    check_columns,
    checked_rows,
    fields_of,
    schema_of,
    unit_rows,
)
from babelclip.search.filters import Filter, In, to_lance
from babelclip.search.lance_writers import writing
from babelclip.storage import is_url, lance_options, url_of

PICTURES, FACTS = "pictures", "facts"
# Ids in one condition.
_IDS_AT_ONCE = 1000
_CACHE_BYTES = 1 << 30


def open_lance(url: str | Path, *, write: bool = False, cache_bytes: int = 0) -> LanceCollection:
    """Returns the collection at `url`.

    Raises:
        BabelclipError: there is none, it is unfinished, or of a newer version.
        MissingExtraError: LanceDB is not installed.
    """
    address = _address(url)
    if "://" not in address and not Path(address).is_dir():
        raise BabelclipError(
            f"{address} does not exist: check the path, or make it with `babelclip index PICTURES --out {address}`."
        )
    database = _connect(address, cache_bytes)
    with _readable(address):
        tables = _tables(database)
    if FACTS not in tables or PICTURES not in tables:
        raise BabelclipError(
            f"{address} is not a collection: it holds the tables {sorted(tables)} instead of {PICTURES!r} and "
            f"{FACTS!r}. It was not made by babelclip, or its making was stopped: make it with `babelclip index`."
        )
    return LanceCollection(address, database, write=write)


def create_lance(
    url: str | Path, fingerprint: ImageSpace, own: Mapping[str, str], roots: Mapping[str, str]
) -> LanceCollection:
    """Returns a new collection at `url`; one whose making was stopped before it had facts is made anew.

    Raises:
        BabelclipError: there is something already.
    """
    address = _address(url)
    if "://" not in address and Path(address).exists():
        inside = {item.name for item in Path(address).iterdir()} if Path(address).is_dir() else {"a file"}
        if inside - {f"{PICTURES}.lance", f"{FACTS}.lance"}:
            raise BabelclipError(
                f"{address} is there already ({', '.join(sorted(inside)[:3])}): open it with open_collection(..., "
                "write=True), or choose another name."
            )
    database = _connect(address, 0)
    with _readable(address):
        there = FACTS in _tables(database)
    if there:
        raise BabelclipError(f"{address} is there already: open it with open_collection(..., write=True).")
    columns = all_columns(own)
    database.create_table(PICTURES, schema=schema_of(columns, fingerprint.dim), mode="overwrite")
    facts = {
        "collection": facts_of_making(fingerprint, own),
        "roots": dict(roots),
    }
    # The facts come last: a collection that has them is whole.
    values = {"key": list(facts), "value": [json.dumps(value) for value in facts.values()]}
    database.create_table(FACTS, data=pa.table(values, schema=_FACTS_SCHEMA))
    return LanceCollection(address, database, write=True)


_FACTS_SCHEMA = pa.schema([pa.field("key", pa.string()), pa.field("value", pa.string())])


class LanceCollection:
    """See `babelclip.search.collection.Collection`. A reader keeps its version until `refresh`.

    Attributes:
        name, url: as given; the name is that of the folder.
        fingerprint, columns: see there.
    """

    def __init__(self, address: str, database: Any, *, write: bool, version: int = 0) -> None:
        self.url = address
        self.name = address.rstrip("/").rsplit("/", 1)[-1].removesuffix(".lance")
        self._database, self._write, self._version = database, write, version
        self._index: IndexReport | None = None
        with _readable(address):
            self._table = database.open_table(PICTURES)
            self._facts = database.open_table(FACTS)
        if version:
            self._checkout(version)
        with _readable(address):
            self._read_facts()

    @property
    def roots(self) -> Mapping[str, str]:
        """Name of a source -> its folder."""
        return dict(self.fact("roots") or {})

    def upsert(self, rows: pa.Table | pa.RecordBatch) -> None:
        """See `Collection.upsert`. One call is one version: all of its rows or none."""
        check_writable(self._write, self.url)
        table = checked_rows(rows, self.columns, self.fingerprint.dim)
        if not len(table):
            return
        replaced = lance_index.fragments_of(self._rows_of_ids(table["id"].to_pylist()))
        # Old copies of replaced rows lie in their files until these are written anew (see `optimize`). That is noted
        # first: a kill between the two must not leave copies that nobody looks for.
        self._note_purge(replaced)
        with writing(self.url):
            self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(table)

    def delete(self, *, ids: Sequence[str] | None = None, where: Filter | None = None) -> int:
        """See `Collection.delete`.

        Rows are named to the engine by number: it keeps the condition of a deletion in its log for good, and that
        must not hold an id or a caption of what was deleted.
        """
        check_writable(self._write, self.url)
        if ids is None and where is None:
            raise BabelclipError("delete needs ids or a filter: to delete a whole collection, remove its folder.")
        condition = None if where is None else to_lance(where, self.columns)
        deleted = 0
        for _ in range(10):  # again where a compaction by somebody else moved rows meanwhile
            found = self._rows_of_ids(ids, condition) if ids is not None else self._numbers(condition)
            if not len(found):
                return deleted
            self._note_purge(lance_index.fragments_of(found))
            numbers = found["_rowid"].to_pylist()
            for start in range(0, len(numbers), 10 * _IDS_AT_ONCE):
                part = ", ".join(map(str, numbers[start : start + 10 * _IDS_AT_ONCE]))
                with writing(self.url):
                    deleted += int(self._table.delete(f"_rowid IN ({part})").num_deleted_rows)
        raise BabelclipError(
            f"{self.url}: rows move faster than they can be deleted, {deleted} are gone: stop the other writer."
        )

    def search(
        self,
        vectors: npt.ArrayLike,
        k: int,
        *,
        where: Filter | None = None,
        columns: Sequence[str] = (),
        with_vectors: bool = False,
        exact: bool = False,
    ) -> pa.Table:
        """See `Collection.search`."""
        queries = unit_rows(vectors, self.fingerprint.dim, "query")
        k = exact_search.checked_k(k)
        names = [*check_columns(list(columns), self.columns), *([VECTOR] if with_vectors else [])]
        schema = exact_search.result_schema(fields_of(names, self.columns, self.fingerprint.dim))
        if not len(queries):
            return schema.empty_table()
        if exact:
            return exact_search.exact_table(self, queries, k, where, names, schema)
        query = self._table.search(list(queries) if len(queries) > 1 else queries[0], vector_column_name=VECTOR)
        # Candidates are a multiple of the results asked for: of fewer than ten, too few to contain the best.
        limit = k if self._index is None else max(k, recall.K)
        query = query.distance_type("dot").limit(limit).select(["id", *names, "_distance"])
        if where is not None:
            query = query.where(to_lance(where, self.columns), prefilter=True)
        if self._index is not None:
            # A maximum of 0 reads further partitions until k rows are found.
            query = query.refine_factor(self._index.refine).minimum_nprobes(self._index.probes).maximum_nprobes(0)
        with _readable(self.url):
            found = query.to_arrow()
        numbers = found["query_index"] if len(queries) > 1 else pa.array(np.zeros(len(found), np.int32))
        scores = pc.subtract(pa.scalar(1.0, pa.float32()), found["_distance"])
        arrays = [numbers, found["id"], scores, *(found[name] for name in names)]
        cast = [array.cast(field.type) for array, field in zip(arrays, schema, strict=True)]
        return exact_search.first_of_each(exact_search.sorted_results(pa.table(cast, schema=schema)), k)

    def get(self, ids: Sequence[str], *, columns: Sequence[str] = (), with_vectors: bool = False) -> pa.Table:
        """See `Collection.get`."""
        names = [*check_columns(list(columns), self.columns), *([VECTOR] if with_vectors else [])]
        schema = pa.schema(fields_of(["id", *names], self.columns, self.fingerprint.dim))
        parts = [schema.empty_table()]
        for condition in _id_conditions(ids):
            query = self._table.search().where(condition).select(schema.names).limit(None)
            with _readable(self.url):
                parts.append(query.to_arrow().cast(schema))
        return exact_search.take_ids(pa.concat_tables(parts), ids)

    def scan(
        self,
        *,
        columns: Sequence[str] = (),
        where: Filter | None = None,
        with_vectors: bool = False,
        batch_rows: int = 4096,
    ) -> Iterator[pa.RecordBatch]:
        """See `Collection.scan`."""
        names = [*check_columns(list(columns), self.columns), *([VECTOR] if with_vectors else [])]
        schema = pa.schema(fields_of(["id", *names], self.columns, self.fingerprint.dim))
        query = self._table.search().select(schema.names).limit(None)
        if where is not None:
            query = query.where(to_lance(where, self.columns))
        with _readable(self.url):
            for batch in query.to_batches(batch_rows):
                if batch.num_rows:
                    yield batch.select(schema.names).cast(schema)

    def count(self, where: Filter | None = None) -> int:
        """See `Collection.count`."""
        condition = None if where is None else to_lance(where, self.columns)
        with _readable(self.url):
            return int(self._table.count_rows(condition))

    def add_columns(self, columns: Mapping[str, str]) -> None:
        """See `Collection.add_columns`."""
        check_writable(self._write, self.url)
        new = {name: kind for name, kind in columns.items() if self.columns.get(name) != kind}
        own = {**self._own, **new}
        if set(new) & set(self.columns):
            name = next(name for name in new if name in self.columns)
            raise BabelclipError(
                f"column {name!r} is {self.columns[name]} in {self.url} and cannot become {new[name]}: give the new "
                "values another name."
            )
        all_columns(own)
        there = set(self._table.schema.names)  # a kill between the two writes leaves columns without a fact
        missing = [pa.field(name, ARROW_TYPES[kind]) for name, kind in new.items() if name not in there]
        if missing:
            self._table.add_columns(missing)
        if new:
            self.set_fact("collection", {**self.fact("collection"), "own_columns": own})
            self._read_facts()

    def set_roots(self, roots: Mapping[str, str]) -> None:
        """See `Collection.set_roots`."""
        self.set_fact("roots", dict(roots))

    def fact(self, key: str) -> Any:
        """See `Collection.fact`."""
        return self._known_facts.get(key)

    def set_fact(self, key: str, value: Any) -> None:
        """See `Collection.set_fact`."""
        check_writable(self._write, self.url)
        row = pa.table({"key": [key], "value": [json.dumps(value)]}, schema=_FACTS_SCHEMA)
        self._facts.merge_insert("key").when_matched_update_all().when_not_matched_insert_all().execute(row)
        self._known_facts[key] = value

    def build_index(self, spec: IndexSpec | None = None) -> IndexReport:
        """See `Collection.build_index`."""
        check_writable(self._write, self.url)
        with writing(self.url):
            report = lance_index.build(self, self._table, spec or IndexSpec())
        self.set_fact("index_report", report.to_json())
        self._read_facts()
        return report

    def use_index(self, report: IndexReport) -> None:
        """Searches as `report` says from now on: how many partitions are read, how many candidates compared."""
        self._index = report if report.kind != "none" else None

    def optimize(self, *, keep_versions_for: float = 3600.0) -> None:
        """See `Collection.optimize`. With 0, files that held deleted rows are written anew, and then the index.

        Files that killed writers left go too, where nobody else writes: rows that were deleted since may lie in them.
        """
        check_writable(self._write, self.url)
        purge = [int(number) for number in self.fact("purge") or []]
        with writing(self.url, alone=keep_versions_for <= 0) as alone:
            if keep_versions_for <= 0 and purge:
                lance_index.rewrite_fragments(self._table, purge)
                lance_index.rebuild(self._table, self._index)
            lance_index.optimize(self._table, keep_versions_for, alone=alone)
        if keep_versions_for <= 0:
            if purge:
                self.set_fact("purge", [])
            lance_index.optimize(self._facts, 0)

    def stats(self) -> CollectionStats:
        """See `Collection.stats`."""
        content = self.fact("index_report")
        report = IndexReport.from_json(content) if content else None
        with _readable(self.url):
            return lance_index.describe(self._table, self.url, report, exact=self._index is None)

    def version(self) -> int:
        """See `Collection.version`."""
        return self._version or int(self._table.version)

    def at(self, version: int) -> LanceCollection:
        """See `Collection.at`."""
        return LanceCollection(self.url, self._database, write=False, version=version)

    def refresh(self) -> None:
        """See `Collection.refresh`. A snapshot stays what it is."""
        if not self._version:
            self._table.checkout_latest()
            self._facts.checkout_latest()
            self._read_facts()

    def close(self) -> None:
        """See `Collection.close`."""
        self._write = False

    def _read_facts(self) -> None:
        rows = self._facts.search().limit(None).to_arrow().to_pylist()
        self._known_facts = {row["key"]: json.loads(row["value"]) for row in rows}
        self.fingerprint, own = made_as(self._known_facts.get("collection"), self.url)
        there = set(self._table.schema.names)
        self._own = {name: kind for name, kind in own.items() if name in there}
        self.columns: Mapping[str, str] = all_columns(self._own)
        content = self._known_facts.get("index_report")
        indexed = any(index.columns == [VECTOR] for index in self._table.list_indices())
        self._index = None
        if indexed:
            # An index whose report was lost to a kill: read much of it rather than miss pictures.
            report = IndexReport.from_json(content) if content and content["kind"] != "none" else None
            self._index = report or IndexReport("ivf_rq", 0, probes=64, refine=20)

    def _checkout(self, version: int) -> None:
        try:
            self._table.checkout(version)
        except Exception as error:  # the engine has no class of its own for it
            raise BabelclipError(
                f"{self.url} has no version {version} any more: it was cleaned up, or never was. Read the newest one."
            ) from error

    def _numbers(self, condition: str | None) -> pa.Table:
        """Returns `_rowid` and `_rowaddr` of the rows that fulfil a condition."""
        query = self._table.search().select(["_rowid", "_rowaddr"]).limit(None)
        return (query if condition is None else query.where(condition)).to_arrow()

    def _rows_of_ids(self, ids: Sequence[str], condition: str | None = None) -> pa.Table:
        also = "" if condition is None else f" AND {condition}"
        parts = [self._numbers(f"({one}){also}") for one in _id_conditions(ids)]
        empty = pa.table({name: pa.array([], pa.uint64()) for name in ("_rowid", "_rowaddr")})
        return pa.concat_tables([part.select(["_rowid", "_rowaddr"]) for part in parts] or [empty])

    def _note_purge(self, fragments: set[int]) -> None:
        known = {int(number) for number in self.fact("purge") or []}
        if fragments - known:
            self.set_fact("purge", sorted(fragments | known))


def _id_conditions(ids: Sequence[str]) -> Iterator[str]:
    names = [str(name) for name in dict.fromkeys(ids) if isinstance(name, str) and "\x00" not in name]
    for start in range(0, len(names), _IDS_AT_ONCE):
        yield to_lance(In("id", tuple(names[start : start + _IDS_AT_ONCE])), {"id": "text"})


def _address(url: str | Path) -> str:
    text = str(url).rstrip("/")
    return url_of(text) or (text if "://" in text else str(Path(text).expanduser()))


def _connect(address: str, cache_bytes: int) -> Any:
    # Its log says at each new table that there was none before.
    os.environ.setdefault("LANCEDB_LOG", "error")
    os.environ.setdefault("LANCE_LOG", "error")
    lancedb = require("lancedb", "search")
    memory = cache_bytes or _CACHE_BYTES
    session = lancedb.Session(index_cache_size_bytes=memory * 3 // 4, metadata_cache_size_bytes=memory // 4)
    # Without an interval a reader keeps its version until it is told to look again.
    options = lance_options(address) if is_url(address) else None
    return lancedb.connect(address, read_consistency_interval=None, session=session, storage_options=options)


@contextlib.contextmanager
def _readable(url: str) -> Iterator[None]:
    """Turns what the engine raises while it reads into an error that says what to do."""
    try:
        yield
    except BabelclipError:
        raise
    except Exception as error:  # of damaged tables anything, a panic of its Rust included
        gone = "not found" in str(error).lower()
        raise BabelclipError(
            f"{url} cannot be read ({shown(error, 120)}). "
            + (
                "The version in use was cleaned up by optimize: call refresh(), or read the newest version."
                if gone
                else "Is it damaged, or its storage out of reach? Make it anew, or look at the storage."
            )
        ) from error


def _tables(database: Any) -> set[str]:
    """Returns the names of the tables that are there; the folder of one whose making was stopped is none."""
    names = database.list_tables(limit=100).tables
    return {name for name in names if name not in (PICTURES, FACTS) or _is_made(database, name)}


def _is_made(database: Any, name: str) -> bool:
    try:
        database.open_table(name)
    except ValueError as error:
        return "not found" not in str(error)
    except RuntimeError:  # it is damaged, which is said where it is used
        return True
    return True
