"""Small captions and stores for the training tests, also for the script that is killed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from babelclip.data.captions import Captions
from babelclip.store import EmbeddingStore
from tests.conftest import EMBED_DIM, WORDS


def make_captions(n: int = 60, seed: int = 0, **columns) -> Captions:
    """English captions of one to five words, and the same in "sv" with their English ids as sources."""
    draw = np.random.default_rng(seed)
    texts = [" ".join(draw.choice(WORDS, size=draw.integers(1, 6))) for _ in range(n)]
    foreign = [" ".join(reversed(text.split())) for text in texts]
    ids = [f"en-{i}" for i in range(n)] + [f"sv-{i}" for i in range(n)]
    sources = [None] * n + [f"en-{i}" for i in range(n)]
    langs = ["en"] * n + ["sv"] * n
    return Captions.from_columns(text=texts + foreign, lang=langs, id=ids, source_id=sources, **columns)


def make_store(
    path: Path, n: int = 60, dim: int = EMBED_DIM, seed: int = 0, space: str = "test/tiny"
) -> EmbeddingStore:
    """The teacher's vectors of the English captions: the bag of their words, so that they can be learned."""
    words = {word: np.random.default_rng(i).normal(size=dim) for i, word in enumerate(WORDS)}
    captions = make_captions(n, seed)
    vectors = [sum(words[word] for word in text.split()) / 2 for text in captions.texts[:n]]
    store = EmbeddingStore.create(path, space=space, model="teacher", dim=dim, dtype="float32", normalized=False)
    with store:
        store.append(captions.ids[:n], np.asarray(vectors, dtype=np.float32))
    return EmbeddingStore.open(path)
