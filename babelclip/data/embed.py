"""Captions to vectors on disk: what a student is taught towards is computed once, and never again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from babelclip.data.captions import Captions
from babelclip.models.clip import Clip
from babelclip.progress import progress_bar
from babelclip.store import EmbeddingStore

# Texts encoded between two writes: what an interruption can lose.
_TEXTS_A_SHARD = 8192


def embed_captions(
    clip: Clip,
    captions: Captions,
    path: Path | str,
    *,
    normalize: bool = False,
    dtype: str = "float16",
    progress: bool = False,
) -> EmbeddingStore:
    """Returns the store at `path` with the vector of every caption, encoding those it lacks.

    Run again after an interruption, it goes on behind the last shard. Equal texts are encoded once.

    Args:
        clip: the teacher; its text tower is used.
        captions: rows to encode; vectors are keyed by their ids.
        path: a new folder, or a store of the same model.
        normalize: teacher learning regresses on raw projections, hence False (see docs/architecture.md).
        dtype: "float16" or "float32", as the vectors lie on disk.
        progress: show a bar on stderr.

    Raises:
        BabelclipError: the store at `path` is of another model, space, dimension or dtype.
    """
    with EmbeddingStore.open_or_create(
        path,
        space=clip.space,
        model=clip.name or clip.space,
        dim=clip.embed_dim,
        dtype=dtype,
        normalized=normalize,
        kind="text",
    ) as store:
        ids, texts = captions.ids, captions.texts
        missing = np.flatnonzero(store.find(ids) < 0).tolist()
        with progress_bar("Teacher vectors", len(missing), shown=progress, unit="texts") as advance:
            for start in range(0, len(missing), _TEXTS_A_SHARD):
                part = missing[start : start + _TEXTS_A_SHARD]
                store.append([ids[row] for row in part], encode_distinct(clip, [texts[row] for row in part], normalize))
                advance(len(part))
    return EmbeddingStore.open(path)


def encode_distinct(clip: Clip, texts: Sequence[str], normalize: bool = True) -> np.ndarray:
    """Returns text features (N, D) float32 as `clip.encode_text` does, each distinct text encoded once."""
    first = {text: position for position, text in enumerate(dict.fromkeys(texts))}
    features = clip.encode_text(list(first), normalize)
    return features[[first[text] for text in texts]]
