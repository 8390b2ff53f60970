"""Contrastive training of a `Clip` on captioned pictures, with either tower locked in part or whole.

CLIP (Radford et al., arXiv 2103.00020), SigLIP (Zhai et al., arXiv 2303.15343) and locked-image tuning (LiT, Zhai et
al., arXiv 2111.07991), with which AltCLIP's second stage and OpenCLIP's frozen H/14 were trained. A locked tower runs
once for each item, not once a step, and its vectors may come from a store. Entry points: `train_contrastive` with
everything in hand, `contrastive` for a recipe.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from babelclip.data.captions import Captions
from babelclip.errors import BabelclipError
from babelclip.models.clip import Clip
from babelclip.models.decoding import decoder_pool
from babelclip.store import EmbeddingStore
from babelclip.train import loop, pictures
from babelclip.train.device import training_device, versions
from babelclip.train.gather import Similarities, clip_rows, mean_of_rows, sigmoid_rows
from babelclip.train.gradient_cache import check_independent_rows, loss_in_parts
from babelclip.train.pair_batches import LiveTexts, PairBatches, group_numbers, warn_of_one_language
from babelclip.train.pair_inputs import PairInputs
from babelclip.train.pair_sources import open_benchmark, open_pairs, open_towers, store_of
from babelclip.train.processes import Processes, Ranks, WholeBatchLoss, connect
from babelclip.train.recall import Benchmark, recall_of
from babelclip.train.recipe import Recipe, recipe_to_dict, write_recipe
from babelclip.train.recipe_checks import check_best
from babelclip.train.tar_batches import TarBatches, check_streaming
from babelclip.train.tar_shards import TarShards
from babelclip.train.towers import Pair, is_locked, trained_parameters
from babelclip.train.trainable import count_weights

_LOSSES = ("clip", "sigmoid")


@dataclass(frozen=True)
class ContrastiveResult:
    """What a contrastive run did; the Clip was trained in place, its `logit_scale` and `logit_bias` included.

    `skipped` counts captions that were left out, by reason, and pictures that were found to be unreadable on the way;
    `truncated` counts captions that were cut, `languages` those that were trained on by language.
    """

    run: loop.RunResult
    captions: int
    pictures: int
    trained_weights: int
    logit_scale: float
    skipped: dict[str, int] = field(default_factory=dict)
    truncated: int = 0
    languages: dict[str, int] = field(default_factory=dict)


def train_contrastive(
    clip: Clip,
    captions: Captions | TarShards,
    recipe: Recipe,
    out: Path | str,
    *,
    paths: Mapping[str, Path] | None = None,
    resume: bool = False,
    image_features: EmbeddingStore | None = None,
    text_features: EmbeddingStore | None = None,
    benchmark: Benchmark | None = None,
    validate: Callable[[], Mapping[str, float]] | None = None,
    progress: bool = True,
) -> ContrastiveResult:
    """Trains the free parts of `clip` in place, sets its logit scale and bias, and returns how it went.

    Args:
        clip: both towers; a locked tower may be absent where its vectors are given.
        captions: rows with a picture's name in `image`; several rows may share a picture, a text or a label, and are
            positives of each other. `TarShards` are read shard by shard, so they may be larger than memory.
        recipe: sections train, loss, data (weights, strict, workers), student (dropout, freeze_embeddings, long) and
            towers count. `train.batch_size` captions a batch (64 where it is 0); accumulated batches do not see each
            other's negatives, parts of `train.micro_batch` rows do.
        out: folder for log, checkpoints, the resolved `recipe.toml`, and vectors of a locked tower.
        paths: where each picture lies, by its name; None: the name is the path.
        resume: go on from the last checkpoint in `out`.
        image_features: raw vectors of the pictures by name; needs `towers.image = "locked"`. Without it they are
            computed once, or at each step with `towers.image_features = "live"`.
        text_features: raw vectors of the captions by id; as above for the text tower.
        benchmark: held-out captions with pictures, for R@k while training.
        validate: further figures such as {"accuracy": …}, measured with the towers as they are.
        progress: show bars on stderr.

    Raises:
        BabelclipError: settings, towers, stores or pictures do not fit, or a batch has fewer than two distinct texts.
        LossError: the loss is not finite.
    """
    out = Path(out)
    _check(clip, recipe, image_features, text_features)
    if benchmark is not None:
        check_best(recipe.train.best_metric or "R@1", recipe.train)
    processes = connect(recipe.train)
    device = training_device(recipe.train)
    for tower in (clip.text, clip.image):
        if tower is not None:
            tower.float().to(device)
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        data = _data(clip, captions, recipe, out, processes, stack, progress, paths, image_features, text_features)
        warn_of_one_language(clip, list(data.languages), recipe)
        pair = Pair.of(clip, recipe, text=data.live_texts, image=data.unreadable is not None)
        parameters = trained_parameters(pair, clip, recipe)
        if recipe.train.micro_batch:
            check_independent_rows(pair)
        recall = None if benchmark is None else recall_of(benchmark, clip, pair, recipe, image_features, progress)
        if processes.writes:
            write_recipe(recipe, out)
        content = recipe_to_dict(recipe)
        towers = {key: value for key, value in content["towers"].items() if key.split("_")[-1] not in _PLACES}
        result = loop.run(
            pair,
            _step_loss(recipe),
            data.batches,
            parameters,
            recipe.train,
            out,
            validate=_both(recall, validate),
            after_step=pair.clamp(recipe.towers.max_logit_scale) if recipe.towers.logit_scale == "free" else None,
            resume=resume,
            facts={
                "towers": towers,
                "loss": content["loss"],
                "dropout": recipe.student.dropout,
                "pooling": recipe.student.pooling,
                "captions": data.batches.fingerprint,
            },
            about={"versions": versions(), "languages": data.languages},
            progress=progress,
        )
    pair.eval()
    pair.give_back(clip)
    if data.unreadable:
        data.skipped[pictures.UNREADABLE] = len(data.unreadable)
    numbers = (data.captions, data.pictures, count_weights(parameters), clip.logit_scale or float("nan"))
    return ContrastiveResult(result, *numbers, data.skipped, data.truncated, data.languages)


class _Data(NamedTuple):
    """What a run reads; `unreadable` is None where no picture is decoded in its steps."""

    batches: PairBatches | TarBatches
    live_texts: bool
    captions: int
    pictures: int
    languages: dict[str, int]
    skipped: dict[str, int]
    truncated: int
    unreadable: pictures.Unreadable | None


def _data(
    clip: Clip,
    captions: Captions | TarShards,
    recipe: Recipe,
    out: Path,
    processes: Processes,
    stack: contextlib.ExitStack,
    progress: bool,
    paths: Mapping[str, Path] | None,
    image_features: EmbeddingStore | None,
    text_features: EmbeddingStore | None,
) -> _Data:
    if isinstance(captions, TarShards):
        check_streaming(recipe)
        assert clip.text is not None  # checked by the caller, as no vectors are given
        assert clip.image is not None
        rows = int(captions.sizes.sum())
        pool = stack.enter_context(decoder_pool(recipe.data.workers, rows))
        streamed = stack.enter_context(
            contextlib.closing(TarBatches(captions, clip.text, clip.image.preprocess, pool, recipe))
        )
        skipped, languages = dict(captions.skipped), captions.languages
        return _Data(streamed, True, rows, rows, languages, skipped, 0, streamed.unreadable)
    inputs = PairInputs(clip, recipe, out, processes, stack, progress)
    captions, vectors = inputs.pictured(captions, paths, image_features)
    captions, texts = inputs.of_texts(captions, text_features)
    images = inputs.of_pictures(captions, paths, vectors)
    groups = group_numbers(captions)
    batches = PairBatches(texts, images, groups, captions, recipe)
    unreadable = images.unreadable if isinstance(images, pictures.Pixels) else None
    count, shown, live = len(captions), int(groups[:, 1].max()) + 1, isinstance(texts, LiveTexts)
    languages = captions.language_counts()
    return _Data(batches, live, count, shown, languages, inputs.skipped, inputs.truncated, unreadable)


# Settings that say where something lies: another place for the same content is the same run.
_PLACES = ("features", "model")


@dataclass(frozen=True)
class Trained:
    """What a recipe made: the clip, in the space that it now has, and how the run went."""

    clip: Clip
    result: ContrastiveResult


def contrastive(recipe: Recipe, out: Path | str, *, resume: bool = False, progress: bool = True) -> Trained:
    """Loads what a recipe names, trains it, and returns the clip; nothing but the run is saved.

    Where the picture tower moved, its vectors of before do not compare with those of now: the clip gets a space of its
    own, named after the old one and the folder.

    Raises:
        BabelclipError: the recipe lacks a setting, or as `train_contrastive`.
    """
    out = Path(out)
    clip = open_towers(recipe)
    captions: Captions | TarShards
    paths: dict[str, Path] | None = None
    if recipe.data.stream:
        check_streaming(recipe)
        data = recipe.data
        # Those of a lane, and of the next ones, also while lanes change.
        captions = TarShards.open(
            data.captions,
            out / "shards",
            connect(recipe.train),
            lang=data.lang,
            strict=data.strict,
            kept=2 * data.lanes,
            progress=progress,
        )
    else:
        captions, paths = open_pairs(recipe.data.captions, "data.captions", recipe.data.lang)
    result = train_contrastive(
        clip,
        captions,
        recipe,
        out,
        paths=paths,
        resume=resume,
        image_features=store_of(recipe.towers.image_features),
        text_features=store_of(recipe.towers.text_features),
        benchmark=open_benchmark(recipe),
        progress=progress,
    )
    if not is_locked(recipe.towers.image):
        clip.space = f"{clip.space}+{out.resolve().name}"
    if not is_locked(recipe.towers.text):
        clip.languages = tuple(sorted({*clip.languages, *result.languages}))
    clip.name = out.resolve().name
    return Trained(clip, result)


def _step_loss(recipe: Recipe) -> WholeBatchLoss:
    terms, rows = recipe.loss_terms(), recipe.train.micro_batch

    def step_loss(
        model: nn.Module, batch: Mapping[str, Tensor], ranks: Ranks
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        figures: dict[str, Tensor | float] = {}

        def loss(images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
            # In fp32 whatever the precision of the towers: a scale of 100 makes one digit of a cosine a whole logit.
            with torch.autocast(images.device.type, enabled=False):
                values = mean_of_rows(
                    images, texts, batch["groups"], ranks, lambda cosines: _terms(cosines, terms, scale, bias)
                )
                if "sigmoid" in terms:
                    figures["logit_bias"] = bias.detach()
                figures["logit_scale"] = scale.detach()
                if len(terms) > 1:
                    figures.update(dict(zip(terms, values.detach(), strict=True)))
                return values.sum()

        return loss_in_parts(model, batch, loss, ranks, rows), figures

    return WholeBatchLoss(step_loss)


def _terms(cosines: Similarities, terms: Mapping[str, float], scale: Tensor, bias: Tensor) -> Tensor:
    """Returns each term of the loss times its weight."""
    losses = {"clip": lambda: clip_rows(cosines, scale), "sigmoid": lambda: sigmoid_rows(cosines, scale, bias)}
    return torch.stack([losses[name]() * weight for name, weight in terms.items()])


def _both(
    first: Callable[[], Mapping[str, float]] | None, second: Callable[[], Mapping[str, float]] | None
) -> Callable[[], Mapping[str, float]] | None:
    if first is None or second is None:
        return first or second
    return lambda: {**first(), **second()}


def _check(clip: Clip, recipe: Recipe, images: EmbeddingStore | None, texts: EmbeddingStore | None) -> None:
    wrong = [term for term in recipe.loss_terms() if term not in _LOSSES]
    if recipe.train.kind != "contrastive" or wrong:
        raise BabelclipError(
            f'Contrastive training was given train.kind = "{recipe.train.kind}" and the loss {recipe.loss.name!r}: '
            'set kind = "contrastive" in [train] and name = "clip" (or nothing), "sigmoid" or both in [loss].'
        )
    if recipe.mix:
        raise BabelclipError(
            "The recipe has a [mix], which contrastive training does not read: name the captions in data.captions, and "
            "how often each language is seen in data.weights."
        )
    if (clip.text is None and texts is None) or (clip.image is None and images is None):
        raise BabelclipError(
            "Contrastive training needs both towers: load the model with towers='both', or give the vectors of the "
            "locked one."
        )
    stores = (
        ("image", recipe.towers.image, images, "Stored picture"),
        ("text", recipe.towers.text, texts, "Stored text"),
    )
    for name, trainable, store, what in stores:
        if store is None:
            continue
        if not is_locked(trainable):
            raise BabelclipError(
                f'{what} vectors do not move, but towers.{name} = {trainable!r}: set it to "locked", '
                f"or train without {name}_features."
            )
        clip.check_space(store.space, f"store {store.path} and the model {clip.name or clip.space}")
        if store.dim != clip.embed_dim:
            raise BabelclipError(
                f"{what} vectors have {store.dim} dimensions, the model {clip.embed_dim}: encode again."
            )
