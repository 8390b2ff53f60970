"""How unrelated queries score in a collection: what a score must be compared with.

Cosines of texts with pictures lie around 0.2, of pictures with pictures around 0.6, and both shift from model to model
and from collection to collection, so there is no least score for all (specs/search-and-serving.md section 8). Measured
are the scores of 64 texts in many languages, and of pictures of the collection, against a sample of its pictures; kept
beside the collection for each encoder, and measured anew when it has grown or shrunk by a quarter.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from babelclip.errors import BabelclipError
from babelclip.files import read_json, write_json
from babelclip.models.clip import Clip
from babelclip.models.quantize import probe_texts
from babelclip.search.collection import Collection
from babelclip.search.columns import VECTOR, vectors_of
from babelclip.search.index_state import state_folder
from babelclip.search.near_duplicates import LEAST_COSINE

# Pictures that are scored, and of these how many are queries too.
_SAMPLE, _PICTURE_QUERIES = 2000, 200
_QUANTILES = (0.5, 0.9, 0.99, 0.999, 0.9999)
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Spread:
    """Scores of unrelated queries of one kind.

    Attributes:
        mean: of the cosines.
        std: their standard deviation.
        quantiles: share -> cosine that so many lie below.
    """

    mean: float
    std: float
    quantiles: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Background:
    """Scores of unrelated queries in one collection, by one encoder.

    Attributes:
        text: of texts.
        image: of pictures.
        rows: of the collection when it was measured.
        encoder: name of the model.
    """

    text: Spread
    image: Spread
    rows: int
    encoder: str

    def of(self, parts: Sequence[tuple[str, float]]) -> tuple[float, float]:
        """Returns mean and standard deviation of the scores of a weighted sum, its terms taken as independent.

        Args:
            parts: (kind, share) of each term, as `query.QueryVector` has them.
        """
        spreads = {"text": self.text, "image": self.image}
        mean = sum(share * spreads[kind].mean for kind, share in parts)
        variance = sum((share * spreads[kind].std) ** 2 for kind, share in parts)
        return float(mean), float(max(variance, 1e-12) ** 0.5)


def background(collection: Collection, clip: Clip) -> Background:
    """Returns how unrelated queries of a model score in a collection, from what is kept, or measured now."""
    kept = known_background(collection, clip)
    if kept is not None:
        return kept
    measured = measure_background(collection, clip)
    file = _file(collection, clip)
    with contextlib.suppress(OSError):  # a collection that may only be read
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"version": _VERSION, **dataclasses.asdict(measured)})
    return measured


def known_background(collection: Collection, clip: Clip) -> Background | None:
    """Returns what `background` has kept; None where it would measure."""
    file = _file(collection, clip)
    kept = _read(str(file), file.stat().st_mtime_ns) if file.is_file() else None
    return kept if kept is not None and 0.8 * kept.rows <= collection.count() <= 1.25 * kept.rows else None


def _file(collection: Collection, clip: Clip) -> Path:
    return state_folder(collection.url) / f"background-{_key(clip)}.json"


def measure_background(collection: Collection, clip: Clip) -> Background:
    """Returns scores of unrelated queries, measured; the same collection gives the same numbers.

    Raises:
        BabelclipError: the collection is empty.
    """
    vectors = _sample(collection)
    if not len(vectors):
        raise BabelclipError(f"{collection.name} is empty, so no score can be compared. Index some pictures first.")
    texts = clip.encode_text(probe_texts())
    queries = vectors[:_PICTURE_QUERIES]
    cosines = queries @ vectors.T
    # A picture is related to itself and to its near duplicates.
    others = cosines[cosines < LEAST_COSINE]
    return Background(
        _spread(texts @ vectors.T),
        _spread(others if len(others) > 1 else cosines),
        collection.count(),
        clip.name or clip.space,
    )


def _sample(collection: Collection) -> npt.NDArray[np.float32]:
    """Returns (n, D) vectors of up to 2,000 pictures: those of the smallest hashes of ids, so always the same."""
    best: list[tuple[bytes, str]] = []
    for batch in collection.scan(batch_rows=1 << 14):
        best += ((hashlib.blake2b(name.encode(), digest_size=8).digest(), name) for name in batch["id"].to_pylist())
        best = sorted(best)[:_SAMPLE]
    if not best:
        return np.zeros((0, collection.fingerprint.dim), np.float32)
    vectors = vectors_of(collection.get([name for _hash, name in best], with_vectors=True)[VECTOR])
    return vectors[np.isfinite(vectors).all(axis=1)]  # folders of others may hold what is no number


def _spread(cosines: npt.NDArray[np.float32]) -> Spread:
    values = cosines.reshape(-1).astype(np.float64)
    quantiles = {str(share): round(float(np.quantile(values, share)), 6) for share in _QUANTILES}
    return Spread(round(float(values.mean()), 6), round(float(max(values.std(), 1e-6)), 6), quantiles)


def _key(clip: Clip) -> str:
    facts: list[Any] = [clip.space, clip.name, clip.revision, clip.embed_dim]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


@functools.lru_cache(maxsize=64)
def _read(file: str, _changed: int) -> Background | None:
    try:
        content = read_json(Path(file))
        if content.pop("version") != _VERSION:
            return None
        return Background(**{**content, "text": Spread(**content["text"]), "image": Spread(**content["image"])})
    except (BabelclipError, KeyError, TypeError, AttributeError):
        return None  # damaged: it is measured anew
