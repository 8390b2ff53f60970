"""`babelclip report`: results of one or many runs as tables, plots and a page."""

from __future__ import annotations

from pathlib import Path

import typer

from babelclip.cli.stored import stored


@stored(whole=("results",), files=("html", "markdown", "csv"))
def report(
    results: list[Path] = typer.Argument(
        ..., metavar="RESULTS...", help="Files and folders of results: babelclip, clip_benchmark, FlagAI, mteb, top-k."
    ),
    html: Path | None = typer.Option(None, "--html", help="Write one self-contained page here."),
    markdown: Path | None = typer.Option(None, "--markdown", help="Write Markdown tables here."),
    csv: Path | None = typer.Option(None, "--csv", help="Write one line a figure here."),
    metric: str = typer.Option("", "--metric", help="Metric of the first table, for example R@1."),
    base: str = typer.Option("", "--base", help="Model that differences are taken from. Default: the first one read."),
    title: str = typer.Option("Evaluation report", "--title", help="Heading of the page."),
    published: bool = typer.Option(True, help="Show published figures of the same sets beside the measured ones."),
) -> None:
    """Put results side by side: models x languages, means, heat map, differences, published figures.

    One table holds only what compares: task, data set, split, direction and protocol are the same. Without --html,
    --markdown and --csv the tables are printed as Markdown.

    \b
    Examples:
      babelclip report results/ --html report.html --csv report.csv
      babelclip report mine.json clip_benchmark/*.json --metric R@1 --markdown table.md
    """
    from babelclip.evaluate.report_read import read_all_results
    from babelclip.evaluate.report_sheets import base_first, make_sheets
    from babelclip.evaluate.report_text import report_csv, report_markdown
    from babelclip.files import atomic_path

    rows, passed = read_all_results(results)
    if base:
        rows = base_first(rows, base)
    sheets, warnings = make_sheets(rows, metric)
    written: list[tuple[Path, str]] = []
    if html is not None:
        from babelclip.evaluate.report_page import render_report

        # The paths as they were given: a page may travel, and the shell's quoting is not known.
        command = f"babelclip report {' '.join(map(str, results))} --html {html}"
        written.append(
            (html, render_report(sheets, title=title, warnings=warnings, published=published, command=command))
        )
    if markdown is not None:
        written.append((markdown, report_markdown(sheets, warnings=warnings, published=published)))
    if csv is not None:
        written.append((csv, report_csv(sheets, published=published)))
    for path, text in written:
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if not written:
        typer.echo(report_markdown(sheets, warnings=warnings, published=published))
    for line in (*warnings, *(f"passed over: {line}" for line in passed)):
        typer.echo(line, err=True)
    for path, _ in written:
        typer.echo(f"wrote {path}", err=True)
