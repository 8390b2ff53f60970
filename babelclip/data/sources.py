"""`open_captions`: captions from whatever holds them, part by part.

A source is a path, or words with a colon. Which reader takes it is decided by the tables `FILES`, `FOLDERS` and `SPECS`
below, the first row that fits; docs/formats.md shows the same as a table with examples.

Memory holds a part of some thousand rows, whatever the size of the source. What a row must be, what is left out and
counted, and `strict` are as in `babelclip.data.captions`; each reader adds reasons of its own to `Captions.skipped`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from babelclip import languages, storage
from babelclip.data import tables
from babelclip.data.captions import Captions
from babelclip.data.duplicates import without_duplicates
from babelclip.data.parts import ROWS, positive, usable_parts
from babelclip.data.readers import (
    hub,
    image_metadata,
    lines,
    parts_folder,
    picture_texts,
    table_files,
    tmx,
    webdataset,
)
from babelclip.data.tables import RawTable
from babelclip.errors import BabelclipError, closest

# (source, rows in a part, language of rows that name none) -> tables of strings
Reader = Callable[[Path, int, "str | None"], Iterator[RawTable]]


def _unknown_total(source: Path | str) -> None:
    """The total of what only reading it would count."""
    del source


class Kind(NamedTuple):
    """A kind of file or folder: what it is called, how it looks, how it is told, how it is read and counted."""

    name: str
    looks: str
    is_it: Callable[[Path], bool]
    read: Reader
    total: Callable[[Path], int | None]


FILES = (
    Kind(
        "table",
        ".parquet .jsonl .csv .tsv, each also .gz, .arrow .feather",
        table_files.is_table,
        table_files.iter_file,
        table_files.count_file,
    ),
    Kind("TMX", ".tmx .tmx.gz", tmx.is_tmx, tmx.iter_tmx, _unknown_total),
    Kind("webdataset", ".tar .tar.gz", webdataset.is_tar, webdataset.iter_tar, _unknown_total),
    Kind(
        "plain lines",
        "train.sv or train.sv.gz (ending in a language), or .txt with the language told",
        lines.is_plain_lines,
        lines.iter_lines,
        lambda path: lines.count_lines([path]),
    ),
)
FOLDERS = (
    Kind(
        "translate folder",
        "manifest.json, translations/sv/00000.parquet",
        parts_folder.is_translation,
        parts_folder.iter_translation,
        parts_folder.count_translation,
    ),
    Kind(
        "img2dataset",
        "00000.parquet beside 00000.tar or 00000/000000000.jpg",
        image_metadata.is_img2dataset,
        image_metadata.iter_img2dataset,
        lambda path: table_files.count_files(image_metadata.img2dataset_shards(path)),
    ),
    Kind(
        "clip-retrieval",
        "metadata/metadata_0.parquet",
        image_metadata.is_clip_retrieval,
        image_metadata.iter_clip_retrieval,
        lambda path: table_files.count_files(image_metadata.clip_retrieval_files(path)),
    ),
    Kind(
        "parts of a table",
        "00000.parquet, 00001.parquet, … or .jsonl, .csv, .tsv, .arrow",
        parts_folder.has_parts,
        parts_folder.iter_parts,
        parts_folder.count_parts,
    ),
    Kind("webdataset", "00000.tar, 00001.tar, …", webdataset.has_tars, webdataset.iter_tars, _unknown_total),
    Kind(
        "pictures with texts",
        "dog.jpg and dog.txt, in any folders below",
        picture_texts.has_pairs,
        picture_texts.iter_pairs,
        _unknown_total,
    ),
)


def _moses(words: str) -> list[Path]:
    return [storage.shadow(name) for name in words.split(",") if name]


class Spec(NamedTuple):
    """A source that is told in words, `name:words`."""

    looks: str
    read: Callable[[str, int, str | None], Iterator[RawTable]]
    total: Callable[[str], int | None]


SPECS = {
    "moses": Spec(
        "moses:corpus.en,corpus.sv",
        lambda words, rows, lang: lines.iter_aligned(_moses(words), rows, lang),
        lambda words: lines.count_lines(_moses(words)),
    ),
    "hub": Spec("hub:NAME[:CONFIG[:SPLIT]]", hub.iter_hub, _unknown_total),
}


def open_captions(
    source: str | Path,
    *,
    lang: str | None = None,
    strict: bool = False,
    only: str | Iterable[str] | None = None,
    rows: int = ROWS,
    drop_duplicates: bool = False,
) -> Iterator[Captions]:
    """Yields the captions of any source in its order, part by part.

    Args:
        source: a file, a folder, or words such as "moses:corpus.en,corpus.sv"; see docs/formats.md.
        lang: language of the rows that name none.
        strict: whether the first row that cannot be used is an error.
        only: keep these languages; the other rows are counted in `skipped`.
        rows: rows of the source in a part. A part has about as many captions, perhaps none, and counts the rest.
        drop_duplicates: leave out, and count, what has text, language, source and picture of an earlier caption.

    Raises:
        UnknownLanguageError: `lang` or one of `only` is not known.
        BabelclipError: the source is missing, of no known kind, or damaged; no row can be used; or, with `strict`, one
            cannot. What lies within the source is met while it is read.
    """
    wanted = None if only is None else [languages.normalize(c) for c in ([only] if isinstance(only, str) else only)]
    default = None if lang is None else languages.normalize(lang)
    parts = usable_parts(_resolved(source).read(positive(rows), default), default, strict, wanted)
    return without_duplicates(parts) if drop_duplicates else parts


def read_all(
    source: str | Path,
    *,
    lang: str | None = None,
    strict: bool = False,
    only: str | Iterable[str] | None = None,
    drop_duplicates: bool = False,
) -> Captions:
    """Returns all captions of any source at once; see `open_captions`.

    Raises:
        BabelclipError: as `open_captions`; or an id is in two parts.
    """
    parts = open_captions(source, lang=lang, strict=strict, only=only, drop_duplicates=drop_duplicates)
    return Captions.concat(parts, str(source))


def count_captions(source: str | Path) -> int | None:
    """Returns about how many rows a source has, those that will be left out included; None where only reading tells.

    Raises:
        BabelclipError: the source is missing or of no known kind.
    """
    return _resolved(source).total()


def image_root(source: str | Path) -> Path:
    """Returns the folder that the values of `image` are relative to: the folder itself, or that of a file.

    Translations keep the names of their source, so theirs is the one of the source, where that is still in its place.
    """
    path = storage.shadow(source)
    if parts_folder.is_translation(path):
        name = parts_folder.source_of_translation(path)
        origin = Path(name)
        found = storage.is_url(name) or origin.exists()
        return image_root(name) if found and origin != path and storage.address(path) != name else path
    if path.is_dir():
        return path
    # Of a file in object storage only itself was listed so far.
    parent = storage.address(path).rpartition("/")[0]
    return storage.shadow(parent) if storage.is_url(parent) else path.parent


def kind_of(source: str | Path) -> str | None:
    """Returns the name of the kind of a source that exists, None where no reader takes it."""
    name, colon, _ = str(source).partition(":")
    if colon and name in SPECS and not Path(source).exists():
        return name
    path = storage.shadow(source) if storage.exists(source) else Path(source)
    if not path.exists():
        return None
    return next((kind.name for kind in (FOLDERS if path.is_dir() else FILES) if kind.is_it(path)), None)


class _Resolved(NamedTuple):
    read: Callable[[int, str | None], Iterator[RawTable]]
    total: Callable[[], int | None]


def _resolved(source: str | Path) -> _Resolved:
    name, colon, words = str(source).partition(":")
    if colon and name in SPECS and not Path(source).exists():
        spec = SPECS[name]
        return _Resolved(lambda rows, lang: spec.read(words, rows, lang), lambda: spec.total(words))
    path = storage.shadow(source)
    kind = _kind(path)
    return _Resolved(lambda rows, lang: kind.read(path, rows, lang), lambda: kind.total(path))


def _kind(path: Path) -> Kind:
    if not path.exists():
        raise _missing(path)
    for kind in FOLDERS if path.is_dir() else FILES:
        if kind.is_it(path):
            return kind
    if path.is_dir():
        raise _unknown_folder(path)
    near = closest(path.suffix, tables.FORMATS)
    raise BabelclipError(
        f"{path} has the ending {path.suffix!r}. Captions are read from "
        + "; ".join(kind.looks for kind in FILES)
        + f". {f'Did you mean {near[0]}?' if near else 'Convert the file or rename it.'}"
    )


def _missing(path: Path) -> BabelclipError:
    name, colon, words = str(path).partition(":")
    if colon and words and not name.startswith((".", "/")):
        near = closest(name, SPECS)
        hint = f"Did you mean {near[0]}:?" if near else "Check it."
        return BabelclipError(
            f"{path} is no path that exists, and {name!r} is no kind of source. Known are "
            f"{', '.join(spec.looks for spec in SPECS.values())}. {hint}"
        )
    there = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    near = closest(path.name, there)
    return BabelclipError(
        f"{path} does not exist, and captions are read from a file, a folder or words such as "
        f"moses:corpus.en,corpus.sv. {f'Did you mean {path.with_name(near[0])}?' if near else 'Check the path.'}"
    )


def _unknown_folder(folder: Path) -> BabelclipError:
    there = sorted(item.name + ("/" if item.is_dir() else "") for item in folder.iterdir())
    found = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "") if there else "nothing"
    expected = "".join(f"\n  {kind.name}: {kind.looks}" for kind in FOLDERS)
    return BabelclipError(
        f"{folder} holds {found}, which is no folder of captions that is known. Known are:{expected}\n"
        "Give the folder in which these lie, or the file itself."
    )
