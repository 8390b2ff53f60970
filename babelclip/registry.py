"""Questions about published models: what a name stands for, which model a folder holds, what a language has.

The facts are data: `cards/*.toml`, one family a file (`[defaults]` holds what its models share, each `[[model]]` one
model), with `cards/sources.toml` for where facts come from and `cards/scores.tsv` for published results. What is
unknown is absent. The files are read on the first question, and importing this module costs nothing. Entry points:
`cards`, `find`, `list_models`, `for_language`, `identify`, `twins`, `headline`, `source`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from babelclip import languages
from babelclip.cards import FACTS as FACTS
from babelclip.cards import MEAN, read_cards, read_sources
from babelclip.cards import ModelCard as ModelCard
from babelclip.cards import Score as Score
from babelclip.errors import BabelclipError, closest, did_you_mean

# Layouts in which the files of one published model occur: a name in one of them may stand for a card of another.
_RELATED = (
    frozenset({"openclip", "openai", "clip", "siglip", "metaclip2"}),
    frozenset({"sentence_transformers", "clip"}),
    frozenset({"sentence_transformers", "transformer"}),
)


def cards() -> tuple[ModelCard, ...]:
    """Returns all cards, family by family.

    Raises:
        BabelclipError: a card file is damaged; the message names file, model and fact.
    """
    return read_cards()


def find(name: str) -> ModelCard | None:
    """Returns the card of a model, by its name or one of its other names in any case, or None.

    >>> find("vit-b-32/openai").space
    'openai/ViT-B-32'
    """
    return _by_name().get(name.strip().lower())


def closest_names(name: str, n: int = 3) -> list[str]:
    """Returns up to `n` names of cards that resemble `name`, best first."""
    table = _by_name()
    tails = {key.rsplit("/", 1)[-1]: card.name for key, card in table.items()}
    near = closest(name, table, n=2 * n) + closest(name.rsplit("/", 1)[-1], tails, n=2 * n)
    return list(dict.fromkeys(table[key].name if key in table else tails[key] for key in near))[:n]


def identify(hints: Sequence[str], *, layout: str, embed_dim: int) -> ModelCard | None:
    """Returns the published model that a folder holds, or None where that is unknown or not certain.

    Args:
        hints: what may name the model: the folder's name or path, a hub cache folder (`models--org--name`), the
            `_name_or_path` of its config.
        layout: the reader that recognised the files.
        embed_dim: size of the vectors.
    """
    names = {name for hint in hints for name in _names_in(hint)}
    found = [
        card
        for card in cards()
        if card.embed_dim == embed_dim
        and _compatible(card.layout, layout)
        and names & {name.lower() for name in (card.repo, card.repo.rsplit("/", 1)[-1], *card.aliases)}
    ]
    whole = [card for card in found if card.repo.lower() in names]
    found = whole or found
    return found[0] if len(found) == 1 else None


def twins(space: str) -> list[ModelCard]:
    """Returns the loadable cards with an image tower of a space: what completes a text-only model."""
    return [card for card in cards() if card.space == space and card.towers != "text" and card.loadable]


def for_language(code: str) -> list[tuple[ModelCard, Score | None]]:
    """Returns the models with a text tower that are of use for a language, best published quality first.

    Figures compare only within one benchmark, direction, metric and protocol (`Score.group`). The group with most
    models is ranked first; a model that it lacks takes its place by another group, above the models which that group
    ranks below it. Each model comes with the figure that placed it; for a region or a member of a macrolanguage that is
    one of the language that covers it where there is none of its own (`pt-BR`: `pt`, `nb`: `no`). Models that declare
    the language but have no figure follow with None, those that trained it before those that only reported on it.
    Models that do not declare it come last, and only with a figure. Copies of the same weights are listed once.

    Raises:
        UnknownLanguageError: the code is not known.
    """
    wanted = languages.normalize(code)
    originals = [card for card in cards() if not card.same_weights and card.towers != "image"]
    trained = [card for card in originals if languages.covers(card.languages, wanted)]
    reported = [card for card in originals if languages.covers(card.languages_transfer, wanted)]
    ranked: dict[str, tuple[ModelCard, Score | None]] = {}
    for card, score in _by_quality([*trained, *reported], wanted):
        ranked.setdefault(card.name, (card, score))
    for card in [*trained, *reported]:
        ranked.setdefault(card.name, (card, None))
    for card, score in _by_quality(originals, wanted):
        ranked.setdefault(card.name, (card, score))
    return list(ranked.values())


def list_models(family: str = "", lang: str = "") -> list[ModelCard]:
    """Returns the cards of published models, those that are copies of the same weights left out.

    Args:
        family: only families whose name contains this, in any case; "" = all.
        lang: only models of use for this language, best published quality first; see `for_language`.

    Example:
        >>> import babelclip
        >>> [card.name for card in babelclip.list_models(family="jina")]
        ['jinaai/jina-clip-v2']

    Raises:
        BabelclipError: no family has that name, or the language is not known.
    """
    families = list(dict.fromkeys(card.family for card in cards()))
    chosen = [name for name in families if family.lower() in name.lower()]
    if not chosen:
        raise BabelclipError(f"No family of models is called {family!r}. {did_you_mean(family, families)}")
    found = [card for card, _ in for_language(lang)] if lang else [card for card in cards() if not card.same_weights]
    return [card for card in found if card.family in chosen]


def headline(card: ModelCard) -> Score | None:
    """Returns the published figure that says most about a model: text-to-picture retrieval, over its languages."""
    benchmarks = ("XM3600", "XTD10", "Flickr30k", "CVQA-local", "STS-b")

    language = card.languages[0] if len(card.languages) == 1 else MEAN

    def rank(score: Score) -> tuple[bool, int, bool, bool, bool]:
        first = score.benchmark.split(" + ")[0]
        position = benchmarks.index(first) if first in benchmarks else len(benchmarks)
        far = (score.direction != "t2i", score.metric != "R@1", score.language != "en")
        return (score.language != language, position, *far)

    return min(card.scores, key=rank, default=None)


def source(key: str) -> str:
    """Returns the citation behind a source key.

    Raises:
        BabelclipError: the key is not in `cards/sources.toml`.
    """
    citations = read_sources()
    if key not in citations:
        raise BabelclipError(f"{key!r} is no source of the cards. {did_you_mean(key, citations)}")
    return citations[key]


def _by_quality(candidates: Sequence[ModelCard], code: str) -> list[tuple[ModelCard, Score]]:
    """Returns the candidates with a figure for a language, merged from the groups; see `for_language`."""
    spoken = {score.language for card in candidates for score in card.scores} - {MEAN}
    fitting = {one for one in spoken if one == code or languages.covers([one], code)}
    # By group and model; a figure of the very language wins over one of the language that covers it.
    figures: dict[tuple[str, str, str, str], dict[str, tuple[ModelCard, Score]]] = {}
    for card in candidates:
        for score in card.scores:
            if score.language in fitting:
                held = figures.setdefault(score.group, {})
                if card.name not in held or score.language == code:
                    held[card.name] = (card, score)
    groups = {group: list(held.values()) for group, held in figures.items()}
    ranked: list[tuple[ModelCard, Score]] = []
    # Of two groups with equally many models, text to picture is nearer to what a search does, and R@1 tells most.
    for group in sorted(groups, key=lambda key: (-len(groups[key]), key[1] != "t2i", key[2] != "R@1", key)):
        values = {card.name: score.value for card, score in groups[group]}
        for card, score in sorted(groups[group], key=lambda pair: pair[1].value, reverse=True):
            names = [other.name for other, _ in ranked]
            if card.name in names:
                continue
            worse = [at for at, name in enumerate(names) if values.get(name, score.value) < score.value]
            better = [at for at, name in enumerate(names) if values.get(name, -1.0) >= score.value]
            ranked.insert(worse[0] if worse else better[-1] + 1 if better else len(ranked), (card, score))
    return ranked


def _names_in(hint: str) -> Iterable[str]:
    """Yields the repositories and model names that a path or a name may stand for, in lower case."""
    parts = [part for part in hint.strip().lower().replace("\\", "/").split("/") if part]
    for part in parts:
        if part.startswith("models--"):
            parts = part.split("--")[1:]
            break
    if parts:
        yield parts[-1]
        yield "/".join(parts[-2:])


def _compatible(layout: str, other: str) -> bool:
    return layout == other or any({layout, other} <= group for group in _RELATED)


@functools.cache
def _by_name() -> dict[str, ModelCard]:
    """Returns the cards by every name in lower case. A name of two cards is an error."""
    table: dict[str, ModelCard] = {}
    for card in read_cards():
        for name in (card.name, *card.aliases):
            other = table.setdefault(name.lower(), card)
            if other is not card:
                raise BabelclipError(f"{name!r} names both {other.name} and {card.name}: take it from one of them.")
    return table
