"""What img2dataset and clip-retrieval leave beside their pictures and vectors.

    00000.parquet 00000.tar 00000_stats.json, …                          img2dataset into webdataset
    00000.parquet 00000/000000000.jpg …                                  img2dataset into files
    metadata/metadata_0.parquet, … (beside img_emb/, text_emb/)          clip-retrieval

Of img2dataset the rows whose picture was fetched are read; the id is its key, `image` is `00000.tar::000000000.jpg` or
`00000/000000000.jpg`. clip-retrieval tells rows by their number over all parts in order of names, and that is the id,
unless the metadata were written by `babelclip store export`, which adds the ids.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from babelclip import storage
from babelclip.data.images import picture_suffixes
from babelclip.data.parts import one_naming
from babelclip.data.readers import parts_folder, table_files
from babelclip.data.tables import RawTable, without
from babelclip.errors import BabelclipError

NOT_FETCHED = "picture was not fetched"

_FETCHED = ("key", "caption", "text", "status", "lang", "language")
# What `babelclip store export` adds, so that the rows of a store keep their ids.
_STORE_ID = "store_id"
_RETRIEVAL = (_STORE_ID, "image_path", "caption", "text", "lang", "language")
_SHARD = re.compile(r"\d+\.parquet")
_METADATA = re.compile(r"metadata_(\d+)\.(parquet|arrow)")
_log = logging.getLogger(__name__)


def is_img2dataset(folder: Path) -> bool:
    """Returns whether `folder` holds the output of img2dataset."""
    return any(_belongings(path) for path in folder.glob("*.parquet") if _SHARD.fullmatch(path.name))


def iter_img2dataset(folder: Path, rows: int, lang: str | None = None) -> Iterator[RawTable]:
    """Yields the fetched rows of img2dataset's output.

    Raises:
        BabelclipError: a table is damaged or has no captions.
    """
    del lang  # the caller's default holds for all rows
    shards = img2dataset_shards(folder)
    unlisted = {path.stem for path in folder.glob("*.tar")} - {path.stem for path in shards}
    if unlisted:
        _log.warning(
            "%s: %d tars without a table beside them were left out, first %s.tar: their shard was not finished.",
            folder,
            len(unlisted),
            min(unlisted),
        )
    return one_naming(part for shard in shards for part in _iter_shard(shard, rows))


def img2dataset_shards(folder: Path) -> list[Path]:
    """Returns the tables of img2dataset's output, in order."""
    return sorted(path for path in folder.glob("*.parquet") if _SHARD.fullmatch(path.name))


def is_clip_retrieval(folder: Path) -> bool:
    """Returns whether `folder` is clip-retrieval's `metadata`, or the folder in which that lies."""
    return bool(_metadata_files(folder))


def iter_clip_retrieval(folder: Path, rows: int, lang: str | None = None) -> Iterator[RawTable]:
    """Yields the rows of clip-retrieval's metadata, in the order of its vectors.

    Raises:
        BabelclipError: a part is damaged, or there are vectors without their metadata.
    """
    del lang
    files = clip_retrieval_files(folder)
    parts = table_files.renumbered(table_files.iter_columns(path, _RETRIEVAL, rows) for path in files)
    return one_naming(map(_with_store_ids, parts))


def clip_retrieval_files(folder: Path) -> list[Path]:
    """Returns the parts of clip-retrieval's metadata in the order of its vectors.

    Raises:
        BabelclipError: there are vectors without their metadata, so that every number after them would be wrong.
    """
    files = _metadata_files(folder)
    there = {path.stem.removeprefix("metadata_") for path in files}
    for name in ("img_emb", "text_emb"):
        vectors = files[0].parent.parent / name
        numbers = {path.stem.removeprefix(f"{name}_") for path in vectors.glob(f"{name}_*.npy")}
        if numbers - there:
            raise BabelclipError(
                f"{vectors} has part {min(numbers - there)} and {files[0].parent} has not. clip-retrieval tells rows "
                "by their number, so each part of the vectors needs its metadata: copy the folders whole."
            )
    return files


def _with_store_ids(raw: RawTable) -> RawTable:
    if _STORE_ID not in raw.columns:
        return raw
    columns = {"id" if name == _STORE_ID else name: values for name, values in raw.columns.items()}
    return dataclasses.replace(raw, columns=columns)


def _metadata_files(folder: Path) -> list[Path]:
    for place in (folder, folder / "metadata"):
        if place.is_dir():
            found = [path for path in parts_folder.visible_files(place) if _METADATA.fullmatch(path.name)]
            if found:
                return found
    return []


def _belongings(shard: Path) -> bool:
    """Returns whether beside a table lies what img2dataset leaves there."""
    stem = shard.with_suffix("")
    return stem.with_suffix(".tar").is_file() or stem.is_dir() or shard.with_name(f"{shard.stem}_stats.json").is_file()


def _iter_shard(shard: Path, rows: int) -> Iterator[RawTable]:
    place = _pictures_of(shard)
    for raw in table_files.iter_columns(shard, _FETCHED, rows):
        part = raw
        if "status" in raw.columns:
            bad = pc.not_equal(pc.fill_null(raw.columns["status"], ""), "success")
            part = without(raw, np.asarray(bad.to_numpy(), dtype=bool), NOT_FETCHED)
        columns = {name: values for name, values in part.columns.items() if name != "status"}
        if place is not None and "key" in columns:
            ending = pa.scalar(place[1])
            columns["image"] = pc.binary_join_element_wise(pa.scalar(place[0]), columns["key"], ending, "")
        yield dataclasses.replace(part, columns=columns)


def _pictures_of(shard: Path) -> tuple[str, str] | None:
    """Returns what stands before and behind a key in the names of a shard's pictures; None without pictures."""
    folder, tar = shard.with_suffix(""), shard.with_suffix(".tar")
    if folder.is_dir():
        names = sorted(path.name for path in folder.iterdir())
        before = f"{folder.name}/"
    elif tar.is_file():
        names, before = _first_names(tar), f"{tar.name}::"
    else:
        _log.warning("%s: neither %s nor %s/ is there, so its captions have no picture.", shard, tar.name, folder.name)
        return None
    endings = [Path(name).suffix for name in names if Path(name).suffix.lower() in picture_suffixes()]
    return (before, endings[0]) if endings else None


def _first_names(tar: Path) -> list[str]:
    """Returns the names of the first few members; one of them is a picture."""
    names: list[str] = []
    try:
        with storage.opened(tar) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            while len(names) < 8 and (member := archive.next()) is not None:
                names.append(member.name)
    except tarfile.TarError as error:
        raise BabelclipError(
            f"{tar} is not a whole tar ({error}). Its table beside it names pictures that lie in it: fetch it again."
        ) from error
    return names
