"""What a benchmark holds, as one checksum: results of other captions, names or labels are not taken for finished ones.

Entry point: `fingerprint`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from babelclip.data.captions import Captions
from babelclip.evaluate.benchmarks.sets import Pictures

# Words about a set: a folder that was moved, or a note that was worded anew, changes no figure.
_WORDS = frozenset({"sources", "notes", "facts"})


def fingerprint(*benchmarks: Any) -> str:
    """Returns a checksum of the texts, labels, classes, templates and ids of pictures that benchmarks hold.

    Pictures count by their ids alone: where the files lie does not matter, and what they show is not read.

    Args:
        *benchmarks: sets of `benchmarks.sets`, or None.
    """
    digest = hashlib.blake2b(digest_size=12)
    for part in _parts(benchmarks):
        digest.update(f"{len(part)}:".encode())
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    """Yields what a value holds, each structure with its kind and size, so that two structures never give the same."""
    if isinstance(value, Pictures):
        value = value.ids
    elif isinstance(value, Captions):
        value = [value.texts, value.langs, value.table.column("image").to_pylist()]
    elif dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value) if field.name not in _WORDS]
        value = {name: getattr(value, name) for name in fields}
    if isinstance(value, np.ndarray):
        yield f"{value.dtype.str}{value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, Mapping):
        yield f"mapping {len(value)}".encode()
        for key in sorted(value):
            yield str(key).encode("utf-8", "surrogatepass")
            yield from _parts(value[key])
    elif isinstance(value, Sequence) and not isinstance(value, str):
        yield f"sequence {len(value)}".encode()
        for item in value:
            yield from _parts(item)
    else:
        yield str(value).encode("utf-8", "surrogatepass")
