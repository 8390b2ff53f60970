"""The captions of one shard to vectors: the same captions give the same bits, whoever computes them.

`babelclip embed` writes a store shard by shard, alone (`embed.py`) or with many processes (`babelclip.cluster`), and
both call what is here. Bits depend on which texts are in a batch and on the threads that share a matrix product: so
the new texts of a shard are batched by themselves, and each lane has one thread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from babelclip.data.embed_rows import KnownTexts
from babelclip.data.embed_targets import text_vectors
from babelclip.models.encoding import Device, one_thread_each
from babelclip.models.text import TextEncoder

# Texts given to the model at once: enough to sort by length, few enough for the progress bar to move.
_AT_ONCE = 8192


@dataclasses.dataclass(frozen=True)
class TextSettings:
    """What decides the vector of a text beside the model.

    Attributes:
        target: "projected" or "pooled" (see `embed_targets`).
        normalize: whether rows are scaled to length 1.
        token_budget: most tokens of a padded batch; None: by the kind of the device.
    """

    target: str = "projected"
    normalize: bool = False
    token_budget: int | None = None


def reads_language(tower: TextEncoder) -> bool:
    """Returns whether the vector of a text depends on the language it is said to be in (NLLB)."""
    return tower.tokenizer.language is not None


def encode_new(
    tower: TextEncoder,
    texts: Sequence[str],
    langs: Sequence[str],
    settings: TextSettings,
    *,
    devices: Sequence[Device] | None = None,
    advance: Callable[[int], object] = lambda n: None,
) -> npt.NDArray[np.float32]:
    """Returns the vectors (N, D) float32 of the texts of a shard that come for the first time, in their order.

    Args:
        tower: of the teacher.
        texts: N texts.
        langs: of each.
        settings: see there.
        devices: see `TextEncoder.encode`; how many there are changes nothing but the time.
        advance: told how many texts more are encoded.
    """
    parts = []
    with one_thread_each(tower, devices) as lanes:
        for start in range(0, len(texts), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            lang = langs[part] if reads_language(tower) else None
            parts.append(
                text_vectors(
                    tower,
                    texts[part],
                    target=settings.target,
                    normalize=settings.normalize,
                    lang=lang,
                    token_budget=settings.token_budget,
                    devices=lanes,
                )
            )
            advance(len(parts[-1]))
    return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)


def first_rows(hashes: Sequence[str], known: KnownTexts, start: int) -> npt.NDArray[np.int64]:
    """Returns the row (N,) int64 of the store that has each text first; its own row for a text that is new.

    Args:
        hashes: of the N texts of a shard.
        known: the texts of the shards before it.
        start: row that the first of the N gets.
    """
    first = {hash_: place for place, hash_ in reversed(list(enumerate(hashes)))}
    distinct = list(first)
    found = known.find(distinct)
    rows = {
        hash_: row if row >= 0 else start + first[hash_] for hash_, row in zip(distinct, found.tolist(), strict=True)
    }
    return np.fromiter((rows[hash_] for hash_ in hashes), np.int64, len(hashes))


def is_new(first: npt.NDArray[np.int64], start: int) -> npt.NDArray[np.bool_]:
    """Returns which (N,) of the rows of a shard that begins at row `start` have a text that no earlier row has."""
    own: npt.NDArray[np.bool_] = first == np.arange(start, start + len(first))
    return own


def own_vectors(vectors: npt.NDArray[np.float32], first: npt.NDArray[np.int64], start: int) -> npt.NDArray[np.float32]:
    """Returns the vectors (H, D) of the rows of a shard whose text no earlier shard has, in order of the rows.

    Args:
        vectors: of the new texts (M, D), in their order.
        first: (N,), see `first_rows`.
        start: row of the first of the N.
    """
    new = start + np.flatnonzero(is_new(first, start))
    return vectors[np.searchsorted(new, first[first >= start])]


def with_repeats(
    vectors: npt.NDArray[np.float32],
    first: npt.NDArray[np.int64],
    start: int,
    gather: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]],
) -> npt.NDArray[np.float32]:
    """Returns the vectors (N, D) of all rows of a shard; see `own_vectors`.

    Args:
        vectors: as there, and so are the two that follow.
        first: (N,) rows.
        start: a row.
        gather: reads rows of earlier shards; not called where none is needed.
    """
    own, earlier = own_vectors(vectors, first, start), first < start
    if not earlier.any():
        return own
    old = gather(first[earlier])
    whole = np.empty((len(first), old.shape[1]), np.float32)
    whole[earlier] = old
    if len(own):
        whole[~earlier] = own
    return whole
