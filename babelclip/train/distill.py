"""Teacher learning: a text encoder learns to give, for a caption in any language, the teacher's vector of its source.

The teacher's vectors lie in an `EmbeddingStore`, or are computed as the run goes (`live.py`). Captions are held in
memory, or come from a mix of any size (`mix_batches.py`). M-CLIP: Carlsson et al., LREC 2022; stage 1 of AltCLIP: arXiv
2211.06679; Reimers and Gurevych: arXiv 2004.09813. Entry point: `distill`; `teach.py` goes from a recipe to a model.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from babelclip.data.captions import Captions
from babelclip.data.mixer import Mixer
from babelclip.errors import BabelclipError
from babelclip.models.text import TextEncoder
from babelclip.train import fidelity, loop, losses
from babelclip.train.device import training_device, versions
from babelclip.train.distill_data import CaptionData, MixData, target_rows
from babelclip.train.frozen import FrozenStates, UpperLayers, can_cut
from babelclip.train.live import Targets
from babelclip.train.mix_batches import Counts
from babelclip.train.recall import SeenBenchmark
from babelclip.train.recipe import Recipe, recipe_to_dict, write_recipe
from babelclip.train.recipe_checks import check_best
from babelclip.train.state import newest
from babelclip.train.text_batches import Batch
from babelclip.train.texts import Inputs, TokenTable
from babelclip.train.trainable import count_weights, encoder_layers, set_dropout, student_parameters, trained_layers

_LOG = logging.getLogger(__name__)
_DISTILL_LOSSES = ("mse", "mse_sum", "cosine", "infonce")


@dataclass(frozen=True)
class DistillResult:
    """What a run of teacher learning did; the student was trained in place.

    Attributes:
        run: of the loop.
        trivial_mse: of the targets.
        captions: how many there are, of a mix its distinct rows.
        languages: captions by language.
        trained_weights: single numbers that moved.
        cached_layers: layers below the trained ones, whose states were kept.
        counts: captions read, too long ones and those without a target; of a mix, since the program started.
    """

    run: loop.RunResult
    trivial_mse: float
    captions: int
    languages: dict[str, int]
    trained_weights: int
    cached_layers: int
    counts: Counts = dataclasses.field(default_factory=Counts)

    @property
    def relative_mse(self) -> float:
        """Validation MSE over that of the trivial predictor: 1 = nothing learned, 0 = all.

        nan if it was not measured, or the targets are all the same, as that of one caption is.
        """
        figures = self.run.validation
        return figures["mse"] / figures["trivial_mse"] if figures.get("trivial_mse") else float("nan")


def distill(
    student: TextEncoder,
    captions: Captions | Mixer,
    targets: Targets,
    recipe: Recipe,
    out: Path | str,
    *,
    validation: Captions | None = None,
    resume: bool = False,
    weights: np.ndarray | None = None,
    progress: bool = True,
    benchmark: SeenBenchmark | None = None,
    validate: Callable[[], Mapping[str, float]] | None = None,
) -> DistillResult:
    """Trains `student` in place, and returns how it went.

    Args:
        student: is brought to float32 and moved to the device of the run.
        captions: the target of a row is the vector of its `source_id`, or of its own id where that is empty. A
            `Mixer` is read window by window, so it may be larger than memory.
        targets: the teacher's vectors, an `EmbeddingStore` or `LiveTargets`; raw as a rule (see the element-mean trap
            in `losses`).
        recipe: sections train, student, teacher, data and loss count.
        out: folder for log, checkpoints, the resolved `recipe.toml`, and the frozen states while it runs.
        validation: held-out captions with targets in the same place: MSE, cosine, trivial MSE, by language too.
        resume: go on from the last checkpoint in `out`.
        weights: times that each caption is seen in an epoch (N,); None: by language from the recipe's [data].
        progress: show bars on stderr.
        benchmark: held-out captions with pictures: R@k, by language too.
        validate: further figures, measured with the student as it is.

    Raises:
        BabelclipError: dimensions, spaces, ids or settings do not fit; the message says which and what to do.
        LossError: the loss is not finite.
    """
    out = Path(out)
    _check(student, targets, recipe)
    if (validation is not None or benchmark is not None) and (recipe.train.keep == "best" or recipe.train.early_stop):
        check_best(recipe.train.best_metric or ("R@1" if validation is None else "mse"), recipe.train)
    student.float().to(training_device(recipe.train))
    parameters = student_parameters(student, recipe.student)
    data: CaptionData | MixData
    if isinstance(captions, Mixer):
        data = MixData(student, captions, targets, recipe, weights)
    else:
        data = CaptionData(student, captions, targets, recipe, weights)
    try:
        return _run(student, data, targets, parameters, recipe, out, validation, benchmark, validate, resume, progress)
    finally:
        data.close()


def _run(
    student: TextEncoder,
    data: CaptionData | MixData,
    targets: Targets,
    parameters: dict[str, nn.Parameter],
    recipe: Recipe,
    out: Path,
    validation: Captions | None,
    benchmark: SeenBenchmark | None,
    validate: Callable[[], Mapping[str, float]] | None,
    resume: bool,
    progress: bool,
) -> DistillResult:
    processes = loop.connect(recipe.train)
    if processes.writes:
        write_recipe(recipe, out)
    settings = data.settings()
    last = loop.counted_in_steps(settings, data.batches).steps
    reader = _reader(student, recipe, last, data.keeps_states, out, progress)
    # What rank 0 computes and writes, the others find.
    with processes.main_first(out):
        data.prepare(lambda tokens: reader.inputs(tokens, "train"))
        measures = _measures(reader, validation, targets, benchmark, validate)
    set_dropout(student, recipe.student.dropout)
    trivial = data.trivial()
    result = loop.run(
        reader.model,
        _step_loss(recipe, trivial),
        data.batches,
        parameters,
        settings,
        out,
        validate=measures,
        resume=resume,
        facts=_facts(recipe, targets, data.facts()),
        about={"languages": data.languages, "versions": versions()},
        progress=progress,
    )
    student.eval()
    if result.status == "finished" and processes.rank == processes.leaders(out).own:
        # A cache of hundreds of megabytes that nobody needs any more.
        shutil.rmtree(out / "states", ignore_errors=True)
    cached, moved = reader.first_layer or 0, count_weights(parameters)
    if processes.writes:
        _LOG.info("%s", data.counts())
    return DistillResult(result, trivial, data.size, data.languages, moved, cached, data.counts())


class _Reader(NamedTuple):
    """What the loop trains, and how texts become its inputs: the whole student, or its upper layers on kept states."""

    student: TextEncoder
    model: nn.Module
    first_layer: int | None
    recipe: Recipe
    out: Path
    progress: bool

    def inputs(self, tokens: TokenTable, name: str) -> Inputs:
        if self.first_layer is None:
            return tokens
        return FrozenStates.build(
            self.student,
            tokens,
            self.first_layer,
            dtype=self.recipe.student.cache,
            folder=self.out / "states" / name,
            token_budget=self.recipe.train.tokens_per_batch,
            progress=self.progress,
        )


def _reader(student: TextEncoder, recipe: Recipe, last: int, keeps_states: bool, out: Path, progress: bool) -> _Reader:
    saved = newest(loop.connect(recipe.train), out)
    finished = saved is not None and saved[0] >= last
    # A finished run that is resumed makes no step, so no states are computed for it.
    first_layer = None if finished or not keeps_states else _first_layer(student, recipe)
    model = student if first_layer is None else UpperLayers(student, first_layer)
    return _Reader(student, model, first_layer, recipe, out, progress)


def _step_loss(recipe: Recipe, trivial: float) -> loop.StepLoss:
    terms = recipe.loss_terms()
    if recipe.loss.relative and not trivial:
        raise BabelclipError(
            "loss.relative divides by the variance of the targets, and they are all the same: give captions of "
            "several sources, or drop it."
        )
    scale = 1.0 / trivial if recipe.loss.relative else 1.0
    temperature = recipe.loss.temperature

    def term(name: str, features: Tensor, batch: Batch) -> Tensor:
        own, others = batch.targets[: len(features)], batch.targets[len(features) :]
        if name == "mse":
            return losses.mse(features, own) * scale
        if name == "mse_sum":
            return losses.mse_sum(features, own)
        if name == "cosine":
            return losses.cosine(features, own)
        # Captions of one source share a target, which is no negative of either.
        same = batch.positions[: len(features), None] == batch.positions[None, :]
        return losses.infonce(features, own, temperature, same, others)

    def step_loss(model: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        # In fp32 whatever the precision of the model: squares of small differences are all that is left at the end.
        features = model(batch.inputs, batch.mask).float()
        with torch.autocast(features.device.type, enabled=False):
            parts = {name: term(name, features, batch) * weight for name, weight in terms.items()}
            error = losses.mse(features.detach(), batch.targets[: len(features)])
        loss = torch.stack(list(parts.values())).sum()
        figures = {name: part.detach() for name, part in parts.items() if len(parts) > 1 and name != "mse"}
        return loss, {"mse": error, "trivial_mse": trivial, **figures}

    return step_loss


def _check(student: TextEncoder, targets: Targets, recipe: Recipe) -> None:
    if targets.dim != student.embed_dim:
        raise BabelclipError(losses.dim_mismatch((len(targets), targets.dim), student.embed_dim))
    if recipe.student.embed_dim not in (None, student.embed_dim):
        raise BabelclipError(
            f"student.embed_dim = {recipe.student.embed_dim}, but the student projects to {student.embed_dim}: "
            "give its head that dimension, or drop the setting."
        )
    if recipe.teacher.space:
        targets.check_space(recipe.teacher.space)
    wrong = [term for term in recipe.loss_terms() if term not in _DISTILL_LOSSES]
    if recipe.train.kind != "distill" or wrong:
        raise BabelclipError(
            f'Teacher learning was given train.kind = "{recipe.train.kind}" and the loss {recipe.loss.name!r}: '
            f'set kind = "distill" in [train] and a loss of {", ".join(_DISTILL_LOSSES)}.'
        )


def _measures(
    reader: _Reader,
    validation: Captions | None,
    targets: Targets,
    benchmark: SeenBenchmark | None,
    further: Callable[[], Mapping[str, float]] | None,
) -> Callable[[], Mapping[str, float]] | None:
    """Returns the validation of a run: fidelity to held-out targets, R@k on pictures, then the caller's figures."""
    parts: list[Callable[[], Mapping[str, float]]] = []
    budget = reader.recipe.train.tokens_per_batch
    if validation is not None:
        held_out = _held_out(reader, validation, targets)
        parts.append(lambda: fidelity.measure(reader.model, held_out, budget))
    if benchmark is not None:
        texts = benchmark.captions
        tokens = TokenTable.from_texts(reader.student, texts.texts, texts.langs)
        inputs, lengths, dim = reader.inputs(tokens, "benchmark"), tokens.lengths, reader.student.embed_dim
        parts.append(lambda: benchmark.recalls(fidelity.features_of(reader.model, inputs, lengths, dim, budget)))
    if further is not None:
        parts.append(further)
    return (lambda: {name: value for part in parts for name, value in part().items()}) if parts else None


def _held_out(reader: _Reader, captions: Captions, targets: Targets) -> fidelity.HeldOut:
    tokens = TokenTable.from_texts(reader.student, captions.texts, captions.langs)
    vectors = targets.gather(target_rows(captions, targets))
    return fidelity.HeldOut(reader.inputs(tokens, "validation"), tokens.lengths, vectors, list(captions.langs))


def _first_layer(student: TextEncoder, recipe: Recipe) -> int | None:
    """Returns the first layer that trains, if states below it can be kept; None for training through everything."""
    trainable = recipe.student.trainable
    if recipe.student.cache == "off" or not can_cut(student):
        return None
    layers = encoder_layers(student.backbone)
    count = trained_layers(trainable, len(layers), "student.trainable")
    # Dropout below would have to differ between epochs; regression has none.
    if count is None or recipe.student.dropout:
        return None
    return len(layers) - count


def _facts(recipe: Recipe, targets: Targets, of_data: dict[str, Any]) -> dict[str, Any]:
    content = recipe_to_dict(recipe)
    taught = {"space": targets.space, "target": targets.target}
    return {"student": content["student"], "loss": content["loss"], "taught": taught, **of_data}
