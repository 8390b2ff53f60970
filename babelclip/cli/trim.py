"""`babelclip trim`: the same model with the tokens of some languages only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from babelclip.cli.stored import stored

if TYPE_CHECKING:
    from babelclip.data.captions import Captions
    from babelclip.models.clip import Clip

Texts = dict[str, list[str]]
# Enough for shares of a tenth of a percent, and for a comparison of vectors within seconds.
_MEASURED, _ENCODED = 5000, 64
_SCRIPTS_SHOWN = 8
_COMMON = "digits, punctuation"


@stored(reads=("captions", "sample"), folders=("out",))
def trim(
    model: str = typer.Argument(..., help="Folder or name of a model."),
    lang: str = typer.Option(..., "--lang", help="Languages to keep, separated by commas: sv,en."),
    out: Path = typer.Option(..., "--out", help="Folder for the trimmed model."),
    captions: list[str] = typer.Option(
        [],
        "--captions",
        metavar="[LANG=]FILE",
        help="Texts whose tokens are kept in place of the whole script of their language: any source of captions "
        "(docs/formats.md), or plain lines. May be repeated.",
    ),
    sample: list[str] = typer.Option(
        [], "--sample", metavar="[LANG=]FILE", help="Texts to try the result on, in the same formats. May be repeated."
    ),
    min_count: int = typer.Option(1, "--min-count", help="Keep only what occurs this often in the captions."),
    towers: str = typer.Option("both", "--towers", help="both or text: whether the picture tower comes along."),
    as_json: bool = typer.Option(False, "--json", help="Print the report as JSON."),
) -> None:
    """Shrink a model to some languages; what it still covers keeps its vectors bit for bit.

    Without captions everything in the scripts of the languages stays, so nothing written in them changes. With captions
    of a language the model shrinks far more: its captions keep their vectors, and a word with a token that is gone is
    cut into smaller ones. Digits, punctuation and single letters always stay.

    \b
    Examples:
      babelclip trim demo/student --lang ja,ko --out student-ja-ko
      babelclip trim demo/student --lang sv,en --captions captions.jsonl --out student-sv-en
      babelclip trim demo/student --lang de --captions train.de.gz --sample test.de.gz --out student-de --json
    """
    import babelclip
    from babelclip import languages
    from babelclip.errors import BabelclipError
    from babelclip.models.clip import check_replaceable
    from babelclip.models.trim import text_tower_of, tokens_to_keep
    from babelclip.models.trim import trim as trim_model

    if out.exists() and Path(model).exists() and out.resolve() == Path(model).resolve():
        raise BabelclipError(
            f"--out is the model itself, {model}; it would be replaced and the rest of its tokens lost. Give another "
            "folder."
        )
    check_replaceable(out)
    codes = [languages.normalize(code) for code in lang.split(",") if code.strip()]
    texts, samples = _read(captions, codes, "--captions"), _read(sample, codes, "--sample")
    whole = babelclip.load(model, towers=towers, dtype="float32", device="cpu")
    keep = tokens_to_keep(text_tower_of(whole), codes, texts, min_count=min_count)
    small = trim_model(whole, keep, codes)
    report: dict[str, Any] = {"model": whole.name or model, "out": str(out), "languages": codes, "min_count": min_count}
    report |= _report(whole, small, codes, texts, samples, min_count)
    if report["exact"]["max_difference"] != 0:
        raise BabelclipError(
            f"The vectors of {report['exact']['texts']} covered texts differ by up to "
            f"{report['exact']['max_difference']:.2g}, and they should be equal. Nothing was written; please report "
            f"this with the model's name."
        )
    small.save(out)
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False))
    else:
        _show(report)
    for warning in _warnings(report, whole):
        typer.echo(f"warning: {warning}", err=True)


def _report(
    whole: Clip, small: Clip, codes: Sequence[str], texts: Texts, samples: Texts, min_count: int
) -> dict[str, Any]:
    """Returns sizes, what became of captions, of a tenth of them held out and of samples, and the exactness check."""
    from babelclip.models.trim import text_tower_of
    from babelclip.models.trim_report import held_out, largest_difference, measure, texts_of_pieces, trim_report

    before, after = text_tower_of(whole), text_tower_of(small)
    report = trim_report(whole, small)
    some, tried = _thinned(texts, _MEASURED), _thinned(samples, _MEASURED)
    report["captions"] = measure(before.tokenizer, after.tokenizer, some)
    report["held_out"] = held_out(before, codes, texts, min_count=min_count) if texts else {}
    report["samples"] = measure(before.tokenizer, after.tokenizer, tried)
    encoded = [text for part in (some, tried) for listed in _thinned(part, _ENCODED).values() for text in listed]
    count, difference = largest_difference(whole, small, [*encoded, *texts_of_pieces(after.tokenizer, _ENCODED)])
    report["exact"] = {"texts": count, "max_difference": difference}
    return report


def _read(files: Sequence[str], codes: Sequence[str], option: str) -> Texts:
    """Returns the texts of the files by language; those in other languages are left out and counted on stderr."""
    from babelclip import languages

    texts: Texts = {}
    left_out: dict[str, int] = {}
    for given in files:
        rows = _read_file(given, codes, option)
        for text, code in zip(rows.texts, rows.langs, strict=True):
            served = code if code in codes else next((one for one in codes if languages.covers([one], code)), None)
            if served is None:
                left_out[code] = left_out.get(code, 0) + 1
            else:
                texts.setdefault(served, []).append(text)
    if left_out:
        counts = ", ".join(f"{count:,} in {code}" for code, count in left_out.items())
        typer.echo(f"{option}: {counts} left out, not among the languages", err=True)
    if files and not texts:
        from babelclip.errors import BabelclipError

        raise BabelclipError(
            f"{option} {', '.join(files)} holds no text in {', '.join(codes)}. Give texts in these languages, or name "
            "theirs with --lang."
        )
    return texts


def _read_file(given: str, codes: Sequence[str], option: str) -> Captions:
    """Returns the captions of `[LANG=]FILE`."""
    from babelclip import languages
    from babelclip.data.captions import read_lines
    from babelclip.data.sources import kind_of, read_all
    from babelclip.errors import BabelclipError

    told, _, rest = given.partition("=")
    has_language = bool(rest) and not Path(given).exists()
    path = Path(rest if has_language else given)
    code = languages.normalize(told) if has_language else None
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if code is None:
        # As Moses files are called: train.de, train.de.gz.
        code = next((one for one in codes if suffix == f".{one.lower()}"), codes[0] if len(codes) == 1 else None)
    # Lines in the language that is told here, whatever the file is called; any other source knows better.
    if not path.is_file() or kind_of(path) not in (None, "plain lines"):
        return read_all(rest if has_language else given, lang=code)
    if code is None:
        raise BabelclipError(
            f"{option} {given} is read as plain lines, which do not say their language, and several are asked for "
            f"({', '.join(codes)}). Name it: {option} {codes[0] if codes else 'sv'}={given}"
        )
    return read_lines(path, code)


def _thinned(texts: Texts, most: int) -> Texts:
    """Returns at most so many texts of each language, evenly spread."""
    return {code: listed[:: max(1, -(-len(listed) // most))] for code, listed in texts.items()}


def _warnings(report: dict[str, Any], whole: Clip) -> list[str]:
    from babelclip import languages

    warnings = []
    for source in ("captions", "samples"):
        for code, row in report[source].items():
            if row["unknown_share"] > row["unknown_share_before"]:
                warnings.append(
                    f"{row['unknown_share']:.2%} of the tokens of the {source} in {code} are unknown now, against "
                    f"{row['unknown_share_before']:.2%} before: name their languages with --lang, or give these texts "
                    "as --captions."
                )
    undeclared = [code for code in report["languages"] if not languages.covers(whole.languages, code)]
    if whole.languages and undeclared:
        warnings.append(f"{report['model']} was not trained on {', '.join(undeclared)}; nor will the trimmed one be.")
    if report["trimmed_before"]:
        warnings.append("This model was trimmed before; what was dropped then is not back. Trim the original for more.")
    if report["pieces"] == report["pieces_before"]:
        warnings.append("Nothing was dropped: all tokens are in the scripts of these languages.")
    return warnings


def _show(report: dict[str, Any]) -> None:
    """Prints the report as tables."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    def table(*columns: str) -> Table:
        made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for at, column in enumerate(columns):
            made.add_column(column, justify="right" if at else "left", no_wrap=True)
        return made

    sizes = table(report["tokenizer"], "before", "after", "kept")
    for label, key, unit in (
        ("tokens", "pieces", ""),
        ("token embeddings", "embedding_bytes", " MB"),
        ("text tower", "text_tower_bytes", " MB"),
    ):
        was, now = report[f"{key}_before"], report[key]
        figures = [f"{value / 1e6:,.1f}{unit}" if unit else f"{value:,}" for value in (was, now)]
        sizes.add_row(label, *figures, f"{now / was:.1%}")
    scripts = report["by_script"]
    kept = {label: row for label, row in scripts.items() if row["kept"]}
    shown = dict(list(kept.items())[:_SCRIPTS_SHOWN])
    rest = [row for label, row in scripts.items() if label not in shown]
    rows = {_COMMON if label == "common" else label: row for label, row in shown.items()}
    if rest:
        rows[f"{len(rest)} other scripts"] = {key: sum(row[key] for row in rest) for key in ("before", "kept")}
    for label, row in rows.items():
        share = row["kept"] / max(row["before"], 1)
        sizes.add_row(f"  {label}", f"{row['before']:,}", f"{row['kept']:,}", f"{share:.1%}")
    console = Console(highlight=False)
    console.print(sizes)
    tried = table("tried on", "texts", "changed", "words changed", "unknown", "tokens a text")
    titles = {"captions": "captions", "held_out": "new texts like them", "samples": "sample"}
    for source, title in titles.items():
        for code, row in report[source].items():
            tried.add_row(
                f"{title}, {code}",
                f"{row['texts']:,}",
                f"{row['texts_changed_share']:.1%}",
                f"{row['words_changed_share']:.2%}",
                f"{row['unknown_share']:.2%}",
                f"{row['tokens_per_text_before']:.1f} > {row['tokens_per_text']:.1f}",
            )
    if tried.row_count:
        console.print(tried)
    if report["held_out"]:
        typer.echo("New texts like them: a tenth of the captions, tried on what the other nine tenths keep.")
    exact = report["exact"]
    typer.echo(f"{exact['texts']} covered texts: largest difference to the whole model {exact['max_difference']:g}")
    typer.echo(f"{report['out']}: {report['model']} for {', '.join(report['languages'])}")
