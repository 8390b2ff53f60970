"""`babelclip export`: a model in the layout of another program, compared with the original before it is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from babelclip.cli.stored import stored

if TYPE_CHECKING:
    from babelclip.models.export import Exported


@stored(folders=("out",))
def export(
    model: str = typer.Argument(..., help="Folder of a model, or a name that `babelclip models` lists."),
    to: str = typer.Option(
        ..., "--to", help="onnx, openvino, sentence-transformers, mclip, openclip, altclip or diffusers."
    ),
    out: Path = typer.Option(..., "--out", help="Folder that is made."),
    dtype: str = typer.Option(
        "float32", "--dtype", help="How weights are stored: float32, float16, or int8 (onnx, openvino)."
    ),
    towers: str = typer.Option("both", "--towers", help="both, text or image."),
    preset: str = typer.Option("", "--preset", help="diffusers only: altdiffusion-m9 or altdiffusion-m18."),
    normalize: bool = typer.Option(False, "--normalize", help="sentence-transformers only: end with rows of length 1."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace --out where it exists."),
    force: bool = typer.Option(False, "--force", help="Keep files whose vectors differ too much."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Write a model for another program, and compare the files with the model.

    The files are read back by the program they are for, where it is installed, and encode built-in texts and pictures.
    Where vectors differ by more than the dtype explains, nothing is kept and the command fails.

    \b
    Examples:
      babelclip export demo/student --to onnx --out student-onnx
      babelclip export XLM-Roberta-Large-Vit-L-14 --to openvino --dtype int8 --towers text --out text-int8
      babelclip export demo/student --to sentence-transformers --towers text --out student-st
    """
    from babelclip.errors import BabelclipError
    from babelclip.models.export import export_checked, target_of

    target_of(to)
    if out.exists() and not overwrite and (not out.is_dir() or any(out.iterdir())):
        raise BabelclipError(f"{out} exists and is not empty. Name another folder, or replace it with --overwrite.")
    place, origin = out.resolve(), Path(model).expanduser().resolve()
    if origin.exists() and (place == origin or place in origin.parents):
        raise BabelclipError(
            f"--out {out} is, or holds, the model itself, {model}; it would be replaced and what the target has no "
            "room for be lost. Give another folder."
        )
    if place in (Path.cwd(), *Path.cwd().parents):
        raise BabelclipError(
            f"--out {out} is, or holds, the folder that you are in; all in it would be lost. Give another folder."
        )
    import babelclip

    options: dict[str, Any] = {key: value for key, value in (("preset", preset), ("normalize", normalize)) if value}
    # The files are made from the exact weights, and are compared with them on the processor that everybody has.
    clip = babelclip.load(model, towers=towers, dtype="float32", device="cpu")
    done = export_checked(clip, out, to=to, dtype=dtype, towers=towers, force=force, **options)
    if as_json:
        typer.echo(json.dumps(done.to_dict(), ensure_ascii=False, indent=2))
    else:
        _show(done)
    if not all(part.passed for part in done.parity):
        raise typer.Exit(0 if force else 1)


def _show(done: Exported) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if done.parity:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
        for title in ("tower", "read by"):
            table.add_column(title)
        for title in ("items", "max difference", "min cosine", "mean cosine", ""):
            table.add_column(title, justify="right")
        for part in done.parity:
            figures = (f"{part.max_difference:.1e}", f"{part.min_cosine:.6f}", f"{part.mean_cosine:.6f}")
            table.add_row(part.tower, part.read_by, str(part.items), *figures, "ok" if part.passed else "TOO FAR")
        console.print(table)
    else:
        console.print("Not compared: nothing that is installed reads these files.")
    for note in done.notes:
        console.print(f"note: {note}", markup=False)
    failed = [part for part in done.parity if not part.passed]
    if failed:
        bounds = f"at most {failed[0].bound_difference:g} and at least {failed[0].bound_cosine:g}"
        console.print(
            f"These differ by more than {done.dtype} explains ({bounds}). "
            + ("Kept, as --force asks." if done.kept else "Nothing was kept; keep it with --force."),
            markup=False,
        )
    if done.kept:
        write, check = done.seconds
        size = f"{done.bytes / 1e6:,.1f} MB" if done.bytes >= 1e5 else f"{done.bytes / 1e3:,.1f} kB"
        console.print(f"{done.folder}: {size}, written in {write:.1f} s, compared in {check:.1f} s", markup=False)
