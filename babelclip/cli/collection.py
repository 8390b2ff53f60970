"""`babelclip collection`: look at a collection of pictures, index, export and delete in it, keep it small."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import typer

from babelclip.cli.stored import stored
from babelclip.errors import BabelclipError

collection = typer.Typer(
    name="collection",
    help="Collections of pictures: what one holds, its index, export, deletion, upkeep.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_URL = typer.Argument(
    ..., metavar="COLLECTION", help="NAME.lance, s3://…, milvus://…, NAME.db, a clip-retrieval folder."
)
_SPACE = typer.Option("", "--space", help="Embedding space of a clip-retrieval folder, which does not say it.")


@collection.command()
def info(
    url: str = _URL,
    space: str = _SPACE,
    where: str = typer.Option("", "--where", help="Also count rows: width >= 1000 and lang = 'sv'."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Show what a collection holds, how it is indexed and how well the index finds.

    \b
    Examples:
      babelclip collection info photos.lance
      babelclip collection info photos.lance --where "lang = 'sv' and width >= 1000"
    """
    from babelclip.search.collection import open_collection
    from babelclip.search.filters import parse_where

    opened = open_collection(url, space=space)
    stats = opened.stats()
    facts: dict[str, Any] = {
        "name": opened.name,
        **{key: value for key, value in dataclasses.asdict(stats).items() if key != "report"},
        **opened.fingerprint.to_json(),
        "columns": dict(opened.columns),
        "roots": dict(opened.roots),
        "version": opened.version(),
        "report": None if stats.report is None else stats.report.to_json(),
    }
    if where:
        facts["matching"] = opened.count(parse_where(where, opened.columns))
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False, indent=2))
        return
    if stats.report is not None:
        facts["report"] = stats.report.sentence()
    for key, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {kind}" for name, kind in value.items())
        elif isinstance(value, (list, tuple)):
            value = ", ".join(map(str, value))
        if value not in (None, "", []):
            typer.echo(f"{key:<14}{f'{value:,}' if isinstance(value, int) and value > 0 else value}")


@collection.command()
def index(
    url: str = _URL,
    model: str = typer.Option("", "--model", help="Folder of a model that asks captions as texts for the report."),
    kind: str = typer.Option("auto", "--kind", help="auto (none below 50,000 rows), ivf_rq, none."),
    partitions: int = typer.Option(0, "--partitions", min=0, help="0: square root of the rows."),
    probes: int = typer.Option(0, "--probes", min=0, help="Partitions read for a query; 0: as the recall asks for."),
    target: float = typer.Option(0.98, "--target-recall", min=0.0, max=1.0, help="Recall@10 aimed at."),
) -> None:
    """Build the index anew and report how well it finds, against exact search.

    \b
    Examples:
      babelclip collection index photos.lance --model demo/student
    """
    from babelclip.search.collection import IndexSpec, open_collection
    from babelclip.search.recall import caption_queries

    opened = open_collection(url, write=True)
    texts = None
    if model:
        import babelclip

        clip = babelclip.load(model, towers="text")
        opened.fingerprint.check_space(clip.space, f"collection {url} and model {model}")
        texts = caption_queries(opened, clip.encode_text)
    spec = IndexSpec(kind, partitions, probes=probes, target_recall=target, text_queries=texts)
    typer.echo(opened.build_index(spec).sentence())


@collection.command("export")
@stored(folders=("out",))
def export_(
    url: str = _URL,
    out: Path = typer.Option(..., "--out", help="New folder; an unfinished export is completed."),
    to: str = typer.Option("store", "--to", help="store, clip-retrieval, dataset or npy."),
    where: str = typer.Option("", "--where", help="Only these rows: width >= 1000 and lang = 'sv'."),
    dtype: str = typer.Option("float32", "--dtype", help="float32 or float16; clip-retrieval is always float16."),
    space: str = _SPACE,
) -> None:
    """Write vectors and columns for others to read without babelclip.

    \b
    Examples:
      babelclip collection export photos.lance --out vectors/
      babelclip collection export photos.lance --to clip-retrieval --out laion/
    """
    from babelclip.search.collection import open_collection
    from babelclip.search.exchange import export_collection
    from babelclip.search.filters import parse_where

    opened = open_collection(url, space=space)
    condition = parse_where(where, opened.columns) if where else None
    folder = export_collection(opened, out, layout=to, where=condition, dtype=dtype, progress=True)
    typer.echo(f"{folder}: {opened.count(condition):,} vectors of {opened.fingerprint.dim} dimensions, layout {to}")


@collection.command()
def delete(
    url: str = _URL,
    ids: list[str] = typer.Option([], "--id", help="Id of a picture; may be given again."),
    where: str = typer.Option("", "--where", help="Rows that fulfil this: source = 'holiday'."),
    purge: bool = typer.Option(
        True, "--purge/--keep-on-disk", help="Remove them from the disk too, with old versions."
    ),
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
) -> None:
    """Delete pictures from a collection, from its disk too; the picture files stay.

    With --id and --where, rows that fulfil both. Running readers must look again after that.

    \b
    Examples:
      babelclip collection delete photos.lance --where "source = 'holiday'"
    """
    from babelclip.search.collection import open_collection
    from babelclip.search.filters import And, In, parse_where

    if not ids and not where:
        raise BabelclipError("delete needs --id or --where: to delete a whole collection, remove its folder.")
    opened = open_collection(url, write=True)
    parts = ([In("id", tuple(ids))] if ids else []) + ([parse_where(where, opened.columns)] if where else [])
    condition = And(tuple(parts))
    if not yes:
        typer.confirm(f"Delete {opened.count(condition):,} of {opened.count():,} rows of {url}?", abort=True, err=True)
    deleted = opened.delete(where=condition)
    if purge:
        opened.optimize(keep_versions_for=0)
    typer.echo(f"{deleted:,} rows deleted, {opened.count():,} left")


@collection.command()
def optimize(
    url: str = _URL,
    hours: float = typer.Option(1.0, "--keep-hours", min=0.0, help="Older versions are removed; 0: all but the last."),
) -> None:
    """Join small files, take new rows into the index, remove old versions.

    \b
    Examples:
      babelclip collection optimize photos.lance
    """
    from babelclip.search.collection import open_collection

    opened = open_collection(url, write=True)
    opened.optimize(keep_versions_for=hours * 3600)
    stats = opened.stats()
    typer.echo(f"{stats.rows:,} rows, {stats.versions} versions, {stats.bytes:,} bytes. {stats.advice}".strip())
