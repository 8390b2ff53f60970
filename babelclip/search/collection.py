"""`Collection`: pictures made searchable. One small interface, so that engines stay replaceable.

    NAME.lance, s3://bucket/NAME.lance     LanceDB: the default (lance.py)
    milvus://host:port/NAME, NAME.db       Milvus, a cluster or a local milvus-lite file (milvus.py)
    a folder of clip-retrieval             FAISS: read as it is, exact search (faiss.py)

Entry points: `create_collection`, `open_collection`. Scores are cosines, higher is better, and the same number from
every backend. Row letters: Q queries, K top k, D embed_dim.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy.typing as npt
import pyarrow as pa

from babelclip.errors import BabelclipError, SpaceMismatchError, shown
from babelclip.search.columns import FIXED, all_columns
from babelclip.search.filters import Filter

# Of what a collection notes of itself.
FORMAT, VERSION = "babelclip-collection", 1
# What tells a folder of clip-retrieval: its own vectors, or its indexes.
_FAISS_FOLDERS = ("img_emb", "text_emb", "image.index", "text.index")


class UnsupportedError(BabelclipError):
    """The backend of a collection lacks this operation; the message says which one has it."""


def refusing(what: str) -> Callable[..., Any]:
    """Returns the method of an operation that a backend lacks: it raises `self.refuse(what)`, whatever is given."""

    def method(self: Any, *_given: object, **_named: object) -> NoReturn:
        raise self.refuse(what)

    return method


@dataclass(frozen=True)
class ImageSpace:
    """What made the vectors of a collection: its fingerprint. Only encoders of the same `space` may ask it.

    Attributes:
        space: id of the embedding space.
        image_model: name of the model whose picture tower encoded the pictures.
        revision: commit of its weights, "" where unknown.
        dim: D.
        preprocess: hash of how pictures were prepared, "" where unknown.
        dtype: what the tower computed in.
        text_models: text encoders known to fit, for messages and choices; any of the same space may ask.
    """

    space: str
    image_model: str
    revision: str = ""
    dim: int = 0
    preprocess: str = ""
    dtype: str = "float32"
    text_models: tuple[str, ...] = ()

    def check_space(self, space: str, what: str) -> None:
        """Does nothing where `space` is that of the collection; `what` names the two, for example "a and b".

        Raises:
            SpaceMismatchError: it is another; names both.
        """
        if space != self.space:
            raise SpaceMismatchError(self.space, space, what)

    def check_same(self, other: ImageSpace, what: str) -> None:
        """Does nothing where the pictures of `other` were encoded in the same way, so that rows may be added.

        Raises:
            SpaceMismatchError: they lie in another space.
            BabelclipError: tower, revision, dimension or preparation differ; names the fact.
        """
        self.check_space(other.space, what)
        for name in ("image_model", "revision", "dim", "preprocess"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs and ours and theirs:
                raise BabelclipError(
                    f"{what} were encoded differently: {name} is {ours!r} against {theirs!r}. Pictures of one "
                    "collection are encoded by one model: use that one, or make a new collection."
                )

    def to_json(self) -> dict[str, Any]:
        """Returns the fingerprint as JSON content."""
        return {**asdict(self), "text_models": list(self.text_models)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ImageSpace:
        """Returns the fingerprint that `to_json` gave; keys it does not know are left out."""
        known = {name: content[name] for name in cls.__dataclass_fields__ if name in content}
        return cls(**{**known, "text_models": tuple(known.get("text_models", ()))})


@dataclass(frozen=True)
class IndexSpec:
    """How to build an index; the defaults follow the number of rows.

    Attributes:
        kind: `auto` (none below 50,000 rows, then `ivf_rq`), `none` or `ivf_rq`.
        partitions: 0 takes sqrt(rows), and above 10 million rows one for each 7,500.
        bits: of a number in the index.
        refine: candidates for each result that are compared by their full vectors.
        probes: partitions read for a query; 0 takes the least that reaches `target_recall`.
        target_recall: recall@10 that the choice of probes aims at.
        queries: sampled for the recall report, of each kind.
        text_queries: (Q, D) vectors of texts, for example of captions, whose recall is reported apart.
    """

    kind: str = "auto"
    partitions: int = 0
    bits: int = 1
    refine: int = 10
    probes: int = 0
    target_recall: float = 0.98
    queries: int = 200
    text_queries: npt.NDArray[Any] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class IndexReport:
    """What a build made, and how well it finds: search against exact search on sampled queries.

    Attributes:
        kind, partitions, bits, probes, refine: of the index; `kind` `none` where search is exact.
        rows: when it was built.
        seconds: of the build.
        recall: recall@10 by kind of query, `text` and `picture`; empty where search is exact.
        queries: how many of each.
        made: when, UTC, ISO 8601.
    """

    kind: str
    rows: int
    partitions: int = 0
    bits: int = 0
    probes: int = 0
    refine: int = 0
    seconds: float = 0.0
    recall: Mapping[str, float] = field(default_factory=dict)
    queries: Mapping[str, int] = field(default_factory=dict)
    made: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns the report as JSON content."""
        return {**asdict(self), "recall": dict(self.recall), "queries": dict(self.queries)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> IndexReport:
        """Returns the report that `to_json` gave; keys it does not know are left out."""
        return cls(**{name: content[name] for name in cls.__dataclass_fields__ if name in content})

    def sentence(self) -> str:
        """Returns the report in a line for people."""
        if self.kind == "none":
            return f"{self.rows:,} rows: no index, search is exact"
        found = ", ".join(f"{name} queries {share:.3f} ({self.queries[name]})" for name, share in self.recall.items())
        return (
            f"{self.rows:,} rows: {self.kind}, {self.partitions} partitions, {self.probes} probed, refined "
            f"{self.refine}x, built in {self.seconds:.1f} s; recall@10 of {found or 'no query'}"
        )


@dataclass(frozen=True)
class CollectionStats:
    """Facts of a collection now.

    Attributes:
        backend: `lance`, `faiss`, `fast` or `milvus`.
        rows: in all.
        unindexed: rows that the index does not cover yet; they are searched exactly.
        index: its kind, `none` where search is exact.
        deltas: parts of the index; each costs query time, a build makes it one again.
        bytes: on disk, -1 where unknown.
        versions: kept, deleted rows among them.
        report: of the last build, None where there was none.
        advice: what should be done, "" where nothing.
    """

    backend: str
    rows: int
    unindexed: int = 0
    index: str = "none"
    deltas: int = 0
    bytes: int = -1
    versions: int = 1
    report: IndexReport | None = None
    advice: str = ""


class Collection(Protocol):
    """Pictures with vectors, captions, metadata and thumbnails. What a backend lacks is an `UnsupportedError`.

    Attributes:
        name: what people call it.
        url: what `open_collection` takes.
        fingerprint: what made the vectors.
        columns: name -> type (text, int, float, bool, time, bytes) of all columns but the vector.
        roots: name of a source (column `source`) -> the folder that `path` is relative to.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def url(self) -> str: ...  # noqa: D102
    @property
    def fingerprint(self) -> ImageSpace: ...  # noqa: D102
    @property
    def columns(self) -> Mapping[str, str]: ...  # noqa: D102
    @property
    def roots(self) -> Mapping[str, str]: ...  # noqa: D102

    def upsert(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Adds rows, and replaces those whose id is there; all of them or none, and durable when it returns.

        Args:
            rows: `id`, `vector`, and any other columns; those that lack are null.

        Raises:
            BabelclipError: rows do not fit (see `columns.checked_rows`), or the collection is open for reading.
        """

    def delete(self, *, ids: Sequence[str] | None = None, where: Filter | None = None) -> int:
        """Deletes rows by id, by filter, or those that both name, and returns how many.

        They are not found any more from now on; `optimize(keep_versions_for=0)` removes them from the disk too.
        """

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
        """Returns the best `k` rows of each query, best first: all that there are where fewer than k fulfil `where`.

        Args:
            vectors: (Q, D) or (D,); need not be normalised.
            k: results for each query.
            where: only rows that fulfil it.
            columns: of the result beside query, id and score.
            with_vectors: add column `vector` (D float32).
            exact: compare with every row, without the index.

        Returns:
            query int32 (0 .. Q-1), id string, score float32 (cosine), then `columns`; at most Q * k rows.

        Raises:
            BabelclipError: vectors are not finite or of another dimension, k is not positive, a column is unknown.
        """

    def get(self, ids: Sequence[str], *, columns: Sequence[str] = (), with_vectors: bool = False) -> pa.Table:
        """Returns the rows of `ids`, in their order; ids that are not there are left out."""

    def scan(
        self,
        *,
        columns: Sequence[str] = (),
        where: Filter | None = None,
        with_vectors: bool = False,
        batch_rows: int = 4096,
    ) -> Iterator[pa.RecordBatch]:
        """Yields all rows that fulfil `where` in batches: `id`, then `columns`, then `vector` where asked for."""

    def count(self, where: Filter | None = None) -> int:
        """Returns how many rows there are, or fulfil `where`."""

    def add_columns(self, columns: Mapping[str, str]) -> None:
        """Adds columns, null in all rows; those that are there with the same type are left alone."""

    def set_roots(self, roots: Mapping[str, str]) -> None:
        """Replaces the folders of the sources, for pictures that have moved."""

    def fact(self, key: str) -> Any:
        """Returns what was noted under `key` (JSON content), None where nothing was."""

    def set_fact(self, key: str, value: Any) -> None:
        """Notes JSON content beside the rows, for example a calibration; None removes it."""

    def build_index(self, spec: IndexSpec | None = None) -> IndexReport:
        """Builds the index anew (none where the policy says so), measures it, stores the report and returns it."""

    def optimize(self, *, keep_versions_for: float = 3600.0) -> None:
        """Compacts files, takes new rows into the index, and removes versions older than so many seconds.

        Readers of an older version fail after that: keep longer than the longest request or cursor. 0 makes deletion
        real, on disk too.
        """

    def stats(self) -> CollectionStats:
        """Returns facts of the collection."""

    def version(self) -> int:
        """Returns the number of the version that is read; each write makes one."""

    def at(self, version: int) -> Collection:
        """Returns a read-only snapshot.

        Raises:
            BabelclipError: the version is not kept any more.
        """

    def refresh(self) -> None:
        """Reads what others have written since."""

    def close(self) -> None:
        """Gives locks and memory back."""


def facts_of_making(fingerprint: ImageSpace, own: Mapping[str, str]) -> dict[str, Any]:
    """Returns what a new collection notes of itself (JSON content)."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": fingerprint.to_json(),
        "own_columns": dict(own),
        "made": now(),
    }


def made_as(facts: Any, url: str) -> tuple[ImageSpace, dict[str, str]]:
    """Returns the fingerprint and the own columns that `facts_of_making` noted.

    Raises:
        BabelclipError: they are of another format or version.
    """
    if not isinstance(facts, dict) or facts.get("format") != FORMAT or facts.get("version") != VERSION:
        raise BabelclipError(
            f"{url} is not a collection of version {VERSION} ({shown(facts)}): install a newer babelclip, or make it "
            "anew."
        )
    return ImageSpace.from_json(facts["fingerprint"]), dict(facts["own_columns"])


def check_writable(write: bool, url: str) -> None:
    """Does nothing where a collection is open for writing.

    Raises:
        BabelclipError: it is not.
    """
    if not write:
        raise BabelclipError(
            f"{url} is open for reading only: open it with open_collection(..., write=True) to change it."
        )


def snapshot_of(collection: Collection) -> Collection:
    """Returns the version that is read now as one that stays what it is.

    Raises:
        UnsupportedError: its engine keeps no versions (Milvus).
    """
    return collection.at(collection.version())


def bytes_below(folder: Path) -> int:
    """Returns the bytes of all files below a folder, in which others may add and remove files meanwhile."""
    size = 0
    for here, _folders, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                size += os.stat(os.path.join(here, name)).st_size
    return size


def now() -> str:
    """Returns the time, UTC, ISO 8601 to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def backend_of(url: str | Path) -> str:
    """Returns which backend an address means: `lance`, `milvus` or `faiss`.

    Raises:
        BabelclipError: none.
    """
    text = str(url)
    if text.startswith("milvus://") or text.endswith(".db"):
        return "milvus"
    if text.rstrip("/").endswith(".lance"):
        return "lance"
    if "://" not in text and any((Path(text).expanduser() / name).exists() for name in _FAISS_FOLDERS):
        return "faiss"
    raise BabelclipError(
        f"{text} is not a collection. A collection is NAME.lance (a folder, or s3://bucket/NAME.lance), "
        "milvus://host:port/NAME, a milvus-lite file NAME.db, or a folder of clip-retrieval (with img_emb/ or "
        "image.index): check the path, or make one with `babelclip index PICTURES --out NAME.lance`."
    )


def open_collection(url: str | Path, *, write: bool = False, space: str = "", cache_bytes: int = 0) -> Collection:
    """Returns the collection at `url` (see above).

    Args:
        url: where it is.
        write: whether rows will be changed.
        space: of a clip-retrieval folder, which does not say which space its vectors are of.
        cache_bytes: memory for index and metadata caches of LanceDB; 0 takes 1 GiB.

    Raises:
        BabelclipError: there is none, or its files do not fit together.
        MissingExtraError: its engine is not installed.
    """
    backend = backend_of(url)
    if backend == "faiss":
        from babelclip.search.faiss import open_faiss

        return open_faiss(url, space=space)
    if backend == "milvus":
        from babelclip.search.milvus import open_milvus

        return open_milvus(str(url), write=write)
    from babelclip.search.lance import open_lance

    return open_lance(url, write=write, cache_bytes=cache_bytes)


def create_collection(
    url: str | Path,
    fingerprint: ImageSpace,
    *,
    columns: Mapping[str, str] | None = None,
    roots: Mapping[str, str] | None = None,
) -> Collection:
    """Returns a new, empty collection that can be written to.

    Args:
        url: NAME.lance, s3://…/NAME.lance, milvus://host:port/NAME or NAME.db.
        fingerprint: what makes the vectors; `dim` is needed.
        columns: metadata beside the fixed columns (`columns.FIXED`), name -> text, int, float, bool, time or bytes.
        roots: name of a source -> absolute folder.

    Raises:
        BabelclipError: there is something already, or a column is not allowed.
        MissingExtraError: the engine is not installed.
    """
    if not fingerprint.space or fingerprint.dim < 1:
        raise BabelclipError(
            f"a collection needs the space and the dimension of its vectors, not {fingerprint.space!r} and "
            f"{fingerprint.dim}: take them from the model."
        )
    own = {name: kind for name, kind in (columns or {}).items() if FIXED.get(name) != kind}
    all_columns(own)
    backend = backend_of(url)
    if backend == "faiss":
        raise UnsupportedError(
            f"{url} is a folder of clip-retrieval, which is read as it is: make a NAME.lance and import it there."
        )
    if backend == "milvus":
        from babelclip.search.milvus import create_milvus

        return create_milvus(str(url), fingerprint, own, dict(roots or {}))
    from babelclip.search.lance import create_lance

    return create_lance(url, fingerprint, own, dict(roots or {}))
