"""`CaptionRows`: what every reader of captions and pictures gathers, and the `RetrievalSet` that becomes of it.

A caption is left out, and counted, where its text is empty, no text or not UTF-8, or its picture is not there. How many
pictures of the benchmark are not there stands in the notes: what is measured then does not compare with published
figures.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from babelclip.data.captions import Captions
from babelclip.errors import BabelclipError
from babelclip.evaluate.benchmarks.pictures import PictureFinder
from babelclip.evaluate.benchmarks.request import FIRST, Request, Skips, text_problem
from babelclip.evaluate.benchmarks.sets import IntArray, Pictures, RetrievalSet, Source
from babelclip.evaluate.result import NOT_AS_PUBLISHED

NO_PICTURE = "caption whose picture is not there"


class _Row(NamedTuple):
    """One caption of one picture; see `CaptionRows.add`."""

    picture: str
    lang: str
    text: str
    number: int | None


def finder_of(request: Request) -> PictureFinder:
    """Returns where the pictures of a benchmark are looked for: in `images` where that was given, else in its folder.

    Raises:
        BabelclipError: `images` is no folder.
    """
    if request.images is not None and not request.images.is_dir():
        raise BabelclipError(
            f"images={request.images} is no folder. Pictures are looked for in a folder and those below: check the "
            "path."
        )
    return PictureFinder([request.images or request.folder])


class CaptionRows:
    """Gathers pictures and captions in the order of the files."""

    def __init__(self, request: Request, finder: PictureFinder | None = None) -> None:
        """`finder` looks for pictures that are given by name alone."""
        self.request = request
        self.skips = Skips(request.strict)
        self._finder = finder or finder_of(request)
        self._sources: dict[str, Source | None] = {}
        self._groups: dict[str, str] = {}
        self._rows: list[_Row] = []

    def add_picture(self, name: str, source: Source | None = None, group: str | None = None) -> bool:
        """Takes a picture into the corpus; returns whether it is there.

        Args:
            name: its id, and the name that it is found by where `source` is not given.
            source: what to open.
            group: pictures of one group are equally relevant.
        """
        if name not in self._sources:
            self._sources[name] = source if source is not None else self._finder.find(name)
        if group is not None:
            self._groups.setdefault(name, group)
        return self._sources[name] is not None

    def present_or_first(self, names: Iterable[str]) -> str | None:
        """Returns the first of several names of a picture under which it is there, else the first; None for none."""
        tried = list(names)
        return next((name for name in tried if self._sources.get(name) or self._finder.find(name)), None) or next(
            iter(tried), None
        )

    def add(self, picture: str, lang: str, text: Any, where: str, *, number: int | None = None) -> None:
        """Takes a caption of a picture, which joins the corpus; or counts it, where it cannot be used.

        Args:
            picture: its id.
            lang: of the text, BCP-47.
            text: the caption.
            where: file and line.
            number: of the text, where one text is a caption of several pictures; None: it is one of its own.
        """
        present = self.add_picture(picture)
        if not self.request.wants(lang):
            return
        problem = text_problem(text) or (None if present else NO_PICTURE)
        if problem:
            self.skips.add(problem, where)
        else:
            self._rows.append(_Row(picture, lang, text, number))

    def build(
        self,
        split: str,
        *,
        own_corpora: bool = False,
        notes: Iterable[str] = (),
        facts: dict[str, Any] | None = None,
    ) -> RetrievalSet:
        """Returns the set.

        Args:
            split: name for results, and what the number of pictures is compared with.
            own_corpora: whether captions of a language are ranked against the pictures of that language only.
            notes: further notes.
            facts: further facts of the protocol.

        Raises:
            BabelclipError: no picture is there, or a language asked for has no caption.
        """
        request, here = self.request, [name for name, source in self._sources.items() if source is not None]
        if not here:
            where = request.images or request.folder
            named = f"not one of the {len(self._sources)} that its files name is in {where}"
            raise request.missing(f"pictures: {named if self._sources else 'its captions name none'}")
        rows, first_only = self._rows, request.protocol == FIRST
        if first_only:
            firsts: dict[tuple[str, str], _Row] = {}
            for row in rows:
                firsts.setdefault((row.picture, row.lang), row)
            rows = list(firsts.values())
        if not rows:
            raise request.missing(f"usable caption ({'; '.join(self.skips.notes()) or 'there are none'})")
        request.check_languages({row.lang for row in rows})
        images, langs, texts, _ = (list(column) for column in zip(*rows, strict=True))
        pictures = Pictures(tuple(here), tuple(source for source in self._sources.values() if source is not None))
        return RetrievalSet(
            name=request.name,
            split=split,
            captions=Captions.from_columns(text=texts, lang=langs, image=images),
            pictures=pictures,
            groups=tuple(self._groups.get(name, name) for name in here) if self._groups else None,
            corpora=_corpora(rows, here) if own_corpora else None,
            text_numbers=_text_numbers(rows),
            captions_per_image="first" if first_only else "all",
            notes=(*request.entry.notes, *notes, *self._picture_notes(split, len(here)), *self.skips.notes()),
            facts=facts or {},
        )

    def _picture_notes(self, split: str, there: int) -> tuple[str, ...]:
        total, published = len(self._sources), self.request.entry.counts.get(split)
        notes: tuple[str, ...] = ()
        if there < total:
            notes += (f"{total - there} of {total} pictures are not there: {NOT_AS_PUBLISHED} with published ones",)
        if published is not None and total != published:
            notes += (f"{split} has {published} pictures as published and {total} here: {NOT_AS_PUBLISHED}",)
        return notes


def _text_numbers(rows: list[_Row]) -> IntArray | None:
    told = [row.number for row in rows if row.number is not None]
    if len(set(told)) == len(told):
        return None
    numbers: dict[object, int] = {}
    # A row without a number is its own text.
    return np.array(
        [
            numbers.setdefault(row.number if row.number is not None else (at,), len(numbers))
            for at, row in enumerate(rows)
        ]
    )


def _corpora(rows: list[_Row], names: list[str]) -> dict[str, IntArray]:
    place = {name: position for position, name in enumerate(names)}
    found: dict[str, dict[int, None]] = {}
    for row in rows:
        found.setdefault(row.lang, {})[place[row.picture]] = None
    return {lang: np.array(sorted(places), dtype=np.int64) for lang, places in sorted(found.items())}


def read_aligned(path: Path, expected: int, origin: Path) -> list[str]:
    """Returns the lines of a file whose line n belongs to line n of `origin`; blank ones at the end are dropped.

    Raises:
        BabelclipError: it has another number of lines.
    """
    from babelclip.data.tables import read_plain_lines

    lines = read_plain_lines(path)
    while len(lines) > expected and not lines[-1].strip():
        lines.pop()
    if len(lines) != expected:
        raise BabelclipError(
            f"{path} has {len(lines)} lines and {origin} has {expected}. Line n of both belongs to the same picture, "
            "so they have equally many: take both from the same release."
        )
    return lines
