"""What an index job is to do: shards of pictures that the collection lacks, in the order of the plain `index`.

    plan.json               settings, shards (id, rows), what the walk through the sources counted; written last
    plan/00000.parquet      the pictures of shard 0: a row of the collection each, but for what decoding gives
    plan/gone               ids of rows whose picture is gone, one a line
    state.json              how many shards are committed, and the version of the collection after that

The plan is made once, by one process, as walking and comparing twice would meet a collection that has grown meanwhile.
A shard is named by the hash of its rows and of all that decides its vectors: model, precision, batch. Rows that only
got another caption are written while the plan is made, as they need no model. What a source holds in memory (pictures
in Parquet) is not copied: the plan says file and row.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from babelclip import storage
from babelclip.cluster.ledger import Shard
from babelclip.cluster.place import place_at
from babelclip.models.preprocess import EncodedPicture
from babelclip.search.columns import VECTOR, schema_of
from babelclip.search.index_rows import row_of
from babelclip.search.index_sources import Found
from babelclip.search.index_tables import held_file, held_pictures

KIND, PICTURE, HELD = "_kind", "_picture", "_held"
PLAN, ROWS, GONE, STATE = "plan.json", "plan", "gone", "state.json"


@dataclasses.dataclass(frozen=True)
class Plan:
    """A plan that lies in a job's folder.

    Attributes:
        identity: hash of the settings that it was made for.
        shards: what is to be done.
        columns: name -> type of the collection.
        dim: D.
        dtype: precision that every worker loads the model in.
        counts: pictures by what became of them while the plan was made.
        problems: what the sources could not give, by reason: how often, and the first.
        there: rows that the collection had.
        gone: rows whose picture is gone.
        unused: rows of the table of captions that belong to no picture.
    """

    identity: str
    shards: list[Shard]
    columns: dict[str, str]
    dim: int
    dtype: str
    counts: dict[str, int]
    problems: dict[str, tuple[int, str]]
    there: int
    gone: int
    unused: int


def read_plan(folder: str, identity: str) -> Plan | None:
    """Returns the plan in `folder`; None where there is none, or it was made for other settings."""
    told = read_note(folder, PLAN)
    if told is None or told.get("identity") != identity:
        return None
    told["shards"] = [Shard(**shard) for shard in told["shards"]]
    told["problems"] = {reason: (count, first) for reason, (count, first) in told["problems"].items()}
    return Plan(**told)


def write_plan(folder: str, plan: Plan, gone: Sequence[str]) -> None:
    """Writes what `read_plan` reads; the shards' rows are there already."""
    place_at(folder).write(f"{ROWS}/{GONE}", "".join(f"{name}\n" for name in gone).encode())
    write_note(folder, PLAN, dataclasses.asdict(plan))


def gone_of(folder: str) -> list[str]:
    """Returns the ids of rows whose picture is gone."""
    return (place_at(folder).read(f"{ROWS}/{GONE}") or b"").decode().splitlines()


def clear_plan(folder: str) -> None:
    """Removes a plan: that which says that it is whole comes first."""
    for name in (PLAN, STATE, ROWS):
        place_at(folder).remove(name)


def read_note(folder: str, name: str) -> Any:
    """Returns the JSON in a file of a job's folder; None where there is none."""
    content = place_at(folder).read(name)
    return None if content is None else json.loads(content)


def write_note(folder: str, name: str, content: Any) -> None:
    """Writes what `read_note` reads."""
    place_at(folder).write(name, json.dumps(content, ensure_ascii=False).encode())


def write_shard(
    folder: str,
    number: int,
    items: Sequence[tuple[Found, str]],
    columns: Mapping[str, str],
    decides: Mapping[str, Any],
) -> Shard:
    """Writes the pictures of a shard, each with what it is (`NEW`, `CHANGED`); `decides` are settings of its result."""
    rows = [
        row_of(item, None)
        | {
            KIND: kind,
            PICTURE: storage.address(str(item.picture)),
            HELD: None if isinstance(item.picture, str) else held_file(item),
        }
        for item, kind in items
    ]
    name = f"{ROWS}/{number:05d}.parquet"
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, _schema(columns)), file)
    place_at(folder).write(name, file.getvalue())
    digest = hashlib.sha256(file.getvalue() + json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return Shard(number, digest, len(rows), name)


def read_shard(folder: str, shard: Shard) -> list[dict[str, Any]]:
    """Returns the rows of a shard as values by column, with `KIND`, `PICTURE` and `HELD`."""
    rows: list[dict[str, Any]] = pq.read_table(place_at(folder).source(shard.payload)).to_pylist()
    return rows


def ids_of(folder: str, shard: Shard) -> tuple[list[str], list[str]]:
    """Returns ids and kinds of the rows of a shard."""
    table = pq.read_table(place_at(folder).source(shard.payload), columns=["id", KIND])
    return table["id"].to_pylist(), table[KIND].to_pylist()


def pictures_of(rows: Sequence[Mapping[str, Any]]) -> list[str | EncodedPicture]:
    """Returns the pictures of rows, as `TowerEncoder` takes them; those in tables are read now."""
    by_file: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        if row[HELD] is not None:
            by_file.setdefault(row[HELD], []).append(place)
    pictures: list[str | EncodedPicture] = [row[PICTURE] for row in rows]
    for file, places in by_file.items():
        by_row = {rows[place]["source_row"]: place for place in places}
        for number, held in held_pictures(Path(file), list(by_row), [rows[place][PICTURE] for place in places]):
            pictures[by_row[number]] = held
    return pictures


def cut(items: Iterator[tuple[Found, str]], size: int) -> Iterator[list[tuple[Found, str]]]:
    """Yields items, `size` at a time."""
    part: list[tuple[Found, str]] = []
    for item in items:
        part.append(item)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def _schema(columns: Mapping[str, str]) -> pa.Schema:
    own = [field for field in schema_of(columns, 1) if field.name != VECTOR]
    return pa.schema([*own, *(pa.field(name, pa.string()) for name in (KIND, PICTURE, HELD))])
