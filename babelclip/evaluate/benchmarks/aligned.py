"""Captions in aligned files: line n of every language is about the picture in line n of an index.

XTD10 (its repository, or all files in one folder), XTD200 and Flickr30k-200 (files named by FLORES codes), Multi30k
(task 1: one caption and its translations; task 2: five independent captions a language).
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from babelclip.data import tables
from babelclip.errors import BabelclipError
from babelclip.evaluate.benchmarks.captioned import CaptionRows, read_aligned
from babelclip.evaluate.benchmarks.request import Request, language_of
from babelclip.evaluate.benchmarks.sets import RetrievalSet

_XTD_FILE = re.compile(r"test_1kcaptions_(\w+)\.txt(?:\.gz)?")
_MULTI30K_FILE = re.compile(r"(\w+?)\.(?:([1-5])\.)?([a-z]{2})(?:\.gz)?")


def read_xtd10(request: Request) -> RetrievalSet:
    """Returns XTD10: 1000 pictures of COCO, one caption in each of 11 languages."""
    index = request.need("test_image_names.txt")
    beside, base = index.parent, index.parent.parent
    by_language: dict[str, list[Path]] = {}
    # German and French are in MIC/, Japanese in STAIR/, because other projects wrote them.
    for folder in (beside, base / "MIC", base / "STAIR"):
        for path in sorted(folder.glob("test_1kcaptions_*.txt*")):
            match = _XTD_FILE.fullmatch(path.name)
            lang = language_of(match.group(1)) if match else None
            if lang:
                by_language.setdefault(lang, [path])
    return _from_files(request, index, by_language, "test")


def read_flores_named(request: Request) -> RetrievalSet:
    """Returns a set whose files are called by FLORES codes, `deu_Latn.txt` (XTD200, Flickr30k-200)."""
    index = request.need("test_image_names.txt", "filenames.txt")
    by_language: dict[str, list[Path]] = {}
    for path in sorted(index.parent.glob("*_[A-Z][a-z][a-z][a-z].txt*")):
        lang = language_of(path.name.partition(".")[0])
        if lang:
            by_language.setdefault(lang, [path])
    return _from_files(request, index, by_language, "test")


def read_multi30k(request: Request) -> RetrievalSet:
    """Returns task 1 of Multi30k: an English caption of each picture, translated to German, French and Czech."""
    return _read_multi30k(request, "task1", "{split}.txt")


def read_multi30k_task2(request: Request) -> RetrievalSet:
    """Returns task 2 of Multi30k: five captions of each picture in English, and five in German."""
    return _read_multi30k(request, "task2", "{split}_images.txt")


def multi30k_files(request: Request, task: str = "task1") -> dict[str, dict[str, list[Path]]]:
    """Returns split -> language -> files of raw captions, of the repository or of one flat folder.

    Raises:
        BabelclipError: there are none.
    """
    found: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    seen = set()
    folders = [*request.find(f"{task}/raw"), *request.find("raw")] if request.root.is_dir() else []
    for path in sorted((folders or [request.folder])[0].iterdir()) if request.folder.is_dir() else []:
        match = _MULTI30K_FILE.fullmatch(path.name)
        lang = language_of(match.group(3)) if match else None
        # A file may lie there packed and unpacked: it counts once.
        if match and lang and bool(match.group(2)) == (task == "task2") and match.groups() not in seen:
            seen.add(match.groups())
            found[match.group(1)][lang].append(path)
    if not found:
        raise request.missing("raw captions such as test_2016_flickr.en.gz")
    return found


def _read_multi30k(request: Request, task: str, index_name: str) -> RetrievalSet:
    files = multi30k_files(request, task)
    split = request.choose_split(files)
    name = index_name.format(split=split)
    indices = request.find(f"{task}/image_splits/{name}", f"image_splits/{name}", name)
    if not indices:
        raise request.missing(f"image_splits/{name}, which names the picture of each line")
    return _from_files(request, indices[0], files[split], split)


def _from_files(request: Request, index: Path, by_language: dict[str, list[Path]], split: str) -> RetrievalSet:
    # `COCO_val2014_000000398076.jpg#657409`: the number is that of the caption.
    names = [line.split("#")[0].strip() for line in tables.read_plain_lines(index)]
    while names and not names[-1]:
        names.pop()
    if not names or len(set(names)) < len(names):
        twice = next((name for name in names if names.count(name) > 1), "nothing")
        raise BabelclipError(
            f"{index} names {twice!r}{' twice' if names else ''}. Each line is another picture: take the file as it "
            "was published."
        )
    rows = CaptionRows(request)
    for name in names:
        rows.add_picture(name)
    for lang, paths in sorted(by_language.items()):
        for path in paths if request.wants(lang) else ():
            for number, (name, text) in enumerate(zip(names, read_aligned(path, len(names), index), strict=True), 1):
                rows.add(name, lang, text, f"{path}, line {number}")
    request.check_languages(by_language)
    if not by_language:
        raise request.missing("captions")
    return rows.build(split)
