"""R@k while a student learns: held-out captions with pictures, seen by the teacher's picture tower once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from babelclip.data.captions import Captions
from babelclip.data.sources import image_root, read_all
from babelclip.errors import BabelclipError
from babelclip.evaluate.metrics import recall_at_k, same_group
from babelclip.models.image import ImageEncoder
from babelclip.models.text import normalize_rows

_KS = (1, 5, 10)


class Benchmark(NamedTuple):
    """Captions of pictures, and the unit vectors of the pictures.

    Attributes:
        captions: N texts with their languages.
        pictures: place of each caption's picture (N,).
        vectors: (C, D) float32, L2-normalised.
        to_space: raw vectors of the student (N, P) to the space (N, D): identity, or the teacher's projection where
            the student learns pooled targets.
    """

    captions: Captions
    pictures: npt.NDArray[np.int64]
    vectors: np.ndarray
    to_space: Callable[[np.ndarray], np.ndarray]


def open_benchmark(
    paths: Sequence[str],
    tower: ImageEncoder,
    to_space: Callable[[np.ndarray], np.ndarray] = lambda features: features,
    *,
    progress: bool = False,
) -> Benchmark:
    """Returns the captions in files, and the vectors of their pictures, each encoded once.

    Args:
        paths: captions with an `image` column, relative to the file.
        tower: the teacher's picture tower.
        to_space: see `Benchmark`.
        progress: show a bar on stderr.

    Raises:
        BabelclipError: a caption has no picture, or a picture cannot be read.
    """
    parts = [read_all(path).require_images() for path in paths]
    files = [image_root(path) / image for path, part in zip(paths, parts, strict=True) for image in _images(part)]
    distinct = list(dict.fromkeys(files))
    lacking = [file for file in distinct if not Path(file).is_file()]
    if lacking:
        raise BabelclipError(
            f"{len(lacking)} of {len(distinct)} pictures of data.benchmark do not exist, first {lacking[0]}. "
            "The column image is relative to the captions' file: put the pictures there."
        )
    place = {file: number for number, file in enumerate(distinct)}
    vectors = normalize_rows(tower.encode(distinct, progress=progress))
    return Benchmark(Captions.concat(parts), np.asarray([place[file] for file in files]), vectors, to_space)


def recalls(benchmark: Benchmark, features: np.ndarray) -> dict[str, float]:
    """Returns R@1, R@5, R@10 from text to picture as a mean over languages, and `R@1/sv` and so on by language.

    Args:
        benchmark: what `features` were computed for.
        features: the student's raw vectors (N, P) of its captions.
    """
    vectors = normalize_rows(benchmark.to_space(features))
    langs = np.asarray(benchmark.captions.langs)
    everything = np.arange(len(benchmark.vectors))
    figures: dict[str, float] = {}
    for lang in sorted(set(langs.tolist())):
        rows = langs == lang
        relevant = same_group(benchmark.pictures[rows], everything)
        found = recall_at_k(vectors[rows], benchmark.vectors, relevant, _KS)
        figures |= {f"R@{k}/{lang}": found[f"R@{k}"] for k in _KS}
    count = len(set(langs.tolist()))
    means = {f"R@{k}": sum(v for name, v in figures.items() if name.startswith(f"R@{k}/")) / count for k in _KS}
    return means | figures


def _images(captions: Captions) -> list[str]:
    names: list[str] = captions.table.column("image").to_pylist()
    return names
