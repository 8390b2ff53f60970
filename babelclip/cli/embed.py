"""`babelclip embed`: captions or pictures to a store of vectors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from babelclip.cli.launch import ADDRESS_HELP, LAUNCHER_HELP, check_launcher, launch_means
from babelclip.cli.stored import stored
from babelclip.errors import BabelclipError

if TYPE_CHECKING:
    from babelclip.data.embed import EmbedReport
    from babelclip.data.embed_images import PicturesReport
    from babelclip.models.clip import Clip
    from babelclip.store import EmbeddingStore

_LOSSY = (
    "warning: {count:,} vectors have values so small that float16 changes them by more than rounding; --dtype float32, "
    "into a new folder, keeps them."
)


@stored(reads=("source", "image_root"), folders=("publish",))
def embed(
    source: str = typer.Argument(
        ...,
        metavar="CAPTIONS|IMAGES",
        help="Captions: Parquet, JSONL, CSV, TSV, a folder of them, moses:a.en,a.sv …; or a folder of pictures.",
    ),
    model: str = typer.Option(..., "--model", help="Folder or name of the teacher."),
    out: Path = typer.Option(..., "--out", help="Folder of the store; an unfinished one is completed."),
    lang: str = typer.Option("", "--lang", help="Only captions in these languages, for example en or en,sv."),
    default_lang: str = typer.Option("", "--default-lang", help="Language of captions that name none."),
    sources_only: bool = typer.Option(
        False, "--sources-only", help="Leave out translations: training takes the vector of their source_id."
    ),
    images: bool = typer.Option(False, "--images", help="Encode the pictures that the captions name, not their texts."),
    image_root: Path | None = typer.Option(None, "--image-root", help="Folder that the names of pictures begin in."),
    target: str = typer.Option(
        "projected", "--target", help="projected (M-CLIP), or pooled (AltCLIP): the vector before the projection."
    ),
    normalize: bool = typer.Option(False, "--normalize", help="Store unit vectors instead of raw ones."),
    dtype: str = typer.Option("float16", "--dtype", help="float16 or float32, as the vectors are stored."),
    strict: bool = typer.Option(False, "--strict", help="Stop at the first row or picture that cannot be used."),
    devices: str = typer.Option("", "--devices", help="Several devices, for example cuda:0,cuda:1."),
    batch: int = typer.Option(0, "--batch", min=0, help="Most tokens, or pictures, of a batch; 0: by the device."),
    shard_rows: int = typer.Option(
        0,
        "--shard-rows",
        min=0,
        help="Captions (16384) or pictures (4096) between two writes; slow models want fewer.",
    ),
    workers: int = typer.Option(
        0,
        "--workers",
        min=0,
        help="Processes that decode pictures; 0: threads. With a launcher: processes on each device, of Ray in all.",
    ),
    launcher: str = typer.Option("", "--launcher", metavar="local|ray|rank", help=LAUNCHER_HELP),
    ray_address: str = typer.Option("", "--ray-address", help=ADDRESS_HELP),
    publish: Path | None = typer.Option(None, "--publish", help="Also write a folder fit for a data set hub here."),
    licence: str = typer.Option("", "--licence", help="Licence of the published data, for example cc-by-4.0."),
    attribution: list[str] = typer.Option([], "--attribution", help="Whom the licence asks to name; may be repeated."),
) -> None:
    """Compute a model's vectors of captions or pictures once, into a store that training reads.

    Equal texts are encoded once, and so is each picture, however many captions it has. A folder that `babelclip
    translate` wrote is taken by its source captions. The source may be larger than memory. Stopped, by Ctrl-C or
    otherwise, the same command goes on, and ends with the same bytes.

    \b
    Examples:
      babelclip embed captions.jsonl --lang en --model demo/teacher --out targets/
      babelclip embed translated/ --model openai/clip-vit-large-patch14 --target pooled --out targets/
      babelclip embed photos/ --model demo/teacher --out pictures/ --workers 8
      babelclip embed captions.jsonl --images --image-root photos/ --model demo/teacher --out pictures/
      babelclip embed translated/ --model demo/teacher --out targets/ --publish upload/ --licence cc-by-4.0
      babelclip embed captions.parquet --model demo/teacher --out targets/ --launcher ray --ray-address auto
      srun --ntasks 8 babelclip embed captions.parquet --model demo/teacher --out /shared/targets/ --launcher rank
    """
    import babelclip
    from babelclip.data.embed_images import first_picture, is_captions
    from babelclip.data.embed_targets import check_target
    from babelclip.models.encoding import checked_device
    from babelclip.store import EmbeddingStore

    check_target(target)
    pictures = images or (not is_captions(source) and first_picture(source) is not None)
    check_launcher(launcher, ray_address)
    _check_options(pictures, image_root, workers if not launcher else 0, sources_only, publish, licence, attribution)
    if pictures and not images and (lang or default_lang):
        raise BabelclipError(
            f"{'--lang' if lang else '--default-lang'} was given, but {source} is a folder of pictures, which have no "
            "language: drop it, or give captions that name them, with --images."
        )
    _check_publish(publish)
    names = [name.strip() for name in devices.split(",") if name.strip()] or None
    for name in names or []:
        checked_device(name)
    towers: Literal["image", "text"] = "image" if pictures else "text"
    settings: dict[str, Any] = {"lang": default_lang or None, "only": lang.split(",") if lang else None}
    settings |= {"strict": strict, "target": target, "normalize": normalize, "dtype": dtype}
    settings |= {"shard_rows": shard_rows or None}
    try:
        if launcher:
            settings |= {"pictures": pictures, "root": image_root, "sources_only": sources_only, "batch": batch or None}
            settings |= {"means": launch_means(launcher, names or [], workers, ray_address), "model": model}
            if not _launched(launcher, source, out, settings):
                return
            store = EmbeddingStore.open(out)
        else:
            clip = babelclip.load(model, towers=towers, device=names[0] if names else None)
            settings |= {"devices": names, "progress": True}
            if pictures:
                settings |= {"root": image_root, "workers": workers, **({"batch_size": batch} if batch else {})}
                store = _pictures(clip, source, out, workers, settings)
            else:
                settings |= {"sources_only": sources_only, "token_budget": batch or None}
                store = _texts(clip, source, out, settings)
    except KeyboardInterrupt:
        with contextlib.suppress(BabelclipError):  # too early for a store
            typer.echo(f"{out} keeps {len(EmbeddingStore.open(out)):,} vectors.", err=True)
        raise
    typer.echo(
        f"{out}: {len(store):,} vectors of {store.dim} dimensions, {store.dtype}, {store.target}, space {store.space}"
    )
    if publish is not None:
        from babelclip.data.publish import publish_store

        captions: Any = None if pictures else _with_sources(source, settings["lang"], settings["only"])
        made = publish_store(
            store,
            captions,
            publish,
            licence=licence,
            attribution=attribution,
            teacher_revision=babelclip.load(model, towers=towers).revision,
            progress=True,
        )
        typer.echo(f"{publish}: {made.rows:,} rows with vectors, {made.translations:,} translations, {licence}")


def _with_sources(source: str, lang: str | None, only: list[str] | None) -> list[Any]:
    """Returns what the vectors are of, and the translations, as `publish_store` takes them."""
    from babelclip.data.embed import sources_of
    from babelclip.data.sources import open_captions

    taken = sources_of(source)
    if taken != source:
        return [taken, source]
    return [open_captions(source, lang=lang, only=only)]


def _texts(clip: Clip, source: str, out: Path, settings: dict[str, Any]) -> EmbeddingStore:
    from babelclip.data.embed import embed_file, sources_of
    from babelclip.data.embed_targets import describe_target

    taken = sources_of(source)
    if taken != source:
        typer.echo(f"{source} is a folder of translations: embedding its sources, {taken}", err=True)
    if clip.text is not None and settings["target"] != "projected":
        typer.echo(f"target {settings['target']}: {describe_target(clip.text, settings['target'])}", err=True)
    reports: list[EmbedReport] = []
    store = embed_file(clip, source, out, report=reports.append, **settings)
    _tell_texts(reports[0], clip.name, clip.languages)
    return store


def _tell_texts(report: EmbedReport, model: str, trained: Iterable[str]) -> None:
    from babelclip import languages

    speed = report.encoded / report.seconds if report.seconds else 0.0
    typer.echo(
        f"{report.added:,} captions added to {report.there:,}; {report.encoded:,} distinct texts encoded in "
        f"{report.seconds:.1f} s ({speed:,.0f} texts/s)",
        err=True,
    )
    for reason, count in sorted(report.skipped.items()):
        typer.echo(f"left out: {count:,} {reason}", err=True)
    known = tuple(trained)
    foreign = [code for code in report.languages if known and not languages.covers(known, code)]
    if foreign:
        typer.echo(
            f"warning: {model or 'the model'} was not trained on {', '.join(sorted(foreign))}, and its vectors of "
            f"{sum(report.languages[code] for code in foreign):,} captions may be poor targets. For those of their "
            "sources alone: --sources-only, or --lang en, into a new folder.",
            err=True,
        )
    if report.lossy:
        typer.echo(_LOSSY.format(count=report.lossy), err=True)


def _pictures(clip: Clip, source: str, out: Path, workers: int, settings: dict[str, Any]) -> EmbeddingStore:
    from babelclip.data.embed_images import embed_pictures
    from babelclip.data.embed_targets import describe_target

    if clip.image is not None and settings["target"] != "projected":
        typer.echo(f"target {settings['target']}: {describe_target(clip.image, settings['target'])}", err=True)
    reports: list[PicturesReport] = []
    store = embed_pictures(
        clip,
        source,
        out,
        report=reports.append,
        on_skip=lambda item: typer.echo(f"skipped: {item.reason}", err=True),
        **settings,
    )
    _tell_pictures(reports[0], workers)
    return store


def _tell_pictures(report: PicturesReport, workers: int) -> None:
    typer.echo(f"{report.added:,} pictures added to {report.there:,}; {report.skipped:,} skipped", err=True)
    if report.without_picture:
        typer.echo(f"left out: {report.without_picture:,} captions that name no picture", err=True)
    if report.encode.pictures:
        typer.echo(report.encode.advice(workers), err=True)
    if report.lossy:
        typer.echo(_LOSSY.format(count=report.lossy), err=True)


def _launched(launcher: str, source: str, out: Path, settings: dict[str, Any]) -> bool:
    """Returns whether the store is finished; of ranks only one commits it."""
    from babelclip.cluster.embed import embed_on

    done = embed_on(launcher, source, out, **settings)
    if done is None:
        return False
    for reason in done.skipped:
        typer.echo(f"skipped: {reason}", err=True)
    if settings["pictures"]:
        _tell_pictures(done.report, settings["means"].workers)
    else:
        _tell_texts(done.report, Path(settings["model"]).name, done.languages)
    return True


def _check_options(
    pictures: bool,
    image_root: Path | None,
    workers: int,
    sources_only: bool,
    publish: Path | None,
    licence: str,
    attribution: list[str],
) -> None:
    """Raises, before hours of work, where an option was given that would do nothing, or one is missing."""
    idle = {"--image-root": image_root is not None, "--workers": workers > 0} if not pictures else {}
    idle |= {"--sources-only": sources_only} if pictures else {}
    if given := [name for name, is_given in idle.items() if is_given]:
        what = "pictures are embedded, it is about texts" if pictures else "texts are embedded, it is about pictures"
        cure = "drop it" if pictures else "drop it, or add --images to encode the pictures that captions name"
        raise BabelclipError(f"{given[0]} was given, but {what}: {cure}.")
    if publish is not None and not licence:
        raise BabelclipError(
            "--publish was given without --licence. Whoever finds the data must know what is allowed with it: give the "
            "licence of the captions, for example --licence cc-by-4.0."
        )
    if publish is None and (licence or attribution):
        raise BabelclipError(
            "--licence and --attribution belong to --publish, which was not given: add --publish FOLDER, or drop them."
        )


def _check_publish(publish: Path | None) -> None:
    """Raises, before hours of work, where a data set cannot be published."""
    from babelclip.data.publish import MANIFEST

    if publish is None or not publish.exists() or (publish / MANIFEST).is_file():
        return
    if not publish.is_dir() or any(publish.iterdir()):
        raise BabelclipError(
            f"{publish} holds other things. A data set needs a new or empty folder: choose another path."
        )
