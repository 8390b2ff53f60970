"""Tables with a text and its translation side by side, as sentence-transformers and AltCLIP have them.

| columns | where |
|---|---|
| `english`, `non_english` | sentence-transformers/parallel-sentences-… |
| `source_text`, `target_text` | the JSONL of AltCLIP's first stage |

Row p becomes the English caption `p` and the translation `p-<lang>` with source_id `p`. The language of the translation
is the one given, else what the configuration, the file or its folder says: en-sv.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from babelclip import languages
from babelclip.data import tables
from babelclip.data.captions import EMPTY_SOURCE, EMPTY_TEXT
from babelclip.data.readers.mclip import EMPTY_TRANSLATION
from babelclip.data.tables import RawTable
from babelclip.errors import BabelclipError

PAIRS = (("english", "non_english"), ("source_text", "target_text"))
_COLUMNS = ("id", "source_id", "text", "lang")
_DIRECTION = re.compile(r"(?<![A-Za-z0-9])en[-_]([A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,4})?)(?![A-Za-z0-9])")


def pair_of(names: Collection[str]) -> tuple[str, str] | None:
    """Returns the two columns among `names`, in lower case, that hold a text and its translation; None without."""
    return next((pair for pair in PAIRS if set(pair) <= set(names)), None)


def language_in(words: str) -> str | None:
    """Returns the language xx of `en-xx` in the name of a configuration, file or folder."""
    for match in reversed(_DIRECTION.findall(words)):
        with contextlib.suppress(languages.UnknownLanguageError):
            return languages.normalize(match)
    return None


def language_of(path: Path, lang: str | None) -> str | None:
    """Returns the language of the translations of a file: the one given, else from its name or its folder's."""
    return lang or language_in(path.name.split(".")[0]) or language_in(path.absolute().parent.name)


def to_captions(raw: RawTable, lang: str | None) -> RawTable:
    """Returns the captions of the rows of `raw`, two for each.

    Raises:
        BabelclipError: the language of the translations is not told.
    """
    pair = pair_of(raw.columns)
    if pair is None or lang is None:
        raise BabelclipError(
            f"{raw.source} has English in one column and a translation in another, and does not say which language. "
            "Pass it as lang='sv' (--lang sv), or let the configuration, file or folder be called en-sv, for example."
        )
    columns = [("en", raw.columns[pair[0]].to_pylist()), (lang, raw.columns[pair[1]].to_pylist())]
    return side_by_side(raw, columns)


def side_by_side(raw: RawTable, columns: Sequence[tuple[str, Sequence[str | None]]]) -> RawTable:
    """Returns the captions of rows that hold one text in several languages, the first one being the source.

    Args:
        raw: N rows; of these only the places, the positions and what was left out are used.
        columns: language and its N texts.
    """
    collector = tables.RowCollector(raw.source, _COLUMNS)
    rows = zip(*(texts for _, texts in columns), strict=True)
    for place, position, texts in zip(raw.places.tolist(), raw.positions.tolist(), rows, strict=True):
        name, source = str(position), texts[0]
        lost = None if source and source.strip() else EMPTY_SOURCE
        collector.add(place, position, (name, None, source, columns[0][0]), EMPTY_TEXT if lost else None)
        for (lang, _), text in zip(columns[1:], texts[1:], strict=True):
            empty = None if text and text.strip() else EMPTY_TRANSLATION
            collector.add(place, position, (f"{name}-{lang}", name, text, lang), empty or lost)
    return tables.with_skipped(collector.table(_COLUMNS), raw)
