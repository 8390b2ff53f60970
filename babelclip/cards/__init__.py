"""The cards themselves: what a card holds, and how `*.toml` and `scores.tsv` in this folder become cards.

Ask `babelclip.registry`; this module only reads and checks. Entry points: `ModelCard`, `Score`, `read_cards`,
`read_sources`, `read_scores`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from babelclip import languages
from babelclip.errors import BabelclipError, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TOWERS = ("text", "image", "both")
# The readers of `models/checkpoints/`, and what none of them reads.
LAYOUTS = (
    "native",
    "mclip",
    "mclip_legacy",
    "transformer",
    "sentence_transformers",
    "altclip",
    "openclip",
    "openai",
    "clip",
    "siglip",
    "metaclip2",
    "remote_code",
)
MEAN = "mean"
DIRECTIONS = ("t2i", "i2t", "both", "-")
FOLDER = os.path.dirname(__file__)
_SOURCES_FILE, _SCORES_FILE = "sources.toml", "scores.tsv"
_SCORE_COLUMNS = ("model", "benchmark", "direction", "metric", "protocol", "source", "values")
_ANY_FACT = "*"
# What another repository with the same weights does not take over: they belong to the original's files.
_NOT_COPIED = ("aliases", "repo", "revision", "image_twin", "notes")
_KIND_NAMES = {
    str: "text in quotes",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list of texts",
    dict: "a table of fact = source",
}


class Score(NamedTuple):
    """One published figure. Only figures of one `group` compare."""

    benchmark: str
    direction: str  # t2i, i2t, both (mean of the two) or - (no direction)
    metric: str
    protocol: str
    language: str  # BCP-47, or "mean" over the languages that the source averaged
    value: float
    source: str

    @property
    def group(self) -> tuple[str, str, str, str]:
        """Benchmark, direction, metric and protocol: the conditions under which two figures compare."""
        return self.benchmark, self.direction, self.metric, self.protocol


def _fact(about: str, kind: type, default: Any = dataclasses.MISSING) -> Any:
    """Returns a field that a card file may set: its label, its type in TOML, and its value where it is unknown."""
    return dataclasses.field(default=default, metadata={"about": about, "kind": kind})


@dataclasses.dataclass(frozen=True, eq=False)
class ModelCard:
    """The facts of one published model. Empty or None means unknown; `sources` says where each fact comes from."""

    name: str = _fact("name", str)
    family: str = _fact("family", str)
    layout: str = _fact("layout of the files", str)
    towers: str = _fact("towers", str)
    space: str = _fact("embedding space", str)
    embed_dim: int = _fact("embedding size", int)
    aliases: tuple[str, ...] = _fact("other names", list, ())
    repo: str = _fact("hub repository", str, "")
    revision: str = _fact("revision", str, "")
    loadable: bool = _fact("loads", bool, True)
    same_weights: str = _fact("same weights as", str, "")
    image_twin: str = _fact("image tower", str, "")
    context_length: int | None = _fact("longest text in tokens", int, None)
    trained_length: int | None = _fact("length of the training texts in tokens", int, None)
    parameters: int | None = _fact("parameters", int, None)
    size_gb: float | None = _fact("size in GB", float, None)
    text_backbone: str = _fact("text backbone", str, "")
    image_backbone: str = _fact("image backbone", str, "")
    pooling: str = _fact("text pooling", str, "")
    head: str = _fact("text head", str, "")
    activation: str = _fact("activation of the image tower", str, "")
    cleaning: str = _fact("text cleaning", str, "")
    padding: str = _fact("text padding", str, "")
    image_size: int | None = _fact("picture size in pixels", int, None)
    logit_scale: float | None = _fact("logit scale", float, None)
    languages: tuple[str, ...] = _fact("languages trained", str, ())
    languages_transfer: tuple[str, ...] = _fact("languages reported on", str, ())
    licence: str = _fact("licence", str, "")
    licence_note: str = _fact("on the licence", str, "")
    notes: tuple[str, ...] = _fact("notes", list, ())
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict, metadata={"about": "sources", "kind": dict})
    scores: tuple[Score, ...] = ()

    def source_of(self, fact: str) -> str:
        """Returns the key of one fact's source, or "" where the card names none."""
        return self.sources.get(fact, self.sources.get(_ANY_FACT, ""))


FACTS: Mapping[str, str] = MappingProxyType(
    {field.name: field.metadata["about"] for field in dataclasses.fields(ModelCard) if field.metadata}
)
_KINDS = {field.name: field.metadata["kind"] for field in dataclasses.fields(ModelCard) if field.metadata}
_REQUIRED = ("name", "family", "layout", "towers", "space", "embed_dim")


@functools.cache
def read_sources(folder: str = FOLDER) -> Mapping[str, str]:
    """Returns the citations of a folder by their keys."""
    content = _read_toml(os.path.join(folder, _SOURCES_FILE))
    return {key: str(citation) for key, citation in content.items()}


@functools.cache
def read_cards(folder: str = FOLDER) -> tuple[ModelCard, ...]:
    """Returns all cards of a folder, checked against each other."""
    found: list[ModelCard] = []
    scores = read_scores(os.path.join(folder, _SCORES_FILE))
    files = sorted(name for name in os.listdir(folder) if name.endswith(".toml") and name != _SOURCES_FILE)
    for name in files:
        path = os.path.join(folder, name)
        found += _read_family(path, _read_toml(path), scores)
    by_name = {card.name: card for card in found}
    for name in scores:
        if name not in by_name:
            raise BabelclipError(f"{_SCORES_FILE}: {name!r} is no card. {did_you_mean(name, by_name)}")
    for card in found:
        _check_links(card, by_name, read_sources(folder))
    return tuple(found)


def _read_toml(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            content: dict[str, Any] = tomllib.load(file)
            return content
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BabelclipError(
            f"{path} is not readable as TOML ({error}). Correct the file, or install again."
        ) from error


def _read_family(path: str, content: dict[str, Any], scores: Mapping[str, list[Score]]) -> list[ModelCard]:
    """Returns the cards of one family file. A copy of other weights takes over their facts and their scores."""
    own_facts, shared = content.get("model"), content.get("defaults", {})
    well_formed = (
        isinstance(shared, dict) and isinstance(own_facts, list) and all(isinstance(m, dict) for m in own_facts)
    )
    if set(content) - {"family", "defaults", "model"} or not own_facts or not well_formed:
        raise BabelclipError(
            f"{path} has {', '.join(content) or 'nothing'}; a card file holds family, [defaults] and [[model]]."
        )
    defaults = {"family": content.get("family", ""), **shared}
    facts: dict[str, dict[str, Any]] = {}
    found = []
    for own in own_facts:
        name, original = str(own.get("name", "")), own.get("same_weights")
        if original is not None and original not in facts:
            raise BabelclipError(f"{path}: {name}: same_weights = {original!r} names no earlier model of this file.")
        base = defaults
        if original is not None:
            base = {fact: value for fact, value in facts[original].items() if fact not in _NOT_COPIED}
        facts[name] = {**base, **own, "sources": {**base.get("sources", {}), **own.get("sources", {})}}
        found.append(_card(path, facts[name], tuple(scores.get(original or name, ()))))
    return found


def _card(path: str, facts: Mapping[str, Any], scores: tuple[Score, ...]) -> ModelCard:
    """Returns one card, its facts checked one by one.

    Raises:
        BabelclipError: a fact is unknown, missing or of another type; the message names file, model and fact.
    """
    where = f"{path}: {facts.get('name') or 'a model without name'}"
    for fact, value in facts.items():
        if fact not in _KINDS:
            raise BabelclipError(f"{where}: {fact} is no fact of a card. {did_you_mean(fact, _KINDS)}")
        kind = _KINDS[fact]
        right = isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) == (kind is bool)
        if not right or (kind is list and not all(isinstance(item, str) for item in value)):
            raise BabelclipError(f"{where}: {fact} = {value!r} must be {_KIND_NAMES[kind]}.")
    missing = [fact for fact in _REQUIRED if facts.get(fact) in (None, "")]
    if missing:
        raise BabelclipError(f"{where}: {', '.join(missing)} must be given: a model is not usable without.")
    for fact, allowed in (("layout", LAYOUTS), ("towers", TOWERS)):
        if facts[fact] not in allowed:
            raise BabelclipError(f"{where}: {fact} = {facts[fact]!r}. {did_you_mean(facts[fact], allowed)}")
    values: dict[str, Any] = {fact: tuple(value) if isinstance(value, list) else value for fact, value in facts.items()}
    for fact in ("languages", "languages_transfer"):
        values[fact] = _language_codes(f"{where}: {fact}", facts.get(fact, ""))
    values["sources"] = MappingProxyType(dict(facts.get("sources", {})))
    return ModelCard(**values, scores=scores)


def _language_codes(where: str, text: str) -> tuple[str, ...]:
    """Returns the codes of a space-separated list.

    Raises:
        BabelclipError: a code is unknown, is not the canonical one, or occurs twice.
    """
    codes = tuple(text.split())
    for code in codes:
        canonical = languages.normalize(code)
        if canonical != code:
            raise BabelclipError(f"{where}: {code} must be written as its canonical code {canonical}.")
    if len(set(codes)) < len(codes):
        twice = sorted({code for code in codes if codes.count(code) > 1})
        raise BabelclipError(f"{where}: {', '.join(twice)} must be listed once.")
    return codes


def _check_links(card: ModelCard, by_name: Mapping[str, ModelCard], citations: Mapping[str, str]) -> None:
    """Raises a BabelclipError where a card names an image tower of another space, or a source that is not listed."""
    if card.image_twin:
        twin = by_name.get(card.image_twin)
        if twin is None or twin.towers == "text":
            raise BabelclipError(
                f"{card.name}: image_twin = {card.image_twin!r} is no card with an image tower. "
                + did_you_mean(card.image_twin, by_name)
            )
        if (twin.space, twin.embed_dim) != (card.space, card.embed_dim):
            raise BabelclipError(
                f"{card.name}: its space is {card.space!r} ({card.embed_dim}), that of its image tower {twin.name} is "
                f"{twin.space!r} ({twin.embed_dim}): name the tower of the same space."
            )
    for fact, key in card.sources.items():
        if fact != _ANY_FACT and fact not in _KINDS:
            raise BabelclipError(f"{card.name}: sources.{fact} is no fact of a card. {did_you_mean(fact, _KINDS)}")
        if key not in citations:
            raise BabelclipError(f"{card.name}: sources.{fact} = {key!r} is unknown. {did_you_mean(key, citations)}")
    for key in {score.source for score in card.scores}:
        if key not in citations:
            raise BabelclipError(f"{card.name}: a score's source {key!r} is unknown. {did_you_mean(key, citations)}")


def read_scores(path: str) -> dict[str, list[Score]]:
    """Returns the published figures of each model's name.

    Raises:
        BabelclipError: a line does not have the columns, or a value is not `language=number`; the message names it.
    """
    with open(path, encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file if not line.startswith("#")]
    if not rows or tuple(rows[0]) != _SCORE_COLUMNS:
        raise BabelclipError(f"{path}: the columns are {rows[:1]}, they must be {list(_SCORE_COLUMNS)}.")
    scores: dict[str, list[Score]] = {}
    known = {MEAN, *languages.known()}
    for number, row in enumerate(rows[1:], 1):
        where = f"{path}: row {number}"
        if len(row) != len(_SCORE_COLUMNS) or row[2] not in DIRECTIONS:
            raise BabelclipError(f"{where}: {row} must have {len(_SCORE_COLUMNS)} columns, one of {DIRECTIONS} third.")
        model, benchmark, direction, metric, protocol, key, values = row
        for item in values.split():
            code, _, value = item.partition("=")
            if code not in known and languages.normalize(code) != code:
                raise BabelclipError(f"{where}: {code} must be written as {languages.normalize(code)}.")
            try:
                figure = float(value)
            except ValueError as error:
                raise BabelclipError(f"{where}: {item} must be language=number.") from error
            scores.setdefault(model, []).append(Score(benchmark, direction, metric, protocol, code, figure, key))
    return scores
