"""Sentences of a text and of its translation, paired by their order where there are equally many."""

from __future__ import annotations

import re
from collections.abc import Iterator

# Captions are short, and a step costs what the tokens cost: longer sentences say little more a token.
LEAST_WORDS = 4
MOST_WORDS = 14
MOST_CHARACTERS = 110
_END = re.compile(r"(?<=[.!?…。！？।])[\"'”’»)\]]*\s+|(?<=[。！？])|\n\s*\n")
_BEFORE_MARK = re.compile(r"\s+([,.;:!?])")
_WORD = re.compile(r"[^\W\d_]{2,}")


def clean_words(text: str) -> str:
    """Returns the text with white space collapsed and none before a mark; paragraphs stay apart."""
    paragraphs = (_BEFORE_MARK.sub(r"\1", " ".join(part.split())) for part in re.split(r"\n\s*\n", text))
    return "\n\n".join(part for part in paragraphs if part)


def sentence_pairs(source: str, translation: str) -> Iterator[tuple[str, str]]:
    """Yields (English sentence, its translation) of useful length; nothing where the numbers of sentences differ."""
    english, other = _sentences(source), _sentences(translation)
    if len(english) != len(other):
        return
    for one, two in zip(english, other, strict=True):
        if LEAST_WORDS <= len(_WORD.findall(one)) <= MOST_WORDS and 0 < len(two) <= MOST_CHARACTERS:
            yield one, two


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in _END.split(text) if part and part.strip()]
