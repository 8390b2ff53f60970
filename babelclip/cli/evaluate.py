"""`babelclip evaluate`: recall at k on pictures with captions, language by language."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from babelclip.data.captions import Captions


def evaluate(
    models: list[str] = typer.Argument(..., metavar="MODEL...", help="Folders of models."),
    captions: str = typer.Option(
        ...,
        "--captions",
        help="Captions with text, lang and image: a file, whose pictures lie beside it, or a folder; docs/formats.md.",
    ),
    lang: str = typer.Option("all", "--lang", help="Languages, separated by commas, or all."),
    dataset: str = typer.Option("", "--dataset", help="Name for the results. Default: the name of the caption file."),
    out: Path | None = typer.Option(None, "--out", help="Write the results as JSON here."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace the file at --out."),
    metric: str = typer.Option("R@10", "--metric", help="Metric of the table: R@1, R@5 or R@10."),
) -> None:
    """Measure text-to-image and image-to-text retrieval in every language of a caption file.

    Pictures are encoded once a model, whatever the number of languages.

    \b
    Examples:
      babelclip evaluate demo/student --captions captions.jsonl
      babelclip evaluate demo/teacher demo/student --captions captions.jsonl --lang sv,de,hi --out results/mine.json
    """
    import babelclip
    from babelclip.data.sources import image_root, read_all
    from babelclip.evaluate.report import markdown_table, write_results
    from babelclip.evaluate.retrieval import evaluate_retrieval

    wanted = None if lang == "all" else [code.strip() for code in lang.split(",")]
    # Texts beside pictures do not say their language, and one that is asked for alone says it.
    told = wanted[0] if wanted is not None and len(wanted) == 1 and Path(captions).is_dir() else None
    rows = read_all(captions, lang=told).require_images()
    _refuse_tars(captions, rows)
    images = list(dict.fromkeys(rows.table.column("image").to_pylist()))
    results = []
    for model in models:
        clip = babelclip.load(model)
        results += evaluate_retrieval(
            clip,
            rows,
            pictures=[image_root(captions) / image for image in images],
            image_ids=images,
            dataset=dataset or Path(captions).name.split(".")[0],
            languages=wanted,
            name=clip.name or model,
            progress=True,
        )
    if out is not None:
        write_results(results, out, overwrite=overwrite)
    for direction in ("t2i", "i2t"):
        typer.echo(f"\n{metric}, {direction}\n")
        typer.echo(markdown_table(results, direction=direction, metric=metric))


def _refuse_tars(source: str, rows: Captions) -> None:
    from babelclip.data.sources import image_root
    from babelclip.errors import BabelclipError

    first = str(rows.table["image"][0])
    tar, inside, _ = first.partition("::")
    if inside and (image_root(source) / tar).is_file():
        raise BabelclipError(
            f"{source} has its pictures inside tars, such as {first}, and evaluate opens files. Unpack them into a "
            f"folder (tar -xf {tar}) and give that."
        )
