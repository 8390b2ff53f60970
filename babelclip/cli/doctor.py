"""`babelclip doctor`: whether this machine has what babelclip needs, and what to do where it has not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from babelclip.doctor import Finding

_MARKS = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}


def doctor(as_json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """Look at versions, devices, disks, the hub and the terminal; ends with 1 where something is broken.

    Nothing is changed. A note is something to know; a problem makes babelclip fail, and says what to do.

    \b
    Examples:
      babelclip doctor
      babelclip doctor --json | jq -r '.findings[] | select(.state != "ok") | .advice'
    """
    from babelclip.doctor import as_data, examine

    findings = [*examine(), _model()]
    content = as_data(findings)
    if as_json:
        typer.echo(json.dumps(content, ensure_ascii=False, indent=2))
    else:
        _show(findings)
    if not content["ok"]:
        raise typer.Exit(1)


def _show(findings: list[Finding]) -> None:
    width = max(len(finding.topic) for finding in findings)
    for finding in findings:
        typer.echo(f"{_MARKS[finding.state]}  {finding.topic:{width}}  {finding.found}")
        if finding.advice:
            typer.echo(f"{'':9}{'':{width}}  -> {finding.advice}")
    problems = sum(finding.state == "problem" for finding in findings)
    notes = sum(finding.state == "note" for finding in findings)
    typer.echo(f"{problems or 'no'} problem{'' if problems == 1 else 's'}, {notes} note{'' if notes == 1 else 's'}")


def _model() -> Finding:
    """Returns which model a verb takes when none is named."""
    from babelclip.cli.default_model import default_model
    from babelclip.doctor import Finding
    from babelclip.errors import BabelclipError

    try:
        folder = default_model()
    except BabelclipError:
        advice = "make one: babelclip starter. Or give --model a folder, or a name that babelclip models lists"
        return Finding("model", "note", "no model is here yet that a verb could take without --model", advice)
    return Finding("model", "ok", f"{folder} is taken where none is named", facts={"folder": str(folder)})
