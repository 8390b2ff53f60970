"""`babelclip train`: a recipe, start to finish, or on from where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from babelclip.data.captions import Captions
    from babelclip.models.clip import Clip
    from babelclip.train.recipe import Recipe


def train(
    recipe_file: Path = typer.Argument(..., metavar="RECIPE", help="A TOML file; see recipes/."),
    out: Path = typer.Option(..., "--out", help="Folder of the run: log, checkpoints, and the model in model/."),
    settings: list[str] = typer.Option([], "--set", metavar="SECTION.KEY=VALUE", help="Change one setting."),
    image: str = typer.Option("", "--image", help="Folder of a model whose picture tower joins the taught text tower."),
    resume: bool = typer.Option(False, "--resume", help="Go on from the last checkpoint in --out."),
) -> None:
    """Teach a text encoder a teacher's space, or train two towers on pictures with captions.

    \b
    Examples:
      babelclip train recipes/teach.toml --out runs/sv --set train.steps=2000
      babelclip train recipes/teach.toml --out runs/sv --resume
      babelclip train recipes/teach.toml --out runs/sv --image demo/teacher
    """
    from babelclip.train.recipe import load_recipe

    recipe = load_recipe(recipe_file, settings)
    run = _distill if recipe.train.kind == "distill" else _contrastive
    clip = run(recipe, out, image, resume)
    if _writes(recipe):
        typer.echo(f"saved {clip.save(out / 'model')} (space {clip.space})")


def _distill(recipe: Recipe, out: Path, image: str, resume: bool) -> Clip:
    from babelclip.train.teach import teach

    _needed(recipe.student.model, "student.model")
    taught = teach(recipe, out, image=image, resume=resume)
    result = taught.result
    _report(recipe, result.run.status, result.run.step, out)
    if _writes(recipe):
        typer.echo(str(result.counts))
        if result.run.validation:
            typer.echo(f"MSE relative to the trivial predictor: {result.relative_mse:.3f}")
        for name, value in result.run.validation.items():
            first = f"{taught.before[name]:.4g} -> " if name in taught.before else ""
            typer.echo(f"  {name}: {first}{value:.4g}")
    return taught.clip


def _contrastive(recipe: Recipe, out: Path, image: str, resume: bool) -> Clip:
    import babelclip
    from babelclip.errors import BabelclipError
    from babelclip.train.contrastive import train_contrastive

    if image:
        raise BabelclipError(
            f"--image {image} was given with a contrastive recipe, which trains the pair itself. Drop --image."
        )
    clip = babelclip.load(_needed(recipe.student.model, "student.model"))
    captions = _read(recipe.data.captions, "data.captions")
    result = train_contrastive(clip, captions, recipe, out, resume=resume)
    _report(recipe, result.run.status, result.run.step, out)
    return clip


def _writes(recipe: Recipe) -> bool:
    """Returns whether this process is the one of the run that writes and prints."""
    from babelclip.train.processes import connect

    return connect(recipe.train).writes


def _report(recipe: Recipe, status: str, step: int, out: Path) -> None:
    """Says how far the run came; one that was stopped ends here, saved."""
    if status != "finished":
        if _writes(recipe):
            typer.echo(f"stopped at step {step}, saved in {out}. Go on with the same command and --resume.", err=True)
        raise typer.Exit(0)
    if _writes(recipe):
        typer.echo(f"finished at step {step}; log in {out / 'log.jsonl'}")


def _read(paths: tuple[str, ...], setting: str) -> Captions:
    from babelclip.data.captions import Captions
    from babelclip.data.sources import read_all

    _needed(paths[0] if paths else "", setting)
    return Captions.concat([read_all(path) for path in paths])


def _needed(value: str, setting: str) -> str:
    from babelclip.errors import BabelclipError

    if not value:
        section, key = setting.split(".")
        raise BabelclipError(
            f'The recipe does not say {setting}, which this training needs. Write {key} = "…" under [{section}], '
            f"or give --set {setting}=…"
        )
    return value
