"""Image-caption selection: pictures and captions that differ in a word or in its order (Winoground, SugarCrepe).

An item has I pictures and at least as many captions; the i-th picture belongs to the i-th caption. As in
clip_benchmark:

* `text_acc` (Winoground's text score): **every** picture of the item is nearest to its own caption.
* `image_acc` (image score): every caption that has a picture is nearest to it. With one picture it is always 1, and is
  left out.
* `acc` (group score): both.

Items are right or wrong; where the own caption shares the top with others, the item counts with the chance of a random
choice among them. Entry points: `item_scores`, `evaluate_selection`. Legend: N items, I pictures and T captions each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from babelclip.errors import BabelclipError
from babelclip.evaluate.hits import pack_hits
from babelclip.evaluate.metrics import TIE_TOLERANCE, bootstrap_interval
from babelclip.evaluate.result import RunFacts, build_result
from babelclip.evaluate.texts import declares, encoder_in, language_notes

if TYPE_CHECKING:
    from babelclip.evaluate.benchmarks.sets import SelectionSet

FloatArray = npt.NDArray[np.floating[Any]]


def item_scores(cosines: npt.ArrayLike) -> dict[str, float]:
    """Returns `text_acc`, `image_acc` and `acc` of one item, from 0 to 1; without `image_acc` where I is 1.

    >>> item_scores([[0.3, 0.2], [0.1, 0.4]])
    {'text_acc': 1.0, 'image_acc': 1.0, 'acc': 1.0}

    Args:
        cosines: (I, T) of its pictures and captions.

    Raises:
        BabelclipError: there are fewer captions than pictures, or one caption only.
    """
    scores = np.asarray(cosines, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] < max(scores.shape[0], 2) or not len(scores):
        raise BabelclipError(
            f"An item has cosines of shape {scores.shape}; selection needs one picture at least, two captions at "
            "least, and a caption for each picture."
        )
    text = _all_on_top(scores)
    if len(scores) == 1:
        return {"text_acc": text, "acc": text}
    image = _all_on_top(scores.T[: len(scores)])
    return {"text_acc": text, "image_acc": image, "acc": text * image}


def _all_on_top(scores: npt.NDArray[np.float64]) -> float:
    """Returns the chance that every row (R, C) chooses its own column, the r-th, among its highest."""
    own = np.diagonal(scores)[:, None]
    if (scores > own + TIE_TOLERANCE).any():
        return 0.0
    return float(np.prod(1 / (scores >= own - TIE_TOLERANCE).sum(axis=1)))


def evaluate_selection(
    model: Any,
    benchmark: SelectionSet,
    image_features: npt.ArrayLike,
    *,
    facts: RunFacts,
    kept: Sequence[int] | npt.NDArray[np.int64] | None = None,
    image_seconds: float = 0.0,
    notes: Sequence[str] = (),
    advance: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Returns the one result of the task `image_caption_selection`.

    Items without one of their pictures are left out and counted. Where the benchmark has subsets, their figures stand
    beside as `acc/NAME`, and `acc_mean` is the mean over them, as SugarCrepe's table has it.

    Args:
        model: a `Clip`, or anything with `encode_text`.
        benchmark: items.
        image_features: (M, D), rows L2-normalised, of the pictures that could be read.
        facts: what the result states of model and run.
        kept: (M,) their positions in the set; None: all of its pictures.
        image_seconds: what encoding the pictures took.
        notes: added to the result.
        advance: is called with 1 at the end.

    Raises:
        BabelclipError: no item has all of its pictures, or shapes do not fit.
    """
    features, positions = benchmark.pictures.kept_features(image_features, kept)
    start = time.perf_counter()
    row_of = {position: row for row, position in enumerate(positions.tolist())}
    items = [item for item in benchmark.items if all(picture in row_of for picture in item.pictures)]
    if not items:
        raise BabelclipError(
            f"None of the {len(benchmark.items)} items of {benchmark.name} has all of its pictures. Check their folder."
        )
    place = {text: row for row, text in enumerate(dict.fromkeys(text for item in items for text in item.captions))}
    texts = encoder_in(model, benchmark.language)(list(place))
    scores = [
        item_scores(
            features[[row_of[picture] for picture in item.pictures]] @ texts[[place[text] for text in item.captions]].T
        )
        for item in items
    ]
    names = [name for name in ("text_acc", "image_acc", "acc") if all(name in score for score in scores)]
    columns = {name: np.array([score[name] for score in scores]) for name in names}
    intervals = {name: [float(end) for end in bootstrap_interval(c, seed=facts.seed)] for name, c in columns.items()}
    covered = declares(model, benchmark.language)
    lost = len(benchmark.items) - len(items)
    if advance is not None:
        advance(1)
    return [
        build_result(
            "image_caption_selection",
            facts,
            language=benchmark.language,
            metrics={name: float(column.mean()) for name, column in columns.items()}
            | _by_subset(items, columns["acc"]),
            intervals=intervals,
            declared=covered,
            seconds=time.perf_counter() - start,
            seconds_images=round(image_seconds, 3),
            notes=[
                *notes,
                *([f"{lost} items lost a picture and were left out"] if lost else []),
                *language_notes(benchmark.language, covered),
            ],
            n_items=len(items),
            n_images=len({picture for item in items for picture in item.pictures}),
            n_captions=len(place),
            per_query=pack_hits(columns, queries=[" | ".join(item.captions) for item in items]),
        )
    ]


def _by_subset(items: Sequence[Any], acc: FloatArray) -> dict[str, float]:
    subsets = np.array([item.subset for item in items])
    names = sorted(set(subsets.tolist()) - {""})
    means = {f"acc/{name}": float(acc[subsets == name].mean()) for name in names}
    return {**means, "acc_mean": float(np.mean(list(means.values())))} if len(names) > 1 else {}
