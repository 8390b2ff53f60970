"""The demo's report as one HTML file: no network, no script, no font from elsewhere.

`render_page(report)` returns the page. Everything that the report lacks is said in one line where it would stand, so
a demo without photographs, or one that was cut short, still leaves a page that explains itself. The page allows
itself nothing by its Content-Security-Policy but inline style and `data:` pictures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import resources
from typing import Any

from babelclip.starter.page_gallery import gallery
from babelclip.starter.page_parts import (
    Child,
    Markup,
    absent,
    duration,
    el,
    join,
    language_heads,
    language_of,
    percent,
    section,
    wide_table,
)
from babelclip.starter.page_results import photographs, plot, tables
from babelclip.starter.page_training import training

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_MAX_NAMED = 40  # skipped pictures named per reason; the rest is counted


def render_page(report: Mapping[str, Any]) -> str:
    """Returns the whole page as HTML text (UTF-8 when written).

    Args:
        report: the figures of one run of the demo. Every key may be missing or None; see the sections below for the
            keys they read. Pictures are named by path and become thumbnails inside the page.
    """
    title = str(report.get("title") or "babelclip demo")
    style = resources.files("babelclip.starter").joinpath("page.css").read_text("utf-8")
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        el("style", Markup(style)),
    )
    body = el(
        "main",
        _opening(report, title),
        gallery(report),
        plot(report),
        tables(report),
        training(report),
        _what_was_done(report),
        _next_commands(report),
        _attribution(report),
    )
    return join(Markup("<!doctype html>\n"), el("html", head, "\n", el("body", body), lang="en", dir="ltr"), "\n")


def _opening(report: Mapping[str, Any], title: str) -> Markup:
    """Returns headline, main figures, the line on machine and versions, what is missing, and links inside the page."""
    links = {
        "gallery": "Example queries",
        "languages": "Language by language",
        "tables": "All figures",
        "training": "Training",
        "done": "What was done",
        "next": "Try next",
        "sources": "Sources and licences",
    }
    missing: Sequence[str] = report.get("missing") or []
    note = el("div", "Left out of this run:", el("ul", [el("li", str(line)) for line in missing]), class_="missing")
    return el(
        "header",
        el("h1", title),
        el("p", _headline(report), class_="headline"),
        _tiles(report),
        el("p", _machine(report), class_="made quiet"),
        note if missing else None,
        el("nav", el("ul", [el("li", el("a", text, href=f"#{name}")) for name, text in links.items()])),
    )


def _headline(report: Mapping[str, Any]) -> str:
    """Returns the result in one sentence, as far as it was measured."""
    summary: Mapping[str, Any] = report.get("summary") or {}
    table = photographs(report) or {}
    n_images = f"{table['n_images']} " if table.get("n_images") else ""
    of = "photographs" if table.get("id", "photos") == "photos" else "pictures"
    parts = [
        ("english", "in {} of all cases in English"),
        ("taught_mean", "{} on average over the languages it was taught"),
        ("untaught_mean", "{} over languages it was never taught"),
    ]
    student = [text.format(percent(summary[key])) for key, text in parts if summary.get(key) is not None]
    if not student:
        return f"There are no figures on {of} in this report."
    teacher = [
        text.format(percent(summary[key]))
        for key, text in (("E", "its English-only teacher reaches {} in English"), ("chance", "chance is {}"))
        if summary.get(key) is not None
    ]
    sentence = f"Given a caption, the taught student ranks a right picture among the first ten of {n_images}{of} "
    listed = ", ".join(student[:-1]) + (" and " if len(student) > 1 else "") + student[-1]
    return sentence + listed + "".join(f"; {part}" for part in teacher) + "."


def _tiles(report: Mapping[str, Any]) -> Markup | None:
    """Returns the main figures, each beside the share of the teacher and the ridge head that it started from."""
    summary: Mapping[str, Any] = report.get("summary") or {}
    ridge: Mapping[str, Any] = summary.get("ridge") or {}
    teacher = summary.get("E")
    labels = {
        "E": "English teacher, English",
        "english": "Student, English",
        "taught_mean": "Student, mean of taught languages",
        "untaught_mean": "Student, mean of untaught languages",
        "chance": "Chance",
    }
    tiles = []
    for key, label in labels.items():
        value = summary.get(key)
        if value is None:
            continue
        details = [f"{value / teacher:.2f} of the teacher"] if teacher and key not in ("E", "chance") else []
        if ridge.get(key) is not None:
            details.append(f"ridge head alone {percent(ridge[key])}")
        small = el("dd", "; ".join(details), class_="small") if details else None
        tiles.append(el("div", el("dt", label), el("dd", percent(value), class_="big"), small, class_="tile"))
    if not tiles:
        return None
    meaning = "R@10, text to image: the share of captions for which a right picture is among the first ten"
    return join(el("p", meaning, class_="tiles-of quiet"), el("dl", tiles, class_="tiles"), _averaged(report))


def _averaged(report: Mapping[str, Any]) -> Markup | None:
    """Returns which languages the two means are over, where the summary lists them."""
    summary: Mapping[str, Any] = report.get("summary") or {}
    parts = []
    for name in ("taught", "untaught"):
        codes: Sequence[str] = summary.get(f"{name}_languages") or []
        if codes:
            listed = ", ".join(language_of(report, code).name for code in codes)
            parts.append(f"Mean of {name} languages: {listed}.")
    return el("p", " ".join(parts), class_="made quiet") if parts else None


def _machine(report: Mapping[str, Any]) -> str:
    """Returns one line: when, how long, on what, which seed and versions."""
    machine: Mapping[str, Any] = report.get("machine") or {}
    versions: Mapping[str, Any] = report.get("versions") or {}
    facts = []
    if report.get("created"):
        facts.append(f"Made {_moment(str(report['created']))}")
    if report.get("total_seconds") is not None:
        facts.append(f"in {duration(report['total_seconds'])}")
    if machine.get("processor"):
        facts.append(f"on {machine['processor']}")
    line = [" ".join(facts)]
    line += [f"{machine['cores']} cores"] if machine.get("cores") else []
    line += [f"{machine['memory_gb']:.0f} GB memory"] if machine.get("memory_gb") else []
    line += [f"seed {report['seed']}"] if report.get("seed") is not None else []
    line += [f"Python {machine['python']}"] if machine.get("python") else []
    line += [f"{package} {version}" for package, version in versions.items()]
    return " · ".join(part for part in line if part) or "Machine and versions were not noted."


def _moment(created: str) -> str:
    """Returns an ISO 8601 moment to the minute, or the text itself where it is none."""
    try:
        return datetime.fromisoformat(created).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return created


def _what_was_done(report: Mapping[str, Any]) -> Markup:
    """Returns the section of counts and steps."""
    counts: Mapping[str, Any] = report.get("counts") or {}
    return section("done", "What was done", _texts(report, counts), _pictures(counts), _rows(counts), _steps(report))


def _texts(report: Mapping[str, Any], counts: Mapping[str, Any]) -> list[Child]:
    """Returns the training texts per source and language, and what was removed from them."""
    texts: Mapping[str, Mapping[str, int]] = counts.get("training_texts") or {}
    if not texts:
        return [absent("This report does not say which texts were trained on.")]
    totals: dict[str, int] = defaultdict(int)
    for source in texts.values():
        for code, number in source.items():
            totals[code] += number
    codes = sorted(totals, key=lambda code: (code != "en", -totals[code], code))
    rows = [(name, _count_cells(source, codes), "") for name, source in texts.items()]
    if len(texts) > 1:
        rows.append(("all sources", _count_cells(totals, codes), "after"))
    heads = [el("th", "all", scope="col", class_="mean"), *language_heads(report, codes)]
    title = "Texts that the student was taught with; it saw no picture, only the teacher's vectors of English texts"
    removed = counts.get("removed_test_captions")
    line = None
    if removed is not None:
        line = el("p", f"{removed:,} texts that are also captions of the test pictures were removed from training.")
    return [line, wide_table(title, heads, rows, corner="Source", label="Training texts per source and language")]


def _count_cells(source: Mapping[str, int], codes: Sequence[str]) -> list[Markup]:
    numbers = [el("td", f"{source[code]:,}" if source.get(code) else "–") for code in codes]
    return [el("td", f"{sum(source.values()):,}", class_="mean"), *numbers]


def _pictures(counts: Mapping[str, Any]) -> Markup | None:
    """Returns the pictures that were left out, by reason."""
    skipped: Sequence[Mapping[str, Any]] = counts.get("skipped_pictures") or []
    if not skipped:
        return None
    by_reason: dict[str, list[str]] = defaultdict(list)
    for picture in skipped:
        by_reason[str(picture["reason"])].append(str(picture["name"]))
    lines = []
    for reason, names in by_reason.items():
        more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
        listed = join(*(el("bdi", name) for name in names[:_MAX_NAMED]), separator=", ")
        lines.append(el("li", f"{reason} ({len(names)}): ", listed, more))
    plural = "s were" if len(skipped) > 1 else " was"
    return el("details", el("summary", f"{len(skipped):,} picture{plural} left out"), el("ul", lines))


def _rows(counts: Mapping[str, Any]) -> Markup | None:
    """Returns what the readers of pictures and captions counted and left out, by picture set and reason."""
    skipped: Mapping[str, Mapping[str, int]] = counts.get("skipped_rows") or {}
    lines = [
        el("li", f"{title}: {number:,} left out, {reason}")
        for title, reasons in skipped.items()
        for reason, number in reasons.items()
    ]
    return el("ul", lines) if lines else None


def _steps(report: Mapping[str, Any]) -> Markup:
    """Returns the steps of the demo with their seconds."""
    seconds: Mapping[str, float] = report.get("seconds") or {}
    if not seconds:
        return absent("The steps were not timed.")
    longest = max(*seconds.values(), 1e-9)
    rows = []
    for name, value in seconds.items():
        fill = el("span", style=f"--v:{value / longest:.3f}", class_="fill", aria_hidden="true")
        rows.append((name, [el("td", duration(value)), el("td", fill, class_="bar")], ""))
    heads = [el("th", "Time", scope="col"), el("th", el("span", "share of the longest", class_="long"), scope="col")]
    table = wide_table("Steps in order", heads, rows, corner="Step", label="Steps with their time")
    return el("div", table, class_="steps")


def _next_commands(report: Mapping[str, Any]) -> Markup:
    """Returns the commands to try next."""
    commands: Sequence[str] = report.get("next_commands") or []
    folder = report.get("model_folder")
    saved = el("p", "The taught model lies in ", el("code", str(folder)), " and loads like any other.")
    shown = el("pre", el("code", "\n".join(commands))) if commands else absent("babelclip --help lists every command.")
    return section("next", "What to try next", saved if folder else None, shown)


def _attribution(report: Mapping[str, Any]) -> Markup:
    """Returns the sources with their licences."""
    sources: Sequence[str] = report.get("attribution") or []
    shown = el("ul", [el("li", str(source)) for source in sources]) if sources else absent("No sources were noted.")
    return section("sources", "Sources and licences", shown)
