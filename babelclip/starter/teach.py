"""How the starter's student is taught: a closed-form head first, then the upper layers.

1. The layers below the trained ones run once over all training texts; their states are kept (`train/frozen.py`).
2. A ridge head is fitted on the frozen backbone: the best linear map, in seconds.
3. The upper layers and the head are trained towards the teacher's vectors (`train/distill.py`).

Entry points: `recipe_for`, `teach`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from babelclip.data.captions import Captions
from babelclip.models.text import TextEncoder
from babelclip.store import EmbeddingStore
from babelclip.train.distill import DistillResult, distill
from babelclip.train.frozen import FrozenStates, upper_pooled
from babelclip.train.recipe import Recipe, load_recipe
from babelclip.train.ridge import fit_ridge, set_linear_head
from babelclip.train.texts import TokenTable
from babelclip.train.trainable import encoder_layers

Head = tuple[np.ndarray, np.ndarray]
# Texts that the closed form is fitted on; twice as many gain a point in English, nothing elsewhere (docs/log.md).
_RIDGE_ROWS = 16_000


@dataclasses.dataclass(frozen=True)
class Taught:
    """What teaching did; the student was changed in place.

    Attributes:
        ridge: matrix (D, H) and bias (D,) of the closed-form head on the frozen backbone.
        first_layer: the first layer that was trained; those below are as they were.
        run: the teacher learning.
        seconds: by step.
    """

    ridge: Head
    first_layer: int
    run: DistillResult
    seconds: dict[str, float]


def recipe_for(seed: int = 0) -> Recipe:
    """Returns the recipe of the demo (`starter/recipe.toml`) with a seed."""
    path = Path(str(resources.files("babelclip.starter").joinpath("recipe.toml")))
    return load_recipe(path, [f"train.seed={seed}"])


def teach(
    student: TextEncoder,
    captions: Captions,
    targets: EmbeddingStore,
    recipe: Recipe,
    out: Path,
    *,
    weights: np.ndarray,
    validation: Captions | None = None,
    regularisation: float = 1e-2,
    progress: bool = True,
    say: Callable[[str], None] = lambda _line: None,
) -> Taught:
    """Teaches `student` the vectors in `targets`, in place; a run that was stopped goes on where it was.

    Args:
        student: with a linear head, whose content is replaced.
        captions: training texts; the target of a row is the vector of its `source_id`, or of its own id.
        targets: the teacher's raw vectors.
        recipe: `student.trainable` must name upper layers, for example "last 4 layers".
        out: folder of the run.
        weights: importance of each caption (N,), for the closed form and as times an epoch for the training.
        validation: held-out captions.
        regularisation: of the ridge heads.
        progress: show bars on stderr.
        say: is told what is done.

    Raises:
        KeyboardInterrupt: the training was stopped by a signal; it is saved, and the next call goes on.
    """
    seconds: dict[str, float] = {}
    # Rows of weight 0 are there for their vector alone.
    captions = dataclasses.replace(captions, table=captions.table.filter(weights > 0))
    weights = weights[weights > 0]
    first_layer = first_trained_layer(student, recipe)
    start = time.perf_counter()
    tokens = TokenTable.from_texts(student, captions.texts)
    # The same folder and settings as `distill` uses, so that it finds these states.
    states = FrozenStates.build(
        student,
        tokens,
        first_layer,
        dtype=recipe.student.cache,
        folder=out / "states" / "train",
        token_budget=recipe.train.tokens_per_batch,
        progress=progress,
    )
    seconds["layers that stay, over all training texts"] = time.perf_counter() - start

    start = time.perf_counter()
    vectors = targets.gather(targets.positions(sources_of(captions)))
    some = np.sort(np.random.default_rng(recipe.train.seed).permutation(len(captions))[:_RIDGE_ROWS])
    pooled = upper_pooled(student, states, first_layer, recipe.train.tokens_per_batch, chosen=some)
    ridge = fit_ridge(pooled, vectors[some], weights[some], regularisation)
    set_linear_head(student, *ridge)
    seconds["closed-form head"] = time.perf_counter() - start
    say(f"closed-form head fitted on {len(some):,} of {len(captions):,} texts")

    start = time.perf_counter()
    run = distill(
        student, captions, targets, recipe, out, validation=validation, resume=True, weights=weights, progress=progress
    )
    seconds["teacher learning"] = time.perf_counter() - start
    if run.run.status == "interrupted":
        # The loop has saved; what follows would show a student that is half taught.
        raise KeyboardInterrupt
    return Taught(ridge, first_layer, run, seconds)


def first_trained_layer(student: TextEncoder, recipe: Recipe) -> int:
    """Returns the index of the first layer that `recipe.student.trainable` ("last N layers") trains."""
    from babelclip.train.trainable import trained_layers

    count = len(encoder_layers(student.backbone))
    trained = trained_layers(recipe.student.trainable, count, "student.trainable")
    return 0 if trained is None else count - trained


def sources_of(captions: Captions) -> list[str]:
    """Returns for each caption the id whose vector is its target: the source's, or its own where it has none."""
    sources = captions.table.column("source_id").to_pylist()
    return [own if source is None else source for own, source in zip(captions.ids, sources, strict=True)]


def random_head(student: TextEncoder, seed: int) -> Head:
    """Returns a random linear map (D, H), (D,): the student before it was taught anything."""
    generator = torch.Generator().manual_seed(seed)
    layer = student.head[0]
    shape = tuple(layer.weight.shape) if isinstance(layer, torch.nn.Linear) else (student.embed_dim, student.embed_dim)
    return torch.randn(shape, generator=generator).numpy(), np.zeros(shape[0], dtype=np.float32)
