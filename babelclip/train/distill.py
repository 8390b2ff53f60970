"""Teacher learning: a text encoder learns to give, for a caption in any language, the teacher's vector of its source.

The teacher is never called: its vectors lie in an `EmbeddingStore` (M-CLIP: Carlsson et al., LREC 2022; stage 1 of
AltCLIP: arXiv 2211.06679; Reimers and Gurevych: arXiv 2004.09813). Entry point: `distill`.
"""

from __future__ import annotations

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
from babelclip.errors import BabelclipError
from babelclip.files import atomic_path
from babelclip.models.text import TextEncoder
from babelclip.store import EmbeddingStore
from babelclip.train import checkpoint, fidelity, loop, losses
from babelclip.train.batches import length_batches
from babelclip.train.device import training_device, versions
from babelclip.train.frozen import FrozenStates, UpperLayers, can_cut
from babelclip.train.recipe import Recipe, recipe_to_dict, to_toml
from babelclip.train.texts import Inputs, TokenTable
from babelclip.train.trainable import count_weights, encoder_layers, select_parameters, set_dropout, trained_layers

_LOG = logging.getLogger(__name__)
_DISTILL_LOSSES = ("mse", "mse_sum", "cosine", "infonce")
# Targets that estimate the trivial predictor: more change its third digit at most.
_TRIVIAL_SAMPLE = 20_000


class Batch(NamedTuple):
    """Inputs of some captions and their mask (N, T); raw targets (N + M, D) float32 and their store positions.

    The first N targets are those of the captions, the others are negatives.
    """

    inputs: Tensor
    mask: Tensor
    targets: Tensor
    positions: Tensor


@dataclass(frozen=True)
class DistillResult:
    """What a run of teacher learning did; the student was trained in place."""

    run: loop.RunResult
    trivial_mse: float
    captions: int
    languages: dict[str, int]
    trained_weights: int
    cached_layers: int

    @property
    def relative_mse(self) -> float:
        """Validation MSE over that of the trivial predictor: 1 = nothing learned, 0 = all; nan if not measured."""
        figures = self.run.validation
        return figures["mse"] / figures["trivial_mse"] if "mse" in figures else float("nan")


def distill(
    student: TextEncoder,
    captions: Captions,
    targets: EmbeddingStore,
    recipe: Recipe,
    out: Path | str,
    *,
    validation: Captions | None = None,
    resume: bool = False,
    weights: np.ndarray | None = None,
    progress: bool = True,
    validate: Callable[[], Mapping[str, float]] | None = None,
) -> DistillResult:
    """Trains `student` in place, and returns how it went.

    Args:
        student: is brought to float32 and moved to the device of the run.
        captions: the target of a row is the vector of its `source_id`, or of its own id where that is empty.
        targets: the teacher's vectors, raw as a rule (see the element-mean trap in `losses`).
        recipe: sections train, student, teacher, data and loss count.
        out: folder for log, checkpoints, the resolved `recipe.toml`, and the frozen states while it runs.
        validation: held-out captions with targets in the same store: MSE, cosine, trivial MSE, by language too.
        resume: go on from the last checkpoint in `out`.
        weights: times that each caption is seen in an epoch (N,); None: by language from the recipe's [data].
        progress: show bars on stderr.
        validate: further figures, measured with the student as it is, for example R@k on pictures.

    Raises:
        BabelclipError: dimensions, spaces, ids or settings do not fit; the message says which and what to do.
        LossError: the loss is not finite.
    """
    out = Path(out)
    _check(student, targets, recipe)
    rows = _target_rows(captions, targets)
    weights = _weights(captions, recipe, weights)
    student.float().to(training_device(recipe.train))
    parameters = select_parameters(
        student,
        recipe.student.trainable,
        setting="student.trainable",
        freeze_embeddings=recipe.student.freeze_embeddings,
    )
    tokens = TokenTable.from_texts(student, captions.texts)
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / "recipe.toml") as temporary:
        temporary.write_text(to_toml(recipe), encoding="utf-8")
    reader = _reader(student, recipe, out, progress)
    data = _Data(tokens, reader.inputs(tokens, "train"), targets, rows, recipe, weights)
    held_out = None if validation is None else _held_out(reader, validation, targets)
    set_dropout(student, recipe.student.dropout)
    trivial = _trivial(targets, rows, recipe.train.seed)
    languages = captions.language_counts()
    result = loop.run(
        reader.model,
        _step_loss(recipe, trivial),
        data,
        parameters,
        recipe.train,
        out,
        validate=fidelity.validation(reader.model, held_out, recipe.train.tokens_per_batch, validate),
        resume=resume,
        facts=_facts(recipe, tokens, rows, weights),
        about={"languages": languages, "versions": versions()},
        progress=progress,
    )
    student.eval()
    if result.status == "finished":
        # A cache of hundreds of megabytes that nobody needs any more.
        shutil.rmtree(out / "states", ignore_errors=True)
    return DistillResult(result, trivial, len(captions), languages, count_weights(parameters), reader.first_layer or 0)


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


def _reader(student: TextEncoder, recipe: Recipe, out: Path, progress: bool) -> _Reader:
    steps = checkpoint.saved_steps(out)
    finished = bool(steps) and steps[-1] >= recipe.train.steps
    # A finished run that is resumed makes no step, so no states are computed for it.
    first_layer = None if finished else _first_layer(student, recipe)
    model = student if first_layer is None else UpperLayers(student, first_layer)
    return _Reader(student, model, first_layer, recipe, out, progress)


class _Data:
    """The batches of a run: inputs from `inputs`, targets from the store."""

    def __init__(
        self,
        tokens: TokenTable,
        inputs: Inputs,
        targets: EmbeddingStore,
        target_rows: np.ndarray,
        recipe: Recipe,
        weights: np.ndarray | None,
    ) -> None:
        self.inputs = inputs
        self.targets = targets
        self.target_rows = target_rows
        self.settings = recipe.train
        self.weights = weights
        self.negatives = recipe.loss.negatives if "infonce" in recipe.loss_terms() else 0
        self.distinct = np.unique(target_rows if weights is None else target_rows[weights > 0])
        # Of the tokens, also where states are kept: the batches are the same with and without them.
        self.lengths = tokens.lengths

    def plan(self, epoch: int) -> list[np.ndarray]:
        settings = self.settings
        return length_batches(
            self.lengths,
            epoch=epoch,
            seed=settings.seed,
            tokens_per_batch=settings.tokens_per_batch,
            batch_size=settings.batch_size,
            weights=self.weights,
        )

    def load(self, rows: np.ndarray) -> Batch:
        inputs, mask = self.inputs.load(rows)
        positions = np.concatenate([self.target_rows[rows], self._drawn(rows)])
        return Batch(inputs, mask, torch.from_numpy(self.targets.gather(positions)), torch.from_numpy(positions))

    def _drawn(self, rows: np.ndarray) -> np.ndarray:
        """Returns store positions of negatives; they follow from seed and rows, so a resumed run draws the same."""
        count = min(self.negatives, len(self.distinct))
        if not count:
            return np.empty(0, dtype=np.int64)
        rng = np.random.default_rng([self.settings.seed, *np.sort(rows)[:8].tolist()])
        return rng.choice(self.distinct, count, replace=False)

    def tokens(self, rows: np.ndarray) -> int:
        return int(self.lengths[rows].sum())


def _step_loss(recipe: Recipe, trivial: float) -> loop.StepLoss:
    terms = recipe.loss_terms()
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


def _check(student: TextEncoder, targets: EmbeddingStore, recipe: Recipe) -> None:
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


def _target_rows(captions: Captions, targets: EmbeddingStore) -> np.ndarray:
    """Returns the place of each caption's target in the store (N,) int64."""
    if not len(captions):
        raise BabelclipError("There are no captions: give a file with at least one readable row.")
    sources = captions.table.column("source_id").to_pylist()
    wanted = [own if source is None else source for own, source in zip(captions.ids, sources, strict=True)]
    return np.asarray(targets.positions(wanted), dtype=np.int64)


def _held_out(reader: _Reader, captions: Captions, targets: EmbeddingStore) -> fidelity.HeldOut:
    tokens = TokenTable.from_texts(reader.student, captions.texts)
    vectors = targets.gather(_target_rows(captions, targets))
    return fidelity.HeldOut(reader.inputs(tokens, "validation"), tokens.lengths, vectors, list(captions.langs))


def _weights(captions: Captions, recipe: Recipe, weights: np.ndarray | None) -> np.ndarray | None:
    langs = list(captions.langs)
    if weights is None and recipe.data.weights:
        unknown = sorted(set(recipe.data.weights) - set(langs))
        if unknown:
            raise BabelclipError(
                f"data.weights names {', '.join(unknown)}, but the captions are in {', '.join(sorted(set(langs)))}."
                " Drop it, or add captions."
            )
        weights = np.asarray([recipe.data.weights.get(lang, 1.0) for lang in langs])
    if weights is not None and len(weights) != len(captions):
        raise BabelclipError(f"There are {len(weights)} sampling weights for {len(captions)} captions: give one each.")
    seen = set(langs) if weights is None else {lang for lang, w in zip(langs, weights, strict=True) if w > 0}
    if not any(lang.split("-")[0] == "en" for lang in seen):
        # AltCLIP, table 5: without English-English pairs retrieval in English falls from 90 to 62.
        _LOG.warning("No caption in English is trained on: a student loses the languages that it no longer sees.")
    return weights


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


def _trivial(targets: EmbeddingStore, rows: np.ndarray, seed: int) -> float:
    sample = rows
    if len(rows) > _TRIVIAL_SAMPLE:
        sample = np.random.default_rng(seed).choice(rows, _TRIVIAL_SAMPLE, replace=False)
    return float(losses.trivial_mse(torch.from_numpy(targets.gather(sample)).double()))


def _facts(recipe: Recipe, tokens: TokenTable, rows: np.ndarray, weights: np.ndarray | None) -> dict[str, Any]:
    content = recipe_to_dict(recipe)
    return {
        "student": content["student"],
        "loss": content["loss"],
        "captions": {"count": len(rows), "tokens": tokens.fingerprint, "targets": int(rows.sum())},
        "weights": None if weights is None else float(np.dot(weights, np.arange(1, len(weights) + 1))),
    }
