"""`babelclip search`: pictures of a folder, ranked by a query in any language."""

from __future__ import annotations

import json
from pathlib import Path

import typer


def search(
    queries: list[str] = typer.Argument(..., metavar="QUERY...", help="What to look for, in any language."),
    folder: Path = typer.Option(..., "--in", metavar="FOLDER", help="Folder with pictures, searched recursively."),
    model: str = typer.Option(
        "", "--model", help="Folder of a model. Default: demo/student, else the one that `babelclip starter` made."
    ),
    k: int = typer.Option(10, "-k", min=1, help="Pictures shown for each query."),
    workers: int = typer.Option(0, "--workers", min=0, help="Processes that decode pictures; 0: threads."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Find pictures in a folder by text in any language.

    The first search encodes the pictures and keeps their vectors; later ones encode only what is new.

    \b
    Examples:
      babelclip search --in ~/Pictures "två hundar i snön"
      babelclip search --in ~/Pictures -k 3 "un chat noir" "狗"
      babelclip search --in ~/Pictures --json "a red car" | jq '.[0].hits[0].path'
    """
    import babelclip
    from babelclip.cli.default_model import default_model
    from babelclip.search.folder import index_folder, search_folder

    clip = babelclip.load(model or default_model())
    index = index_folder(clip, folder, workers=workers, progress=True)
    results = search_folder(clip, index, queries, k)
    for item in index.skipped:
        typer.echo(f"skipped: {item.reason}", err=True)
    typer.echo(
        f"{len(index.paths)} pictures ({index.encoded} encoded now, {len(index.skipped)} skipped as unreadable)",
        err=True,
    )
    if index.report is not None:
        typer.echo(index.report.advice(workers), err=True)
    if as_json:
        content = [
            {"query": query, "hits": [{"path": str(hit.path), "score": round(hit.score, 4)} for hit in hits]}
            for query, hits in zip(queries, results, strict=True)
        ]
        typer.echo(json.dumps(content, ensure_ascii=False, indent=2))
        return
    for query, hits in zip(queries, results, strict=True):
        typer.echo(query)
        for hit in hits:
            typer.echo(f"  {hit.score:6.3f}  {hit.path}")
