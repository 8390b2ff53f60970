"""`babelclip models`: the published models, what is known of them, and where it is known from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from babelclip.registry import ModelCard, Score

# A card's facts that are shown elsewhere than in its list of facts.
_SHOWN_APART = ("name", "family", "sources", "notes")
_WIDEST = 100
_WIDTH_FOR_LICENCES = 96


def models(
    name: str = typer.Argument("", metavar="[NAME]", help="One model, by its name or one of its other names."),
    lang: str = typer.Option("", "--lang", help="Only models for this language, best published quality first."),
    family: str = typer.Option("", "--family", help="Only families whose name contains this, for example siglip."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """List published models, or show one with every fact and its source.

    The letter behind a figure says its benchmark and protocol, below the table. Only equal letters compare.

    \b
    Examples:
      babelclip models
      babelclip models --lang sw
      babelclip models --family m-clip --json | jq -r '.[].name'
      babelclip models XLM-Roberta-Large-Vit-L-14
    """
    from rich.console import Console

    from babelclip import registry

    if name and (lang or family):
        raise typer.BadParameter(f"{name} is one model, and --lang and --family choose among all: give one of the two.")
    if name:
        card = _named(name)
        content: Any = _as_data(card)
        shown: list[RenderableType] = _one(card)
    else:
        listed = registry.list_models(family=family, lang=lang)
        content = [_as_data(card) for card in listed]
        shown = _table(listed, lang)
    if as_json:
        typer.echo(json.dumps(content, ensure_ascii=False, indent=2))
        return
    console = Console(highlight=False)
    console.width = min(console.width, _WIDEST)
    for part in shown:
        console.print(part)


def _named(name: str) -> ModelCard:
    """Returns the card of a name.

    Raises:
        BabelclipError: there is none; the message names the closest ones.
    """
    from babelclip import registry
    from babelclip.errors import BabelclipError

    card = registry.find(name)
    if card is None:
        near = registry.closest_names(name)
        raise BabelclipError(
            f"{name!r} is no published model that babelclip has a card of. "
            + (f"Did you mean {' or '.join(near)}? " if near else "")
            + "`babelclip models` lists all. A folder or another repository loads without a card too."
        )
    return card


def _as_data(card: ModelCard) -> dict[str, Any]:
    """Returns a card as JSON: its known facts, its figures, and a citation for each source key."""
    from babelclip import registry

    facts: dict[str, Any] = {
        fact: value for fact in registry.FACTS if (value := getattr(card, fact)) not in ("", None, (), {})
    }
    facts["sources"] = dict(card.sources)
    facts["scores"] = [score._asdict() for score in card.scores]
    keys = {*card.sources.values(), *(score.source for score in card.scores)}
    facts["citations"] = {key: registry.source(key) for key in sorted(keys)}
    return facts


def _table(listed: list[ModelCard], lang: str) -> list[RenderableType]:
    """Returns the tables of models under their headings, what the letters of the figures mean, and a closing line.

    Args:
        listed: in the order of the table.
        lang: show figures for this language; "" = each model's most telling figure, family by family.
    """
    from rich.text import Text

    from babelclip import registry

    ranked = {card.name: score for card, score in registry.for_language(lang)} if lang else None
    sections: dict[str, list[tuple[ModelCard, Score | None]]] = {}
    for card in listed:
        score = registry.headline(card) if ranked is None else ranked[card.name]
        heading = card.family if ranked is None else _standing(card, score, lang)
        sections.setdefault(heading, []).append((card, score))
    letters: dict[tuple[str, ...], str] = {}
    parts: list[RenderableType] = []
    for heading, rows in sections.items():
        title = Text(f"\n{heading}" if parts else heading, style="bold")
        parts += [title, _section(rows, letters, with_header=not parts)]
    copies = sum(1 for card in registry.cards() if card.same_weights)
    legend = [f"{letter}: {', '.join(part for part in group if part != '-')}" for group, letter in letters.items()]
    closing = (
        f"{len(listed)} models; {copies} copies of the same weights in other layouts are not listed. langs: languages "
        "trained + only reported on. GB: in float32. Figures compare only where their letters agree."
    )
    return [*parts, Text("\n".join([*legend, "", closing]))]


def _section(
    rows: list[tuple[ModelCard, Score | None]], letters: dict[tuple[str, ...], str], *, with_header: bool
) -> RenderableType:
    """Returns one table; fixed widths make the tables of all sections line up."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    with_licence = Console().width >= _WIDTH_FOR_LICENCES
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), expand=True, show_header=with_header, show_edge=False
    )
    table.add_column("model, and its space where it is another", overflow="fold", ratio=1)
    table.add_column("towers", width=6)
    for title, width in (("dim", 4), ("GB", 4), ("langs", 5)):
        table.add_column(title, justify="right", width=width)
    if with_licence:
        table.add_column("licence", overflow="fold", width=12)
    table.add_column("score", justify="right", width=6)
    for card, score in rows:
        label = Text(card.name if card.loadable else f"{card.name} (does not load)")
        if card.space != card.name:
            label.append(f"\n  {card.space}", style="dim")
        size = f"{card.size_gb:.1f}" if card.size_gb else ""
        cells: list[RenderableType] = [label, card.towers, str(card.embed_dim), size, _language_count(card)]
        table.add_row(*cells, *([card.licence] if with_licence else []), _figure(score, letters))
    return table


def _standing(card: ModelCard, score: Score | None, lang: str) -> str:
    """Returns the heading under which a model stands in the table of one language."""
    from babelclip import languages

    name = languages.name(lang)
    if score is None:
        return f"Names {name}, no figure published"
    if languages.covers((*card.languages, *card.languages_transfer), lang):
        return f"Names {name}, best published figure first"
    return f"Does not name {name}"


def _language_count(card: ModelCard) -> str:
    if not card.languages and not card.languages_transfer:
        return ""
    return (
        f"{len(card.languages)}+{len(card.languages_transfer)}" if card.languages_transfer else str(len(card.languages))
    )


def _figure(score: Score | None, letters: dict[tuple[str, ...], str]) -> str:
    """Returns a figure with the letter of its conditions, which are added to `letters` where they are new."""
    if score is None:
        return ""
    conditions = (*score.group, "mean over languages" if score.language == "mean" else score.language)
    letter = letters.setdefault(conditions, chr(ord("a") + len(letters)))
    return f"{score.value:.1f} {letter}"


def _one(card: ModelCard) -> list[RenderableType]:
    """Returns everything that is known of one model, each fact with the number of its source."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from babelclip import registry

    numbers: dict[str, int] = {}

    def number(key: str) -> str:
        return f"[{numbers.setdefault(key, len(numbers) + 1)}]" if key else ""

    facts = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_header=False)
    facts.add_column(max_width=26, style="dim")
    facts.add_column(overflow="fold", ratio=1)
    facts.add_column(justify="right", no_wrap=True)
    for fact, about in registry.FACTS.items():
        value = getattr(card, fact)
        if fact in _SHOWN_APART or value in ("", None, ()):
            continue
        facts.add_row(about, Text(_written(fact, value)), Text(number(card.source_of(fact))))
    copies = [other.name for other in registry.cards() if other.same_weights == card.name]
    if copies:
        facts.add_row("same weights elsewhere", ", ".join(copies), "")
    scores = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_header=False)
    scores.add_column(max_width=30, style="dim")
    scores.add_column(overflow="fold", ratio=1)
    scores.add_column(justify="right", no_wrap=True)
    for group in dict.fromkeys(score.group for score in card.scores):
        members = [score for score in card.scores if score.group == group]
        values = ", ".join(f"{score.language} {score.value:.1f}" for score in members)
        scores.add_row(", ".join(part for part in group if part != "-"), values, Text(number(members[0].source)))
    parts: list[RenderableType] = [Text.assemble((card.name, "bold"), f"  ({card.family})"), facts]
    if card.notes:
        mark = number(card.source_of("notes"))
        parts.append(Text("\n".join(f"* {note} {mark}".rstrip() for note in card.notes)))
    if card.scores:
        parts += [Text("\nPublished figures, percent", style="bold"), scores]
    parts.append(Text("\n".join(f"[{at}] {registry.source(key)}" for key, at in numbers.items()), style="dim"))
    return parts


def _written(fact: str, value: Any) -> str:
    """Returns a fact's value as text."""
    if fact.startswith("languages"):
        return f"{len(value)}: {' '.join(value)}"
    if isinstance(value, tuple):
        return ", ".join(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
