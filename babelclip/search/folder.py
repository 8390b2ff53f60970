"""Search in a folder of pictures: encode each picture once, keep its vector, rank by cosine.

The vectors lie in an `EmbeddingStore` in the user's cache, one store for each pair of folder and embedding space. A
picture is known by its path, size and time of change, so a second search encodes only what is new, and a search that
was interrupted goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from babelclip.data.images import list_pictures
from babelclip.errors import BabelclipError
from babelclip.files import cache_folder
from babelclip.models.clip import Clip
from babelclip.models.decoding import EncodeReport, decoder_pool
from babelclip.models.image import SkippedPicture
from babelclip.progress import progress_bar
from babelclip.storage import shadow
from babelclip.store import EmbeddingStore

# Pictures encoded between two writes: what an interruption can lose.
_PICTURES_A_SHARD = 256


@dataclass(frozen=True)
class Hit:
    """One result: a picture and its cosine with the query."""

    path: Path
    score: float


@dataclass(frozen=True)
class FolderIndex:
    """The readable pictures of a folder with their vectors.

    Attributes:
        paths: the pictures, C of them.
        features: (C, D) float32, rows L2-normalised.
        skipped: pictures that could not be read, with the reason.
        encoded: how many of `paths` were encoded now; the others came from the cache.
        report: speed of the encoding, and whether decoding or the model was the limit; None where nothing was encoded.
    """

    paths: list[Path]
    features: np.ndarray
    skipped: list[SkippedPicture]
    encoded: int
    report: EncodeReport | None = None


def index_folder(
    clip: Clip, folder: Path | str, *, cache: Path | None = None, workers: int = 0, progress: bool = False
) -> FolderIndex:
    """Returns vectors for every readable picture below `folder`, encoding those that the cache lacks.

    Args:
        clip: a model with a picture tower.
        folder: searched recursively.
        cache: where vectors are kept; None takes `cache_folder()`.
        workers: processes that decode; 0 does so in threads.
        progress: show a bar on stderr.

    Raises:
        BabelclipError: the folder is missing, holds no picture, or none that can be read.
    """
    folder, tower = shadow(folder).expanduser().resolve(), clip.image_tower()
    paths = list_pictures(folder)
    keys = [_key(path, folder) for path in paths]
    skipped: list[SkippedPicture] = []
    reports: list[EncodeReport] = []
    with _open_store(clip, folder, cache or cache_folder()) as store:
        missing = np.flatnonzero(store.find(keys) < 0).tolist()
        with (
            decoder_pool(workers, len(missing)) as pool,
            progress_bar("Pictures", len(missing), shown=progress, unit="pictures") as advance,
        ):

            def encode(paths: list[Path]) -> tuple[np.ndarray, list[SkippedPicture]]:
                return tower.encode_readable(paths, workers=workers, report=reports.append, pool=pool)

            for start in range(0, len(missing), _PICTURES_A_SHARD):
                part = missing[start : start + _PICTURES_A_SHARD]
                skipped += _encode_into(encode, store, [paths[i] for i in part], [keys[i] for i in part])
                advance(len(part))
        unreadable = {item.name for item in skipped}
        kept = [position for position, path in enumerate(paths) if str(path) not in unreadable]
        if not kept:
            raise BabelclipError(
                f"None of the {len(paths)} pictures in {folder} can be read; the first: {skipped[0].reason} "
                "Give a folder with whole pictures."
            )
        features = store.gather(store.positions([keys[i] for i in kept]))
    encoded = len(missing) - len(skipped)
    report = sum(reports[1:], reports[0]) if reports else None
    return FolderIndex([paths[i] for i in kept], features, skipped, encoded, report)


def search_folder(clip: Clip, index: FolderIndex, queries: Sequence[str], k: int = 10) -> list[list[Hit]]:
    """Returns the best `k` pictures of each query, best first."""
    scores, indices = clip.rank(queries, index.features, k)
    return [
        [Hit(index.paths[position], float(score)) for score, position in zip(row_scores, row, strict=True)]
        for row_scores, row in zip(scores, indices, strict=True)
    ]


def _key(path: Path, folder: Path) -> str:
    """Returns what a picture is known by in the cache: it changes when the file does."""
    facts = path.stat()
    return f"{path.relative_to(folder)}|{facts.st_size}|{facts.st_mtime_ns}"


def _open_store(clip: Clip, folder: Path, cache: Path) -> EmbeddingStore:
    name = hashlib.sha256(f"{clip.space}\n{folder}".encode()).hexdigest()[:20]
    return EmbeddingStore.open_or_create(
        cache / "folders" / name,
        space=clip.space,
        model=clip.space,
        dim=clip.embed_dim,
        dtype="float32",
        normalized=True,
        kind="image",
    )


def _encode_into(
    encode: Callable[[list[Path]], tuple[np.ndarray, list[SkippedPicture]]],
    store: EmbeddingStore,
    paths: list[Path],
    keys: list[str],
) -> list[SkippedPicture]:
    """Encodes pictures, appends them as one shard, and returns those that could not be read."""
    features, skipped = encode(paths)
    unreadable = {item.position for item in skipped}
    readable = [key for position, key in enumerate(keys) if position not in unreadable]
    if readable:
        store.append(readable, features)
    return skipped
