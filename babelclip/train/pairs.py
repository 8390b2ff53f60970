"""Sentence pairs with what people say of them: similarity from 0 to 5 (STS), or one of three classes (NLI).

`read_scored` reads

* the files of the STS benchmark: no header, tab-separated genre, file, year, id, score, sentence 1, sentence 2; fields
  after the seventh (some rows carry a source) are left out. The published files end in .csv all the same;
* tab-separated lines under a header with `score`, `sentence1`, `sentence2` (the form of GLUE), and JSONL with these
  names.

`read_nli` reads JSONL, or tab-separated lines under a header, with `sentence1` and `sentence2` (or `premise` and
`hypothesis`) and `gold_label` or `label`: words, or 0 = entailment, 1 = neutral, 2 = contradiction. Rows without a
label of the majority (`-` or -1 in SNLI) are left out.

Each may be gzipped; lines end in LF or CRLF. In tab-separated lines a quotation mark is a character like any other:
sentences of STS-b have unpaired ones. Rows that cannot be used are counted, by reason; with `strict` the first is an
error.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from babelclip.data import tables
from babelclip.errors import BabelclipError

# In the order of their numbers, as GLUE and the hub's data sets have it.
LABELS = ("entailment", "neutral", "contradiction")
HIGHEST_SCORE = 5.0
NO_LABEL = "no label of the majority"
# Where the published files, which have no header, hold their values.
_STS_PLACES = (4, 5, 6)
_SCORE_NAMES, _LABEL_NAMES = ("score",), ("gold_label", "label")
_TEXT_NAMES = (("sentence1", "premise"), ("sentence2", "hypothesis"))
# So many scores that all lie within 0..1 are of another scale.
_ENOUGH_TO_JUDGE = 100


@dataclasses.dataclass(frozen=True)
class ScoredPairs:
    """N pairs of texts with the similarity that people see: `scores` (N,) float64, 0 = unrelated to 5 = the same.

    `skipped` counts the rows of the files that could not be used, by reason.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    scores: npt.NDArray[np.float64]
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.first)


@dataclasses.dataclass(frozen=True)
class NliPairs:
    """N premises (`first`) and hypotheses (`second`), and the place of each one's class in `LABELS` (N,) int64."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.first)


def read_scored(*paths: Path | str, strict: bool = False) -> ScoredPairs:
    """Returns the scored pairs of one or several files, in their order.

    Raises:
        BabelclipError: a file is missing, damaged or of another form, has no usable row, or scores on another scale;
            or, with `strict`, a row cannot be used.
    """
    rows, skipped = _read(paths, _SCORE_NAMES, _score, strict)
    scores = np.asarray([value for _, _, value in rows], dtype=np.float64)
    if len(scores) >= _ENOUGH_TO_JUDGE and scores.max() <= 1:
        raise BabelclipError(
            f"All {len(scores)} scores of {', '.join(map(str, paths))} lie between 0 and 1; scores go from 0 to 5. "
            "Multiply them by 5."
        )
    return ScoredPairs(tuple(a for a, _, _ in rows), tuple(b for _, b, _ in rows), scores, skipped)


def read_nli(*paths: Path | str, strict: bool = False) -> NliPairs:
    """Returns the labelled pairs of one or several files, in their order.

    Raises:
        BabelclipError: a file is missing, damaged or of another form, or has no usable row; or, with `strict`, a row
            cannot be used. Rows without a label of the majority are left out even then.
    """
    rows, skipped = _read(paths, _LABEL_NAMES, _label, strict)
    labels = np.asarray([value for _, _, value in rows], dtype=np.int64)
    return NliPairs(tuple(a for a, _, _ in rows), tuple(b for _, b, _ in rows), labels, skipped)


class _Unusable(Exception):
    """A row that cannot be used; the message is the reason that is counted."""


class _Raw(NamedTuple):
    """A row as it stands in the file: its line, and value and texts, None where they lack."""

    line: int
    value: Any = None
    first: Any = None
    second: Any = None
    problem: str = ""


def _score(value: str) -> float:
    try:
        score = float(value)
    except ValueError:
        score = math.nan
    if not 0 <= score <= HIGHEST_SCORE:
        raise _Unusable("the score is no number from 0 to 5")
    return score


def _label(value: str) -> int:
    word = value.strip().lower()
    if word in ("-", "-1", ""):
        raise _Unusable(NO_LABEL)
    if word in LABELS:
        return LABELS.index(word)
    if word in ("0", "1", "2"):
        return int(word)
    raise _Unusable(f"the label is none of {', '.join(LABELS)}")


def _read(
    paths: Sequence[Path | str], names: Sequence[str], parse: Callable[[str], float], strict: bool
) -> tuple[list[tuple[str, str, float]], dict[str, int]]:
    if not paths:
        raise BabelclipError("No file of sentence pairs was given: name at least one.")
    rows: list[tuple[str, str, float]] = []
    skipped: Counter[str] = Counter()
    for path in map(Path, paths):
        before, here = len(rows), Counter[str]()
        for raw in _rows(path, names):
            try:
                rows.append(_usable(raw, parse))
            except _Unusable as error:
                reason = str(error)
                if strict and reason not in (NO_LABEL, tables.BLANK):
                    raise BabelclipError(
                        f"{path}, line {raw.line}: {reason}. Correct the row, or read without strict to leave such "
                        "rows out."
                    ) from None
                here[reason] += 1
        skipped += here
        if len(rows) == before:
            found = "; ".join(f"{count} x {reason}" for reason, count in here.items()) or "it is empty"
            raise BabelclipError(f"{path} has no usable pair ({found}). {_FORMS}")
    return rows, dict(skipped)


_FORMS = (
    "Give the seven tab-separated fields of STS-b, tab-separated lines under a header, or JSONL, with sentence1, "
    "sentence2 and score (for NLI: label)."
)


def _usable(raw: _Raw, parse: Callable[[str], float]) -> tuple[str, str, float]:
    if raw.problem:
        raise _Unusable(raw.problem)
    first, second = (text.strip() if isinstance(text, str) else "" for text in (raw.first, raw.second))
    if not first or not second:
        raise _Unusable("a sentence is empty")
    if not (tables.is_utf8(first) and tables.is_utf8(second)):
        raise _Unusable(tables.NOT_UTF8)
    return first, second, parse("" if raw.value is None else str(raw.value))


def _rows(path: Path, names: Sequence[str]) -> Iterator[_Raw]:
    lines = enumerate(tables.iter_plain_lines(path), 1)
    if path.name.lower().removesuffix(".gz").endswith((".jsonl", ".ndjson")):
        yield from (_from_json(number, line, names) for number, line in lines)
        return
    number, head = next(lines, (0, ""))
    if not number:
        return
    header = [name.strip().lower() for name in head.split("\t")]
    wanted = [next((header.index(name) for name in some if name in header), None) for some in (names, *_TEXT_NAMES)]
    places = [place for place in wanted if place is not None]
    if len(places) < len(wanted):
        # Only the benchmark's own files do without a header.
        if places or names != _SCORE_NAMES:
            raise BabelclipError(f"The first line of {path} names {', '.join(header)[:200]}. {_FORMS}")
        places = list(_STS_PLACES)
        yield _from_line(number, head, places)
    yield from (_from_line(number, line, places) for number, line in lines)


def _from_line(number: int, line: str, places: Sequence[int]) -> _Raw:
    fields = line.split("\t")
    if not line.strip():
        return _Raw(number, problem=tables.BLANK)
    if len(fields) <= max(places):
        return _Raw(number, problem="too few fields")
    return _Raw(number, *(fields[place] for place in places))


def _from_json(number: int, line: str, names: Sequence[str]) -> _Raw:
    if not line.strip():
        return _Raw(number, problem=tables.BLANK)
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return _Raw(number, problem=tables.NOT_OBJECT)
    if not isinstance(row, dict):
        return _Raw(number, problem=tables.NOT_OBJECT)
    found = {name.lower(): value for name, value in row.items()}
    value, first, second = (next((found[n] for n in some if n in found), None) for some in (names, *_TEXT_NAMES))
    return _Raw(number, value, first, second)
