"""Chinese-CLIP's form of a retrieval set: texts in JSONL, pictures as base64 in TSV, read where they lie.

`{split}_texts.jsonl` has `{"text_id": 8428, "text": "...", "image_ids": [1076345]}` a line, `{split}_imgs.tsv` an id, a
tab and a picture in base64. An id of a picture may stand in the texts and not in the TSV: that caption is counted.
"""

from __future__ import annotations

import codecs
from pathlib import Path

from babelclip.evaluate.benchmarks.captioned import CaptionRows
from babelclip.evaluate.benchmarks.request import Request, Skips, iter_jsonl
from babelclip.evaluate.benchmarks.sets import Base64Picture, RetrievalSet

_TEXTS = "_texts.jsonl"


def read_chinese_clip(request: Request) -> RetrievalSet:
    """Returns a set in the form of Chinese-CLIP (MUGE, Flickr30k-CN, COCO-CN as its authors packed them)."""
    texts = [request.root] if request.root.is_file() else request.find(f"*{_TEXTS}")
    if not all(path.name.endswith(_TEXTS) for path in texts):
        raise request.missing(f"texts; their file is called SPLIT{_TEXTS}")
    split = request.choose_split(path.name.removesuffix(_TEXTS) for path in texts)
    chosen = next(path for path in texts if path.name == f"{split}{_TEXTS}")
    pictures = chosen.with_name(f"{split}_imgs.tsv")
    if not pictures.is_file():
        raise request.missing(pictures.name)
    rows = CaptionRows(request)
    for name, source in _pictures(pictures, rows.skips):
        rows.add_picture(name, source)
    # A query of MUGE has several right answers: any of them counts, as in the project's own evaluation.
    for number, (where, row) in enumerate(iter_jsonl(chosen, rows.skips)):
        ids = row.get("image_ids")
        if not isinstance(ids, list) or not ids:
            rows.skips.add("text without image_ids", where)
            continue
        for picture in dict.fromkeys(map(str, ids)):
            rows.add(picture, "zh", row.get("text"), where, number=number)
    return rows.build(split)


def _pictures(path: Path, skips: Skips) -> list[tuple[str, Base64Picture]]:
    found, offset = [], 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            name, tab, content = line.partition(b"\t")
            place, name = offset + len(name) + 1, name.removeprefix(codecs.BOM_UTF8)
            content = content.rstrip()
            if line.strip() and not (tab and content and name.strip().isascii()):
                skips.add("line without id and picture", f"{path}, line {number}")
            elif line.strip():
                found.append((name.decode("ascii").strip(), Base64Picture(str(path), place, len(content))))
            offset += len(line)
    return found
