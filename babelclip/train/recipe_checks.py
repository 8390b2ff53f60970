"""Rules between the settings of a recipe."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, TypeVar

from babelclip.errors import BabelclipError, did_you_mean
from babelclip.train.settings import toml

if TYPE_CHECKING:
    from babelclip.train.recipe import Classify, Recipe, Train


Given = TypeVar("Given", str, tuple[str, ...])


def needed(value: Given, setting: str) -> Given:
    """Returns the value of a setting that a training cannot do without.

    Raises:
        BabelclipError: it is empty; the message says where to write it.
    """
    if not value:
        section, key = setting.split(".")
        raise BabelclipError(
            f"The recipe does not say {setting}, which this training needs. Write {key} under [{section}], or give "
            f"--set {setting}=…"
        )
    return value


def check_recipe(recipe: Recipe, known_losses: Collection[str]) -> None:
    """Checks what no single setting can say of itself.

    Raises:
        BabelclipError: two settings do not fit together; the message says what to set.
    """
    _check_terms(recipe, known_losses)
    _check_train(recipe.train)
    _check_classify(recipe.classify)


def _check_terms(recipe: Recipe, known_losses: Collection[str]) -> None:
    terms = recipe.loss_terms()
    for term in (*terms, *recipe.loss.weights):
        if term not in known_losses:
            raise BabelclipError(f"Loss {term!r} in [loss] is not known. {did_you_mean(term, known_losses)}")
    for term in recipe.loss.weights:
        if term not in terms:
            raise BabelclipError(
                f"loss.weights.{term} weighs a term that loss.name = {recipe.loss.name!r} does not have. "
                f"Set loss.name = {'+'.join((*terms, term))!r}, or drop the weight."
            )


def _check_train(train: Train) -> None:
    for name in ("alpha", "momentum", "ema"):
        if getattr(train, name) >= 1:
            raise BabelclipError(f"train.{name} = {getattr(train, name):g}; it is a share, so it must be below 1.")
    if max(train.betas) >= 1:
        raise BabelclipError(f"train.betas = {list(train.betas)}; they are shares, so both must be below 1.")
    if not all(key.isdecimal() for key in train.lr_steps):
        raise BabelclipError(
            f"train.lr_steps names {', '.join(train.lr_steps)}; its keys are steps, as in {{ 500 = 8e-6 }}."
        )
    if (train.schedule == "steps") != bool(train.lr_steps):
        raise BabelclipError(
            f'train.schedule = "{train.schedule}" and train.lr_steps = {toml(dict(train.lr_steps))} do not fit: '
            'schedule = "steps" needs lr_steps, for example { 500 = 8e-6 }, and only that reads them.'
        )
    if train.lr_steps and not train.lr:
        raise BabelclipError("train.lr = 0 with train.lr_steps: its rates are shares of train.lr. Set lr above 0.")
    if train.early_stop and not train.validate_every:
        raise BabelclipError(
            f"train.early_stop = {train.early_stop} counts validations, but there are none on the way: "
            "set train.validate_every, for example to 500."
        )


def check_best(figure: str, train: Train) -> None:
    """Checks that the figure which chooses the best step is not taken the wrong way round.

    Args:
        figure: what `train.best_metric` is where it is empty, such as `R@1` or `cosine/sv`.
        train: says by `best_is` which value is best.

    Raises:
        BabelclipError: a higher figure is better and `best_is` says the lowest.
    """
    if train.best_is == "lowest" and ("R@" in figure or figure.partition("/")[0] == "cosine"):
        raise BabelclipError(
            f'The best step is chosen by {figure}, which is better where it is higher, but train.best_is = "lowest": '
            'set best_is = "highest" in [train], or best_metric to a figure that falls.'
        )


def _check_classify(classify: Classify) -> None:
    if classify.validation_share >= 1:
        raise BabelclipError(
            f"classify.validation_share = {classify.validation_share:g} leaves nothing to train on: set it below 1, "
            "for example to 0.1."
        )
    if any(share > 1 for share in classify.interpolate):
        raise BabelclipError(
            f"classify.interpolate = {toml(list(classify.interpolate))} goes beyond the tuned weights: shares are 0 "
            "(as it was) to 1 (as tuned), for example [0, 0.25, 0.5, 0.75, 1]."
        )
    if not classify.second_lang and (classify.second_names or classify.second_templates):
        raise BabelclipError(
            "classify.second_names or second_templates were given without a language: set classify.second_lang, for "
            'example to "de", or drop them.'
        )
