"""`babelclip demo`: the product's job from start to finish, with real models on real pictures."""

from __future__ import annotations

from pathlib import Path

import typer


def demo(
    out: Path = typer.Option(Path("demo"), "--out", help="Folder for models, results and report.html."),
    seed: int = typer.Option(0, "--seed", help="Of data order, initial weights and the held-out emoji."),
) -> None:
    """Teach an English CLIP many languages, measure it, and search with it (about 8 minutes on 2 cores).

    Everything comes from package indexes; no model hub, no GPU, no account. The demo can be stopped and started again.

    \b
    Examples:
      babelclip demo
      babelclip demo --out /tmp/demo --seed 1
    """
    from babelclip.starter.demo import run_demo

    run_demo(out, seed=seed, say=typer.echo)
