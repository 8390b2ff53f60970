"""`babelclip index`: pictures made searchable, as a collection that grows with its sources."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from babelclip.cli.launch import ADDRESS_HELP, LAUNCHER_HELP, check_launcher, launch_means
from babelclip.cli.stored import stored
from babelclip.errors import BabelclipError

if TYPE_CHECKING:
    from babelclip.search.index import IndexingReport


@stored(reads=("sources", "captions", "image_root"))
def index(
    sources: list[str] = typer.Argument(
        ...,
        metavar="SOURCE...",
        help="Folders of pictures or .tar files, Parquet with pictures, tables that name pictures, an embedding store, "
        "a folder of clip-retrieval.",
    ),
    out: str = typer.Option(..., "--out", metavar="NAME.lance", help="The collection; one that is there is updated."),
    model: str = typer.Option(
        "", "--model", help="Folder or name of the model. Default: that of the collection, else as `babelclip search`."
    ),
    captions: Path | None = typer.Option(
        None, "--captions", help="Table with captions and metadata of the pictures, by its column image."
    ),
    columns: list[str] = typer.Option(
        [], "--columns", help="Metadata to keep, for example licence,year:int (text, int, float, bool, time)."
    ),
    lang: str = typer.Option("", "--lang", help="Language of captions that name none."),
    image_root: Path | None = typer.Option(None, "--image-root", help="Folder that the names in a table begin in."),
    prune: bool = typer.Option(False, "--prune", help="Remove pictures of these sources that are gone."),
    strict: bool = typer.Option(False, "--strict", help="Stop at the first picture that cannot be read."),
    groups: bool = typer.Option(True, "--groups/--no-groups", help="Look for near duplicates."),
    space: str = typer.Option("", "--space", help="Embedding space of a clip-retrieval folder, which does not say it."),
    batch: int = typer.Option(32, "--batch", min=1, help="Pictures of a forward pass."),
    shard_rows: int = typer.Option(
        0, "--shard-rows", min=0, help="With a launcher: pictures of a shard (1024); beyond 10^8 pictures, take more."
    ),
    workers: int = typer.Option(
        0,
        "--workers",
        min=0,
        help="Processes that decode pictures; 0: threads. With a launcher: processes on each device, of Ray in all.",
    ),
    devices: str = typer.Option("", "--devices", help="Several devices, for example cuda:0,cuda:1."),
    launcher: str = typer.Option("", "--launcher", metavar="local|ray|rank", help=LAUNCHER_HELP),
    ray_address: str = typer.Option("", "--ray-address", help=ADDRESS_HELP),
) -> None:
    """Make pictures searchable: encode them, keep vectors, captions, metadata and thumbnails in a collection.

    Run again, it adds what is new and updates what has changed. Stopped, by Ctrl-C or otherwise, it goes on where it
    was: what was written is kept, and is not encoded again.

    \b
    Examples:
      babelclip index ~/Pictures --out photos.lance
      babelclip index ~/Pictures --out photos.lance --prune
      babelclip index shards/ --out web.lance --columns url,licence --workers 8
      babelclip index art.parquet --out art.lance --columns artist,year:int
      babelclip index photos/ --out photos.lance --captions captions.csv --lang sv
      babelclip index laion-embeddings/ --out laion.lance --space openai/ViT-L-14
      babelclip index shards/ --out /shared/web.lance --launcher ray --ray-address auto
    """
    from babelclip.search.index_open import is_vectors

    if not all(source.strip() for source in sources):  # "" would be this folder
        raise BabelclipError("A source is empty, as of a variable of the shell that is not set. Name each folder.")
    check_launcher(launcher, ray_address)
    if shard_rows and not launcher:
        raise BabelclipError(
            f"--shard-rows {shard_rows} was given without --launcher. Shards are what many processes share the work "
            "by; one process has none: add --launcher local, ray or rank, or drop it."
        )
    kinds = {source: is_vectors(Path(source)) for source in sources}
    if any(kinds.values()):
        if not all(kinds.values()) or captions or columns or prune or launcher:
            raise BabelclipError(
                "Vectors that are there already are taken in by themselves. Give stores and clip-retrieval folders in "
                "a run of their own, without --captions, --columns, --prune and --launcher."
            )
        for source in sources:
            _import(source, out, space, image_root, groups)
        return
    if space:
        raise BabelclipError(
            "--space was given, and no clip-retrieval folder: pictures are encoded, and their space is the model's. "
            "Leave it out."
        )
    settings: dict[str, Any] = {"captions": captions, "columns": columns, "lang": lang or None}
    settings["image_root"] = image_root
    names = [name.strip() for name in devices.split(",") if name.strip()] or None
    settings |= {"prune": prune, "strict": strict, "groups": groups, "batch_size": batch}
    if launcher:
        settings |= {"launcher": launcher, "means": launch_means(launcher, names or [], workers, ray_address)}
        settings |= {"shard_rows": shard_rows or None}
    else:
        settings |= {"workers": workers, "devices": names, "progress": True}
    _encode(sources, out, model, settings)


def _encode(sources: list[str], out: str, model: str, settings: dict[str, Any]) -> None:
    from babelclip.cli.default_model import default_model
    from babelclip.search.collection import open_collection
    from babelclip.search.index_open import check_source
    from babelclip.search.index_state import note_model, noted_model

    for source in sources:
        check_source(Path(source).expanduser())  # before a model is loaded
    name = model or noted_model(out) or str(default_model())
    try:
        report = (
            _launched(name, sources, out, settings) if "launcher" in settings else _here(name, sources, out, settings)
        )
    except KeyboardInterrupt:
        with contextlib.suppress(BabelclipError):  # too early for a collection
            typer.echo(f"{out} keeps {open_collection(out).count():,} pictures.", err=True)
        raise
    note_model(out, name)
    if report is not None:
        _tell(report, out, settings.get("workers", 0))


def _here(name: str, sources: list[str], out: str, settings: dict[str, Any]) -> IndexingReport:
    import babelclip
    from babelclip.search.index import index_pictures

    devices = settings["devices"]
    clip = babelclip.load(name, device=devices[0] if devices else None)
    return index_pictures(clip, sources, out, on_skip=lambda item: _skipped(item.reason), **settings)


def _launched(name: str, sources: list[str], out: str, settings: dict[str, Any]) -> IndexingReport | None:
    """Returns what was done; None where another rank commits."""
    from babelclip.cluster.index import index_on

    return index_on(name, sources, out, on_skip=_skipped, **settings)


def _skipped(reason: str) -> None:
    typer.echo(f"skipped: {reason}", err=True)


def _tell(report: IndexingReport, out: str, workers: int) -> None:
    for reason, (count, first) in report.problems.items():
        typer.echo(f"left out: {count:,} {reason}; first {first}", err=True)
    if report.encode.pictures:
        typer.echo(report.encode.advice(workers), err=True)
        typer.echo(
            f"{report.seconds:.1f} s in all; decoding kept the model waiting {report.encode.decode_wait:.1f} s, "
            f"the model computed {report.encode.model_seconds:.1f} s, writing took {report.write_seconds:.1f} s more",
            err=True,
        )
    if report.unused:
        typer.echo(f"{report.unused:,} rows of the table of captions belong to no picture", err=True)
    if report.groups is not None and report.groups[0]:
        typer.echo(f"{report.groups[1]:,} pictures are near duplicates, in {report.groups[0]:,} groups", err=True)
    if report.gone > report.pruned:
        typer.echo(
            f"{report.gone - report.pruned:,} pictures are gone from the sources and kept; --prune removes them",
            err=True,
        )
    if report.index is not None:
        typer.echo(report.index.sentence(), err=True)
    words = [
        f"{report.added:,} added",
        f"{report.updated:,} updated",
        f"{report.unchanged + report.told:,} there already",
    ]
    words += [f"{report.pruned:,} removed"] if report.pruned else []
    words += [f"{report.skipped:,} skipped as unreadable"] if report.skipped else []
    typer.echo(f"{out}: {report.rows:,} pictures ({', '.join(words)})")


def _import(source: str, out: str, space: str, root: Path | None, groups: bool) -> None:
    from babelclip.search import near_duplicates
    from babelclip.search.exchange.importing import import_vectors
    from babelclip.search.index_state import lock_collection

    release = lock_collection(out)
    try:
        collection = import_vectors(source, out, space=space, root=root or "", progress=True)
        found = near_duplicates.group(collection, out, regroup=True, progress=True) if groups else None
        collection.optimize()
        if collection.stats().advice:
            typer.echo(collection.build_index().sentence(), err=True)
        if found is not None and found[0]:
            typer.echo(f"{found[1]:,} pictures are near duplicates, in {found[0]:,} groups", err=True)
        typer.echo(f"{out}: {collection.count():,} pictures")
        collection.close()
    finally:
        release()
