"""What lies in the folder of an `EmbeddingStore`: manifest, shard files and the write lock.

    manifest.json          the facts of the store; per shard its rows, file sizes and SHA-256
    origin.json            of a merged or imported store: what it was made from, and whether it is complete
    vectors/00000.npy      (n, D) float16 or float32
    rows/00000.parquet     column `id` and what else `append` was given
    .lock                  held by the one writer

`babelclip.store` says what these mean; nothing else writes them.
"""

from __future__ import annotations

import dataclasses
import mmap
import os
import re
import sys
import tokenize
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from babelclip.errors import BabelclipError, SpaceMismatchError, did_you_mean, shown
from babelclip.files import LockedError, lock_file, read_json, sha256, write_json
from babelclip.storage.shadows import is_waiting, present
from babelclip.store.parquet import SHARD_ROWS as SHARD_ROWS
from babelclip.store.parquet import naming

FORMAT = "babelclip-embeddings"
VERSION = 1
MANIFEST = "manifest.json"
LOCK = ".lock"
# What a merge or an import went out from, and whether it came to its end (origin.py).
ORIGIN = "origin.json"

# What numpy raises at a .npy file that is none; its header is a piece of Python, which numpy's tokenizer may refuse.
NPY_FAULTS = (ValueError, OSError, EOFError, SyntaxError, OverflowError, tokenize.TokenError)

_ALLOWED = {
    "dtype": ("float16", "float32"),
    "kind": ("text", "image"),
    "target": ("projected", "pooled", "penultimate"),
}
_OWN_FILE = re.compile(r"\d{5,}\.(npy|parquet)|\..+\.part")


@dataclasses.dataclass(frozen=True)
class StoreFacts:
    """What holds for every vector of a store.

    Attributes:
        space: id of the embedding space, for example `openai/ViT-L-14`.
        model: name of the model that made the vectors.
        dim: D, numbers in a vector.
        dtype: `float16` or `float32`, as stored.
        normalized: whether rows have length 1.
        kind: what was encoded, `text` or `image`.
        target: which output of the model it is: `projected`, `pooled` or `penultimate`.
    """

    space: str
    model: str
    dim: int
    dtype: str
    normalized: bool
    kind: str
    target: str

    def __post_init__(self) -> None:
        for name, allowed in _ALLOWED.items():
            value = str(getattr(self, name))
            if value not in allowed:
                raise BabelclipError(f"{name}={value!r} of a store is not known. {did_you_mean(value, allowed)}")
        if isinstance(self.dim, bool) or not isinstance(self.dim, int) or self.dim < 1:
            raise BabelclipError(f"dim={self.dim!r} of a store must be a whole number above 0: pass clip.embed_dim.")
        if not self.space or not self.model:
            raise BabelclipError(
                f"a store got space={self.space!r} and model={self.model!r}, but both must be named, or vectors of "
                "different spaces could be mixed: pass clip.space and the name of the model."
            )

    def check_same(self, wanted: StoreFacts, path: Path) -> None:
        """Does nothing where `wanted` are the facts of the store at `path`.

        Raises:
            SpaceMismatchError: the spaces differ; names both.
            BabelclipError: another fact differs; names both values of each.
        """
        if wanted.space != self.space:
            raise SpaceMismatchError(self.space, wanted.space, f"store {path} and the vectors to append")
        mine, other = dataclasses.asdict(self), dataclasses.asdict(wanted)
        differing = [
            f"{name} is {mine[name]!r}, asked for {other[name]!r}" for name in mine if mine[name] != other[name]
        ]
        if differing:
            raise BabelclipError(
                f"{path} holds other vectors: {'; '.join(differing)}. All vectors of a store are of one kind: ask for "
                "what it holds, or choose another folder."
            )


@dataclasses.dataclass(frozen=True)
class Shard:
    """The manifest's entry of one shard: `count` rows, and size (bytes) and SHA-256 of its two files."""

    count: int
    vectors_bytes: int
    vectors_sha256: str
    rows_bytes: int
    rows_sha256: str


def vectors_file(path: Path, number: int) -> Path:
    """Returns where the vectors of shard `number` lie, fetched and verified where the store is in object storage."""
    return fetched(path, number, vectors_name(path, number))


def rows_file(path: Path, number: int) -> Path:
    """Returns where the rows of shard `number` lie, fetched and verified where the store is in object storage."""
    return fetched(path, number, rows_name(path, number))


def vectors_name(path: Path, number: int) -> Path:
    """Returns the name of the file with the vectors of shard `number`."""
    return path / "vectors" / f"{number:05d}.npy"


def rows_name(path: Path, number: int) -> Path:
    """Returns the name of the file with the rows of shard `number`."""
    return path / "rows" / f"{number:05d}.parquet"


def fetched(path: Path, number: int, file: Path) -> Path:
    """Returns a file of shard `number`, whose content is there now.

    Raises:
        BabelclipError: it lies in object storage, and cannot be fetched or has not the SHA-256 of the manifest.
    """

    def check(arrived: Path) -> str:
        shard = read_manifest(path)[1][number]
        expected = shard.vectors_sha256 if file.suffix == ".npy" else shard.rows_sha256
        return "" if sha256(arrived) == expected else f"has not the SHA-256 that {MANIFEST} says"

    return present(file, check)


def ids_of_shard(path: Path, number: int) -> pa.ChunkedArray:
    """Returns the ids of shard `number`, read from disk.

    Raises:
        BabelclipError: its file cannot be read, or has none; names it.
    """
    file = rows_file(path, number)
    with naming(file):
        ids = pq.ParquetFile(file).read(columns=["id"])["id"]
        ids.validate(full=True)  # whether they are UTF-8, which reading leaves to whoever makes strings of them
        return ids


def open_vectors(path: Path, number: int) -> npt.NDArray[np.floating[Any]]:
    """Returns the vectors of shard `number` as a read-only memory map (n, D), made for a pass from front to back.

    Raises:
        BabelclipError: the file is gone or damaged; names it.
    """
    file = vectors_file(path, number)
    try:
        vectors: npt.NDArray[np.floating[Any]] = np.load(file, mmap_mode="r")
        return vectors
    except NPY_FAULTS as error:
        raise BabelclipError(
            f"{file} cannot be read as .npy ({shown(error)}): it is cut or damaged. Copy it again from where the store "
            "came from."
        ) from error


def describe_shard(path: Path, number: int, count: int) -> Shard:
    """Returns the manifest's entry of the two files of shard `number` as they lie on disk."""
    vectors, rows = vectors_name(path, number), rows_name(path, number)
    return Shard(count, vectors.stat().st_size, sha256(vectors), rows.stat().st_size, sha256(rows))


def write_manifest(path: Path, facts: StoreFacts, shards: Sequence[Shard]) -> None:
    """Replaces the manifest in one step: from here on exactly `shards` exist."""
    content = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(facts)}
    content["count"] = sum(shard.count for shard in shards)
    content["shards"] = [dataclasses.asdict(shard) for shard in shards]
    write_json(path / MANIFEST, content)


def read_manifest(path: Path) -> tuple[StoreFacts, list[Shard]]:
    """Returns the facts and the shards of the store at `path`.

    Raises:
        BabelclipError: there is no manifest, or it is damaged, of another format or of a newer version.
    """
    if not (path / MANIFEST).is_file():
        raise BabelclipError(
            f"{path} is not an embedding store: it has no {MANIFEST}. Give a folder that `babelclip embed` wrote."
        )
    content = read_json(path / MANIFEST)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BabelclipError(
            f"{path / MANIFEST} is not the manifest of an embedding store: its format must be {FORMAT!r}. Give a "
            "folder that `babelclip embed` wrote."
        )
    if content.get("version") != VERSION:
        raise BabelclipError(
            f"{path} is a store of version {content.get('version')!r}, and this babelclip reads version {VERSION}: "
            "install a newer babelclip."
        )
    try:
        facts = StoreFacts(**{field.name: content[field.name] for field in dataclasses.fields(StoreFacts)})
        shards = [Shard(**entry) for entry in content["shards"]]
        counted = sum(shard.count for shard in shards)
    except (KeyError, TypeError) as error:
        raise BabelclipError(
            f"{path / MANIFEST} is damaged ({error}): every fact and shard must be there. Copy it again from where "
            "the store came from."
        ) from error
    if counted != content.get("count"):
        raise BabelclipError(
            f"{path / MANIFEST} is damaged: it counts {content.get('count')} rows, but its shards hold {counted}. "
            "Copy it again from where the store came from."
        )
    return facts, shards


def looked_at(path: Path) -> tuple[StoreFacts, list[Shard], list[str]]:
    """Returns facts and shards of the store at `path`, and what a cheap look says is damaged.

    Raises:
        BabelclipError: as `read_manifest`.
    """
    facts, shards = read_manifest(path)
    problems = [
        problem for number, shard in enumerate(shards) for problem in cheap_problems(path, facts, number, shard)
    ]
    return facts, shards, problems


def cheap_problems(path: Path, facts: StoreFacts, number: int, shard: Shard) -> list[str]:
    """Returns what file sizes and the .npy header tell about a shard without reading it; [] when all is well.

    Each sentence begins with the damaged file, and each damaged file has one.
    """
    problems = []
    for file, size in files_of_shard(path, number, shard):
        if not file.is_file():
            problems.append(f"{file} is missing")
        elif file.stat().st_size != size:
            problems.append(f"{file} has {file.stat().st_size} bytes instead of {size}")
        elif (
            file.suffix == ".npy"
            and not is_waiting(file)
            and (problem := _header_problem(file, (shard.count, facts.dim), facts.dtype))
        ):
            problems.append(problem)
    return problems


def _header_problem(file: Path, shape: tuple[int, int], dtype: str) -> str:
    try:
        array = np.load(file, mmap_mode="r")
    except NPY_FAULTS as error:
        return f"{file} is not a .npy file ({error})"
    if array.shape != shape or array.dtype != np.dtype(dtype) or not array.flags.c_contiguous:
        return f"{file} is {array.shape} {array.dtype} instead of {shape} {dtype}"
    return ""


def files_of_shard(path: Path, number: int, shard: Shard) -> tuple[tuple[Path, int], tuple[Path, int]]:
    """Returns the two files of shard `number` with the bytes that each must have, vectors first."""
    return (vectors_name(path, number), shard.vectors_bytes), (rows_name(path, number), shard.rows_bytes)


def map_vectors(path: Path, facts: StoreFacts, number: int, shard: Shard) -> npt.NDArray[np.floating[Any]]:
    """Returns the vectors of a shard as a read-only memory map (n, D) in the stored dtype, made for random rows.

    Unlike `numpy.load(mmap_mode="r")` it tells the kernel not to read ahead: a batch of 2,048 random rows would
    otherwise pull 128 KiB from the disk for each 1.5 KiB row.

    Raises:
        BabelclipError: the file has lost bytes since the store was opened.
    """
    file = vectors_file(path, number)
    with file.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    if len(mapped) != shard.vectors_bytes:
        raise BabelclipError(
            f"{file} has {len(mapped)} bytes instead of {shard.vectors_bytes}: it was changed while the store was "
            "open. Copy it again from where the store came from."
        )
    if hasattr(mmap, "MADV_RANDOM"):
        mapped.madvise(mmap.MADV_RANDOM)
    dtype = np.dtype(facts.dtype).newbyteorder("<")
    header = shard.vectors_bytes - shard.count * facts.dim * dtype.itemsize
    return np.frombuffer(mapped, dtype, offset=header).reshape(shard.count, facts.dim)


def to_float32(vectors: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """Returns vectors (n, D) of a store as float32; float16 becomes it exactly.

    numpy converts a float16 in 1.4 ns. torch uses the processor's instruction for it, which takes a quarter of that,
    and who trains has torch loaded. So it is used where it is there, and not loaded where it is not.
    """
    torch = sys.modules.get("torch")
    if torch is None or vectors.dtype != np.float16 or not vectors.flags.writeable:
        return np.asarray(vectors, np.float32)
    features: npt.NDArray[np.float32] = torch.from_numpy(vectors).float().numpy()
    return features


def split_rows(
    rows: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]
) -> Iterator[tuple[int, slice, npt.NDArray[np.int64]]]:
    """Yields (shard, which of `rows` lie in it, their places inside it) for ascending `rows`.

    Args:
        rows: (B,) row numbers of the store, ascending.
        starts: (S + 1,) the first row of each of the S shards, and the number of rows.
    """
    cuts = np.searchsorted(rows, starts)
    for number in np.flatnonzero(np.diff(cuts)).tolist():
        part = slice(int(cuts[number]), int(cuts[number + 1]))
        yield number, part, rows[part] - starts[number]


def remove_unnamed_files(path: Path, shard_count: int) -> None:
    """Removes the shards and temporary files that a killed writer left; files of other names are not touched."""
    named = {name(path, number) for name in (vectors_name, rows_name) for number in range(shard_count)}
    for file in [*path.glob("vectors/*"), *path.glob("rows/*"), *path.glob(f".{MANIFEST}.*")]:
        if file not in named and _OWN_FILE.fullmatch(file.name):
            file.unlink()


def holds_other_things(path: Path) -> bool:
    """Returns whether `path` is a file, or a folder with anything in it that a killed `create` does not leave."""
    if not path.is_dir():
        return path.exists()
    own = {"vectors", "rows", LOCK}
    return any(item.name not in own and not item.name.startswith(f".{MANIFEST}.") for item in path.iterdir())


def lock_folder(path: Path) -> Callable[[], None]:
    """Takes the write lock of the folder and returns the function that gives it back; it ends with the process too.

    Raises:
        BabelclipError: another writer holds it.
    """
    try:
        return lock_file(path / LOCK)
    except LockedError as error:
        this = " (this process: another EmbeddingStore object)" if error.holder == str(os.getpid()) else ""
        raise BabelclipError(
            f"{path} is being written by process {error.holder}{this}. A store takes one writer at a time: wait for "
            "it, stop it or close() it, or read with EmbeddingStore.open."
        ) from error
