"""Captions to vectors on disk: what a student is taught towards is computed once, and never again.

Captions go through in parts, so that memory holds a part and not the file: the next part is read while the model works,
texts are encoded some thousand at a time, and each shard is written as soon as it is full. Where a run was stopped, the
next one passes over what the store has, comparing ids in the store's own order, and goes on behind it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from babelclip.data import tables
from babelclip.data.captions import Captions
from babelclip.data.parts import ROWS, iter_captions
from babelclip.errors import BabelclipError
from babelclip.models.clip import Clip
from babelclip.progress import Advance, progress_bar
from babelclip.store import EmbeddingStore

# Texts between two writes: what an interruption can lose, a minute or two on a processor. 100 million rows are then
# 6,104 shards.
_SHARD = 16384
# Texts given to the model at once: enough to sort by length, few enough for the progress bar to move.
_AT_ONCE = 8192


def embed_file(
    clip: Clip,
    source: Path | str,
    path: Path | str,
    *,
    lang: str | None = None,
    only: str | Iterable[str] | None = None,
    strict: bool = False,
    normalize: bool = False,
    dtype: str = "float16",
    progress: bool = False,
) -> EmbeddingStore:
    """Returns the store at `path` with the vector of every caption of a file of any size (see `embed_captions`).

    Args:
        clip: the teacher; its text tower is used.
        source: Parquet, JSONL, CSV or TSV, each also gzipped.
        path: a new folder, or a store of the same model.
        lang: language of the rows that name none.
        only: keep these languages.
        strict: whether the first row that cannot be used is an error.
        normalize: see `embed_captions`; so are `dtype` and `progress`.
        dtype: "float16" or "float32", as the vectors lie on disk.
        progress: show a bar on stderr.

    Raises:
        UnknownLanguageError: `lang` or one of `only` is not known.
        BabelclipError: as `iter_captions` and `embed_captions`; what was written stays: mend the file and run again.
    """
    parts = iter_captions(source, lang, strict, only=only)
    total = tables.count_rows(Path(source)) if progress else None
    return embed_captions(clip, parts, path, normalize=normalize, dtype=dtype, progress=progress, total=total)


def embed_captions(
    clip: Clip,
    captions: Captions | Iterable[Captions],
    path: Path | str,
    *,
    normalize: bool = False,
    dtype: str = "float16",
    progress: bool = False,
    total: int | None = None,
) -> EmbeddingStore:
    """Returns the store at `path` with the vector of every caption, encoding those it lacks.

    Run again after an interruption, it goes on behind the last shard, and the store becomes the same as without. Equal
    texts of a shard are encoded once. Memory depends on the size of the parts, not on their number.

    Args:
        clip: the teacher; its text tower is used.
        captions: rows to encode, or parts of them (`iter_captions`, `iter_moses`); vectors are keyed by their ids.
        path: a new folder, or a store of the same model.
        normalize: teacher learning regresses on raw projections, hence False (see docs/architecture.md).
        dtype: "float16" or "float32", as the vectors lie on disk.
        progress: show a bar on stderr.
        total: rows of all parts with those left out, for the bar; None where it is not known.

    Raises:
        BabelclipError: the store at `path` is of another model, space, dimension or dtype, or an id is in two parts.
    """
    if isinstance(captions, Captions):
        total = len(captions) + sum(captions.skipped.values())
        parts: Iterator[Captions] = _cut(captions)
    else:
        parts = iter(captions)
    with EmbeddingStore.open_or_create(
        path,
        space=clip.space,
        model=clip.name or clip.space,
        dim=clip.embed_dim,
        dtype=dtype,
        normalized=normalize,
        kind="text",
    ) as store:
        sieve = _Sieve(store)
        waiting: list[tuple[str, str, str]] = []  # id, text, language
        with progress_bar("Text vectors", total, shown=progress, unit="texts") as advance:
            for part in _read_ahead(parts):
                lacking = sieve.lacking(part)
                advance(len(part) + sum(part.skipped.values()) - len(lacking), 0)
                waiting += lacking
                while len(waiting) >= _SHARD:
                    _append(clip, store, waiting[:_SHARD], normalize, advance)
                    del waiting[:_SHARD]
            if waiting:
                _append(clip, store, waiting, normalize, advance)
    return EmbeddingStore.open(path)


def encode_distinct(
    clip: Clip,
    texts: Sequence[str],
    normalize: bool = True,
    *,
    langs: Sequence[str] | None = None,
    advance: Advance | None = None,
) -> np.ndarray:
    """Returns text features (N, D) float32 as `clip.encode_text` does, each distinct text encoded once.

    Args:
        clip: its text tower is used.
        texts: N texts.
        normalize: see `Clip.encode_text`.
        langs: their N languages, which only a model whose first token names the language reads.
        advance: moves a progress bar.
    """
    tower = clip.text
    reads_language = langs is not None and tower is not None and tower.tokenizer.language is not None
    keys = list(zip(texts, langs, strict=True)) if reads_language and langs is not None else [(t, "") for t in texts]
    first = {key: position for position, key in enumerate(dict.fromkeys(keys))}
    distinct = list(first)
    features = np.empty((len(distinct), clip.embed_dim), np.float32)
    for start in range(0, len(distinct), _AT_ONCE):
        part = distinct[start : start + _AT_ONCE]
        lang = [key[1] for key in part] if reads_language else None
        features[start : start + len(part)] = clip.encode_text([key[0] for key in part], normalize, lang=lang)
        if advance is not None:
            advance(len(part))
    if advance is not None and len(distinct) < len(texts):
        advance(len(texts) - len(distinct))
    return features if len(distinct) == len(texts) else features[[first[key] for key in keys]]


class _Sieve:
    """Finds what a store lacks of captions that come in parts, and ids that come twice."""

    def __init__(self, store: EmbeddingStore) -> None:
        self._store = store
        self._there_before = len(store)
        # Captions usually come as they did in the run before: rows of the store gone through in its own order.
        self._passed = 0

    def lacking(self, part: Captions) -> list[tuple[str, str, str]]:
        """Returns id, text and language of the captions that the store lacks.

        Raises:
            BabelclipError: an id was in this or an earlier part already.
        """
        ids = part.ids
        here = min(len(ids), self._there_before - self._passed)
        if here > 0 and self._store.ids_between(self._passed, self._passed + here) == ids[:here]:
            self._passed += here
            part = Captions(part.table.slice(here), part.skipped)
            ids = ids[here:]
        if not ids:
            return []
        rows = self._store.find(ids)
        # Other rows of the store may be of an earlier file, or of another order of this one.
        again = (rows >= self._there_before) | ((rows >= 0) & (rows < self._passed))
        _refuse_twice([name for name, is_twice in zip(ids, again.tolist(), strict=True) if is_twice])
        texts, langs = part.texts, part.langs
        return [(ids[row], texts[row], langs[row]) for row in np.flatnonzero(rows < 0).tolist()]


def _append(
    clip: Clip, store: EmbeddingStore, rows: list[tuple[str, str, str]], normalize: bool, advance: Advance
) -> None:
    ids, texts, langs = (list(column) for column in zip(*rows, strict=True))
    _refuse_twice([name for name, count in Counter(ids).items() if count > 1])  # of two parts that share a shard
    store.append(ids, encode_distinct(clip, texts, normalize, langs=langs, advance=advance))


def _refuse_twice(twice: list[str]) -> None:
    if twice:
        raise BabelclipError(
            f"{len(twice)} ids occur more than once in the captions, first {twice[:3]}. An id names one caption: give "
            "each its own, for example with the language at its end, or leave the column out; then run the same again, "
            "which goes on where it stopped."
        )


def _cut(captions: Captions) -> Iterator[Captions]:
    skipped = captions.skipped
    for start in range(0, len(captions), ROWS):
        yield Captions(captions.table.slice(start, ROWS), skipped if start == 0 else {})


def _read_ahead(parts: Iterator[Captions]) -> Iterator[Captions]:
    """Yields `parts`; the next one is read in a thread meanwhile."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        following = reader.submit(next, parts, None)
        while (part := following.result()) is not None:
            following = reader.submit(next, parts, None)
            yield part
