"""Which caption goes into which language: `split`, `all` or `weights`, and a share of untranslated copies.

* **split**: each caption into one language. Every language gets the same number of captions, give or take one, and each
  a random sample. (M-CLIP 2022 gave each language one contiguous stretch of the source.)
* **weights**: as split, with sizes in proportion to weights.
* **all**: each caption into each language.

**English copies.** A share of the rows (`keep_english`, 0.1 unless told otherwise) is the English caption itself. The
teacher reads English anyway, but a student that never sees English text with its English target loses English: in the
ablations of AltCLIP (Chen et al., arXiv 2211.06679, table 6) zero-shot ImageNet in English falls from 51.6 to 15.5
without such pairs. With split and weights the copied captions are not translated, so every caption is in one row; with
all they are copied besides, each once at most.

The assignment is a function of the seed, of a block's place and of its number of rows, so captions can stream through
in blocks and any block can be worked out by itself. Sizes are cut from whole-number quotas of all rows so far, which
adds up to equal sizes over the blocks without knowing how many will come.

Entry points: `make_plan`, `Plan.assign`, `Plan.sizes`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from babelclip import languages
from babelclip.errors import BabelclipError, did_you_mean

KINDS = ("split", "all", "weights")
KEEP_ENGLISH = 0.1

Rows = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What goes where. Made by `make_plan`, which checks it.

    Attributes:
        kind: one of `KINDS`.
        languages: L targets, BCP-47, without the source language.
        weights: (L,) exact weights, all 1 but for kind `weights`.
        keep_english: share of the rows that are untranslated copies, 0 <= share < 1.
        seed: of the random order.
        source: the language of the captions, BCP-47; `en` but for a teacher that reads another.
    """

    kind: str
    languages: tuple[str, ...]
    weights: tuple[Fraction, ...]
    keep_english: Fraction
    seed: int
    source: str = "en"

    def assign(self, start: int, count: int) -> dict[str, Rows]:
        """Returns the rows of a block for each language, ascending; copies come under the source language.

        Args:
            start: number of captions in the blocks before this one.
            count: number of captions in this one.

        Returns:
            int64 rows of the block, from 0, by language in the order of the plan, copies last; a language that gets
            nothing is left out.
        """
        order = _shuffled(self.seed, start, count)
        assigned: dict[str, Rows] = {}
        if self.kind == "all":
            everything = np.arange(count, dtype=np.int64)
            assigned = {lang: everything for lang in self.languages if count}
            copies = order[: _quota(self._copied, start, start + count)]
        else:
            copied = _quota(self._copied, start, start + count)
            copies, rest = order[:copied], order[copied:]
            begin = start - math.floor(self._copied * start)
            left = sum(self.weights)
            for lang, weight in zip(self.languages, self.weights, strict=True):
                share = weight / left
                size = _quota(share, begin, begin + len(rest))
                if size:
                    assigned[lang] = np.sort(rest[:size])
                rest, begin, left = rest[size:], begin - math.floor(share * begin), left - weight
        if len(copies):
            assigned[self.source] = np.sort(copies)
        return assigned

    def sizes(self, count: int, block: int) -> dict[str, int]:
        """Returns how many of `count` captions, cut into blocks of `block`, each language gets, zeros included."""
        totals = dict.fromkeys((*self.languages, self.source), 0)
        for start in range(0, count, block):
            for lang, rows in self.assign(start, min(block, count - start)).items():
                totals[lang] += len(rows)
        return totals

    @property
    def _copied(self) -> Fraction:
        """The share of the captions that are copied."""
        if self.kind != "all":
            return self.keep_english
        # For x copies beside L translations of a caption, x / (x + L) of the rows are copies.
        return min(Fraction(1), self.keep_english / (1 - self.keep_english) * len(self.languages))

    def facts(self) -> dict[str, object]:
        """Returns the plan as it stands in a manifest."""
        return {
            "plan": self.kind,
            "languages": list(self.languages),
            "weights": {code: float(w) for code, w in zip(self.languages, self.weights, strict=True) if w != 1},
            "keep_english": float(self.keep_english),
            "seed": self.seed,
            "source_language": self.source,
        }


def make_plan(
    to: Sequence[str],
    kind: str = "split",
    *,
    weights: Mapping[str, float] | None = None,
    keep_english: float = KEEP_ENGLISH,
    seed: int = 0,
    source: str = "en",
) -> Plan:
    """Returns a plan.

    Args:
        to: the languages, in any code that `babelclip.languages` knows. The source language may be among them, as in
            the original's 48; its share is `keep_english` alone.
        kind: `split`, `all` or `weights`.
        weights: for `weights`, the weight of each language that does not weigh 1.
        keep_english: share of the rows that are untranslated copies; see above why it should not be 0.
        seed: another seed deals the captions out otherwise.
        source: language of the captions.

    Raises:
        UnknownLanguageError: a language is not known.
        BabelclipError: another argument is not allowed.
    """
    if kind not in KINDS:
        raise BabelclipError(f"plan {kind!r} is not known. {did_you_mean(kind, KINDS)}")
    origin = languages.normalize(source)
    targets = [code for code in dict.fromkeys(languages.normalize(code) for code in to) if code != origin]
    if not targets:
        raise BabelclipError(
            f"to={list(to)} names no language to translate into; the captions are in {origin} and are copied anyway. "
            "At least one other is needed: name some, for example sv,de, or 48 for the original's list."
        )
    if not 0 <= keep_english < 1:
        raise BabelclipError(
            f"keep_english={keep_english} is not allowed: it is the share of the rows that stay in {origin}, from 0 to "
            f"below 1. Give {KEEP_ENGLISH}, for example."
        )
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise BabelclipError(f"seed={seed!r} is not allowed: give a whole number from 0.")
    return Plan(
        kind, tuple(targets), _checked_weights(kind, targets, weights or {}, origin), _exact(keep_english), seed, origin
    )


def _checked_weights(
    kind: str, targets: Sequence[str], given: Mapping[str, float], origin: str
) -> tuple[Fraction, ...]:
    weights = {languages.normalize(code): weight for code, weight in given.items()}
    if weights and kind != "weights":
        raise BabelclipError(
            f"weights {dict(weights)} were given with plan {kind!r}, which gives every language the same. Ask for plan "
            "'weights', or drop them."
        )
    if kind == "weights" and not weights:
        raise BabelclipError(
            "plan 'weights' was asked for without a weight. Give at least one, for example sv=2 (languages without one "
            "weigh 1), or plan 'split' for equal sizes."
        )
    if origin in weights:
        raise BabelclipError(
            f"a weight was given for {origin}, the captions' own language. Its share is keep_english: set that instead."
        )
    for code, weight in weights.items():
        if code not in targets:
            raise BabelclipError(
                f"a weight was given for {code}, which is not among the languages {', '.join(targets)}. Add it to "
                "these, or drop the weight."
            )
        if not (weight > 0 and math.isfinite(weight)):
            raise BabelclipError(
                f"the weight of {code} is {weight}; a weight is a number above 0. Leave a language that is to get "
                "nothing out of the list."
            )
    return tuple(_exact(weights.get(code, 1)) for code in targets)


def _exact(number: float) -> Fraction:
    """Returns the number that was written: 0.1 is a tenth, so that quotas come out alike on every machine."""
    return Fraction(str(number))


def _quota(share: Fraction, start: int, stop: int) -> int:
    """Returns how many of the items `start` to `stop` of an endless row belong to a share of them."""
    return math.floor(share * stop) - math.floor(share * start)


def _shuffled(seed: int, start: int, count: int) -> Rows:
    """Returns the rows of a block in random order, the same with every version of numpy.

    Raw output of a bit generator is what numpy promises to keep; its `permutation` is not.
    """
    keys = np.random.PCG64(np.random.SeedSequence([seed, start])).random_raw(count)
    return np.argsort(keys, kind="stable").astype(np.int64)
