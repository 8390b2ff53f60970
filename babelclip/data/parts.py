"""Captions larger than memory, part by part: what `sources.open_captions` does with the tables that readers give.

What a row must be, what is left out and every error are those of `babelclip.data.captions`, with three differences that
come from not looking ahead. Ids are compared within a part; who keeps them compares them across parts
(`embed_captions` does). A column of JSONL that gives the id or the text must be there from the first part on. And an
error is met where it lies: the parts before it have been given out by then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from babelclip.data.captions import (
    OTHER_LANGUAGE,
    Captions,
    named_columns,
    raise_nothing_left,
    usable_rows,
    warn_of_unknown,
)
from babelclip.data.tables import RawTable
from babelclip.errors import BabelclipError

# As many as a shard of embed_captions; some 8 MB while they are read.
ROWS = 16384


def usable_parts(
    parts: Iterator[RawTable], default_lang: str | None, strict: bool, only: list[str] | None
) -> Iterator[Captions]:
    """Yields the usable rows of each table; `default_lang` and `only` are BCP-47 already.

    Raises:
        BabelclipError: as `read_captions`; that no row can be used, at the end.
    """
    source, usable = "", 0
    skipped: Counter[str] = Counter()
    unknown: dict[str, str] = {}
    there: Counter[str] = Counter()
    for raw in parts:
        captions, new = usable_rows(raw, default_lang, strict)
        unknown.update(new)
        source = raw.source
        if only is not None:
            there.update(captions.langs)
            captions = _in_languages(captions, only)
        skipped.update(captions.skipped)
        usable += len(captions)
        yield captions
    warn_of_unknown(source, skipped, unknown)
    if not usable and there:
        raise BabelclipError(
            f"{source} has no caption in {only}; of {sum(there.values())} usable ones the languages are "
            f"{', '.join(sorted(there))}. At least one is needed: choose languages that are there."
        )
    if not usable:
        raise_nothing_left(source, skipped, unknown)


def _in_languages(captions: Captions, only: list[str]) -> Captions:
    kept = captions.table.filter(pc.is_in(captions.table["lang"], pa.array(only, pa.string())))
    left_out = len(captions) - kept.num_rows
    return Captions(kept, {**captions.skipped, **({OTHER_LANGUAGE: left_out} if left_out else {})})


def one_naming(parts: Iterator[RawTable]) -> Iterator[RawTable]:
    """Yields `parts`; all take text and id from the same columns.

    Raises:
        BabelclipError: a later part names another column; rows already given out would have been read otherwise.
    """
    before: dict[str, str] | None = None
    for raw in parts:
        named = named_columns(raw)
        if before is not None and "text" in before:
            changed = [name for name in ("id", "text") if before.get(name) != named.get(name)]
            if changed:
                name = changed[0]
                raise BabelclipError(
                    f"{raw.source}: {name!r} is read from column {named[name]!r} around {raw.unit} "
                    f"{next(iter(raw.places.tolist()), '?')}, and before it was read from "
                    f"{before.get(name, 'no column')!r}. A file that is read in parts names it alike from "
                    f"the start: give every row a {name!r}."
                )
        before = named
        yield raw


def positive(rows: int) -> int:
    """Returns `rows`, which is 1 or more, or raises BabelclipError."""
    if rows < 1:
        raise BabelclipError(f"rows={rows} of a part is not allowed: give 1 or more, {ROWS} for example.")
    return rows
