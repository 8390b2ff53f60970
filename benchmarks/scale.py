"""What a job of any size takes: machines, hours, bytes, money, and what breaks first, from measured unit rates.

    python benchmarks/scale.py [--plan 1e8 ...] [--set gpu_price=1.5 ...] [--collection photos.lance] [--out FILE.json]

The plans are those of docs/scale.md: 10^6, 10^8 and 5 x 10^9 pictures embedded, indexed and served; 7 million
captions in 48 languages; training with batch 90,000. Every rate is a row of the first table, with its source: measured
here (read from results/), published by others for their machines, or assumed; `--set NAME=VALUE` puts yours in its
place, prices above all. Nothing is run but the arithmetic: `benchmarks/scale_rates.py` has the rates,
`scale_plans.py` the formulas.

`--collection` measures what a row of a real collection takes beside its vector, and writes that to its own file in
results/, which later runs read. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import scale_page
import scale_plans
from scale_plans import Plan
from scale_rates import Rate, load_rates

RESULTS = Path(__file__).parents[1] / "results"
# Machines of each plan of pictures: the measuring machine, one machine with GPUs, many.
PLANS: dict[str, tuple[float, int, bool]] = {
    "1e6": (1e6, 1, False),
    "1e6-gpu": (1e6, 1, True),
    "1e8": (1e8, 1, True),
    "5e9": (5e9, 32, True),
}
CAPTIONS, LANGUAGES = 7e6, 48
BATCH, GPUS = 90_000, 256
STEPS = (("bytes", 1e12, "TB"), ("bytes", 1e9, "GB"), ("bytes", 1e6, "MB"), ("bytes", 1e3, "KB"))


def plans(rates: Mapping[str, float], names: Sequence[str]) -> dict[str, list[Plan]]:
    """Returns the plans by name: those of pictures in `PLANS`, `translate` and `batch`."""
    made: dict[str, list[Plan]] = {}
    for name in names:
        if name == "translate":
            made[name] = [
                scale_plans.translate(CAPTIONS, LANGUAGES, 4, rates, gpu=False),
                scale_plans.translate(CAPTIONS, LANGUAGES, 4, rates, gpu=True),
            ]
        elif name == "batch":
            made[name] = [scale_plans.contrastive(BATCH, GPUS, rates, locked=locked) for locked in (False, True)]
        else:
            pictures, machines, gpu = PLANS[name]
            made[name] = [scale_plans.embed(pictures, machines, rates, gpu=gpu)]
            made[name] += [scale_plans.index(pictures, machines, rates, gpu=gpu), scale_plans.serve(pictures, rates)]
    return made


def row_bytes(address: str) -> dict[str, Any]:
    """Measures the bytes of a collection's rows by column, as Arrow holds them, but for their vectors."""
    from babelclip.search.collection import open_collection

    collection = open_collection(address)
    totals: dict[str, int] = {}
    rows = 0
    for batch in collection.scan(columns=list(collection.columns)):
        rows += batch.num_rows
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            totals[name] = totals.get(name, 0) + column.nbytes
    if not rows:
        raise ValueError(f"The collection {address} has no rows to measure. Name one that has.")
    return {
        "benchmark": "scale-rows",
        "rows": rows,
        "bytes_a_row": {name: round(size / rows, 1) for name, size in totals.items()},
        "bytes_a_row_beside_the_vector": round(sum(totals.values()) / rows, 1),
        **circumstances(),
    }


def circumstances() -> dict[str, Any]:
    """Returns date, machine and versions."""
    return {
        "date": datetime.date.today().isoformat(),
        "command": f"python {' '.join(sys.argv)}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), "babelclip": version("babelclip")},
    }


def shown(value: float, unit: str) -> str:
    """Returns a value as people read it: bytes with a prefix, small numbers with digits, large ones with commas."""
    for kind, size, name in STEPS:
        if unit.startswith(kind) and abs(value) >= size:
            return f"{value / size:,.1f} {name}{unit[len(kind) :]}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 3 if abs(value) >= 0.01 or value == 0 else 6
    text = f"{value:,.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {unit}".strip()


def rate_table(rates: Mapping[str, Rate]) -> str:
    """Returns the rates, measured ones first."""
    lines = [f"{'rate':<20} {'value':>14}  {'kind':<10} what and from where"]
    for rate in sorted(rates.values(), key=lambda one: one.kind != "measured"):
        lines.append(f"{rate.name:<20} {rate.value:>14,.4g}  {rate.kind:<10} {rate.unit} ({rate.source})")
    return "\n".join(lines)


def plan_table(plan: Plan) -> str:
    """Returns one plan: its sums, its figures, and its limits from the first that breaks on."""
    lines = [
        "",
        f"== {plan.title}: {plan.machines:,} machine{'s' * (plan.machines != 1)}, {shown(plan.hours, 'hours')}, "
        f"{plan.cost:,.0f} USD",
        *(f"   {name:<46} {shown(value, unit):>20}" for name, (value, unit) in plan.figures.items()),
    ]
    for limit in plan.worst():
        state = "BREAKS" if limit.share > 1 else "holds"
        sizes = f"{shown(limit.needed, limit.unit)} of {shown(limit.there, limit.unit)}"
        cure = f": {limit.cure}" if limit.share > 1 and limit.cure else ""
        lines.append(f"   {state:<6} {limit.what}, {sizes} ({limit.share:.2g}){cure}")
    return "\n".join(lines)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", action="append", choices=[*PLANS, "translate", "batch"], help="default: all")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a rate of your own")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where measured rates are read")
    parser.add_argument("--collection", help="measure the bytes of a row of this collection, and end")
    parser.add_argument("--page", type=Path, help="put the tables into this page; takes all plans")
    parser.add_argument("--out", type=Path, help="write the record here")
    return parser.parse_args(given)


def settings_of(pairs: Sequence[str]) -> dict[str, float]:
    """Returns the rates that `--set` gives.

    Raises:
        ValueError: one is not NAME=VALUE.
    """
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise ValueError(f"--set {pair} must be NAME=VALUE, for example gpu_price=1.5. Correct it.")
    return found


def main(given: Sequence[str] | None = None) -> None:
    """Prints the tables and one line of JSON."""
    asked = arguments(given)
    if asked.collection:
        record = row_bytes(asked.collection)
    else:
        try:
            rates = load_rates(asked.results, settings_of(asked.set))
        except ValueError as error:
            raise SystemExit(str(error)) from error
        print(rate_table(rates))
        made = plans({name: rate.value for name, rate in rates.items()}, asked.plan or [*PLANS, "translate", "batch"])
        for plan in (plan for group in made.values() for plan in group):
            print(plan_table(plan))
        record = {
            "benchmark": "scale",
            **circumstances(),
            "rates": {name: {k: v for k, v in vars(rate).items() if k != "name"} for name, rate in rates.items()},
            "plans": {name: [plan.to_json() for plan in group] for name, group in made.items()},
        }
        if asked.page:
            scale_page.put_into(asked.page, scale_page.tables(record, shown))
    if asked.out:
        asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
