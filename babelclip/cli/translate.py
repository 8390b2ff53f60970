"""`babelclip translate`: captions into other languages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from babelclip.cli.launch import ADDRESS_HELP, LAUNCHER_HELP, check_launcher, launch_means
from babelclip.cli.stored import stored
from babelclip.errors import BabelclipError

if TYPE_CHECKING:
    from babelclip.translate.report import TranslationReport


@stored(reads=("captions", "dictionary"), folders=("out",), launched=("ray", "rank"))
def translate(
    captions: str = typer.Argument(..., help="Captions in English: a file, a folder, or words such as moses:train.en."),
    to: str = typer.Option(..., "--to", help="Languages with commas between them, or 48 for those of M-CLIP 2022."),
    out: Path = typer.Option(..., "--out", help="Folder of the translation; an unfinished one is completed."),
    engine: str = typer.Option(
        "", "--engine", help="opus, nllb, apertium or dictionary; without it, the best model known for each language."
    ),
    choose: list[str] = typer.Option(
        [], "--choose", metavar="LANG=ENGINE[:MODEL]", help="Another engine or model for one language. May be repeated."
    ),
    plan: str = typer.Option(
        "split", "--plan", help="split: each caption into one language, equal sizes; all: into each; weights."
    ),
    weight: list[str] = typer.Option(
        [],
        "--weight",
        metavar="LANG=NUMBER",
        help="For --plan weights; languages without one weigh 1. May be repeated.",
    ),
    keep_english: float = typer.Option(
        0.1, "--keep-english", help="Share of the rows that stay English: without them a student loses its English."
    ),
    seed: int = typer.Option(0, "--seed", help="Of which caption goes into which language."),
    filters: list[str] = typer.Option(
        [], "--filter", metavar="NAME", help="Filter to add: language (extra langid). May be repeated."
    ),
    no_filters: list[str] = typer.Option(
        [],
        "--no-filter",
        metavar="NAME",
        help="Filter to leave out: empty, copy, length, script, repetition, or all. May be repeated.",
    ),
    round_trip: float | None = typer.Option(
        None,
        "--round-trip",
        help="Reject what shares less than this (chrF, 0 to 1; 0.2 is usual) with the source, translated back.",
    ),
    min_similarity: float | None = typer.Option(
        None, "--min-similarity", help="Reject vectors with a lower cosine to the source's, by --teacher."
    ),
    teacher: str = typer.Option("", "--teacher", help="Folder or name of the multilingual model for --min-similarity."),
    workers: int = typer.Option(
        1, "--workers", min=1, help="Processes on the processor, or on each of --devices; with Ray, in all."
    ),
    launcher: str = typer.Option("", "--launcher", metavar="local|ray|rank", help=LAUNCHER_HELP),
    ray_address: str = typer.Option("", "--ray-address", help=ADDRESS_HELP),
    devices: str = typer.Option("cpu", "--devices", help="cpu, or GPUs with commas between them: cuda:0,cuda:1."),
    compute: str = typer.Option("int8", "--compute", help="Number format of neural models: int8, bfloat16, float32 …"),
    beam_size: int = typer.Option(4, "--beam-size", min=1, help="Of neural models; 1 is fastest."),
    batch: int = typer.Option(0, "--batch", min=0, help="Texts given to an engine at once; 0: as it likes best."),
    rows: int = typer.Option(16384, "--rows", min=1, help="Captions in a block: what a kill can lose, at most."),
    dictionary: str = typer.Option(
        "", "--dictionary", help="For --engine dictionary: captions with translations; without it, names of emoji."
    ),
    source_lang: str = typer.Option("en", "--from", help="Language of the captions; rows in others are left out."),
    lang: str = typer.Option("", "--lang", help="Language of the rows that name none; --from if not given."),
    strict: bool = typer.Option(False, "--strict", help="Stop at the first row that cannot be used."),
    drop_duplicates: bool = typer.Option(False, "--drop-duplicates", help="Leave out captions that come again."),
) -> None:
    """Translate captions into a training set: planned, filtered, counted.

    Stopped at any moment, by Ctrl-C or otherwise, the same command goes on and ends with the same bytes. In the folder
    lie the translations, the captions they come from, what was rejected and why, and a report.

    \b
    Examples:
      babelclip translate captions.jsonl --to sv,de --engine opus --out translated/
      babelclip translate captions.parquet --to 48 --out translated/ --devices cuda:0,cuda:1
      babelclip translate train.en.gz --to es,ca,gl --engine apertium --plan all --out translated/ --workers 2
      babelclip translate captions.jsonl --to sv,fi --plan weights --weight sv=2 --choose fi=nllb --out translated/
      sbatch --array=0-15 --wrap 'babelclip translate c.parquet --to 48 --out /shared/translated --launcher rank'
      babelclip translate names.txt --lang en --to de,ja --engine dictionary --no-filter length --out translated/
    """
    from babelclip import languages, storage
    from babelclip.translate import table
    from babelclip.translate.choices import engine_choices
    from babelclip.translate.filters import make_filters
    from babelclip.translate.pipeline import kept_so_far, translate_captions

    check_launcher(launcher, ray_address)
    targets = table.targets(to)
    by_dictionary = engine == "dictionary" or any(words.endswith("=dictionary") for words in choose)
    if dictionary and not by_dictionary:
        raise BabelclipError(
            f"--dictionary {dictionary} was given, and no language is translated by one: add --engine dictionary, or "
            "--choose LANG=dictionary, or drop it."
        )
    if not dictionary and by_dictionary:
        dictionary = str(_names_of_emoji())
    choices = engine_choices(
        [code for code in targets if code != languages.normalize(source_lang)],
        engine,
        _pairs(choose, "--choose", "sv=opus:Helsinki-NLP/opus-mt-en-sv"),
        compute=compute,
        beam_size=beam_size,
        dictionary=storage.address(dictionary),  # each worker reads it, with a cache of its own
    )
    chosen = make_filters(on=filters, off=no_filters, round_trip=round_trip, similarity=min_similarity, teacher=teacher)
    settings: dict[str, Any] = {"to": targets, "engine": choices, "plan": plan, "weights": _weights(weight)}
    settings |= {"keep_english": keep_english, "seed": seed, "filters": chosen, "source_lang": source_lang}
    settings |= {"lang": lang or None, "strict": strict, "drop_duplicates": drop_duplicates}
    settings |= {"rows": rows, "batch_size": batch or None}
    try:
        if launcher in ("", "local"):
            report = translate_captions(
                captions,
                out,
                devices=_devices(devices, workers),
                progress=True,
                say=lambda line: typer.echo(line, err=True),
                **settings,
            )
        else:
            from babelclip.cluster.translate import translate_on

            means = launch_means(launcher, _devices(devices, 1), workers, ray_address)
            made = translate_on(launcher, captions, out, means=means, **settings)
            if made is None:
                return
            report = made
    except KeyboardInterrupt:
        if storage.is_url(out):
            typer.echo(f"{storage.url_of(out)} keeps the shards that are finished.", err=True)
        else:
            shards, kept = kept_so_far(out)
            typer.echo(f"{out} keeps {kept:,} rows in {shards:,} finished shards.", err=True)
        raise
    _show(report)


def _show(report: TranslationReport) -> None:
    from babelclip.storage import joined, url_of

    out = url_of(report.out) or str(report.out)
    planned = sum(one.planned for one in report.languages.values())
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(report.rejected.items()))
    skipped = ", ".join(f"{count:,} {reason}" for reason, count in report.skipped.items())
    typer.echo(
        f"{out}: {report.kept:,} of {planned:,} rows kept, from {report.captions:,} captions"
        + (f" (left out: {skipped})" if skipped else "")
    )
    typer.echo(f"rejected: {reasons or 'none'}; see {joined(out, 'report.md')} and {joined(out, 'rejected')}")
    typer.echo(f"next: babelclip embed {out} --model TEACHER --out TARGETS")


def _names_of_emoji() -> Path:
    """Returns a file of the names that people gave emoji, in the languages of the package `emoji`."""
    from babelclip.data.captions import write_captions
    from babelclip.files import cache_folder
    from babelclip.starter.emoji import emoji_captions

    path = cache_folder() / "dictionary" / "emoji-names.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_captions(emoji_captions(), path)
    return path


def _devices(given: str, workers: int) -> list[str]:
    names = [name.strip() for name in given.split(",") if name.strip()]
    if not names:
        raise BabelclipError(f"--devices {given!r} names no device. Give cpu, or GPUs such as cuda:0,cuda:1.")
    return names * workers


def _pairs(given: Sequence[str], option: str, example: str) -> dict[str, str]:
    """Returns name -> value of repeated NAME=VALUE."""
    pairs: dict[str, str] = {}
    for words in given:
        name, equals, value = words.partition("=")
        if not (name and equals and value):
            raise BabelclipError(
                f"{option} {words} is not of the form LANG=VALUE. Write {option} {example}, for example."
            )
        if name in pairs:
            raise BabelclipError(
                f"{option} was given twice for {name}: {pairs[name]} and {value}. One holds for a language: drop one."
            )
        pairs[name] = value
    return pairs


def _weights(given: Sequence[str]) -> dict[str, float]:
    weights = {}
    for code, value in _pairs(given, "--weight", "sv=2").items():
        try:
            weights[code] = float(value)
        except ValueError as error:
            raise BabelclipError(
                f"--weight {code}={value}: {value!r} is no number. A weight is a number above 0: --weight {code}=2."
            ) from error
    return weights
