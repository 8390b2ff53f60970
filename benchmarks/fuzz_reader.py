"""What `fuzz.py` knows of a reader: how a whole sample of its format is made, and how it is read to the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What a benchmark is opened by; never damaged.
SPECIFICATION = "specification"


@dataclass(frozen=True)
class Reader:
    """A reader and a sample of what it reads.

    Attributes:
        make: writes the sample into a new folder.
        read: reads that folder to the end.
        weight: share of the cases; slow readers get fewer.
        suffixes: only these files are damaged; () for all.
        leaves: whether reading leaves files behind, so that the folder is made anew for each case.
        leaves_out: names of files that are not damaged.
    """

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    weight: float = 1.0
    suffixes: tuple[str, ...] = ()
    leaves: bool = False
    leaves_out: tuple[str, ...] = ()

    def damages(self, path: Path) -> bool:
        """Returns whether this file is one of those that are damaged."""
        wanted = not self.suffixes or path.name.endswith(self.suffixes)
        return wanted and path.name not in (SPECIFICATION, *self.leaves_out)


def drain(parts: Iterable[Any]) -> None:
    """Reads to the end."""
    for _part in parts:
        pass
