"""What a translation must pass to be kept. Every filter can be switched, and each rejected row has one reason.

| filter | rejects | default |
|---|---|---|
| empty | no letter, digit or other sign left | on |
| copy | the source again, unless it is a name or of a few words | on |
| length | far shorter or longer than the source, in characters that count by width | on |
| script | most letters in another script than the language's; Japanese without kana; the other Chinese | on |
| repetition | the same words or syllables over and over, as neural models do when they lose the thread | on |
| language | text that reads like another language (extra `langid`) | off |
| round-trip | text whose translation back has little in common with the source | off |
| similarity | text whose vector, by a multilingual model, is far from the source's | off |

They are applied in this order and the first that rejects gives the reason. The bounds are wide on purpose: they catch
what is broken, not what is free. Of 87,000 human captions in German, French and Czech (Multi30k) the five that are on
reject 2, which are empty; of the 34,117 of Tux Paint in 75 languages they reject 261. A sample of these has English
left as it was, a broken encoding, and texts that tell much more or much less than the English.

Entry points: `make_filters`, `Sieve`; `reason_to_reject` for one pair of texts.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from babelclip import languages
from babelclip.errors import BabelclipError, did_you_mean
from babelclip.scripts import COMMON, belongs, scripts_of

if TYPE_CHECKING:
    from babelclip.models.clip import Clip
    from babelclip.translate.language_id import LanguageId

ALWAYS = ("empty", "copy", "length", "script", "repetition")
OPTIONAL = ("language", "round-trip", "similarity")
NAMES = (*ALWAYS, *OPTIONAL)

# A copy of so many words in small letters is no name. "Golden Gate Bridge in San Francisco" has one.
_SMALL_WORDS = 3
# Length of the translation over that of the source, both with a head start, so that "a dog" may become "собака".
_SHORTEST, _LONGEST, _HEAD_START = 0.4, 2.5, 10
# What a character of CJK, kana or Hangul counts, and a syllable of Ethiopic, since texts in these are so much shorter.
_WIDE, _SYLLABLE = 2.5, 1.5
_SCRIPT_SHARE = 0.5
# Shorter Japanese may well be all Chinese characters.
_KANJI_ONLY = 8
# How often in a row something must come to be a loop, by the number of words or characters in it.
_WORD_LOOPS = {1: 4, **dict.fromkeys(range(2, 9), 3)}
_SIGN_LOOPS = {1: 5, 2: 4, **dict.fromkeys(range(3, 13), 3)}
_STUTTER = re.compile(r"([^\W\d_]{1,8}?)\1{4,}")
_WITHOUT_SPACES = frozenset({"Hans", "Hant", "Jpan", "Thai", "Khmr", "Laoo", "Mymr", "Tibt"})


class Rejection(NamedTuple):
    """Why a translation was not kept: the filter, and the value that decided."""

    reason: str
    value: float | str


@dataclasses.dataclass(frozen=True)
class Filters:
    """Which filters are on. Made by `make_filters`, which checks it.

    Attributes:
        names: those that are on, in the order of `NAMES`.
        round_trip: least overlap (chrF, 0 to 1) of the source and the translation translated back.
        similarity: least cosine of the vectors of source and translation.
        teacher: the multilingual model that makes these vectors, a folder or a name.
    """

    names: tuple[str, ...] = ALWAYS
    round_trip: float = 0.0
    similarity: float = 0.0
    teacher: str = ""

    def facts(self) -> dict[str, object]:
        """Returns the filters as they stand in a manifest."""
        values = {"round-trip": self.round_trip, "similarity": self.similarity}
        facts: dict[str, object] = {name: values.get(name, True) for name in self.names}
        return facts | ({"teacher": self.teacher} if self.teacher else {})


def make_filters(
    *,
    on: Collection[str] = (),
    off: Collection[str] = (),
    round_trip: float | None = None,
    similarity: float | None = None,
    teacher: str = "",
) -> Filters:
    """Returns the filters that are on unless told otherwise, with changes.

    Args:
        on: filters to add; `language` is the one that needs no more than its name.
        off: filters to leave out; `all` for every one.
        round_trip: least overlap (chrF, 0 to 1) with the source after translating back; 0.2 finds what is wrong, 0.3
            begins to reject what is only put otherwise.
        similarity: least cosine (-1 to 1) to the source's vector.
        teacher: folder or name of the multilingual model for `similarity`.

    Raises:
        BabelclipError: a name is not known, a value is out of bounds, or similarity and teacher lack each other.
    """
    for name in (*on, *off):
        if name not in NAMES and not (name == "all" and name in off):
            raise BabelclipError(f"filter {name!r} is not known. {did_you_mean(name, NAMES)}")
    for name, value, option in (("round-trip", round_trip, "round_trip"), ("similarity", similarity, "similarity")):
        if name in on and value is None:
            raise BabelclipError(
                f"filter {name!r} was switched on without its bound: give {option}, for example {option}=0.2."
            )
        if value is not None and not -1 <= value <= 1:
            raise BabelclipError(f"{option}={value} is out of bounds: it is at most 1, and 0.2 is a usual value.")
    if (similarity is None) != (not teacher):
        raise BabelclipError(
            f"similarity={similarity} was given with teacher={teacher!r}, and each needs the other: give the least "
            "cosine and the multilingual model that makes the vectors, or neither."
        )
    wanted = set() if "all" in off else {*ALWAYS}
    wanted |= {name for name, value in (("round-trip", round_trip), ("similarity", similarity)) if value is not None}
    wanted = (wanted | set(on)) - set(off)
    return Filters(
        tuple(name for name in NAMES if name in wanted),
        round_trip if "round-trip" in wanted and round_trip is not None else 0.0,
        similarity if "similarity" in wanted and similarity is not None else 0.0,
        teacher if "similarity" in wanted else "",
    )


class Sieve:
    """Finds what to reject; loads what its filters need at the first use."""

    def __init__(self, filters: Filters, source: str = "en", device: str = "cpu") -> None:
        """Takes the filters, the language of the captions, and where the model of `similarity` runs."""
        self._filters, self._source, self._device = filters, source, None if device == "auto" else device
        self._language_id: LanguageId | None = None
        self._clip: Clip | None = None

    def rejections(
        self, sources: Sequence[str], texts: Sequence[str], lang: str, back: Callable[[Sequence[str]], list[str]]
    ) -> list[Rejection | None]:
        """Returns for each of N pairs why it is to be rejected, None where it is not.

        Args:
            sources: N captions.
            texts: their N translations.
            lang: language of the translations, BCP-47.
            back: translates texts from `lang` into the source language; used by `round-trip` alone.
        """
        found = [
            reason_to_reject(source, text, lang, self._filters.names)
            for source, text in zip(sources, texts, strict=True)
        ]
        for name, check in (
            ("language", lambda pairs: self._languages(pairs, lang)),
            ("round-trip", lambda pairs: self._round_trips(pairs, back)),
            ("similarity", lambda pairs: self._similarities(pairs, lang)),
        ):
            rows = [row for row, reason in enumerate(found) if reason is None] if name in self._filters.names else []
            if rows:
                for row, value in zip(rows, check([(sources[row], texts[row]) for row in rows]), strict=True):
                    found[row] = None if value is None else Rejection(name, value)
        return found

    def _languages(self, pairs: Sequence[tuple[str, str]], lang: str) -> list[str | None]:
        from babelclip.translate.language_id import LanguageId

        if self._language_id is None:
            self._language_id = LanguageId()
        names = self._language_id
        return [names.other_language(text, lang) for _source, text in pairs]

    def _round_trips(
        self, pairs: Sequence[tuple[str, str]], back: Callable[[Sequence[str]], list[str]]
    ) -> list[float | None]:
        returned = back([text for _source, text in pairs])
        values = [overlap(source, text) for (source, _text), text in zip(pairs, returned, strict=True)]
        return [round(value, 4) if value < self._filters.round_trip else None for value in values]

    def _similarities(self, pairs: Sequence[tuple[str, str]], lang: str) -> list[float | None]:
        import babelclip

        if self._clip is None:
            self._clip = babelclip.load(self._filters.teacher, towers="text", dtype="float32", device=self._device)
        sources, texts = zip(*pairs, strict=True)
        features = [self._clip.encode_text(part, lang=code) for part, code in ((sources, self._source), (texts, lang))]
        cosines = np.einsum("nd,nd->n", *features)
        return [round(float(value), 4) if value < self._filters.similarity else None for value in cosines]


def reason_to_reject(source: str, text: str, lang: str, names: Collection[str] = ALWAYS) -> Rejection | None:
    """Returns why a translation is to be rejected by the filters that look at the two texts alone, or None.

    >>> reason_to_reject("Two dogs play in the snow.", "Two dogs play in the snow.", "sv")
    Rejection(reason='copy', value=5)
    >>> reason_to_reject("Two dogs play in the snow.", "Två hundar leker i snön.", "sv")
    """
    checks: dict[str, Callable[[], float | str | None]] = {
        "empty": lambda: None if any(unicodedata.category(c)[0] in "LNS" for c in text) else "",
        "copy": lambda: _copied_words(source, text),
        "length": lambda: _odd_length(source, text),
        "script": lambda: _other_script(source, text, lang),
        "repetition": lambda: _loops(source, text, lang),
    }
    for name, check in checks.items():
        if name in names and (value := check()) is not None:
            return Rejection(name, value)
    return None


def overlap(reference: str, text: str, most: int = 6, beta: float = 2.0) -> float:
    """Returns chrF (Popović, 2015), 0 to 1: the F score of the character n-grams, n up to 6, that two texts share.

    Spaces and case do not count, since a translation there and back keeps neither. Precision and recall are means over
    the n for which either text is long enough.
    """
    first, second = ("".join(given.casefold().split()) for given in (reference, text))
    precisions, recalls = [], []
    for n in range(1, most + 1):
        grams = [Counter(given[at : at + n] for at in range(len(given) - n + 1)) for given in (first, second)]
        totals = [sum(counted.values()) for counted in grams]
        if not any(totals):
            break
        shared = sum((grams[0] & grams[1]).values())
        recalls.append(shared / max(totals[0], 1))
        precisions.append(shared / max(totals[1], 1))
    if not sum(precisions) or not sum(recalls):
        return 0.0
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


# -- the filters, each returning the value that decided, or None -------------------------------------------------------


def _copied_words(source: str, text: str) -> int | None:
    """Returns the number of words in small letters where the text is the source again: names have hardly any."""
    if _folded(source) != _folded(text):
        return None
    small = sum(word[:1].islower() for word in source.split())
    return small if small >= _SMALL_WORDS else None


def _odd_length(source: str, text: str) -> float | None:
    """Returns the ratio of the lengths where it is out of bounds."""
    ratio = (_HEAD_START + _width(text)) / (_HEAD_START + _width(source))
    return None if _SHORTEST <= ratio <= _LONGEST else round(ratio, 3)


def _width(text: str) -> float:
    """Returns a length in which texts of all scripts are about equally long: spaces and marks on letters count 0."""
    total = 0.0
    for c in text:
        if c < "\u0300":
            total += not c.isspace()
        elif "\u1200" <= c <= "\u139f":
            total += _SYLLABLE
        elif unicodedata.category(c) != "Mn" and not c.isspace():
            total += _WIDE if unicodedata.east_asian_width(c) in "WF" else 1.0
    return total


def _other_script(source: str, text: str, lang: str) -> float | None:
    """Returns the share of letters in the script of the language where most are in others.

    Names that stand in the source as they are do not count: "BMW" is written so in Russian too.
    """
    names = {word for word in _words(source) if any(c.isupper() for c in word)}
    letters = [c for word in _words(text) if word not in names for c in word if c.isalpha() and not belongs(c, COMMON)]
    if not letters:
        return None if any(c.isalpha() for c in text) or not any(c.isalpha() for c in source) else 0.0
    share = sum(belongs(c, scripts_of(lang)) for c in letters) / len(letters)
    script = languages.script(lang)
    if share >= _SCRIPT_SHARE and script in ("Hans", "Hant"):
        mine, others = (sum(_is_only(c, kind) for c in letters) for kind in (script, _OTHER_CHINESE[script]))
        share = mine / (mine + others) if mine + others else share
    if share >= _SCRIPT_SHARE and script == "Jpan" and len(letters) >= _KANJI_ONLY:
        share = share if any(belongs(c, ("Hira", "Kana")) for c in letters) else 0.0
    return None if share >= _SCRIPT_SHARE else round(share, 3)


_OTHER_CHINESE = {"Hans": "Hant", "Hant": "Hans"}
# Simplified by Big5, and yet how Hong Kong's traditional texts write what captions say most: "wearing", "-ing".
_IN_BOTH_CHINESE = frozenset("着")


def _is_only(character: str, script: str) -> bool:
    """Returns whether a Chinese character is written only in simplified (`Hans`) or only in traditional texts.

    The character sets of the mainland (GB 2312) and of Taiwan (Big5) each hold one of the two forms.
    """
    if character in _IN_BOTH_CHINESE:
        return False
    mine, other = ("gb2312", "big5") if script == "Hans" else ("big5", "gb2312")
    return _encodes(character, mine) and not _encodes(character, other)


def _encodes(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _loops(source: str, text: str, lang: str) -> int | None:
    """Returns how often something comes in a row where that is a loop, unless the source has as many."""
    if languages.script(lang) in _WITHOUT_SPACES:
        found = _longest_loop([c for c in text if not c.isspace()], _SIGN_LOOPS)
    else:
        found = _longest_loop(_words(text.casefold()), _WORD_LOOPS)
    if not found:
        stutter = _STUTTER.search(text.casefold())
        found = len(stutter[0]) // len(stutter[1]) if stutter else 0
    if not found or found <= max(_longest_loop(_words(source.casefold()), dict.fromkeys(range(1, 9), 2)), 1):
        return None
    return None if _STUTTER.search(source.casefold()) else found


def _longest_loop(items: Sequence[str], limits: dict[int, int]) -> int:
    """Returns the largest number of times that n items come in a row, where it reaches the limit for n; else 0."""
    longest = 0
    for n, limit in limits.items():
        if len(items) < n * limit:
            continue
        run = 0  # places in a row whose item is that of n places before
        for at in range(n, len(items)):
            run = run + 1 if items[at] == items[at - n] else 0
            repeats = run // n + 1
            if repeats >= limit and repeats > longest and any(c.isalpha() for w in items[at - n : at] for c in w):
                longest = repeats
    return longest


def _words(text: str) -> list[str]:
    """Returns the words without the punctuation around them."""
    stripped = (word.strip("".join(c for c in set(word) if not c.isalnum())) for word in text.split())
    return [word for word in stripped if word]


def _folded(text: str) -> str:
    return " ".join(_words(unicodedata.normalize("NFKC", text).casefold()))
