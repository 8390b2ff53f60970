"""Nouns of WordNet for things that a picture can show, with their glosses, the commonest first.

WordNet (Princeton University) sorts its nouns into lexicographer files: animal, artifact, food and so on. A noun is
*concrete* here when its file is one of `CONCRETE`. The files are read as Debian's wordnet-base has them: `data.noun`
holds the synsets, `index.noun` the senses of each word, the most frequent first, and `cntlist.rev` how often a sense
was met in tagged text; see wndb(5WN). Entry points: `WORDNET`, `read_nouns`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from babelclip.starter.debian import DebianPart

WORDNET = DebianPart(
    title="WordNet nouns",
    package="wordnet-base",
    version="1:3.0-37",
    sha256="61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
    inside="usr/share/wordnet",
    kept=("data.noun", "index.noun", "cntlist.rev"),
    licence="WordNet 3.0",
    attribution="Nouns and glosses: WordNet 3.0, Copyright 2006 by Princeton University, WordNet 3.0 licence, "
    "Debian wordnet-base 3.0-37",
)
# Number of the lexicographer file -> its name, see lexnames(5WN).
CONCRETE = {
    5: "animal",
    6: "artifact",
    8: "body",
    13: "food",
    17: "object",
    18: "person",
    19: "phenomenon",
    20: "plant",
    27: "substance",
}
_NOUN = "1"
# A word with fewer of its occurrences as a noun ("ship" 49 of 56) may be translated as a verb.
_MOSTLY = 0.9


@dataclass(frozen=True)
class Synset:
    """A meaning.

    Attributes:
        names: words for it, the usual one first.
        gloss: its definition, without examples.
        domain: one of the values of `CONCRETE`.
        count: how often one of its names was met in this meaning in tagged text; most were never met.
    """

    names: tuple[str, ...]
    gloss: str
    domain: str
    count: int


@dataclass(frozen=True)
class Nouns:
    """The concrete nouns.

    Attributes:
        synsets: meanings, the commonest first, then in the order of the file.
        words: each word whose most frequent meaning as a noun is concrete, in lower case, with whether it is hardly
            ever another part of speech.
        skipped: lines that could not be read, by reason.
    """

    synsets: tuple[Synset, ...] = ()
    words: dict[str, bool] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)


def read_nouns(folder: Path) -> Nouns:
    """Returns the concrete nouns of a folder with `data.noun`, `index.noun` and `cntlist.rev`."""
    skipped: Counter[str] = Counter()
    counts = _counts(folder / "cntlist.rev", skipped)
    as_noun: Counter[str] = Counter()
    as_any: Counter[str] = Counter()
    for key, count in counts.items():
        word, _, sense = key.partition("%")
        as_any[word] += count
        as_noun[word] += count if sense.startswith(_NOUN) else 0
    synsets: list[Synset] = []
    concrete: dict[str, bool] = {}  # offset in data.noun -> whether the synset is concrete
    for line in _lines(folder / "data.noun"):
        try:
            offset, file, synset = _synset(line, counts)
        except (ValueError, IndexError):
            skipped["malformed line of data.noun"] += 1
            continue
        concrete[offset] = file in CONCRETE
        if synset is not None:
            synsets.append(synset)
    words = {}
    for line in _lines(folder / "index.noun"):
        values = line.split()
        try:
            first_sense = values[-int(values[2])]
            is_concrete = concrete[first_sense]
        except (ValueError, IndexError, KeyError):
            skipped["malformed line of index.noun"] += 1
            continue
        if is_concrete:
            word = values[0]
            words[_spelled(word).lower()] = as_noun[word] >= _MOSTLY * as_any[word]
    synsets.sort(key=lambda synset: -synset.count)
    return Nouns(tuple(synsets), words, dict(skipped))


def _lines(path: Path) -> Iterator[str]:
    """Yields the lines after the licence, whose lines are indented."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.strip() and not line.startswith("  "):
                yield line


def _counts(path: Path, skipped: Counter[str]) -> dict[str, int]:
    """Returns how often each sense was met, by sense key `word%part:file:id:head:id`."""
    counts = {}
    for line in _lines(path):
        try:
            key, _number, count = line.split()
            counts[key] = int(count)
        except ValueError:
            skipped["malformed line of cntlist.rev"] += 1
    return counts


def _synset(line: str, counts: dict[str, int]) -> tuple[str, int, Synset | None]:
    """Returns offset and lexicographer file of a line of data.noun, and the synset where it is concrete."""
    facts, bar, gloss = line.partition(" | ")
    offset, file_number, part, size, *rest = facts.split()
    file, names = int(file_number), int(size, 16)
    if part != "n" or not bar or names < 1 or len(rest) < 2 * names:
        raise ValueError(line)
    if file not in CONCRETE:
        return offset, file, None
    words = rest[: 2 * names : 2]
    keys = [
        f"{word.lower()}%{_NOUN}:{file:02d}:{int(lexical_id, 16):02d}::"
        for word, lexical_id in zip(words, rest[1 : 2 * names : 2], strict=True)
    ]
    definition = gloss.split(";")[0].strip()
    if not definition:
        raise ValueError(line)
    count = max(counts.get(key, 0) for key in keys)
    return offset, file, Synset(tuple(map(_spelled, words)), definition, CONCRETE[file], count)


def _spelled(word: str) -> str:
    return word.replace("_", " ")
