"""Scored pairs of sentences: STS12 to STS16, STS benchmark, SICK-R, STS17 across languages.

The protocol `lowercased` lower-cases every sentence, as the files that SentEval downloads are; it is part of the name,
because the figures differ.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from babelclip.data import tables
from babelclip.errors import BabelclipError
from babelclip.evaluate.benchmarks.request import Request, Skips, language_of, text_problem
from babelclip.evaluate.benchmarks.sets import ScoredPairs, SentencePairs
from babelclip.evaluate.result import NOT_AS_PUBLISHED

LOWERCASED = "lowercased"
NO_SCORE = "pair without a score"
WRONG_SCORE = "pair whose score is no number"
_WRONG_FIELDS = "line without two sentences"
_STSB_FIELDS = 7  # genre, file, year, id, score, two sentences; 284 rows of the test split name two sources more
_SICK = {"first": "sentence_a", "second": "sentence_b", "score": "relatedness_score"}
_TRACK = re.compile(r"STS\.input\.(track\w+\.([a-z]{2})-([a-z]{2}))\.txt")
# The names of tracks tell both languages, and the second track has English first.
_SWAPPED = {"track2.ar-en": ("en", "ar"), "track6.tr-en": ("en", "tr")}
_Pair = tuple[str, str, str]


def read_sts_year(request: Request) -> SentencePairs:
    """Returns one of STS12 to STS16: `STS.input.X.txt` and `STS.gs.X.txt`, a subset each; blank scores are left out."""
    year = request.entry.name[-2:]
    # SentEval's downloader leaves a folder of all years: STS12-en-test, STS13-en-test, …
    inputs = sorted(request.folder.glob("STS.input.*.txt")) or request.find(f"*{year}*/STS.input.*.txt")
    inputs = [path for path in inputs if "train" not in path.parent.name]
    if not inputs:
        raise request.missing("STS.input.*.txt")
    pairs = _Pairs(request)
    for path in inputs:
        subset = path.name.removeprefix("STS.input.").removesuffix(".txt")
        pairs.add(subset, ("en", "en"), _input_and_gold(path, path.with_name(f"STS.gs.{subset}.txt"), request))
    return pairs.build("test")


def read_sts17(request: Request) -> SentencePairs:
    """Returns STS17: a track for each pair of languages, sentences in both."""
    pairs = _Pairs(request)
    inputs = [(path, _TRACK.fullmatch(path.name)) for path in request.find("STS.input.track*.txt")]
    for path, match in inputs:
        if match is None:
            continue
        first, second = _SWAPPED.get(match[1], (match[2], match[3]))
        codes = language_of(first) or first, language_of(second) or second
        asked = set(codes if request.languages is None else request.languages)
        if asked & set(codes) and set(codes) <= {*asked, "en"}:
            gold = [*request.find(f"STS.gs.{match[1]}.txt"), path.with_name(f"STS.gs.{match[1]}.txt")][0]
            pairs.add(match[1], codes, _input_and_gold(path, gold, request))
    if not inputs:
        raise request.missing("STS.input.track1.ar-ar.txt and further tracks")
    return pairs.build("test")


def read_stsb(request: Request) -> SentencePairs:
    """Returns a split of the STS benchmark: tab-separated, quotation marks are characters like any other."""
    split = request.split or request.entry.splits[0]
    pairs = _Pairs(request)
    pairs.add("stsb", ("en", "en"), _stsb_rows(request.need(f"sts-{split}.csv*", f"sts-{split}.tsv*"), pairs.skips))
    return pairs.build(split)


def read_sick(request: Request) -> SentencePairs:
    """Returns a split of SICK-R: tab-separated with a header, scores from 1 to 5."""
    split = request.split or request.entry.splits[0]
    path = request.need(f"SICK_{split}_annotated.txt", f"SICK_{split}.txt")
    pairs = _Pairs(request)
    pairs.add("sick-r", ("en", "en"), _sick_rows(path, pairs.skips))
    return pairs.build(split)


class _Pairs:
    """Gathers pairs by subset; a pair with a sentence or a score that cannot be used is left out and counted."""

    def __init__(self, request: Request) -> None:
        self.request, self.skips = request, Skips(request.strict)
        self._subsets: dict[str, ScoredPairs] = {}
        self._languages: dict[str, tuple[str, str]] = {}

    def add(self, subset: str, langs: tuple[str, str], rows: Iterator[tuple[str, _Pair]]) -> None:
        found = ScoredPairs([], [], [])
        for where, (first, second, score) in rows:
            problem = text_problem(first) or text_problem(second)
            value = None if problem else _number(score)
            if not problem and not score.strip():
                self.skips.count(NO_SCORE, where)  # pairs that were not rated are a part of STS
                continue
            if problem or value is None:
                self.skips.add(problem or WRONG_SCORE, where)
                continue
            lower = self.request.protocol == LOWERCASED
            found.first.append(first.lower() if lower else first)
            found.second.append(second.lower() if lower else second)
            found.gold.append(value)
        if len(found):
            self._subsets[subset], self._languages[subset] = found, langs

    def build(self, split: str) -> SentencePairs:
        request = self.request
        if not self._subsets:
            raise request.missing(f"usable pair ({'; '.join(self.skips.notes()) or 'there are none'})")
        request.check_languages({lang for langs in self._languages.values() for lang in langs})
        counts = Counter({subset: len(pairs) for subset, pairs in self._subsets.items()})
        published, notes = request.entry.counts.get(split), request.entry.notes
        if published is not None and published != counts.total():
            notes += (f"{split} has {published} pairs as published and {counts.total()} here: {NOT_AS_PUBLISHED}",)
        return SentencePairs(
            name=request.name,
            split=split,
            subsets=self._subsets,
            pair_languages=self._languages,
            protocol=request.protocol or "plain",
            notes=(*notes, *self.skips.notes()),
        )


def _input_and_gold(path: Path, gold: Path, request: Request) -> Iterator[tuple[str, _Pair]]:
    if not gold.is_file():
        raise request.missing(f"{gold.name}, the scores of {path.name}")
    sentences, scores = (tables.read_plain_lines(file) for file in (path, gold))
    for lines, other in ((sentences, scores), (scores, sentences)):
        while len(lines) > len(other) and not lines[-1].strip():
            lines.pop()
    if len(sentences) != len(scores):
        raise BabelclipError(
            f"{path} has {len(sentences)} lines and {gold} has {len(scores)}. Line n of one is scored by line n of the "
            "other, so they have equally many: take both from the same release."
        )
    for number, (line, score) in enumerate(zip(sentences, scores, strict=True), 1):
        first, _, rest = line.partition("\t")
        # Some years tell the sources of the two sentences in further columns.
        yield f"{path}, line {number}", (first, rest.split("\t")[0], score)


def _stsb_rows(path: Path, skips: Skips) -> Iterator[tuple[str, _Pair]]:
    for number, line in enumerate(tables.iter_plain_lines(path), 1):
        fields = line.split("\t")
        if len(fields) >= _STSB_FIELDS:
            yield f"{path}, line {number}", (fields[5], fields[6], fields[4])
        elif line.strip():
            skips.add(_WRONG_FIELDS, f"{path}, line {number}")


def _sick_rows(path: Path, skips: Skips) -> Iterator[tuple[str, _Pair]]:
    lines = tables.iter_plain_lines(path)
    header = [name.strip().lower() for name in next(lines, "").split("\t")]
    if not set(_SICK.values()) <= set(header):
        raise BabelclipError(
            f"{path} begins with {header[:4]}. SICK has a header with {', '.join(_SICK.values())}: take the file as it "
            "was published."
        )
    first, second, score = (header.index(_SICK[name]) for name in ("first", "second", "score"))
    for number, line in enumerate(lines, 2):
        fields = line.split("\t")
        if len(fields) == len(header):
            yield f"{path}, line {number}", (fields[first], fields[second], fields[score])
        elif line.strip():
            skips.add(_WRONG_FIELDS, f"{path}, line {number}")


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value == value and abs(value) != float("inf") else None
