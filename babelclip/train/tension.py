"""Contrastive Tension: a sentence encoder re-tuned without labels, by two copies that must agree on equal sentences.

Carlsson et al. (ICLR 2021), in two variants of `tension.variant`:

* **original**: f1 and f2 start as copies and both train. A sample is a pair; z = f1(a) . f2(b) is a raw dot product of
  masked means of the last hidden state, without head or temperature, and the loss the mean binary cross-entropy. A
  batch consists of groups: one positive pair (s, s), then K negative pairs of 2K further sentences, so no negative
  holds s. Dropout is off (`student.dropout = 0`). An epoch is 500 batches, whatever the size of the data.
* **in_batch**: f1 and f2 read the same B sentences; cosines times exp(t), t learned from ln 20; the cross-entropy of
  finding a sentence among those of the other encoder, both ways. An epoch is one pass over the sentences. It needs
  dropout (`student.dropout = 0.1`, as sentence-transformers has it): the loss treats both encoders alike, so without
  it copies stay copies, every positive has the cosine 1, and the run only spreads sentences apart.

**Sampling.** All draws of an epoch follow from (seed, epoch), so a resumed run goes on at its position. Texts with
equal tokens are one sentence. The 2K + 1 sentences of a group are drawn without repetition, so a negative pair never
holds equal sentences; the authors' code draws them with replacement and does not look. Other groups of the batch draw
anew, as theirs do: the same sentence may occur in several, which contradicts nothing, as labels belong to pairs.

**Selection.** With scored pairs, both encoders are measured at each validation; `tension.select` says which one counts
and is kept: f1, f2, or the better one. Without them f2 is kept, as sentence-transformers advises. f1 and f2 are both
saved in any case, with tokenizer. Entry points:
`tension` for a recipe, `train_tension` for a model and sentences at hand.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from babelclip.data.sources import open_captions
from babelclip.errors import BabelclipError
from babelclip.files import write_json
from babelclip.models.clip import Clip
from babelclip.models.text import TextEncoder
from babelclip.train import loop, losses
from babelclip.train.batches import even_batches
from babelclip.train.device import training_device, versions
from babelclip.train.pairs import ScoredPairs, read_scored
from babelclip.train.recipe import Recipe, recipe_to_dict, write_recipe
from babelclip.train.recipe_checks import needed
from babelclip.train.sentences import Sentences, distinct_sentences, own_space
from babelclip.train.similarity import Similarity
from babelclip.train.students import open_student
from babelclip.train.trainable import count_weights, set_dropout, student_parameters

_LOG = logging.getLogger(__name__)
_UPDATES_OF_AN_EPOCH = 500
_ORIGINAL_BATCH, _IN_BATCH = 16, 128
# Below so many times the sentences of a group, drawing again until all differ takes longer than shuffling all.
_MANY = 20
Which = Literal["f1", "f2"]


@dataclass(frozen=True)
class TensionResult:
    """What a run did. `model` is the kept one of the two encoders, `scores` its figures and those of both by name.

    `scores` has `f1/spearman`, `f1/pearson`, `f2/spearman`, `f2/pearson`; it is empty where nothing was measured.
    """

    run: loop.RunResult
    model: Clip
    kept: Which
    scores: dict[str, float]
    sentences: int
    duplicates: int
    long: int
    trained_weights: int


class Twins(nn.Module):
    """Two encoders, and for the in-batch variant the logarithm of the scale."""

    def __init__(self, f1: TextEncoder, f2: TextEncoder, scale: float | None = None) -> None:
        """Takes both encoders; `scale` is the first factor of the cosines, None for raw dot products."""
        super().__init__()
        self.f1, self.f2 = f1, f2
        # A parameter that no loss reads would keep several processes waiting for its gradient.
        self.log_scale = None if scale is None else nn.Parameter(torch.tensor(math.log(scale)))

    def forward(self, ids: Tensor, mask: Tensor, other_ids: Tensor, other_mask: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Returns f1 of the first texts and f2 of the others (N, D) float32, not normalised, and the scale or None."""
        scale = None if self.log_scale is None else self.log_scale.exp()
        return self.f1(ids, mask).float(), self.f2(other_ids, other_mask).float(), scale


class Batch(NamedTuple):
    """What f1 and f2 read, ids and masks (N, T), and labels (N,) float32: 1 where both read the same sentence."""

    ids: Tensor
    mask: Tensor
    other_ids: Tensor
    other_mask: Tensor
    labels: Tensor


def tension(recipe: Recipe, out: Path | str, *, resume: bool = False, progress: bool = True) -> TensionResult:
    """Loads what a recipe names, trains it, and returns how it went; see `train_tension`.

    Raises:
        BabelclipError: the recipe lacks student.model or data.captions, or as `train_tension`.
    """
    student = open_student(needed(recipe.student.model, "student.model"))
    needed(recipe.data.captions, "data.captions")
    parts = (open_captions(source, lang=recipe.data.lang or None) for source in recipe.data.captions)
    texts = [text for part in chain.from_iterable(parts) for text in part.texts]
    validation = read_scored(*recipe.sts.validation) if recipe.sts.validation else None
    return train_tension(student, texts, recipe, out, validation=validation, resume=resume, progress=progress)


def train_tension(
    student: Clip,
    texts: Sequence[str],
    recipe: Recipe,
    out: Path | str,
    *,
    validation: ScoredPairs | None = None,
    resume: bool = False,
    progress: bool = True,
) -> TensionResult:
    """Trains two copies of the student's text tower on plain sentences, saves both, and returns the better one.

    `student` stays as it is. Where its tower has a head or another pooling, that is left out: tension is between means
    of the last hidden state, unless `student.pooling` names another pooling.

    Args:
        student: gives the encoder to start from, its languages and attribution.
        texts: sentences without any labels.
        recipe: sections train, student and tension count. Correlations are best where highest, so `train.best_is` is
            not read; `train.keep = "best"` gives the step with the best validation.
        out: folder for log, checkpoints, the resolved `recipe.toml`, and at the end `f1/`, `f2/` and `tension.json`.
        validation: scored pairs, such as STS-b dev, on which both encoders are measured.
        resume: go on from the last checkpoint in `out`.
        progress: show a bar on stderr.

    Raises:
        BabelclipError: settings do not fit, or there are too few distinct sentences.
        LossError: the loss is not finite.
    """
    out = Path(out)
    batch_size = _check(student, recipe)
    model = _twins(student, recipe).to(training_device(recipe.train))
    sentences = distinct_sentences(model.f1, texts, recipe.student)
    data = _data(sentences, recipe, batch_size)
    parameters = _parameters(model, recipe)
    judge = None if validation is None else _judge(model, validation, recipe)
    write_recipe(recipe, out)
    in_batch = recipe.tension.variant == "in_batch"
    run = loop.run(
        model,
        loop.WholeBatchLoss(_in_batch_loss) if in_batch else _pair_loss,
        data,
        parameters,
        dataclasses.replace(recipe.train, best_is="highest"),
        out,
        validate=judge,
        resume=resume,
        facts=_facts(recipe, sentences, batch_size),
        about={"versions": versions()},
        progress=progress,
    )
    model.eval()
    # Again, because the loop's last figures may be of a later step than the weights that are kept.
    scores = judge() if judge and run.status == "finished" else {}
    kept = _kept(recipe.tension.select, scores)
    clips = {name: _clip(student, getattr(model, name), name, out) for name in ("f1", "f2")}
    if run.status == "finished" and loop.connect(recipe.train).writes:
        for name, clip in clips.items():
            clip.save(out / name)
        write_json(out / "tension.json", {"kept": kept, "step": _step(run, recipe), "scores": scores})
    used = int((sentences.of_text >= 0).sum())
    return TensionResult(
        run, clips[kept], kept, scores, len(sentences), used - len(sentences), sentences.long, count_weights(parameters)
    )


def tension_groups(n: int, groups: int, negatives: int, rng: np.random.Generator) -> np.ndarray:
    """Returns groups of pairs (groups, 1 + negatives, 2) int64 of sentences below n, the positive pair first.

    The 1 + 2 * negatives sentences of a group differ from each other.

    Raises:
        BabelclipError: there are fewer sentences than a group needs.
    """
    size = 1 + 2 * negatives
    if n < size:
        raise BabelclipError(
            f"There are {n} distinct sentences, and a positive with {negatives} negatives needs {size}: give more "
            "sentences, or lower tension.negatives."
        )
    if n < _MANY * size:
        drawn = rng.permuted(np.tile(np.arange(n), (groups, 1)), axis=1)[:, :size]
    else:
        drawn = rng.integers(n, size=(groups, size))
        while True:
            ordered = np.sort(drawn, axis=1)
            again = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
            if not again.any():
                break
            drawn[again] = rng.integers(n, size=(int(again.sum()), size))
    # The first sentence twice, then the others two by two.
    pairs = np.concatenate([drawn[:, :1], drawn], axis=1)
    return pairs.reshape(groups, 1 + negatives, 2).astype(np.int64)


class _Groups:
    """Batches of the original variant: a row stands for a pair (a, b) of n sentences as the number a * n + b."""

    def __init__(self, sentences: Sentences, negatives: int, batch_size: int, seed: int) -> None:
        self.table, self.n = sentences.tokens, len(sentences)
        self.negatives, self.batch_size, self.seed = negatives, batch_size, seed

    def plan(self, epoch: int) -> list[np.ndarray]:
        groups = _UPDATES_OF_AN_EPOCH * self.batch_size // (self.negatives + 1)
        pairs = tension_groups(self.n, groups, self.negatives, np.random.default_rng([self.seed, epoch]))
        rows = pairs[..., 0] * self.n + pairs[..., 1]
        return list(rows.reshape(_UPDATES_OF_AN_EPOCH, self.batch_size))

    def load(self, rows: np.ndarray) -> Batch:
        first, second = np.divmod(rows, self.n)
        labels = torch.from_numpy((first == second).astype(np.float32))
        return Batch(*self.table.load(first), *self.table.load(second), labels)

    def tokens(self, rows: np.ndarray) -> int:
        first, second = np.divmod(rows, self.n)
        return int(self.table.lengths[first].sum() + self.table.lengths[second].sum())


class _Same:
    """Batches of the in-batch variant: a row is a sentence, which both encoders read."""

    def __init__(self, sentences: Sentences, batch_size: int, seed: int) -> None:
        self.table, self.n, self.batch_size, self.seed = sentences.tokens, len(sentences), batch_size, seed

    def plan(self, epoch: int) -> list[np.ndarray]:
        return even_batches(self.n, self.batch_size, epoch=epoch, seed=self.seed)

    def load(self, rows: np.ndarray) -> Batch:
        ids, mask = self.table.load(rows)
        return Batch(ids, mask, ids, mask, torch.ones(len(rows)))

    def tokens(self, rows: np.ndarray) -> int:
        return 2 * int(self.table.lengths[rows].sum())


def _data(sentences: Sentences, recipe: Recipe, batch_size: int) -> _Groups | _Same:
    seed = recipe.train.seed
    if recipe.tension.variant == "original":
        data = _Groups(sentences, recipe.tension.negatives, batch_size, seed)
        # Too few sentences are told before anything is written.
        tension_groups(data.n, 1, data.negatives, np.random.default_rng(seed))
        return data
    if len(sentences) < 2:
        raise BabelclipError(f"There are {len(sentences)} distinct sentences, with nothing to tell apart: give more.")
    return _Same(sentences, batch_size, seed)


def _pair_loss(model: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor | float]]:
    first, second, _ = model(batch.ids, batch.mask, batch.other_ids, batch.other_mask)
    with torch.autocast(first.device.type, enabled=False):
        return losses.tension_loss(first, second, batch.labels), {}


def _in_batch_loss(model: nn.Module, batch: Batch, ranks: loop.Ranks) -> tuple[Tensor, Mapping[str, Tensor | float]]:
    first, second, scale = model(batch.ids, batch.mask, batch.other_ids, batch.other_mask)
    with torch.autocast(first.device.type, enabled=False):
        everybody = {"all_first": ranks.gather(first), "all_second": ranks.gather(second)}
        loss = losses.tension_in_batch(first, second, scale, start=ranks.start, **everybody)
    return loss, {"scale": scale.detach()}


def _judge(model: Twins, pairs: ScoredPairs, recipe: Recipe) -> Callable[[], dict[str, float]]:
    """Returns the validation of a run: figures of the encoder that counts, and of both by name."""
    similarity = Similarity(model, lambda ids, mask: model(ids, mask, ids, mask)[:2], model.f1, pairs, recipe)

    def measure() -> dict[str, float]:
        figures = dict(zip(("f1", "f2"), similarity(), strict=True))
        named = {f"{name}/{key}": value for name, found in figures.items() for key, value in found.items()}
        return figures[_kept(recipe.tension.select, named)] | named

    return measure


def _kept(select: str, scores: Mapping[str, float]) -> Which:
    if select == "f1":
        return "f1"
    if select == "best" and scores:
        first, second = (
            -math.inf if math.isnan(scores[key]) else scores[key] for key in ("f1/spearman", "f2/spearman")
        )
        return "f1" if first > second else "f2"
    return "f2"


def _check(student: Clip, recipe: Recipe) -> int:
    """Returns the batch size."""
    if student.text is None:
        raise BabelclipError("Contrastive tension trains a text encoder, and the model has none: load its text tower.")
    if recipe.train.kind != "tension" or recipe.loss.name != "auto":
        raise BabelclipError(
            f'Contrastive tension was given train.kind = "{recipe.train.kind}" and the loss {recipe.loss.name!r}: set '
            'kind = "tension" in [train], and nothing in [loss]; tension.variant names the loss.'
        )
    if recipe.student.head or recipe.student.embed_dim:
        raise BabelclipError(
            f"student.head = {recipe.student.head!r} and embed_dim = {recipe.student.embed_dim} were given, but "
            "tension is between pooled states without a head: drop both."
        )
    if recipe.train.micro_batch:
        raise BabelclipError(
            f"train.micro_batch = {recipe.train.micro_batch}, but tension has no gradient cache: drop it, and lower "
            "train.batch_size where memory is short."
        )
    original = recipe.tension.variant == "original"
    size, group = recipe.train.batch_size, recipe.tension.negatives + 1
    if original and size % group:
        raise BabelclipError(
            f"train.batch_size = {size} is not divisible by {group}, which is a positive with its "
            f"{group - 1} negatives: give a multiple, for example {-(-size // group) * group}."
        )
    return size or (-(-_ORIGINAL_BATCH // group) * group if original else _IN_BATCH)


def _twins(student: Clip, recipe: Recipe) -> Twins:
    assert student.text is not None  # _check refuses it
    tower = student.text
    if recipe.tension.variant == "in_batch" and not recipe.student.dropout:
        _LOG.warning("In-batch tension without dropout: f1 and f2 start equal and stay so. Set student.dropout = 0.1.")
    if any(True for _ in tower.head.parameters()):
        _LOG.warning("The head of %s is left out: tension is between its pooled states.", student.name or "the model")
    pooling = recipe.student.pooling or "mean"
    f1, f2 = (
        TextEncoder(copy.deepcopy(tower.backbone), pooling=pooling, head=[], tokenizer=tower.tokenizer).float()
        for _ in range(2)
    )
    return Twins(f1, f2, recipe.tension.scale if recipe.tension.variant == "in_batch" else None)


def _parameters(model: Twins, recipe: Recipe) -> dict[str, nn.Parameter]:
    chosen: dict[str, nn.Parameter] = {}
    for name, encoder in (("f1", model.f1), ("f2", model.f2)):
        selected = student_parameters(encoder, recipe.student)
        chosen |= {f"{name}.{key}": parameter for key, parameter in selected.items()}
        set_dropout(encoder, recipe.student.dropout)
    return chosen | ({} if model.log_scale is None else {"log_scale": model.log_scale})


def _clip(student: Clip, encoder: TextEncoder, name: Which, out: Path) -> Clip:
    return Clip(
        space=own_space("tension", encoder),
        text=encoder,
        languages=student.languages,
        name=f"{out.resolve().name}-{name}",
        attribution=student.attribution,
    )


def _step(run: loop.RunResult, recipe: Recipe) -> int:
    return run.best_step if recipe.train.keep == "best" and run.best_step is not None else run.step


def _facts(recipe: Recipe, sentences: Sentences, batch_size: int) -> dict[str, Any]:
    content = recipe_to_dict(recipe)
    return {
        "tension": content["tension"],
        "student": content["student"],
        "sentences": {"count": len(sentences), "tokens": sentences.tokens.fingerprint, "batch": batch_size},
    }
