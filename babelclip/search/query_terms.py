"""What a query is made of: terms with a weight, and the line of text that people write them in.

    beach                          one term
    beach - people + at night      three; one that begins with "-" is taken away, by half unless a weight is given
    "black - white" + 'x y'        in quotation marks, + and - are text
    beach^2 + dog^0.5              weights

A sign counts where it begins a word: at the start or behind a blank, and not before a digit or a second sign, so that
`t-shirt`, `-5 degrees` and `a -- b` are text. A term goes on to the next sign. Quotation marks (" ' “” „“ «» 「」)
count where they begin a term and end at a blank or the end; `l'été` and a mark that is never closed are text.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from typing import Any

import numpy as np
import numpy.typing as npt

from babelclip.errors import BabelclipError, shown
from babelclip.models.preprocess import Picture

MAX_TERMS = 32
# What is taken away without a weight. Taken away whole it takes much of what is asked for with it, since all texts have
# a part in common: CIFAR-10 by the starter's model, "animal - cat" and the like, share of the first 20 pictures that
# fit: 0.815 at 1, 0.85 at 0.5, 0.75 without the second part.
MINUS = -0.5
_PLUS, _MINUS = "+＋", "-－−"
_QUOTES = {'"': '"', "'": "'", "“": "”", "„": "“", "«": "»", "「": "」", "”": "”", "‘": "’"}
_WEIGHT = re.compile(r"\^(\d{1,4}(?:\.\d{1,4})?)$")


@dataclasses.dataclass(frozen=True)
class Term:
    """One part of a query: a text, a picture, an item of the collection, or a vector, and how much it counts.

    Attributes:
        text: in any language.
        image: a path, PIL picture or array.
        id: of an item of the collection.
        vector: (D,) of the space; need not be normalised.
        weight: negative for what is to be unlike the results.
    """

    text: str | None = None
    image: Picture | None = None
    id: str | None = None
    vector: npt.NDArray[np.float32] | None = dataclasses.field(default=None, compare=False)
    weight: float = 1.0

    def __post_init__(self) -> None:
        given: dict[str, Any] = {"text": self.text, "image": self.image, "id": self.id, "vector": self.vector}
        names = [name for name, value in given.items() if value is not None]
        if len(names) != 1:
            raise BabelclipError(
                f"A term of a query has {' and '.join(names) or 'nothing'}; it is one text, image, id or vector. Make "
                "a term of each."
            )
        if not np.isfinite(self.weight) or self.weight == 0:
            raise BabelclipError(f"A term has the weight {self.weight}. Give a number that is not 0, such as 1 or -1.")
        if self.text is not None and not self.text.strip():
            raise BabelclipError("A term of a query is an empty text. Give some words, or leave it out.")

    @property
    def kind(self) -> str:
        """Either "text" or "image": which of the two lies where the vector lies."""
        return "text" if self.text is not None else "image"


def normal(text: str) -> str:
    """Returns a text as it is encoded: NFC, without blanks around it. Equal texts have one vector then."""
    return unicodedata.normalize("NFC", text).strip()


def parse_query(line: str) -> list[Term]:
    """Returns the terms of a line of text, in their order; [] of a line without words.

    Raises:
        BabelclipError: there are more than 32 terms, or a weight is 0.
    """
    line = normal(line)
    terms: list[Term] = []
    for sign, words in _split(line):
        weight = _WEIGHT.search(words)
        text = words[: weight.start()].rstrip() if weight and weight.start() else words
        factor = float(weight[1]) if weight and weight.start() else (1.0 if sign > 0 else abs(MINUS))
        text = _unquoted(text)
        if not text:
            continue
        if factor == 0:
            raise BabelclipError(f"{shown(words)!r} has the weight 0, so it would do nothing: leave it out.")
        terms.append(Term(text=text, weight=sign * factor))
    if len(terms) > MAX_TERMS:
        raise BabelclipError(f"A query of {len(terms)} terms is too long; {MAX_TERMS} are allowed. Leave some out.")
    return terms


def _split(line: str) -> list[tuple[float, str]]:
    """Returns (sign, words) of each term; quotation marks and weights are still there."""
    parts: list[tuple[float, str]] = []
    sign, start, place = 1.0, 0, 0
    while place < len(line):
        begins = place == 0 or line[place - 1].isspace()
        if not line[start:place].strip() and (end := _closing(line, place)):
            place = end
        elif begins and line[place] in _PLUS + _MINUS and _is_sign(line, place):
            parts.append((sign, line[start:place].strip()))
            sign, start = (1.0 if line[place] in _PLUS else -1.0), place + 1
            place += 1
        else:
            place += 1
    parts.append((sign, line[start:].strip()))
    return [(sign, words) for sign, words in parts if words]


def _is_sign(line: str, place: int) -> bool:
    following = line[place + 1 : place + 2]
    return not (following.isdigit() or (following and following in _PLUS + _MINUS))


def _closing(line: str, place: int) -> int:
    """Returns the place behind the quotation that begins at `place`, 0 where none does."""
    closing = _QUOTES.get(line[place])
    end = line.find(closing, place + 1) if closing else -1
    while end > 0:
        behind = line[end + 1 : end + 2]
        if not behind or behind.isspace() or behind == "^":
            return end + 1
        end = line.find(closing or "", end + 1)
    return 0


def _unquoted(text: str) -> str:
    closing = _QUOTES.get(text[:1])
    if closing and len(text) > 1 and _closing(text, 0) == len(text):
        return text[1:-1].strip()
    return text
