"""Captions in lists, one `picture caption` a line: Flickr30k, Flickr8k, their Chinese versions, COCO-CN.

The same sets circulate in many forms, which differ in how picture and caption are parted:

    1000092795.jpg,Two young men ...          Karpathy's splits in CSV, Kaggle; quotes where the caption has any
    1000092795.jpg| 0| Two young men ...      Kaggle's results.csv, of which one line lacks the second stroke
    1000092795.jpg#0<tab>Two young men ...    the token files of the authors
    1000092795#zhm#0 <caption>                Flickr30k-CN, Flickr8k-CN, COCO-CN
    1000092795.jpg<tab><caption>              Flickr30k-CNA
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from babelclip.data import tables
from babelclip.evaluate.benchmarks.captioned import CaptionRows
from babelclip.evaluate.benchmarks.documents import read_karpathy_or_coco
from babelclip.evaluate.benchmarks.request import Request
from babelclip.evaluate.benchmarks.sets import RetrievalSet

_LINE = re.compile(
    r"(?P<name>[^\s,|#]+?(?:\.(?:jpe?g|png))?)(?:#(?:\w+#)?\d+)?(?:\s*\|\s*\d+(?:\s*\||\s)|,|\t|\s)\s*(?P<text>.*)",
    re.IGNORECASE,
)
_HEADERS = frozenset({"image", "image_name", "image_id", "filename", "file_name", "name", "img"})
NOT_A_PAIR = "line without picture and caption"


def read_flickr(request: Request) -> RetrievalSet:
    """Returns Flickr30k or Flickr8k with English captions: Karpathy's JSON, or a list."""
    name, split = request.entry.name, request.split or request.entry.splits[0]
    if request.root.is_file():
        found = [request.root] if request.is_json else []
    else:
        found = request.find(f"dataset_{name}.json*", f"{name}_{split}.json*")
    if found:
        return read_karpathy_or_coco(request, found[0])
    path = request.need(
        f"{name}_{split}_karpathy.txt", "results_20130124.token", "Flickr8k.token.txt", "results.csv", "captions.txt"
    )
    return _read_list(request, path, "en", split)


def read_flickr_cn(request: Request) -> RetrievalSet:
    """Returns Flickr30k-CN or Flickr8k-CN: Chinese captions of the pictures of Flickr."""
    base, split = request.entry.name.removesuffix("-cn"), request.split or request.entry.splits[0]
    path = request.need(
        f"{base}_cn_{split}.txt",
        f"{base}_{split}_zh.txt",
        f"{base}zh*{split}.caption.txt",
        f"{base}zhc.caption.txt",
        f"{base}-cn/{split}.txt",
        f"{split}.txt",
    )
    return _read_list(request, path, "zh", split)


def read_coco_cn(request: Request) -> RetrievalSet:
    """Returns COCO-CN: captions that people wrote in Chinese; with `translated` those they translated from English."""
    if request.is_json or not request.find("coco-cn_*.txt"):
        return read_karpathy_or_coco(request, request.need("captions.json"))
    members = {path.stem.removeprefix("coco-cn_"): path for path in request.find("coco-cn_*.txt")}
    split = request.choose_split(members)
    kind = "manually-translated" if request.protocol == "translated" else "human-written"
    path = request.need(f"imageid.{kind}-caption.txt")
    return _read_list(request, path, "zh", split, members[split])


def _read_list(request: Request, path: Path, lang: str, split: str, members: Path | None = None) -> RetrievalSet:
    """Returns the set of one list; of the pictures in the list `members` only, where there is one."""
    rows = CaptionRows(request)
    members = members or _members(request, path, split)
    wanted = None if members is None else [line.strip() for line in tables.read_plain_lines(members) if line.strip()]
    for name in wanted or ():
        rows.add_picture(_with_ending(name))
    stems = None if wanted is None else {_with_ending(name) for name in wanted}
    for number, line in enumerate(tables.iter_plain_lines(path), 1):
        match, where = _LINE.match(line), f"{path}, line {number}"
        if not line.strip() or (number == 1 and re.split(r"[|,\s]", line)[0].lower() in _HEADERS):
            continue
        if match is None:
            rows.skips.add(NOT_A_PAIR if tables.is_utf8(line) else tables.NOT_UTF8, where)
            continue
        name = _with_ending(match["name"])
        if stems is None or name in stems:
            rows.add(name, lang, _unquoted(match["text"]), where)
    return rows.build(split)


def _members(request: Request, path: Path, split: str) -> Path | None:
    """Returns the list of the pictures of a split, where the captions are of all splits."""
    if split in path.name or split == "all":
        return None
    lists = (f"{request.entry.name}_{split}.txt", f"Flickr_8k.{split}Images.txt", f"flickr7k{split}.txt")
    found = request.find(*lists, f"{split}.txt")
    if not found:
        raise request.missing(
            f"{split}.txt with the pictures of the split, and {path.name} has those of all; ask for the split 'all' or "
            "add it"
        )
    return found[0]


def _with_ending(name: str) -> str:
    return name if re.search(r"\.(jpe?g|png)$", name, re.IGNORECASE) else f"{name}.jpg"


def _unquoted(text: str) -> str:
    text = text.strip()
    return next(csv.reader([text]))[0] if len(text) > 1 and text[0] == text[-1] == '"' else text
