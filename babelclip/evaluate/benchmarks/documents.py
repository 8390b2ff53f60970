"""Captions in JSON: XM3600, the retrieval files of Babel-ImageNet (XTD10, xFlickrCO), IGLUE's xFlickrCO, COCO, WIT.

Each document is looked through by its shape, so that one entry takes any of the forms in which its set is published.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from babelclip.errors import BabelclipError
from babelclip.evaluate.benchmarks.captioned import CaptionRows
from babelclip.evaluate.benchmarks.request import Request, iter_jsonl, language_of, load_json, member, text_problem
from babelclip.evaluate.benchmarks.sets import RetrievalSet

NOT_A_LIST = "captions are not in a list"
# `annotations[].source` of COCO-CN as NLLB-CLIP publishes it: written by people, or translated by them.
_WRITTEN, _TRANSLATED = "cn", "zhm"
# captions_val2014.json is no split of Karpathy; coco_karpathy_test.json and flickr30k_test.json are BLIP's.
_SPLIT_IN_NAME = re.compile(r"captions_(\w+)\.|(?:.*_)?(test|val|train|restval)[_.]")
_WIT_FILE = re.compile(r"(?:wit_)?(test|val|train)(?:_([a-z]{2,3}))?\.jsonl(?:\.gz)?")


def read_xm3600(request: Request) -> RetrievalSet:
    """Returns Crossmodal-3600: all captions of each picture and language, or with `first` the first of them."""
    path = request.need("captions.jsonl*", "xm3600.json*")
    if ".jsonl" not in path.name:
        return _read_babel(request, path)
    rows = CaptionRows(request)
    for where, row in iter_jsonl(path, rows.skips):
        key = row.get("image/key")
        if not isinstance(key, str) or not key:
            rows.skips.add("no image/key", where)
            continue
        rows.add_picture(key)
        for code, value in row.items():
            lang = language_of(code)
            if lang is None or not isinstance(value, dict):
                continue  # image/locale and the like
            captions = value.get("caption")
            if not isinstance(captions, list):
                rows.skips.add(NOT_A_LIST, f"{where}, {code}")
                continue
            for text in captions:
                rows.add(key, lang, text, f"{where}, {code}")
    return rows.build("test")


def read_xflickrco(request: Request) -> RetrievalSet:
    """Returns xFlickrCO, from `xflickrco.json` of Babel-ImageNet or `annotations/LANG/test.jsonl` of IGLUE."""
    if request.root.is_file() or request.find("xflickrco.json*"):
        return _read_babel(request, request.need("xflickrco.json*"))
    rows = CaptionRows(request)
    found = {lang: path for path in request.find("*/test.jsonl*") if (lang := language_of(path.parent.name))}
    if not found:
        raise request.missing("xflickrco.json or annotations/LANG/test.jsonl")
    for lang, path in found.items():
        for where, row in iter_jsonl(path, rows.skips):
            name, captions = row.get("img_path"), row.get("sentences")
            if not isinstance(name, str) or not isinstance(captions, list):
                rows.skips.add("no img_path and sentences", where)
                continue
            for text in captions:
                rows.add(name, lang, text, where)
    return rows.build("test")


def read_xtd_json(request: Request) -> RetrievalSet:
    """Returns XTD10 from `xtd.json` of Babel-ImageNet."""
    return _read_babel(request, request.need("xtd.json*"))


def _read_babel(request: Request, path: Path) -> RetrievalSet:
    """Returns the set of `{"images": [...], "captions": {lang: [[caption, ...], ...]}}`."""
    content = load_json(path, dict)
    names, captions = member(content, "images", list, path), member(content, "captions", dict, path)
    rows = CaptionRows(request)
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise BabelclipError(
            f"{path}: 'images' holds {len(names)} names, {len(set(map(str, names)))} of them distinct. It must be a "
            "list of file names, each once: take the file as it was published."
        )
    for name in names:
        rows.add_picture(name)
    for code, lists in captions.items():
        lang = language_of(code)
        if lang is None or not isinstance(lists, list) or len(lists) != len(names):
            raise BabelclipError(
                f"{path}: captions of {code!r} are {len(lists) if isinstance(lists, list) else 'no list'} for "
                f"{len(names)} pictures. A known language with one list a picture is needed: take the file as it was "
                "published."
            )
        for name, texts in zip(names, lists, strict=True):
            for text in texts if isinstance(texts, list) else [texts]:
                rows.add(name, lang, text, f"{path}, {code}, {name}")
    return rows.build("test")


def read_coco(request: Request) -> RetrievalSet:
    """Returns COCO captions: the split of Karpathy, or any COCO JSON."""
    patterns = (
        "dataset_coco.json*",
        f"coco_{request.split or 'test'}_karpathy.json*",
        f"coco_karpathy_{request.split or 'test'}.json*",
        f"captions_{request.split}*.json" if request.split else "captions_val2014.json",
        "captions_*.json",
        "captions.json",
    )
    return read_karpathy_or_coco(request, request.need(*patterns))


def read_karpathy_or_coco(request: Request, path: Path) -> RetrievalSet:
    """Returns the set of a Karpathy JSON, a COCO JSON, or a list of `{"image", "caption"}`, told by its shape.

    Raises:
        BabelclipError: it is none of these.
    """
    content = load_json(path, object)
    if isinstance(content, list):
        return _read_pairs(request, path, content)
    if not isinstance(content, dict):
        content = load_json(path, dict)  # raises the error
    images = member(content, "images", list, path)
    if images and isinstance(images[0], dict) and "sentences" in images[0]:
        return _read_karpathy(request, path, images)
    return _read_coco_annotations(request, path, images, member(content, "annotations", list, path))


def _read_karpathy(request: Request, path: Path, images: list[Any]) -> RetrievalSet:
    split = request.choose_split(str(image.get("split")) for image in images if isinstance(image, dict))
    rows = CaptionRows(request)
    for number, image in enumerate(images):
        where = f"{path}, images[{number}]"
        name, sentences = (image.get("filename"), image.get("sentences")) if isinstance(image, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(sentences, list):
            rows.skips.add("no filename and sentences", where)
        elif image.get("split") == split:
            # COCO says in which of its folders the file is: val2014/COCO_val2014_000000391895.jpg.
            place = image.get("filepath")
            name = f"{place}/{name}" if isinstance(place, str) and place else name
            rows.add_picture(name)
            for sentence in sentences:
                rows.add(name, "en", sentence.get("raw") if isinstance(sentence, dict) else sentence, where)
    return rows.build(split)


def _read_coco_annotations(request: Request, path: Path, images: list[Any], annotations: list[Any]) -> RetrievalSet:
    rows = CaptionRows(request)
    names: dict[Any, str] = {}
    for number, image in enumerate(images):
        if isinstance(image, dict) and isinstance(image.get("file_name"), str) and _is_id(image.get("id")):
            names[image["id"]] = image["file_name"]
            rows.add_picture(image["file_name"])
        else:
            rows.skips.add("no id and file_name", f"{path}, images[{number}]")
    lang = "zh" if request.entry.name.endswith("-cn") else "en"
    other = _WRITTEN if request.protocol == "translated" else _TRANSLATED
    for number, item in enumerate(annotations):
        where = f"{path}, annotations[{number}]"
        if not isinstance(item, dict) or not _is_id(item.get("image_id")) or item["image_id"] not in names:
            rows.skips.add("caption of a picture that the file does not name", where)
            continue
        if lang == "en" or item.get("source") != other:
            rows.add(names[item["image_id"]], lang, _joined(item.get("caption"), lang), where)
    return rows.build(_told_split(request, path))


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str))


def _told_split(request: Request, path: Path) -> str:
    """Returns the split that the name of a file tells, else the one that was asked for, else the usual one."""
    told = _SPLIT_IN_NAME.match(path.name)
    return (told.group(1) or told.group(2)) if told else request.split or request.entry.splits[0]


def _read_pairs(request: Request, path: Path, items: list[Any]) -> RetrievalSet:
    """BLIP's form of the Karpathy splits: `[{"image": "val2014/x.jpg", "caption": [...]}, ...]`."""
    rows = CaptionRows(request)
    for number, item in enumerate(items):
        where = f"{path}, [{number}]"
        name = item.get("image") if isinstance(item, dict) else None
        if not isinstance(name, str):
            rows.skips.add("no image and caption", where)
            continue
        captions = item.get("caption")
        for text in captions if isinstance(captions, list) else [captions]:
            rows.add(name, "en", text, where)
    return rows.build(_told_split(request, path))


def _joined(text: Any, lang: str) -> Any:
    """Chinese that was cut into words by spaces is joined again: no tower was trained on it so."""
    if lang != "zh" or text_problem(text) or " " not in text:
        return text
    return re.sub(r"(?<=[^\x00-\x7f]) +| +(?=[^\x00-\x7f])", "", text)


def read_wit(request: Request) -> RetrievalSet:
    """Returns the WIT test sets of IGLUE: in each language its own pictures, each with one caption.

    A picture is called by `image`, else by the last part of `image_url`, else by `wit_ix` or `image_idx`; the ending of
    the file may be another.
    """
    files: dict[str, dict[str, Path]] = {}
    for path in [request.root] if request.root.is_file() else request.find("*.jsonl*"):
        match = _WIT_FILE.fullmatch(path.name)
        if match:
            files.setdefault(match.group(1), {})[match.group(2) or ""] = path
    split = request.choose_split(files)
    rows = CaptionRows(request)
    there = {code: language_of(code) for code in files[split] if code}
    for code, path in sorted(files[split].items()):
        if code and not request.wants(there[code] or ""):
            continue  # each language has pictures of its own
        for where, row in iter_jsonl(path, rows.skips):
            lang = language_of(str(row.get("language") or code))
            name = rows.present_or_first(_wit_names(row))
            text = row.get("caption_reference_description", row.get("caption"))
            if lang is None or name is None:
                rows.skips.add("no picture is named" if lang else "unknown language", where)
            else:
                rows.add(name, lang, text, where)
    return rows.build(split, own_corpora=True, facts={"corpus": "pictures of the language"})


def _wit_names(row: dict[str, Any]) -> Iterator[str]:
    url = row.get("image_url")
    last = re.split("[?#]", url)[0].rsplit("/", 1)[-1] if isinstance(url, str) else ""
    for value in (row.get("image"), unquote(last), last, row.get("wit_ix"), row.get("image_idx")):
        if isinstance(value, (str, int)) and str(value):
            yield str(value)
