"""English captions put together from nouns, adjectives, places and templates of our own: "a red bicycle on the beach".

Class names and dictionary nouns are single words, but people search with short phrases; the teacher knows what a phrase
means, and composing shows the student many. The word lists are in `compose.tsv`. Entry point: `compose`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import resources

import numpy as np

from babelclip.errors import BabelclipError

_VOWELS = frozenset("aeiou")
# Half of the captions are written as a sentence, as people do who caption pictures.
_SENTENCES = 0.5


@functools.cache
def word_lists() -> dict[str, tuple[tuple[str, ...], tuple[float, ...]]]:
    """Returns texts and probabilities for each kind: template, adjective, place."""
    lists: dict[str, list[tuple[str, float]]] = {}
    for line in resources.files(__package__).joinpath("compose.tsv").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            kind, weight, text = line.split("\t")
            lists.setdefault(kind, []).append((text, float(weight)))
    return {
        kind: (tuple(text for text, _ in rows), tuple(weight / sum(w for _, w in rows) for _, weight in rows))
        for kind, rows in lists.items()
    }


def compose(nouns: Sequence[str], count: int, seed: int) -> list[str]:
    """Returns `count` captions, some of them possibly equal.

    Args:
        nouns: each as likely as it is often here.
        count: how many.
        seed: of the choice.

    Raises:
        BabelclipError: there is no noun.
    """
    if not nouns:
        raise BabelclipError("Captions cannot be composed of no nouns. Give at least one.")
    rng = np.random.default_rng(seed)
    chosen = {
        kind: [texts[place] for place in rng.choice(len(texts), size=count, p=probabilities)]
        for kind, (texts, probabilities) in word_lists().items()
    }
    first, second = rng.integers(len(nouns), size=(2, count)).tolist()
    as_sentence = (rng.random(count) < _SENTENCES).tolist()
    captions = []
    for row, template in enumerate(chosen["template"]):
        caption = template.format(
            a_noun=with_article(nouns[first[row]]),
            another_noun=with_article(nouns[second[row]]),
            an_adjective_noun=with_article(f"{chosen['adjective'][row]} {nouns[first[row]]}"),
            place=chosen["place"][row],
        )
        captions.append(f"{caption[0].upper()}{caption[1:]}." if as_sentence[row] else caption)
    return captions


def with_article(noun: str) -> str:
    """Returns "a cat", "an owl": by the letter, which is wrong for few ("a hour")."""
    return f"{'an' if noun[:1].lower() in _VOWELS else 'a'} {noun}"
