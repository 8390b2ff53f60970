"""`Mixer`: training rows from several sources and languages, in given shares, in an order that is computed.

Row number i of a mix follows from (sources, settings, seed, i) alone, so a run that stopped goes on with an integer,
and nothing is kept in between. Two steps lead to it:

* `schedule` tells which source and language stands at i, and that it is its k-th row. After any number of rows each
  is within a few rows of its share (`shares` has the formulae), not only on average as with random draws.
* `permutation` tells which of its n rows the k-th one is: row k mod n of the order number k div n, so that a source
  visits each row of a language once before it visits one again, each time in a new order.

Rows carry the id of their target: nothing is tied by position, so no translation can meet the vector of another
caption. Entry point: `Mixer`. A mix as a table of TOML is `babelclip.data.mix`; which rows have no vector
is told by `babelclip.data.missing`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from babelclip.data.captions import Captions
from babelclip.data.permutation import mixed_key, mixed_keys, permuted
from babelclip.data.row_source import COLUMNS, RowSource
from babelclip.data.schedule import Kinds, Schedule
from babelclip.data.shares import group_shares, is_english, language_factors
from babelclip.errors import BabelclipError

# Enough for a training batch to be a small part, and for 200 languages to have some hundred rows each.
ROWS = 65536
# Rows that one thread takes from disk, and threads: a disk answers many small questions at once, 8 times as fast with
# 16 as with one after the other. What is in memory already is slowed down little.
_READ_AT_ONCE, _READERS = 1024, 16
_NAME = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [("source", _NAME), *((name, pa.large_string()) for name in ("id", "source_id", "text")), ("lang", _NAME)]
)

_LOG = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Source:
    """One source of a mix: captions in memory, or rows from `RowSource.open`; a row counts `weight` times."""

    name: str
    rows: Captions | RowSource
    weight: float = 1.0


class Group(NamedTuple):
    """The `rows` rows of a source in a language."""

    source: str
    lang: str
    rows: int


class Draw(NamedTuple):
    """Some rows of a mix as numbers: group, row in the group, and how often it was given before, (B,) int64 each."""

    group: Ints
    row: Ints
    visit: Ints


@dataclasses.dataclass(frozen=True)
class MixLine:
    """What a group gives to a stretch of the mix.

    Attributes:
        source, lang, rows: the group.
        share: of all rows of the mix.
        expected: share times rows of the stretch.
        realised: rows that the stretch has.
        repeats: realised over rows: how often a row is given on average.
    """

    source: str
    lang: str
    rows: int
    share: float
    expected: float
    realised: int
    repeats: float


class Mixer:
    """An endless mix of sources.

    Attributes:
        groups: each source in each of its languages, those without a share left out; `Draw.group` counts them.
        shares: (G,) float64, the share of each.
        fingerprint: 16 hexadecimal digits of the rows and all settings: what must be the same when a run goes on.

    Example:
        >>> own = Captions.from_columns(id=["1", "2"], text=["a dog", "a cat"], lang="en")
        >>> swedish = Captions.from_columns(id=["a"], source_id=["1"], text=["en hund"], lang="sv")
        >>> mixer = Mixer([Source("own", own), Source("sv", swedish)], english_share=0.5)
        >>> mixer.rows(0, 4).select(["source_id", "text"]).to_pylist()[0]
        {'source_id': '2', 'text': 'a cat'}
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        temperature: float = 1.0,
        english_share: float = 0.1,
        max_repeats: float | None = None,
        languages: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        """Works the shares out.

        Args:
            sources: of distinct names; weights 0 or more, not all 0.
            temperature: above 0; 1 keeps the proportions of languages, a large one makes them equal.
            english_share: share of the rows in English, from 0 to 1, whatever their number: an English text that meets
                the teacher's vector of itself. 0 leaves them out, and warns.
            max_repeats: most times that a row is given while as many rows are given as the mix has; 1 or more.
            languages: factor on the share of a language; 1 where it names none, 0 leaves it out.
            seed: of the orders of rows.

        Raises:
            UnknownLanguageError: `languages` names a code that is not known.
            BabelclipError: a weight, share or other setting is not allowed, a source is empty or has the name of
                another, or a language has no rows.
        """
        opened = _opened(sources)
        every = [Group(name, lang, rows) for name, source in opened.items() for lang, rows in source.counts.items()]
        weights = {source.name: float(source.weight) for source in sources}
        factors = language_factors(languages or {}, {group.lang for group in every})
        shares = group_shares(
            np.array([group.rows for group in every], np.int64),
            np.array([weights[group.source] for group in every]),
            [group.lang for group in every],
            temperature=temperature,
            english_share=english_share,
            factors=factors,
            max_repeats=max_repeats,
        )
        self.groups = tuple(group for group, share in zip(every, shares, strict=True) if share > 0)
        self._schedule = Schedule(shares[shares > 0], _nested(self.groups))
        self.shares = self._schedule.shares()
        self._sources = opened
        self._keys = np.array([_key(seed, group) for group in self.groups], np.uint64)
        self._source_names = pa.array([group.source for group in self.groups], _NAME)
        self._langs = pa.array([group.lang for group in self.groups], _NAME)
        self._warn_of_english(english_share)
        settings = [temperature, english_share, max_repeats, sorted(factors.items()), seed, list(weights.items())]
        prints = [source.fingerprint for source in opened.values()]
        self.fingerprint = hashlib.sha256(json.dumps([settings, prints]).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        """Returns how many distinct rows take part, M: an epoch, where one is wanted."""
        return sum(group.rows for group in self.groups)

    def rows(self, start: int, count: int) -> pa.Table:
        """Returns rows `start` to `start + count` of the mix, which has no end, with the columns of `SCHEMA`.

        `source_id` is the id of the row's vector: the caption that it translates, or its own. One call for many rows
        costs less than many calls.

        Raises:
            BabelclipError: `start` or `count` is negative.
        """
        if count == 0:
            return SCHEMA.empty_table()
        draw = self.draw(start, count)
        # Ascending within a group, which turns the reads of a cold disk into one sweep.
        order = np.lexsort((draw.row, draw.group))
        cuts = np.searchsorted(draw.group[order], np.arange(len(self.groups) + 1))
        jobs = []
        for number in np.flatnonzero(np.diff(cuts)).tolist():
            group, rows = self.groups[number], draw.row[order[cuts[number] : cuts[number + 1]]]
            source = self._sources[group.source]
            jobs += [(source, group.lang, rows[at : at + _READ_AT_ONCE]) for at in range(0, len(rows), _READ_AT_ONCE)]
        values = pa.concat_arrays(_taken(jobs))  # of one row after the other
        back = np.empty(count, np.int64)
        back[order] = np.arange(count) * len(COLUMNS)
        groups = pa.array(draw.group)
        columns = [values.take(pa.array(back + column)) for column in range(len(COLUMNS))]
        return pa.table([self._source_names.take(groups), *columns, self._langs.take(groups)], schema=SCHEMA)

    def draw(self, start: int, count: int) -> Draw:
        """Returns the same rows as numbers, for who keeps something of its own for each row.

        Raises:
            BabelclipError: `start` or `count` is negative.
        """
        _check_window(start, count)
        group, number = np.empty(count, np.int64), np.empty(count, np.int64)
        for stretch in self._schedule.between(start, start + count):
            group[stretch.places] = stretch.kind
            number[stretch.places] = np.arange(stretch.first, stretch.first + len(stretch.places))
        n = np.array([group.rows for group in self.groups], np.int64)[group]
        visit, place = np.divmod(number, n)
        return Draw(group, permuted(place, n, mixed_keys(self._keys[group], visit)), visit)

    def report(self, start: int, count: int) -> list[MixLine]:
        """Returns what each group gives to rows `start` to `start + count`; counted without reading a row.

        Raises:
            BabelclipError: `start` or `count` is negative.
        """
        _check_window(start, count)
        realised = self._schedule.counts(start + count) - self._schedule.counts(start)
        return [
            MixLine(
                *group, share=float(share), expected=float(share) * count, realised=int(n), repeats=int(n) / group.rows
            )
            for group, share, n in zip(self.groups, self.shares, realised, strict=True)
        ]

    def target_ids(self, count: int = ROWS) -> Iterator[tuple[str, list[str]]]:
        """Yields (language, ids of the vectors of at most `count` rows) until every row of the mix was met once."""
        for group in self.groups:
            for start in range(0, group.rows, count):
                ids = self._sources[group.source].targets(group.lang, start, min(start + count, group.rows))
                yield group.lang, ids

    def _warn_of_english(self, asked: float) -> None:
        share = sum(share for group, share in zip(self.groups, self.shares, strict=True) if is_english(group.lang))
        if asked == 0:
            _LOG.warning(
                "english_share=0: no English text meets the vector of itself, and a student forgets what it no longer "
                "sees. In AltCLIP's table 5 mean recall in English falls from 87 to 62, and ImageNet from 52 to 16. "
                "Keep about 0.1."
            )
        elif abs(share - asked) > 1e-6:
            _LOG.warning(
                "english_share=%g was asked for, and max_repeats makes it %.3g: give more rows, or a higher cap.",
                asked,
                share,
            )


def _taken(jobs: list[tuple[RowSource, str, Ints]]) -> list[pa.LargeStringArray]:
    if not any(source.is_mapped for source, _, _ in jobs):
        return [source.take(lang, rows) for source, lang, rows in jobs]
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(lambda job: job[0].take(job[1], job[2]), jobs))


def _opened(sources: Sequence[Source]) -> dict[str, RowSource]:
    """Returns the rows of each source by its name."""
    if not sources:
        raise BabelclipError("A mix got no sources. It takes one or more: give Mixer at least one Source.")
    names = [source.name for source in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BabelclipError(
            f"{len(twice)} names of sources occur twice, first {twice[0]!r}. The order of the rows hangs on the name: "
            "give each source its own."
        )
    for source in sources:
        if not (math.isfinite(source.weight) and source.weight >= 0):
            raise BabelclipError(
                f"source {source.name!r} has weight {source.weight}. A weight is 0 or more: 1 for each row once, 2 for "
                "twice, 0 to leave the source out."
            )
        if not len(source.rows):
            raise BabelclipError(
                f"source {source.name!r} is empty. A source has at least one row: check what it is read from, or take "
                "it out of the mix."
            )
    if not any(source.weight for source in sources):
        raise BabelclipError(
            f"all {len(sources)} sources have weight 0. One at least has more: give the rows that are to be seen 1."
        )
    return {
        source.name: RowSource.from_captions(source.rows) if isinstance(source.rows, Captions) else source.rows
        for source in sources
    }


def _nested(groups: Sequence[Group]) -> list[Kinds]:
    """Returns the groups as English and the rest, languages within them, sources within these: what holds together."""
    parts: list[Kinds] = []
    for english in (True, False):
        langs = dict.fromkeys(group.lang for group in groups if is_english(group.lang) == english)
        parts.append([[number for number, group in enumerate(groups) if group.lang == lang] for lang in langs])
    return parts


def _key(seed: int, group: Group) -> int:
    # By name: a source that is added to a mix leaves the orders of the others as they are.
    name = hashlib.sha256(f"{group.source}\n{group.lang}".encode()).digest()[:8]
    return mixed_key(seed, int.from_bytes(name, "little"))


def _check_window(start: int, count: int) -> None:
    if start < 0 or count < 0:
        raise BabelclipError(
            f"rows {start} to {start + count} of a mix were asked for. Rows count from 0: give both >= 0."
        )
