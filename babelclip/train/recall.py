"""R@k on held-out captions with pictures while a model trains: by language, and its mean over languages.

Entry points: `recall_of` where either tower may move, `seen_by` and `SeenBenchmark.recalls` where pictures stand still.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from babelclip.data.captions import Captions
from babelclip.errors import BabelclipError
from babelclip.evaluate.metrics import recall_at_k
from babelclip.evaluate.relevance import same_group
from babelclip.models.batching import token_batches
from babelclip.models.clip import Clip
from babelclip.models.decoding import DecodedBatches, decoder_pool
from babelclip.models.image import ImageEncoder
from babelclip.models.text import inference, normalize_rows
from babelclip.store import EmbeddingStore
from babelclip.train.pictures import paths_of
from babelclip.train.recipe import Recipe
from babelclip.train.texts import TokenTable, langs_of
from babelclip.train.towers import Pair, is_locked

KS = (1, 5, 10)
_PICTURES_AT_ONCE = 32


@dataclass(frozen=True)
class Benchmark:
    """Held-out captions with pictures.

    Attributes:
        captions: rows with a picture's name in `image`; equal labels are equally relevant.
        paths: where each picture lies, by its name; None: the name is the path.
    """

    captions: Captions
    paths: Mapping[str, Path] | None = None


@dataclass(frozen=True)
class SeenBenchmark:
    """Held-out captions with the vectors of their pictures, which do not change.

    Attributes:
        captions: N texts with their languages.
        vectors: of the pictures (C, D) float32, L2-normalised.
        text_groups, picture_groups: what each caption is relevant to (N,), and what each picture is (C,).
        to_space: raw vectors of the student (N, P) to the space (N, D): identity, or the teacher's projection where
            the student learns pooled targets.
    """

    captions: Captions
    vectors: np.ndarray
    text_groups: np.ndarray
    picture_groups: np.ndarray
    to_space: Callable[[np.ndarray], np.ndarray] = lambda features: features

    def recalls(self, features: np.ndarray) -> dict[str, float]:
        """Returns the figures of `recalls` for the raw vectors (N, P) of the captions."""
        texts = normalize_rows(self.to_space(features))
        return recalls(texts, self.vectors, self.captions.langs, self.text_groups, self.picture_groups)


def seen_by(benchmark: Benchmark, tower: ImageEncoder, *, progress: bool = False) -> SeenBenchmark:
    """Returns the benchmark as a picture tower that stands still sees it, each picture encoded once.

    Raises:
        BabelclipError: a picture is not there, or cannot be read.
    """
    paths = paths_of(benchmark.captions, benchmark.paths)
    lacking = [path for path in paths.values() if not path.is_file()]
    if lacking:
        raise BabelclipError(
            f"{len(lacking)} of {len(paths)} pictures of data.benchmark do not exist, first {lacking[0]}. "
            "The column image is relative to the captions' file: put the pictures there."
        )
    vectors = tower.encode(list(paths.values()), progress=progress)
    return SeenBenchmark(benchmark.captions, vectors, *groups_of(benchmark.captions, list(paths)))


def recall_of(
    benchmark: Benchmark,
    clip: Clip,
    pair: Pair,
    recipe: Recipe,
    image_features: EmbeddingStore | None,
    progress: bool,
) -> Callable[[], dict[str, float]]:
    """Returns a function that measures the pair as it is; what a locked tower gives is computed here, once."""
    captions = benchmark.captions
    paths = paths_of(captions, benchmark.paths)
    pictures: np.ndarray | None = None
    if is_locked(recipe.towers.image):
        if clip.image is not None:
            pictures = clip.image.encode(list(paths.values()), progress=progress)
        else:
            assert image_features is not None  # one of the two is there
            pictures = normalize_rows(image_features.gather(image_features.positions(list(paths))))
    texts = None
    if is_locked(recipe.towers.text) and clip.text is not None:
        texts = clip.text.encode(captions.texts, lang=langs_of(clip.text, captions.langs), progress=progress)
    tokens = (
        None
        if texts is not None or clip.text is None
        else TokenTable.from_texts(clip.text, captions.texts, captions.langs)
    )
    groups = groups_of(captions, list(paths))

    def measure() -> dict[str, float]:
        of_pictures = pictures if pictures is not None else _pictures(pair, list(paths.values()), recipe)
        of_texts = texts
        if of_texts is None:
            assert tokens is not None  # a text tower that moves is there
            of_texts = _texts(pair, tokens, recipe.train.tokens_per_batch)
        return recalls(of_texts, of_pictures, captions.langs, *groups)

    return measure


def recalls(
    texts: np.ndarray,
    pictures: np.ndarray,
    langs: Sequence[str],
    text_groups: np.ndarray,
    picture_groups: np.ndarray,
) -> dict[str, float]:
    """Returns `R@1`, `R@5`, `R@10` text -> image and `i2t R@1` … back, means over languages, and `R@1/sv` and so on.

    Args:
        texts: (N, D), rows of unit length.
        pictures: (C, D), rows of unit length.
        langs: language of each text (N,).
        text_groups: (N,) what each text is relevant to.
        picture_groups: (C,) what each picture is.
    """
    of_lang = np.asarray(langs)
    by_lang: dict[str, dict[str, float]] = {}
    for lang in sorted(set(langs)):
        rows = of_lang == lang
        found = recall_at_k(texts[rows], pictures, same_group(text_groups[rows], picture_groups), KS)
        back = same_group(picture_groups, text_groups[rows])
        found_back = recall_at_k(pictures, texts[rows], back, KS, exclude_unanswerable=True)
        by_lang[lang] = {f"R@{k}": found[f"R@{k}"] for k in KS} | {f"i2t R@{k}": found_back[f"R@{k}"] for k in KS}
    names = list(next(iter(by_lang.values())))
    means = {name: float(np.mean([figures[name] for figures in by_lang.values()])) for name in names}
    return means | {f"R@{k}/{lang}": figures[f"R@{k}"] for lang, figures in by_lang.items() for k in KS}


def groups_of(captions: Captions, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns what each caption is relevant to (N,), and what each of the named pictures is (C,): label, or picture."""
    columns = (captions.table[name].to_pylist() for name in ("image", "label"))
    rows = [(image, image if label is None else f"label {label}") for image, label in zip(*columns, strict=True)]
    of_picture = dict(rows)
    return np.asarray([group for _, group in rows]), np.asarray([of_picture[name] for name in names])


def _texts(pair: Pair, tokens: TokenTable, budget: int) -> np.ndarray:
    def of(rows: np.ndarray) -> Tensor:
        input_ids, mask = tokens.load(rows)
        # Through the pair as a whole: sharded weights are gathered there.
        return pair({"input_ids": input_ids.to(device), "attention_mask": mask.to(device)})[1]  # type: ignore[no-any-return]

    device = pair.log_scale.device
    features: dict[int, np.ndarray] = {}
    with inference(pair):
        for rows in token_batches(tokens.lengths.tolist(), budget):
            features.update(zip(rows.tolist(), of(rows).cpu().numpy(), strict=True))
    return normalize_rows(np.stack([features[row] for row in range(len(tokens.lengths))]))


def _pictures(pair: Pair, paths: Sequence[Path], recipe: Recipe) -> np.ndarray:
    assert pair.image is not None  # a picture tower that moves runs in the steps
    features = []
    with inference(pair), decoder_pool(recipe.data.workers, len(paths)) as pool:
        batches = DecodedBatches(pool, pair.image.preprocess, list(paths), _PICTURES_AT_ONCE)
        for _ in range(-(-len(paths) // _PICTURES_AT_ONCE)):
            _, pixels, unreadable = batches.take()
            if unreadable:
                raise unreadable[0][1]
            batch = torch.from_numpy(np.stack(pixels)).to(pair.log_scale.device)
            features.append(pair({"pixels": batch})[0].cpu().numpy())
    return normalize_rows(np.concatenate(features))
