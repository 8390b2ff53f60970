"""Makes the plan of an index job: walks through the sources, compares with the collection, cuts into shards."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Protocol

from babelclip.cluster import index_plan
from babelclip.cluster.index_plan import STATE, Plan
from babelclip.cluster.job import Means
from babelclip.cluster.ledger import Ledger
from babelclip.models.clip import Clip
from babelclip.models.decoding import decoder_pool
from babelclip.progress import progress_bar
from babelclip.search.columns import FIXED
from babelclip.search.index import fingerprint_of, gone_ids, in_parts, prepared, walk_all
from babelclip.search.index_columns import parse_columns, read_side
from babelclip.search.index_known import Known
from babelclip.search.index_sources import Found, Problems, Wanted
from babelclip.search.index_state import Waiting
from babelclip.search.index_write import Compared, Writer

_LOOK = 1024


class Asked(Protocol):
    """The settings of `index_on` that a plan is made for."""

    url: str
    model: str
    sources: tuple[str, ...]
    captions: str | None
    columns: tuple[str, ...]
    lang: str | None
    image_root: str | None
    batch_size: int
    shard_rows: int
    means: Means


def make_plan(asked: Asked, folder: str, identity: str) -> Plan:
    """Returns a new plan in `folder`, in place of what is there; the collection's lock is held.

    Raises:
        BabelclipError: as `index_pictures` before the first picture is encoded.
    """
    clip = _loaded(asked)
    collection, opened = prepared(clip, asked.sources, asked.url, parse_columns(asked.columns), asked.image_root)
    with contextlib.closing(collection):
        Ledger(folder).clear()
        index_plan.clear_plan(folder)
        own = {name: kind for name, kind in collection.columns.items() if name not in FIXED}
        side = read_side(asked.captions, own, asked.lang) if asked.captions is not None else None
        wanted, known = Wanted(own, side, asked.lang, Problems()), Known(collection, list(own))
        fingerprint = fingerprint_of(clip)
        decides = {"model": json.dumps(fingerprint.to_json(), sort_keys=True), "batch": asked.batch_size}
        with (
            decoder_pool(0, _LOOK) as pool,
            Writer(collection, Waiting(asked.url)) as writer,
            progress_bar("Looking", None, shown=asked.means.progress, unit="pictures") as advance,
        ):
            compared = Compared(collection, known, writer, pool, advance)

            def lacking(parts: Iterator[list[Found]]) -> Iterator[tuple[Found, str]]:
                for part in parts:
                    new = compared.take(part)
                    advance(len(new))
                    yield from new

            items = lacking(in_parts(walk_all(opened, wanted)))
            shards = [
                index_plan.write_shard(folder, number, part, collection.columns, decides)
                for number, part in enumerate(index_plan.cut(items, asked.shard_rows))
            ]
        gone = gone_ids(collection, known, opened, wanted.problems)
        problems = wanted.problems
        plan = Plan(
            identity=identity,
            shards=shards,
            columns=dict(collection.columns),
            dim=fingerprint.dim,
            dtype=fingerprint.dtype,
            counts=dict(compared.counts),
            problems={reason: (count, problems.first[reason]) for reason, count in problems.counts.items()},
            there=len(known),
            gone=len(gone),
            unused=len(side) - len(side.used) if side is not None else 0,
        )
        collection.refresh()
        index_plan.write_note(folder, STATE, {"committed": 0, "version": collection.version()})
        index_plan.write_plan(folder, plan, gone)
        return plan


def _loaded(asked: Asked) -> Clip:
    import babelclip

    devices: Sequence[str] = asked.means.devices
    # Of a GPU that only other machines have, this one knows nothing: it decides the precision by its own processor.
    device = devices[0] if len(devices) == 1 and devices[0] == "cpu" else None
    return babelclip.load(asked.model, device=device, progress=asked.means.progress)
