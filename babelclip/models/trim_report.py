"""What trimming a vocabulary did: pieces and bytes saved, and how texts fare with the smaller tokenizer.

Entry points: `trim_report` for the sizes, `measure` for texts, `held_out` for texts that were not looked at,
`largest_difference` for the vectors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from babelclip import languages
from babelclip.models.cleaning import cleaning_rule
from babelclip.models.clip import Clip
from babelclip.models.text import TextEncoder
from babelclip.models.tokenization import TextTokenizer
from babelclip.models.trim import (
    TRIMMED,
    embedding_table,
    text_tower_of,
    tokenizer_like,
    tokens_to_keep,
    trim_tokenizer,
)
from babelclip.models.vocabulary import Vocabulary, read_vocabulary
from babelclip.scripts import COMMON, scripts_of

Texts = Mapping[str, Sequence[str]]
_FOLDS = 10


def trim_report(before: Clip, after: Clip) -> dict[str, Any]:
    """Returns what was dropped: pieces, bytes of the table and of the text tower, and pieces by script."""
    old, new = text_tower_of(before), text_tower_of(after)
    vocabulary = read_vocabulary(old.tokenizer)
    kept = set(_old_ids(vocabulary, read_vocabulary(new.tokenizer)).tolist())
    labels = _labels(vocabulary)
    scripts: dict[str, list[int]] = {}
    for index, plain in vocabulary.spelled.items():
        row = scripts.setdefault(next((labels[c] for c in plain if c in labels), "common"), [0, 0])
        row[0] += 1
        row[1] += index in kept
    ordered = sorted(scripts.items(), key=lambda item: -item[1][0])
    return {
        "tokenizer": vocabulary.kind,
        "pieces_before": old.tokenizer.vocabulary_size,
        "pieces": new.tokenizer.vocabulary_size,
        "embedding_bytes_before": _bytes([embedding_table(old).weight]),
        "embedding_bytes": _bytes([embedding_table(new).weight]),
        "text_tower_bytes_before": _bytes(list(old.parameters())),
        "text_tower_bytes": _bytes(list(new.parameters())),
        "by_script": {label: {"before": row[0], "kept": row[1]} for label, row in ordered},
        "trimmed_before": any(line.startswith(TRIMMED) for line in before.attribution),
    }


def measure(before: TextTokenizer, after: TextTokenizer, texts: Texts) -> dict[str, dict[str, Any]]:
    """Returns by language what a smaller vocabulary does to texts: counts, and shares from 0 to 1.

    A text or word is changed where it is cut into other pieces than before; words are what white space separates.

    Args:
        before: the whole tokenizer.
        after: the trimmed one.
        texts: by language.
    """
    if not texts:
        return {}
    old_vocabulary, new_vocabulary = read_vocabulary(before), read_vocabulary(after)
    old_ids = _old_ids(old_vocabulary, new_vocabulary)
    bare, clean = (_bare(before), _bare(after)), cleaning_rule(before.cleaning)
    results = {}
    for code, listed in texts.items():
        told = code if before.language is not None else None
        old, new = before(listed, told), after(listed, told)
        changed = _changed(old, new, old_ids)
        words, words_changed = _words(*bare, [clean(text) for text in listed], changed, old_ids)
        results[code] = {
            "texts": len(listed),
            "texts_changed": int(changed.sum()),
            "texts_changed_share": float(changed.mean()) if len(listed) else 0.0,
            "words": words,
            "words_changed": words_changed,
            "words_changed_share": words_changed / max(words, 1),
            "unknown_share_before": _unknown_share(old_vocabulary, old),
            "unknown_share": _unknown_share(new_vocabulary, new),
            "tokens_per_text_before": sum(map(len, old)) / max(len(old), 1),
            "tokens_per_text": sum(map(len, new)) / max(len(new), 1),
        }
    return results


def held_out(text: TextEncoder, langs: Sequence[str], captions: Texts, *, min_count: int = 1) -> dict[str, Any]:
    """Returns what `measure` says of a tenth of the captions when the other nine tenths decide what is kept.

    It estimates how new text of the same kind fares; with all captions it fares a little better. Captions that occur
    twice count once, so that a tenth is new indeed; languages of less than ten captions are left out.
    """
    distinct = {code: list(dict.fromkeys(texts)) for code, texts in captions.items()}
    distinct = {code: texts for code, texts in distinct.items() if len(texts) >= _FOLDS}
    if not distinct:
        return {}
    first = {code: [one for at, one in enumerate(texts) if at % _FOLDS] for code, texts in distinct.items()}
    # Languages too small to hold out from must not fall back to their whole script.
    rest = {code: texts for code, texts in captions.items() if code not in first}
    keep = tokens_to_keep(text, langs, {**first, **rest}, min_count=min_count)
    after = trim_tokenizer(text, keep)
    return measure(text.tokenizer, after, {code: texts[::_FOLDS] for code, texts in distinct.items()})


def largest_difference(before: Clip, after: Clip, texts: Sequence[str]) -> tuple[int, float]:
    """Returns how many texts are cut as before, and the largest difference of their raw vectors: 0.0 if all are equal.

    Both models see these texts in the same batches.
    """
    old, new = text_tower_of(before), text_tower_of(after)
    old_ids = _old_ids(read_vocabulary(old.tokenizer), read_vocabulary(new.tokenizer))
    changed = _changed(old.tokenize(texts), new.tokenize(texts), old_ids)
    covered = [text for text, other in zip(texts, changed, strict=True) if not other]
    if not covered:
        return 0, 0.0
    difference = np.abs(old.encode(covered, normalize=False) - new.encode(covered, normalize=False))
    return len(covered), float(difference.max())


def texts_of_pieces(tokenizer: TextTokenizer, number: int = 64, seed: int = 0) -> list[str]:
    """Returns texts put together from a tokenizer's pieces at random, for a check where no other text is at hand."""
    vocabulary = read_vocabulary(tokenizer)
    plain = [piece.replace("▁", " ").strip() for piece in vocabulary.spelled.values()]
    words = [word for word in plain if word]
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 13, size=number if words else 0)
    return [" ".join(words[at] for at in rng.integers(len(words), size=length)) for length in lengths]


def _bare(tokenizer: TextTokenizer) -> TextTokenizer:
    """Returns the tokenizer without what happens to whole texts, for words."""
    return tokenizer_like(tokenizer, cleaning="none", prefix="", pad_to=None, language=None)


def _words(
    before: TextTokenizer, after: TextTokenizer, texts: Sequence[str], changed: np.ndarray, old_ids: np.ndarray
) -> tuple[int, int]:
    """Returns the number of words in N cleaned texts, and how many are cut otherwise; changed texts alone have such."""
    lists = [text.split() for text in texts]
    counts = Counter(word for words, other in zip(lists, changed, strict=True) if other for word in words)
    spaced = [f" {word}" for word in counts]  # as inside a text
    differ = _changed(before(spaced), after(spaced), old_ids)
    return sum(map(len, lists)), sum(count for count, other in zip(counts.values(), differ, strict=True) if other)


def _old_ids(old: Vocabulary, new: Vocabulary) -> np.ndarray:
    """Returns the id in the whole vocabulary of each id of the trimmed one (K,) int64; -1 where no piece has it."""
    numbers = {piece: index for index, piece in old.pieces.items()}
    ids = np.full(max(new.pieces) + 1, -1, dtype=np.int64)
    for index, piece in new.pieces.items():
        ids[index] = numbers[piece]
    return ids


def _changed(old: Sequence[Sequence[int]], new: Sequence[Sequence[int]], old_ids: np.ndarray) -> np.ndarray:
    """Returns for each of N texts whether its tokens are other ones (N,) bool."""
    return np.array([list(was) != old_ids[list(now)].tolist() for was, now in zip(old, new, strict=True)], dtype=bool)


def _unknown_share(vocabulary: Vocabulary, rows: Sequence[Sequence[int]]) -> float:
    """Returns the share of unknown tokens among those that are not special."""
    if vocabulary.unknown is None:
        return 0.0
    special = vocabulary.added - {vocabulary.unknown}
    counted = [index for row in rows for index in row if index not in special]
    return counted.count(vocabulary.unknown) / max(len(counted), 1)


def _labels(vocabulary: Vocabulary) -> dict[str, str]:
    """Returns the script of each character that belongs to one; scripts of no known language are "other"."""
    codes = {script for code in languages.known() for script in scripts_of(code)}
    labels = {c: script for script in sorted(codes) for c in vocabulary.characters([script])}
    others = {c for plain in vocabulary.spelled.values() for c in plain} - labels.keys() - vocabulary.characters(COMMON)
    return labels | dict.fromkeys(others, "other")


def _bytes(tensors: Sequence[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in {id(one): one for one in tensors}.values())
