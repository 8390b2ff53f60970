"""A few steps of a recipe on a sample of its data, timed: where model and data are on this machine.

The steps are those of the training itself, in a temporary folder. Entry point: `step_seconds`.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Callable
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from babelclip.data.captions import Captions, write_captions
from babelclip.data.mix import Mix
from babelclip.data.sources import image_root, kind_of, open_captions
from babelclip.errors import BabelclipError
from babelclip.models.tokenization import TextTokenizer
from babelclip.train.device import build_accelerator
from babelclip.train.device import precision_of as precision_of_accelerator
from babelclip.train.log import read_log
from babelclip.train.pairs import read_nli, read_scored
from babelclip.train.plan_towers import on_this_machine
from babelclip.train.recipe import Recipe, Train

_STEPS = 4  # the first one warms up and is not counted
_SAMPLE = 4096
# Multiplications of the timed steps, so that a dry run takes about a minute on a CPU: rows of a batch are cut to it.
_MOST_WORK = 2e12


class Speed(NamedTuple):
    """Seconds of a step, None where unknown, and how that was measured, or why not."""

    seconds: float | None
    how: str


def step_seconds(recipe: Recipe, image: str, weights: int, tokens: int) -> Speed:
    """Returns the median of a few timed steps.

    Args:
        recipe: of one training.
        image: as `--image` of the command.
        weights: that train, word embeddings not counted; large models are timed with fewer rows, and scaled.
        tokens: of a text, at most.
    """
    kinds = _kinds()
    kind = recipe.train.kind
    missing = [name for name in _needed(recipe, image) if not _is_here(name)]
    if missing:
        return Speed(None, f"unknown: {', '.join(missing)} is not on this machine")
    if kind not in kinds:
        return Speed(None, f"unknown: steps of {kind} are not timed")
    rows = recipe.train.batch_size
    part = min(rows, max(int(_MOST_WORK / (6 * max(weights, 1) * tokens)), 8)) if rows else 0
    with tempfile.TemporaryDirectory(prefix="babelclip-dry-run-") as folder:
        try:
            short = _shortened(recipe, Path(folder), part)
            kinds[kind](short, Path(folder) / "run", image)
            lines = [line for line in read_log(Path(folder) / "run" / "log.jsonl") if line["event"] == "train"]
        except BabelclipError as error:
            return Speed(None, f"unknown: the timed steps failed. {error}")
    ends = [line["seconds"] for line in lines]
    if len(ends) < 2:
        return Speed(None, "unknown: the timed steps were stopped")
    took = statistics.median(after - before for before, after in pairwise(ends))
    steps = f"median of {len(ends) - 1} steps"
    if part == rows:
        return Speed(took, f"{steps} of this recipe on this machine")
    return Speed(took * rows / part, f"{steps} with {part} of {rows} rows on this machine, times {rows / part:g}")


def _kinds() -> dict[str, Callable[[Recipe, Path, str], Any]]:
    def distill(recipe: Recipe, out: Path, image: str) -> None:
        from babelclip.train.teach import teach

        teach(recipe, out, image=image, progress=False)

    def contrastive(recipe: Recipe, out: Path, image: str) -> None:
        from babelclip.train.contrastive import contrastive as run

        run(recipe, out, progress=False)

    def tension(recipe: Recipe, out: Path, image: str) -> None:
        from babelclip.train.tension import tension as run

        run(recipe, out, progress=False)

    def sts(recipe: Recipe, out: Path, image: str) -> None:
        from babelclip.train.sts import sts as run

        run(recipe, out, progress=False)

    return {"distill": distill, "contrastive": contrastive, "tension": tension, "sts": sts}


def _needed(recipe: Recipe, image: str) -> list[str]:
    """Returns the models and data that a run reads."""
    towers, teacher = recipe.towers, recipe.teacher
    stores = {"distill": (teacher.targets,), "contrastive": (towers.image_features, towers.text_features)}
    names = [recipe.student.model or "student.model", image, *stores.get(recipe.train.kind, ())]
    names += [towers.image_model] if recipe.train.kind == "contrastive" else []
    names += [teacher.model] if recipe.train.kind == "distill" else []
    if recipe.train.kind == "sts":
        names += list(recipe.sts.pairs) or ["sts.pairs"]
    else:
        names += list(caption_sources(recipe)) or ["data.captions"]
    return [name for name in names if name not in ("", "live")]


def _is_here(name: str) -> bool:
    return Path(name).exists() or on_this_machine(name) or kind_of(name) is not None


def caption_sources(recipe: Recipe) -> tuple[str, ...]:
    """Returns the captions of a recipe: those of its mix, else data.captions."""
    of_mix = tuple(source.captions for source in Mix.from_table(recipe.mix).sources) if recipe.mix else ()
    return of_mix or recipe.data.captions


def _shortened(recipe: Recipe, folder: Path, rows: int) -> Recipe:
    """Returns the recipe for a few steps on a sample of its captions, with nothing measured on the way."""
    train = dataclasses.replace(
        recipe.train,
        steps=_STEPS,
        epochs=0.0,
        batch_size=rows,
        validate_every=0,
        save_every=0,
        log_every=1,
        early_stop=0,
        tensorboard=False,
        wandb=False,
        keep="last",
        best_metric="",
    )
    data = dataclasses.replace(recipe.data, validation=(), benchmark=(), weights={})
    if recipe.train.kind != "sts":
        write_captions(_sample(recipe, max(4 * rows, _SAMPLE)), folder / "sample.parquet")
        data = dataclasses.replace(data, captions=(str(folder / "sample.parquet"),), stream=False)
    sts = dataclasses.replace(recipe.sts, validation=())
    teacher = dataclasses.replace(recipe.teacher, missing="drop")
    if recipe.train.kind == "distill" and not teacher.sources and not teacher.targets:
        from babelclip.data.embed import sources_of

        teacher = dataclasses.replace(teacher, sources=tuple(str(sources_of(p)) for p in caption_sources(recipe)))
    return dataclasses.replace(recipe, train=train, data=data, sts=sts, teacher=teacher, mix={}, stages=())


def _sample(recipe: Recipe, rows: int) -> Captions:
    """Returns up to `rows` captions, each source giving an equal share; pictures by their whole path or their name."""
    paths = caption_sources(recipe)
    share, lang = -(-rows // max(len(paths), 1)), recipe.data.lang or None
    by_name = bool(recipe.towers.image_features) and recipe.towers.image_features != "live"
    parts = []
    for path in paths:
        read = open_captions(path, lang=lang, rows=min(share, 4096))
        captions = Captions.concat(list(islice(read, -(-share // 4096))))
        captions = Captions(captions.table.slice(0, share))
        if recipe.train.kind == "contrastive" and not by_name:
            captions = _with_whole_paths(captions, image_root(path))
        parts.append(captions)
    return Captions.concat(parts)


def _with_whole_paths(captions: Captions, root: Path) -> Captions:
    import pyarrow as pa

    names = [None if name is None else str((root / name).absolute()) for name in captions.table["image"].to_pylist()]
    place = captions.table.column_names.index("image")
    return Captions(captions.table.set_column(place, "image", pa.array(names, captions.table["image"].type)))


def longest_text(recipe: Recipe, tokenizer: TextTokenizer | None) -> int:
    """Returns the tokens of the longest text in a sample of the data; 0 where tokenizer or data are not here."""
    if tokenizer is None:
        return 0
    try:
        if recipe.train.kind == "sts":
            pairs = read_nli(*recipe.sts.pairs) if recipe.sts.stage == "nli" else read_scored(*recipe.sts.pairs)
            texts = list(chain(pairs.first, pairs.second))[:_SAMPLE]
        elif recipe.train.kind == "classify":
            return 0
        else:
            texts = list(_sample(recipe, _SAMPLE).texts)
    except (BabelclipError, OSError):
        return 0
    return max((len(ids) for ids in tokenizer(texts)), default=0)


def count_pairs(recipe: Recipe) -> int | None:
    """Returns the pairs of an `sts` recipe, None where they are not here."""
    try:
        pairs = read_nli(*recipe.sts.pairs) if recipe.sts.stage == "nli" else read_scored(*recipe.sts.pairs)
    except (BabelclipError, OSError):
        return None
    return len(pairs.first) or None


def precision_of(train: Train) -> str:
    """Returns the precision that the run will have on this machine; what it asks for where it cannot run here."""
    try:
        return precision_of_accelerator(build_accelerator(train))
    except BabelclipError:
        return train.precision
