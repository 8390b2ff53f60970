"""`babelclip evaluate`: models on benchmarks, in every language, with the pictures encoded once."""

from __future__ import annotations

from pathlib import Path

import typer

from babelclip.cli.stored import stored

# The sets that need no folder.
_BUILTIN = ("builtin", "builtin-first")


@stored(folders=("out",))
def evaluate(
    models: list[str] | None = typer.Argument(
        None, metavar="MODEL...", help="Folders or names of models; mine=DIR is called mine."
    ),
    dataset: list[str] | None = typer.Option(
        None, "--dataset", metavar="NAME=DIR", help="A benchmark and where it lies; may be given several times."
    ),
    captions: str = typer.Option(
        "", "--captions", help="Captions of your own with text, lang and image: a file or a folder (docs/formats.md)."
    ),
    lang: str = typer.Option("all", "--lang", help="Languages, separated by commas, or all."),
    split: str = typer.Option("", "--split", help="Part of the benchmark. Default: the one that is reported on."),
    protocol: str = typer.Option("", "--protocol", help="Another way to read it: first, lowercased, label, …"),
    out: Path | None = typer.Option(
        None, "--out", help="Folder of the results, one file a model and benchmark; or one file ending in .json."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace results of other weights or settings."),
    strict: bool = typer.Option(False, "--strict", help="Stop at what cannot be used instead of counting it."),
    metric: str = typer.Option("", "--metric", help="Metric of the tables, such as R@1. Default: that of each task."),
    cache: str = typer.Option("", "--cache", help="Folder where picture vectors are kept, or none."),
    dtype: str = typer.Option("auto", "--dtype", help="auto, float32, bfloat16, float16 or int8."),
    workers: int = typer.Option(0, "--workers", min=0, help="Processes that decode pictures; 0: threads."),
    seed: int = typer.Option(0, "--seed", help="Of the confidence intervals."),
    probe: bool = typer.Option(False, "--probe", help="Linear probe of classification benchmarks besides."),
    train_split: str = typer.Option("train", "--train-split", help="What the probe learns from."),
    val_split: str = typer.Option("", "--val-split", help="What its weight decay is chosen on. Default: a fifth."),
    shots: str = typer.Option("all", "--shots", help="Training pictures a class: all, or numbers, as all,1,16."),
    seeds: int = typer.Option(3, "--seeds", min=1, help="Draws of few shots."),
    teacher: str = typer.Option("", "--teacher", help="Model to which fidelity is measured on parallel texts."),
    every_pair: bool = typer.Option(False, "--every-pair", help="Translation between every two languages."),
    list_datasets: bool = typer.Option(False, "--list-datasets", help="List the benchmarks and the files they need."),
) -> None:
    """Measure models: retrieval, zero-shot classification, probes, sentence similarity, translation retrieval.

    Pictures are encoded once a model and kept; all languages run over that. The same command after an interruption
    goes on where it stopped, and results are never overwritten in silence.

    \b
    Examples:
      babelclip evaluate demo/teacher demo/student --captions captions.jsonl --lang sv,de,hi --out results/
      babelclip evaluate demo/student --dataset xm3600=~/xm3600 --dataset xtd10=~/xtd10 --out results/
      babelclip evaluate demo/student --dataset cifar10=~/cifar10 --probe --shots all,1,16
      babelclip evaluate demo/student --dataset multi30k-texts=~/multi30k --teacher demo/teacher
      babelclip evaluate demo/teacher --dataset builtin --lang en
      babelclip evaluate --list-datasets
    """
    if list_datasets:
        typer.echo(_listed())
        return
    from babelclip.evaluate.run import Plan, failures_of, run, with_cache
    from babelclip.evaluate.summary import summary
    from babelclip.evaluate.tasks import Settings

    specs = _specs(dataset or [], captions)
    if any(spec in _BUILTIN for spec in specs):
        _write_builtin()
    plan = Plan(
        models=models or [],
        datasets=specs,
        languages=None if lang == "all" else [code.strip() for code in lang.split(",")],
        split=split,
        protocol=protocol,
        out=out,
        overwrite=overwrite,
        strict=strict,
        dtype=dtype,
        workers=workers,
        settings=Settings(seed=seed, probe=probe, shots=_shots(shots), probe_seeds=seeds, every_pair=every_pair),
        teacher=teacher,
        train_split=train_split,
        validation_split=val_split,
    )
    outcome = run(with_cache(plan, cache), progress=True, tell=lambda line: typer.echo(line, err=True))
    for path in outcome.kept:
        typer.echo(f"{path}: complete already", err=True)
    typer.echo(summary(outcome.results, metric))
    failures = list(failures_of(outcome))
    for line in failures:
        typer.echo(f"failed: {line}", err=True)
    if failures:
        raise typer.Exit(1)


def _specs(given: list[str], captions: str) -> list[str]:
    """Returns the benchmarks; with captions, a `--dataset` without `=`, but a built-in, is what results call them."""
    from babelclip.errors import BabelclipError

    if not captions:
        return [_expanded(spec) for spec in given]
    names = [spec for spec in given if "=" not in spec and spec not in _BUILTIN]
    if len(names) > 1:
        raise BabelclipError(
            f"--dataset was given as {' and '.join(names)}, and with --captions one name is what their results are "
            "called. Give one, and benchmarks as NAME=DIR."
        )
    name = names[0] if names else Path(captions).name.split(".")[0]
    return [f"captions={captions},name={name}", *(_expanded(spec) for spec in given if spec not in names)]


def _write_builtin() -> None:
    """Writes the captions of the built-in set where its reader looks for them, if they are not there.

    Evaluation stands below the starter and cannot ask it for its photographs.
    """
    from babelclip.data.captions import write_captions
    from babelclip.errors import BabelclipError
    from babelclip.evaluate.benchmarks.own import builtin_path
    from babelclip.starter import debian, tuxpaint

    if builtin_path().exists():
        return
    found = debian.find_folder(tuxpaint.STAMPS)
    if found.folder is None:
        raise BabelclipError("The built-in set is not here. " + " ".join(debian.left_out([found])))
    builtin_path().parent.mkdir(parents=True, exist_ok=True)
    write_captions(tuxpaint.photographs(tuxpaint.read_stamps(found.folder)), builtin_path())


def _expanded(spec: str) -> str:
    """Returns the benchmark with `~` in its path replaced: a shell does that only at the start of a word."""
    name, equals, path = spec.partition("=")
    return f"{name}{equals}{Path(path).expanduser()}" if path.startswith("~") else spec


def _shots(words: str) -> tuple[int | None, ...]:
    from babelclip.errors import BabelclipError

    numbers: list[int | None] = []
    for word in words.split(","):
        if word.strip() != "all" and not word.strip().isdecimal():
            raise BabelclipError(f"--shots {words!r} holds {word!r}; it takes all and numbers, for example all,1,16.")
        numbers.append(None if word.strip() == "all" else int(word))
    return tuple(numbers)


def _listed() -> str:
    from babelclip.evaluate.benchmarks import entries

    parts = []
    for entry in entries():
        tree = "\n".join(f"    {line}" for line in entry.tree.strip().splitlines())
        protocols = f"; protocols: {', '.join(entry.protocols)}" if entry.protocols else ""
        parts.append(
            f"{entry.name}  ({entry.task}) {entry.title}\n"
            f"  languages: {entry.languages}; splits: {', '.join(entry.splits)}{protocols}\n"
            f"  published: {entry.published}; licence: {entry.licence}\n{tree}\n"
        )
    return "\n".join(parts)
