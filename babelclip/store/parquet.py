"""Reading Parquet files row by row from anywhere in them, in memory that does not depend on their size; their names."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from babelclip.errors import BabelclipError, shown

# Rows of a shard where nothing else decides: 25 MB of 768 float16. 100 million rows are then 6,104 shards.
SHARD_ROWS = 16_384
# What pyarrow raises at a damaged file, beside its own: names that are no UTF-8, columns that are gone, endless counts.
_FAULTS = (pa.ArrowException, ArithmeticError, LookupError, OSError, ValueError)


_NUMBERED = re.compile(r"(.*)-(\d{5,})-of-(\d{5,})")


def numbered_parts(names: Iterable[str]) -> dict[str, tuple[int, list[int]]]:
    """Returns by the name of each set of files, `train` of `train-00000-of-00003.parquet`: its parts, those there."""
    sets: dict[str, tuple[int, list[int]]] = {}
    for name in names:
        if match := _NUMBERED.match(name):
            sets.setdefault(match[1], (int(match[3]), []))[1].append(int(match[2]))
    return sets


def lacking_parts(names: Iterable[str]) -> Iterator[tuple[str, int, list[int]]]:
    """Yields (name, its parts, which of them lack) of each set of files that is not whole; see `numbered_parts`."""
    for name, (count, numbers) in numbered_parts(names).items():
        if lacking := sorted(set(range(count)) - set(numbers)):
            yield name, count, lacking


@contextlib.contextmanager
def naming(file: Path) -> Iterator[None]:
    """Turns what pyarrow raises about `file` into an error that names it.

    Raises:
        BabelclipError: the block raised an error of pyarrow or of the disk.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise BabelclipError(f"{file} does not exist: check the path.") from error
    except BabelclipError:
        raise
    except _FAULTS as error:
        raise BabelclipError(
            f"{file} cannot be read as Parquet ({shown(error)}): it is cut, damaged or of another kind. Copy it again "
            "from where it came from."
        ) from error


def count_rows(file: Path) -> int:
    """Returns the rows of a Parquet file, from its footer.

    Raises:
        BabelclipError: the file cannot be read; names it.
    """
    with naming(file):
        return int(pq.read_metadata(file).num_rows)


def read_table(file: Path, start: int = 0, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yields the rows of a Parquet file from row `start` on, at most `SHARD_ROWS` at once.

    Raises:
        BabelclipError: the file cannot be read; names it.
    """
    with naming(file), pq.ParquetFile(file, pre_buffer=False) as opened:
        groups = list(range(opened.num_row_groups))
        while groups and start >= (rows := opened.metadata.row_group(groups[0]).num_rows):
            start -= rows
            del groups[0]
        batches = opened.iter_batches(SHARD_ROWS, row_groups=groups, columns=columns)
        for batch in batches:
            table = pa.Table.from_batches([batch])
            table.validate(full=True)  # whether texts are UTF-8, which reading leaves to whoever makes strings of them
            if len(table) <= start:
                start -= len(table)
                continue
            yield table.slice(start)
            start = 0
