"""Which ids the rows of another layout get.

Most layouts know a row by its position, so that is its id, as text, unless a column is to decide. A position that
contradicts the `id` of a data set's row is an error: one of the two addresses other captions.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from babelclip.errors import BabelclipError, did_you_mean
from babelclip.store.exchange.foreign import STORE_ID, Foreign
from babelclip.store.exchange.numpy_file import POSITION

# A foreign column of the name that a store uses for its own ids.
ORIGINAL_ID = "original_id"
SOURCE_ROW = "source_row"


@dataclasses.dataclass(frozen=True)
class IdRule:
    """How ids and columns of the store come from the columns of a layout.

    Attributes:
        column: the column that holds the ids, "" where the position does.
        agree: a column that must be equal to the position, as text, "" where none must.
        keep: columns of the layout that the store takes, with their names there.
        source_row: whether the position is kept as a column.
    """

    column: str
    agree: str
    keep: dict[str, str]
    source_row: bool

    def rows(self, table: pa.Table, start: int, count: int, where: object) -> pa.Table:
        """Returns the rows of the store for `count` rows of the layout that begin at position `start`.

        Args:
            table: their columns.
            start: position of the first.
            count: how many.
            where: names their file in messages.

        Raises:
            BabelclipError: an id contradicts its position, or is no string or whole number.
        """
        positions = pa.array(np.arange(start, start + count))
        if self.agree:
            self._check(table[self.agree], positions, where)
        ids = table[self.column] if self.column else positions
        if not (pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type) or pa.types.is_integer(ids.type)):
            raise BabelclipError(
                f"column {self.column!r} of {where} holds {ids.type}, but an id is a string or a whole number: choose "
                f"another column with ids= (--ids), or --ids {POSITION}."
            )
        columns = {"id": ids.cast(pa.string())} | {name: table[of] for of, name in self.keep.items()}
        if self.source_row:
            columns[SOURCE_ROW] = positions
        return pa.table(columns)

    def _check(self, given: pa.ChunkedArray, positions: pa.Array, where: object) -> None:
        same = pc.fill_null(pc.equal(given.cast(pa.string()), positions.cast(pa.string())), False)
        if not pc.all(same).as_py():
            first = pc.index(same, False).as_py()
            raise BabelclipError(
                f"the row at position {positions[first].as_py()} has {self.agree} {given[first].as_py()} in {where}, "
                f"and the two address different captions. Say which is right: ids={self.agree!r} (--ids {self.agree}) "
                f"or ids={POSITION!r} (--ids {POSITION}), and import into a new folder."
            )


def id_rule(source: Foreign, layout: str, choice: str) -> IdRule:
    """Returns how the ids of `source` are found.

    Args:
        source: what is imported.
        layout: its layout.
        choice: a column, `position`, or "" for the rule of the layout.

    Raises:
        BabelclipError: there is no such column.
    """
    names = source.schema.names
    if layout == "npy":
        column = "id" if names else ""
    elif choice:
        column = "" if choice == POSITION else choice
    else:
        column = STORE_ID if STORE_ID in names else ""
    if column and column not in names:
        raise BabelclipError(
            f"there is no column {column!r} for ids in {source.files[-1]}. {did_you_mean(column, [*names, POSITION])}"
        )
    is_ours = STORE_ID in names and "space" in source.facts
    agree = "id" if layout == "dataset" and not choice and not column and "id" in names else ""
    # What the export itself added is dropped: `id` of a data set, and the names that clip-retrieval wants.
    dropped = {column, agree, *(("id",) if is_ours and layout == "dataset" else ())}
    renamed = source.facts.get("renamed", {})
    keep = {
        name: ORIGINAL_ID if name == "id" else renamed.get(name, name)
        for name in names
        if name not in dropped and renamed.get(name) != "id"
    }
    source_row = layout == "clip-retrieval" and column not in ("", STORE_ID)
    taken = [*keep.values(), *([SOURCE_ROW] if source_row else [])]
    if twice := sorted({name for name in taken if taken.count(name) > 1}):
        raise BabelclipError(
            f"{source.files[-1]} has a column {twice[0]!r}, and the import makes one of that name: give that column "
            "another name."
        )
    return IdRule(column, agree, keep, source_row)
