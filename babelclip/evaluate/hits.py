"""What every query reached, small enough to lie within a result, so that two models can be compared query by query.

A difference of two models measured on the same queries is far surer than the difference of two means: most of what
makes a query hard is the query. `pack_hits` makes the field `per_query` of a result, `unpack_hits` reads it.
Legend: Q queries, K metrics.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from babelclip.errors import BabelclipError

_STEPS = 65535  # hits lie in 0..1 and are kept to 1 / 65535: ties bring fractions, and no mean moves visibly
_FORMAT = "uint16/65535 zlib base64"


@dataclass(frozen=True)
class Hits:
    """What each query of a result reached.

    Attributes:
        key: checksum of the queries; two results with equal keys asked the same ones in the same order.
        clusters: (Q,) int64, equal for queries that were not drawn independently (captions of one picture).
        values: metric, for example `R@10` -> (Q,) float64 in 0..1.
    """

    key: str
    clusters: npt.NDArray[np.int64]
    values: Mapping[str, npt.NDArray[np.float64]]


def pack_hits(
    values: Mapping[str, npt.ArrayLike], *, clusters: npt.ArrayLike | None = None, queries: Sequence[str] | str = ""
) -> dict[str, Any]:
    """Returns the field `per_query` of a result: about one to three bits a query and metric.

    Args:
        values: metric -> (Q,) what each query reached, in 0..1; for R@k the columns of `QueryScores.hits`.
        clusters: (Q,) ids of what was drawn independently; by default every query is.
        queries: the queries' texts or ids, or a checksum of them. Results compare only where these are equal.

    Raises:
        BabelclipError: lengths disagree, or a value lies outside 0..1.
    """
    columns = {name: np.asarray(column, dtype=np.float64) for name, column in values.items()}
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1 or not all(column.ndim == 1 for column in columns.values()):
        raise BabelclipError(
            f"Values of {', '.join(columns) or 'no metric'} have lengths {sorted(lengths)}; give one metric or more, "
            "each (Q,), one value a query."
        )
    [n] = lengths
    ids = np.arange(n) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    if len(ids) != n:
        raise BabelclipError(f"There are {len(ids)} cluster ids for {n} queries; give one id a query.")
    for name, column in columns.items():
        if not np.all((column >= 0) & (column <= 1)):
            raise BabelclipError(f"Values of {name} leave 0..1 or are NaN; pack what a query reached, as a fraction.")
    digest = hashlib.sha256(ids.astype("<i8").tobytes())
    for query in [queries] if isinstance(queries, str) else queries:
        digest.update(query.encode("utf-8", "surrogatepass") + b"\n")
    return {
        "format": _FORMAT,
        "n": n,
        "key": digest.hexdigest()[:16],
        "clusters": "" if clusters is None else _text(np.diff(ids, prepend=0).astype("<i4")),
        "values": {name: _text(np.round(column * _STEPS).astype("<u2")) for name, column in columns.items()},
    }


def unpack_hits(result: Mapping[str, Any]) -> Hits | None:
    """Returns what a result's queries reached, or None where it does not keep that.

    Raises:
        BabelclipError: the field is there, but not as `pack_hits` wrote it.
    """
    packed = result.get("per_query")
    if packed is None:
        return None
    try:
        if packed["format"] != _FORMAT:
            raise ValueError(f"format {packed['format']!r}")
        n = int(packed["n"])
        values = {str(name): _numbers(text, "<u2", n) / _STEPS for name, text in packed["values"].items()}
        if not values:
            raise ValueError("no metric")
        # After the values, which hold n numbers indeed.
        steps = _numbers(packed["clusters"], "<i4", n) if packed["clusters"] else np.ones(n, dtype=np.int64)
        return Hits(str(packed["key"]), np.cumsum(steps), values)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, zlib.error) as error:
        label = "/".join(str(result.get(field, "?")) for field in ("model", "dataset", "language"))
        raise BabelclipError(
            f"per_query of the result {label} is unreadable ({error}). Measure again, or remove the field."
        ) from error


def _text(array: npt.NDArray[Any]) -> str:
    return base64.b64encode(zlib.compress(array.tobytes(), 9)).decode("ascii")


def _numbers(text: str, dtype: str, n: int) -> npt.NDArray[np.int64]:
    # Bounded, so that a small file cannot ask for all memory.
    size = n * np.dtype(dtype).itemsize
    data = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), size + 1)
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes for {n} queries")
    return np.frombuffer(data, dtype=dtype).astype(np.int64)
