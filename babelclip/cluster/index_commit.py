"""A group of finished shards into the table of a collection: one version for new rows, however many shards.

The version of the table is noted with the number of committed shards. Where it is another one at the next commit, the
ids of the group are looked up, so that no row can come in twice, and none be missed, whoever wrote meanwhile.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from babelclip.cluster import index_plan
from babelclip.cluster.index_shard import CHANGED_ROWS
from babelclip.cluster.ledger import DamagedFragmentError, Fragment, Ledger, Shard
from babelclip.errors import BabelclipError, require
from babelclip.files import sha256
from babelclip.search.collection import Collection, open_collection
from babelclip.search.index_known import NEW
from babelclip.search.index_state import Waiting


class OutdatedPlanError(BabelclipError):
    """Another command wrote some of the rows that were planned; the plan is removed, and can be made anew."""


def commit_group(url: str, table: str, folder: str, shards: Sequence[Shard], version: int, run: str) -> int:
    """Puts finished shards into the collection at `url`, and returns the version of its table after that.

    Args:
        url: of the collection.
        table: its Lance table.
        folder: of the job.
        shards: in their order.
        version: of the table after the last commit.
        run: name of this run: what it wrote itself is not read again to compare checksums.

    Raises:
        DamagedFragmentError: a fragment is not as it was written.
        OutdatedPlanError: a part of a shard's rows is there, by another command.
    """
    ledger = Ledger(folder)
    fragments = [_checked(ledger, shard, table, run) for shard in shards]
    ids = [_ids(folder, shard, fragment) for shard, fragment in zip(shards, fragments, strict=True)]
    with contextlib.closing(open_collection(url, write=True)) as collection:
        there: set[str] = set()
        if collection.version() != version:
            there = _present(collection, [name for new, _changed in ids for name in new])
        # Ids that wait for their near duplicates, written before their rows are.
        Waiting(url).add(name for new, changed in ids for name in [*new, *changed])
        append: list[Any] = []
        for fragment, (new, _changed) in zip(fragments, ids, strict=True):
            if not there.intersection(new):
                append += fragment.facts["fragments"]
            elif not there.issuperset(new):
                index_plan.clear_plan(folder)
                raise OutdatedPlanError(
                    f"Of the {len(new)} new rows of shard {fragment.number} some are in {url} already: another command "
                    "indexed these pictures since this one was begun. Run the same again: it looks anew."
                )
        if append:
            _append(table, append)
            collection.refresh()
        for shard, (_new, changed) in zip(shards, ids, strict=True):
            if changed:
                _upsert(collection, ledger, shard)
        return collection.version()


def _checked(ledger: Ledger, shard: Shard, table: str, run: str) -> Fragment:
    """Returns the fragment of a shard whose files in the table are as they were written."""
    fragment = ledger.find(shard)
    whole = fragment is not None and all(
        _is_whole(Path(table) / "data" / name, size, None if fragment.facts["run"] == run else digest)
        for name, size, digest in fragment.facts["files"]
    )
    if fragment is None or not whole:
        ledger.forget(shard)
        raise DamagedFragmentError(
            f"The rows of shard {shard.number} in {table} are not as they were written: their files must have sizes "
            "and checksums of the ledger's entry. It was forgotten: run the same again, which makes them anew."
        )
    return fragment


def _is_whole(file: Path, size: int, digest: str | None) -> bool:
    if not file.is_file() or file.stat().st_size != size:
        return False
    return digest is None or sha256(file) == digest


def _ids(folder: str, shard: Shard, fragment: Fragment) -> tuple[list[str], list[str]]:
    """Returns the ids of new rows and of those that replace others."""
    bad = {position for position, _name, _reason in fragment.facts["skipped"]}
    kept = [item for place, item in enumerate(zip(*index_plan.ids_of(folder, shard), strict=True)) if place not in bad]
    return [name for name, kind in kept if kind == NEW], [name for name, kind in kept if kind != NEW]


def _present(collection: Collection, ids: Sequence[str]) -> set[str]:
    return set(collection.get(ids)["id"].to_pylist())


def _append(table: str, fragments: Sequence[Any]) -> None:
    lance = require("lance", "cluster")
    made = [lance.fragment.FragmentMetadata.from_json(json.dumps(content)) for content in fragments]
    dataset = lance.dataset(table)
    lance.LanceDataset.commit(dataset, lance.LanceOperation.Append(made), read_version=dataset.version)


def _upsert(collection: Collection, ledger: Ledger, shard: Shard) -> None:
    with ledger.open(shard) as (_fragment, place), pa.OSFile(str(place / CHANGED_ROWS)) as file:
        collection.upsert(pa.ipc.open_file(file).read_all())
