"""The columns of M-CLIP/ImageCaptions-7M-Translations: an English caption, its Swedish, and one other language.

| column | meaning |
|---|---|
| `caption` | English |
| `caption_sv` | Swedish |
| `caption_multi`, `multi_language_code`, `multi_language_name` | the language of the row's bucket |
| `target_code` | tag of the translation model, `>>cmn_Hant<<` for example |
| `index` | number of the row, from 1 |

Row p becomes the caption `p` and its translations `p-sv` and `p-<lang>` with source_id `p`: p is also the `id` of
M-CLIP/ImageCaptions-7M-Embeddings, where the caption's vectors lie. Both Chinese buckets have the code zh; the name
tells them apart, else the tag. In the Swedish bucket the row has Swedish twice, and `caption_sv` is the one taken.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

import numpy as np

from babelclip import languages
from babelclip.data import tables
from babelclip.data.captions import EMPTY_SOURCE, EMPTY_TEXT, NO_LANGUAGE
from babelclip.data.tables import RawTable

COLUMNS = (
    "caption",
    "caption_sv",
    "caption_multi",
    "multi_language_code",
    "multi_language_name",
    "target_code",
    "index",
)
EMPTY_TRANSLATION = "empty translation"
SECOND = "second translation into one language"
WHICH_CHINESE = "Chinese of a script that is not told"

_COLUMNS = ("id", "source_id", "text", "lang")
_CHINESE = {"chinese_simplified": "zh", "chinese_traditional": "zh-Hant"}
_log = logging.getLogger(__name__)


def is_mclip(names: Collection[str]) -> bool:
    """Returns whether column names, in lower case, are those of this data set."""
    return "caption" in names and not {"caption_sv", "caption_multi"}.isdisjoint(names)


def to_captions(raw: RawTable) -> RawTable:
    """Returns the captions of the rows of `raw`, which has some of `COLUMNS`: up to three rows for one."""
    present = {name.lower() for name in raw.names}
    count = len(raw.places)
    values: dict[str, list[str | None]] = {
        name: raw.columns[name].to_pylist() if name in raw.columns else [None] * count for name in COLUMNS
    }
    _check_index(raw, values["index"])
    collector = tables.RowCollector(raw.source, _COLUMNS)
    other = zip(values["multi_language_code"], values["multi_language_name"], values["target_code"], strict=True)
    texts = zip(values["caption"], values["caption_sv"], values["caption_multi"], strict=True)
    rows = zip(raw.places.tolist(), raw.positions.tolist(), texts, other, strict=True)
    for place, position, (text, swedish, multi), told in rows:
        name = str(position)
        lost = None if text and text.strip() else EMPTY_SOURCE
        collector.add(place, position, (name, None, text, "en"), EMPTY_TEXT if lost else None)
        if "caption_sv" in present:
            empty = None if swedish and swedish.strip() else EMPTY_TRANSLATION
            collector.add(place, position, (f"{name}-sv", name, swedish, "sv"), empty or lost)
        if "caption_multi" in present:
            lang, problem = _language(*told)
            if not (multi and multi.strip()):
                problem = EMPTY_TRANSLATION
            elif lang == "sv" and swedish and swedish.strip():
                problem = SECOND
            collector.add(place, position, (f"{name}-{lang}", name, multi, lang), problem or lost)
    return tables.with_skipped(collector.table(_COLUMNS), raw)


def count_texts(names: Collection[str]) -> int:
    """Returns how many rows one row becomes at most."""
    return sum(name in names for name in ("caption", "caption_sv", "caption_multi"))


def _language(code: str | None, name: str | None, tag: str | None) -> tuple[str | None, str | None]:
    """Returns (language, problem); a code that is not known stays as it is, to be counted as such."""
    by_name = _CHINESE.get((name or "").strip().lower().replace(" ", "_"))
    if by_name:
        return by_name, None
    if not code:
        return None, NO_LANGUAGE
    try:
        lang = languages.normalize(code)
    except languages.UnknownLanguageError:
        return code, None
    if lang == "zh" and code.lower() in ("zh", "zho", "chi", "cmn"):
        if "hant" in (tag or "").lower():
            return "zh-Hant", None
        return "zh", None if "hans" in (tag or "").lower() else WHICH_CHINESE
    return lang, None


def _check_index(raw: RawTable, index: list[str | None]) -> None:
    """Warns where the number that a row carries is not its place: rows are missing or were moved."""
    if not any(index):
        return
    carried = np.array([int(value) if value else 0 for value in index])
    moved = np.flatnonzero((carried != raw.positions + 1) & (carried != 0))
    if len(moved):
        first = int(moved[0])
        _log.warning(
            "%s: row %d carries index %d, not %d. Rows were left out or moved, so ids of this copy are not the row "
            "numbers that M-CLIP's published vectors go by: use the whole set with those.",
            raw.source,
            raw.positions[first],
            carried[first],
            raw.positions[first] + 1,
        )
