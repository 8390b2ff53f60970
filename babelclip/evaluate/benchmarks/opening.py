"""`open_benchmark`: a benchmark from the words that name it, `xm3600=DIR`.

    builtin                         the photographs of the starter, where `own.builtin_path` has them
    NAME=DIR                        a folder, or the one file that a reader needs
    NAME=DIR,images=DIR2            pictures that lie elsewhere
    NAME=DIR,names=DIR3             class names and templates that lie elsewhere; templates=FILE for templates alone
    class-folders=DIR,name=eurosat  what results call a set of a general form, and its key in files of class names

`NAME-PROTOCOL` is NAME read in another way that its entry knows: `xm3600-first`, `sts12-lowercased`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from babelclip import languages as language_codes
from babelclip.errors import BabelclipError, did_you_mean
from babelclip.evaluate.benchmarks import (
    aligned,
    chinese_clip,
    cifar,
    class_folders,
    compositional,
    documents,
    lists,
    own,
    parallel,
    sentences,
    webdataset,
)
from babelclip.evaluate.benchmarks.catalog import Entry, entries, find_entry
from babelclip.evaluate.benchmarks.request import Request
from babelclip.evaluate.benchmarks.sets import BenchmarkSet
from babelclip.storage import local

OPTIONS = ("images", "names", "templates", "name")
# What leads out of a folder or stands for several names: splits become parts of file names.
_NO_SPLIT = frozenset("/\\*?[]\0")

READERS: dict[str, Callable[[Request], BenchmarkSet]] = {
    "xtd10": lambda request: (
        documents.read_xtd_json(request) if _has_xtd_json(request) else aligned.read_xtd10(request)
    ),
    "xtd200": aligned.read_flores_named,
    "flickr30k-200": aligned.read_flores_named,
    "xm3600": documents.read_xm3600,
    "xflickrco": documents.read_xflickrco,
    "wit": documents.read_wit,
    "mscoco": documents.read_coco,
    "coco-cn": lists.read_coco_cn,
    "flickr30k": lists.read_flickr,
    "flickr8k": lists.read_flickr,
    "flickr30k-cn": lists.read_flickr_cn,
    "flickr8k-cn": lists.read_flickr_cn,
    "multi30k": aligned.read_multi30k,
    "multi30k-task2": aligned.read_multi30k_task2,
    "chinese-clip": chinese_clip.read_chinese_clip,
    "wds": webdataset.read_webdataset,
    "captions": own.read_captions_source,
    "folder": own.read_captions_source,
    "builtin": own.read_builtin,
    "imagenet1k": class_folders.read_imagenet,
    "imagenetv2": class_folders.read_imagenet,
    "imagenet-a": class_folders.read_imagenet,
    "imagenet-o": class_folders.read_imagenet,
    "imagenet-r": class_folders.read_imagenet,
    "imagenet-sketch": class_folders.read_imagenet,
    "babel-imagenet": class_folders.read_babel_imagenet,
    "cifar10": cifar.read_cifar,
    "cifar100": cifar.read_cifar,
    "class-folders": class_folders.read_class_folders,
    "winoground": compositional.read_winoground,
    "sugarcrepe": compositional.read_sugarcrepe,
    "sts12": sentences.read_sts_year,
    "sts13": sentences.read_sts_year,
    "sts14": sentences.read_sts_year,
    "sts15": sentences.read_sts_year,
    "sts16": sentences.read_sts_year,
    "sts17": sentences.read_sts17,
    "stsb": sentences.read_stsb,
    "sick-r": sentences.read_sick,
    "multi30k-texts": parallel.read_multi30k_texts,
    "flores": parallel.read_flores,
    "parallel": parallel.read_parallel,
}


def open_benchmark(
    spec: str,
    *,
    languages: Sequence[str] | None = None,
    split: str = "",
    protocol: str = "",
    strict: bool = False,
) -> BenchmarkSet:
    """Returns a benchmark from files that lie on this machine; pictures are found and not opened.

    Args:
        spec: "NAME=DIR" with NAME from `benchmark_names()`; see the module text.
        languages: codes of those to read; None: all there are.
        split: one that is there; by default the one that its authors report on.
        protocol: another way to read it, see `Entry.protocols`; it becomes part of the name.
        strict: whether a caption, picture or pair that cannot be used is an error instead of a counted skip.

    Raises:
        UnknownLanguageError: a language is not known.
        BabelclipError: the name is not known; files are missing (the message shows the tree that is expected) or
            damaged; a split, protocol or language is not there.
    """
    given, equals, rest = spec.partition("=")
    entry, protocol = _entry(given, protocol)
    path, options = _options(rest)
    if entry.name == "builtin" and not path:
        path, equals = str(own.builtin_path()), "="
    if not equals or not path:
        raise BabelclipError(
            f"{spec!r} does not say where {entry.title} lies. Its files are read from a folder of yours: give "
            f"{entry.name}=DIR.\n{_tree(entry)}"
        )
    if _NO_SPLIT & set(split):
        raise BabelclipError(f"{split!r} is no name of a split. Ask for one of {', '.join(entry.splits)}.")
    codes = None if languages is None else tuple(dict.fromkeys(language_codes.normalize(code) for code in languages))
    request = Request(
        entry=entry,
        root=local(path),
        images=_path(options, "images"),
        names=_path(options, "names"),
        templates=_path(options, "templates"),
        title=options.get("name", ""),
        languages=codes,
        split=split,
        protocol=protocol,
        strict=strict,
    )
    several = entry.name == "parallel" and "," in path
    if not several and not request.root.exists():
        raise request.missing("files")
    for told in (request.names, request.templates):
        if told is not None and not told.exists():
            raise BabelclipError(f"{told} does not exist. Class names and templates are read from there: check it.")
    return READERS[entry.name](request)


def _entry(given: str, protocol: str) -> tuple[Entry, str]:
    """Returns the entry and the protocol, which may be told as the end of the name."""
    name = given.strip().lower()
    protocols = {one for entry in entries() for one in entry.protocols}
    for entry in entries():
        for known in (entry.name, *entry.aliases):
            told = name.removeprefix(f"{known}-") if name.startswith(f"{known}-") else ""
            if told in protocols and protocol in ("", told):
                return entry, _allowed(entry, told)
    entry = find_entry(name)
    return entry, _allowed(entry, protocol)


def _allowed(entry: Entry, protocol: str) -> str:
    if protocol and protocol not in entry.protocols:
        raise BabelclipError(
            f"{entry.name} is not read by the protocol {protocol!r}. "
            + (did_you_mean(protocol, entry.protocols) if entry.protocols else "It has one way only: leave it out.")
        )
    return protocol


def _options(rest: str) -> tuple[str, dict[str, str]]:
    """Returns the path, and what follows it as `,images=…`; other commas belong to the path."""
    parts = re.split(rf",(?=(?:{'|'.join(OPTIONS)})=)", rest.strip())
    return parts[0], dict(part.split("=", 1) for part in parts[1:])


def _path(options: dict[str, str], key: str) -> Path | None:
    return local(options[key]) if options.get(key) else None


def _has_xtd_json(request: Request) -> bool:
    if request.root.is_file():
        return request.is_json
    return bool(request.find("xtd.json*")) and not request.find("test_image_names.txt")


def _tree(entry: Entry) -> str:
    return "\n".join(f"  {line}" for line in entry.tree.strip().splitlines())
