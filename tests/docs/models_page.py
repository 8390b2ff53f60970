"""The generated tables of docs/models.md. `python -m tests.docs.models_page` writes them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from babelclip import registry
from babelclip.files import atomic_path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "models.md"
GOLDEN = ROOT / "tests" / "golden"


def golden_table() -> str:
    """One row a golden folder: what made it, in which version."""
    rows = ["| folder | made by | versions | about |", "|---|---|---|---|"]
    for path in sorted(GOLDEN.glob("*/origin.json")):
        origin = json.loads(path.read_text(encoding="utf-8"))
        versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
        rows.append(f"| {path.parent.name} | {origin['origin']} | {versions} | {origin.get('notes', '')} |")
    return "\n".join(rows)


def models_table() -> str:
    """One row a model, family by family; copies of the same weights in one cell."""
    rows = [
        "| model | space | towers | dim | GB | languages | completed by | licence | figure |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    family = None
    for card in registry.list_models():
        if card.family != family:
            family = card.family
            rows.append(f"| **{family}** | | | | | | | | |")
        copies = [f"`{other.name}`" for other in registry.cards() if other.same_weights == card.name]
        name = f"`{card.name}`" + (f" (also {', '.join(copies)})" if copies else "")
        counted = [len(card.languages), len(card.languages_transfer)]
        languages = "" if not any(counted) else " + ".join(map(str, counted if counted[1] else counted[:1]))
        score = registry.headline(card)
        figure = ""
        if score is not None:
            parts = (score.benchmark, score.direction, score.metric, score.language, score.protocol)
            figure = f"{score.value:.1f} ({', '.join(part for part in parts if part != '-')})"
        space = "own" if card.space == card.name else f"`{card.space}`"
        size = f"{card.size_gb:.2f}" if card.size_gb else ""
        twin = f"`{card.image_twin}`" if card.image_twin else ""
        cells = (name, space, card.towers, str(card.embed_dim), size, languages, twin, card.licence, figure)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def with_tables(page: str) -> str:
    """The page with both tables as they are now."""
    for mark, table in (("golden", golden_table()), ("models", models_table())):
        block = re.compile(rf"(<!-- {mark}: begin[^\n]*-->\n).*?(<!-- {mark}: end -->)", re.DOTALL)
        page, found = block.subn(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", page)
        assert found == 1, f"{PAGE} must hold one block {mark}"
    return page


if __name__ == "__main__":
    with atomic_path(PAGE) as temporary:
        temporary.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
