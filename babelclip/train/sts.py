"""Supervised sentence similarity: a text encoder whose cosines follow the scores of people, and a stage on NLI before.

* `sts.stage = "sts"`: (cos(u, v) - score / 5)^2, the regression of Sentence-BERT (arXiv 1908.10084).
* `sts.stage = "nli"` with `nli_loss = "softmax"`: a linear layer on (u, v, |u - v|) tells entailment, neutral and
  contradiction apart; it is thrown away afterwards.
* `nli_loss = "ranking"`: a premise finds its entailed hypothesis among all of the batch and their contradictions, the
  hard negatives (cosines times `sts.scale`). A candidate with the same tokens as the premise or as its entailed
  hypothesis is no negative, nor is the entailed hypothesis of an equal premise.

The vectors are those of the encoder as it is, head included. The best step is that with the highest Spearman on scored
pairs. Entry points: `sts` for a recipe, `train_sts` and `train_nli` for a student and pairs at hand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from babelclip.errors import BabelclipError
from babelclip.models.clip import Clip
from babelclip.models.text import TextEncoder
from babelclip.train import loop, losses
from babelclip.train.batches import even_batches
from babelclip.train.device import training_device, versions
from babelclip.train.pairs import HIGHEST_SCORE, LABELS, NliPairs, ScoredPairs, read_nli, read_scored
from babelclip.train.recipe import Recipe, recipe_to_dict, write_recipe
from babelclip.train.recipe_checks import needed
from babelclip.train.sentences import Sentences, distinct_sentences, own_space
from babelclip.train.similarity import Similarity
from babelclip.train.students import open_student, with_pooling
from babelclip.train.trainable import count_weights, set_dropout, student_parameters

_DEFAULT_BATCH = 16


@dataclass(frozen=True)
class StsResult:
    """What a run did; the student was trained in place.

    `scores` are `spearman` and `pearson` of the student as it is left, empty where nothing was measured. `examples` are
    the pairs, or triplets, that were trained on; `skipped` counts what was left out of those given, by reason.
    """

    run: loop.RunResult
    scores: dict[str, float]
    examples: int
    skipped: dict[str, int]
    trained_weights: int


class Batch(NamedTuple):
    """Texts of B examples, column by column: all first ones, then all second ones, then all third ones if there are.

    ids and mask are (B * columns, T); `texts` (B, columns) int64 numbers equal texts alike; `values` (B,) holds scores
    divided by 5, or classes.
    """

    ids: Tensor
    mask: Tensor
    texts: Tensor
    values: Tensor


@dataclass(frozen=True)
class Trained:
    """A trained model, with what its run did."""

    clip: Clip
    result: StsResult


def sts(recipe: Recipe, out: Path | str, *, resume: bool = False, progress: bool = True) -> Trained:
    """Loads what a recipe names and trains its stage, `sts` or `nli`; nothing but the run is saved.

    The model gets a space of its own: no picture tower and no stored vector compares with it any more.

    Raises:
        BabelclipError: the recipe lacks student.model or sts.pairs, or as `train_sts` and `train_nli`.
    """
    out = Path(out)
    clip = open_student(needed(recipe.student.model, "student.model"))
    student = with_pooling(clip.text_tower(), recipe.student.pooling)
    paths = needed(recipe.sts.pairs, "sts.pairs")
    validation = read_scored(*recipe.sts.validation) if recipe.sts.validation else None
    how: dict[str, Any] = {"validation": validation, "resume": resume, "progress": progress}
    if recipe.sts.stage == "nli":
        result = train_nli(student, read_nli(*paths), recipe, out, **how)
    else:
        result = train_sts(student, read_scored(*paths), recipe, out, **how)
    clip = dataclasses.replace(
        clip, text=student, space=own_space("sts", student), name=out.resolve().name, logit_scale=None, logit_bias=None
    )
    return Trained(clip, result)


def train_sts(
    student: TextEncoder,
    pairs: ScoredPairs,
    recipe: Recipe,
    out: Path | str,
    *,
    validation: ScoredPairs | None = None,
    resume: bool = False,
    progress: bool = True,
) -> StsResult:
    """Trains `student` in place on scored pairs, and returns how it went.

    Args:
        student: is brought to float32 and moved to the device of the run.
        pairs: scored from 0 to 5.
        recipe: sections train, student and sts count; `train.best_is` is not read, the highest correlation is best.
        out: folder for log, checkpoints and the resolved `recipe.toml`.
        validation: held-out scored pairs.
        resume: go on from the last checkpoint in `out`.
        progress: show a bar on stderr.

    Raises:
        BabelclipError: settings do not fit, or there is no pair.
        LossError: the loss is not finite.
    """
    _check(student, recipe, "sts")
    data = _examples(student, (pairs.first, pairs.second), pairs.scores / HIGHEST_SCORE, recipe)

    def step_loss(model: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        first, second = model(batch.ids, batch.mask).float().chunk(2)
        with torch.autocast(first.device.type, enabled=False):
            return losses.cosine_regression(first, second, batch.values), {}

    return _run(student, student, step_loss, data, recipe, Path(out), validation, resume, progress)


def train_nli(
    student: TextEncoder,
    pairs: NliPairs,
    recipe: Recipe,
    out: Path | str,
    *,
    validation: ScoredPairs | None = None,
    resume: bool = False,
    progress: bool = True,
) -> StsResult:
    """Trains `student` in place on pairs with NLI classes, and returns how it went; arguments as in `train_sts`.

    Raises:
        BabelclipError: settings do not fit; or, for ranking, no premise has both an entailed and a contradicting
            hypothesis.
        LossError: the loss is not finite.
    """
    _check(student, recipe, "nli")
    if recipe.sts.nli_loss == "ranking":
        columns, left_out = nli_triplets(pairs)
        data = _examples(student, columns, np.zeros(len(columns[0])), recipe, left_out)
        ranking = loop.WholeBatchLoss(_ranking(recipe.sts.scale))
        return _run(student, student, ranking, data, recipe, Path(out), validation, resume, progress)
    data = _examples(student, (pairs.first, pairs.second), pairs.labels, recipe)
    model = _Classifier(student, recipe.train.seed)
    return _run(student, model, _softmax, data, recipe, Path(out), validation, resume, progress)


def nli_triplets(pairs: NliPairs) -> tuple[tuple[list[str], list[str], list[str]], int]:
    """Returns premises, entailed and contradicting hypotheses, one row a triplet, and the premises without a triplet.

    Each entailed hypothesis makes a row; the contradictions of its premise take turns.

    Raises:
        BabelclipError: no premise has both.
    """
    of_premise: dict[str, tuple[list[str], list[str]]] = {}
    for premise, hypothesis, label in zip(pairs.first, pairs.second, pairs.labels, strict=True):
        entailed, contradicting = of_premise.setdefault(premise, ([], []))
        if LABELS[label] != "neutral":
            (entailed if LABELS[label] == "entailment" else contradicting).append(hypothesis)
    rows = [
        (premise, hypothesis, contradicting[place % len(contradicting)])
        for premise, (entailed, contradicting) in of_premise.items()
        for place, hypothesis in enumerate(entailed)
        if contradicting
    ]
    if not rows:
        raise BabelclipError(
            f"Of {len(of_premise)} premises none has both an entailed and a contradicting hypothesis, which ranking "
            'needs: give other pairs, or set nli_loss = "softmax" in [sts].'
        )
    premises, positives, negatives = ([row[place] for row in rows] for place in range(3))
    return (premises, positives, negatives), len(of_premise) - len(set(premises))


class _Classifier(nn.Module):
    """A student with a linear layer on (u, v, |u - v|) -> three classes."""

    def __init__(self, student: TextEncoder, seed: int) -> None:
        super().__init__()
        self.student = student
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.classes = nn.Linear(3 * student.embed_dim, len(LABELS))

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the vectors of all texts (2 B, D) and the logits of the pairs (B, 3)."""
        features = self.student(ids, mask).float()
        first, second = features.chunk(2)
        return features, self.classes(torch.cat([first, second, (first - second).abs()], dim=-1))


def _softmax(model: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor | float]]:
    _, logits = model(batch.ids, batch.mask)
    right = (logits.argmax(dim=-1) == batch.values).float().mean()
    return functional.cross_entropy(logits.float(), batch.values), {"accuracy": right}


def _ranking(scale: float) -> Callable[..., tuple[Tensor, Mapping[str, Tensor | float]]]:
    def loss(model: nn.Module, batch: Batch, ranks: loop.Ranks) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        anchors, positives, negatives = model(batch.ids, batch.mask).float().chunk(3)
        own = torch.arange(len(anchors), device=anchors.device) + ranks.start
        ignored = no_negatives(batch.texts, ranks.gather(batch.texts))
        with torch.autocast(anchors.device.type, enabled=False):
            candidates = torch.cat([ranks.gather(positives), ranks.gather(negatives)])
            return losses.ranking(anchors, candidates, own, scale, ignored), {}

    return loss


def no_negatives(own: Tensor, every: Tensor) -> Tensor:
    """Returns bool (B, 2 M): which of the M entailed, then M contradicting hypotheses are no negatives of B premises.

    Args:
        own: numbers of premise, entailed and contradicting hypothesis of each row (B, 3); equal texts, equal numbers.
        every: the same of the whole batch, which several processes may share (M, 3).
    """
    anchors, positives = own[:, :1], own[:, 1:2]
    candidates = torch.cat([every[:, 1], every[:, 2]])[None]
    of_equal_premise = torch.cat([every[:, 0] == anchors, torch.zeros_like(every[:, 0] == anchors)], dim=1)
    return (candidates == positives) | (candidates == anchors) | of_equal_premise


class _Examples:
    """The batches of a run: rows are examples of two or three texts each."""

    def __init__(self, sentences: Sentences, texts: np.ndarray, values: np.ndarray, recipe: Recipe) -> None:
        self.sentences, self.texts, self.values = sentences, texts, values
        self.batch_size, self.seed = recipe.train.batch_size or _DEFAULT_BATCH, recipe.train.seed
        self.skipped: dict[str, int] = {}

    def plan(self, epoch: int) -> list[np.ndarray]:
        return even_batches(len(self.texts), self.batch_size, epoch=epoch, seed=self.seed)

    def load(self, rows: np.ndarray) -> Batch:
        texts = self.texts[rows]
        # Column by column through one forward pass.
        ids, mask = self.sentences.tokens.load(texts.T.reshape(-1))
        return Batch(ids, mask, torch.from_numpy(texts), torch.from_numpy(self.values[rows]))

    def tokens(self, rows: np.ndarray) -> int:
        return int(self.sentences.tokens.lengths[self.texts[rows]].sum())


def _examples(
    student: TextEncoder, columns: tuple[Any, ...], values: np.ndarray, recipe: Recipe, without_triplet: int = 0
) -> _Examples:
    sentences = distinct_sentences(student, [text for column in columns for text in column], recipe.student)
    texts = np.stack(np.split(sentences.of_text, len(columns)), axis=1)
    whole = (texts >= 0).all(axis=1)
    if not whole.any():
        raise BabelclipError(
            f"{len(texts)} pairs were given, and none is left: give pairs, or raise student.max_length."
        )
    values = values.astype(np.int64 if values.dtype.kind == "i" else np.float32)
    data = _Examples(sentences, texts[whole], values[whole], recipe)
    counts = {"longer than student.max_length": int((~whole).sum()), "premise without a triplet": without_triplet}
    data.skipped = {reason: count for reason, count in counts.items() if count}
    return data


def _run(
    student: TextEncoder,
    model: nn.Module,
    step_loss: loop.StepLoss,
    data: _Examples,
    recipe: Recipe,
    out: Path,
    validation: ScoredPairs | None,
    resume: bool,
    progress: bool,
) -> StsResult:
    model.float().to(training_device(recipe.train))
    parameters = student_parameters(student, recipe.student)
    set_dropout(student, recipe.student.dropout)
    if model is not student:
        parameters = {f"student.{name}": parameter for name, parameter in parameters.items()}
        parameters |= {name: p for name, p in model.named_parameters() if not name.startswith("student.")}
    validate = None if validation is None else _validation(student, model, validation, recipe)
    write_recipe(recipe, out)
    run = loop.run(
        model,
        step_loss,
        data,
        parameters,
        dataclasses.replace(recipe.train, best_is="highest"),
        out,
        validate=validate,
        resume=resume,
        facts=_facts(recipe, data),
        about={"versions": versions()},
        progress=progress,
    )
    student.eval()
    # Again, because the loop's last figures may be of a later step than the weights that are kept.
    scores = validate() if validate and run.status == "finished" else {}
    return StsResult(run, scores, len(data.texts), data.skipped, count_weights(parameters))


def _validation(
    student: TextEncoder, model: nn.Module, pairs: ScoredPairs, recipe: Recipe
) -> Callable[[], dict[str, float]]:
    def vectors(ids: Tensor, mask: Tensor) -> tuple[Tensor]:
        made = model(ids, mask)
        return (made if isinstance(made, Tensor) else made[0],)

    similarity = Similarity(model, vectors, student, pairs, recipe)
    return lambda: similarity()[0]


def _check(student: TextEncoder, recipe: Recipe, stage: str) -> None:
    if recipe.train.kind != "sts" or recipe.sts.stage != stage or recipe.loss.name != "auto":
        raise BabelclipError(
            f'Training on {"scored" if stage == "sts" else "NLI"} pairs was given train.kind = "{recipe.train.kind}", '
            f'sts.stage = "{recipe.sts.stage}" and the loss {recipe.loss.name!r}: set kind = "sts" in [train], '
            f'stage = "{stage}" in [sts], and nothing in [loss].'
        )
    if recipe.student.pooling not in ("", student.pooling):
        raise BabelclipError(
            f'student.pooling = "{recipe.student.pooling}", but the student has {student.pooling!r}: build it with '
            "that pooling, or drop the setting."
        )
    if recipe.train.micro_batch:
        raise BabelclipError(
            f"train.micro_batch = {recipe.train.micro_batch}, but this training has no gradient cache: drop it, and "
            "lower train.batch_size where memory is short."
        )


def _facts(recipe: Recipe, data: _Examples) -> dict[str, Any]:
    content = recipe_to_dict(recipe)
    return {
        "sts": {key: content["sts"][key] for key in ("stage", "nli_loss", "scale")},
        "student": content["student"],
        "pairs": {
            "count": len(data.texts),
            "tokens": data.sentences.tokens.fingerprint,
            "texts": int(data.texts.sum()),
            "values": float(np.dot(data.values, np.arange(1, len(data.values) + 1))),
            "batch": data.batch_size,
        },
    }
