"""Captions in an order that suits random reading: the rows of each language together, in memory or mapped from disk.

Rows of Parquet are packed in groups of some thousand, so that one row costs what its group does: a few milliseconds.
Here a row is a place in a file, and a batch of any rows of 100 million costs as many small reads as it has rows, like
the vectors of an `EmbeddingStore` that they meet. On disk:

    rows.json            version, rows, bytes and SHA-256 per language, what it was made from
    <lang>/rows.bytes    id, target and text of each row one after the other, UTF-8; `target` is the id of the vector:
                         source_id, or id where that is empty
    <lang>/rows.offsets  (3 n + 1,) int64, little-endian: where each of these begins, and the end

The three of a row lie side by side so that a row of a cold disk is two reads and not six.

Entry points: `RowSource.from_captions`, `write_row_source`, `RowSource.open`.
"""

from __future__ import annotations

import hashlib
import mmap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from babelclip.data.captions import Captions
from babelclip.errors import BabelclipError
from babelclip.files import atomic_folder, read_json, write_json
from babelclip.progress import progress_bar

COLUMNS = ("id", "target", "text")
MANIFEST = "rows.json"
_FORMAT, _VERSION = "babelclip-rows", 1
# Rows of a language that wait in memory for a write: 200 languages of them are 250 MB.
_AT_ONCE = 8192


class RowSource:
    """The rows of one source by language. Made by `from_captions` and `open`.

    Attributes:
        counts: rows by language, in order of the codes.
        fingerprint: 16 hexadecimal digits that depend on every byte of the rows and on their order, and not on
            whether they lie in memory or on disk.
    """

    def __init__(self, values: Mapping[str, pa.LargeStringArray], fingerprint: str, folder: Path | None = None) -> None:
        self._values = {lang: values[lang] for lang in sorted(values)}  # (3 n,): `COLUMNS` of row 0, of row 1, ...
        self._folder = folder
        self.counts = {lang: len(array) // len(COLUMNS) for lang, array in self._values.items()}
        self.fingerprint = fingerprint

    @classmethod
    def from_captions(cls, captions: Captions) -> RowSource:
        """Returns captions in memory; it takes as much again as they do."""
        values = dict(_by_language(captions))
        digests = {}
        for lang, array in values.items():
            hashes = _Hashes()
            hashes.add(array)
            digests[lang] = hashes.digest()
        return cls(values, _joined(digests))

    @classmethod
    def open(cls, folder: Path | str) -> RowSource:
        """Returns the rows that `write_row_source` wrote, mapped: memory holds what is being read.

        Raises:
            BabelclipError: the folder holds no such rows, or a file is missing or of another size.
        """
        folder = Path(folder)
        entries = _read_manifest(folder)["languages"]
        values = {lang: _mapped(folder / lang, entry["rows"], entry["bytes"]) for lang, entry in entries.items()}
        return cls(values, _joined({lang: entry["sha256"] for lang, entry in entries.items()}), folder)

    def __len__(self) -> int:
        return sum(self.counts.values())

    @property
    def is_mapped(self) -> bool:
        """Whether the rows lie on disk."""
        return self._folder is not None

    def __reduce__(self) -> tuple[Callable[..., RowSource], tuple[Any, ...]]:
        # Into a worker goes the name of the folder, not what is mapped from it.
        if self._folder is not None:
            return RowSource.open, (self._folder,)
        return RowSource, (self._values, self.fingerprint)

    def take(self, lang: str, rows: npt.NDArray[np.int64]) -> pa.LargeStringArray:
        """Returns `COLUMNS` of rows (B,) of a language, counted from 0, side by side (3 B,).

        Ascending rows read fastest.
        """
        places = rows[:, None] * len(COLUMNS) + np.arange(len(COLUMNS))
        return self._values[lang].take(pa.array(places.reshape(-1)))

    def targets(self, lang: str, start: int, end: int) -> list[str]:
        """Returns the ids of the vectors of the rows from `start` to before `end`."""
        places = np.arange(start, end) * len(COLUMNS) + COLUMNS.index("target")
        values: list[str] = self._values[lang].take(pa.array(places)).to_pylist()
        return values


def write_row_source(
    parts: Iterable[Captions],
    folder: Path | str,
    *,
    origin: Mapping[str, Any] | None = None,
    progress: bool = False,
    total: int | None = None,
) -> RowSource:
    """Returns the rows of `parts` as a folder, written whole or not at all; memory depends on the size of the parts.

    Args:
        parts: captions, as `open_captions` gives them.
        folder: a new folder; what an earlier call wrote there is replaced.
        origin: what the rows are made from, in JSON types; see `origin_of`.
        progress: show a bar on stderr.
        total: rows of all parts, for the bar.

    Raises:
        BabelclipError: the folder holds other things, or there are no rows.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise BabelclipError(
            f"{folder} holds other things than rows. They are written to a new folder, or over older rows: choose "
            "another path."
        )
    with atomic_folder(folder) as temporary, progress_bar("Rows", total, shown=progress, unit="rows") as advance:
        writer = _Writer(temporary)
        for part in parts:
            writer.add(part)
            advance(len(part))
        content = writer.finish()
        if not content:
            raise BabelclipError("There are no captions to write. A source has at least one row: check the file.")
        write_json(
            temporary / MANIFEST,
            {"format": _FORMAT, "version": _VERSION, "origin": dict(origin or {}), "languages": content},
        )
    return RowSource.open(folder)


def origin_of(folder: Path | str) -> dict[str, Any] | None:
    """Returns what the rows in a folder were made from; None where there are none."""
    if not (Path(folder) / MANIFEST).is_file():
        return None
    origin: dict[str, Any] = _read_manifest(Path(folder))["origin"]
    return origin


class _Hashes:
    """The SHA-256 of the rows of a language, whatever parts they come in."""

    def __init__(self) -> None:
        # Lengths beside bytes: without them "ab", "c" would be the same as "a", "bc".
        self._lengths, self._bytes = hashlib.sha256(), hashlib.sha256()

    def add(self, values: pa.LargeStringArray) -> None:
        offsets, data = _bytes_of(values)
        self._lengths.update(np.diff(offsets).astype("<i8").tobytes())
        self._bytes.update(data)

    def digest(self) -> str:
        return hashlib.sha256((self._lengths.hexdigest() + self._bytes.hexdigest()).encode()).hexdigest()


class _Writer:
    """Appends captions to the files of their languages."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: dict[str, list[pa.LargeStringArray]] = {}
        self._rows: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._hashes: dict[str, _Hashes] = {}

    def add(self, captions: Captions) -> None:
        for lang, values in _by_language(captions):
            waiting = self._waiting.setdefault(lang, [])
            waiting.append(values)
            if sum(map(len, waiting)) >= _AT_ONCE * len(COLUMNS):
                self._flush(lang)

    def finish(self) -> dict[str, Any]:
        """Returns the manifest's entry of each language."""
        for lang in list(self._waiting):
            self._flush(lang)
        return {
            lang: {"rows": self._rows[lang], "bytes": self._bytes[lang], "sha256": self._hashes[lang].digest()}
            for lang in sorted(self._rows)
        }

    def _flush(self, lang: str) -> None:
        values = pa.concat_arrays(self._waiting.pop(lang))
        folder, before = self._folder / lang, self._bytes[lang]
        if lang not in self._hashes:
            self._hashes[lang] = _Hashes()
            folder.mkdir()
        self._hashes[lang].add(values)
        offsets, data = _bytes_of(values)
        # Opened for each write: 600 languages have more files than a process may keep open.
        with (folder / "rows.offsets").open("ab") as file:
            file.write((offsets[1 if before else 0 :] + before).astype("<i8").tobytes())
        with (folder / "rows.bytes").open("ab") as file:
            file.write(data)
        self._bytes[lang] += len(data)
        self._rows[lang] += len(values) // len(COLUMNS)


def _by_language(captions: Captions) -> list[tuple[str, pa.LargeStringArray]]:
    """Returns `COLUMNS` of the rows of each language that occurs, side by side (3 n,)."""
    table = captions.table
    target = pc.if_else(pc.is_valid(table["source_id"]), table["source_id"], table["id"])
    columns = dict(zip(COLUMNS, (table["id"], target, table["text"]), strict=True))
    texts = pa.table({name: column.cast(pa.large_string()) for name, column in columns.items()})
    parts = []
    for lang in sorted(pc.unique(table["lang"]).to_pylist()):
        rows = texts.filter(pc.equal(table["lang"], lang))
        joined = pa.concat_arrays([chunk for name in COLUMNS for chunk in rows[name].chunks])
        places = np.arange(len(joined)).reshape(len(COLUMNS), -1).T.reshape(-1)
        parts.append((lang, joined.take(pa.array(places))))
    return parts


def _bytes_of(values: pa.LargeStringArray) -> tuple[npt.NDArray[np.int64], memoryview]:
    """Returns the offsets (n + 1,), from 0, and the UTF-8 bytes of all values."""
    _, offsets, data = values.buffers()
    found = np.frombuffer(offsets, np.int64)[values.offset : values.offset + len(values) + 1]
    return found - found[0], memoryview(data)[int(found[0]) : int(found[-1])]


def _mapped(folder: Path, rows: int, size: int) -> pa.LargeStringArray:
    """Returns the values of a language as a map of the file; nothing of it is read yet."""
    count = rows * len(COLUMNS)
    buffers = []
    for path, expected in ((folder / "rows.offsets", 8 * (count + 1)), (folder / "rows.bytes", size)):
        if not path.is_file() or path.stat().st_size != expected:
            there = f"has {path.stat().st_size} bytes" if path.is_file() else "is missing"
            raise BabelclipError(
                f"{path} {there}, and {MANIFEST} says {expected} bytes. The rows are damaged: remove the folder and "
                "write them again."
            )
        with path.open("rb") as opened:
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        if hasattr(mmap, "MADV_RANDOM"):
            # Else each text of 100 bytes pulls 128 KiB from the disk.
            mapped.madvise(mmap.MADV_RANDOM)
        buffers.append(pa.py_buffer(mapped))
    return pa.LargeStringArray.from_buffers(count, *buffers)


def _read_manifest(folder: Path) -> dict[str, Any]:
    if not (folder / MANIFEST).is_file():
        raise BabelclipError(f"{folder} holds no rows: {MANIFEST} is missing. Give a folder of write_row_source.")
    content = read_json(folder / MANIFEST)
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (_FORMAT, _VERSION):
        raise BabelclipError(
            f"{folder / MANIFEST} is of another kind or version; expected {_FORMAT} {_VERSION}. Remove the folder and "
            "write the rows again."
        )
    return content


def _joined(digests: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(f"{lang} {digests[lang]} " for lang in sorted(digests)).encode()).hexdigest()[:16]
