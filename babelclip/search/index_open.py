"""Sources by what they look like, and the names that a collection knows them by.

Entry points: `open_sources`, `named_roots`.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from babelclip import storage
from babelclip.data import tables
from babelclip.data.sources import image_root as image_root_of
from babelclip.errors import BabelclipError, closest
from babelclip.search import index_tables
from babelclip.search.index_sources import PictureSource, Walk, has_pictures, walk_folder, walk_tar

_LOG = logging.getLogger(__name__)
_LOOKS = (
    "a folder of pictures or .tar files; a .tar; Parquet with pictures in it; a table (.parquet, .jsonl, .csv, .tsv) "
    "whose column `image` names files; an embedding store of pictures; a folder of clip-retrieval"
)


def is_vectors(source: Path) -> str:
    """Returns "store" for an EmbeddingStore, "clip-retrieval" for its folder, "" where pictures are to be encoded."""
    if (source / "manifest.json").is_file() and (source / "vectors").is_dir():
        return "store"
    return "clip-retrieval" if (source / "img_emb").is_dir() else ""


def open_sources(
    sources: Sequence[Path | str], roots: Mapping[str, str], image_root: Path | str | None = None
) -> list[PictureSource]:
    """Returns sources of pictures with the names that the rows of a collection have for them.

    Args:
        sources: folders and files.
        roots: names that the collection has, with their folders.
        image_root: folder below which the files lie that a table names; None: the folder of the table.

    Raises:
        BabelclipError: a source does not exist, is of no known kind, or is given twice.
    """
    opened: list[PictureSource] = []
    named = dict(roots)
    for source in sources:
        path = source_path(source)
        root, walk = _opened(path, image_root)
        name = _name(path, root, named)
        if any(name == other.name for other in opened):
            raise BabelclipError(f"{source} was given twice, or lies in another source: give each folder once.")
        named[name] = storage.address(root)
        opened.append(PictureSource(name, root, walk))
    return opened


def source_path(source: Path | str) -> Path:
    """Returns the absolute path of a source; that in the cache of one in object storage."""
    path = storage.shadow(source)
    return path if storage.is_url(source) else path.expanduser().resolve()


def table_schema(source: Path | str) -> pa.Schema | None:
    """Returns the schema of a Parquet source, which knows the types of its columns; None of another."""
    path = storage.shadow(source)
    if not path.exists() or (path.is_dir() and has_pictures(path)):
        return None
    files = index_tables.parquet_files(path)
    if not files:
        return None
    with tables.ParquetErrors(files[0]):
        return pq.read_schema(files[0])


def check_source(source: Path) -> None:
    """Does nothing where `source` exists.

    Raises:
        BabelclipError: it does not; names what is near.
    """
    if source.exists():
        return
    near = closest(source.name, [item.name for item in source.parent.iterdir()] if source.parent.is_dir() else [])
    raise BabelclipError(
        f"{source} does not exist. Pictures are taken from {_LOOKS}. "
        f"{f'Did you mean {source.with_name(near[0])}?' if near else 'Check the path.'}"
    )


def _opened(path: Path, image_root: Path | str | None) -> tuple[Path, Walk]:
    check_source(path)
    files = index_tables.parquet_files(path)
    if path.is_dir() and has_pictures(path):
        return path, functools.partial(walk_folder, path)
    if files and all(_holds_pictures(file) for file in files):
        root = path if path.is_dir() else path.parent
        return root, functools.partial(index_tables.walk_parquet, files)
    if path.is_dir():
        raise BabelclipError(f"{path} holds no pictures. They are taken from {_LOOKS}: give one of these.")
    if path.name.lower().endswith(".tar"):
        return path.parent, lambda name, wanted: walk_tar(path, path.parent, name, wanted)
    if path.name.lower().endswith((".tar.gz", ".tgz")):
        raise BabelclipError(f"{path} is packed, so a picture in it cannot be read alone: unpack it to a .tar first.")
    try:
        tables.file_format(path)
    except BabelclipError as error:
        raise BabelclipError(
            f"{path} is no source of pictures. Pictures are taken from {_LOOKS}; a single picture is not indexed: give "
            "its folder."
        ) from error
    root = source_path(image_root) if image_root is not None else image_root_of(path)
    return root, functools.partial(index_tables.walk_named, path, root)


def _holds_pictures(file: Path) -> bool:
    with tables.ParquetErrors(file):
        return index_tables.picture_column(pq.read_schema(file)) is not None


def _name(path: Path, root: Path, named: Mapping[str, str]) -> str:
    """Returns the name of a source: of its folder, with a number where another folder has that name already.

    A folder that is gone gives its name to one of the same name: it was moved.
    """
    wanted = root.name if path.is_dir() else path.name
    for name, folder in named.items():
        if folder == storage.address(root) and (name == wanted or name.startswith(f"{wanted}-")):
            return name
    number, name = 1, wanted or "pictures"
    while name in named and (storage.is_url(named[name]) or Path(named[name]).is_dir()):
        number += 1
        name = f"{wanted}-{number}"
    if name in named:
        _LOG.warning("%s: %s is gone, and %s takes its place.", name, named[name], root)
    return name
