"""`babelclip embed`: captions to a store of vectors."""

from __future__ import annotations

import contextlib
from pathlib import Path

import typer

from babelclip.errors import BabelclipError


def embed(
    captions: Path = typer.Argument(..., help="Captions: Parquet, JSONL, CSV or TSV with columns text and lang."),
    model: str = typer.Option(..., "--model", help="Folder of the teacher."),
    out: Path = typer.Option(..., "--out", help="Folder of the store; an unfinished one is completed."),
    lang: str = typer.Option("", "--lang", help="Only captions of this language, for example en for a teacher."),
    normalize: bool = typer.Option(False, "--normalize", help="Store unit vectors instead of raw projections."),
    dtype: str = typer.Option("float16", "--dtype", help="float16 or float32."),
) -> None:
    """Compute a model's vectors of captions once, into a store that training reads.

    The file may be larger than memory. Stopped, by Ctrl-C or otherwise, it goes on when called again.

    \b
    Examples:
      babelclip embed captions.jsonl --lang en --model demo/teacher --out targets/
      babelclip embed captions.parquet --model demo/student --out vectors/ --normalize --dtype float32
    """
    import babelclip
    from babelclip.data.embed import embed_file
    from babelclip.store import EmbeddingStore

    clip = babelclip.load(model, towers="text")
    try:
        store = embed_file(clip, captions, out, only=lang or None, normalize=normalize, dtype=dtype, progress=True)
    except KeyboardInterrupt:
        with contextlib.suppress(BabelclipError):  # too early for a store
            typer.echo(f"{out} keeps {len(EmbeddingStore.open(out)):,} vectors.", err=True)
        raise
    typer.echo(f"{out}: {len(store):,} vectors of {store.dim} dimensions, {store.dtype}, space {store.space}")
