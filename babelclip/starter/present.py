"""What the demo leaves behind: `report.json`, `report.md`, `report.html`, and lines in the terminal."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from babelclip import languages
from babelclip.evaluate.report import markdown_table
from babelclip.evaluate.result import versions
from babelclip.files import atomic_path, write_json
from babelclip.models.clip import Clip
from babelclip.starter.gallery import gallery, printed_lines
from babelclip.starter.measure import PictureSet, language_facts, mean_over, table_of
from babelclip.starter.page import render_page
from babelclip.starter.results import FOREIGN, KINDS, TEACHER, Measured
from babelclip.starter.teach import Taught
from babelclip.starter.words import Corpus
from babelclip.train.log import read_log

# Never taught here, of several families and scripts: what they reach comes from the student's backbone.
UNTAUGHT = ("sv", "fi", "uk", "vi", "hi", "th", "nl", "pl", "cs", "hu")


def build_report(
    clip: Clip,
    sets: Sequence[PictureSet],
    measured: Measured,
    corpus: Corpus,
    taught: Taught,
    *,
    seconds: Mapping[str, float],
    training_log: Path,
    missing: Sequence[str],
    folder: Path,
    seed: int,
    least: int,
) -> dict[str, Any]:
    """Returns everything that the demo found out, in the form that `page.render_page` takes and `report.json` keeps."""
    tables = [
        table_of(one, [(name, KINDS[name], results) for name, results in measured.rows[one.key].items()], least)
        for one in sets
    ]
    codes = list(dict.fromkeys(code for table in tables for code in table["languages"]))
    shown = next((one for one in sets if one.key == "photos"), sets[0])
    return {
        "title": "babelclip demo: a CLIP taught many languages",
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seed": seed,
        "seconds": dict(seconds),
        "total_seconds": sum(seconds.values()),
        "machine": machine(),
        "versions": {name: version for name, version in versions().items() if name != "python"},
        "summary": summary(tables, clip.languages),
        "languages": language_facts(codes, clip.languages),
        "tables": tables,
        "training": _training(taught, training_log),
        "gallery": gallery(clip, shown, measured.images[shown.key]),
        "counts": {
            "training_texts": corpus.counts,
            "removed_test_captions": corpus.removed,
            "skipped_rows": {one.title: one.captions.skipped for one in sets if one.captions.skipped},
        },
        "missing": list(missing),
        "attribution": list(clip.attribution),
        "model_folder": str(folder / "student"),
        "next_commands": next_commands(folder),
    }


def summary(tables: Sequence[Mapping[str, Any]], taught: Sequence[str]) -> dict[str, Any]:
    """Returns R@10 of text to image on the photographs (or on the first table), in a few figures."""
    table = next((table for table in tables if table["id"] == "photos"), tables[0])
    rows = {row["kind"]: row for row in table["rows"]}
    groups = {
        "english": ["en"],
        "taught_mean": [code for code in table["languages"] if code != "en" and languages.covers(taught, code)],
        "untaught_mean": [code for code in UNTAUGHT if code in table["languages"] and code not in taught],
    }
    figures = {
        kind: {group: mean_over(rows[kind], codes) for group, codes in groups.items()}
        for kind in ("foreign", "before", "ridge", "after")
        if kind in rows
    }
    return {
        "E": mean_over(rows["teacher"], ["en"]),
        "chance": table["chance"]["R@10"],
        **figures["after"],
        "taught_languages": groups["taught_mean"],
        "untaught_languages": groups["untaught_mean"],
        "ridge": figures["ridge"],
        "before": figures["before"],
        "foreign": figures.get("foreign", {}),
        "groups": groups,
    }


def write_report(report: dict[str, Any], measured: Measured, clip: Clip, sets: Sequence[PictureSet], out: Path) -> None:
    """Writes `report.json`, `report.md` and the self-contained `report.html` into `out`."""
    write_json(out / "report.json", report)
    for name, content in (("report.md", _markdown(report, measured, clip, sets)), ("report.html", render_page(report))):
        with atomic_path(out / name) as temporary:
            temporary.write_text(content, encoding="utf-8")


def terminal_lines(report: Mapping[str, Any], out: Path) -> list[str]:
    """Returns the figures, the search in eight languages and what to try next, as lines for the terminal."""
    figures = report["summary"]
    lines = ["", f"R@10, text to image, {report['tables'][0]['title']} (chance {100 * figures['chance']:.1f} %)"]
    lines.append(f"  {'':42}{'English':>9}{'taught':>9}{'untaught':>10}")
    lines.append(f"  {TEACHER:42}{100 * figures['E']:9.1f}")
    for kind, name in ((kind, name) for name, kind in KINDS.items() if kind != "teacher"):
        row = figures if kind == "after" else figures[kind]
        english = f"{'':9}" if name == FOREIGN or not row else f"{100 * row['english']:9.1f}"
        if row:
            lines.append(f"  {name:42}{english}{100 * row['taught_mean']:9.1f}{100 * row['untaught_mean']:10.1f}")
    counts = {group: len(codes) for group, codes in figures["groups"].items()}
    lines.append(f"  means over {counts['taught_mean']} taught and {counts['untaught_mean']} untaught languages")
    lines += ["", "Search with the taught model, loaded from disk (* = right)", *printed_lines(report["gallery"])]
    lines += ["", f"The report: {out / 'report.html'}", "", "Next:", *(f"  {line}" for line in report["next_commands"])]
    return lines


def next_commands(out: Path) -> list[str]:
    """Returns three commands to try, as they are called from where the user stands."""
    program = sys.argv[0] if Path(sys.argv[0]).name == "babelclip" else "babelclip"
    if os.path.isabs(program) and Path(program).is_relative_to(Path.cwd()):
        program = str(Path(program).relative_to(Path.cwd()))
    model = shlex.quote(str(out / "student"))
    return [
        f'{program} search --model {model} --in ~/Pictures "två hundar i snön"',
        f"{program} evaluate {model} --captions my-captions.jsonl --lang all",
        f"{program} train --help",
    ]


def machine() -> dict[str, Any]:
    """Returns processor, cores, memory and Python of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9 if hasattr(os, "sysconf") else 0.0
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(memory, 1),
        "python": platform.python_version(),
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _training(taught: Taught, path: Path) -> dict[str, Any]:
    lines = read_log(path) if path.is_file() else []
    return {
        "trivial_mse": taught.run.trivial_mse,
        "curve": [
            {key: line[key] for key in ("step", "loss", "mse", "lr")} for line in lines if line["event"] == "train"
        ],
        "validation": [
            {"step": line["step"], **{figure: _by_language(line, figure) for figure in ("mse", "cosine")}}
            for line in lines
            if line["event"] == "validate"
        ],
    }


def _by_language(line: Mapping[str, Any], figure: str) -> dict[str, float]:
    return {key.partition("/")[2]: value for key, value in line.items() if key.startswith(f"{figure}/")}


def _markdown(report: Mapping[str, Any], measured: Measured, clip: Clip, sets: Sequence[PictureSet]) -> str:
    parts = [
        f"# {report['title']}",
        "",
        f"Seed {report['seed']}, {report['total_seconds']:.0f} s, {report['created']}",
        "",
    ]
    parts += [f"Left out: {line}\n" for line in report["missing"]]
    for one in sets:
        results = [result for rows in measured.rows[one.key].values() for result in rows]
        parts += [f"## {one.title}", "", one.note, ""]
        for direction in ("t2i", "i2t"):
            for metric in ("R@1", "R@5", "R@10"):
                table = markdown_table(results, direction=direction, metric=metric, taught=clip.languages)
                parts += [f"### {metric}, {direction}", "", table]
    parts += ["## Training texts", "", *_text_counts(report["counts"]["training_texts"]), ""]
    parts += [f"{report['counts']['removed_test_captions']:,} texts equal to a test caption were removed.", ""]
    parts += [
        f"* {title}: {number:,} left out, {reason}"
        for title, reasons in report["counts"]["skipped_rows"].items()
        for reason, number in reasons.items()
    ]
    parts += ["", "## Sources", "", *(f"* {line}" for line in report["attribution"]), ""]
    return "\n".join(parts)


def _text_counts(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    total: Counter[str] = Counter()
    for by_language in counts.values():
        total.update(by_language)
    lines = [f"* {source}: {sum(by_language.values()):,}" for source, by_language in counts.items()]
    return [*lines, f"* together: {sum(total.values()):,} in {len(total)} languages"]
