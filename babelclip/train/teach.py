"""From a recipe of teacher learning to a model: what is read, trained and put together.

    student, targets (a store, or a live teacher), captions or a mix, benchmark -> `distill` -> a `Clip`

Entry point: `teach`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch

import babelclip
from babelclip.data.captions import Captions
from babelclip.data.embed import sources_of
from babelclip.data.missing import find_missing
from babelclip.data.mix import Mix, MixSource, open_mix
from babelclip.data.mixer import Mixer
from babelclip.data.sources import open_captions, read_all
from babelclip.errors import BabelclipError
from babelclip.models.clip import Clip
from babelclip.models.head import projection_start
from babelclip.models.text import inference
from babelclip.store import EmbeddingStore
from babelclip.train import loop
from babelclip.train.assemble import assemble
from babelclip.train.distill import DistillResult, distill
from babelclip.train.live import LiveTargets, SourceTexts, Targets
from babelclip.train.log import first_figures
from babelclip.train.pair_sources import open_benchmark
from babelclip.train.recall import SeenBenchmark, seen_by
from babelclip.train.recipe import Recipe
from babelclip.train.students import load_student


@dataclass(frozen=True)
class Taught:
    """The model that a run has made, how the run went, and its figures before the first step ({} if not measured)."""

    clip: Clip
    result: DistillResult
    before: dict[str, float]


def teach(recipe: Recipe, out: Path | str, *, image: str = "", resume: bool = False, progress: bool = True) -> Taught:
    """Returns the model that a recipe of teacher learning makes; nothing but the run is written.

    Args:
        recipe: `train.kind` is distill. With a `[mix]`, captions are laid out in `out`/rows and read in windows.
        out: folder of the run.
        image: a model whose picture tower joins the student, and measures data.benchmark; empty: `teacher.model`.
        resume: go on from the last checkpoint.
        progress: show bars on stderr.

    Raises:
        BabelclipError: a setting lacks, or what it names cannot be read or does not fit.
    """
    out = Path(out)
    teacher = babelclip.load(recipe.teacher.model) if recipe.teacher.model else None
    whole = babelclip.load(image) if image else teacher
    targets = _targets(recipe, teacher, out)
    if whole is not None:
        whole.check_space(targets.space, f"the targets and the picture tower of {image or recipe.teacher.model}")
    elif targets.target == "pooled":
        raise BabelclipError(
            "The targets are pooled vectors, and a student of those needs the teacher's own projection to reach the "
            'space: name the teacher in teacher.model, or by --image, or embed with --target "projected".'
        )
    student = load_student(recipe.student, embed_dim=targets.dim, seed=recipe.train.seed, targets=len(targets))
    captions = _captions(recipe, targets, out, progress)
    validation = _read(recipe.data.validation, recipe.data.lang) if recipe.data.validation else None
    benchmark = _benchmark(recipe, whole, targets.target, progress)
    result = distill(
        student.text_tower(),
        captions,
        targets,
        recipe,
        out,
        validation=validation,
        benchmark=benchmark,
        resume=resume,
        progress=progress,
    )
    languages = tuple(sorted({*student.languages, *result.languages}))
    clip = _put_together(student, targets, whole, languages, out.resolve().name)
    return Taught(clip, result, first_figures(out))


def _targets(recipe: Recipe, teacher: Clip | None, out: Path) -> Targets:
    settings = recipe.teacher
    if settings.targets:
        return EmbeddingStore.open(settings.targets)
    if teacher is None:
        raise BabelclipError(
            'The recipe does not say where the teacher\'s vectors come from. Write targets = "…" under [teacher] for '
            'an EmbeddingStore (babelclip embed), or model = "…" for a teacher that computes them as the run goes.'
        )
    paths = settings.sources or tuple(str(sources_of(path)) for path in _paths(recipe))
    parts = chain.from_iterable(open_captions(path) for path in paths)
    if not recipe.mix:
        return LiveTargets(teacher, SourceTexts.from_parts(parts), target=settings.target)
    # For other files, or changed ones, another folder: those that are there may be of a start that failed for them.
    files = [(path, Path(path).stat().st_mtime_ns if Path(path).exists() else 0) for path in paths]
    folder = out / "rows" / f"sources-{hashlib.sha256(json.dumps(files).encode()).hexdigest()[:12]}"
    with loop.connect(recipe.train).main_first(out):
        texts = SourceTexts.from_parts(parts, folder) if not SourceTexts.is_at(folder) else SourceTexts.open(folder)
    return LiveTargets(teacher, texts, target=settings.target)


def _captions(recipe: Recipe, targets: Targets, out: Path, progress: bool) -> Captions | Mixer:
    if not recipe.mix:
        return _read(_paths(recipe), recipe.data.lang)
    mix = Mix.from_table(recipe.mix)
    if not mix.sources:
        mix = dataclasses.replace(mix, sources=tuple(MixSource(path, path) for path in _paths(recipe)))
    processes = loop.connect(recipe.train)
    with processes.main_first(out):
        mixer = open_mix(mix, folder=out / "rows", progress=progress and processes.writes)
    if isinstance(targets, EmbeddingStore) and recipe.teacher.missing == "error":
        # Before the first step, and not in the third hour.
        find_missing(mixer, targets).require_none(targets)
    return mixer


def _paths(recipe: Recipe) -> tuple[str, ...]:
    """Returns the captions of a run: those of the mix, else data.captions."""
    of_mix = tuple(source.captions for source in Mix.from_table(recipe.mix).sources) if recipe.mix else ()
    paths = of_mix or recipe.data.captions
    if not paths:
        raise BabelclipError(
            'The recipe names no captions. Write captions = ["…"] under [data], or [[mix.sources]] with captions = "…".'
        )
    return paths


def _read(paths: tuple[str, ...], lang: str) -> Captions:
    return Captions.concat([read_all(path, lang=lang or None) for path in paths])


def _benchmark(recipe: Recipe, whole: Clip | None, target: str, progress: bool) -> SeenBenchmark | None:
    benchmark = open_benchmark(recipe)
    if benchmark is None:
        return None
    if whole is None or whole.image is None:
        raise BabelclipError(
            "data.benchmark is measured with the teacher's pictures, and no picture tower is given: name a model with "
            "one by --image, or in teacher.model."
        )
    seen = seen_by(benchmark, whole.image, progress=progress and loop.connect(recipe.train).writes)
    return dataclasses.replace(seen, to_space=Projection(whole)) if target == "pooled" else seen


class Projection:
    """The teacher's text projection, from pooled vectors (N, P) to the space (N, D), both raw float32."""

    def __init__(self, teacher: Clip) -> None:
        """Takes a teacher with its text tower."""
        if teacher.text is None:
            raise BabelclipError("The teacher has no text tower, whose projection is needed. Load it with both towers.")
        self._tower, self._start = teacher.text, projection_start(teacher.text.head_layers)

    def __call__(self, pooled: np.ndarray) -> np.ndarray:
        """Returns the projected vectors."""
        weight = next(self._tower.parameters())
        with inference(self._tower):
            entering = torch.from_numpy(pooled).to(weight.device, weight.dtype)
            return np.asarray(self._tower.head[self._start :](entering).float().cpu().numpy())


def _put_together(student: Clip, targets: Targets, whole: Clip | None, languages: tuple[str, ...], name: str) -> Clip:
    text = student.text_tower()
    if whole is not None and targets.target == "pooled":
        clip = assemble(text, whole, languages=languages, name=name)
    else:
        clip = Clip(
            space=targets.space,
            text=text,
            image=None if whole is None else whole.image,
            logit_scale=None if whole is None else whole.logit_scale,
            logit_bias=None if whole is None else whole.logit_bias,
            languages=languages,
            name=name,
        )
    credit = () if whole is None else whole.attribution
    return dataclasses.replace(clip, attribution=tuple(dict.fromkeys((*student.attribution, *credit))))
