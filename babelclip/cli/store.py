"""`babelclip store`: look at, check, join and exchange the vectors on disk."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from babelclip.cli.stored import stored
from babelclip.errors import BabelclipError

store = typer.Typer(
    name="store",
    help="Vectors on disk: what a store holds, whether it is whole, and the layouts of other tools.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_LAYOUTS = "clip-retrieval, dataset (Parquet rows id, embedding [1, D]) or npy"


@store.command()
@stored(reads=("path",))
def info(
    path: Path = typer.Argument(..., help="Folder of the store."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Show what a store holds, without reading its vectors.

    \b
    Examples:
      babelclip store info targets/
      babelclip store info targets/ --json | jq .rows
    """
    from babelclip.store.info import describe

    facts = describe(path)
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False, indent=2))
        return
    for name, value in facts.items():
        if name != "unfinished":
            typer.echo(f"{name:<12}{_written(name, value)}")
    if facts["unfinished"]:
        typer.echo("unfinished: made by a merge or an import that was stopped; run that command again.", err=True)


@store.command()
@stored(reads=("path",))
def verify(
    path: Path = typer.Argument(..., help="Folder of the store."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Read every byte of a store and list every damaged file; the exit code is 1 where there is one.

    Looked at are sizes, headers and checksums; whether ids are distinct and vectors finite; and where the store is
    normalized, whether they have length 1.

    \b
    Example:
      babelclip store verify targets/
    """
    from babelclip.store.verify import verify_store

    problems = verify_store(path, progress=True)
    if as_json:
        typer.echo(json.dumps({"path": str(path), "whole": not problems, "problems": problems}, ensure_ascii=False))
    else:
        for problem in problems:
            typer.echo(problem)
        typer.echo(f"{path}: {f'{len(problems)} damaged files' if problems else 'whole'}", err=bool(problems))
    if problems:
        raise typer.Exit(1)


@store.command()
@stored(reads=("sources",), folders=("out",))
def merge(
    sources: list[Path] = typer.Argument(..., help="Folders of the stores, in the order of the result."),
    out: Path = typer.Option(..., "--out", help="Folder of the new store; an unfinished one is completed."),
    on_duplicate: str = typer.Option(
        "error",
        "--on-duplicate",
        help="error, first (keep the first row of an id) or same (where vectors are equal).",
    ),
    model: str = typer.Option("", "--model", help="Name of the model in the result, where the stores' names differ."),
) -> None:
    """Join stores of one space, dimension, dtype, kind and target into a new one.

    \b
    Example:
      babelclip store merge targets-a/ targets-b/ --out targets/ --on-duplicate same
    """
    from babelclip.store.merge import merge_stores

    with _says_what_is_kept(out):
        merged = merge_stores(sources, out, on_duplicate=on_duplicate, model=model, progress=True)
    from babelclip.store import EmbeddingStore

    left_out = sum(len(EmbeddingStore.open(source)) for source in sources) - len(merged)
    typer.echo(f"{_summary(merged)}; {left_out:,} rows of ids that were there already left out")


@store.command("export")
@stored(reads=("path",), folders=("out",))
def export_(
    path: Path = typer.Argument(..., help="Folder of the store."),
    out: Path = typer.Option(..., "--out", help="New folder; an unfinished export is completed."),
    to: str = typer.Option(..., "--to", help=f"{_LAYOUTS}."),
    rows_per_file: int = typer.Option(0, "--rows-per-file", help="0: 1,000,000 of clip-retrieval, 100,000 of dataset."),
) -> None:
    """Write a store in the layout of another tool.

    clip-retrieval's vectors are float16 of length 1, so raw ones are scaled; dataset's are float32, npy's as stored.

    \b
    Examples:
      babelclip store export pictures/ --to clip-retrieval --out laion/
      babelclip store export targets/ --to dataset --out targets-parquet/
    """
    from babelclip.store.exchange import export_store

    content = export_store(path, out, layout=to, rows_per_file=rows_per_file, progress=True)
    scaled = " scaled to length 1" if not content.get("was", {}).get("normalized", True) else ""
    typer.echo(f"{out}: {content['count']:,} vectors of {content['dim']} dimensions{scaled}, layout {to}")


@store.command("import")
@stored(whole=("source",), folders=("out",))
def import_(
    source: Path = typer.Argument(..., help="Folder of clip-retrieval or of Parquet files, or a .npy file."),
    out: Path = typer.Option(..., "--out", help="Folder of the new store; an unfinished one is completed."),
    space: str = typer.Option("", "--space", help="Id of the embedding space, which no other layout tells."),
    model: str = typer.Option("", "--model", help="Name of the model; default: that of the space."),
    layout: str = typer.Option("", "--from", help=f"{_LAYOUTS}; default: by its look."),
    kind: str = typer.Option("", "--kind", help="image or text; for clip-retrieval: img_emb/ or text_emb/."),
    target: str = typer.Option("", "--target", help="projected (default), pooled or penultimate."),
    dtype: str = typer.Option("", "--dtype", help="float16 or float32; default: that of the source."),
    normalized: bool | None = typer.Option(
        None, "--normalized/--raw", help="Whether the vectors have length 1; default: only clip-retrieval's."
    ),
    ids: str = typer.Option("", "--ids", help="A column, or position; for npy: a file with the ids, or position."),
) -> None:
    """Make a store of vectors in the layout of another tool.

    \b
    Examples:
      babelclip store import laion/ --kind image --space openai/ViT-L-14 --out pictures/
      babelclip store import ImageCaptions-7M-Embeddings/ --space openai/ViT-B-32 --out targets/
      babelclip store import vectors.npy --ids ids.txt --space openai/ViT-B-32 --out targets/
    """
    from babelclip.store.exchange import import_store

    with _says_what_is_kept(out):
        imported = import_store(
            source,
            out,
            layout=layout,
            space=space,
            model=model,
            kind=kind,
            target=target,
            dtype=dtype,
            normalized=normalized,
            ids=ids,
            progress=True,
        )
    typer.echo(_summary(imported))


@contextlib.contextmanager
def _says_what_is_kept(out: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        from babelclip.store import EmbeddingStore

        with contextlib.suppress(BabelclipError):  # too early for a store
            typer.echo(f"{out} keeps {len(EmbeddingStore.open(out)):,} vectors.", err=True)
        raise


def _summary(made: Any) -> str:
    return f"{made.path}: {len(made):,} vectors of {made.dim} dimensions, {made.dtype}, space {made.space}"


def _written(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {f'{count:,}' if isinstance(count, int) else count}" for key, count in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "bytes":
        return f"{value:,} ({value / 1e6:,.1f} MB)"
    return f"{value:,}" if isinstance(value, int) else str(value)
