"""What lies in a folder of clip-retrieval: vectors, index and metadata, and whether they fit together.

    img_emb/img_emb_0.npy ...       vectors; the numbers are those of the metadata files
    image.index                     a FAISS index, or a folder with populated.index and merged_index.ivfdata
    metadata/*.parquet, *.arrow     rows, in the order of file names (Arrow files are read memory-mapped)

There a row is known by its position, so one missing file shifts all rows behind it (clip-retrieval #288). Counts are
compared before anything is read. FAISS files are programs' data of another author: open only those you trust.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from babelclip.errors import BabelclipError, require, shown
from babelclip.search.columns import Vectors
from babelclip.store.exchange import foreign
from babelclip.store.exchange.clip_retrieval import open_clip_retrieval
from babelclip.store.parquet import count_rows, naming

_BLOCK = 16_384
_CONVERTED_BYTES = 1 << 30
# Parts named in a message.
_SHOWN = 6


@dataclass(frozen=True)
class Folder:
    """A folder of clip-retrieval that fits together.

    Attributes:
        path: the folder.
        vectors: `img_emb` files in the order of rows, empty where only an index is there.
        metadata: files of rows, in order.
        starts: the first row of each of the `vectors` files, and N; empty without vectors.
        index: the FAISS file, None where only vectors are there.
        count: N rows.
        dim: D.
        facts: what `babelclip.json` says, {} without one.
    """

    path: Path
    vectors: tuple[Path, ...]
    starts: npt.NDArray[np.int64]
    metadata: tuple[Path, ...]
    index: Path | None
    count: int
    dim: int
    facts: dict[str, Any]


def open_folder(path: Path) -> tuple[Folder, Any]:
    """Returns what `path` holds and its FAISS index (None without).

    Raises:
        BabelclipError: files lack or do not fit together; names them, and how many rows each has.
        MissingExtraError: there is an index, and FAISS is not installed.
    """
    metadata = _metadata_files(path)
    rows = [metadata_rows(file) for file in metadata]
    facts, files, dim = foreign.read_sidecar(path), [], 0
    starts = foreign.starts_of([])
    if (path / "img_emb").is_dir():
        if metadata[0].suffix == ".parquet":
            there = open_clip_retrieval(path, "image")  # pairs the files and compares them part by part
            files = [file for file in there.files if file.suffix == ".npy"]
        else:
            files = sorted((path / "img_emb").glob("img_emb_*.npy"), key=lambda file: file.name)
        maps = [foreign.open_npy(file) for file in files]
        dim = foreign.common_dim(files, [part.shape[1] for part in maps])
        starts = foreign.starts_of([len(part) for part in maps])
        _same_count(sum(map(len, maps)), f"the vectors of {path / 'img_emb'}", metadata, rows)
    index_file = _index_file(path)
    index = None if index_file is None else read_index(index_file)
    if index is not None:
        _same_count(int(index.ntotal), f"{index_file}", metadata, rows)
        if dim and index.d != dim:
            raise BabelclipError(
                f"{index_file} holds vectors of {index.d} dimensions and {files[0]} of {dim}: they are of two models. "
                "Remove the one that does not belong here."
            )
        dim = int(index.d)
    if not dim:
        raise BabelclipError(
            f"{path} holds neither img_emb/ nor image.index: give the folder that clip-retrieval inference or index "
            "wrote. Indexes of texts are not picture collections."
        )
    return Folder(path, tuple(files), starts, tuple(metadata), index_file, sum(rows), dim, facts), index


def stamp(folder: Folder) -> int:
    """Returns a number (48 bits, above 0) that is another one once a file of the folder has been replaced."""
    files = [*folder.vectors, *folder.metadata, *([folder.index] if folder.index is not None else [])]
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return int.from_bytes(hashlib.blake2b(repr(facts).encode(), digest_size=6).digest(), "little") or 1


def read_index(file: Path) -> Any:
    """Returns a FAISS index, its lists mapped from disk where its kind allows.

    Raises:
        BabelclipError: the file is damaged or of another kind.
    """
    faiss = require("faiss", "faiss")
    flags = faiss.IO_FLAG_ONDISK_SAME_DIR if file.name == "populated.index" else faiss.IO_FLAG_MMAP
    try:
        return faiss.read_index(str(file), flags | faiss.IO_FLAG_READ_ONLY)
    except RuntimeError as error:
        raise BabelclipError(
            f"{file} cannot be read as a FAISS index ({shown(error, 120)}): it is cut, damaged or of another kind. "
            "Make it again from the vectors with clip-retrieval index, or remove it to search the vectors themselves."
        ) from error


def metadata_rows(file: Path) -> int:
    """Returns the rows of a metadata file, without reading them."""
    if file.suffix == ".parquet":
        return count_rows(file)
    with naming(file):
        return len(_arrow_table(file))


def read_metadata(folder: Folder, columns: Sequence[str]) -> pa.Table:
    """Returns `columns` of all rows (N), in order; a part that lacks one has nulls there."""
    schema = metadata_schema(folder)
    wanted = pa.schema([schema.field(name) for name in columns])
    parts = []
    for file in folder.metadata:
        with naming(file):
            if file.suffix == ".parquet":
                there = [name for name in columns if name in pq.read_schema(file).names]
                part = pq.read_table(file, columns=there)
            else:
                part = _arrow_table(file)
            part.validate(full=True)
        rows = part.num_rows
        with naming(file):
            arrays = [
                part[field.name].cast(field.type) if field.name in part.column_names else pa.nulls(rows, field.type)
                for field in wanted
            ]
        parts.append(pa.table(arrays, schema=wanted))
    return pa.concat_tables(parts)


def metadata_schema(folder: Folder) -> pa.Schema:
    """Returns the columns of all metadata files."""
    if folder.metadata[0].suffix == ".parquet":
        return foreign.common_schema(folder.metadata)
    schemas = [_arrow_table(file).schema.remove_metadata() for file in folder.metadata]
    return pa.unify_schemas(schemas, promote_options="permissive")


def vector_blocks(folder: Folder, rows: npt.NDArray[np.int64] | None = None) -> Iterator[Vectors]:
    """Yields the vectors (n, D) float32 of all rows, or of ascending `rows`, at length 1 and in order."""
    cuts = None if rows is None else np.searchsorted(rows, folder.starts)
    for number, file in enumerate(folder.vectors):
        if rows is not None and cuts is not None and cuts[number] == cuts[number + 1]:
            continue
        part = foreign.open_npy(file)  # mapped anew: what was read leaves memory with its file
        if rows is None or cuts is None:
            for first in range(0, len(part), _BLOCK):
                yield unit_block(part[first : first + _BLOCK])
            continue
        own = rows[cuts[number] : cuts[number + 1]] - folder.starts[number]
        for first in range(0, len(own), _BLOCK):
            yield unit_block(part[own[first : first + _BLOCK]])


def open_vectors(folder: Folder) -> list[npt.NDArray[Any]]:
    """Returns the vectors (n, D) of each file, not normalised: mapped float32, or converted where they fit in memory.

    Converting half precision takes several times as long as comparing, so it is done once, up to 1 GiB.
    """
    maps = [foreign.open_npy(file) for file in folder.vectors]
    small = 4 * folder.count * folder.dim <= _CONVERTED_BYTES
    return [part if part.dtype == np.float32 or not small else np.asarray(part, np.float32) for part in maps]


def inverse_lengths(parts: Sequence[npt.NDArray[Any]]) -> list[Vectors]:
    """Returns 1 / length of each row, 0 where that is no number: such a row is nobody's neighbour."""
    lengths = []
    for part in parts:
        blocks = (np.asarray(part[first : first + _BLOCK], np.float32) for first in range(0, len(part), _BLOCK))
        own = [np.sqrt(np.einsum("nd,nd->n", block, block)) for block in blocks]
        lengths.append(np.concatenate(own or [np.zeros(0, np.float32)]))
    with np.errstate(divide="ignore", invalid="ignore"):
        return [np.nan_to_num(1 / length, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32) for length in lengths]


def score_blocks(queries: Vectors, parts: Sequence[npt.NDArray[Any]], scales: Sequence[Vectors]) -> Iterator[Vectors]:
    """Yields the cosines (Q, n) of queries of length 1 with all rows, block after block.

    Args:
        queries: (Q, D).
        parts: vectors (n, D), see `open_vectors`.
        scales: of their rows, see `inverse_lengths`.
    """
    for part, scale in zip(parts, scales, strict=True):
        for first in range(0, len(part), _BLOCK):
            block = np.asarray(part[first : first + _BLOCK], np.float32)
            yield (queries @ block.T) * scale[first : first + _BLOCK]


def unit_block(block: npt.NDArray[Any]) -> Vectors:
    """Returns rows (n, D) as float32 of length 1; a row of zeros stays one and is nobody's neighbour."""
    vectors = np.asarray(block, np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: Vectors = vectors / np.where(lengths > 0, lengths, np.float32(1))
    return units


def _metadata_files(path: Path) -> list[Path]:
    folder = path / "metadata"
    for ending in ("parquet", "arrow"):
        if files := sorted(folder.glob(f"*.{ending}"), key=lambda file: file.name):
            return files
    old = next(path.glob("metadata*.hdf5"), None)
    raise BabelclipError(
        f"{path} holds no metadata/*.parquet or metadata/*.arrow, "
        + (f"only {old.name}, in which missing values were lost" if old else "so nothing tells what its rows are")
        + ": copy the metadata folder of the clip-retrieval run here."
    )


def _index_file(path: Path) -> Path | None:
    index = path / "image.index"
    if index.is_dir():
        if not (index / "populated.index").is_file():
            raise BabelclipError(f"{index} holds no populated.index: copy the whole folder that clip-retrieval wrote.")
        return index / "populated.index"
    return index if index.is_file() else None


def _same_count(count: int, what: str, metadata: Sequence[Path], rows: Sequence[int]) -> None:
    if count == sum(rows):
        return
    parts = ", ".join(f"{file.name} {number}" for file, number in list(zip(metadata, rows, strict=True))[:_SHOWN])
    raise BabelclipError(
        f"{what}: {count} vectors, but {len(metadata)} metadata file(s) hold {sum(rows)} rows ({parts}"
        f"{', …' if len(metadata) > _SHOWN else ''}). A row is known by its position, so one missing or further file "
        "shifts all behind it: copy the files of one run together."
    )


def _arrow_table(file: Path) -> pa.Table:
    with naming(file):
        return pa.ipc.open_file(pa.memory_map(str(file))).read_all()
