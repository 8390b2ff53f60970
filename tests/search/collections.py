"""Small collections of every backend with the same rows, and folders of clip-retrieval made by hand."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from babelclip.search.collection import Collection, ImageSpace, create_collection, open_collection, snapshot_of
from babelclip.search.columns import ARROW_TYPES, vector_array
from babelclip.search.faiss_fast import open_fast
from babelclip.search.memory import copied

DIM, ROWS = 16, 120
SPACE = ImageSpace("test/space", "test/model", "abc", DIM, "p", "float32", ("test/text",))
OWN = {"price": "float", "stars": "int", "liked": "bool", "taken": "time", "Title": "text"}
WRITERS, READERS = ("lance", "milvus"), ("faiss", "fast", "memory")
BACKENDS = WRITERS + READERS
# Scores of the same vectors from different engines: float32, summed in different orders.
SCORE_TOLERANCE = 2e-6
TEXTS = [
    "",
    "sv",
    "a'b",
    'a"b',
    "a\\b",
    "红色",
    "\u202eabc",
    "' OR 1=1 --",
    "%",
    "_",
    "SV",
    "a\nb",
    "é",
    "e\u0301",
    "🐶",
]
WHOLE = [-(2**63), -5, 0, 1, 2, 1000, 2**53 + 1, 2**63 - 1]
FLOATS = [-1e300, -1.5, 0.0, 1e-300, 0.1, 2.0, 1e300]
TIMES = [datetime.datetime(y, 2, 28, 23, 59, 59, 999999, tzinfo=datetime.timezone.utc) for y in (1950, 1970, 2024)]


def make_rows(start: int = 0, end: int = ROWS, seed: int = 0) -> pa.Table:
    """Rows start .. end-1 with awkward values and nulls in every column, always the same ones."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((ROWS * 4, DIM)).astype(np.float32)[start:end]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    numbers = range(start, end)

    def pick(values: list, every: int) -> list:
        return [None if n % every == 0 else values[(n * 7 + n // 5) % len(values)] for n in numbers]

    columns = {
        "caption": pick(TEXTS, 4),
        "lang": pick(["sv", "de", "zh"], 3),
        "width": pick(WHOLE, 5),
        "modified": pick(TIMES, 6),
        "thumbnail": [None if n % 7 == 0 else bytes([n % 256, 0, 255, 39]) * (n % 50) for n in numbers],
        "price": pick(FLOATS, 4),
        "stars": pick([1, 2, 3, 4, 5], 9),
        "liked": pick([True, False], 3),
        "taken": pick(TIMES, 2),
        "Title": pick(TEXTS, 5),
    }
    kinds = {"caption": "text", "lang": "text", "width": "int", "modified": "time", "thumbnail": "bytes", **OWN}
    arrays = {name: pa.array(values, ARROW_TYPES[kinds[name]]) for name, values in columns.items()}
    ids = [f'picture {n}\'s "ü"' if n % 10 == 0 else f"r{n}" for n in numbers]
    return pa.table({"id": pa.array(ids), "vector": vector_array(vectors), **arrays})


def write_clip_retrieval(
    folder: Path, rows: pa.Table, *, parts: int = 2, dtype: str = "float32", names: bool = True
) -> Path:
    """A folder in the format of clip-retrieval, by numpy and pyarrow alone; `names` adds our column of ids."""
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    vectors = np.array(rows["vector"].to_pylist(), np.float32)
    digits = int(np.log10(parts)) + 1
    for part, chosen in enumerate(np.array_split(np.arange(len(rows)), parts)):
        np.save(folder / "img_emb" / f"img_emb_{part:0{digits}d}.npy", vectors[chosen].astype(dtype))
        table = rows.take(pa.array(chosen)).drop_columns(["vector"])
        table = table.rename_columns(["store_id" if name == "id" else name for name in table.column_names])
        table = table if names else table.drop_columns(["store_id"])
        pq.write_table(table, folder / "metadata" / f"metadata_{part:0{digits}d}.parquet")
    return folder


def make_collection(backend: str, folder: Path, rows: pa.Table | None = None) -> Collection:
    """The rows as a collection of a backend; the writers are open for writing."""
    rows = make_rows() if rows is None else rows
    if backend == "faiss":
        return open_collection(write_clip_retrieval(folder / "clip-retrieval", rows), space=SPACE.space)
    suffix = {"lance": "my pictures.lance", "fast": "x.lance", "memory": "x.lance", "milvus": "pictures.db"}[backend]
    collection = create_collection(folder / suffix, SPACE, columns=OWN, roots={"home": "/somewhere"})
    if len(rows):
        collection.upsert(rows)
    if backend == "fast":
        return open_fast(collection, folder=folder / "fast")
    return in_memory(collection) if backend == "memory" else collection


def in_memory(collection: Collection) -> Collection:
    """The newest version of a small collection, copied."""
    copy = copied(snapshot_of(collection), most_rows=10_000, most_bytes=1 << 24)
    assert copy is not None
    return copy


def files_with(folder: Path, needle: bytes) -> list[str]:
    """Files below a folder that hold these bytes."""
    return [
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes()
    ]


Made = Callable[[], Collection]
