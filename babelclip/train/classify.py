"""Fine-tuning a `Clip` to tell classes of pictures apart by their names, without losing what it knows besides.

AltCLIP's CIFAR10 script does so with prompts made of the label's number, every weight free at 50 times the rate of its
paper, and a loss in which pictures of one class are each other's negatives; models end up with one answer to
everything. Here: names of classes in a language x templates; losses that know of classes; a trainable set that is
small by default; figures before and after in a second language, which the run does not train on; and shares of the
tuned weights between which held-out pictures choose (`interpolate.py`).

What does not move is computed once: with `trainable = "heads"`, the default, a run costs one pass over the pictures.
Entry points: `classify` for a recipe, `train_classify` for a clip and pictures at hand.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from babelclip import languages
from babelclip.errors import BabelclipError
from babelclip.files import read_json, write_json
from babelclip.models.clip import Clip
from babelclip.train import loop, lora, losses, pictures
from babelclip.train.class_batches import ClassBatches, PromptTexts
from babelclip.train.class_inputs import LabelledPictures, Prompts, hold_out, read_class_folder
from babelclip.train.class_scores import Scorer
from babelclip.train.class_sets import open_pictures, open_prompts, part_of
from babelclip.train.device import training_device, versions
from babelclip.train.gather import clip_rows, sigmoid_rows, similarities
from babelclip.train.interpolate import Point, snapshot, sweep
from babelclip.train.pair_sources import open_towers
from babelclip.train.processes import Processes, Ranks, WholeBatchLoss, connect
from babelclip.train.recipe import Loss, Recipe, recipe_to_dict, write_recipe
from babelclip.train.recipe_checks import needed
from babelclip.train.towers import Pair, trained_parameters
from babelclip.train.trainable import count_weights, set_dropout, trained_state

_LOG = logging.getLogger(__name__)
# What moves of the text tower and of the picture tower, in the words of [towers].
_MOVES = {
    "text": ("free", "locked"),
    "text_head": ("head", "locked"),
    "image": ("locked", "free"),
    "image_head": ("locked", "head"),
    "heads": ("head", "head"),
    "all": ("free", "free"),
    "lora": ("lora", "lora"),
}
# Above it whole towers forget: AltCLIP's own contrastive rate is 2e-6, its script's 1e-4.
_HIGH_RATE = 2e-5
Scores = dict[str, dict[str, float]]


@dataclass(frozen=True)
class ClassifyResult:
    """What a run did; the Clip was trained in place and holds the weights of the share `alpha`.

    `before`, `tuned` and `after` (of the chosen share) hold figures of `validation`, and of `test` where there is one:
    `acc1`, `mean_per_class_recall`, `acc1/de` and so on. `points` are the shares tried, on validation. `pictures`
    counts those of each set, `skipped` those that could not be read.
    """

    run: loop.RunResult
    before: Scores
    tuned: Scores
    after: Scores
    points: tuple[Point, ...]
    alpha: float
    pictures: dict[str, int]
    skipped: dict[str, int]
    trained_weights: int


@dataclass(frozen=True)
class Trained:
    """What a recipe made: the clip, in the space that it now has, and how the run went."""

    clip: Clip
    result: ClassifyResult


def classify(recipe: Recipe, out: Path | str, *, resume: bool = False, progress: bool = True) -> Trained:
    """Loads what a recipe names, trains it, and returns the clip; nothing but the run is saved.

    Where the picture tower moved, its vectors of before do not compare with those of now: the clip gets a space of its
    own, named after the old one and the folder.

    Raises:
        BabelclipError: the recipe lacks a setting, or as `train_classify`.
    """
    out, settings = Path(out), recipe.classify
    given = read_class_folder(needed(settings.pictures, "classify.pictures"))
    held = {
        name: read_class_folder(folder, f"classify.{name}", given.classes)
        for name, folder in (("validation", settings.validation), ("test", settings.test))
        if folder
    }
    clip = open_towers(recipe)
    result = train_classify(clip, given, recipe, out, **held, resume=resume, progress=progress)
    text, image = _MOVES[settings.trainable]
    if image != "locked" and result.alpha > 0:
        clip.space = f"{clip.space}+{out.resolve().name}"
    if text != "locked":
        clip.languages = tuple(sorted({*clip.languages, languages.normalize(settings.lang)}))
    clip.name = out.resolve().name
    return Trained(clip, result)


def train_classify(
    clip: Clip,
    given: LabelledPictures,
    recipe: Recipe,
    out: Path | str,
    *,
    validation: LabelledPictures | None = None,
    test: LabelledPictures | None = None,
    resume: bool = False,
    progress: bool = True,
) -> ClassifyResult:
    """Trains what `classify.trainable` names, in place, chooses a share of it on validation, and returns how it went.

    Args:
        clip: both towers.
        given: pictures with their classes.
        recipe: sections train, classify, student (dropout, freeze_embeddings), towers (logit scale) and data (strict,
            workers) count. Accuracy is best where highest, so `train.best_is` is not read.
        out: folder for log, checkpoints, the resolved `recipe.toml`, `before.json`, at the end `classify.json`, and
            vectors of a locked picture tower.
        validation: held-out pictures of the same classes, for choices; None holds a share of `given` out.
        test: further ones, for the report only.
        resume: go on from the last checkpoint in `out`.
        progress: show bars on stderr.

    Raises:
        BabelclipError: settings, classes, names or pictures do not fit, or batches hold too few classes.
        LossError: the loss is not finite.
    """
    out = Path(out)
    recipe = _resolved(clip, recipe)
    assert clip.text is not None  # _resolved refuses a clip without
    assert clip.image is not None
    prompts = open_prompts(clip, given.classes, recipe)
    if validation is None:
        given, validation = hold_out(given, recipe.classify.validation_share, recipe.train.seed)
    sets = {"train": given, "validation": validation} | ({} if test is None else {"test": test})
    processes, device = connect(recipe.train), training_device(recipe.train)
    for tower in (clip.text, clip.image):
        tower.float().to(device).eval()
    out.mkdir(parents=True, exist_ok=True)
    of_text, of_image = recipe.towers.text, recipe.towers.image
    with contextlib.ExitStack() as stack:
        images, sets, places, skipped = open_pictures(clip, sets, recipe, out, processes, stack, progress)
        texts = [PromptTexts(each, clip.text, part_of(of_text)) for each in prompts]
        data = ClassBatches(sets["train"], places["train"], images, texts[0], recipe)
        pair = Pair.of(clip, recipe, text=of_text != "locked", image=of_image != "locked").to(device)
        held = {name: (places[name], sets[name].labels) for name in sets if name != "train"}
        scorer = Scorer(pair, images, texts, held)
        before = _before(scorer, out, resume, processes)
        parameters, moved = _free(pair, clip, recipe)
        start = snapshot(moved)
        if processes.writes:
            write_recipe(recipe, out)
        run = loop.run(
            pair,
            _step_loss(recipe.classify.loss),
            data,
            parameters,
            dataclasses.replace(recipe.train, best_is="highest"),
            out,
            validate=lambda: scorer("validation"),
            after_step=pair.clamp(recipe.towers.max_logit_scale) if recipe.towers.logit_scale == "free" else None,
            resume=resume,
            facts=_facts(recipe, data),
            about={"versions": versions()},
            progress=progress,
        )
        pair.eval()
        moved = _whole(pair, clip, recipe, parameters, moved)
        tuned, after, alpha = before, before, 1.0
        points: tuple[Point, ...] = ()
        if run.status == "finished":
            tuned, after, points, alpha = _chosen(scorer, before, moved, start, recipe)
        pair.give_back(clip)
    if isinstance(images, pictures.Pixels) and images.unreadable:
        skipped[pictures.UNREADABLE] = len(images.unreadable)
    counts = {name: len(each) for name, each in sets.items()}
    result = ClassifyResult(run, before, tuned, after, points, alpha, counts, skipped, count_weights(parameters))
    if run.status == "finished" and processes.writes:
        write_json(out / "classify.json", _summary(result, prompts))
        _warn_of_collapse(result, prompts)
    return result


def _resolved(clip: Clip, recipe: Recipe) -> Recipe:
    """Returns the recipe with [towers] and [loss] as `classify.trainable` and `classify.loss` want them."""
    settings, train = recipe.classify, recipe.train
    if clip.text is None or clip.image is None:
        raise BabelclipError("Classes are told apart by pictures and names: load the model with both towers.")
    if train.kind != "classify" or recipe.loss.name != "auto":
        raise BabelclipError(
            f'Class fine-tuning was given train.kind = "{train.kind}" and the loss {recipe.loss.name!r}: set '
            'kind = "classify" in [train], and nothing in [loss]; classify.loss names the loss.'
        )
    if train.micro_batch or recipe.towers.image_features or recipe.towers.text_features:
        raise BabelclipError(
            "Class fine-tuning was given train.micro_batch or features in [towers], which it does not read: drop them; "
            "what is locked is computed once in the folder of the run."
        )
    if settings.trainable in ("text", "image", "all") and train.lr > _HIGH_RATE:
        _LOG.warning(
            "train.lr = %g moves whole towers (classify.trainable = %r) faster than they can take: they forget what "
            'they were not shown. Set about 2e-6 to 2e-5, or trainable = "heads" or "lora".',
            train.lr,
            settings.trainable,
        )
    text, image = _MOVES[settings.trainable]
    return dataclasses.replace(
        recipe,
        towers=dataclasses.replace(recipe.towers, text=text, image=image),
        loss=Loss(name="sigmoid" if settings.loss == "sigmoid" else "clip"),
    )


def _before(scorer: Scorer, out: Path, resume: bool, processes: Processes) -> Scores:
    """Returns the figures of the start, which a resumed run need not measure again."""
    path = out / "before.json"
    known: Scores = processes.told(read_json(path) if resume and path.exists() else {})
    # A run may be resumed with another second language.
    wanted = {each.prompts.lang for each in scorer.texts}
    measured_in = [{key.partition("/")[2] for key in figures} - {""} for figures in known.values()]
    if known.keys() == scorer.sets.keys() and all(langs == wanted for langs in measured_in):
        return known
    measured = {name: scorer(name) for name in scorer.sets}
    if processes.writes:
        write_json(path, measured)
    return measured


def _free(pair: Pair, clip: Clip, recipe: Recipe) -> tuple[dict[str, nn.Parameter], dict[str, Tensor]]:
    """Returns what trains, by its name in the pair, and the tensors of the model that move by it."""
    if recipe.classify.trainable != "lora":
        chosen = trained_parameters(pair, clip, recipe)
        return chosen, trained_state(pair, chosen)
    parameters: dict[str, nn.Parameter] = {}
    moved: dict[str, Tensor] = {}
    for name, tower in (("text", clip.text), ("image", clip.image)):
        assert tower is not None  # checked by the caller
        added = lora.add_adapters(tower, recipe.classify.rank, recipe.train.seed)
        parameters |= {f"{name}.{key}": parameter for key, parameter in added.items()}
        moved |= {f"{name}.{key}": tensor for key, tensor in lora.adapted_weights(tower).items()}
    set_dropout(clip.text, recipe.student.dropout)  # type: ignore[arg-type]
    # Statistics of the picture tower stand still, as all of it but the adapters does.
    clip.image.eval()  # type: ignore[union-attr]
    scalars = {"log_scale": pair.log_scale} | ({} if pair.bias is None else {"bias": pair.bias})
    for name, scalar in scalars.items():
        scalar.requires_grad_(recipe.towers.logit_scale == "free")
        if scalar.requires_grad:
            parameters[name] = scalar
            moved[name] = scalar.detach()
    return parameters, moved


def _whole(
    pair: Pair, clip: Clip, recipe: Recipe, parameters: Mapping[str, nn.Parameter], moved: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Returns the tensors that moved, in the model as it is saved: adapters are merged and gone."""
    if recipe.classify.trainable != "lora":
        return trained_state(pair, parameters)
    for tower in (clip.text, clip.image):
        assert tower is not None  # checked by the caller
        lora.merge_adapters(tower)
    tensors = pair.state_dict()
    return {name: tensors[name] for name in moved}


def _chosen(
    scorer: Scorer, before: Scores, moved: Mapping[str, Tensor], start: Mapping[str, Tensor], recipe: Recipe
) -> tuple[Scores, Scores, tuple[Point, ...], float]:
    """Returns the figures of the tuned and of the chosen weights, the shares tried and the chosen one, which stays."""
    tuned = {name: scorer(name) for name in scorer.sets}
    shares = recipe.classify.interpolate
    if not shares:
        return tuned, tuned, (Point(1.0, tuned["validation"]),), 1.0

    def score() -> Mapping[str, float]:
        return scorer("validation")

    known = {0.0: before["validation"], 1.0: tuned["validation"]}
    points, best = sweep(moved, start, shares, score, recipe.train.best_metric or "acc1", known)
    ends = {0.0: before, 1.0: tuned}
    after = ends[best.alpha] if best.alpha in ends else {name: scorer(name) for name in scorer.sets}
    return tuned, after, tuple(points), best.alpha


def _step_loss(name: str) -> loop.StepLoss:
    if name == "class_vectors":
        return _class_vectors

    def step_loss(
        model: nn.Module, batch: Mapping[str, Tensor], ranks: Ranks
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        images, texts, scale, bias = model(batch)
        labels = batch["labels"]
        with torch.autocast(images.device.type, enabled=False):
            groups = labels
            if name == "diagonal":
                groups = torch.arange(ranks.start, ranks.start + len(labels), device=labels.device)
            cosines = similarities(images, texts[batch["text_of"]], groups[:, None], ranks)
            figures: dict[str, Tensor | float] = {"logit_scale": scale.detach()}
            if name == "sigmoid":
                return sigmoid_rows(cosines, scale, bias), {**figures, "logit_bias": bias.detach()}
            return clip_rows(cosines, scale), figures

    return WholeBatchLoss(step_loss)


def _class_vectors(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor | float]]:
    images, classes, scale, _ = model(batch)
    with torch.autocast(images.device.type, enabled=False):
        loss = losses.class_vector_loss(images, classes, scale, batch["labels"])
    return loss, {"logit_scale": scale.detach()}


def _facts(recipe: Recipe, data: ClassBatches) -> dict[str, Any]:
    content = recipe_to_dict(recipe)
    settings = content["classify"]
    towers = {key: content["towers"][key] for key in ("text", "image", "logit_scale", "max_logit_scale")}
    return {
        "classify": {key: settings[key] for key in ("loss", "trainable", "rank", "lang")},
        "towers": towers,
        "dropout": recipe.student.dropout,
        "pooling": recipe.student.pooling,
        "data": data.fingerprint,
    }


def _summary(result: ClassifyResult, prompts: list[Prompts]) -> dict[str, Any]:
    return {
        "languages": [each.lang for each in prompts],
        "classes": {each.lang: list(each.names) for each in prompts},
        "templates": {each.lang: list(each.templates) for each in prompts},
        "pictures": result.pictures,
        "skipped": result.skipped,
        "steps": result.run.step,
        "trained_weights": result.trained_weights,
        "before": result.before,
        "tuned": result.tuned,
        "points": [dataclasses.asdict(point) for point in result.points],
        "alpha": result.alpha,
        "after": result.after,
    }


def _warn_of_collapse(result: ClassifyResult, prompts: list[Prompts]) -> None:
    for each in prompts:
        key = f"classes_predicted/{each.lang}"
        if result.tuned["validation"][key] < 2 <= result.before["validation"][key]:
            _LOG.warning(
                "The tuned model has one answer to every picture in %s: it has collapsed. Lower train.lr, raise "
                'train.batch_size, or set classify.trainable = "heads"; the share %g of it was kept.',
                each.lang,
                result.alpha,
            )
