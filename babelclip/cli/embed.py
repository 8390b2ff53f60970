"""`babelclip embed`: captions to a store of vectors."""

from __future__ import annotations

from pathlib import Path

import typer


def embed(
    captions: Path = typer.Argument(..., help="Captions: Parquet, JSONL, CSV or TSV with columns text and lang."),
    model: str = typer.Option(..., "--model", help="Folder of the teacher."),
    out: Path = typer.Option(..., "--out", help="Folder of the store; an unfinished one is completed."),
    lang: str = typer.Option("", "--lang", help="Only captions of this language, for example en for a teacher."),
    normalize: bool = typer.Option(False, "--normalize", help="Store unit vectors instead of raw projections."),
    dtype: str = typer.Option("float16", "--dtype", help="float16 or float32."),
) -> None:
    """Compute a model's vectors of captions once, into a store that training reads.

    \b
    Examples:
      babelclip embed captions.jsonl --lang en --model demo/teacher --out targets/
      babelclip embed captions.parquet --model demo/student --out vectors/ --normalize --dtype float32
    """
    import babelclip
    from babelclip.data.embed import embed_captions

    rows = babelclip.read_captions(captions)
    if lang:
        rows = rows.select(lang=lang)
    clip = babelclip.load(model, towers="text")
    store = embed_captions(clip, rows, out, normalize=normalize, dtype=dtype, progress=True)
    typer.echo(f"{out}: {len(store):,} vectors of {store.dim} dimensions, {store.dtype}, space {store.space}")
