"""A collection in Milvus, through pymilvus: `milvus://host:port/NAME` for a cluster, `NAME.db` for a milvus-lite file.

    NAME            id, vector, and each column `c` as the field `c_c`, nullable; times as microseconds, bytes as base64
    NAME__facts     key, value (JSON): fingerprint, columns, roots, index report

The contract was tested against milvus-lite, which is one process and made for development. No cluster was run: several
writers, its quantised and disk indexes, and its memory mapping are untested. A token is read from MILVUS_TOKEN, never
from an address.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from babelclip.errors import BabelclipError, require, shown
from babelclip.search import exact as exact_search
from babelclip.search import recall
from babelclip.search.collection import (
    CollectionStats,
    ImageSpace,
    IndexReport,
    IndexSpec,
    UnsupportedError,
    check_writable,
    facts_of_making,
    made_as,
    now,
)
from babelclip.search.columns import (
    VECTOR,
    all_columns,
    check_columns,
    checked_rows,
    fields_of,
    unit_rows,
    vectors_of,
)
from babelclip.search.filters import And, Filter, In, to_milvus

_PREFIX, _FACTS = "c_", "__facts"
_TEXT_BYTES, _ID_BYTES, _MAX_K = 65_535, 4_096, 16_384
_ROWS_AT_ONCE, _IDS_AT_ONCE = 500, 1000
_NO_INDEX_BELOW = 50_000
_LINKS, _BUILD_EFFORT, _EFFORT = 32, 200, 256
_TYPES = {"text": "VARCHAR", "int": "INT64", "float": "DOUBLE", "bool": "BOOL", "time": "INT64", "bytes": "VARCHAR"}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,200}")
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def open_milvus(url: str, *, write: bool = False) -> MilvusCollection:
    """Returns the collection at `url`.

    Raises:
        BabelclipError: there is none, the server does not answer, or it was not made by babelclip.
        MissingExtraError: pymilvus (or, for a file, milvus-lite) is not installed.
    """
    client, name = _connect(url, new=False)
    with _naming(url):
        there = client.has_collection(name) and client.has_collection(name + _FACTS)
    if not there:
        client.close()
        raise BabelclipError(f"{url} is not a collection of babelclip: make it with create_collection.")
    with _naming(url):
        # After a restart of the server, or of the process of a file, nothing is in memory.
        client.load_collection(name + _FACTS)
        client.load_collection(name)
    return MilvusCollection(url, client, name, write=write)


def create_milvus(
    url: str, fingerprint: ImageSpace, own: Mapping[str, str], roots: Mapping[str, str]
) -> MilvusCollection:
    """Returns a new collection at `url`.

    Raises:
        BabelclipError: there is one already, or the server does not answer.
    """
    client, name = _connect(url, new=True)
    from pymilvus import DataType

    with _naming(url):
        if client.has_collection(name + _FACTS):
            client.close()
            raise BabelclipError(f"{url} is there already: open it with open_collection(..., write=True).")
        if client.has_collection(name):
            client.drop_collection(name)  # its making was stopped: a whole one has facts
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=_ID_BYTES)
        schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=fingerprint.dim)
        for column, kind in all_columns(own).items():
            if column != "id":
                length = {"max_length": _TEXT_BYTES} if _TYPES[kind] == "VARCHAR" else {}
                schema.add_field(_PREFIX + column, getattr(DataType, _TYPES[kind]), nullable=True, **length)
        client.create_collection(name, schema=schema, index_params=_index(client, 0), consistency_level="Strong")
        facts = client.create_schema(auto_id=False, enable_dynamic_field=False)
        facts.add_field("id", DataType.VARCHAR, is_primary=True, max_length=_ID_BYTES)
        facts.add_field("value", DataType.VARCHAR, max_length=_TEXT_BYTES)
        facts.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=2)  # a Milvus collection needs one
        index = _index(client, 0)
        client.create_collection(name + _FACTS, schema=facts, index_params=index, consistency_level="Strong")
    collection = MilvusCollection(url, client, name, write=True, fresh=True)
    collection.set_fact("roots", dict(roots))
    collection.set_fact("collection", facts_of_making(fingerprint, own))
    collection.refresh()
    return collection


class MilvusCollection:
    """See `babelclip.search.collection.Collection`.

    One difference: rows are written in blocks of 500, so an upsert that is interrupted leaves the blocks before; say
    it again. There are no versions, so no snapshots.

    Attributes:
        name, url: as given.
        fingerprint, columns: see there.
    """

    def __init__(self, url: str, client: Any, name: str, *, write: bool, fresh: bool = False) -> None:
        self.url, self.name = url, Path(url).stem if url.endswith(".db") else name
        self._client, self._name, self._write = client, name, write
        self._effort, self._indexed = _EFFORT, False
        self._known_facts: dict[str, Any] = {}
        if not fresh:
            self.refresh()

    @property
    def roots(self) -> Mapping[str, str]:
        """Name of a source -> its folder."""
        return dict(self.fact("roots") or {})

    def upsert(self, rows: pa.Table | pa.RecordBatch) -> None:
        """See `Collection.upsert`."""
        check_writable(self._write, self.url)
        table = checked_rows(rows, self.columns, self.fingerprint.dim)
        written = [_to_milvus(row, self.columns) for row in table.drop_columns([VECTOR]).to_pylist()]
        vectors = vectors_of(table[VECTOR])
        for start in range(0, len(written), _ROWS_AT_ONCE):
            part = written[start : start + _ROWS_AT_ONCE]
            for row, vector in zip(part, vectors[start:], strict=False):
                row[VECTOR] = vector.tolist()
            with _naming(self.url):
                self._client.upsert(self._name, part)

    def delete(self, *, ids: Sequence[str] | None = None, where: Filter | None = None) -> int:
        """See `Collection.delete`.

        Raises:
            BabelclipError: neither ids nor a filter is given.
        """
        check_writable(self._write, self.url)
        if ids is None and where is None:
            raise BabelclipError("delete needs ids or a filter: to delete a whole collection, drop it in Milvus.")
        deleted = 0
        conditions = [where] if ids is None else [And((one, where)) if where else one for one in _id_filters(ids)]
        for condition in conditions:
            count = self.count(condition)
            if count and condition is not None:
                with _naming(self.url):
                    self._client.delete(self._name, filter=self._expression(condition))
            deleted += count
        return deleted

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
        """See `Collection.search`.

        Raises:
            UnsupportedError: k is above 16,384.
        """
        queries = unit_rows(vectors, self.fingerprint.dim, "query")
        k = exact_search.checked_k(k)
        names = [*check_columns(list(columns), self.columns), *([VECTOR] if with_vectors else [])]
        schema = exact_search.result_schema(fields_of(names, self.columns, self.fingerprint.dim))
        if k > _MAX_K:
            raise UnsupportedError(f"Milvus gives at most {_MAX_K:,} results, not {k:,}: ask for fewer.")
        if not len(queries):
            return schema.empty_table()
        if exact and self._indexed:
            return exact_search.exact_table(self, queries, k, where, names, schema)
        with _naming(self.url):
            answers = self._client.search(
                self._name,
                data=queries.tolist(),
                limit=k,
                filter="" if where is None else self._expression(where),
                output_fields=self._fields(names),
                search_params={"metric_type": "IP", "params": {"ef": max(self._effort, k)} if self._indexed else {}},
            )
        rows = [
            {"query": number, "score": hit["distance"], **self._from_milvus({"id": hit["id"], **hit["entity"]}, names)}
            for number, answer in enumerate(answers)
            for hit in answer
        ]
        return exact_search.sorted_results(pa.Table.from_pylist(rows, schema=schema))

    def get(self, ids: Sequence[str], *, columns: Sequence[str] = (), with_vectors: bool = False) -> pa.Table:
        """See `Collection.get`."""
        names = [*check_columns(list(columns), self.columns), *([VECTOR] if with_vectors else [])]
        schema = pa.schema(fields_of(["id", *names], self.columns, self.fingerprint.dim))
        rows: list[dict[str, Any]] = []
        for condition in _id_filters(ids):  # the client's own get() does not escape quotes in ids
            expression = self._expression(condition)
            with _naming(self.url):
                rows += self._client.query(self._name, filter=expression, output_fields=["id", *self._fields(names)])
        table = pa.Table.from_pylist([self._from_milvus(row, names) for row in rows], schema=schema)
        return exact_search.take_ids(table, ids)

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
        with _naming(self.url):
            rows = self._client.query_iterator(
                self._name,
                batch_size=min(batch_rows, _MAX_K),
                filter="" if where is None else self._expression(where),
                output_fields=["id", *self._fields(names)],
            )
            while part := rows.next():
                yield pa.RecordBatch.from_pylist([self._from_milvus(row, names) for row in part], schema=schema)
            rows.close()

    def count(self, where: Filter | None = None) -> int:
        """See `Collection.count`."""
        condition = "" if where is None else self._expression(where)
        with _naming(self.url):
            answer = self._client.query(self._name, filter=condition, output_fields=["count(*)"])
        return int(answer[0]["count(*)"])

    def add_columns(self, columns: Mapping[str, str]) -> None:
        """See `Collection.add_columns`.

        Raises:
            UnsupportedError: columns are new: milvus-lite cannot add fields.
        """
        new = sorted(name for name, kind in columns.items() if self.columns.get(name) != kind)
        if new:
            self._refuse(f"columns are chosen when a collection is made, so {', '.join(new)} cannot be added")

    def set_roots(self, roots: Mapping[str, str]) -> None:
        """See `Collection.set_roots`."""
        self.set_fact("roots", dict(roots))

    def fact(self, key: str) -> Any:
        """See `Collection.fact`."""
        return self._known_facts.get(key)

    def set_fact(self, key: str, value: Any) -> None:
        """See `Collection.set_fact`.

        Raises:
            BabelclipError: the value is longer than Milvus keeps.
        """
        check_writable(self._write, self.url)
        text = json.dumps(value)
        if len(text.encode()) > _TEXT_BYTES:
            raise BabelclipError(f"fact {key!r} has {len(text):,} characters: Milvus keeps {_TEXT_BYTES:,}.")
        with _naming(self.url):
            self._client.upsert(self._name + _FACTS, [{"id": key, "value": text, VECTOR: [1.0, 0.0]}])
        self._known_facts[key] = value

    def build_index(self, spec: IndexSpec | None = None) -> IndexReport:
        """See `Collection.build_index`: comparing all rows below 50,000, an HNSW graph from there on."""
        check_writable(self._write, self.url)
        spec, rows, start = spec or IndexSpec(), self.count(), time.perf_counter()
        if spec.kind not in ("auto", "none"):
            self._refuse(f"an index is chosen by the number of rows (kind auto) or none, not {spec.kind!r}")
        graph = spec.kind == "auto" and rows >= _NO_INDEX_BELOW
        with _naming(self.url):
            self._client.release_collection(self._name)
            self._client.drop_index(self._name, VECTOR)
            self._client.create_index(self._name, _index(self._client, _LINKS if graph else 0))
            self._client.load_collection(self._name)
        self._indexed = graph
        report = IndexReport("hnsw" if graph else "none", rows, seconds=time.perf_counter() - start, made=now())
        if graph:
            report = recall.measured(self, report, replace(spec, probes=spec.probes or _EFFORT))
        self.set_fact("index_report", report.to_json())
        return report

    def use_index(self, report: IndexReport) -> None:
        """Looks at `report.probes` candidates in a search from now on."""
        self._effort = report.probes

    def optimize(self, *, keep_versions_for: float = 3600.0) -> None:
        """See `Collection.optimize`: asks Milvus to compact; when deleted rows leave its disk is its own affair."""
        check_writable(self._write, self.url)
        with _naming(self.url):
            self._client.flush(self._name)
            self._client.compact(self._name)

    def stats(self) -> CollectionStats:
        """See `Collection.stats`."""
        content = self.fact("index_report")
        report = IndexReport.from_json(content) if content else None
        rows = self.count()
        advice = "" if self._indexed or rows < _NO_INDEX_BELOW else f"{rows:,} rows without an index: build one."
        return CollectionStats("milvus", rows, index="hnsw" if self._indexed else "none", report=report, advice=advice)

    def version(self) -> int:
        """Returns 0: Milvus keeps no versions."""
        return 0

    def at(self, version: int) -> NoReturn:
        """Raises an error."""
        self._refuse("there are no versions")

    def refresh(self) -> None:
        """See `Collection.refresh`."""
        with _naming(self.url):
            rows = self._client.query(self._name + _FACTS, filter='id != ""', output_fields=["id", "value"], limit=1000)
        self._known_facts = {row["id"]: json.loads(row["value"]) for row in rows}
        self.fingerprint, own = made_as(self._known_facts.get("collection"), self.url)
        self.columns: Mapping[str, str] = all_columns(own)
        report = IndexReport.from_json(self._known_facts.get("index_report") or {"kind": "none", "rows": 0})
        self._indexed = report.kind != "none"
        self._effort = report.probes or _EFFORT

    def close(self) -> None:
        """See `Collection.close`."""
        self._client.close()

    def _refuse(self, what: str) -> NoReturn:
        raise UnsupportedError(f"{self.url} lies in Milvus, where {what}. A NAME.lance has it.")

    def _expression(self, where: Filter) -> str:
        return to_milvus(where, self.columns, _PREFIX)

    def _fields(self, names: Sequence[str]) -> list[str]:
        return [name if name == VECTOR else _PREFIX + name for name in names]

    def _from_milvus(self, row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        values: dict[str, Any] = {"id": row["id"]}
        for name in names:
            value = row.get(name if name == VECTOR else _PREFIX + name)
            kind = "" if name == VECTOR else self.columns[name]
            if name == VECTOR:
                value = np.asarray(value, np.float32)
            elif value is not None and kind == "time":
                value = _EPOCH + datetime.timedelta(microseconds=value)
            elif value is not None and kind == "bytes":
                value = base64.b64decode(value)
            values[name] = value
        return values


def _to_milvus(row: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    written: dict[str, Any] = {"id": row.pop("id")}
    for name, value in row.items():
        kind = columns[name]
        if value is not None and kind == "time":
            value = (value - _EPOCH) // datetime.timedelta(microseconds=1)
        elif value is not None and kind == "bytes":
            value = base64.b64encode(value).decode("ascii")
        if isinstance(value, str) and len(value.encode()) > _TEXT_BYTES:
            raise BabelclipError(
                f"column {name!r} of id {shown(written['id'])!r} takes {len(value.encode()):,} bytes, but Milvus keeps "
                f"at most {_TEXT_BYTES:,} (pictures and the like: {_TEXT_BYTES * 3 // 4:,}): shorten it."
            )
        written[_PREFIX + name] = value
    return written


def _id_filters(ids: Sequence[str]) -> Iterator[Filter]:
    names = [name for name in dict.fromkeys(ids) if isinstance(name, str) and name]
    for start in range(0, len(names), _IDS_AT_ONCE):
        yield In("id", tuple(names[start : start + _IDS_AT_ONCE]))


def _index(client: Any, links: int) -> Any:
    """Returns the index of vectors: an HNSW graph of so many links, or none, which compares all rows."""
    params = client.prepare_index_params()
    if links:
        settings = {"M": links, "efConstruction": _BUILD_EFFORT}
        params.add_index(VECTOR, index_type="HNSW", metric_type="IP", params=settings)
    else:
        params.add_index(VECTOR, index_type="FLAT", metric_type="IP")
    return params


def _without_password(url: str) -> str:
    return re.sub(r"//[^/]*@", "//…@", url)


def _connect(url: str, *, new: bool) -> tuple[Any, str]:
    """Returns a client and the name of the collection."""
    pymilvus = require("pymilvus", "milvus")
    if url.endswith(".db"):
        require("milvus_lite", "dev")
        path = Path(url).expanduser()
        if not new and not path.exists():
            raise BabelclipError(f"{path} does not exist: check the path, or make it with create_collection.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with _naming(url):
            return pymilvus.MilvusClient(uri=str(path)), "pictures"
    address, _, name = url.removeprefix("milvus://").partition("/")
    if not address or "@" in address or not _NAME.fullmatch(name):
        raise BabelclipError(
            f"{shown(_without_password(url))} is not an address of Milvus: milvus://host:port/NAME, where a name is "
            "letters, digits and underscores; a token comes from the environment variable MILVUS_TOKEN."
        )
    with _naming(url):
        token = os.environ.get("MILVUS_TOKEN", "")
        return pymilvus.MilvusClient(uri=f"http://{address}", token=token, timeout=10), name


@contextlib.contextmanager
def _naming(url: str) -> Iterator[None]:
    """Turns what pymilvus raises into an error that names the collection."""
    pymilvus = require("pymilvus", "milvus")
    try:
        yield
    except pymilvus.MilvusException as error:
        raise BabelclipError(
            f"Milvus refused or did not answer for {url} ({shown(error, 160)}): look whether the server runs and the "
            "token is right; a NAME.db takes one process at a time."
        ) from error
