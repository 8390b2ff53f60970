"""`babelclip train`: a recipe, start to finish, or on from where it stopped."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from babelclip.cli.stored import stored

if TYPE_CHECKING:
    from babelclip.models.clip import Clip
    from babelclip.train.card import Ran
    from babelclip.train.loop import RunResult
    from babelclip.train.recipe import Recipe


@stored(whole=["recipe_file"], folders=["out"])
def train(
    recipe_file: Path = typer.Argument(..., metavar="RECIPE", help="A TOML file; see recipes/."),
    out: Path = typer.Option(None, "--out", help="Folder of the run: log, checkpoints, and the model in model/."),
    settings: list[str] = typer.Option([], "--set", metavar="SECTION.KEY=VALUE", help="Change one setting."),
    image: str = typer.Option("", "--image", help="Folder of a model whose picture tower joins the taught text tower."),
    resume: bool = typer.Option(False, "--resume", help="Go on from the last checkpoint in --out."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Train nothing: show recipe, weights, memory, steps, time."),
    timed: bool = typer.Option(True, "--timed/--not-timed", help="With --dry-run: time a few steps, if all is here."),
) -> None:
    """Teach a text encoder a teacher's space, or train two towers on pictures with captions.

    \b
    Examples:
      babelclip train recipes/teach.toml --out runs/sv --set train.steps=2000
      babelclip train recipes/teach.toml --out runs/sv --resume
      babelclip train recipes/teach.toml --out runs/sv --image demo/teacher
      babelclip train recipes/mclip-xlmr-large-vit-l-14.toml --set train.lr=2e-5 --dry-run
    """
    from babelclip.errors import BabelclipError
    from babelclip.train.recipe import load_recipe
    from babelclip.train.stages import run_stages

    recipe = load_recipe(recipe_file, settings)
    if dry_run:
        from babelclip.cli.train_plan import print_plan

        print_plan(recipe, image, measure=timed)
        return
    if out is None:
        raise BabelclipError("No folder for the run was given. Give --out FOLDER, or --dry-run to train nothing.")
    if recipe.stages:
        run_stages(recipe, out, lambda staged, folder, again: _one(staged, folder, image, again), resume=resume)
    else:
        _one(recipe, out, image, resume)


def _one(recipe: Recipe, out: Path, image: str, resume: bool) -> Literal["finished"]:
    """Trains a recipe of one stage and saves its model; a run that is stopped ends the command."""
    from babelclip.errors import BabelclipError
    from babelclip.models.clip import check_replaceable

    kinds = {"distill": _distill, "contrastive": _contrastive, "tension": _tension, "sts": _sts, "classify": _classify}
    if recipe.train.kind not in kinds:
        raise BabelclipError(f'train.kind = "{recipe.train.kind}" cannot be run yet. Known: {", ".join(kinds)}.')
    check_replaceable(out / "model")  # before hours of training
    clip, ran = kinds[recipe.train.kind](recipe, out, image, resume)
    if _writes(recipe):
        from babelclip.train.card import write_card

        typer.echo(f"saved {clip.save(out / 'model')} (space {clip.space})")
        write_card(out / "model", clip, recipe, ran, out, image=image)
    return "finished"


def _distill(recipe: Recipe, out: Path, image: str, resume: bool) -> tuple[Clip, Ran]:
    from babelclip.train.card import Ran
    from babelclip.train.recipe_checks import needed
    from babelclip.train.teach import teach

    needed(recipe.student.model, "student.model")
    taught = teach(recipe, out, image=image, resume=resume)
    result = taught.result
    _report(recipe, result.run, out)
    if _writes(recipe):
        typer.echo(str(result.counts))
        if result.run.validation:
            typer.echo(f"MSE relative to the trivial predictor: {result.relative_mse:.3f}")
        for name, value in result.run.validation.items():
            first = f"{taught.before[name]:.4g} -> " if name in taught.before else ""
            typer.echo(f"  {name}: {first}{value:.4g}")
    counts = {"captions read": result.counts.rows, "longer than the student reads": result.counts.long}
    counts |= {"left out as too long": result.counts.skipped, "left out without a target": result.counts.missing}
    return taught.clip, Ran(result.run, taught.before, result.run.validation, result.languages, _some(counts))


def _contrastive(recipe: Recipe, out: Path, image: str, resume: bool) -> tuple[Clip, Ran]:
    from babelclip.errors import BabelclipError
    from babelclip.train.card import Ran
    from babelclip.train.contrastive import contrastive
    from babelclip.train.log import first_figures

    if image and not recipe.towers.image_model:
        raise BabelclipError(
            f"--image {image} was given with a contrastive recipe, which trains the pair itself. Drop --image, or "
            "name the picture tower in towers.image_model."
        )
    trained = contrastive(recipe, out, resume=resume)
    result = trained.result
    _report(recipe, result.run, out)
    if _writes(recipe):
        for reason, count in result.skipped.items():
            typer.echo(f"left out: {count} ({reason})")
        for name, value in result.run.validation.items():
            typer.echo(f"  {name}: {value:.4g}")
    counts = {"captions": result.captions, "pictures": result.pictures, "captions cut": result.truncated}
    counts |= {f"left out: {reason}": count for reason, count in result.skipped.items()}
    before = first_figures(out)
    return trained.clip, Ran(result.run, before, result.run.validation, result.languages, _some(counts))


def _tension(recipe: Recipe, out: Path, image: str, resume: bool) -> tuple[Clip, Ran]:
    from babelclip.train.card import Ran
    from babelclip.train.log import first_figures
    from babelclip.train.tension import tension

    _without_pictures(recipe, image)
    result = tension(recipe, out, resume=resume)
    _report(recipe, result.run, out)
    if _writes(recipe):
        typer.echo(f"{result.sentences:,} distinct sentences; {result.duplicates:,} more were duplicates")
        _scores({name: value for name, value in result.scores.items() if "/" in name})
        typer.echo(f"kept: {result.kept}; both encoders are in {out / 'f1'} and {out / 'f2'}")
    counts = {"distinct sentences": result.sentences, "duplicates": result.duplicates, "too long": result.long}
    notes = (f"Of the two encoders of the run this is {result.kept}; both lie beside the model, in `f1/` and `f2/`.",)
    return result.model, Ran(result.run, first_figures(out), result.scores, {}, _some(counts), notes)


def _sts(recipe: Recipe, out: Path, image: str, resume: bool) -> tuple[Clip, Ran]:
    from babelclip.train.card import Ran
    from babelclip.train.log import first_figures
    from babelclip.train.sts import sts

    _without_pictures(recipe, image)
    trained = sts(recipe, out, resume=resume)
    _report(recipe, trained.result.run, out)
    if _writes(recipe):
        for reason, count in trained.result.skipped.items():
            typer.echo(f"left out: {count} ({reason})")
        _scores(trained.result.scores)
    result = trained.result
    counts = {"pairs": result.examples, **{f"left out: {reason}": count for reason, count in result.skipped.items()}}
    return trained.clip, Ran(result.run, first_figures(out), result.scores, {}, counts)


def _classify(recipe: Recipe, out: Path, image: str, resume: bool) -> tuple[Clip, Ran]:
    from babelclip.errors import BabelclipError
    from babelclip.train.card import Ran
    from babelclip.train.classify import classify

    if image:
        raise BabelclipError(
            f"--image {image} was given with a classify recipe, which trains a model of two towers. Drop --image, or "
            "name the picture tower in towers.image_model."
        )
    trained = classify(recipe, out, resume=resume)
    result = trained.result
    _report(recipe, result.run, out)
    if _writes(recipe):
        typer.echo(", ".join(f"{name}: {count:,} pictures" for name, count in result.pictures.items()))
        for reason, count in result.skipped.items():
            typer.echo(f"left out: {count} ({reason})")
        for point in result.points:
            chosen = "  <- chosen" if point.alpha == result.alpha else ""
            typer.echo(f"  share {point.alpha:g} of the tuned weights: acc1 {point.scores['acc1']:.4g}{chosen}")
        for split, before in result.before.items():
            typer.echo(f"{split}: before -> tuned -> kept")
            for name, value in before.items():
                typer.echo(
                    f"  {name}: {value:.4g} -> {result.tuned[split][name]:.4g} -> {result.after[split][name]:.4g}"
                )
    counts = {f"pictures, {name}": count for name, count in result.pictures.items()}
    counts |= {f"left out: {reason}": count for reason, count in result.skipped.items()}
    notes = (f"These are the weights at share {result.alpha:g} between the model of before (0) and the tuned one (1).",)
    scores = (_flat(result.before), _flat(result.after))
    return trained.clip, Ran(result.run, *scores, {}, counts, notes)


def _flat(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Returns figures of several sets under one name each: `test acc1`, `test acc1/de`."""
    return {f"{split} {name}": value for split, figures in scores.items() for name, value in figures.items()}


def _some(counts: Mapping[str, int]) -> dict[str, int]:
    """Returns the counts that are not 0."""
    return {name: count for name, count in counts.items() if count}


def _scores(scores: Mapping[str, float]) -> None:
    """Prints correlations as tables have them, times 100."""
    for name, value in scores.items():
        typer.echo(f"  {name}: {100 * value:.2f}")


def _without_pictures(recipe: Recipe, image: str) -> None:
    from babelclip.errors import BabelclipError

    if image:
        raise BabelclipError(
            f'--image {image} was given with kind = "{recipe.train.kind}", which trains a text encoder into a space of '
            "its own, where no picture tower fits. Drop --image."
        )


def _writes(recipe: Recipe) -> bool:
    """Returns whether this process is the one of the run that writes and prints."""
    from babelclip.train.processes import connect

    return connect(recipe.train).writes


def _report(recipe: Recipe, run: RunResult, out: Path) -> None:
    """Says how far the run came; one that was stopped ends here, saved."""
    from babelclip.errors import BabelclipError

    step = run.step
    if run.status != "finished":
        if not run.asked and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
            # An error is what makes torchrun start those that are left again.
            raise BabelclipError(
                f"Another process of the run was asked to end, so all stopped at step {step}, saved in {out}. torchrun "
                "starts those that are left again, as --max-restarts says; --resume makes them go on."
            )
        if _writes(recipe):
            typer.echo(f"stopped at step {step}, saved in {out}. Go on with the same command and --resume.", err=True)
        raise typer.Exit(0)
    if _writes(recipe):
        typer.echo(f"finished at step {step}; log in {out / 'log.jsonl'}")
