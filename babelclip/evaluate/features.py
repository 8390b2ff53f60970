"""Pictures of a benchmark to vectors: each encoded once a model, whatever the number of languages and of runs.

Vectors are kept in an `EmbeddingStore` in the user's cache, one store for everything that decides on them: the weights,
head and preprocessing of the picture tower, its precision and device, and Pillow's version. Within it a picture is
known by its `content_key` (file, size, time of change), so data sets that share files share vectors, and a run that was
stopped goes on where it was. Several models of one call are served by one decoding of each picture.

Entry points: `encode_pictures`, `tower_key`. Legend: N pictures of a set, M of them readable, D embed_dim.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from babelclip.errors import BabelclipError
from babelclip.models.clip import Clip
from babelclip.progress import Advance, progress_bar
from babelclip.store import EmbeddingStore

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from torch import nn

    from babelclip.evaluate.benchmarks.sets import Pictures
    from babelclip.models.image import ImageEncoder
    from babelclip.models.preprocess import Preprocess

_log = logging.getLogger(__name__)

# Raised when the code computes other vectors from the same weights and pixels.
_VERSION = 1
# Pictures between two writes: what an interruption can lose.
_BLOCK = 512
_FOLDER = "evaluate"


@dataclass(frozen=True)
class Encoded:
    """The pictures of a set as one model sees them.

    Attributes:
        features: (M, D) float32, rows L2-normalised.
        kept: (M,) positions in the set of the pictures that could be read, ascending.
        skipped: why each of the others could not be read, by its position.
        encoded: how many were encoded now; the others came from the cache.
        seconds: what decoding and encoding took in this call, shared by all of its models.
    """

    features: npt.NDArray[np.float32]
    kept: npt.NDArray[np.int64]
    skipped: dict[int, str]
    encoded: int
    seconds: float

    def notes(self) -> list[str]:
        """Returns what results say of pictures that could not be read."""
        if not self.skipped:
            return []
        first = next(iter(self.skipped.values()))
        return [f"{len(self.skipped)} pictures could not be read and were skipped, the first: {first}"]


def encode_pictures(
    clips: Sequence[Clip],
    pictures: Pictures,
    *,
    cache: Path | None = None,
    workers: int = 0,
    batch_size: int = 32,
    strict: bool = False,
    progress: bool = False,
) -> list[Encoded]:
    """Returns the vectors of a set's pictures for each model, encoding those that the cache lacks.

    Args:
        clips: models with picture towers.
        pictures: N pictures that nobody has opened.
        cache: folder of caches, usually `files.cache_folder()`; None keeps nothing.
        workers: processes that decode; 0 does so in threads.
        batch_size: pictures a forward pass.
        strict: a picture that cannot be read is an error, not a counted skip.
        progress: show a bar on stderr.

    Raises:
        BabelclipError: there are no pictures, none can be read, a model has no picture tower, or, with `strict`, one
            picture cannot be read.
    """
    from babelclip.models.decoding import decoder_pool

    if not len(pictures):
        raise BabelclipError("There are 0 pictures to encode; a benchmark needs one at least. Check its folder.")
    towers = [clip.image_tower() for clip in clips]
    start, keys = perf_counter(), _content_keys(pictures)
    with contextlib.ExitStack() as stack:
        # Two names of one model, or two students that share their teacher's pictures, are encoded once.
        shelves: dict[str, _Shelf] = {}
        names = [tower_key(tower, clip.space) for tower, clip in zip(towers, clips, strict=True)]
        for name, clip, tower in zip(names, clips, towers, strict=True):
            if name not in shelves:
                shelves[name] = stack.enter_context(_shelf(cache, name, clip.space, tower, keys))
        # By content, so that a file that a set holds under two ids is encoded once.
        sources = {
            key: source
            for key, source in zip(keys, pictures.sources, strict=True)
            if any(key not in shelf.known for shelf in shelves.values())
        }
        pool = stack.enter_context(decoder_pool(workers, len(sources)))
        advance = stack.enter_context(progress_bar("Pictures", len(sources), shown=progress, unit="pictures"))
        reasons: dict[str, str] = {}
        for first in range(0, len(sources), _BLOCK):
            block = dict(list(sources.items())[first : first + _BLOCK])
            reasons |= _encode_block(list(shelves.values()), block, pool, batch_size, advance)
            if strict and reasons:
                raise BabelclipError(next(iter(reasons.values())))
        return [shelves[name].encoded(keys, reasons, perf_counter() - start) for name in names]


def tower_key(tower: ImageEncoder, space: str) -> str:
    """Returns the name of what decides on a picture's vector: equal names mean equal vectors of equal pictures."""
    import PIL

    weight = next(tower.parameters())
    config: Any = getattr(tower.backbone, "config", None)
    facts = {
        "version": _VERSION,
        "space": space,
        "weights": weights_checksum(tower),
        "backbone": config.to_dict() if hasattr(config, "to_dict") else str(config),
        "head": tower.head_layers,
        "preprocess": dataclasses.asdict(tower.preprocess),
        "dtype": str(weight.dtype),
        "device": weight.device.type,
        "pillow": PIL.__version__,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:24]


def weights_checksum(module: nn.Module) -> str:
    """Returns the SHA-256 of names, shapes, types and values of all weights of a module."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):
            continue
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass
class _Shelf:
    """Vectors of one tower by content: those that were there, and those that came, written as they come."""

    tower: ImageEncoder
    known: dict[str, npt.NDArray[np.float32]]
    store: EmbeddingStore | None
    new: int = 0

    def put(self, keys: Sequence[str], rows: npt.NDArray[np.float32]) -> None:
        """Takes raw vectors (N, D) of pictures that it lacks; after this they survive a kill."""
        if keys and self.store is not None:
            self.store.append(keys, rows)
        self.known.update(zip(keys, rows, strict=True))
        self.new += len(keys)

    def encoded(self, keys: Sequence[str], reasons: dict[str, str], seconds: float) -> Encoded:
        """Returns the pictures of a set, in its order, out of what is known by now.

        Raises:
            BabelclipError: none of them could be read.
        """
        from babelclip.models.text import normalize_rows

        kept = np.array([at for at, key in enumerate(keys) if key in self.known], dtype=np.int64)
        skipped = {at: reasons[key] for at, key in enumerate(keys) if key not in self.known}
        if not len(kept):
            raise BabelclipError(
                f"None of the {len(keys)} pictures can be read; the first: {next(iter(skipped.values()))} Give the "
                "folder that they lie in."
            )
        features = normalize_rows(np.stack([self.known[keys[at]] for at in kept]))
        return Encoded(features, kept, skipped, self.new, seconds)


@contextlib.contextmanager
def _shelf(cache: Path | None, name: str, space: str, tower: ImageEncoder, keys: Sequence[str]) -> Iterator[_Shelf]:
    if cache is None:
        yield _Shelf(tower, {}, None)
        return
    path = cache / _FOLDER / name
    known = _known(path, keys)
    if all(key in known for key in keys):
        yield _Shelf(tower, known, None)
        return
    try:
        store = EmbeddingStore.open_or_create(
            path, space=space, model=name, dim=tower.embed_dim, dtype="float32", normalized=False, kind="image"
        )
    except BabelclipError as error:
        # Another run of the same model writes it. This one's figures do not depend on the cache.
        _log.warning("vectors of this run are not kept: %s", error)
        yield _Shelf(tower, known, None)
        return
    with store:
        yield _Shelf(tower, {**known, **_rows_of(store, keys)}, store)


def _known(path: Path, keys: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:
    try:
        return _rows_of(EmbeddingStore.open(path), keys)
    except BabelclipError:
        return {}  # not there yet, or damaged: then whoever opens it for writing says so


def _rows_of(store: EmbeddingStore, keys: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:
    wanted = list(dict.fromkeys(keys))
    found = store.find(wanted)
    there = np.flatnonzero(found >= 0)
    rows = store.gather(found[there])
    return {wanted[place]: row for place, row in zip(there.tolist(), rows, strict=True)}


def _encode_block(
    shelves: Sequence[_Shelf], block: dict[str, Any], pool: Executor, batch_size: int, advance: Advance
) -> dict[str, str]:
    """Puts the vectors of some pictures, source by key, on the shelves that lack them; returns why some could not be.

    A picture is decoded once for all shelves. One that only some models can take is named too.
    """
    from babelclip.models.decoding import DecodedBatches
    from babelclip.models.encoding import in_lanes, inference

    keys = list(block)
    wanting = [(shelf, {at for at, key in enumerate(keys) if key not in shelf.known}) for shelf in shelves]
    wanting = [(shelf, places) for shelf, places in wanting if places]
    rules = tuple(dict.fromkeys(shelf.tower.preprocess for shelf, _ in wanting))
    features = [np.zeros((len(keys), shelf.tower.embed_dim), dtype=np.float32) for shelf, _ in wanting]
    failed: list[dict[int, str]] = [{} for _ in wanting]
    batches = DecodedBatches(pool, rules[0], list(block.values()), batch_size, functools.partial(_read, rules))

    def work(_lane: object, _batch: int) -> None:
        positions, read, unreadable = batches.take()
        for number, (shelf, places) in enumerate(wanting):
            rule = rules.index(shelf.tower.preprocess)
            pixels = {at: of[rule] for at, of in zip(positions, read, strict=True) if at in places}
            failed[number].update((at, str(error)) for at, error in unreadable)
            failed[number].update((at, of) for at, of in pixels.items() if isinstance(of, str))
            good = {at: of for at, of in pixels.items() if not isinstance(of, str)}
            if good:
                features[number][list(good)] = _forward(shelf.tower, list(good.values()))
        advance(len(positions) + len(unreadable))

    with contextlib.ExitStack() as stack:
        for shelf, _ in wanting:
            stack.enter_context(inference(shelf.tower))
        in_lanes(work, range(-(-len(keys) // batch_size)), [wanting[0][0].tower])
    for number, (shelf, places) in enumerate(wanting):
        good = sorted(places - failed[number].keys())
        shelf.put([keys[at] for at in good], features[number][good])
    return {keys[at]: reason for of_one in failed for at, reason in of_one.items()}


def _read(rules: tuple[Preprocess, ...], _first: Preprocess, picture: Any) -> Any:
    """Returns the pixels of a picture under each rule, or why one cannot take it; decodes it once."""
    from babelclip.models.preprocess import PictureError, open_picture

    opened = open_picture(picture)
    made: list[Any] = []
    for rule in rules:
        try:
            made.append(rule(opened))
        except PictureError as error:
            made.append(str(error))
    return made


def _forward(tower: ImageEncoder, pixels: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    import torch

    weight = next(tower.parameters())
    batch = torch.from_numpy(np.stack(list(pixels))).to(weight.device, weight.dtype)
    return np.asarray(tower(batch).float().cpu().numpy())


def _content_keys(pictures: Pictures) -> list[str]:
    """Returns the content key of each picture; one whose file is not there gets a key that no store holds."""
    keys = []
    for position, name in enumerate(pictures.ids):
        try:
            keys.append(pictures.content_key(position))
        except OSError:
            keys.append(f"absent: {name}")  # what opens it says why
    return keys
