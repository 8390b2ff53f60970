"""The tables of docs/scale.md, from a record of `benchmarks/scale.py`. Entry points: `tables`, `put_into`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Show = Callable[[float, str], str]
BEGIN, END = "<!-- tables: benchmarks/scale.py --page -->", "<!-- end of tables -->"
NAMES = {
    "1e6": "10^6, this machine", "1e6-gpu": "10^6, 8 GPUs", "1e8": "10^8, 8 GPUs", "5e9": "5 x 10^9, 32 x 8 GPUs",
}  # fmt: skip
# Row of the table, plan of the group (embed, index, serve), figure; "" is one of the plan's own sums.
PICTURES = (
    ("pictures to read", 0, "pictures to read"),
    ("encoding: pictures/s", 0, "all machines encode"),
    ("encoding: hours", 0, "hours"),
    ("encoding: USD", 0, "cost"),
    ("vectors", 0, "vectors"),
    ("rows with thumbnails", 0, "rows with thumbnails"),
    ("stored a month: USD", 0, "stored a month"),
    ("shards of the ledger", 0, "shards"),
    ("index", 1, "index"),
    ("partitions", 1, "partitions"),
    ("index: memory of the driver", 1, "sampled for training"),
    ("index: hours", 1, "hours"),
    ("replicas for 100 queries/s", 2, "machines"),
    ("read by a cold query", 2, "read for a query that finds nothing in memory"),
    ("serving, a month: USD", 2, "cost"),
)


def tables(record: Mapping[str, Any], show: Show) -> str:
    """Returns the tables of pictures, of translating and of training, in Markdown."""
    groups = {name: record["plans"][name] for name in NAMES}
    lines = [f"| | {' | '.join(NAMES.values())} |", f"|---|{'---|' * len(NAMES)}"]
    for title, number, figure in PICTURES:
        cells = [figure_of(group[number], figure, show) for group in groups.values()]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    breaks = [" ".join(breaking(group, show)) or "nothing" for group in groups.values()]
    lines += [f"| breaks first | {' | '.join(breaks)} |", ""]
    for name in ("translate", "batch"):
        plans = record["plans"][name]
        lines += [f"| | {' | '.join(plan['title'] for plan in plans)} |", f"|---|{'---|' * len(plans)}"]
        for figure in ("machines", "hours", "cost", *plans[0]["figures"]):
            title = {"cost": "USD"}.get(figure, figure)
            lines.append(f"| {title} | {' | '.join(figure_of(plan, figure, show) for plan in plans)} |")
        breaks = [" ".join(breaking([plan], show)) or "nothing" for plan in plans]
        lines += [f"| breaks first | {' | '.join(breaks)} |", ""]
    return "\n".join(lines).rstrip()


def figure_of(plan: Mapping[str, Any], name: str, show: Show) -> str:
    """Returns a sum or a figure of a plan as people read it."""
    if name in ("machines", "hours", "cost"):
        return show(round(plan["cost"]) if name == "cost" else plan[name], "")
    figure = plan["figures"][name]
    unit = figure["unit"]
    return show(figure["value"], unit if unit.startswith("bytes") or unit == "s" else "")


def breaking(plans: list[Any], show: Show) -> list[str]:
    """Returns what is needed beyond its bound, worst first, with the cure."""
    limits = sorted((limit for plan in plans for limit in plan["limits"]), key=lambda limit: -limit["share"])
    return [
        f"{limit['what']} ({show(limit['needed'], limit['unit'])} of {show(limit['there'], limit['unit'])}): "
        f"{limit['cure']}."
        for limit in limits
        if limit["share"] > 1
    ]


def put_into(page: Path, text: str) -> None:
    """Replaces the tables of a page.

    Raises:
        ValueError: it has no place for them.
    """
    content = page.read_text(encoding="utf-8")
    pattern = re.compile(f"(?<={re.escape(BEGIN)}\n).*?(?={re.escape(END)})", re.DOTALL)
    if not pattern.search(content):
        raise ValueError(f"{page} has no lines {BEGIN} and {END}. Put them where the tables shall stand.")
    page.write_text(pattern.sub(lambda _match: f"{text}\n", content), encoding="utf-8")
