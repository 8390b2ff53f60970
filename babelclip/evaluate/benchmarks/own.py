"""Sets of one's own: any captions that `babelclip.data.sources` opens, and the pictures that they name."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from babelclip.data import sources
from babelclip.data.captions import NO_PICTURE, Captions
from babelclip.evaluate.benchmarks.captioned import CaptionRows
from babelclip.evaluate.benchmarks.pictures import PictureFinder
from babelclip.evaluate.benchmarks.request import Request
from babelclip.evaluate.benchmarks.sets import RetrievalSet
from babelclip.files import cache_folder

GROUPED = "label"
# Kinds of folders that have no place for a language.
_WITHOUT_LANGUAGE = ("pictures with texts", "webdataset", "img2dataset")


def read_captions_source(request: Request) -> RetrievalSet:
    """Returns the set of any captions source; with `label`, pictures of one label are equally relevant.

    Texts that name no language are in the one that was asked for, where that is one; in a folder else in English.
    """
    single = request.languages[0] if request.languages and len(request.languages) == 1 else None
    lang = single or ("en" if request.entry.name == "folder" else None)
    captions = sources.read_all(request.root, lang=lang, strict=request.strict)
    told = single is not None or sources.kind_of(request.root) not in _WITHOUT_LANGUAGE
    notes = () if told or lang is None else (f"texts that name no language count as {lang}",)
    return _of_captions(request, captions, sources.image_root(request.root), notes)


def builtin_path() -> Path:
    """Returns where the captions of the built-in set are kept: whoever can fetch its pictures writes them there.

    Evaluation stands below the starter and cannot ask it. The table holds `image`, `text`, `lang` and `label`.
    """
    return cache_folder() / "builtin" / "captions.parquet"


def read_builtin(request: Request) -> RetrievalSet:
    """Returns the photographs of `babelclip starter`: pictures whose English captions are equal are one group."""
    return read_captions_source(request)


def _of_captions(request: Request, captions: Captions, root: Path, notes: tuple[str, ...]) -> RetrievalSet:
    folder = request.images or root
    rows = CaptionRows(request, PictureFinder([folder], anywhere=True))
    grouped = request.protocol == GROUPED or request.entry.name == "builtin"
    for row in captions.table.to_pylist():
        if row["image"] is None:
            rows.skips.add(NO_PICTURE, f"caption {row['id']}")
            continue
        rows.add_picture(row["image"], group=row["label"] if grouped and row["label"] else None)
        rows.add(row["image"], row["lang"], row["text"], f"caption {row['id']}")
    skipped = Counter(captions.skipped)
    notes += tuple(f"{count} left out: {reason}" for reason, count in sorted(skipped.items()))
    return rows.build(request.split or request.entry.splits[0], notes=notes)
