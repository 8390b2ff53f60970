"""The shares that the languages of each source have in a mix.

Let n(s, l) be the rows of source s in language l, w(s) the weight of the source, v(l) that of the language, T the
temperature and e the share of English.

    m(s, l) = w(s) n(s, l)                          a row of a source of weight 2 counts twice
    m(l)    = sum over s of m(s, l)
    q(l)    = v(l) m(l)^(1/T) / sum over l' of v(l') m(l')^(1/T)     over the languages other than English
    p(s, l) = (1 - e) q(l) m(s, l) / m(l)

The English rows have e among them by the same formula, over `en`, `en-GB` and so on. T = 1 keeps the proportions, so
that every row of weight 1 is seen equally often; a large T makes the languages equal. mBERT used T = 1 / 0.7
(Devlin et al. 2019), XLM 1 / 0.7 and XLM-R 1 / 0.3 (arXiv 1911.02116). To give sources fixed shares instead, make
their weights (share / rows).

With a cap R on repeats, p(s, l) is at most R n(s, l) / M, where M is the number of rows that take part: while M rows
are given out, none is given more than R times. What lies above goes to the others in proportion (p = min(c, k p) with
one factor k), first within English and within the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from babelclip import languages
from babelclip.errors import BabelclipError, did_you_mean

Floats = npt.NDArray[np.float64]

_SMALLEST = 1e-200


def group_shares(
    rows: npt.NDArray[np.int64],
    source_weights: Floats,
    langs: list[str],
    *,
    temperature: float,
    english_share: float,
    factors: Mapping[str, float],
    max_repeats: float | None,
) -> Floats:
    """Returns the share of each group, one source in one language: (G,) float64, of sum 1.

    Args:
        rows: (G,) rows of each, 1 or more.
        source_weights: (G,) weight of its source, not negative.
        langs: G languages, BCP-47.
        temperature: T, above 0.
        english_share: e, from 0 to 1.
        factors: v by language; 1 where it names none.
        max_repeats: R, 1 or more; None: no cap.

    Raises:
        BabelclipError: a setting is outside its limits; no group is English and e is above 0, or all are and it is
            below 1.
    """
    _check_settings(temperature, english_share, max_repeats)
    mass = rows * source_weights
    english = np.array([is_english(lang) for lang in langs])
    there = (mass > 0) & np.array([factors.get(lang, 1.0) > 0 for lang in langs])
    _check_english([lang for lang, is_there in zip(langs, there, strict=True) if is_there], english_share)
    takes_part = there & np.where(english, english_share > 0, english_share < 1)
    proportions = np.zeros(len(rows))
    for part in (english & takes_part, ~english & takes_part):
        if part.any():
            proportions[part] = _proportions(mass[part], [langs[g] for g in np.flatnonzero(part)], temperature, factors)
    caps = np.full(len(rows), np.inf)
    if max_repeats is not None:
        caps = np.where(takes_part, max_repeats * rows / max(int(rows[takes_part].sum()), 1), 0.0)
        english_share = min(max(english_share, 1.0 - caps[~english].sum()), float(caps[english].sum()))
    shares = np.zeros(len(rows))
    for part, share in ((english, english_share), (~english, 1.0 - english_share)):
        shares[part] = _capped(proportions[part], caps[part], share)
    return shares


def language_factors(given: Mapping[str, float], there: set[str]) -> dict[str, float]:
    """Returns factors on languages by canonical code; `there` are the languages with rows.

    Raises:
        UnknownLanguageError: a code is not known.
        BabelclipError: a factor is negative or not finite, or its language has no rows.
    """
    factors = {languages.normalize(code): float(factor) for code, factor in given.items()}
    for code, factor in factors.items():
        if not (math.isfinite(factor) and factor >= 0):
            raise BabelclipError(
                f"language {code!r} has the factor {factor}. A factor is 0 or more: 2 for twice the share, 0 to leave "
                "the language out."
            )
        if code not in there:
            raise BabelclipError(
                f"language {code!r} has a factor, but no source has rows in it. {did_you_mean(code, there)} Drop it, "
                "or add captions."
            )
    return factors


def is_english(lang: str) -> bool:
    """Returns whether a BCP-47 code is English or a variety of it."""
    return lang == "en" or lang.startswith("en-")


def _check_settings(temperature: float, english_share: float, max_repeats: float | None) -> None:
    if not (math.isfinite(temperature) and temperature > 0):
        raise BabelclipError(
            f"temperature={temperature} is not allowed. It is a number above 0: 1 keeps the proportions of languages, "
            "3 brings them closer, a small one drives them apart."
        )
    if not 0 <= english_share <= 1:
        raise BabelclipError(
            f"english_share={english_share} is not allowed. It is the share of English rows, from 0 to 1: give 0.1, "
            "for example."
        )
    if max_repeats is not None and not max_repeats >= 1:
        raise BabelclipError(
            f"max_repeats={max_repeats} is not allowed. It is 1 or more, or None for no cap: 4, for example."
        )


def _check_english(there: list[str], share: float) -> None:
    english = [is_english(lang) for lang in there]
    if share > 0 and not any(english):
        raise BabelclipError(
            f"english_share={share:g}, but no source of the mix has rows in English (there are: "
            f"{', '.join(sorted(set(there))) or 'none'}). Add the English captions themselves as a source, their own "
            "vectors being the targets; or set english_share=0, and English is lost."
        )
    if share < 1 and all(english):
        raise BabelclipError(
            f"english_share={share:g}, but the mix has rows in no other language. Add captions in other languages, or "
            "set english_share=1."
        )


def _proportions(mass: Floats, langs: list[str], temperature: float, factors: Mapping[str, float]) -> Floats:
    """Returns v(l) m(l)^(1/T) m(s, l) / m(l) of the groups of one part (G,), times a factor that all share."""
    distinct, number = np.unique(np.array(langs), return_inverse=True)
    total = np.bincount(number, weights=mass)
    # As logarithms, and relative to the largest: a power of millions does not fit into a float where T is small.
    logs = np.log([factors.get(str(lang), 1.0) for lang in distinct]) + np.log(total) / temperature
    # A language takes part however small it is, for under a cap it may have to take what others must not.
    of_language = np.maximum(np.exp(logs - logs.max()), _SMALLEST)
    proportions: Floats = of_language[number] * (mass / total[number])
    return proportions


def _capped(proportions: Floats, caps: Floats, total: float) -> Floats:
    """Returns min(caps, k proportions) with the k for which the sum is `total`, which is at most that of the caps."""
    shares = np.zeros(len(proportions))
    free = proportions > 0
    while free.any() and total > 0:
        scaled = np.where(free, proportions, 0.0)
        scaled *= total / scaled.sum()
        over = free & (scaled >= caps)
        if not over.any():
            return shares + scaled
        shares[over] = caps[over]
        total -= caps[over].sum()
        free &= ~over
    return shares
